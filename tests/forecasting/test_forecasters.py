"""Claims about forecasters: right by hand, told of the past alone, and worth what is said where CACE takes one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.forecasting import FORECASTERS, Survivors, fit_survival, load_survival
from cace_env.forecasting.demand import ALL, Arrived, DemandScorer, News
from cace_env.forecasting.survival import GRID_S, Seen, read_survival, write_survival
from cace_env.policies import contestant_of, policy
from cace_env.workload import Workload
from tests.support.small import SEVEN

SECOND = 1_000_000


def pauses(lengths_s: list[int], goes_on: list[bool]) -> Seen:
    """Sessions of one or two requests, each answered at once."""
    rows = []
    for number, (length_s, again) in enumerate(zip(lengths_s, goes_on, strict=True)):
        rows.append((0, number))
        if again:
            rows.append((length_s * SECOND, number))
    arrival, session = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    nothing = np.zeros(len(rows), dtype=np.int64)
    return Seen(arrival, arrival, session, nothing, nothing, 100_000 * SECOND)


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_steady_stream_is_forecast_by_every_rate(name: str) -> None:
    forecaster = FORECASTERS[name](2)
    for time_s in range(5, 3600, 10):
        forecaster.arrived(float(time_s), 0, 1, 0)
    assert forecaster.expected(3600.0, 300.0) == pytest.approx([0.0, 30.0], rel=0.05)
    assert forecaster.chance(3600.0, 10.0) == pytest.approx([0.0, 1 - np.exp(-1)], rel=0.05)


def test_who_has_been_silent_for_long_is_less_likely_to_ask_again() -> None:
    curves = fit_survival([pauses([50] * 40 + [500] * 10, [True] * 40 + [False] * 10)], "by hand")
    forecaster = Survivors(1, curves)
    began_s = 100_000.0  # after a long time in which nobody came
    forecaster.arrived(began_s, 3, 0, 0)
    forecaster.finished(began_s, 3)
    assert np.array(curves.lasts)[0, 0, -1] == pytest.approx(0.2)  # 10 of 50 never ask again
    assert forecaster.chance(began_s + 1.0, 60.0)[0] > 0.8
    assert forecaster.chance(began_s + 200.0, 60.0)[0] < 0.1  # a new session may still begin


def test_a_pause_that_is_cut_short_counts_as_long_as_it_was_seen() -> None:
    seen = pauses([50] * 40 + [500] * 10, [True] * 40 + [False] * 10)
    cut = fit_survival([replace_end(seen, 10)], "cut at 10 s")
    assert np.array(cut.lasts)[0, 0].min() == 1.0  # nobody has been seen to ask again


def replace_end(seen: Seen, end_s: int) -> Seen:
    there = seen.arrival_us <= end_s * SECOND
    arrival, finish, session, model, task = (column[there] for column in seen[:5])
    return Seen(arrival, finish, session, model, task, end_s * SECOND)


def test_an_answer_that_is_under_way_leaves_its_session_open() -> None:
    forecaster = Survivors(1)
    forecaster.arrived(0.0, 3, 0, 3)
    late = forecaster.chance(3000.0, 300.0)[0]
    forecaster.finished(3000.0, 3)
    assert forecaster.chance(3000.0, 300.0)[0] == pytest.approx(late)
    assert forecaster.chance(6000.0, 300.0)[0] < late


def test_the_curves_that_ship_fall_and_come_back_from_a_file(tmp_path: Path) -> None:
    shipped = load_survival()
    assert np.array(shipped.lasts).shape[-1] == len(GRID_S)
    write_survival(shipped, tmp_path / "curves.json")
    assert read_survival(tmp_path / "curves.json") == shipped
    rising = shipped.model_dump(mode="json")
    rising["lasts"][0][0][-1] = 1.0
    with pytest.raises(ConfigError, match="rises somewhere"):
        (tmp_path / "bad.json").write_text(json.dumps(rising))
        read_survival(tmp_path / "bad.json")


@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_the_scorer_without_a_forecaster_is_cace(protocol: str) -> None:
    case = case_of(SEVEN, protocol)
    scorer = contestant_of(DemandScorer(policy("cace").weights, None))
    for seed in range(3):
        workload = case.workload(seed)
        mine, cace = (run_episode(one, case, workload, seed)[0].cost() for one in (scorer, contestant_of("cace")))
        assert mine == cace


@pytest.mark.parametrize("name", ALL)
def test_cace_with_a_forecaster_is_a_policy_by_name(name: str) -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    contestant = contestant_of(f"cace:demand={name}")
    assert contestant.name == f"cace:demand={name}"
    costs = {run_episode(contestant, case, workload, 3)[0].cost() for _ in range(2)}
    assert len(costs) == 1  # each episode begins anew


def test_an_unknown_forecaster_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'survival'"):
        contestant_of("cace:demand=survivel")


class Eavesdropper:
    """Notes what a policy is told."""

    def __init__(self) -> None:
        self.heard: list[News] = []

    def watch(self, news: News) -> None:
        self.heard.append(news)

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return features[:, 0] * 0.0


def test_a_policy_is_told_all_that_has_happened_and_nothing_else() -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    listener = Eavesdropper()
    simulator, _ = run_episode(contestant_of(listener), case, workload, 3)
    episode = simulator.episode()
    told: list[tuple[float, bool]] = []
    for news in listener.heard:
        now_us = round(news.now_s * 1e6)
        told += [(event.time_s, isinstance(event, Arrived)) for event in news.events]
        assert all(time_s <= news.now_s for time_s, _ in told)
        came = episode.arrival_us <= now_us
        done = came & (episode.refused | ((episode.finish_us >= 0) & (episode.finish_us <= now_us)))
        assert sum(arrived for _, arrived in told) == came.sum()
        assert sum(not arrived for _, arrived in told) == done.sum()
    assert len(told) > 50


def test_what_comes_later_changes_nothing_before() -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    half = len(workload) // 2
    changed = replace(workload, output_tokens=workload.output_tokens.copy(), model=workload.model.copy())
    changed.model[half:] = changed.model[half:][::-1]
    first_changed_us = _first_difference(workload, changed)
    said = []
    for one in (workload, changed):
        listener = Eavesdropper()
        run_episode(contestant_of(listener), case, one, 3)
        said.append([news for news in listener.heard if news.now_s * 1e6 < first_changed_us])
    assert len(said[0]) == len(said[1]) > 3
    assert all(a.events == b.events for a, b in zip(*said, strict=True))


def _first_difference(one: Workload, other: Workload) -> int:
    """The earliest that a request which differs can come: no request of a chain comes before its nominal arrival."""
    differs = one.model != other.model
    return int(one.arrival_us[differs].min())
