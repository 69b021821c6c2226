"""The pace of new sessions after a burst: fitted as it was made, and drawn as it was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.forecasting import Sampler, fit_habits, load_habits
from cace_env.forecasting.fitting import Played
from cace_env.forecasting.history import FIRST, QUICK, SLOWLY
from cace_env.forecasting.pace import Starts, fit_fresh, fit_pace, rates_at, usual_pace
from cace_env.kernel.pick import pick
from cace_env.kernel.state import CLOCK, NUM_TASKS
from cace_env.policies import policy, rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import TASKS
from tests.support.small import SMALL

CHAT = TASKS.index("chat")
DAY_S = 20_000.0
STEADY = np.tile([1e-6, 1000.0], (NUM_TASKS, 1))  # of each of 20 users: 0.01 sessions of chat a second
STEADY[CHAT] = 10.0, 1000.0


def begun(times: np.ndarray, models: np.ndarray | None = None, end_s: float = DAY_S) -> Starts:
    """Sessions of one request of 20 users who take turns."""
    count = len(times)
    models = np.zeros(count, np.int64) if models is None else models
    return Starts(times, np.full(count, CHAT), models, np.arange(count) % 20, times, end_s)


def bursts(seed: int) -> np.ndarray:
    """A session in every second of bursts that last 30 s on average, and none for ten times as long."""
    rng, at, times = np.random.default_rng(seed), 0.0, []
    while at < DAY_S:
        at += rng.exponential(300.0)
        end = at + rng.exponential(30.0)
        times += [at + s for s in np.cumsum(rng.exponential(1.0, 400)) if at + s < min(end, DAY_S)]
        at = end
    return np.array(times)


def test_a_burst_goes_on_at_first_and_then_ends() -> None:
    pace = fit_pace([begun(bursts(seed)) for seed in range(4)], STEADY)
    other = begun(bursts(4))
    looks = other.asked_s[other.asked_s < DAY_S - 300.0]
    rates = rates_at(other, looks, STEADY) @ pace.T
    assert rates[:, 0].mean() > 3.0 * rates[:, 2].mean()
    came = [np.mean([np.sum((other.time_s > t) & (other.time_s <= t + h)) for t in looks]) for h in (60.0, 300.0)]
    assert (rates[:, :2] @ [15.0, 45.0]).mean() == pytest.approx(came[0], rel=0.35)
    assert (rates @ [15.0, 45.0, 240.0]).mean() == pytest.approx(came[1], rel=0.35)
    assert rates_at(other, looks, STEADY)[:, 0].mean() * 60.0 < 0.4 * came[0]  # the usual rate knows of no bursts


def test_where_sessions_begin_at_a_steady_rate_the_usual_one_is_what_counts() -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0.0, DAY_S, 4000))
    pace = fit_pace([begun(times)], STEADY)
    assert (pace[:, 0] > 0.8).all() and (pace[:, 1:].sum(axis=1) < 0.2).all()


def test_models_of_the_last_minutes_count_where_bursts_have_a_model() -> None:
    rng, times, loyal = np.random.default_rng(4), bursts(5), np.full(NUM_TASKS, 0.5)
    number = np.cumsum(np.diff(times, prepend=0.0) > 20.0)
    of_burst = rng.integers(0, 12, number.max() + 1)[number]
    assert fit_fresh([begun(times, of_burst)], loyal) > 0.7
    assert fit_fresh([begun(times, rng.integers(0, 12, len(times)))], loyal) < 0.1


def test_the_gap_after_a_quick_one_is_quick_where_people_work_in_bouts() -> None:
    # thirty sessions of quick bouts and slow ones: eight gaps of 5 s or so, eight of 100 s
    gaps = np.tile([5.0] * 8 + [100.0] * 8, (30, 3))[:, :-8] * np.random.default_rng(6).uniform(0.5, 1.5, (30, 40))
    arrival = np.column_stack([np.zeros(30), np.cumsum(gaps + 1.0, axis=1)])
    rows = arrival.size
    session = np.repeat(np.arange(30), arrival.shape[1])
    ones = np.ones(rows, np.int64)
    one = Played(CHAT * ones, ones, session, session, 100 * ones, 50 * ones, 9 * ones, arrival.ravel(),
                 arrival.ravel() + 1.0, 1e5)  # fmt: skip
    bouts = fit_habits([one], bursts=True).gaps_s[CHAT]
    assert np.mean(bouts[QUICK] < 30.0) > 0.8 > 0.2 > np.mean(bouts[SLOWLY] < 30.0)
    pooled = fit_habits([one])
    assert (pooled.gaps_s[CHAT, FIRST] == pooled.gaps_s[CHAT, SLOWLY]).all()
    assert (pooled.pace == usual_pace()).all() and not pooled.fresh.any()


def test_rates_are_those_that_were_fitted() -> None:
    case = case_of(SMALL)
    workload, rule = case.workload(2), rule_of(policy("lru"), case.tables)
    apart = load_habits()[0]._replace(pace=np.eye(3))  # in each stretch another one of the three rates
    simulator, sampler = Simulator(case.tables), Sampler(case.tables, workload, apart)
    asked, seen = simulator.reset(workload), []
    scratch = new_scratch(simulator.max_slots, case.tables.num_models)
    while asked:
        sampler.look(simulator)
        seen.append((simulator.state.scalars[CLOCK] * 1e-6, sampler._rates.total.copy()))
        asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))
    arrival = simulator.state.requests[:, 0] * 1e-6
    order = np.lexsort((np.arange(len(arrival)), arrival))
    first = order[np.sort(np.unique(workload.session[order], return_index=True)[1])]
    starts = Starts(arrival[first], workload.task[first], workload.model[first], workload.user[first], arrival, 1e9)
    times, rates = np.array([at for at, _ in seen]), np.array([rates for _, rates in seen])
    np.testing.assert_allclose(rates, rates_at(starts, times, apart.rate), rtol=1e-6)
    assert len(seen) > 20


def test_sessions_begin_at_the_pace_of_each_stretch() -> None:
    case = case_of(SMALL)
    alone = load_habits()[0]
    alone = alone._replace(proceed=np.zeros_like(alone.proceed), pace=np.outer([40.0, 0.0, 10.0], [1.0, 0.0, 0.0]))
    workload = case.workload(1)
    simulator, sampler = Simulator(case.tables), Sampler(case.tables, workload, alone)
    assert simulator.reset(workload)
    sampler.look(simulator)
    now, rate = int(simulator.state.scalars[CLOCK]), sampler._rates.total[0] / 40.0
    drawn = [(sampler.draw(seeds, 100.0).arrivals_us - now) * 1e-6 for seeds in sampler.seeds(200)]
    counts = np.mean([np.histogram(each, [0.0, 15.0, 60.0, 100.0])[0] for each in drawn], axis=0)
    np.testing.assert_allclose(counts, rate * np.array([600.0, 0.0, 400.0]), rtol=0.15, atol=0.05)


def test_a_burst_of_one_model_goes_on_with_it() -> None:
    case = case_of(SMALL)
    shipped = load_habits()[0]
    workload = case.workload(1)
    simulator = Simulator(case.tables)
    assert simulator.reset(workload)
    shares = []
    for fresh in (0.0, 1.0):
        habits = shipped._replace(proceed=np.zeros_like(shipped.proceed), fresh=np.array([fresh]))
        sampler = Sampler(case.tables, workload, habits)
        sampler.look(simulator)
        recent = sampler._history.recent
        recent[:] = 0.0
        recent[CHAT, 3] = 5.0
        sampler._rates.recent[:] = np.cumsum(recent)
        drawn = np.concatenate([sampler.draw(seeds, 600.0).models.copy() for seeds in sampler.seeds(50)])
        shares.append(np.mean(drawn == 3))
    assert shares[0] < 0.6 and shares[1] == 1.0
