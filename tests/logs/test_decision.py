"""Claims about the decision alone, on numbers made by hand: ties, doubts, promises, and what a sentence says."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from cace_env.fleets import TaskCost
from experiments.logs.advice.answering import Results
from experiments.logs.advice.decision import Answer, Economy, answer_of
from experiments.logs.advice.measured import Latency, Measured, doubted, doubts_of
from experiments.logs.advice.outputs import STEP_HEADER, step_rows
from experiments.logs.advice.page import bars, log_axis
from experiments.logs.advice.playing import Played, Promise
from experiments.logs.advice.prices import Fleet
from experiments.logs.advice.resampling import Draws
from experiments.logs.advice.wording import headline, kept_by, longer_waits, warnings_of, weighted

ONE, TWO, THREE = (Fleet((("h100", count),), float(count)) for count in (1, 2, 3))  # a dollar an hour each
WINDOWS = 20
A_MONTH = Economy(developer_usd=100.0, hours_per_day=8.0, days_per_month=20.0, gpu_hours=700.0)
EASY = Promise("chat", 0.5, 2.0)
RNG = np.random.default_rng(0)


def played(cost: float | Sequence[float], kept: float = 1.0, before: float | None = None) -> Played:
    """A hundred requests a window, an hour in all; `cost` is of each window."""
    costs = np.full(WINDOWS, cost, dtype=np.float64) if isinstance(cost, float) else np.asarray(cost, dtype=np.float64)
    asked = np.full((WINDOWS, 1), 100.0)
    return Played(
        requests=asked[:, 0],
        cost=costs,
        waiting_s=costs,
        answered=asked[:, 0],
        limited=asked,
        met=kept * asked,
        cost_before=np.full(30, costs.mean() if before is None else before),
        ttft_p95_s=1.0,
        longest_wait_s=10.0,
        refused=0,
        decisions=50,
        evictions=50,
        loads=50,
        compute_share=0.5,
        channel_share=0.5,
        span_s=3600.0,
        backlog_share=0.0,
    )


def answer(grid: dict[tuple[Fleet, str], Played], promise: Promise = EASY) -> Answer:
    return answer_of(grid, TWO, "lru", ["gdsf"], A_MONTH, Draws.of(WINDOWS), 10, [promise])


def test_a_step_that_saves_for_certain_is_taken_and_its_money_is_right():
    found = answer({(TWO, "lru"): played(90.0), (TWO, "gdsf"): played(45.0)})
    assert found.step.kind == "policy"
    # 20 windows x 45 s in an hour, 160 hours of load a month, 100 dollars an hour.
    assert found.step.hours.value == pytest.approx(20 * 45 / 3600 * 160)
    assert found.step.net_usd.value == pytest.approx(20 * 45 / 3600 * 160 * 100)
    assert headline(found).startswith(
        "Another policy: gdsf in place of lru saves 50 % (50 to 50) of the cost of waiting"
    )


def test_what_cannot_be_told_from_nothing_is_not_recommended_but_said():
    doubtful = 90.0 + 60.0 * RNG.standard_normal(WINDOWS)
    found = answer({(TWO, "lru"): played(90.0), (TWO, "gdsf"): played((doubtful - doubtful.mean() + 80.0).tolist())})
    assert found.step.kind == "nothing" and found.uncertain
    assert headline(found).startswith("Nothing that is certain: another policy would save 11 %")


def test_of_two_steps_alike_the_simpler_one_is_taken():
    grid = {(TWO, "lru"): played(9000.0), (THREE, "lru"): played(1000.0), (THREE, "gdsf"): played(999.0, before=1.0)}
    assert answer(grid).step.kind == "more"
    grid[THREE, "gdsf"] = played(100.0, before=1.0)
    assert answer(grid).step.kind == "both"


def test_little_money_is_not_worth_a_change():
    grid = {(TWO, "lru"): played(0.2), (TWO, "gdsf"): played(0.1)}
    assert answer(grid).step.kind == "nothing" and not answer(grid).uncertain


def test_a_policy_is_chosen_by_what_came_before():
    grid = {(TWO, "lru"): played(90.0, before=50.0), (TWO, "gdsf"): played(10.0, before=60.0)}
    assert answer(grid).step.kind == "nothing"


@pytest.mark.parametrize(("asked", "luck"), [(0, False), (9, True), (500, False)])
def test_a_saving_by_few_decisions_is_called_luck(asked: int, luck: bool):
    grid = {(TWO, "lru"): played(90.0)._replace(decisions=asked), (TWO, "gdsf"): played(45.0)}
    log = SimpleNamespace(whole=SimpleNamespace(label="trace cace", meta={}), dropped=0)
    said = " ".join(warnings_of(answer(grid), grid, log, [EASY]))
    assert ("asked only 9 times" in said) == luck


def test_where_the_simulation_does_not_fit_the_log_no_money_is_told():
    grid = {(TWO, "lru"): played(90.0), (TWO, "gdsf"): played(45.0), (THREE, "lru"): played(9.0)}
    found = answer(grid)
    fits, off = (Latency("TTFT", 500, 1.0, mean_s, (), 0.1) for mean_s in (1.4, 4.0))
    assert doubts_of(Measured("2 x h100", "lru", (fits,))) == [] and doubted(None) is None
    (box,) = doubts_of(Measured("2 x h100", "lru", (off,)))
    assert "4 s simulated and 1 s measured (4 times as much)" in box and "Do not quote hours and money" in box
    said = headline(found, doubted(Measured("2 x h100", "lru", (off,))))
    assert said.startswith("No hours and no money") and "its mean TTFT is 4 times as much as was measured" in said
    assert "Another policy (gdsf in place of lru) saves 50 % (50 to 50) of the cost of waiting." in said
    assert (
        "Another GPU (3 x h100 in place of 2 x h100) saves 90 % (90 to 90) of the cost of waiting, for USD 700" in said
    )
    assert "developer-hours" not in said and "left" not in said
    assert "developer-hours" in headline(found, doubted(Measured("2 x h100", "lru", (fits,))))


def test_times_of_another_unit_are_suspected_where_they_are_a_thousand_times_apart():
    found = Measured("2 x h100", "lru", (Latency("TTFT", 500, 900.0, 1.0, (), 0.1),))
    assert "are the log's times in ms?" in doubts_of(found)[0]


def test_weighted_hours_are_called_so_and_stand_beside_those_waited():
    less = played(45.0)._replace(waiting_s=np.full(WINDOWS, 91.0))  # who waits longer counts less
    found = answer({(TWO, "lru"): played(90.0), (TWO, "gdsf"): less})
    assert found.step.hours.value > 0 > found.step.waited_hours.value
    assert "weighted developer-hours a month" in headline(found)
    said = weighted({"chat": TaskCost(w_ttft=0.3, w_e2e=0.1)})
    assert "chat 0.3 until the first token and 0.1 until the last" in said and "differ, in sign" in said
    row = dict(zip(STEP_HEADER, step_rows(found)[1], strict=True))
    assert row["waited h"].startswith("**-") and not row["weighted h"].startswith("**-")


def test_what_decides_stands_first_where_screens_are_narrow():
    assert STEP_HEADER[:3] == ("step", "left USD", "cost saved")


def test_policies_that_save_but_let_one_wait_longer_are_named():
    here = {"lru": played(90.0), "gdsf": played(45.0)._replace(longest_wait_s=30.0)}
    here |= {
        "ttl": played(99.0)._replace(longest_wait_s=99.0),
        "no-swapping": played(9.0)._replace(longest_wait_s=99.0),
    }
    assert longer_waits(here, "lru").endswith("longer than with lru (10 s): gdsf 30 s.")
    here["gdsf"] = played(45.0)
    assert longer_waits(here, "lru") == ""


def test_a_policy_far_worse_than_today_is_cut_off_and_the_bound_is_no_bar():
    grid = {(TWO, "lru"): played(90.0), (TWO, "gdsf"): played(900.0), (TWO, "no-swapping"): played(9.0)}
    data = bars(Results(Draws.of(WINDOWS), grid), answer(grid))["data"]
    assert data[0]["y"] == ["gdsf", "lru"] and min(data[0]["x"]) == -100.0
    assert data[1]["y"] == ["gdsf"] and data[1]["marker"]["symbol"] == "triangle-left"
    assert data[1]["customdata"] == ["-900 % (-900 to -900)"]


@pytest.mark.parametrize(("values", "most"), [([7.0, 90.0], 9), ([0.2, 4000.0], 8), ([None, 0.0], 0)])
def test_ticks_of_a_logarithmic_axis_are_few_and_in_full(values: list[float | None], most: int):
    axis = log_axis(values)
    assert axis["type"] == "log" and len(axis.get("tickvals", ())) <= most
    assert "1,000" in log_axis([0.2, 4000.0])["ticktext"] and "50" in log_axis([7.0, 90.0])["ticktext"]


def test_gpus_are_given_back_only_where_promises_are_kept():
    promise = Promise("chat", 0.95, 2.0)
    grid = {(TWO, "lru"): played(9.0), (ONE, "lru"): played(10.0, kept=0.9)}
    assert answer(grid).step.kind == "fewer"
    assert answer(grid, promise).step.kind == "nothing"
    assert kept_by(grid, [promise], answer(grid, promise)).startswith(
        "The smallest fleet that keeps 95 % of chat within 2 s (TTFT): 2 x h100"
    )


def test_a_promise_that_no_fleet_keeps_is_said_with_the_closest():
    promise = Promise("chat", 0.95, 2.0)
    grid = {(TWO, "lru"): played(9.0, kept=0.5), (THREE, "lru"): played(8.0, kept=0.8)}
    said = kept_by(grid, [promise], answer(grid, promise))
    assert (
        said.startswith("No fleet that was tried keeps 95 % of chat")
        and "3 x h100 with lru comes closest: 80 %" in said
    )


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hour = np.repeat(rng.lognormal(0.0, 0.4, 10), 2)  # a busy hour follows a busy hour
        now, then = 100 * hour, 80 * hour * rng.lognormal(0.0, 0.2, WINDOWS) / np.exp(0.02)
        gain = Draws.of(WINDOWS).gain(now, then)
        covered += gain.low <= 20 <= gain.high
    assert 0.88 <= covered / 200 <= 1.0
