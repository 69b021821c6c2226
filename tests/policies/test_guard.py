"""Claims about the guard: LRU takes over where a policy should not be trusted, says why, and gives it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.evaluation import evaluate
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.policies import Agent, Guarded, contestant_of, write_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.guard import REASONS, ForecastWatch
from cace_env.policies.network import Network
from cace_env.policies.ranges import bounds_of, feature_ranges, out_of_range, space_bounds
from cace_env.simulation import Simulator
from cace_env.tables import Protocol
from tests.support.small import SHORT, lru_in_python

NEVER = dict.fromkeys(REASONS, 0)


@pytest.fixture(scope="module")
def small() -> Case:
    return case_of(SHORT)


@pytest.fixture(scope="module")
def small_swap() -> Case:
    return case_of(SHORT, "swap")


class Faulty:
    """LRU, but for the decisions of an episode in which something else is done."""

    def __init__(self, fault: Callable[[], Any], at: range) -> None:
        self.fault, self.at = fault, at

    def reset(self, seed: int) -> None:
        del seed
        self.asked = 0

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> Any:
        self.asked += 1
        return self.fault() if self.asked - 1 in self.at else lru_in_python(features, legal)


def fail() -> None:
    raise ZeroDivisionError("no idea")


def ticking(seconds: float) -> Callable[[], float]:
    """A clock on which every look takes so long."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now

    return clock


@pytest.mark.parametrize("policy", ["cace", "ttl", "belady-cost", "random", lru_in_python])
def test_a_guard_that_never_takes_over_changes_nothing(policy: Any, small: Case):
    guarded = Guarded(policy)
    alone, watched = evaluate(policy, small, [1, 2]), evaluate(guarded, small, [1, 2])
    assert guarded.decisions == alone.column("decisions").sum() > 40
    assert guarded.counts == NEVER
    np.testing.assert_array_equal(alone.column("cost"), watched.column("cost"))
    np.testing.assert_array_equal(alone.ttft_counts, watched.ttft_counts)


@pytest.mark.parametrize("policy", ["very-patient-wsjf+gdsf", "cace", "llama-swap+ttl"])
def test_the_same_holds_where_the_policy_has_an_order_with_timers(policy: str, small_swap: Case):
    guarded = Guarded(policy)
    assert evaluate(guarded, small_swap, [1, 2]).column("cost").tolist() == (
        evaluate(policy, small_swap, [1, 2]).column("cost").tolist()
    )
    assert guarded.counts == NEVER


@pytest.mark.parametrize("wrong", [fail, lambda: np.full(99, 0.0), lambda: np.nan, lambda: "keep all"])
def test_after_a_failure_lru_goes_on_for_a_while_and_then_the_policy_is_asked_again(wrong: Any, small: Case):
    policy = Faulty(wrong, range(3, 4))
    guarded = Guarded(policy, hold=5)
    evaluate(guarded, small, [1])
    assert guarded.counts == NEVER | {"error": 6}
    assert guarded.trips == NEVER | {"error": 1}
    assert policy.asked == guarded.decisions - 5, "the policy rests while LRU decides"
    assert guarded.last["error"].startswith("policy 'Faulty', seed 1, decision 3: ")


def test_a_policy_that_always_fails_costs_what_lru_costs(small: Case):
    guarded = Guarded(Faulty(fail, range(10_000)), hold=2)
    result = evaluate(guarded, small, [1, 2])
    assert result.column("cost").tolist() == evaluate("lru", small, [1, 2]).column("cost").tolist()
    assert guarded.counts == NEVER | {"error": guarded.decisions}


def test_in_swap_v0_it_falls_back_to_the_oldest_request_first_and_waits_for_idle_victims(small_swap: Case):
    class Broken:
        def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
            raise KeyError("broken")

    guarded = evaluate(Guarded(Broken()), small_swap, [1]).rows[0]
    assert guarded["fallback_error"] == guarded["decisions"] > 50
    assert guarded["cost"] < evaluate("fifo+lru", small_swap, [1]).rows[0]["cost"], "it does not drain at once"


