"""Scores by numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.evaluation import suite_scores
from cace_env.evaluation.scores import (
    headroom,
    interquartile_mean,
    pooled_gain,
    probability_of_improvement,
    relative_cost,
    score,
    score_draws,
)

LRU = [100.0, 300.0]
HALF = [80.0, 240.0]  # saves 80 of the 160 that the reference saves
BEST = [60.0, 180.0]


def test_lru_scores_0_and_the_reference_100():
    assert score(LRU, LRU, BEST).value == 0.0
    assert score(LRU, BEST, BEST).value == 100.0
    assert score(LRU, HALF, BEST).value == pytest.approx(50.0)
    assert score(LRU, [120.0, 360.0], BEST).value == pytest.approx(-50.0)


def test_costs_are_summed_before_they_are_divided():
    # Alone, the first seed scores 100 and the second, on which there is nothing to gain, -900.
    lru, mine, best = [100.0, 101.0], [50.0, 110.0], [50.0, 100.0]
    assert score(lru, mine, best).value == pytest.approx(100 * (201 - 160) / (201 - 150))


def test_a_gap_under_one_percent_has_no_score():
    assert np.isnan(score([1000.0, 1000.0], [990.0, 990.0], [995.0, 990.5]).value)
    assert score([1000.0, 1000.0], [990.0, 990.0], [990.0, 990.0]).value == pytest.approx(100.0)
    assert np.isnan(score([100.0], [90.0], [120.0]).value)  # a reference that is worse than LRU is none
    assert np.isnan(score([0.0], [0.0], [0.0]).value)


def test_seeds_that_anybody_cut_short_are_left_out_for_all():
    cut = score([100.0, 300.0, 5000.0], [80.0, 240.0, np.nan], [60.0, 180.0, 1.0])
    assert cut == score(LRU, HALF, BEST)
    assert np.isnan(score([100.0], [np.nan], [50.0])).all()


def test_costs_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match="costs of 2, 1, 2 seeds cannot be paired"):
        score(LRU, [80.0], BEST)


def test_what_a_hard_seed_does_to_all_cancels_out():
    # Seeds differ a hundredfold, yet every policy's cost is in proportion: every draw says the same.
    hardness = np.array([1.0, 10.0, 100.0])
    value, low, high = score(100 * hardness, 75 * hardness, 50 * hardness)
    assert value == low == high == pytest.approx(50.0)


def test_the_interval_is_that_of_all_draws():
    # Two seeds: a quarter of the draws has the first twice (score 0), a quarter the second twice (100), half both (50).
    lru, mine, best = [100.0, 100.0], [100.0, 50.0], [50.0, 50.0]
    draws = score_draws(lru, mine, best)
    shares = {value: np.mean(np.isclose(draws, value)) for value in (0.0, 50.0, 100.0)}
    assert shares == {
        0.0: pytest.approx(0.25, abs=0.02),
        50.0: pytest.approx(0.5, abs=0.02),
        100.0: pytest.approx(0.25, abs=0.02),
    }
    assert tuple(score(lru, mine, best)) == (50.0, 0.0, 100.0)


def test_one_seed_has_no_interval_and_an_unsure_gap_none_either():
    assert np.isnan(score([100.0], [80.0], [60.0])[1:]).all()
    unsure = score([100.0, 100.0], [90.0, 90.0], [100.0, 50.0])  # a quarter of the draws has no gap
    assert unsure.value == pytest.approx(40.0) and np.isnan(unsure[1:]).all()


def test_headroom_is_what_the_reference_saves():
    assert headroom(LRU, BEST).percent == pytest.approx(40.0)
    assert headroom(LRU, LRU).percent == 0.0


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([-1000.0, 10.0, 20.0, 1000.0]) == 15.0
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    assert interquartile_mean([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 8.0, 8.0]]).tolist() == [2.5, 4.0]
    with pytest.raises(ValueError, match="at least one value"):
        interquartile_mean([])


def test_the_interquartile_mean_is_that_of_rliable():
    stats = pytest.importorskip("scipy.stats", reason="needs the extra dev")
    for count in range(1, 14):
        values = np.random.default_rng(count).normal(size=(3, count))
        np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1))


SUITE = {
    name: {"lru": np.array(LRU), "reference": np.array(LRU) * (1 - gap), "mine": np.array(LRU) * (1 - gap * share)}
    for name, gap, share in (("a", 0.4, 0.2), ("b", 0.3, 0.4), ("c", 0.2, 0.6), ("d", 0.1, 5.0), ("flat", 0.02, -9.0))
}


def test_scenarios_with_hardly_any_headroom_are_named_and_kept_out_of_the_mean():
    scores = suite_scores(SUITE)
    assert scores.left_out == ("flat",)
    assert scores.headroom["a"].percent == pytest.approx(40.0)
    assert scores.scores["mine"]["flat"].value == pytest.approx(-900.0)
    assert scores.means["mine"].value == pytest.approx(50.0)  # of 20, 40, 60, 500 the middle two
    assert scores.means["lru"].value == 0.0 and scores.means["reference"].value == pytest.approx(100.0)


def test_a_draw_without_a_gap_somewhere_has_no_mean():
    assert np.isnan(interquartile_mean([[1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 3.0, 4.0]])).tolist() == [True, False]
    unsure = {
        "lru": [100.0, 100.0],
        "reference": [100.0, 50.0],
        "mine": [90.0, 90.0],
    }  # a quarter has no gap
    sure = {"lru": [100.0, 100.0], "reference": [50.0, 50.0], "mine": [90.0, 90.0]}
    mean = suite_scores({"a": sure, "b": sure, "c": sure, "d": unsure}).means["mine"]
    assert mean.value == pytest.approx(20.0) and np.isnan(mean[1:]).all()


def test_the_mean_of_the_suite_is_surer_than_one_scenario():
    noise = np.random.default_rng(1)
    costs = {}
    for name in "abcdefgh":
        lru = noise.uniform(50, 150, 40)
        costs[name] = {"lru": lru, "reference": lru * 0.6, "mine": lru * (0.8 + noise.normal(0, 0.1, 40))}
    scores = suite_scores(costs)
    mean = scores.means["mine"]
    assert mean.low < mean.value < mean.high
    widths = [each.high - each.low for each in scores.scores["mine"].values()]
    assert mean.high - mean.low < 0.7 * np.mean(widths)


def test_draws_of_scenarios_are_independent_of_each_other():
    noise = np.random.default_rng(2)
    lru = noise.uniform(50, 150, 30)
    mine, best = lru * noise.uniform(0.6, 1.0, 30), lru * 0.6
    first, second = (score_draws(lru, mine, best, stream=stream) for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_a_policy_that_did_not_run_everywhere_has_no_mean():
    costs = {name: dict(by_policy) for name, by_policy in SUITE.items()}
    del costs["b"]["mine"]
    scores = suite_scores(costs)
    assert np.isnan(scores.means["mine"]).all() and "b" not in scores.scores["mine"]
    assert np.isnan(suite_scores({"flat": SUITE["flat"]}).means["reference"]).all()


def test_scores_without_a_reference_are_refused():
    with pytest.raises(ValueError, match="scenario 'a' has no costs of reference"):
        suite_scores({"a": {"lru": LRU, "mine": HALF}})


def test_the_probability_of_improvement_counts_seeds_and_halves_ties():
    # Cheaper on 1 of 2 seeds here, on 2 of 4 with a tie there: (1/2 + 5/8) / 2.
    mine = {"a": [1.0, 9.0], "b": [1.0, 1.0, 5.0, 9.0]}
    theirs = {"a": [2.0, 8.0], "b": [2.0, 2.0, 5.0, 8.0]}
    chance = probability_of_improvement(mine, theirs)
    assert chance.value == pytest.approx((1 / 2 + 5 / 8) / 2)
    assert chance.low < chance.value < chance.high
    other = probability_of_improvement(theirs, mine)
    assert other.value == pytest.approx(1 - chance.value)  # ties count half for either
    assert (other.low, other.high) == pytest.approx((1 - chance.high, 1 - chance.low))


def test_a_policy_that_always_wins_improves_for_sure_and_one_that_is_equal_as_often_as_not():
    theirs = {"a": [2.0, 200.0], "b": [3.0, 4.0, 5.0]}
    mine = {name: np.array(costs) - 0.001 for name, costs in theirs.items()}
    assert tuple(probability_of_improvement(mine, theirs)) == (1.0, 1.0, 1.0)
    assert tuple(probability_of_improvement(theirs, theirs)) == (0.5, 0.5, 0.5)


def test_pooled_cost_weighs_scenarios_alike_whatever_their_costs_are():
    lru = {"cheap": [1.0, 1.0], "dear": [1000.0, 1000.0]}
    mine = {"cheap": [0.5, 0.5], "dear": [900.0, 900.0]}
    assert tuple(relative_cost(mine, lru)) == pytest.approx((0.7, 0.7, 0.7))
    assert pooled_gain(mine, lru, lru).percent == pytest.approx(30.0)
    assert pooled_gain(lru, mine, lru).percent == pytest.approx(100 * (1 - 1 / 0.7))
    five = {str(n): [float(n), float(n)] for n in range(1, 6)}
    ones = {name: [1.0, 1.0] for name in five}
    assert relative_cost(five, ones, aggregate=interquartile_mean).value == pytest.approx(3.0)


def test_the_interval_of_a_pooled_gain_is_wide_where_seeds_disagree_and_none_where_there_is_one_seed():
    lru = {"a": [10.0, 10.0], "b": [10.0, 10.0]}
    sure = pooled_gain({"a": [8.0, 8.0], "b": [6.0, 6.0]}, lru, lru)
    assert sure == pytest.approx((30.0, 30.0, 30.0))
    unsure = pooled_gain({"a": [8.0, 12.0], "b": [6.0, 12.0]}, lru, lru)
    assert unsure.low < 0 < unsure.high
    single = pooled_gain(
        {"a": [8.0], "b": [6.0, 6.0]}, {"a": [10.0], "b": [10.0, 10.0]}, {"a": [10.0], "b": [10.0] * 2}
    )
    assert single.percent == pytest.approx(30.0) and np.isnan(single[1:]).all()


def test_numbers_over_scenarios_need_the_same_scenarios_and_leave_out_what_was_cut_short():
    with pytest.raises(ValueError, match="different scenarios"):
        probability_of_improvement({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(ValueError, match="no scenario"):
        relative_cost({}, {})
    cut = {"a": [1.0, np.nan, 1.0]}
    assert relative_cost(cut, {"a": [2.0, 50.0, 2.0]}).value == pytest.approx(0.5)
    assert np.isnan(probability_of_improvement({"a": [np.nan]}, {"a": [1.0]})).all()
    assert np.isnan(pooled_gain({"a": [np.nan]}, {"a": [1.0]}, {"a": [1.0]})).all()
