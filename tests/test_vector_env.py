"""Claims about the vector environment: N at once do exactly what N do alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cace_env.env import EvictionEnv
from cace_env.vector_env import EvictionVectorEnv
from tests.test_env import short

MODES = ("NextStep", "SameStep", "Disabled")


def comparable(value: Any) -> Any:
    """What a step returned, without the readable question, which only single environments put into words."""
    if isinstance(value, dict):
        return {name: comparable(each) for name, each in value.items() if name not in ("decision", "_decision")}
    if isinstance(value, tuple):
        return [comparable(each) for each in value]
    return list(value) if isinstance(value, np.ndarray) and value.dtype == object else value


def some_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Mostly legal actions, now and then any."""
    legal = np.where(mask == 1, rng.random(mask.shape), -1.0).argmax(axis=1)
    return np.where(rng.random(len(mask)) < 0.05, rng.integers(mask.shape[1], size=len(mask)), legal)


def assert_equal_runs(alone: SyncVectorEnv, together: EvictionVectorEnv, steps: int, seed: Any = 3) -> int:
    """Plays both alike and compares all that they return; how many episodes ended."""
    rng = np.random.default_rng(0)
    expected: tuple[Any, ...] = alone.reset(seed=seed)
    actual: tuple[Any, ...] = together.reset(seed=seed)
    ended = 0
    for _ in range(steps):
        np.testing.assert_equal(comparable(actual), comparable(expected))
        actions = some_actions(rng, together.action_masks())
        expected, actual = alone.step(actions), together.step(actions)
        over = actual[2] | actual[3]
        ended += int(over.sum())
        if together.autoreset_mode is AutoresetMode.DISABLED and over.any():
            np.testing.assert_equal(comparable(actual), comparable(expected))
            expected = alone.reset(options={"reset_mask": over})
            actual = together.reset(options={"reset_mask": over})
    return ended


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_at_once_equal_as_many_alone(mode: str, threads: int) -> None:
    scenario = short(requests=60)
    alone = SyncVectorEnv([lambda: EvictionEnv(scenario)] * 5, autoreset_mode=mode)
    together = EvictionVectorEnv(5, scenario, autoreset_mode=mode, threads=threads)
    assert assert_equal_runs(alone, together, 150) >= 10
