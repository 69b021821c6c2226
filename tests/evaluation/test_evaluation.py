"""Policies on the same requests: what `evaluate` promises, and what its errors say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import cace_env
from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.envs import EvictionEnv
from cace_env.evaluation import evaluate, paired_gain, run_seed
from cace_env.evaluation.episodes import PolicyError, seed_list
from cace_env.evaluation.intervals import share_of_gap
from cace_env.evaluation.short_form import rounded
from cace_env.fleets import TERM
from cace_env.policies import POLICIES, contestant_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import METRICS, lower_bound
from tests.support.small import SMALL, lru_in_python

SEEDS = (3, 1, 2)


class Moody:
    """Scores by numbers drawn from its seed; counts how often it was reset."""

    def __init__(self) -> None:
        self.resets: list[int] = []

    def reset(self, seed: int) -> None:
        self.resets.append(seed)
        self.rng = np.random.default_rng(seed)

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        assert legal.sum() >= 2, "a single legal choice is applied without asking"
        return self.rng.random(len(features))


@pytest.fixture(scope="module")
def small() -> Case:
    return case_of(SMALL)


def test_python_lru_equals_the_compiled_one_on_every_number(small: Case):
    compiled = evaluate("lru", small, SEEDS)
    python = evaluate(lru_in_python, small, SEEDS)
    assert sum(compiled.column("decisions")) > 30
    for name in METRICS:
        np.testing.assert_array_equal(compiled.column(name), python.column(name), err_msg=name)
    np.testing.assert_array_equal(compiled.ttft_counts, python.ttft_counts)


def test_every_built_in_policy_answers_every_request(small: Case):
    for name in [*POLICIES, "no-swapping"]:
        results = evaluate(name, small, [0])
        assert results.rows[0]["answered"] + results.rows[0]["refused"] == 300, name


def test_rows_come_in_the_order_of_the_seeds_whatever_the_number_of_threads(small: Case):
    alone, together = evaluate("cace", small, SEEDS), evaluate("cace", small, SEEDS, workers=3)
    assert alone.seeds == together.seeds == SEEDS
    for name in METRICS:
        np.testing.assert_array_equal(alone.column(name), together.column(name))


def test_policies_meet_the_same_requests(small: Case):
    (lru, cace) = run_seed(small, [contestant_of("lru"), contestant_of("cace")], seed=5)
    assert lru.row["lower_bound"] == cace.row["lower_bound"] == lower_bound(small.tables, small.workload(5)).cost
    assert lru.row["requests"] == cace.row["requests"]
    for result in (lru, cace):
        (alone,) = evaluate(result.row["policy"], small, [5]).rows
        np.testing.assert_equal(result.row, alone)


def test_cost_is_the_weighted_sum_of_parts_in_the_row(small: Case):
    weights = {"w_load": 0.5, "w_slo": 2.0, "w_refused": 7.0}
    reward = {"completion": {"w_ttft": 1.0, "slo_s": 0.5}, "chat": {"w_ttft": 0.3, "w_e2e": 0.1}, **weights}
    row = evaluate("lru", SMALL | {"reward": reward}, [1]).rows[0]
    waited = row["completion_waiting_s"] + 0.3 * row["chat_waiting_s"] + 0.1 * row["chat_system_s"]
    counted = 2.0 * row["slo_missed"] + 0.5 * row["load_s"] + 7.0 * row["refused"]
    assert row["cost"] == pytest.approx(waited + counted)


def test_an_eviction_agent_without_an_order_is_refused_in_swap_v0(small: Case):
    with pytest.raises(ConfigError, match=r"was trained for Eviction-v0 .* 'wsjf\+agent:eviction'"):
        evaluate("agent:eviction", small, SEEDS, protocol="swap")
    assert evaluate("wsjf+agent:eviction", small, SEEDS[:1], protocol="swap").policy == "wsjf+agent:eviction"


def test_without_swapping_nothing_is_evicted_or_asked(small: Case):
    results = evaluate("no-swapping", small, SEEDS).summary()
    assert results["evictions"] == results["decisions"] == 0
    assert results["loads"] <= len(SMALL["catalogue"])


def test_a_policy_with_a_state_is_reset_with_the_seed_before_every_episode(small: Case):
    moody = Moody()
    first = evaluate(moody, small, SEEDS, workers=2)
    assert sorted(moody.resets) == sorted(SEEDS)
    assert first.policy == "Moody"
    assert evaluate(Moody(), small, SEEDS).column("cost").tolist() == first.column("cost").tolist()


def test_thinking_time_is_measured_for_python_policies_only(small: Case):
    assert evaluate(lru_in_python, small, [1]).column("decision_us")[0] > 0
    assert np.isnan(evaluate("lru", small, [1]).column("decision_us")[0])


def test_a_policy_is_found_by_the_address_of_its_function_or_class(small: Case):
    by_address = evaluate("tests.evaluation.test_evaluation:lru_in_python", small, [1])
    assert by_address.policy == "lru_in_python"
    assert by_address.column("cost") == evaluate(lru_in_python, small, [1]).column("cost")
    assert evaluate("tests.evaluation.test_evaluation:Moody", small, [1]).policy == "Moody"


def test_progress_counts_seeds(small: Case):
    seen: list[tuple[int, int]] = []
    evaluate("lru", small, SEEDS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda features, legal: np.zeros(99), "shape"),
        (lambda features, legal: np.where(legal, np.nan, 0.0), "NaN"),
        (lambda features, legal: 1 / 0, "ZeroDivisionError"),
        (lambda features, legal: None, "shape"),
        (lambda features, legal: "keep all", "not hold numbers"),
    ],
)
def test_what_a_python_policy_does_wrong_is_said_with_policy_seed_and_decision(answer: Any, said: str, small: Case):
    answer.__name__ = "broken"
    with pytest.raises(PolicyError, match=rf"policy 'broken', seed 1, decision 0: .*{said}"):
        evaluate(answer, small, [1])


class Blind:
    """Knows no masks: always wants the last slot, or in Swap-v0 the first."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted

    def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
        del observation, action_mask
        return self.wanted


