"""A network's scores: NumPy and kernel agree, and neither order nor number of slots and models matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env import evaluate
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.kernel import rules
from cace_env.kernel.pick import pick
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.planning import find_reference
from cace_env.policies import Agent, Future, policy, write_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.built_in import Policy, rule_of
from cace_env.policies.network import MAX_HIDDEN, Network, Urgency
from cace_env.policies.orders import LEARNED_ORDER
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import NONE, FleetTables, Protocol
from cace_env.workload import Workload
from tests.specification.strategies import cases, swap_cases
from tests.support.agents import random_network

QUESTIONS = 60
URGENCY = Urgency(grace_s=2.0, loads=1.5, ages=0.5, busy=2.0, price=3.0)
PROTOCOLS = tuple(Protocol)


def as_policy(scorer: Network) -> Policy:
    order = LEARNED_ORDER if scorer.protocol == "swap" else None
    return Policy("net", "a network", kind=rules.NETWORK, network=scorer, order=order)


def assert_same_choices(tables: FleetTables, workload: Workload, scorer: Network) -> None:
    """At the questions that the network's own choices lead to, kernel and NumPy choose alike (but for rounding)."""
    rule = rule_of(as_policy(scorer), tables)
    simulator = Simulator(tables)
    asked = simulator.reset(workload)
    layout = ObservationLayout(simulator.max_slots, tables.num_models)
    scratch = new_scratch(simulator.max_slots, tables.num_models, rule.network)
    for _ in range(QUESTIONS):
        if not asked:
            return
        scores = scorer.logits(simulator.observation(layout), layout)
        chosen = int(pick(*simulator.arguments, rule, scratch))
        assert scores[chosen] == pytest.approx(scores.max(), rel=1e-4, abs=1e-4)
        assert np.array_equal(np.isfinite(scores), simulator.question.legal)
        asked = simulator.answer(chosen)


@settings(max_examples=40, deadline=None)
@given(case=cases(), hidden=st.sampled_from([0, 1, 5]), seed=st.integers(0, 99))
def test_the_kernel_and_numpy_choose_alike_in_eviction_v0(
    case: tuple[FleetTables, Workload], hidden: int, seed: int
) -> None:
    assert_same_choices(case[0], case[1], random_network("eviction", hidden, seed))


@settings(max_examples=40, deadline=None)
@given(
    case=swap_cases(),
    hidden=st.sampled_from([0, 1, 5]),
    seed=st.integers(0, 99),
    urgency=st.sampled_from([None, URGENCY]),
)
def test_the_kernel_and_numpy_choose_alike_in_swap_v0(
    case: tuple[FleetTables, Workload], hidden: int, seed: int, urgency: Urgency | None
) -> None:
    assert_same_choices(case[0], case[1], replace(random_network("swap", hidden, seed), urgency=urgency))


def test_with_a_high_price_a_model_over_its_limit_is_loaded_next() -> None:
    case = case_of("fast-loader", "swap")
    network = replace(random_network("swap", 0), urgency=URGENCY.model_copy(update={"price": 1e6}))
    simulator, rule = Simulator(case.tables), rule_of(as_policy(network), case.tables)
    asked, hurried = simulator.reset(case.workload(0)), 0
    scratch = new_scratch(simulator.max_slots, case.tables.num_models, rule.network)
    while asked and hurried < 20:
        chosen = int(pick(*simulator.arguments, rule, scratch))
        if simulator.question.target == NONE:
            over = waits_over_limits(simulator)
            loads = chosen - simulator.max_slots
            if over.max() > 1.001:
                hurried += 1
                assert over[loads] == pytest.approx(over.max(), rel=1e-3)
        asked = simulator.answer(chosen)
    assert hurried == 20


def waits_over_limits(simulator: Simulator) -> np.ndarray:
    """Of each model that may be loaded, in units of the limit of `URGENCY`, from features in seconds; 0 for others."""
    slots, models = simulator.features(), simulator.model_features()
    there = slots[:, SLOT.occupied] == 1
    pending = models[:, PENDING.waiting] > 0
    age_s = slots[there, SLOT.running_age_s].mean() if pending.sum() > 1 else 0.0
    limits_s = 2.0 + 1.5 * models[:, PENDING.load_s] + 0.5 * age_s
    limits_s[models[:, PENDING.idle_suffices] == 0] *= 2.0
    return models[:, PENDING.oldest_wait_s] / limits_s * models[:, PENDING.legal]


def test_urgency_is_refused_where_no_load_is_chosen() -> None:
    with pytest.raises(ConfigError, match="Eviction-v0 does not ask"):
        replace(random_network(Protocol.EVICTION, 0), urgency=URGENCY)


