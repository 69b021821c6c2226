"""The compiled part of the generator: one pass over time, a heap of tracks, one row per request.

Reading guide: `generate_rows` at the end is the whole; `generator_routing` prepares users and models,
`generator_random` draws.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.compilation import compiled, inner
from cace_env.generator.heap import sift_down, sift_up
from cace_env.generator.routing import EPOCHS, RoutingSpace, routing, smaller_model, user_rates
from cace_env.generator.streams import BURSTS, GAPS, MODELS, SESSIONS, TOKENS, normal, pick, quantile, uniform
from cace_env.generator.tables import (
    AGENT,
    COMPACT_TOKENS,
    COMPLETION,
    DAY_BINS,
    FIRST_TOKENS,
    GAP_S,
    GAP_S_SEEN,
    NEW_TOKENS,
    OUTPUT_TOKENS,
    STEPS,
    STEPS_SEEN,
    SUBAGENT,
    GeneratorTables,
    Knobs,
)
from cace_env.held import held

MIN_THINK_US = 100_000.0  # from a finish to the next request of the session, at least (assumed)
LATEST_S = 1e11  # no request is later than this [s]
RAREST = 1e-10  # a user has no track of a task that he would do less often than this [1/s]
FASTEST_BREAK = 0.02  # shortest mean break, as a share of the mean time from session to session
PARALLEL_LOAD = 0.6  # a user gets another track of a task where sessions would fill more than this share of his time
COMPACT_BELOW = 0.9  # agents are compacted below this share of the longest request (assumed)
# mean tokens typed or deleted between completions at one place; CUPS: prompts change by 11 characters (p50), 126 (p90)
TYPED_TOKENS = 10.0


class Tracks(NamedTuple):
    """State of the tracks (`N` of them): what its user does in one task, a session at a time.

    What a session has asked of each model is a list of the models that it has asked at all, one or two as a rule: of
    100,000 users and 1,000 models a table would be gigabytes. Notes that are in no list are the list of free ones.
    """

    user: npt.NDArray[np.int64]  # (N,)
    kind: npt.NDArray[np.int64]  # (N,) a sub-agent's track follows that of its parent
    cycle_s: npt.NDArray[np.float64]  # (N,) mean time from session to session at a day factor of 1
    left: npt.NDArray[np.int64]  # (N,) requests left in the running session, this one included; 0 = a new one starts
    skipped: npt.NDArray[np.int64]  # (N,) requests that the session running at time 0 has behind it
    session: npt.NDArray[np.int64]  # (N,)
    model: npt.NDArray[np.int64]  # (N,)
    row: npt.NDArray[np.int64]  # (N,) task * languages + language of the session
    context: npt.NDArray[np.int64]  # (N,) tokens of the session's last request, 0 = none yet
    level: npt.NDArray[np.float64]  # (N,) of the last sorted draw (chat, reasoning)
    compact: npt.NDArray[np.float64]  # (N,) context at which the session is compacted [tokens] (agents)
    follows: npt.NDArray[np.int64]  # (N,) request that the next one waits for, -1 = none
    think_us: npt.NDArray[np.float64]  # (N,) from its nominal finish
    asleep: npt.NDArray[np.bool_]  # (N,) sub-agent tracks without a sub-agent: not in the heap
    seen: npt.NDArray[np.int32]  # (N,) the session's first note, -1 = none
    note_model: npt.NDArray[np.int32]  # (notes,)
    note_prefix: npt.NDArray[np.int32]  # (notes,) what the session still shares with its last request to that model
    note_next: npt.NDArray[np.int32]  # (notes,) -1 = the last
    note_used: npt.NDArray[np.int64]  # (2,) the first free note, -1 = none; how many have ever been in use


class Space(NamedTuple):
    """Arrays for one episode of `U` users and at most `N` tracks."""

    rates: npt.NDArray[np.float64]  # (U, tasks) requests per second
    home: npt.NDArray[np.int64]  # (U,) main language
    habit: npt.NDArray[np.int16]  # (U, rows) model that a user last chose for a task and language, -1 = none yet
    bursts: npt.NDArray[np.float64]  # (B,) factors in bins of `burst_s`; used again where they do not suffice
    times: npt.NDArray[np.float64]  # (N,) the heap: next requests [us]
    heap: npt.NDArray[np.int64]  # (N,) and their tracks


def new_space(tables: GeneratorTables, requests: int) -> tuple[Space, Tracks]:
    """Arrays for one episode; the numbers of tracks and notes are upper bounds: no request makes more than one note."""
    users, tasks = tables.role_factor.shape
    busy = tables.task_rate * tables.mean_gap_s[:tasks]
    per_task = np.where(tables.task_rate > 0, users + 1 + (busy / PARALLEL_LOAD).astype(np.int64), 0)  # 1: rounding
    size = int(per_task.sum() + per_task[AGENT])
    notes = min(requests, size * len(tables.popularity_law))
    bursts = min(int(1.5 * tables.length_s / tables.knobs.burst_s) + 16, 1 << 20)
    space = Space(
        rates=np.empty((users, tasks)),
        home=np.empty(users, np.int64),
        habit=np.full((users, len(tables.row_shares)), -1, np.int16),
        bursts=np.empty(bursts),
        times=np.empty(size),
        heap=np.empty(size, np.int64),
    )
    tracks = Tracks(
        user=np.zeros(size, np.int64),
        kind=np.zeros(size, np.int64),
        cycle_s=np.zeros(size),
        left=np.zeros(size, np.int64),
        skipped=np.zeros(size, np.int64),
        session=np.zeros(size, np.int64),
        model=np.zeros(size, np.int64),
        row=np.zeros(size, np.int64),
        context=np.zeros(size, np.int64),
        level=np.zeros(size),
        compact=np.zeros(size),
        follows=np.full(size, -1, np.int64),
        think_us=np.zeros(size),
        asleep=np.ones(size, np.bool_),
        seen=np.full(size, -1, np.int32),
        note_model=np.empty(notes, np.int32),  # memory that is never touched takes none
        note_prefix=np.empty(notes, np.int32),
        note_next=np.empty(notes, np.int32),
        note_used=np.array([-1, 0]),
    )
    return space, tracks


@inner
def _set_tracks(tables: GeneratorTables, rates: Any, tracks: Tracks) -> int:
    """Gives every user his tracks: one for completions, else as many as his rate fills; number of tracks."""
    size = 0
    for user in range(rates.shape[0]):
        for task in range(rates.shape[1]):
            rate = rates[user, task]
            count = 0
            if rate > RAREST:
                count = 1 if task == COMPLETION else 1 + int(rate * tables.mean_gap_s[task] / PARALLEL_LOAD)
            for _ in range(count):
                tracks.user[size], tracks.kind[size] = user, task
                tracks.cycle_s[size] = tables.mean_steps[task] * count / rate
                size += 1
                if task == AGENT:
                    tracks.user[size], tracks.kind[size] = user, SUBAGENT
                    size += 1
    return size


@inner
def _set_bursts(states: Any, spread: float, bursts: Any) -> None:
    """Fills the burst factors: log-normal with mean 1."""
    for index in range(len(bursts)):
        bursts[index] = math.exp(spread * normal(states, BURSTS) - 0.5 * spread * spread)


@inner
def _break_end_us(
    tables: GeneratorTables, bursts: Any, now_us: float, need: float, cycle_s: float, busy_s: float
) -> float:
    """When a break that starts now is over: its hazard over day curve and bursts adds up to `need`."""
    day, bin_s, burst_s = tables.day, 86_400.0 / DAY_BINS, tables.knobs.burst_s
    now_s, far_s = now_us * 1e-6, 3.0 * tables.length_s + 86_400.0
    while now_s < far_s:
        day_bin, burst_bin = int(now_s / bin_s), int(now_s / burst_s)
        idle_s = max(cycle_s / day[day_bin % DAY_BINS] - busy_s, FASTEST_BREAK * cycle_s)
        hazard = bursts[burst_bin % len(bursts)] / idle_s
        span = min((day_bin + 1) * bin_s, (burst_bin + 1) * burst_s) - now_s
        if hazard * span >= need:
            return float((now_s + need / hazard) * 1e6)
        need -= hazard * span
        now_s += max(span, 1e-3)  # rounding must not stop the clock
    return float(min(now_s + need * cycle_s, LATEST_S) * 1e6)  # long after the episode: day and bursts do not matter


@inner
def _busy_s(tables: GeneratorTables, kind: int) -> float:
    """Mean length of a session [s]."""
    return float((tables.mean_steps[kind] - 1.0) * tables.mean_gap_s[kind])


@inner
def _first_starts(
    tables: GeneratorTables, tracks: Tracks, count: int, states: Any, bursts: Any, times: Any, heap: Any
) -> int:
    """Puts the first request of every track into the heap; some are met in a session, long ones more often; size."""
    size = 0
    for track in range(count):
        kind = tracks.kind[track]
        if kind == SUBAGENT:
            continue
        busy_s, stream = _busy_s(tables, kind), SESSIONS + kind
        met, need, place = uniform(states, stream), uniform(states, stream), uniform(states, stream)
        if met < busy_s * tables.day[0] / tracks.cycle_s[track]:
            tracks.left[track] = max(int(quantile(tables.quantiles[kind, STEPS_SEEN], need) + 0.5), 2)
            tracks.skipped[track] = 1 + int(place * (tracks.left[track] - 1))
            times[size] = 1e6 * place * quantile(tables.quantiles[kind, GAP_S_SEEN], uniform(states, stream))
        else:
            need = -math.log(1.0 - need)
            times[size] = _break_end_us(tables, bursts, 0.0, need, tracks.cycle_s[track], busy_s)
        heap[size] = track
        tracks.asleep[track] = False
        size += 1
    for root in range(size // 2 - 1, -1, -1):
        sift_down(times, heap, size, root)
    return size


@inner
def _next_context(
    quantiles: Any, knobs: Knobs, states: Any, kind: int, context: int, left: int, level: float, most: float
) -> Any:
    """(context, prefix kept of the last request, level) of a session's next request; `context` 0 = its first."""
    stream = TOKENS + kind
    draw = uniform(states, stream)
    if kind == COMPLETION:
        if context > 0 and draw < knobs.stay:
            typed = int(1.0 - TYPED_TOKENS * math.log(1.0 - uniform(states, stream)))
            if draw < 0.5 * knobs.stay:  # deleted, not typed: prompts do not grow
                typed = max(-typed, 1 - context)
            return context + typed, int(knobs.kept_prefix * context), 0.0
        return int(quantile(quantiles[FIRST_TOKENS], uniform(states, stream)) + 0.5), 0, 0.0
    if kind < AGENT:  # sorted draws: the least of `left` uniform numbers above the last level
        level = 1.0 - (1.0 - level) * (1.0 - draw) ** (1.0 / left)
        return max(int(quantile(quantiles[FIRST_TOKENS], level) + 0.5), context + 1), context, level
    if context == 0:
        return int(quantile(quantiles[FIRST_TOKENS], draw) + 0.5), 0, 0.0
    grown = context + max(int(quantile(quantiles[NEW_TOKENS], draw) + 0.5), 1)
    if grown <= most:
        return grown, context, 0.0
    grown = int(knobs.compact_to * context)
    return grown, int(knobs.compact_kept * grown), 0.0


