"""The present of a simulation without its future: a copy that holds only what an orchestrator has seen.

Rows of requests that have not arrived are not copied, and neither are arrivals that are scheduled. What is in flight
keeps its place, but the lengths of running answers are drawn again (`redraw_answers`): an orchestrator does not know
them. The copy has rows of its own for the requests of one sampled future, so it says nothing of how many there are.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.compilation import compiled, inlined
from cace_env.forecasting.draws import TOKENS, above, uniform
from cace_env.forecasting.habits import Habits
from cace_env.forecasting.history import COUNT, SESSION, History
from cace_env.held import held
from cace_env.kernel.events import LONGEST_US, PAIR_AT, heap_push, rounds_now, settle, slide_window
from cace_env.kernel.plan import Game
from cace_env.kernel.state import (
    CLOCK,
    CLOSED_SIZE,
    COLUMN,
    ENDED,
    FOREVER,
    HEAP,
    LOG,
    LOGGED,
    MODEL,
    MOST_PAUSES,
    NEXT_OPEN,
    NONE,
    PAIR,
    PAUSE,
    PAUSES,
    REQUEST,
    SPEC,
    TIME,
    WINDOW_TAIL,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any
CLOSED, LOGS, REQUESTS, PAIRS, USERS, PAUSE_ROWS = (
    State._fields.index(name) for name in ("closed", "log", "requests", "pairs", "users", "pauses")
)
# Size of each array of a copy per row of requests that it has room for.
PER_ROW: Final = {
    CLOSED: len(HEAP), LOGS: len(LOG), REQUESTS: len(REQUEST), PAIRS: 2 * len(PAIR), USERS: 2,
    PAUSE_ROWS: 4 * len(PAUSE),
}  # fmt: skip


class Maps(NamedTuple):
    """Where rows, pairs and users of the simulation are in the copy; NONE = not there."""

    rows: Array  # (R,) int32
    pairs: Array  # (session pairs,) int32
    users: Array  # (user pairs,) int32
    used: Array  # (3,) rows, pairs and users in use in the copy


def copy_offsets(at: Array, rows: int) -> Array:
    """Offsets of a copy with room for so many requests."""
    sizes = np.diff(at)
    for index, size in PER_ROW.items():
        sizes[index] = size * rows
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@inlined
def mark_in_flight(s: State, f: Fleet, rows: Array) -> None:
    """Marks what waits, is prefilled or decodes, by 0."""
    for m in range(len(f.models)):
        r = s.models[m, MODEL.queue_head]
        for _ in range(s.models[m, MODEL.waiting]):
            rows[r] = 0
            r = s.requests[r, REQUEST.queue_next]
        r = s.models[m, MODEL.prefill_head]
        while r != NONE:
            rows[r] = 0
            r = s.requests[r, REQUEST.queue_next]
        for i in range(s.models[m, MODEL.heap_size]):
            rows[s.tokens[f.models[m, SPEC.heap_start] + i, HEAP.request]] = 0


@inlined
def keep_pair(s: State, c: State, maps: Maps, pair: int) -> Any:
    """Where a pair of session and model is in the copy, which takes it if it is new there."""
    if maps.pairs[pair] == NONE:
        mine = maps.used[1]
        maps.pairs[pair] = mine
        maps.used[1] += 1
        for column in range(len(PAIR)):
            c.pairs[mine, column] = s.pairs[pair, column]
    return int64(maps.pairs[pair])


@inlined
def counts_still(s: State, place: int) -> Any:
    """A pause is not over, and young enough to count."""
    return s.pauses[place, PAUSE.who] != NONE and s.scalars[CLOCK] - s.pauses[place, PAUSE.began_us] < LONGEST_US


@inlined
def copy_pauses(s: State, c: State, maps: Maps) -> None:
    """The pauses that count; the copy takes their pairs."""
    kept = int64(0)
    for place in range(s.scalars[PAUSES]):
        if counts_still(s, place):
            who = s.pauses[place, PAUSE.who]
            pair = keep_pair(s, c, maps, who >> PAIR_AT)
            c.pairs[pair, PAIR.pause] = kept
            c.pauses[kept, PAUSE.began_us] = s.pauses[place, PAUSE.began_us]
            c.pauses[kept, PAUSE.who] = pair << PAIR_AT | (who & ((int64(1) << PAIR_AT) - 1))
            kept += 1
    c.scalars[PAUSES] = kept
    c.scalars[MOST_PAUSES] = kept  # the next one makes room


@compiled
def copy_present(row: Array, other: Array, game: Game, copied: Game, history: History, maps: Maps) -> bool:
    """Copies the present; False if there is no room for it, or not for as many requests again.

    Args:
        row: the simulation at a question; its window is brought up to date.
        other: room for the copy.
        game: of the simulation.
        copied: of the copy: its requests are written.
        history: the sessions that may go on, up to date.
        maps: room.
    """
    game, copied, history, maps = held(game), held(copied), held(history), held(maps)
    f = held(fleet_views(game.fleet, game.fleet_at))
    s = held(state_views(row, game.at))
    c = held(state_views(other, copied.at))
    slide_window(s, game.w)
    maps.rows[:] = NONE
    maps.pairs[:] = NONE
    maps.users[:] = NONE
    maps.used[:] = 0
    mark_in_flight(s, f, maps.rows)
    for entry in range(s.scalars[WINDOW_TAIL], s.scalars[LOGGED]):
        maps.rows[s.log[entry, LOG.request]] = 0
    count = int64(0)
    for r in range(len(maps.rows)):
        if maps.rows[r] == 0:
            maps.rows[r] = count
            count += 1
    maps.used[0] = count
    live, paused = history.counts[COUNT.live], int64(0)
    for place in range(s.scalars[PAUSES]):
        paused += counts_still(s, place)
    room = len(c.requests)
    # There are twice as many pairs as rows: of requests that are kept or drawn at most as many as rows, and of others.
    if 2 * count + 16 > room or count + 2 * live > room or live + paused > room:
        return False

    for i in range(game.at[CLOSED]):
        other[i] = row[i]
    c.scalars[CLOSED_SIZE] = 0
    c.scalars[NEXT_OPEN] = 0
    c.scalars[ENDED] = 0
    c.users[:] = 0
    copy_log(s, c, maps)
    copy_requests(s, c, game.w, copied.w, maps)
    for m in range(len(f.models)):
        waiting = s.models[m, MODEL.waiting] > 0
        c.models[m, MODEL.queue_head] = maps.rows[s.models[m, MODEL.queue_head]] if waiting else NONE
        c.models[m, MODEL.queue_tail] = maps.rows[s.models[m, MODEL.queue_tail]] if waiting else NONE
        if s.models[m, MODEL.prefill_head] != NONE:
            c.models[m, MODEL.prefill_head] = maps.rows[s.models[m, MODEL.prefill_head]]
            c.models[m, MODEL.prefill_tail] = maps.rows[s.models[m, MODEL.prefill_tail]]
        for i in range(s.models[m, MODEL.heap_size]):
            place = f.models[m, SPEC.heap_start] + i
            c.tokens[place, HEAP.request] = maps.rows[s.tokens[place, HEAP.request]]
    for place in range(live):
        last = history.sessions[history.live[place], SESSION.last]
        keep_pair(s, c, maps, int64(game.w.columns[last, COLUMN.session_pair]))
    copy_pauses(s, c, maps)
    for pair in range(maps.used[1], len(c.pairs)):
        for column in range(len(PAIR)):
            c.pairs[pair, column] = 0
        c.pairs[pair, PAIR.epoch] = NONE
    return True


@inlined
def copy_log(s: State, c: State, maps: Maps) -> None:
    """The arrivals of the window."""
    tail = s.scalars[WINDOW_TAIL]
    for entry in range(tail, s.scalars[LOGGED]):
        c.log[entry - tail, LOG.arrival_us] = s.log[entry, LOG.arrival_us]
        c.log[entry - tail, LOG.request] = maps.rows[s.log[entry, LOG.request]]
    c.scalars[WINDOW_TAIL] = 0
    c.scalars[LOGGED] = s.scalars[LOGGED] - tail


@inlined
def copy_requests(s: State, c: State, w: Requests, to: Requests, maps: Maps) -> None:
    """Requests that are kept, in their order; the rest of the rows never arrive."""
    for r in range(len(maps.rows)):
        mine = maps.rows[r]
        if mine == NONE:
            continue
        for column in range(len(REQUEST)):
            c.requests[mine, column] = s.requests[r, column]
        follows = s.requests[r, REQUEST.queue_next]
        c.requests[mine, REQUEST.queue_next] = maps.rows[follows] if follows != NONE else NONE
        for column in range(len(COLUMN)):
            to.columns[mine, column] = w.columns[r, column]
        to.columns[mine, COLUMN.first_child] = NONE
        to.columns[mine, COLUMN.next_sibling] = NONE
        to.columns[mine, COLUMN.session_pair] = keep_pair(s, c, maps, int64(w.columns[r, COLUMN.session_pair]))
        user = w.columns[r, COLUMN.user_pair]
        if maps.users[user] == NONE:
            maps.users[user] = maps.used[2]
            maps.used[2] += 1
            c.users[maps.users[user]] = s.users[user]
        to.columns[mine, COLUMN.user_pair] = maps.users[user]
        to.times[mine, TIME.arrival_us] = s.requests[r, REQUEST.arrival_us]
        to.times[mine, TIME.think_us] = 0
    for mine in range(maps.used[0], len(c.requests)):
        c.requests[mine, REQUEST.arrival_us] = FOREVER
        c.requests[mine, REQUEST.first_us] = NONE
        c.requests[mine, REQUEST.finish_us] = NONE


@inlined
def drawn_output(habits: Habits, f: Fleet, w: Requests, r: int, emitted: int, level: float) -> Any:
    """Length of an answer that has more than `emitted` tokens, at a level of those that are so long."""
    most = f.models[w.columns[r, COLUMN.model], SPEC.kv_tokens] - w.columns[r, COLUMN.context]
    tokens = int64(above(habits.output_tokens[w.columns[r, COLUMN.task]], float(emitted), level) + 0.5)
    return max(min(tokens, most), emitted + 1)


@inlined
def redraw_answers(c: State, f: Fleet, w: Requests, habits: Habits, states: Array, levels: Array, kept: int) -> None:
    """Draws the lengths of all answers in flight, given what was emitted of them, and when they end by that.

    A level is drawn for each of the `kept` rows in their order, into `levels`: the order in which answers end is that
    of their true lengths, and would tell of these.
    """
    for r in range(kept):
        if c.requests[r, REQUEST.finish_us] == NONE:
            levels[r] = uniform(states, TOKENS)
    for m in range(len(f.models)):
        r = c.models[m, MODEL.queue_head]
        for _ in range(c.models[m, MODEL.waiting]):
            w.columns[r, COLUMN.output] = drawn_output(habits, f, w, r, int64(0), levels[r])
            r = c.requests[r, REQUEST.queue_next]
        r = c.models[m, MODEL.prefill_head]
        while r != NONE:
            drawn = drawn_output(habits, f, w, r, int64(0), levels[r])
            c.models[m, MODEL.kv_used] += drawn - w.columns[r, COLUMN.output]
            w.columns[r, COLUMN.output] = drawn
            r = c.requests[r, REQUEST.queue_next]
        start = f.models[m, SPEC.heap_start]
        now = rounds_now(c, m)
        for i in range(c.models[m, MODEL.heap_size]):
            key, r = c.tokens[start + i, HEAP.key], c.tokens[start + i, HEAP.request]
            if r != c.models[m, MODEL.prefill_head]:
                output = int64(w.columns[r, COLUMN.output])
                began = key - ((output - 1) << 20)
                emitted = 1 + max((now - began) >> 20, 0)
                drawn = drawn_output(habits, f, w, r, emitted, levels[r])
                c.models[m, MODEL.kv_used] += drawn - output
                c.models[m, MODEL.kv_halves] += drawn - output
                w.columns[r, COLUMN.output] = drawn
                key = began + ((drawn - 1) << 20)
            heap_push(c.tokens, start, int64(i), key, r)  # touches only entries up to this one
        if c.models[m, MODEL.running] > 0:
            settle(c, f, m)
