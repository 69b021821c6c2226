"""Environments on the default scenario, made short or roomy, and episodes in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cace_env.envs import Actor, EvictionEnv, FleetEnv
from cace_env.fleets import Reward, TaskCost
from cace_env.scenarios import Scenario, load_scenario

EVERYTHING_COSTS = Reward(
    completion=TaskCost(w_ttft=1.0, w_e2e=0.1, slo_s=0.5),
    chat=TaskCost(w_ttft=0.3, slo_s=5.0, slo_on="e2e"),
    reasoning=TaskCost(w_e2e=0.2),
    agent=TaskCost(w_e2e=0.1, slo_s=1.0),
    w_load=0.5,
    w_slo=2.0,
    w_refused=7.0,
)


def short(name: str = "default", requests: int = 300, **changes: Any) -> Scenario:
    """A shipped scenario with few requests."""
    scenario = load_scenario(name)
    workload = {**scenario.workload_config.model_dump(mode="json"), "requests": requests}
    return scenario.replace(**{"workload": workload, **changes})


def roomy() -> Scenario:
    """Everything fits at once: the policy is never asked."""
    content = {"name": "roomy", "fleet": [{"gpu": "h200"}], "catalogue": ["qwen2.5-coder-7b", "mellum-4b"]}
    return load_scenario({**content, "workload": {"requests": 40, "users": 3, "shares": {"agent": 0, "reasoning": 0}}})


def first_legal(info: dict[str, Any]) -> int:
    return int(info["action_mask"].argmax())


def last_legal(info: dict[str, Any]) -> int:
    return int(np.flatnonzero(info["action_mask"])[-1])


def rollout(
    env: EvictionEnv, pick: Callable[[dict[str, Any]], int] = first_legal, **reset: Any
) -> list[tuple[Any, ...]]:
    """Everything that reset and steps returned, the first reward being None."""
    observation, info = env.reset(**reset)
    rows: list[tuple[Any, ...]] = [(observation, None, False, False, info)]
    while not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(pick(rows[-1][-1])))
    return rows


def metrics_of(env: FleetEnv) -> dict[str, float]:
    """Of the episode that has just ended."""
    assert env.episode_metrics is not None
    return env.episode_metrics


def played(policy: Any, env: EvictionEnv, seed: int, **arguments: Any) -> tuple[float, list[int]]:
    """Cost and actions of an episode under an actor."""
    actor = Actor(policy, env, **arguments)
    _, info = env.reset(seed=seed)
    actor.reset(info["workload_seed"])
    actions = []
    over = False
    while not over:
        actions.append(actor.act())
        assert info["action_mask"][actions[-1]] == 1
        *_, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated
    assert env.episode_metrics is not None
    return env.episode_metrics["cost"], actions