@inner
def _note_of(tracks: Tracks, track: int, model: int) -> Any:
    """The note of what a session has asked of a model: a new one, with no prefix, at its first request."""
    note = tracks.seen[track]
    while note >= 0 and tracks.note_model[note] != model:
        note = tracks.note_next[note]
    if note >= 0:
        return note
    note = tracks.note_used[0]
    if note >= 0:
        tracks.note_used[0] = tracks.note_next[note]
    else:
        note = tracks.note_used[1]
        tracks.note_used[1] += 1
    tracks.note_model[note], tracks.note_prefix[note], tracks.note_next[note] = model, 0, tracks.seen[track]
    tracks.seen[track] = note
    return note


@inner
def _drop_notes(tracks: Tracks, track: int) -> None:
    """Frees the notes of a session that is over."""
    note = tracks.seen[track]
    while note >= 0:
        following = tracks.note_next[note]
        tracks.note_next[note] = tracks.note_used[0]
        tracks.note_used[0] = note
        note = following
    tracks.seen[track] = -1


@inner
def _start_session(
    tables: GeneratorTables, tracks: Tracks, states: Any, cumulative: Any, habit: Any, home: Any, track: int
) -> None:
    """Length, language and model of a new session; `cumulative` (rows, models) of this epoch."""
    kind, user = tracks.kind[track], tracks.user[track]
    quantiles, knobs, stream = tables.quantiles[kind], tables.knobs, SESSIONS + kind
    length, at_home, other = uniform(states, stream), uniform(states, stream), uniform(states, stream)
    if tracks.left[track] == 0:
        tracks.left[track] = int(quantile(quantiles[STEPS], length) + 0.5)
    tracks.compact[track] = quantile(quantiles[COMPACT_TOKENS], uniform(states, stream))
    tracks.context[track], tracks.level[track] = 0, 0.0
    _drop_notes(tracks, track)
    keep, choice = uniform(states, MODELS + kind), uniform(states, MODELS + kind)
    if kind == SUBAGENT:  # its model and row are its parent's so far
        tracks.model[track] = smaller_model(
            tables.weights_gb, cumulative[tracks.row[track]], tracks.model[track], choice
        )
    else:
        language = home[user] if at_home < knobs.home_language else pick(tables.language_cumulative, other)
        row = kind * len(tables.language_cumulative) + language
        if habit[user, row] < 0 or keep >= knobs.stickiness:
            habit[user, row] = pick(cumulative[row], choice)
        tracks.row[track], tracks.model[track] = row, habit[user, row]
    most = min(tracks.compact[track], COMPACT_BELOW * tables.longest_request[tracks.model[track]])
    for _ in range(tracks.skipped[track]):
        tracks.context[track], _, tracks.level[track] = _next_context(
            quantiles, knobs, states, kind, tracks.context[track], tracks.left[track], tracks.level[track], most
        )
        tracks.left[track] -= 1
    tracks.skipped[track] = 0


