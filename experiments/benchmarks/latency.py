"""How long one decision takes: the choice of each policy, and one step of the environment.

A built-in policy is one call into compiled code that reads the state and names a slot: what an orchestrator would call
when memory is short. A Python policy gets the features of all slots and returns a score for each, as
`cace_env.evaluate` has it. Every decision is timed by itself, with everything that goes on around it left out, so the
figures hold what a cache that has been used by the simulator costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

from cace_env import EVICTION_ID
from cace_env.compilation import compiled
from cace_env.kernel.orders import decide
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.state import NONE, Requests, fleet_views, state_views
from cace_env.observation import SLOT
from cace_env.policies import POLICIES, Future
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import Scenario
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from experiments.benchmarks.cartpole import uniform_draws
from experiments.benchmarks.measures import Figures

Array = Any
Choice = Callable[[Simulator], int]

PYTHON_LRU: Final = "LRU in Python"
THE_CALL: Final = "the call alone"
ENV_STEP: Final = "one step of the environment"


@compiled
def choose(row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, rule: Rule, scratch: Scratch) -> int:
    """The slot that a rule evicts at an open question; with the rule's kind NONE the call alone, slot 0."""
    if rule.kind == NONE:
        return 0
    return decide(state_views(row, at), fleet_views(fleet, fleet_at), w, rule, scratch)


def decision_latency(scenario: Scenario, policies: Sequence[str], seeds: Sequence[int]) -> Figures:
    """Quantiles of the time that each policy takes for a decision [us], over all questions of some episodes.

    Args:
        scenario: where the questions come from.
        policies: built-in ones; those that are never asked (they hold one model at a time) have 0 `decisions`.
        seeds: of the episodes; each policy meets the questions that its own choices lead to.

    Returns:
        Figures: by policy, and for a Python policy, the call alone and a step of the environment: `decisions`, `p50_us`
        and `p99_us`.
    """
    tables = scenario.tables()
    times_ns: dict[str, list[int]] = {name: [] for name in (*policies, THE_CALL, PYTHON_LRU, ENV_STEP)}
    for seed in seeds:
        workload = scenario.workload(seed)
        for name in policies:
            simulator = Simulator(tables, POLICIES[name].limits(tables))
            choice = _compiled_choice(simulator, workload, _rule(name, scenario, tables, workload, seed))
            times_ns[name] += _timed(simulator, workload, choice)
        simulator = Simulator(tables)
        nobody = _rule("lru", scenario, tables, workload, seed)._replace(kind=NONE)
        times_ns[THE_CALL] += _timed(
            simulator, workload, _compiled_choice(simulator, workload, nobody), answer=_first_legal
        )
        times_ns[PYTHON_LRU] += _timed(simulator, workload, _least_recent)
        times_ns[ENV_STEP] += _timed_steps(scenario, seed)
    return {name: _quantiles(np.array(times)) for name, times in times_ns.items()}


def _rule(name: str, scenario: Scenario, tables: FleetTables, workload: Workload, seed: int) -> Rule:
    policy = POLICIES[name]
    future = Future.of(tables, workload) if policy.clairvoyant else None
    return rule_of(policy, tables, seed=seed, workload=workload, future=future, training=scenario.workload)


def _compiled_choice(simulator: Simulator, workload: Workload, rule: Rule) -> Choice:
    simulator.load(workload)
    slots = simulator.max_slots
    scratch = new_scratch(slots, simulator.tables.num_models)._replace(next_pointer=rule.future_start[:-1].copy())
    return lambda simulator: choose(*simulator.arguments, rule, scratch)


def _least_recent(simulator: Simulator) -> int:
    """LRU as a Python policy computes it from the features."""
    features, legal = simulator.features(), simulator.question.legal
    return int(np.where(legal, features[:, SLOT.since_use_s], -1.0).argmax())


def _first_legal(simulator: Simulator) -> int:
    return int(simulator.question.legal.argmax())


def _timed(simulator: Simulator, workload: Workload, choice: Choice, answer: Choice | None = None) -> list[int]:
    """Nanoseconds of each `choice` of an episode that is played by `answer`, by `choice` itself where it is None."""
    times_ns: list[int] = []
    asked = simulator.reset(workload)
    if asked:
        choice(simulator)  # compiles
    while asked:
        began = time.perf_counter_ns()
        slot = choice(simulator)
        times_ns.append(time.perf_counter_ns() - began)
        asked = simulator.answer(slot if answer is None else answer(simulator))
    return times_ns


def _timed_steps(scenario: Scenario, seed: int) -> list[int]:
    """Nanoseconds of each step under random legal actions, each with what is simulated until the next question."""
    env = gymnasium.make(f"cace_env:{EVICTION_ID}", scenario=scenario, split="test")
    times_ns: list[int] = []
    _, info = env.reset(options={"workload_seed": seed})
    for draw in cycle(uniform_draws()):
        legal = info["action_mask"].nonzero()[0]
        action = legal[int(draw * len(legal))]
        began = time.perf_counter_ns()
        _, _, terminated, truncated, info = env.step(action)
        times_ns.append(time.perf_counter_ns() - began)
        if terminated or truncated:
            break
    env.close()
    return times_ns


def _quantiles(times_ns: npt.NDArray[np.int64]) -> Figures:
    if not len(times_ns):
        return {"decisions": 0}
    p50, p99 = np.percentile(times_ns, (50, 99)) / 1e3
    return {"decisions": len(times_ns), "p50_us": float(p50), "p99_us": float(p99)}
