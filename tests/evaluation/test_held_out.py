"""Claims about held-out seeds: no agent learns from seeds that judge it, and a suite that has changed is noticed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError
from cace_env.evaluation import held_out
from cace_env.policies import write_agent
from cace_env.policies.agent import AgentCard
from cace_env.scenarios import SEEDS
from cace_env.tables import Protocol
from tests.support.agents import agent_of, lru_network


def test_training_validation_and_test_seeds_are_disjoint():
    for one, other in itertools.combinations(SEEDS.values(), 2):
        assert one[-1] < other[0] or other[-1] < one[0]
    assert len(SEEDS["test"]) == 100


def test_test_and_validation_seeds_are_refused_for_training():
    held_out.check_training([0, 999_999])
    for seed, said in ((2_000_000, "a test seed"), (1_000_005, "a validation seed"), (3_000_000, "of no split")):
        with pytest.raises(ConfigError, match=f"seed {seed} is .*{said}.*only train seeds may be learned from"):
            held_out.check_training([1, seed])


def test_only_validation_seeds_choose():
    held_out.check_choosing(SEEDS["validation"])
    with pytest.raises(ConfigError, match="seed 2000000 is a test seed: only validation seeds may be chosen by"):
        held_out.check_choosing([2_000_000])
    with pytest.raises(ConfigError, match="a train seed"):
        held_out.check_choosing([7])


def test_seeds_are_given_out_from_their_split_only():
    assert held_out.training_seeds(3, first=5) == range(5, 8)
    assert list(held_out.validation_seeds(2)) == [1_000_000, 1_000_001]
    with pytest.raises(ConfigError, match="10 training seeds from 999995 are not available"):
        held_out.training_seeds(10, first=999_995)
    with pytest.raises(ConfigError, match="101 validation seeds"):
        held_out.validation_seeds(101)


@pytest.mark.parametrize("numbers", [[0], [3, 5, 8, 9], list(range(1000)), [9, 8, 2]])
def test_a_card_says_its_training_seeds_in_a_line_that_reads_back(numbers: list[int]):
    text = held_out.seeds_text(numbers)
    assert sorted(seed for known in held_out.seeds_of(text) for seed in known) == sorted(numbers)


def test_seeds_written_in_another_way_are_refused():
    assert held_out.seeds_text(range(1000)) == "0-999"
    for text in ("", "all", "5-3", "1..9", "-4"):
        with pytest.raises(ConfigError, match="write them like 0-999"):
            held_out.seeds_of(text)


def card(train_seeds: str = "0-999", **more: Any) -> AgentCard:
    return AgentCard(name="mine", env=Protocol.EVICTION, algorithm="hand", hidden=0, train_seeds=train_seeds, **more)


def test_an_agent_that_was_trained_on_test_seeds_is_found_out():
    assert held_out.problems_of(card(), SEEDS["test"]) == []
    assert held_out.learned_from("0-9,20", [5, 15, 20]) == [5, 20]
    (said,) = held_out.problems_of(card("0-9,2000000-2000001"))
    assert "trained on 2 test seeds (the first is 2000000)" in said


def test_an_agent_that_is_judged_by_seeds_it_learned_from_is_found_out():
    (said,) = held_out.problems_of(card("0-9"), [8, 9, 10])
    assert "trained on 2 of the seeds that it is judged by (the first is 8)" in said
    assert held_out.problems_of(card(""), [8]) == ["its card does not say which seeds it was trained on"]


def test_agents_that_learned_nothing_of_the_suite_say_nothing_of_it():
    assert held_out.recorded(card(trained_on=("my-fleet",))) == card(trained_on=("my-fleet",))


def test_a_changed_suite_is_noticed(monkeypatch: pytest.MonkeyPatch):
    noted = held_out.recorded(card(trained_on=("eviction-default",)))
    assert noted.suite == "v1" and len(noted.fingerprints) == 12
    assert all(name.startswith("eviction-") for name in noted.fingerprints)
    assert held_out.problems_of(noted) == []
    other = noted.model_copy(update={"fingerprints": {**noted.fingerprints, "eviction-default": "0" * 16}})
    (said,) = held_out.problems_of(other)
    assert "have changed since it was trained: eviction-default" in said
    (said,) = held_out.problems_of(noted.model_copy(update={"suite": "v0"}))
    assert "suite 'v0', which does not ship" in said
    monkeypatch.setattr(held_out, "SMALLEST_HEADROOM_PERCENT", 5.0)
    assert any("3 % then and 5 % now" in said for said in held_out.problems_of(noted))


def test_a_training_takes_over_the_budget_of_the_agent_it_begins_from(tmp_path: Path):
    assert held_out.spent_before(None) == 0
    write_agent(agent_of(lru_network(), requests=500), tmp_path / "fair")
    assert held_out.spent_before(str(tmp_path / "fair")) == 500
    write_agent(agent_of(lru_network(), train_seeds="0-9,2000003"), tmp_path / "foul")
    with pytest.raises(ConfigError, match=r"trained on test seeds \(the first is 2000003\)"):
        held_out.spent_before(str(tmp_path / "foul"))