@compiled
def generate_rows(
    tables: GeneratorTables,
    states: Any,
    routes: RoutingSpace,
    space: Space,
    tracks: Tracks,
    arrival_us: Any,
    after: Any,
    think_us: Any,
    model_of: Any,
    task_of: Any,
    context_tokens: Any,
    new_tokens: Any,
    output_tokens: Any,
    user_of: Any,
    session_of: Any,
) -> None:
    """Fills the columns of a workload, row by row in order of nominal arrival; `states` (NUM_STREAMS,) are used up."""
    tables, routes, space, tracks = held(tables), held(routes), held(space), held(tracks)
    knobs, quantiles, length_us = tables.knobs, tables.quantiles, tables.length_s * 1e6
    prefix, cumulative = tracks.note_prefix, routes.cumulative
    times, heap, bursts = space.times, space.heap, space.bursts
    user_rates(tables, states, space.rates, space.home)
    routing(tables, states, routes)
    _set_bursts(states, knobs.burst_spread, bursts)
    size = _first_starts(tables, tracks, _set_tracks(tables, space.rates, tracks), states, bursts, times, heap)
    sessions = 0
    for request in range(len(arrival_us)):
        now_us, track = times[0], heap[0]
        kind = tracks.kind[track]
        if tracks.left[track] == 0 or tracks.skipped[track] > 0:
            epoch = min(int(now_us / length_us * EPOCHS), EPOCHS - 1)
            _start_session(tables, tracks, states, cumulative[epoch], space.habit, space.home, track)
            tracks.session[track] = sessions
            sessions += 1
        elif kind == AGENT and uniform(states, MODELS + kind) < knobs.agent_switch:
            epoch = min(int(now_us / length_us * EPOCHS), EPOCHS - 1)
            tracks.model[track] = pick(cumulative[epoch, tracks.row[track]], uniform(states, MODELS + kind))

        # tokens
        model = tracks.model[track]
        longest = tables.longest_request[model]
        output = int(quantile(quantiles[kind, OUTPUT_TOKENS], uniform(states, TOKENS + kind)) + 0.5)
        output = min(max(output, 1), max(longest // 4, 1))
        before, left = tracks.context[track], tracks.left[track]
        most = min(tracks.compact[track], COMPACT_BELOW * (longest - output))
        context, kept, level = _next_context(
            quantiles[kind], knobs, states, kind, before, left, tracks.level[track], most
        )
        context = min(max(context, 1), longest - output)
        kept = min(kept, context)
        note = _note_of(tracks, track, model)
        if kept < before:
            prefix[note] = min(prefix[note], kept)
            other = tracks.seen[track] if kind == AGENT else -1
            while other >= 0:
                prefix[other] = min(prefix[other], kept)
                other = tracks.note_next[other]
        new = max(context - prefix[note], 1)
        tracks.context[track], tracks.level[track], prefix[note] = context, level, context

        arrival_us[request] = int(now_us)
        after[request] = tracks.follows[track]
        think_us[request] = int(tracks.think_us[track]) if tracks.follows[track] >= 0 else 0
        model_of[request], task_of[request] = model, min(kind, AGENT)
        context_tokens[request], new_tokens[request], output_tokens[request] = context, new, output
        user_of[request], session_of[request] = tracks.user[track], tracks.session[track]

        # the track's next request, and perhaps a sub-agent
        finish_us = now_us + new * tables.prefill_us[model] + output * tables.decode_us[model]
        next_us = max(
            now_us + 1e6 * quantile(quantiles[kind, GAP_S], uniform(states, GAPS + kind)), finish_us + MIN_THINK_US
        )
        tracks.follows[track] = request
        tracks.left[track] = left - 1
        if left == 1 and kind != SUBAGENT:
            need = -math.log(1.0 - uniform(states, GAPS + kind))
            next_us = _break_end_us(
                tables, bursts, finish_us + MIN_THINK_US, need, tracks.cycle_s[track], _busy_s(tables, kind)
            )
            if kind != COMPLETION:  # a new session starts at its own time, and not after the last one
                tracks.follows[track] = -1
        tracks.think_us[track] = next_us - finish_us
        times[0] = next_us
        if left == 1 and kind == SUBAGENT:
            tracks.asleep[track] = True
            size -= 1
            times[0], heap[0] = times[size], heap[size]
        sift_down(times, heap, size, 0)
        if kind == AGENT and uniform(states, SESSIONS + SUBAGENT) < knobs.subagent_chance and tracks.asleep[track + 1]:
            child = track + 1
            tracks.asleep[child] = False
            tracks.model[child], tracks.row[child] = model, tracks.row[track]
            tracks.follows[child], tracks.think_us[child] = request, MIN_THINK_US
            times[size], heap[size] = finish_us + MIN_THINK_US, child
            size += 1
            sift_up(times, heap, size - 1)
