"""Evolution: costs are those of `evaluate`, a search is its history, what it finds costs less than what it began as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.evolution.search import Search
from agents.evolution.trainer import EvolutionTrainer, LinearConfig, NetworkConfig
from agents.evolution.tuned_cace import tune_cace
from agents.objective import Objective, baseline_costs, pooled
from cace_env import evaluate
from cace_env.cases import case_of
from cace_env.config import ConfigError, dump
from cace_env.evaluation.held_out import training_cases, training_seeds
from cace_env.executor import Threads
from cace_env.observation import SLOT
from cace_env.policies import CaceWeights, load_agent, policy, write_agent
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from tests.support.agents import agent_of, random_network

SMALL = load_scenario("fast-loader").replace(workload={"requests": 150})
CASES = {"small": case_of(SMALL)}


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(dump(SMALL))
    return str(tmp_path / "small.yaml")


def linear(scenario: str, **changes: Any) -> LinearConfig:
    return LinearConfig(**{
        "train_on": (scenario,), "train_seeds": 6, "seeds_per_generation": 3, "population": 8, "threads": 1, **changes
    })  # fmt: skip


def learn(trainer: EvolutionTrainer, steps: int) -> list[int]:
    seen: list[int] = []
    trainer.learn(steps, seen.append)
    return seen


@pytest.mark.parametrize("threads", [1, 3])
def test_costs_are_those_of_whole_episodes(threads: int) -> None:
    objective = Objective(CASES, training_seeds(3), Threads(threads))
    costs = objective.costs([policy("cace"), policy("lru")])
    assert costs.shape == (2, 1, 3)
    for name, row in zip(("cace", "lru"), costs[:, 0], strict=True):
        assert row == pytest.approx(evaluate(name, SMALL, seeds=[0, 1, 2]).column("cost"))
    assert objective.requests == 2 * 3 * 150
    assert np.array_equal(objective.costs([policy("lru")], seeds=[2])[0, 0], costs[1, 0, 2:])


def test_every_case_counts_alike() -> None:
    costs = np.array([[1.0, 3.0], [50.0, 50.0]])
    assert pooled(costs, np.array([[2.0, 2.0], [100.0, 100.0]])) == pytest.approx((1.0 + 0.5) / 2)


def test_nothing_is_learned_from_test_seeds() -> None:
    with pytest.raises(ConfigError, match="seed 2000000 is a test seed"):
        Objective(CASES, [0, 2_000_000])


def test_the_suite_is_what_agents_are_trained_on() -> None:
    assert "eviction-drift" in training_cases("suite", Protocol.EVICTION)
    assert list(training_cases(["swap-drift", "fast-loader"], Protocol.SWAP)) == ["swap-drift", "fast-loader"]
    assert training_cases("fast-loader", Protocol.SWAP)["fast-loader"].tables.protocol == "swap"
    with pytest.raises(ConfigError, match="'swap-drift' is an entry for Swap-v0"):
        training_cases(["swap-drift"], Protocol.EVICTION)
    with pytest.raises(ConfigError, match="is given twice"):
        training_cases(["agents", "agents"], Protocol.EVICTION)


@pytest.mark.parametrize("separable", [False, True])
def test_a_search_finds_the_bottom_of_a_bowl_and_is_its_history(separable: bool) -> None:
    def search() -> Search:
        return Search(np.zeros(4), 0.5, seed=3, population=10, separable=separable)

    first = search()
    for _ in range(60):
        candidates = first.generate()
        first.tell(candidates, ((candidates - 1.0) ** 2).sum(axis=1))
    assert first.best == pytest.approx(np.ones(4), abs=0.05)
    again = search()
    again.replay(np.array(first.values))
    assert np.array_equal(again.best, first.best)
    assert np.array_equal(again.generate(), first.generate())


def test_a_linear_policy_learns_to_cost_less_than_what_it_began_as(scenario: str) -> None:
    trainer = EvolutionTrainer(linear(scenario, population=12))
    judge = Objective(CASES, training_seeds(6))
    before = judge.costs([trainer.agent().policy()]).sum()
    seen = learn(trainer, 180)
    assert seen[-1] == trainer.step == 180
    assert seen == sorted(seen)
    after = judge.costs([trainer.agent().policy()]).sum()
    assert after < 0.95 * before
    assert trainer.requests == 150 * (180 * 3 + 6)  # candidates, and LRU once


def small_network(scenario: str) -> NetworkConfig:
    return NetworkConfig(**linear(scenario).model_dump(exclude={"algorithm", "without"}), hidden=2)


@pytest.mark.parametrize("config", [linear, small_network])
def test_a_resumed_search_is_the_one_that_was_left(config: Any, scenario: str, tmp_path: Path) -> None:
    straight, first, second = (EvolutionTrainer(config(scenario)) for _ in range(3))
    learn(straight, 24)
    learn(first, 16)
    first.save(tmp_path)
    second.load(tmp_path)
    assert (second.step, second.requests) == (first.step, first.requests)
    learn(second, 8)
    mine, theirs = straight.agent(), second.agent()
    assert all(
        np.array_equal(theirs.network.weights[name], mine.network.weights[name]) for name in mine.network.weights
    )
    assert theirs.card.requests == mine.card.requests + 6 * 150  # LRU had to play again


def test_a_history_of_something_else_is_refused(scenario: str, tmp_path: Path) -> None:
    trainer = EvolutionTrainer(linear(scenario))
    with pytest.raises(ConfigError, match="not what a search left"):
        trainer.load(tmp_path)
    trainer.save(tmp_path)
    learn(trainer, 8)
    trainer.save(tmp_path)
    with pytest.raises(ConfigError, match="generations of 8, but population is 9"):
        EvolutionTrainer(linear(scenario, population=9)).load(tmp_path)


def test_a_network_begins_as_the_linear_agent_it_is_given(scenario: str, tmp_path: Path) -> None:
    first = agent_of(random_network(hidden=0))
    write_agent(first, tmp_path)
    trainer = EvolutionTrainer(NetworkConfig(train_on=(scenario,), train_seeds=16, hidden=3, init=str(tmp_path)))
    judge = Objective(CASES, training_seeds(3))
    costs = judge.costs([first.policy(), trainer.agent().policy()])
    assert np.array_equal(costs[0], costs[1])
    with pytest.raises(ConfigError, match="is for Eviction-v0"):
        EvolutionTrainer(linear(scenario, env=Protocol.SWAP, init=str(tmp_path)))


def test_a_search_keeps_the_urgency_of_the_agent_that_it_begins_with(scenario: str) -> None:
    trainer = EvolutionTrainer(linear(scenario, env=Protocol.SWAP, init="swap"))
    urgency = load_agent("swap").card.urgency
    learn(trainer, 8)
    assert urgency is not None
    assert trainer.agent().card.urgency == trainer.agent().network.urgency == urgency
    judge = Objective({"small": case_of(SMALL, Protocol.SWAP)}, training_seeds(1))
    hurried, calm = (
        replace(trainer.agent().policy(), network=net)
        for net in (trainer.agent().network, replace(trainer.agent().network, urgency=None))
    )
    played, with_urgency, without = judge.costs([trainer.agent().policy(), hurried, calm])
    assert played == with_urgency != without


def test_the_card_says_what_features_were_like(scenario: str) -> None:
    limits = EvolutionTrainer(linear(scenario)).agent().card.limits
    assert set(limits) >= {"slot.reload_s", "pending.need_gb", "context.waiting"}
    assert limits["slot.occupied"] == (1.0, 1.0)
    memory_gb = CASES["small"].tables.memory_bytes.sum() * 1e-9
    assert limits["context.memory_gb"] == pytest.approx((memory_gb, memory_gb))
    assert limits["slot.since_use_s"][0] < limits["slot.since_use_s"][1]


def test_a_feature_can_be_left_out(scenario: str) -> None:
    trainer = EvolutionTrainer(linear(scenario, without=("since_use_s", "reload_s")))
    learn(trainer, 8)
    weights = trainer.agent().network.weights["slot_linear"]
    assert weights[SLOT.since_use_s] == weights[SLOT.reload_s] == weights[SLOT.legal] == 0.0
    assert weights[SLOT.running] != 0.0
    with pytest.raises(ConfigError, match="no feature is called 'size'"):
        EvolutionTrainer(linear(scenario, without=("size",)))


def test_more_seeds_than_there_are_cannot_be_met(scenario: str) -> None:
    with pytest.raises(ConfigError, match="seeds_per_generation is 7, but there are 6"):
        EvolutionTrainer(linear(scenario, seeds_per_generation=7))


def test_tuned_cace_keeps_to_its_budget_and_costs_less() -> None:
    objective = Objective(CASES, training_seeds(6))
    budget = 150 * 16 * 6 * 6
    told: list[int] = []
    weights = tune_cace(objective, requests=budget, seeds_per_generation=6, progress=lambda n, _: told.append(n))
    assert told[-1] == pytest.approx(budget, rel=0.17)  # a generation more or less, and LRU once
    tuned = evaluate_weights(weights, objective)
    assert tuned < objective.costs([policy("cace")]).sum()


def evaluate_weights(weights: CaceWeights, objective: Objective) -> float:
    return float(objective.costs([replace(policy("cace"), weights=weights.row())]).sum())


def test_relative_to_lru_lru_costs_one() -> None:
    objective = Objective(CASES, training_seeds(2))
    baseline = baseline_costs(objective)
    assert pooled(objective.costs([policy("lru")]), baseline) == pytest.approx([1.0])
