"""What the shipped scenarios promise: they span what fleets differ in, and every invariant holds on them."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.fleets import ENGINES, GPUS
from cace_env.policies import POLICIES
from cace_env.policies.built_in import rule_of
from cace_env.policies.clairvoyant import without_swapping
from cace_env.scenarios import load_scenario, scenario_names, seeds
from cace_env.simulation import run_rule
from tests.specification.invariants import check_run
from tests.support.small import EVERYDAY


def test_the_suite_spans_engines_tasks_and_fleets() -> None:
    scenarios = [load_scenario(name) for name in EVERYDAY]
    assert len(scenarios) >= 8
    assert {scenario.engine for scenario in scenarios} == set(ENGINES)
    sizes = {sum(group.count for group in scenario.fleet) for scenario in scenarios}
    assert 1 in sizes and max(sizes) >= 3
    assert any(len({group.gpu for group in scenario.fleet}) > 1 for scenario in scenarios)
    shares = [scenario.workload_config.shares.normalised() for scenario in scenarios]
    for task, dominant in enumerate((0.7, 0.28, 0.35, 0.5)):
        assert max(share[task] for share in shares) >= dominant
    pressures = [scenario.pressure or 0.0 for scenario in scenarios]
    assert 0 < min(pressures) < 1.5 and max(pressures) > 2.5


def test_memory_stays_within_what_the_cards_have() -> None:
    for name in scenario_names():
        scenario = load_scenario(name)
        cards = [GPUS[group.gpu].memory_gb.value for group in scenario.fleet for _ in range(group.count)]
        assert np.all(scenario.tables().memory_bytes <= np.array(cards) * 1.02e9), name


def test_seeds_of_the_splits_are_fixed_and_disjoint() -> None:
    splits = {split: set(seeds(split)) for split in ("train", "validation", "test")}
    assert len(splits["test"]) == 100
    assert sum(map(len, splits.values())) == len(set.union(*splits.values()))


@pytest.mark.parametrize("name", EVERYDAY)
def test_every_invariant_holds_on_every_scenario(name: str) -> None:
    scenario = load_scenario(name)
    scenario = scenario.replace(workload={**scenario.workload_config.model_dump(mode="json"), "requests": 600})
    tables = scenario.tables()
    for seed, name in zip(seeds("train", 4), ("lru", "cace", "ttl", "ollama"), strict=True):  # two with keep-alive
        workload = scenario.workload(seed)
        policy = POLICIES[name]
        episode = run_rule(tables, workload, rule_of(policy, tables, seed=seed, workload=workload), trace=True)
        check_run(tables, workload, episode, max_resident=policy.max_resident)
    endless = without_swapping(tables)
    check_run(endless, workload, run_rule(endless, workload, rule_of(POLICIES["lru"], endless), trace=True))


def test_the_default_episode_asks_lru_often_enough_and_does_not_thrash() -> None:
    scenario = load_scenario("default")
    tables = scenario.tables()
    decisions, share, cold, regrets = [], [], [], []
    for seed in seeds("test", 20):
        workload = scenario.workload(seed)
        episode = run_rule(tables, workload, rule_of(POLICIES["lru"], tables, seed=seed, workload=workload))
        decisions.append(episode.decisions)
        share.append(episode.decisions / len(workload))
        cold.append(episode.cold_requests / len(workload))
        regrets.append(episode.regret_loads / episode.loads)
    assert min(decisions) >= 500
    assert 0.1 <= np.mean(share) <= 0.3
    assert np.mean(cold) < 0.25
    assert np.mean(regrets) < 0.6  # of loads bring back what left within the last minute
