"""Playing vector environments side by side, and comparing all that they return."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from gymnasium import Wrapper
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from cace_env.envs import FleetEnv, FleetVectorEnv
from cace_env.scenarios import Scenario
from tests.kinds import EVICTION, Kind
from tests.support.envs import EVERYTHING_COSTS, roomy, short

MODES = ("NextStep", "SameStep", "Disabled")


@cache
def scenarios() -> dict[str, Scenario]:
    """Fleets of different sizes and prices, with few requests: episodes of 1 to 20 decisions."""
    return {
        "default": short(requests=60),
        "cut": short(requests=60, rules={"max_decisions": 4}),
        "priced": short("workstation", 40, reward=EVERYTHING_COSTS.model_dump(mode="json")),
        "asleep": short("sleep-mode", 50),
        "measured": measured(),
        "roomy": roomy(),
    }


def measured() -> Scenario:
    """What only measurements fill: latency by batch, work per request, a slowdown, whole rounds."""
    row = {"weights_bytes": 7 * 10**9, "need_bytes": 9 * 10**9, "load_us": [10**6, 3 * 10**6], "unload_us": 10**5}
    row |= {"round_ns": 20 * 10**6, "decode_ns": 10**6, "kv_ps": 10**5, "prefill_ns": 10**5, "attention_ps": 10**3}
    row |= {"batch_ns": [0, 10**6, 2 * 10**7], "request_ns": 3 * 10**7}
    mine = {"model": "mellum-4b", "tasks": ["completion", "chat"], "measured": row}
    hosted = [{**mine, "name": f"mine-{i}"} for i in range(4)]
    fleet = [{"gpu": "rtx-4090", "load_slowdown": 1.5}]
    return short(
        "workstation",
        40,
        fleet=fleet,
        catalogue=["starcoder2-3b", *hosted],
        pressure=None,
        rules={"whole_rounds": True},
    )


def make(num_envs: int = 3, kind: Kind = EVICTION, **arguments: Any) -> FleetVectorEnv:
    """A few environments of the short default scenario."""
    return kind.many(num_envs, scenarios()["default"], **arguments)


def comparable(value: Any, as_bytes: bool = False) -> Any:
    """What was returned, types included."""
    if isinstance(value, dict):
        return {name: comparable(each, as_bytes) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [comparable(each, as_bytes) for each in value]
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return comparable(value.tolist(), as_bytes)
        return str(value.dtype), value.shape, value.tobytes() if as_bytes else value
    return value


def assert_same(actual: Any, expected: Any) -> None:
    """Equal to the last bit, in types, keys and shapes too; NaN equals NaN."""
    if comparable(actual, as_bytes=True) != comparable(expected, as_bytes=True):  # fast, but says nothing
        np.testing.assert_equal(comparable(actual), comparable(expected))


def some_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Mostly legal actions, now and then any."""
    legal = np.where(mask == 1, rng.random(mask.shape), -1.0).argmax(axis=1)
    return np.where(rng.random(len(mask)) < 0.05, rng.integers(mask.shape[1], size=len(mask)), legal)


def legal_actions(env: FleetVectorEnv) -> np.ndarray:
    """The first legal action of each environment."""
    return env.action_masks().argmax(axis=1)


def go_on(env: VectorEnv, actions: np.ndarray) -> list[tuple[Any, ...]]:
    """A step, and the reset of what ended in it where the environment does not reset by itself."""
    returned: list[tuple[Any, ...]] = [env.step(actions)]
    over = returned[0][2] | returned[0][3]
    if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
        returned.append(env.reset(options={"reset_mask": over}))
    return returned


def play(env: FleetVectorEnv, steps: int, choose: int = 0) -> list[Any]:
    """All that an environment that has been reset returns; equal numbers to `choose` choose equal actions."""
    rng = np.random.default_rng(choose)
    return [go_on(env, some_actions(rng, env.action_masks())) for _ in range(steps)]


def alone(env: FleetVectorEnv, played: Sequence[Scenario], *wrap: Any, **arguments: Any) -> SyncVectorEnv:
    """Gymnasium's vector of single environments that are to do what those of `env` do."""

    def single(scenario: Scenario) -> FleetEnv | Wrapper:
        made: Any = env.SINGLE(
            scenario, max_slots=env.layout.max_slots, max_pending=env.layout.max_pending, **arguments
        )
        for wrapper in wrap:
            made = wrapper(made)
        return made

    makers = [partial(single, played[i % len(played)]) for i in range(env.num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=env.autoreset_mode)


def assert_equal_runs(singles: SyncVectorEnv, together: FleetVectorEnv, steps: int, seed: Any = 3) -> int:
    """Plays both alike and compares all that they return; how many episodes ended."""
    rng = np.random.default_rng(0)
    assert_same(together.reset(seed=seed), singles.reset(seed=seed))
    ended = 0
    for _ in range(steps):
        actions = some_actions(rng, together.action_masks())
        actual, expected = go_on(together, actions), go_on(singles, actions)
        assert_same(actual, expected)
        ended += int((actual[0][2] | actual[0][3]).sum())
    return ended
