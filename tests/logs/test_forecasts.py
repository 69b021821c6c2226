"""Claims about forecasts: made from the past alone, right by hand, scored against the mean rate."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.forecasting.forecasters import ALPHA, BETA, DAMPING, over_bins
from cace_env.workload import Workload
from experiments.logs import forecasts
from experiments.logs.forecasts import BINNED, counts_by_model, predictability, root_error

COUNTS = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])


def forecast(name: str, counts: np.ndarray, bins_per_day: int) -> np.ndarray:
    return over_bins(BINNED[name](len(counts), bins_per_day), counts)


def arriving(times_s: np.ndarray, model: np.ndarray | None = None) -> Workload:
    rows = len(times_s)
    ones = np.ones(rows, int)
    columns = {"context_tokens": ones, "output_tokens": ones, "model": ones * 0 if model is None else model}
    return Workload.from_columns(arrival_us=np.rint(times_s * 1e6), **columns)


@pytest.mark.parametrize("name", BINNED)
def test_no_forecast_knows_the_future(name: str):
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (2, 40)).astype(float)
    changed = counts.copy()
    changed[:, 20:] += 100.0
    assert np.array_equal(forecast(name, counts, 8)[:, :21], forecast(name, changed, 8)[:, :21])


def test_forecasts_by_hand():
    assert forecast("mean rate so far", COUNTS, 99)[0, 3] == 2.0  # of 1, 2, 3
    assert forecast("sliding window", COUNTS, 99)[0, 6] == 4.0  # of 2 to 6
    assert forecast("EWMA", COUNTS, 99)[0, 2] == pytest.approx(1 + ALPHA)
    level, trend = 1 + ALPHA, BETA * ALPHA
    assert forecast("Holt", COUNTS, 99)[0, 2] == pytest.approx(level + DAMPING * trend)
    assert forecast("day profile", COUNTS, 3)[0, 6] == pytest.approx((1 + 4) / 2)


def test_holt_follows_a_trend_that_a_mean_does_not():
    ramp = np.arange(1.0, 200.0)[None]
    holt, mean = (root_error(ramp[:, 50:], forecast(name, ramp, 99)[:, 50:]) for name in ("Holt", "mean rate so far"))
    assert holt < 0.2 * mean


def test_independent_arrivals_have_an_error_of_about_one_at_any_rate():
    rng = np.random.default_rng(1)
    for rate in (3.0, 30.0, 300.0):
        counts = rng.poisson(rate, (1, 4000)).astype(float)
        assert root_error(counts, np.full_like(counts, rate)) == pytest.approx(1.0, abs=0.06)


def test_a_daily_rhythm_is_forecast_best_by_the_profile_of_the_day():
    rng = np.random.default_rng(2)
    hours = np.arange(24 * 10)
    counts = rng.poisson(np.where(hours % 24 < 12, 2, 60))
    times = np.sort(np.repeat(hours, counts) * 3600.0 + rng.uniform(0, 3600, counts.sum()))
    scores = predictability(arriving(np.append(times, 24 * 10 * 3600.0)))["scores"]
    assert scores["day profile"][3] < 0.3
    assert scores["day profile"][3] < scores["EWMA"][3]


def test_a_short_log_has_no_scores_for_long_horizons():
    found = predictability(arriving(np.arange(0.0, 3600.0, 7.0)))
    assert found["noise"][0] is not None and found["noise"][1:] == [None] * 3
    assert found["scores"]["day profile"] == [None] * 4


def test_rare_models_are_added_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecasts, "MOST_MODELS", 2)
    workload = arriving(np.arange(0.0, 241.0, 20.0), np.array([0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0]))
    counts = counts_by_model(workload, 60)
    assert counts.shape == (2, 4)  # the last bin is not whole
    assert counts.tolist() == [[3.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 0.0]]
