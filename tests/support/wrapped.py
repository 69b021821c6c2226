"""Environments for tests of wrappers, and episodes played by the mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tests.kinds import EVICTION, Kind
from tests.support.envs import short

SCENARIO = short(requests=150)  # some 20 decisions an episode of Eviction-v0, 40 of Swap-v0
DECISIONS = 130  # several episodes, on one environment and on each of a vector
NUM_ENVS = 3


def make(kind: Kind = EVICTION, **changes: Any) -> gymnasium.Env:
    """Illegal actions raise, so an episode that is played to its end was played by the mask."""
    return gymnasium.make(kind.id, scenario=SCENARIO, strict=True, **changes)


def make_vector(vector: str, mode: AutoresetMode, num_envs: int = NUM_ENVS, kind: Kind = EVICTION) -> VectorEnv:
    """Gymnasium's vector of single environments, or our own one."""
    if vector == "native":
        return gymnasium.make_vec(kind.id, num_envs, scenario=SCENARIO, strict=True, autoreset_mode=mode.value)
    return gymnasium.make_vec(
        kind.id,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        scenario=SCENARIO,
        strict=True,
    )


VECTORS = ("sync", "native")


def played(env: VectorEnv, decisions: int = DECISIONS) -> Iterator[tuple[Any, ...]]:
    """All that reset and steps return; actions are drawn from the mask, and ended episodes begin again."""
    rng = np.random.default_rng(5)
    observations, infos = env.reset(seed=1)
    masks = infos["action_mask"]
    yield observations, None, None, None, infos
    for _ in range(decisions):
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        observations, rewards, terminations, truncations, infos = env.step(actions)
        masks = infos["action_mask"]
        yield observations, rewards, terminations, truncations, infos
        over = terminations | truncations
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            observations, infos = env.reset(options={"reset_mask": over})
            masks = np.where(over[:, None], infos["action_mask"], masks)
            yield observations, None, None, None, {**infos, "action_mask": masks}
