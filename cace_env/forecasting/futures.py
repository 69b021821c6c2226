"""Plausible futures: requests of the next minutes, drawn from habits and from what has been seen; compiled.

Reading guide: `imagine` at the end is the whole. Open sessions go on or have ended, by the posterior of the gap given
how long they have been silent; users begin new ones at rates given those that they have begun, times the level of
demand now; models are sticky. Where habits say so, a burst goes on: the rates of the last moments and minutes count
besides, the less the later, and new sessions have the models of the last minutes. A later request of a session waits
for the answer before it, as people do.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from cace_env.compilation import compiled, inlined, inner
from cace_env.forecasting.draws import ENDS, GAPS, MODELS, STARTS, TOKENS, above, drawn, level_of, uniform
from cace_env.forecasting.habits import PACE_ENDS_S, POINTS, Habits
from cace_env.forecasting.history import (
    BRISK_S,
    COUNT,
    FAST_S,
    FIRST,
    LEAST_RECENT,
    LEVEL,
    LEVEL_PRIOR,
    LN_2,
    MOST_STEPS,
    SESSION,
    SHORT_S,
    SLOW_S,
    STRANGE,
    History,
    pause_of,
)
from cace_env.forecasting.present import Maps, redraw_answers
from cace_env.held import held
from cace_env.kernel.plan import Game
from cace_env.kernel.state import (
    CLOCK,
    COLUMN,
    NONE,
    REQUEST,
    SPEC,
    TIME,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any
STRETCHES: Final = len(PACE_ENDS_S)


class Paces(NamedTuple):
    """Nominal times of a model, to tell whether a later request of a session lies within the horizon. `M` models."""

    prefill_us: Array  # (M,) per token
    decode_us: Array  # (M,) per token


class Rates(NamedTuple):
    """Rates of new sessions at a question [1/s]."""

    cumulative: Array  # (users * tasks + tasks,) of users seen, by user and task, then of newcomers by task
    total: Array  # (stretches,) of everybody, in each stretch of time
    popular: Array  # (T, M) cumulative shares of models
    recent: Array  # (T * M,) cumulative, of the starts of the last minutes by task and model


@inlined
def span_s(half_life_s: float, now_s: float) -> float:
    """The time that a count which halves in so long stands for; shorter at the beginning of an episode."""
    return half_life_s / LN_2 * (1.0 - math.exp(-now_s * LN_2 / half_life_s))


@compiled
def read_rates(row: Array, at: Array, history: History, habits: Habits, rates: Rates) -> None:
    """The rates of new sessions now, given those that each user has begun."""
    s = held(state_views(row, at))
    history, habits, rates = held(history), held(habits), held(rates)
    now_s = max(s.scalars[CLOCK] * 1e-6, 1.0)
    users, tasks = history.counts[COUNT.users], history.starts.shape[1]
    slow_s, fast_s = span_s(SLOW_S, now_s), span_s(FAST_S, now_s)
    usual = history.levels[LEVEL.slow] / slow_s
    level = (history.levels[LEVEL.fast] + LEVEL_PRIOR) / (usual * fast_s + LEVEL_PRIOR)
    total = 0.0
    for user in range(users):
        for task in range(tasks):
            shape, per_s = habits.rate[task, 0], habits.rate[task, 1]
            total += level * (shape + history.starts[user, task]) / (per_s + now_s)
            rates.cumulative[user * tasks + task] = total
    begun, singles = 0.0, 0.0
    for user in range(users):
        mine = 0.0
        for task in range(tasks):
            mine += history.starts[user, task]
        begun += mine
        singles += mine == 1.0
    # Good and Turing: the next session is by somebody new as often as users have been seen once.
    newcomers = level * usual * singles / max(begun, 1.0)
    for task in range(tasks):
        mine = 0.0
        for user in range(users):
            mine += history.starts[user, task]
        total += newcomers * mine / max(begun, 1.0)
        rates.cumulative[users * tasks + task] = total
    brisk = history.levels[LEVEL.brisk] / span_s(BRISK_S, now_s)
    short = history.levels[LEVEL.short] / span_s(SHORT_S, now_s)
    for stretch in range(STRETCHES):
        pace = habits.pace[stretch]
        rates.total[stretch] = pace[0] * total + pace[1] * brisk + pace[2] * short
    lately = 0.0
    for task in range(tasks):
        for m in range(history.recent.shape[1]):
            lately += history.recent[task, m]
            rates.recent[task * history.recent.shape[1] + m] = lately
    for task in range(tasks):
        share = 0.0
        for m in range(history.popular.shape[1]):
            share += history.popular[task, m] + STRANGE
            rates.popular[task, m] = share
        for m in range(history.popular.shape[1]):
            rates.popular[task, m] /= share


@inlined
def first_above(cumulative: Array, size: int, value: float) -> Any:
    """The first index whose cumulative share exceeds a value."""
    low, high = int64(0), int64(size - 1)
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def write_request(
    w: Requests, f: Fleet, habits: Habits, states: Array, r: int, model: int, task: int, before: int, pair: int,
    user: int,
) -> None:  # fmt: skip
    """A request with drawn tokens; `before` is the prompt before it in its session, 0 = it is the first."""
    most = f.models[model, SPEC.kv_tokens]
    output = min(max(int64(drawn(habits.output_tokens[task], uniform(states, TOKENS)) + 0.5), 1), max(most // 2, 1))
    if before == 0:
        context = int64(drawn(habits.first_tokens[task], uniform(states, TOKENS)) + 0.5)
        new = context
    else:
        one = int(uniform(states, TOKENS) * POINTS)
        context = before + int64(habits.grown_tokens[task, one, 0])
        new = int64(habits.grown_tokens[task, one, 1])
    context = min(max(context, 1), max(most - output, 1))
    w.columns[r, COLUMN.model] = model
    w.columns[r, COLUMN.task] = task
    w.columns[r, COLUMN.context] = context
    w.columns[r, COLUMN.new] = min(max(new, 1), context)
    w.columns[r, COLUMN.output] = output
    w.columns[r, COLUMN.first_child] = NONE
    w.columns[r, COLUMN.next_sibling] = NONE
    w.columns[r, COLUMN.session_pair] = pair
    w.columns[r, COLUMN.user_pair] = user


class Going(NamedTuple):
    """Room for one future."""

    free: Array  # (4,) the next free row, pair and user; and the number of open-loop requests
    open_at: Array  # (Q,) arrivals of open-loop requests
    levels: Array  # (Q,) float, of the lengths of answers in flight
    paces: Paces


@inner
def go_on(
    w: Requests, f: Fleet, habits: Habits, states: Array, going: Going, popular: Array, r: int, steps: int,
    pause: int, ends_at: float, until: float,
) -> bool:  # fmt: skip
    """The rest of a session after request r, whose answer is expected at `ends_at`; False if rows run out.

    `pause` is the kind of gap that was before r.
    """
    task = int64(w.columns[r, COLUMN.task])
    while uniform(states, ENDS) < habits.proceed[task, min(steps, MOST_STEPS)]:
        think = drawn(habits.gaps_s[task, pause], uniform(states, GAPS)) * 1e6
        if ends_at + think > until:
            return True
        child = going.free[0]
        if child >= len(w.times) - 1:
            return False
        model, pair, user = (
            int64(w.columns[r, COLUMN.model]),
            w.columns[r, COLUMN.session_pair],
            w.columns[r, COLUMN.user_pair],
        )
        if uniform(states, MODELS) >= habits.same_model[task]:
            model, pair, user = (
                int64(first_above(popular[task], popular.shape[1], uniform(states, MODELS))),
                going.free[1],
                going.free[2],
            )
            going.free[1] += 1
            going.free[2] += 1
        write_request(w, f, habits, states, child, model, task, int64(w.columns[r, COLUMN.context]), pair, user)
        w.times[child, TIME.think_us] = int64(think)
        w.times[child, TIME.arrival_us] = int64(ends_at + think)
        w.columns[r, COLUMN.first_child] = child
        going.free[0] += 1
        ends_at += think + w.columns[child, COLUMN.new] * going.paces.prefill_us[model]
        ends_at += w.columns[child, COLUMN.output] * going.paces.decode_us[model]
        r = child
        steps += 1
        pause = pause_of(think * 1e-6)
    return True


@inlined
def open_request(w: Requests, going: Going, r: int, arrival: float) -> None:
    """Puts a request, which nobody's answer is waited for, among the open-loop ones, in order of arrival."""
    arrival_us = int64(arrival)
    w.times[r, TIME.arrival_us] = arrival_us
    w.times[r, TIME.think_us] = 0
    place = going.free[3]
    while place > 0 and going.open_at[place - 1] > arrival_us:
        going.open_at[place] = going.open_at[place - 1]
        w.open_order[place] = w.open_order[place - 1]
        place -= 1
    going.open_at[place] = arrival_us
    w.open_order[place] = r
    going.free[3] += 1
    going.free[0] += 1