def test_an_answer_that_comes_too_late_is_thrown_away(small: Case):
    slow = Guarded("cace", time_limit_s=0.5, clock=ticking(0.6))
    quick = Guarded("cace", time_limit_s=0.5, clock=ticking(0.4))
    late = evaluate(slow, small, [1])
    evaluate(quick, small, [1])
    assert slow.counts == NEVER | {"late": slow.decisions} and quick.counts == NEVER
    assert late.column("cost") == evaluate("lru", small, [1]).column("cost")
    assert slow.last["late"] == "0.6 s, longer than 0.5 s"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_inputs_that_cannot_be_are_not_shown_to_the_policy(bad: float, small: Case, monkeypatch: pytest.MonkeyPatch):
    plain, looks = Simulator.observation, 0

    def broken_sensor(simulator: Simulator, layout: ObservationLayout) -> np.ndarray:
        nonlocal looks
        looks += 1
        observation = plain(simulator, layout)
        if looks in (5, 6):
            observation[CONTEXT.free_gb - len(CONTEXT)] = bad
        return observation

    monkeypatch.setattr(Simulator, "observation", broken_sensor)
    guarded = Guarded("cace", hold=3)
    row = evaluate(guarded, small, [1]).rows[0]
    assert guarded.counts == NEVER | {"input": 5}
    assert guarded.trips == NEVER | {"input": 1}
    assert row["fallback_input"] == 5 and row["fallback_error"] == 0
    assert "free_gb is" in guarded.last["input"]


def observations(case: Case, seeds: range) -> tuple[np.ndarray, ObservationLayout]:
    """What LRU meets."""
    seen = []

    class Watching:
        def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
            seen.append(observation)
            return int(np.flatnonzero(action_mask)[0])

    evaluate(Watching(), case, seeds)
    simulator = Simulator(case.tables)
    simulator.load(case.workload(0))
    return np.array(seen), ObservationLayout(simulator.max_slots, case.tables.num_models)


def test_a_guard_with_ranges_trusts_what_was_trained_on_and_nothing_else(small: Case):
    seen, layout = observations(small, range(3))
    ranges = feature_ranges(seen, layout)
    assert len(ranges) == len(SLOT) + len(PENDING) + len(CONTEXT)
    low, high = ranges["slot.freed_gb"]
    unpinned_gb = small.tables.need_bytes / 1e9
    assert unpinned_gb.min() - 0.01 <= low < high <= unpinned_gb.max() + 0.01, "physical units, occupied slots"
    bounds = bounds_of(ranges, 0.0)
    assert all(out_of_range(row, layout, bounds) is None for row in seen)

    at_home, elsewhere = Guarded("cace", ranges=ranges), Guarded("cace", ranges=ranges)
    evaluate(at_home, small, [0, 1, 2])
    assert at_home.counts == NEVER
    slow = small.tables.replace(load_us=small.tables.load_us * 1000)
    evaluate(elsewhere, replace(small, tables=slow), [0])
    assert elsewhere.counts == NEVER | {"input": elsewhere.decisions}
    assert "reload_s is" in elsewhere.last["input"], "as if it were in milliseconds"


def test_ranges_are_of_models_and_not_of_the_size_of_the_fleet(small: Case):
    seen, layout = observations(small, range(1))
    bounds = bounds_of(dict.fromkeys(feature_ranges(seen, layout), (0.0, 0.0)), 1.0)
    slot, context = space_bounds().high["slot"], space_bounds().high["context"]
    np.testing.assert_array_equal(bounds.high["context"], context)
    assert bounds.high["slot"][SLOT.pinned] == slot[SLOT.pinned] == 1.0, "flags say nothing about other numbers"
    assert bounds.high["slot"][SLOT.freed_gb] == 1.0, "a constant has the width of one unit of the observation"


