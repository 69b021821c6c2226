"""Claims about the numbers of a workload, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.tables import NONE
from cace_env.traces import Trace
from cace_env.workload import Workload
from experiments.logs.characteristics import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    arrivals,
    characteristics,
    day,
    measured,
    per_minute,
    session_gaps_s,
)
from experiments.logs.characterized import workload_of
from experiments.logs.model_names import match_models
from experiments.logs.own_log import open_log, scenario_for
from tests.support.logs import shared_file

NINE = 9 * HOUR_US  # 1970-01-01, 9:00 UTC


def requests_at(times_s: list[float], **columns: list[int]) -> Workload:
    rows = len(times_s)
    given = {"model": [0] * rows, "context_tokens": [100] * rows, "output_tokens": [10] * rows, **columns}
    return Workload.from_columns(arrival_us=[round(time * 1e6) for time in times_s], **given)


def test_even_arrivals_have_no_burstiness():
    found = arrivals(np.arange(0, 7201 * 1_000_000, 10_000_000))
    assert found["per_s"] == pytest.approx(721 / 7200)
    assert found["gap_cv"] == 0.0
    assert found["minute_peak_to_mean"] == found["hour_peak_to_mean"] == 1.0
    assert found["minute_dispersion"] == 0.0


def test_a_burst_shows_in_the_busiest_minute():
    # minutes 0, 1, 2 with 1, 1, 4 requests; minute 3 is not whole and left out
    times = np.array([0, 1 * MINUTE_US, *(2 * MINUTE_US + second for second in range(4)), 3 * MINUTE_US])
    found = arrivals(times)
    assert found["minute_peak_to_mean"] == 2.0
    assert found["minute_dispersion"] == pytest.approx(2.0 / 2.0)  # counts 1, 1, 4: variance 2, mean 2
    assert found["hour_peak_to_mean"] is None


def test_the_day_is_told_in_hours_of_the_zone_where_the_clock_is_absolute():
    times = np.array([0, HOUR_US // 2, HOUR_US, 2 * HOUR_US - 1])
    assert day(times, None, "UTC")["clock"] == "hours since the first request"
    utc = day(times, NINE, "UTC")
    assert [hour for hour, rate in enumerate(utc["rate_by_hour"]) if rate is not None] == [9, 10]
    assert utc["start_hour"] == 9.0 and utc["began"] == "1970-01-01 09:00 UTC"
    berlin = day(times, NINE, "Europe/Berlin")
    assert [hour for hour, rate in enumerate(berlin["rate_by_hour"]) if rate is not None] == [10, 11]
    with pytest.raises(ConfigError, match="no time zone 'Mars'"):
        day(times, NINE, "Mars")


def test_an_hour_counts_for_the_time_that_the_log_spent_in_it():
    # Two days; hour 3 has ten requests on both, the other hours one each.
    times = [
        d * DAY_US + hour * HOUR_US + n for d in (0, 1) for hour in range(24) for n in range(10 if hour == 3 else 1)
    ]
    found = day(np.array(times), None, "UTC")
    assert found["peak_hour"] == 3
    assert found["peak_to_trough"] == pytest.approx(10.0, rel=0.01)
    assert found["peak_to_mean"] == pytest.approx(10 * 24 / 33, rel=0.03)


def test_less_than_a_day_has_no_busiest_hour():
    assert day(np.array([0, HOUR_US]), None, "UTC")["peak_to_mean"] is None


def test_popularity_drift_and_habits_by_hand():
    workload = requests_at([0, 1, 2, 3, 4, 5, 6, 7], model=[0, 0, 0, 1, 1, 1, 1, 2], user=[0, 1, 0, 0, 0, 1, 1, 1])
    found = characteristics(workload, ["a", "b", "c", "unused"])
    of_models = found["popularity"]
    assert of_models["top"] == {"1": 0.5, "3": 1.0, "5": 1.0, "10": 1.0}
    assert (of_models["hosted"], of_models["asked"]) == (4, 3)
    assert of_models["drift"] == pytest.approx(0.75)  # 3/4, 1/4, 0 against 0, 3/4, 1/4
    assert [row["name"] for row in of_models["models"]] == ["b", "a", "c"]
    assert [row["users"] for row in of_models["models"]] == [2, 2, 1]
    habits = found["habits"]
    assert habits["same_model_in_a_row"] == pytest.approx(5 / 7)
    assert habits["user_repeats_model"] == pytest.approx(3 / 6)  # user 0: a a b b, user 1: a b b c
    assert habits["user_repeats_model_by_chance"] == pytest.approx((4**2 + 3**2 + 1) / 64)


def test_sessions_and_their_gaps_by_hand():
    workload = requests_at([0, 1, 4, 10], session=[0, 1, 0, 0], after=[-1, -1, 0, 2])
    assert sorted(session_gaps_s(workload)) == [4.0, 6.0]
    of = characteristics(workload, ["a"])["sessions"]
    assert (of["sessions"], of["requests_mean"], of["closed_loop"]) == (2, 2.0, 0.5)
    assert of["requests"]["p50"] == 2.0


def test_a_log_without_sessions_claims_none():
    of = characteristics(requests_at([0, 1, 2]), ["a"])["sessions"]
    assert of["sessions"] is None and of["gap_s"] is None


def test_tokens_have_a_row_for_each_task_and_each_busy_model():
    rows = 60
    workload = requests_at(
        list(range(rows)),
        model=[0] * 40 + [1] * 20,
        task=[1] * rows,
        context_tokens=list(range(1, rows + 1)),
        new_tokens=[1] * rows,
    )
    found = characteristics(workload, ["busy", "rare"])["tokens"]
    assert [(row["task"], row["model"]) for row in found] == [("chat", None), ("chat", "busy")]
    assert found[0]["context"]["p50"] == pytest.approx(30.5) and found[1]["context"]["p50"] == pytest.approx(20.5)


def test_measured_latencies_leave_out_what_is_not_known():
    trace = Trace(np.arange(3), None, None, None, ttft_us=np.array([1_000_000, NONE, 3_000_000]))
    found = measured(trace)
    assert list(found) == ["ttft_s"]
    assert found["ttft_s"][0]["requests"] == 2 and found["ttft_s"][0]["p50"] == 2.0
    assert measured(Trace(np.arange(3), None, None, None, e2e_us=np.full(3, NONE))) == {}


def test_a_long_log_is_drawn_in_wider_steps():
    counts, width_s = per_minute(np.arange(0, 300 * HOUR_US, HOUR_US), most=100)
    assert len(counts) == 99 and counts.tolist() == [3] * 99 and width_s == 180 * 60  # the last bin is not whole


def test_the_published_figures_of_gentd26_come_out():
    path = shared_file("alibaba_gentd26_requests_before_1202.csv.gz")
    log = open_log(path, sort=True, tasks="chat")
    scenario = scenario_for(log, match_models(log.names, {"*": "qwen2.5-coder-7b"}))
    found = characteristics(workload_of(log, scenario), scenario.tables().model_names)
    top = found["popularity"]["top"]
    assert [top[key] for key in ("1", "3", "5", "10")] == pytest.approx([0.31, 0.55, 0.70, 0.87], abs=0.03)
    assert found["habits"]["user_repeats_model"] == pytest.approx(0.72, abs=0.01)
    assert found["habits"]["same_model_in_a_row"] == pytest.approx(0.25, abs=0.01)