@inner
def continue_session(
    s: State, w: Requests, known: Requests, f: Fleet, habits: Habits, states: Array, going: Going, history: History,
    maps: Maps, popular: Array, i: int, until: float,
) -> bool:  # fmt: skip
    """What a session that was seen does within the horizon; False if rows run out."""
    now = float(s.scalars[CLOCK])
    last, task = history.sessions[i, SESSION.last], history.sessions[i, SESSION.task]
    steps, pause = history.sessions[i, SESSION.steps], history.sessions[i, SESSION.pause]
    finish = s.requests[last, REQUEST.finish_us]
    model = int64(known.columns[last, COLUMN.model])
    if finish == NONE:
        ends_at = now + w.columns[maps.rows[last], COLUMN.output] * 0.5 * going.paces.decode_us[model]
        return go_on(w, f, habits, states, going, popular, int64(maps.rows[last]), steps, pause, ends_at, until)
    silent = (now - finish) * 1e-6
    gaps = habits.gaps_s[task, pause]
    more = habits.proceed[task, min(steps, MOST_STEPS)]
    going_on = more * (1.0 - level_of(gaps, silent))
    if uniform(states, ENDS) * (going_on + 1.0 - more) >= going_on:
        return True
    arrival = max(finish + above(gaps, silent, uniform(states, GAPS)) * 1e6, now + 1.0)
    if arrival > until:
        return True
    r = going.free[0]
    if r >= len(w.times) - 1:
        return False
    pair, user = (
        int64(maps.pairs[known.columns[last, COLUMN.session_pair]]),
        int64(maps.users[known.columns[last, COLUMN.user_pair]]),
    )
    if uniform(states, MODELS) >= habits.same_model[task]:
        model, pair, user = (
            int64(first_above(popular[task], popular.shape[1], uniform(states, MODELS))),
            going.free[1],
            int64(NONE),
        )
        going.free[1] += 1
    if user == NONE:
        user = going.free[2]
        going.free[2] += 1
    write_request(w, f, habits, states, r, model, task, int64(known.columns[last, COLUMN.context]), pair, user)
    open_request(w, going, r, arrival)
    ends_at = arrival + w.columns[r, COLUMN.new] * going.paces.prefill_us[model]
    ends_at += w.columns[r, COLUMN.output] * going.paces.decode_us[model]
    pause = pause_of((arrival - finish) * 1e-6)
    return go_on(w, f, habits, states, going, popular, r, steps + 1, pause, ends_at, until)