class Lowest:
    """What replaces an action that is not legal."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.replaced = wanted, 0

    def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
        del observation
        if action_mask[self.wanted]:
            return self.wanted
        self.replaced += 1
        return int(np.flatnonzero(action_mask)[0])


@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_what_is_not_legal_is_replaced_by_the_lowest_legal_action_and_counted_where_that_is_wanted(
    protocol: str, small: Case
):
    with pytest.raises(PolicyError, match=re.escape('illegal="replace"')):
        evaluate(Blind(1), small, [1], protocol=protocol)
    blind = evaluate(Blind(1), small, [1, 2], protocol=protocol, illegal="replace")
    expected = [Lowest(1), Lowest(1)]
    costs = [
        evaluate(each, small, [seed], protocol=protocol).column("cost")
        for each, seed in zip(expected, [1, 2], strict=True)
    ]
    assert blind.column("cost").tolist() == np.concatenate(costs).tolist()
    assert blind.column("illegal_actions").tolist() == [each.replaced for each in expected]
    assert blind.summary()["illegal_actions"] == np.mean([each.replaced for each in expected]) > 0
    assert "illegal, replaced" in str(blind) and "illegal actions replaced" in repr(blind)


def test_what_the_environment_replaces_is_what_an_evaluation_replaces(small: Case):
    env = EvictionEnv(SMALL, "test")
    _, info = env.reset(options={"workload_seed": 2_000_000})
    over, total, replaced = False, 0.0, 0
    while not over:
        replaced += not info["action_mask"][1]
        _, reward, over, _, info = env.step(1)
        total += reward - info["reward_terms"][TERM.invalid_action]
    result = evaluate(Blind(1), small, [2_000_000], illegal="replace")
    assert result.column("illegal_actions") == replaced == info["invalid_action"] > 0
    assert -total == pytest.approx(result.column("cost")[0])


def test_what_is_no_action_at_all_is_never_replaced(small: Case):
    with pytest.raises(PolicyError, match="there is no action 99; use 0 to"):
        evaluate(Blind(99), small, [1], illegal="replace")
    with pytest.raises(PolicyError, match="there is no action -1; use 0 to"):
        evaluate(Blind(-1), small, [1], illegal="replace")
    with pytest.raises(ConfigError, match="illegal is 'ignore'; it has to be one of error, replace"):
        evaluate("lru", small, [1], illegal="ignore")  # type: ignore[arg-type]


def test_whoever_never_needs_a_replacement_gets_the_same_episode(small: Case):
    strict, lenient = (evaluate(Lowest(1), small, SEEDS, illegal=how) for how in ("error", "replace"))
    assert strict.column("cost").tolist() == lenient.column("cost").tolist()
    assert not lenient.column("illegal_actions").any() and "0 illegal actions replaced" in repr(lenient)
    assert "illegal_actions" not in strict.rows[0] and "illegal" not in repr(strict)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("lrv", "did you mean 'lru'"),
        ("no.such.module:f", "No module named"),
        ("tests.evaluation.test_evaluation:nothing", "has no 'nothing'"),
        ("tests.evaluation.test_evaluation:SEEDS", "of type tuple"),
        (7, "of type int"),
    ],
)
def test_what_is_no_policy_is_refused(policy: Any, said: str, small: Case):
    with pytest.raises(ConfigError, match=said):
        evaluate(policy, small, [1])


@pytest.mark.parametrize("wrong", [[], [-1], [1, 1], "tset", 2])
def test_seeds_that_mean_nothing_are_refused(wrong: Any):
    with pytest.raises(ConfigError):
        seed_list(wrong)


def test_a_split_stands_for_its_seeds():
    assert seed_list("test") == list(range(2_000_000, 2_000_100))
    assert seed_list("train") == list(range(100))


def test_a_misspelt_scenario_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        evaluate("lru", "defualt", [1])


def test_evaluate_is_there_at_the_root_of_the_package(small: Case):
    assert cace_env.evaluate is evaluate
    assert evaluate("lru", load_scenario(SMALL), [1]).column("cost") == evaluate("lru", small, [1]).column("cost")


def test_results_on_other_requests_are_not_compared(small: Case):
    lru = evaluate("lru", small, [1, 2])
    with pytest.raises(ConfigError, match="same seeds"):
        evaluate("cace", small, [1, 3]).gain_over(lru)
    with pytest.raises(ConfigError, match=re.escape("no metric called 'costs'")):
        lru.column("costs")
    assert lru.gain_over(lru) == (0.0, 0.0, 0.0)


def test_a_summary_has_what_some_seed_has_and_no_holes(small: Case):
    lru = evaluate("lru", small, SEEDS)
    summary = lru.summary()
    assert not np.isnan(list(summary.values())).any()
    assert "agent_ttft_mean_s" not in summary and "decision_us" not in summary  # no agents; compiled
    assert {name for name in METRICS if np.isfinite(lru.column(name)).any()} <= set(summary)


def test_a_printed_evaluation_fits_on_a_screen_with_rounded_numbers_and_units(small: Case):
    lru = evaluate("lru", small, SEEDS)
    lines, means = str(lru).splitlines(), lru.summary()
    assert lines[0] == "lru on small (generated), 3 seeds, means"
    assert len(lines) <= 12 and max(len(line) for line in lines) <= 80
    shown = {line.split()[0]: line for line in lines[1:]}
    assert {"cost", "TTFT", "E2E", "evictions", "decisions"} <= set(shown)
    assert f"{means['ttft_mean_s']:.3g}" in shown["TTFT"] and shown["TTFT"].endswith(" s")
    numbers_end = {re.match(r"  \S.{11}  \S*\s+[\d,.]+", line).end() for line in lines[1:]}  # type: ignore[union-attr]
    assert len(numbers_end) == 1  # one under the other
    assert "\n" not in repr(lru) and "lru on small, 3 seeds: cost " in repr(lru) and " decisions" in repr(lru)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.01234, "0.0123"), (33.0, "33"), (1.234, "1.23"), (123.4, "123"), (98765.4, "98,765")],
)
def test_numbers_for_people_have_three_digits(value: float, shown: str):
    assert rounded(value) == shown


def test_truncated_episodes_are_left_out_of_comparisons():
    short = evaluate("lru", case_of(SMALL | {"rules": {"max_decisions": 1}}), [1, 2])
    assert short.column("truncated").all()
    assert np.isnan(short.gain_over(short).percent)
    assert short.summary() == {"truncated": 1.0} and short.ttft_counts.sum() == 0
    assert "100% of the episodes were cut short" in str(short) and "no whole episode" in repr(short)


def test_a_gain_is_above_zero_where_the_policy_is_better_whichever_way_the_metric_goes(small: Case):
    lru, same = evaluate("lru", small, SEEDS), evaluate("lru", small, SEEDS)
    better = replace(
        same, rows=tuple(row | {"slo_met": 1.1 * row["slo_met"], "cost": 0.9 * row["cost"]} for row in same.rows)
    )
    assert better.gain_over(lru, "slo_met") == pytest.approx((10.0, 10.0, 10.0))
    assert better.gain_over(lru, "cost") == pytest.approx((10.0, 10.0, 10.0))
    assert lru.gain_over(better, "slo_met").percent < 0
    for neither in ("memory_share", "requests", "decisions"):
        with pytest.raises(ConfigError, match=f"neither less nor more {neither!r} is better"):
            better.gain_over(lru, neither)
    with pytest.raises(ConfigError, match="no metric called 'decision_us'"):
        better.gain_over(lru, "decision_us")


def test_gain_is_that_of_the_sums_not_the_mean_of_gains():
    gain = paired_gain([100.0, 300.0], [50.0, 300.0])
    assert gain.percent == pytest.approx(12.5)
    # With two seeds the resamples are {1,1}, {1,2}, {2,1}, {2,2}: 50, 12.5 and 0 %, the ends with a quarter each.
    assert (gain.low, gain.high) == (0.0, 50.0)
    assert str(gain) == "+12.5 % (+0.0 to +50.0)"


def test_interval_agrees_with_scipy():
    rng = np.random.default_rng(5)
    baseline = rng.lognormal(3, 1, 40)
    policy = baseline * rng.normal(0.9, 0.1, 40)
    gain = paired_gain(baseline, policy)
    expected = stats.bootstrap(
        (baseline, policy),
        lambda b, p, axis: 100 * (1 - p.sum(axis=axis) / b.sum(axis=axis)),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    assert gain.low == pytest.approx(expected.low, abs=0.05 * width)
    assert gain.high == pytest.approx(expected.high, abs=0.05 * width)


def test_what_a_hard_seed_does_to_both_cancels_out():
    baseline = np.array([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    gain = paired_gain(baseline, 0.8 * baseline)
    assert gain == pytest.approx((20.0, 20.0, 20.0))


def test_seeds_without_a_value_are_left_out_and_too_few_have_no_interval():
    assert paired_gain([10.0, np.nan, 10.0], [5.0, 5.0, np.nan])[:1] == pytest.approx((50.0,))
    assert np.isnan(paired_gain([10.0], [5.0]).low)
    assert np.isnan(paired_gain([0.0, 0.0], [5.0, 5.0]).percent)


def test_share_of_a_gap_needs_a_gap():
    assert share_of_gap([100.0, 100.0], [90.0, 90.0], [60.0, 60.0]) == pytest.approx(25.0)
    assert np.isnan(share_of_gap([100.0], [90.0], [99.5]))
    assert np.isnan(share_of_gap([100.0], [90.0], [120.0]))


def test_a_trained_policy_never_sees_the_log_that_it_is_judged_by(tmp_path: Path):
    log = tmp_path / "log.csv"
    names = [str(name) for name in SMALL["catalogue"]]
    lines = [f"{3 * i},{100 + i},20,{names[i % len(names)]},chat,u{i % 3},s{i % 5}\n" for i in range(60)]
    log.write_text("time,context_tokens,output_tokens,model,task,user,session\n" + "".join(lines))
    scenario = SMALL | {"trace": {"path": str(log), "format": "cace"}}
    assert case_of(scenario).training is None
    with pytest.raises(ConfigError, match=r"'static-best' needs the demand of training seeds.*leave the policy out"):
        evaluate("static-best", scenario, [1])
    assert evaluate("lru", scenario, [1]).rows[0]["answered"] == 60
    assert evaluate("static-best", SMALL, [1]).rows[0]["answered"] > 0
