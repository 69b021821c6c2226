"""Claims about forecasters: right by hand, told of the past alone, and worth what is said where CACE takes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.config import ConfigError, dump
from cace_env.evaluation import run_episode
from cace_env.forecasting import FORECASTERS, SampledCounts, Sampler, Survivors, fit_survival, load_habits
from cace_env.forecasting.demand import MAKINGS, Arrived, DemandScorer, News
from cace_env.forecasting.survival import Seen
from cace_env.policies import CaceWeights, Player, contestant_of, policy
from cace_env.policies.cace import Cace
from cace_env.sessions import load_survival, write_survival
from cace_env.simulation import Simulator
from cace_env.tables import TASKS
from cace_env.workload import Workload
from tests.support.small import SEVEN

SECOND = 1_000_000
HABITS, _ = load_habits()


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


@pytest.mark.parametrize("name", [name for name in FORECASTERS if name != "survival"])
def test_a_steady_stream_is_forecast_by_every_rate(name: str) -> None:
    forecaster = FORECASTERS[name](2)
    for time_s in range(5, 3600, 10):
        forecaster.arrived(float(time_s), 0, 1, 0)
    assert forecaster.expected(3600.0, 300.0) == pytest.approx([0.0, 30.0], rel=0.05)
    assert forecaster.chance(3600.0, 10.0) == pytest.approx([0.0, 1 - np.exp(-1)], rel=0.05)


def test_who_has_been_silent_for_long_is_less_likely_to_ask_again() -> None:
    curves = fit_survival([pauses([50] * 4000 + [500] * 1000, [True] * 4000 + [False] * 1000)], "by hand")
    forecaster = Survivors(1, curves)
    began_s = 100_000.0  # after a long time in which nobody came
    forecaster.arrived(began_s, 3, 0, 0)
    forecaster.finished(began_s, 3)
    assert np.array(curves.lasts)[0, 0, -1] == pytest.approx(0.2, abs=0.01)  # 1000 of 5000 never ask again
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


def test_cace_takes_curves_of_ones_own(tmp_path: Path) -> None:
    nobody = load_survival().model_copy(update={"source": "nobody asks twice"})
    lasts = tuple(tuple(tuple(1.0 for _ in curve) for curve in curves) for curves in nobody.lasts)
    write_survival(nobody.model_copy(update={"lasts": lasts}), tmp_path / "mine.json")
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    names = ("cace:demand=survival", f"cace:demand=survival@{tmp_path / 'mine.json'}")
    costs = [run_episode(contestant_of(name), case, workload, 3)[0].cost() for name in names]
    assert costs[0] != costs[1]
    with pytest.raises(ConfigError, match=r"none\.json"):
        contestant_of(f"cace:demand=survival@{tmp_path / 'none.json'}")
    with pytest.raises(ConfigError, match="only survival and sampler read a file"):
        contestant_of("cace:demand=ewma@mine.json")
    with pytest.raises(ConfigError, match=r"habits\.json"):
        contestant_of(f"cace:demand=sampler@{tmp_path}")


def test_sessions_of_a_task_without_pauses_come_back_as_those_of_the_others_do() -> None:
    curves = fit_survival([pauses([50] * 4000 + [500] * 1000, [True] * 4000 + [False] * 1000)], "task 0 alone")
    forecaster = Survivors(1, curves)
    forecaster.arrived(100_000.0, 3, 0, len(TASKS) - 1)
    forecaster.finished(100_000.0, 3)
    assert forecaster.chance(100_001.0, 60.0)[0] > 0.4  # 4000 of 9000 pauses ended


@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_the_scorer_without_a_forecaster_is_cace(protocol: str) -> None:
    case = case_of(SEVEN, protocol)
    scorer = contestant_of(DemandScorer(policy("cace").weights, None))
    for seed in range(3):
        workload = case.workload(seed)
        mine, cace = (run_episode(one, case, workload, seed)[0].cost() for one in (scorer, contestant_of("cace")))
        assert mine == cace


@pytest.mark.parametrize("name", MAKINGS)
def test_cace_with_a_forecaster_is_a_policy_by_name(name: str) -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    contestant = contestant_of(f"cace:demand={name}")
    assert contestant.name == f"cace:demand={name}"
    costs = {run_episode(contestant, case, workload, 3)[0].cost() for _ in range(2)}
    assert len(costs) == 1  # each episode begins anew


def test_weights_stand_before_the_forecaster(tmp_path: Path) -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)

    def cost(name: str) -> float:
        return run_episode(contestant_of(name), case, workload, 3)[0].cost()

    mine = CaceWeights(load_time=0, latency_sensitivity=0, output_length=0, recency=0, future_demand=-1)
    (tmp_path / "mine.yaml").write_text(dump(Cace(weights=mine)), encoding="utf-8")
    by_name = cost(f"cace:{tmp_path / 'mine.yaml'}:demand=ewma")
    scorer = contestant_of(DemandScorer(mine.row(), MAKINGS["ewma"]))
    assert by_name == run_episode(scorer, case, workload, 3)[0].cost() != cost("cace:demand=ewma")
    with pytest.raises(ConfigError, match="no CACE weights called"):
        contestant_of("cace:tuned:demand=ewma")


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
    workload.context_tokens[7] = 10_000_000  # no model has room for it: refused
    listener = Eavesdropper()
    simulator, _ = run_episode(contestant_of(listener), case, workload, 3)
    episode = simulator.episode()
    told: list[tuple[float, bool]] = []
    for news in listener.heard:
        now_us = round(news.now_s * 1e6)
        told += [(event.time_s, isinstance(event, Arrived)) for event in news.events]
        assert all(time_s <= news.now_s for time_s, _ in told)
        came = (episode.arrival_us <= now_us) & ~episode.refused
        done = came & (episode.finish_us >= 0) & (episode.finish_us <= now_us)
        assert sum(arrived for _, arrived in told) == came.sum()
        assert sum(not arrived for _, arrived in told) == done.sum()
    assert len(told) > 50 and episode.refused.sum() == 1


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


def test_the_sampler_counts_what_comes_in_its_futures() -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    player = Player("lru", policy("lru"), case.tables, workload, 3)
    simulator = Simulator(case.tables, player.limits)
    counts = SampledCounts(case.tables, workload, 3, futures=8, reach_s=300.0)
    same, sampler = SampledCounts(case.tables, workload, 3, futures=8), Sampler(case.tables, workload, HABITS, 3)
    asked, questions = simulator.reset(workload), 0
    while asked and questions < 20:
        questions += 1
        now_s = simulator.question.now_us * 1e-6
        for one in (counts, same, sampler):
            one.look(simulator)
        near, far = (counts.expected(now_s, within_s) for within_s in (60.0, 300.0))
        assert (near <= far).all() and far.sum() > 0.0
        assert (same.expected(now_s, 300.0) == far).all()  # drawn as far, by the same seeds
        futures = [sampler.draw(seeds, 300.0).models.copy() for seeds in sampler.seeds(8)]
        assert far * 8 == pytest.approx(np.bincount(np.concatenate(futures), minlength=case.tables.num_models))
        share = [sum(model in future for future in futures) / 8 for model in range(case.tables.num_models)]
        assert counts.chance(now_s, 300.0) == pytest.approx((8 * np.array(share) + 0.5) / 9)
        asked = simulator.answer(player.answer(simulator)[0])
    assert questions == 20


def test_a_decision_by_sampled_futures_sees_nothing_of_what_comes_later() -> None:
    case = case_of(SEVEN, "eviction")
    workload = case.workload(3)
    half = len(workload) // 2
    changed = replace(workload, output_tokens=workload.output_tokens.copy(), model=workload.model.copy())
    changed.model[half:] = changed.model[half:][::-1]
    first_changed_s = _first_difference(workload, changed) * 1e-6
    said = []
    for one in (workload, changed):
        scorer = Noting(policy("cace").weights, MAKINGS["sampler"])
        run_episode(contestant_of(scorer), case, one, 3)
        said.append([asked for asked in scorer.asked if asked[0] < first_changed_s])
    assert len(said[0]) > 3
    assert said[0] == said[1]


class Noting(DemandScorer):
    """Notes when it is asked, and what each model is expected to have."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[tuple[float, list[float]]] = []

    def watch(self, news: News) -> None:
        super().watch(news)
        assert self._demand is not None
        self.asked.append((news.now_s, self._demand.tolist()))