@inner
def start_session(
    w: Requests, f: Fleet, habits: Habits, states: Array, going: Going, history: History, rates: Rates, arrival: float,
    until: float,
) -> bool:  # fmt: skip
    """A new session of somebody; False if rows run out."""
    tasks = history.starts.shape[1]
    users = history.counts[COUNT.users]
    everybody = rates.cumulative[(users + 1) * tasks - 1]
    who = first_above(rates.cumulative, (users + 1) * tasks, uniform(states, STARTS) * everybody)
    user, task = who // tasks, who % tasks
    model = int64(NONE)
    lately = rates.recent[len(rates.recent) - 1]
    if habits.fresh[0] > 0.0 and lately > LEAST_RECENT and uniform(states, MODELS) < habits.fresh[0]:
        which = first_above(rates.recent, len(rates.recent), uniform(states, MODELS) * lately)
        task, model = which // rates.popular.shape[1], which % rates.popular.shape[1]
    if model == NONE and user < users and uniform(states, MODELS) < habits.loyal[task]:
        model = int64(history.habit[user, task])
    if model == NONE:
        model = first_above(rates.popular[task], rates.popular.shape[1], uniform(states, MODELS))
    r = going.free[0]
    if r >= len(w.times) - 1:
        return False
    write_request(w, f, habits, states, r, model, task, int64(0), going.free[1], going.free[2])
    going.free[1] += 1
    going.free[2] += 1
    open_request(w, going, r, arrival)
    ends_at = arrival + w.columns[r, COLUMN.new] * going.paces.prefill_us[model]
    ends_at += w.columns[r, COLUMN.output] * going.paces.decode_us[model]
    return go_on(w, f, habits, states, going, rates.popular, r, int64(1), int64(FIRST), ends_at, until)


