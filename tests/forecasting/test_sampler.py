"""The sampler: copies the present without its future, and what it draws comes about as often as it says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.forecasting import Habits, Sampler, fit_habits, load_habits, played
from cace_env.forecasting.draws import NUM_STREAMS
from cace_env.forecasting.sampler import LEAST_ROWS, NO_TRACE
from cace_env.kernel.events import LONGEST_US, PAIR_AT
from cace_env.kernel.pick import pick
from cace_env.kernel.rollouts import try_actions
from cace_env.kernel.state import (
    CLOCK,
    CLOSED_SIZE,
    COLUMN,
    MODEL,
    NONE,
    PAIR,
    PAUSE,
    PAUSES,
    REQUEST,
    State,
    cut_state,
)
from cace_env.observation import SLOT
from cace_env.planning import Rollouts
from cace_env.policies import policy, rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.workload import Workload
from tests.support.small import SMALL

OUTPUT = 60  # tokens of every answer, where habits know no other


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(SMALL)


@pytest.fixture(scope="module")
def shipped() -> Habits:
    return load_habits()[0]


def questions(case: Case, workload: Workload) -> Iterator[Simulator]:
    """A simulator that LRU plays, at each of its questions."""
    simulator, rule = Simulator(case.tables), rule_of(policy("lru"), case.tables)
    asked = simulator.reset(workload)
    scratch = new_scratch(simulator.max_slots, case.tables.num_models)
    while asked:
        yield simulator
        asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))


def all_at_once(case: Case, draw: int) -> Workload:
    """Requests that all come within two seconds, with answers of one length: after that there is nothing to foresee."""
    rng = np.random.default_rng(draw)
    return Workload.from_columns(
        arrival_us=np.sort(rng.integers(0, 2_000_000, 60)),
        model=rng.integers(0, case.tables.num_models, 60),
        task=rng.integers(0, 3, 60),
        context_tokens=rng.integers(200, 3000, 60),
        output_tokens=np.full(60, OUTPUT),
        user=rng.integers(0, 6, 60),
    )


def test_a_copy_of_the_present_prices_actions_as_the_simulation_does(case: Case, shipped: Habits) -> None:
    habits = shipped._replace(output_tokens=np.full_like(shipped.output_tokens, OUTPUT))
    rule = rule_of(policy("gdsf"), case.tables)
    compared = 0
    for draw in range(5):
        workload = all_at_once(case, draw)
        sampler = Sampler(case.tables, workload, habits)
        for simulator in questions(case, workload):
            sampler.look(simulator)
            now = int(simulator.state.scalars[CLOCK])
            if now < workload.arrival_us[-1]:
                continue  # there is more to come, which the copy does not know
            future = sampler.draw(sampler.seeds(1)[0], 0.0)
            wanted = Rollouts(simulator).costs(rule, (15.0, 60.0))
            found = np.empty_like(wanted)
            scratch = new_scratch(simulator.max_slots, case.tables.num_models, rule.network)
            ends = now + np.array([15_000_000, 60_000_000])
            try_actions(future.row, np.empty_like(future.row), future.game, rule, scratch, ends, found)
            legal = simulator.state.legal == 1
            np.testing.assert_allclose(found[legal], wanted[legal], rtol=1e-9)
            compared += 1
    assert compared > 3


def check_pauses(state: State) -> int:
    """Every pair that has paused for less than 512 s is listed once, the oldest first; how many there are."""
    pauses = state.pauses[: state.scalars[PAUSES]]
    assert (np.diff(pauses[:, PAUSE.began_us]) >= 0).all()
    young = (pauses[:, PAUSE.who] != NONE) & (state.scalars[CLOCK] - pauses[:, PAUSE.began_us] < LONGEST_US)
    pairs = pauses[young, PAUSE.who] >> PAIR_AT
    began_us = state.pairs[:, PAIR.paused_at]
    np.testing.assert_array_equal(began_us[pairs], pauses[young, PAUSE.began_us])
    expected = np.flatnonzero((began_us > 0) & (state.scalars[CLOCK] - began_us < LONGEST_US))
    assert sorted(pairs.tolist()) == expected.tolist()
    return len(pairs)


def test_sessions_pause_in_the_copy_as_in_the_simulator(shipped: Habits) -> None:
    case = case_of(SMALL | {"workload": SMALL["workload"] | {"requests": 4000, "users": 60}})
    workload, rule = case.workload(2), rule_of(policy("lru"), case.tables)
    sampler = Sampler(case.tables, workload, shipped)
    again = [SLOT.again_1m, SLOT.again_5m, SLOT.again_15m]
    highest, paused = 0.0, 0
    for number, simulator in enumerate(questions(case, workload)):
        assert len(simulator.state.pairs) > 2 * LEAST_ROWS  # more than a copy has room for
        sampler.look(simulator)
        if number % 20:
            continue
        future = sampler.draw(sampler.seeds(1)[0], 300.0)
        game = future.game
        arguments = future.row, game.at, game.fleet, game.fleet_at, game.w
        copy = Simulator.over(case.tables, arguments, simulator.limits, NO_TRACE)
        np.testing.assert_array_equal(copy.features()[:, again], simulator.features()[:, again])
        paused += check_pauses(copy.state)
        highest = max(highest, copy.features()[:, again].max())
        scratch = new_scratch(simulator.max_slots, case.tables.num_models, rule.network)
        after = np.empty_like(future.row)
        ends, costs = simulator.state.scalars[[CLOCK]] + 300_000_000, np.empty((len(simulator.state.legal), 1))
        try_actions(future.row, after, game, rule, scratch, ends, costs)
        check_pauses(cut_state(after, game.at))
    assert highest > 0.5
    assert paused > 100


def test_nothing_that_is_to_come_is_in_the_copy(case: Case, shipped: Habits) -> None:
    workload = case.workload(2)
    sampler = Sampler(case.tables, workload, shipped)
    for number, simulator in enumerate(questions(case, workload)):
        sampler.look(simulator)
        if number % 20:
            continue
        future = sampler.draw(np.arange(NUM_STREAMS, dtype=np.uint64), 0.0)
        copy = cut_state(future.row, future.game.at)
        now = simulator.state.scalars[CLOCK]
        assert copy.scalars[CLOSED_SIZE] == 0
        assert (copy.requests[: future.first, REQUEST.arrival_us] <= now).all()
        assert (future.game.w.columns[: future.first, COLUMN.first_child] == NONE).all()
        unfinished = (simulator.state.requests[:, REQUEST.arrival_us] <= now) & (
            simulator.state.requests[:, REQUEST.finish_us] == NONE
        )
        in_flight = copy.models[:, MODEL.waiting].sum() + copy.models[:, MODEL.running].sum()
        assert in_flight == unfinished.sum()


def test_what_is_drawn_comes_after_now_within_the_horizon(case: Case, shipped: Habits) -> None:
    workload = case.workload(3)
    sampler = Sampler(case.tables, workload, shipped)
    for number, simulator in enumerate(questions(case, workload)):
        sampler.look(simulator)
        if number % 20:
            continue
        now = int(simulator.state.scalars[CLOCK])
        future = sampler.draw(sampler.seeds(1)[0], 120.0)
        assert (future.arrivals_us > now).all()
        assert (future.arrivals_us <= now + 120_000_000).all()
        columns = future.game.w.columns[future.first : future.end]
        assert (columns[:, COLUMN.new] <= columns[:, COLUMN.context]).all()
        tokens = columns[:, COLUMN.context] + columns[:, COLUMN.output]
        assert (tokens <= case.tables.kv_tokens[columns[:, COLUMN.model]]).all()


def test_sampled_requests_are_as_many_as_come() -> None:
    case = case_of(SMALL | {"workload": SMALL["workload"] | {"requests": 1000}})
    episodes = []
    for seed in range(6):
        simulator, workload = Simulator(case.tables), case.workload(seed)
        simulator.run(workload, rule_of(policy("lru"), case.tables))
        episodes.append(played(workload, simulator))
    habits = fit_habits(episodes)
    sampled, came = [], []
    for seed in range(50, 54):
        workload, simulator = case.workload(seed), Simulator(case.tables)
        simulator.run(workload, rule_of(policy("lru"), case.tables))
        arrivals = simulator.state.requests[:, REQUEST.arrival_us]
        last = int(np.quantile(arrivals, 0.8))  # the episode ends, and its sampled futures do not
        sampler = Sampler(case.tables, workload, habits, seed)
        for number, live in enumerate(questions(case, workload)):
            sampler.look(live)
            now = int(live.state.scalars[CLOCK])
            if number % 8 or now > last or now < 600_000_000:
                continue
            sampled.append(np.mean([len(sampler.draw(seeds, 300.0).arrivals_us) for seeds in sampler.seeds(16)]))
            came.append(((arrivals > now) & (arrivals <= now + 300_000_000)).sum())
    assert len(came) > 20
    assert np.mean(sampled) == pytest.approx(np.mean(came), rel=0.3)


def test_more_requests_than_there_was_room_for_get_room(case: Case, shipped: Habits) -> None:
    crowded = shipped._replace(rate=np.tile([1.0, 1.0], (len(shipped.rate), 1)))  # a session in every second, at least
    workload = case.workload(1)
    sampler = Sampler(case.tables, workload, crowded)
    drawn = []
    for _, simulator in zip(range(4), questions(case, workload), strict=False):
        sampler.look(simulator)
        drawn.append(len(sampler.draw(sampler.seeds(1)[0], 3600.0).arrivals_us))
    assert drawn[-1] > drawn[0]