def test_an_agent_brings_the_ranges_of_its_card(small: Case, tmp_path: Path):
    weights = {"slot_linear": np.zeros(len(SLOT), dtype=np.float32)}
    weights["slot_linear"][SLOT.since_use_s] = 1.0
    card = AgentCard(
        name="tiny", env=Protocol.EVICTION, algorithm="none", hidden=0, limits={"slot.weights_gb": (200.0, 300.0)}
    )
    agent = Agent(card, Network("eviction", 0, weights))
    write_agent(agent, tmp_path / "agent")
    lru = evaluate("lru", small, [1]).column("cost")
    for guarded in (Guarded(agent), contestant_of(f"guarded:agent:{tmp_path / 'agent'}").policy):
        assert isinstance(guarded, Guarded)
        assert evaluate(guarded, small, [1]).column("cost") == lru
        assert guarded.counts == NEVER | {"input": guarded.decisions}, "it knows models of 200 to 300 GB only"
    unlimited = Agent(card.model_copy(update={"limits": {}}), agent.network)
    guarded = Guarded(unlimited)
    assert evaluate(guarded, small, [1]).column("cost") == evaluate(unlimited, small, [1]).column("cost")
    assert guarded.counts == NEVER


def test_ranges_of_no_feature_or_upside_down_are_refused():
    with pytest.raises(ConfigError, match=r"no feature called 'slot\.use', did you mean 'slot\.uses"):
        Guarded("lru", ranges={"slot.use": (0.0, 1.0)})
    for ends in ((2.0, 1.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ConfigError, match=r"the range of 'slot\.uses' is .*; it has to be finite and ascend"):
            Guarded("lru", ranges={"slot.uses": ends})


def test_what_an_environment_shows_is_within_the_bounds_of_its_space(small: Case):
    seen, layout = observations(small, range(2))
    assert len(seen) > 30
    assert all(out_of_range(row, layout, space_bounds()) is None for row in seen)


def test_a_guard_is_named_in_front_of_any_policy(small: Case):
    assert contestant_of("guarded:cace").name == "guarded:cace"
    address = contestant_of("guarded:tests.evaluation.test_evaluation:lru_in_python")
    assert address.name == "guarded:lru_in_python"
    assert evaluate("guarded:cace", small, [1]).column("cost") == evaluate("cace", small, [1]).column("cost")
    assert Guarded("cace").name == "guarded:cace" and Guarded(lru_in_python).name == "guarded:lru_in_python"
    for wrong in ("guarded:no-swapping", "guarded:guarded:lru"):
        with pytest.raises(ConfigError, match="a guard cannot wrap"):
            contestant_of(wrong)
    with pytest.raises(ConfigError, match="did you mean 'lru'"):
        contestant_of("guarded:lur")


@pytest.mark.parametrize(
    "wrong", [{"hold": -1}, {"margin": -0.1}, {"time_limit_s": 0.0}, {"long_answer_s": -1.0}, {"patient_loads": 0.0}]
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    (key,) = wrong
    with pytest.raises(ConfigError, match=f"{key} .*(at least|above) 0"):
        Guarded("lru", **wrong)
    with pytest.raises(ConfigError, match="low at most high"):
        ForecastWatch(high=1.0, low=2.0)


def test_a_comparison_says_what_the_guards_did(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs the extra experiments")
    from experiments.compare import main
    from experiments.running.run_folder import Run
    from tests.support.html_reports import Report

    scenario, out = tmp_path / "small.yaml", tmp_path / "out"
    scenario.write_text(yaml.safe_dump(SHORT))
    options = ["--policies", "cace,guarded:cace", "--policy", f"guarded:{__name__}:ALWAYS_FAILS"]
    assert main([*options, "--scenarios", str(scenario), "--seeds", "2", "--out", str(out), "--workers", "1"]) == 0
    run = Run(out)
    assert run.group("guarded:cace") == "CACE"
    assert run.about["policies"]["guarded:cace"]["description"].startswith("under guard: least sum of weight x term")
    costs = {policy: run.columns["small", policy]["cost"].tolist() for policy in run.policies("small")}
    failing = "guarded:ALWAYS_FAILS"
    assert costs["guarded:cace"] == costs["cace"] and costs[failing] == costs["lru"]
    assert np.isnan(run.columns["small", "cace"]["fallback_error"]).all()
    decisions = run.columns["small", failing]["decisions"].sum()
    (row,) = [row for row in Report(out).table("Decisions that LRU took") if "ALWAYS_FAILS" in row["policy"]]
    assert [*row.values()][2:] == [
        *(f"{decisions:.0f}", "100.0 %"),
        *("0", f"{decisions:.0f}", "0", "0", "0", "0"),
    ]


ALWAYS_FAILS = Faulty(fail, range(10_000))