@inner
def next_start(total: Array, now: float, arrival: float, stretch: int, due: float) -> tuple[float, int]:
    """When the next session begins [us], and in which stretch; `due` are the starts that are expected before it."""
    while True:
        while stretch < STRETCHES - 1 and total[stretch + 1] == total[stretch]:
            stretch += 1
        rate = max(total[stretch], 1e-12)
        end = now + PACE_ENDS_S[stretch] * 1e6
        expected = (end - arrival) * 1e-6 * rate
        if due <= expected:
            return arrival + due / rate * 1e6, stretch
        due -= expected
        arrival = end
        stretch += 1


@compiled
def imagine(
    row: Array, at: Array, known: Requests, other: Array, copied: Game, history: History, maps: Maps, habits: Habits,
    rates: Rates, going: Going, states: Array, horizon_us: int,
) -> bool:  # fmt: skip
    """Draws one future after a copy of the present; False if there is no room for its requests.

    Args:
        row: the simulation, at a question; only what has happened is read.
        at: offsets of it.
        known: its requests, of which only those that have arrived are read.
        other: the copy of the present; answers in flight are drawn again.
        copied: its game; requests are added behind those that are there.
        history: of the simulation.
        maps: from the simulation to the copy.
        habits: what is drawn from.
        rates: of new sessions.
        going: room.
        states: (NUM_STREAMS,) uint64, used up.
        horizon_us: how far the future reaches.
    """
    history, maps, habits, rates, going = held(history), held(maps), held(habits), held(rates), held(going)
    known, copied = held(known), held(copied)
    s = held(state_views(row, at))
    c = held(state_views(other, copied.at))
    f = held(fleet_views(copied.fleet, copied.fleet_at))
    w = copied.w
    for part in range(3):
        going.free[part] = maps.used[part]
    going.free[3] = 0
    redraw_answers(c, f, w, habits, states, going.levels, maps.used[0])
    now = float(s.scalars[CLOCK])
    until = now + horizon_us
    for place in range(history.counts[COUNT.live]):
        i = int64(history.live[place])
        if not continue_session(s, w, known, f, habits, states, going, history, maps, rates.popular, i, until):
            return False
    arrival, stretch = now, 0
    while True:
        arrival, stretch = next_start(rates.total, now, arrival, stretch, -math.log(1.0 - uniform(states, STARTS)))
        if arrival > until:
            break
        if not start_session(w, f, habits, states, going, history, rates, arrival + 1.0, until):
            return False
    return True
