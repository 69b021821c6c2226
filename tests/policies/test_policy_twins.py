"""Every compiled policy against a readable twin on random cases, and on the default scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.kernel import rules
from cace_env.kernel.state import CLOCK, REQUEST
from cace_env.observation import SLOT
from cace_env.policies import POLICIES, Future, contestant_of, policy
from cace_env.policies.base import DRAWS
from cace_env.policies.built_in import rule_of
from cace_env.policies.cace import TERMS
from cace_env.scenarios import load_scenario
from cace_env.simulation import Episode, Simulator, run_rule
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from tests.specification.strategies import Rules, cases, typical_us
from tests.support.policy_runs import assert_same_episode

Score = Callable[[Any], np.ndarray]  # of a look at the question, see `Look`


@dataclasses.dataclass
class Look:
    """What a twin may look at: the raw features, who is in which slot, and the rest of the world."""

    x: np.ndarray  # (S, len(SLOT))
    models: np.ndarray  # (S,)
    legal: np.ndarray  # (S,)
    decision: int
    now_us: int
    next_use_us: np.ndarray  # (M,)
    rule: Any

    def scaled(self, feature: int) -> np.ndarray:
        """Min-max over the candidates."""
        column = self.x[:, feature]
        low, high = column[self.legal].min(), column[self.legal].max()
        return (column - low) / (high - low) if high > low else np.full(len(column), np.nan)

    @property
    def ahead_s(self) -> np.ndarray:
        return (self.next_use_us[self.models] - self.now_us) * 1e-6


def cace(look: Look) -> np.ndarray:
    terms = {
        "load_time": look.scaled(SLOT.reload_s),
        "latency_sensitivity": look.scaled(SLOT.latency_weight),
        "output_length": 1.0 - look.scaled(SLOT.expected_output_tokens),
        "recency": 1.0 - look.scaled(SLOT.since_use_s),
        "future_demand": look.scaled(SLOT.window_requests),
    }
    total = np.zeros(len(look.x))
    for name, term in terms.items():
        if look.rule.weights[TERMS.index(name)] != 0 and not np.isnan(term[look.legal]).any():
            total += look.rule.weights[TERMS.index(name)] * term
    return total


def lru(look: Look) -> np.ndarray:
    return -look.x[:, SLOT.since_use_s]


def of_model(look: Look) -> np.ndarray:
    return look.rule.values[look.models]


def omlx(look: Look) -> np.ndarray:
    alone = look.x[:, SLOT.freed_gb] >= look.x[:, SLOT.missing_gb]
    return np.where(alone, -1e9 - look.x[:, SLOT.since_use_s], -look.x[:, SLOT.freed_gb])


TWINS: dict[str, Score] = {
    "random": lambda look: np.resize(np.roll(look.rule.values, -look.decision * len(look.x) % DRAWS), len(look.x)),
    "fifo": lambda look: -look.x[:, SLOT.since_load_s],
    "static-best": of_model,
    "lru": lru,
    "ollama": of_model,
    "ttl": lru,
    "llama-cpp": lru,
    "llama-swap": of_model,
    "llama-swap-one": lru,
    "localai": lambda look: -look.x[:, SLOT.freed_gb],
    "modelmesh": lambda look: lru(look) + np.where(look.x[:, SLOT.since_load_s] < look.rule.weights[0], 1e9, 0.0),
    "ray-serve": lru,
    "serverlessllm": lambda look: -look.x[:, SLOT.since_load_s],
    "omlx": omlx,
    "lfu": lambda look: look.x[:, SLOT.uses_since_load],
    "lru-2": lambda look: -look.x[:, SLOT.since_second_use_s],
    "gdsf": lambda look: look.x[:, SLOT.greedy_dual],
    "hyperbolic": lambda look: look.x[:, SLOT.uses_since_load] / np.maximum(look.x[:, SLOT.since_load_s], 1e-6),
    "rate-load-size": lambda look: look.x[:, SLOT.rate_10m] * look.x[:, SLOT.reload_s] / look.x[:, SLOT.freed_gb],
    "ewma": lambda look: look.x[:, SLOT.rate_10m],
    **{name: cace for name, row in POLICIES.items() if row.kind == rules.TERMS},
    "belady": lambda look: -look.ahead_s,
    "belady-size": lambda look: -look.ahead_s * look.x[:, SLOT.freed_gb],
    "belady-cost": lambda look: look.x[:, SLOT.reload_s] / (np.maximum(look.ahead_s, 1e-6) * look.x[:, SLOT.freed_gb]),
}


def run_twin(name: str, tables: FleetTables, workload: Workload, rule: Any, limits: Any, future: Future) -> Episode:
    """The episode with the twin's answers, question by question."""
    simulator = Simulator(tables, limits, trace=True)
    asked = simulator.reset(workload)
    while asked:
        question = simulator.question
        arrived = simulator.state.requests[:, REQUEST.arrival_us] <= simulator.state.scalars[CLOCK]
        next_use_us = future.next_use_us(arrived, question.now_us)
        x = question.features()
        look = Look(x, question.slot_models, question.legal, question.decision, question.now_us, next_use_us, rule)
        with np.errstate(all="ignore"):  # empty slots
            scores = TWINS[name](look)
        candidates = np.flatnonzero(question.legal)
        best = min(candidates, key=lambda slot: (scores[slot], -x[slot, SLOT.since_use_s], slot))
        asked = simulator.answer(int(best))
    return simulator.episode()


def test_every_policy_has_a_twin() -> None:
    assert set(TWINS) == set(POLICIES)


@given(case=cases(), seed=st.integers(0, 5))
@settings(max_examples=80)
def test_compiled_rules_choose_the_victims_of_their_readable_twins(
    case: tuple[FleetTables, Workload, Rules], seed: int
) -> None:
    tables, workload, _ = case
    assume(not tables.unlimited_memory)
    future = Future.of(tables, workload)
    scale_s = typical_us(tables) * 1e-6  # keep-alives and the churn guard on the time scale of the case
    for name, chosen in POLICIES.items():
        if chosen.keep_alive_s:
            chosen = dataclasses.replace(chosen, keep_alive_s=5 * scale_s)
        if chosen.kind == rules.CHURN_GUARD:
            chosen = dataclasses.replace(chosen, weights=(5 * scale_s,))
        try:
            limits = chosen.limits(tables)
        except ConfigError:  # more models are pinned than it allows
            continue
        rule = rule_of(chosen, tables, seed=seed, workload=workload, future=future, training=lambda seed: workload)
        actual = run_rule(tables, workload, rule, trace=True)
        assert_same_episode(actual, run_twin(name, tables, workload, rule, limits, future))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_python_policy_with_the_score_of_lru_gives_the_episode_of_lru(seed: int) -> None:
    scenario = load_scenario("default")
    case = Case("default", scenario.tables(), scenario.workload)
    workload = scenario.workload(seed)

    def mine(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return -features[:, SLOT.since_use_s]

    built_in, _ = run_episode(contestant_of("lru"), case, workload, seed)
    own, _ = run_episode(contestant_of(mine), case, workload, seed)
    assert built_in.totals().decisions > 100
    assert_same_episode(built_in.episode(), own.episode())


def test_every_policy_runs_the_default_scenario_and_serves_everybody() -> None:
    scenario = load_scenario("default")
    tables, workload = scenario.tables(), scenario.workload(0)
    future = Future.of(tables, workload)
    for name in POLICIES:
        rule = rule_of(policy(name), tables, workload=workload, future=future, training=scenario.workload)
        episode = run_rule(tables, workload, rule)
        assert ((episode.finish_us >= 0) | episode.refused).all(), name
