"""Environments some steps into an episode, and the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cace_env.envs import FleetEnv
from tests.kinds import EVICTION, Kind
from tests.support.envs import first_legal, rollout
from tests.support.vector_runs import scenarios

Path = list[tuple[str, int]]  # what has been done to an environment since it was made


def began(steps: int, scenario: str = "default", seed: int = 4, kind: Kind = EVICTION, **arguments: Any) -> FleetEnv:
    """An environment some steps into an episode."""
    env = kind.single(scenarios()[scenario], **arguments)
    _, info = env.reset(seed=seed)
    for _ in range(steps):
        *_, info = env.step(first_legal(info))
    return env


def finish(env: FleetEnv, pick: Callable[[dict[str, Any]], int] = first_legal) -> list[tuple[Any, ...]]:
    """All that steps return until the end of the episode."""
    rows = [env.step(pick({"action_mask": env.action_masks()}))]
    while not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(pick(rows[-1][-1])))
    return rows


def and_again(env: FleetEnv) -> list[tuple[Any, ...]]:
    """The rest of the episode, and two more with the workloads that are drawn for them."""
    return [*finish(env), *rollout(env), *rollout(env)]


def walked(path: Path, env: FleetEnv) -> Any:
    """Does to a fresh environment what a path says; the last that was returned."""
    returned: Any = None
    for what, number in path:
        returned = env.step(number) if what == "step" else env.reset(seed=number if what == "seed" else None)
    return returned