def test_a_weight_on_time_since_use_is_lru() -> None:
    weights = {"slot_linear": np.zeros_like(random_network("eviction", 0).weights["slot_linear"])}
    weights["slot_linear"][SLOT.since_use_s] = 1.0  # what is evicted is scored highest
    scenario = load_scenario("fast-loader").replace(workload={"requests": 400})
    costs = [
        evaluate(one, scenario, seeds=[0, 1]).column("cost")
        for one in (as_policy(Network("eviction", 0, weights)), "lru")
    ]
    assert np.array_equal(costs[0], costs[1])


def any_observation(layout: ObservationLayout, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed)
    observation = draws.random(layout.size).astype(np.float32)
    slots, pending, context = layout.split(observation)
    slots[:, SLOT.occupied] = slots[:, SLOT.legal] = 1.0
    pending[:, PENDING.present] = pending[:, PENDING.legal] = context[CONTEXT.wait_legal] = 1.0
    pending[:, PENDING.target] = np.arange(layout.max_pending) == 1
    return observation


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("hidden", [0, 7])
def test_scores_go_with_their_rows(protocol: Protocol, hidden: int) -> None:
    layout = ObservationLayout(4, 3)
    observation = any_observation(layout, 1)
    scorer = random_network(protocol, hidden)
    slots, pending, context = layout.split(observation)
    slot_order, model_order = [2, 0, 3, 1], [1, 2, 0]
    permuted = np.concatenate([slots[slot_order].ravel(), pending[model_order].ravel(), context])
    before, after = scorer.logits(observation, layout), scorer.logits(permuted, layout)
    order = slot_order + ([4 + m for m in model_order] + [7] if protocol == "swap" else [])
    assert len(np.unique(before)) == len(before)
    np.testing.assert_allclose(after, before[order], rtol=1e-4, atol=1e-6)  # scores are about 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_rows_change_nothing(protocol: Protocol) -> None:
    small, large = ObservationLayout(4, 3), ObservationLayout(6, 5)
    observation = any_observation(small, 2)
    padded = np.zeros(large.size, dtype=np.float32)
    for part, whole in zip(small.split(observation), large.split(padded), strict=True):
        whole[tuple(slice(length) for length in part.shape)] = part
    scorer = random_network(protocol, 5)
    narrow, wide = scorer.logits(observation, small), scorer.logits(padded, large)
    kept = [0, 1, 2, 3] + ([6, 7, 8, 11] if protocol == "swap" else [])
    np.testing.assert_allclose(wide[kept], narrow, rtol=1e-4)
    assert np.isneginf(np.delete(wide, kept)).all()


def test_many_observations_at_once_are_scored_like_each() -> None:
    layout = ObservationLayout(4, 3)
    observations = np.stack([any_observation(layout, seed) for seed in range(6)]).reshape(2, 3, -1)
    scorer = random_network("swap", 5)
    scores = scorer.logits(observations, layout)
    assert scores.shape == (2, 3, 8)
    np.testing.assert_allclose(scores[1, 2], scorer.logits(observations[1, 2], layout), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slot_linear": None}, "misses weight 'slot_linear'"),
        ({"extra": np.zeros(3, dtype=np.float32)}, "unknown weight 'extra'"),
        ({"slot_out": np.zeros(3, dtype=np.float32)}, r"'slot_out' is float32 \(3,\); it has to be float32 \(2,\)"),
        ({"slot_out": np.zeros(2)}, "'slot_out' is float64"),
        ({"slot_out": np.array([0.0, np.nan], dtype=np.float32)}, "holds nan"),
    ],
)
def test_weights_that_are_wrong_are_named(change: dict[str, np.ndarray | None], said: str) -> None:
    weights = {**random_network("eviction", 2).weights, **change}
    with pytest.raises(ConfigError, match=said):
        Network("eviction", 2, {name: weight for name, weight in weights.items() if weight is not None})


def test_a_network_may_not_be_huge() -> None:
    with pytest.raises(ConfigError, match=f"0 to {MAX_HIDDEN}"):
        Network("eviction", MAX_HIDDEN + 1, {})


def test_trained_agents_of_any_size_can_be_bases_of_the_reference(tmp_path: Path) -> None:
    case = case_of(load_scenario("fast-loader").replace(workload={"requests": 200}))
    workload = case.workload(0)
    simulator = Simulator(case.tables)
    costs = {}
    for hidden in (3, 0, 40):  # they share the room of the largest
        card = AgentCard(name="net", env=Protocol.EVICTION, algorithm="none", hidden=hidden)
        write_agent(Agent(card, random_network("eviction", hidden)), tmp_path / str(hidden))
        name = f"agent:{tmp_path / str(hidden)}"
        simulator.run(workload, rule_of(policy(name), case.tables))
        costs[name] = simulator.cost()
    known = Future.of(case.tables, workload)
    reference = find_reference(case, workload, known, 0, bases=("lru", *costs), max_rounds=1, max_replays=200)
    assert {name: reference.costs[name] for name in costs} == costs
    assert reference.cost <= min(reference.costs.values())
