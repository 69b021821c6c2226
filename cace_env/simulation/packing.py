"""The used part of a simulation's row, copied out and back: what a snapshot is made of.

Most of a row has not been touched: requests and sessions have their rows in the order in which they begin, and heaps
and the log have room for all requests. What is behind the last row that has been touched is as `reset_state` left it.
Most of the requests that have been touched are settled: nothing will write to them again. They are left to the caller.
"""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import compiled, inlined
from cace_env.held import at_address, held
from cace_env.kernel.batch import BATCH, NUM_TERMS, PLACE, Batch, workload_views
from cace_env.kernel.run import reset_pairs, reset_requests
from cace_env.kernel.state import (
    CLOCK,
    CLOSED_SIZE,
    COLUMN,
    HEAP,
    LOG,
    LOGGED,
    MODEL,
    NONE,
    PAIR,
    PAIRS_TOUCHED,
    PAUSE,
    PAUSES,
    REQUEST,
    REQUESTS_TOUCHED,
    SPEC,
    TRACED,
    WINDOW_TAIL,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any

TOKENS, CLOSED, LOGS, REQUESTS, PAIRS, USERS, PAUSE_ROWS = (
    State._fields.index(name) for name in ("tokens", "closed", "log", "requests", "pairs", "users", "pauses")
)
OUT, BACK = int64(0), int64(1)

batch_at: Final = at_address(BATCH)


@compiled
def settled(batch: int, i: int, first: int) -> int:
    """The first request of environment i from row `first` on that has not come to its end.

    Args:
        batch: address of a `Batch`.
        i: number of an environment that has begun.
        first: a row; those before it are settled.
    """
    b = batch_at(batch)
    p = b.places[i, PLACE.fleet]
    s = held(state_views(b.arena[i], b.at[i]))
    f = held(fleet_views(b.fleets[p], b.fleet_at[p]))
    w = held(workload_views(b, i))
    r: int = int64(first)
    while r < s.scalars[REQUESTS_TOUCHED]:
        if s.requests[r, REQUEST.finish_us] == NONE:
            if s.requests[r, REQUEST.arrival_us] > s.scalars[CLOCK]:
                break
            tokens = int64(w.columns[r, COLUMN.context]) + int64(w.columns[r, COLUMN.output])
            if tokens <= f.models[int64(w.columns[r, COLUMN.model]), SPEC.kv_tokens]:  # otherwise it has been refused
                break
        r += 1
    return r


@compiled
def pack(batch: int, i: int, first: int, words: Array) -> int:
    """Copies what is used of environment i into `words`; how many words that are. Without room it only counts them.

    Args:
        batch: address of a `Batch`.
        i: number of an environment that has begun.
        first: the first request to copy; those before it are settled.
        words: int64, as many as the result; or none.
    """
    return carry_all(batch_at(batch), int64(i), int64(first), words, OUT)


@compiled
def unpack(batch: int, i: int, first: int, words: Array, is_laid_out: bool) -> None:
    """Puts back what `pack` has copied, into any row with the same offsets.

    Args:
        batch: address of a `Batch`.
        i: number of the environment.
        first: the first request that was copied.
        words: what was copied.
        is_laid_out: the row holds an episode with the same offsets. Otherwise there may be anything in it.
    """
    b = batch_at(batch)
    s = held(state_views(b.arena[i], b.at[i]))
    requests, pairs = words[REQUESTS_TOUCHED], words[PAIRS_TOUCHED]
    if is_laid_out:
        reset_requests(s, requests, s.scalars[REQUESTS_TOUCHED])
        reset_pairs(s, pairs, s.scalars[PAIRS_TOUCHED])
        for entry in range(s.scalars[CLOSED_SIZE]):  # its row may be behind the last that has been touched
            r = s.closed[entry, HEAP.request]
            if r >= requests:
                reset_requests(s, r, r + 1)
    else:
        reset_requests(s, requests, int64(len(s.requests)))
        reset_pairs(s, pairs, int64(len(s.pairs)))
    carry_all(b, int64(i), int64(first), words, BACK)
    for entry in range(s.scalars[CLOSED_SIZE]):
        s.requests[s.closed[entry, HEAP.request], REQUEST.arrival_us] = s.closed[entry, HEAP.key]
    if len(b.trace) == 0:
        s.scalars[TRACED] = 0


@inlined
def carry_all(batch: Batch, i: int, first: int, words: Array, way: int) -> int:
    """Copies all that is used of environment i, and its account of rewards; how many words that are.

    The first piece has the sizes of the others.
    """
    row, at = batch.arena[i], batch.at[i]
    p = batch.places[i, PLACE.fleet]
    s = held(state_views(row, at))
    f = held(fleet_views(batch.fleets[p], batch.fleet_at[p]))
    g, requests = s.scalars, at[REQUESTS]
    place = carry(row, at[0], at[TOKENS], words, int64(0), way)
    for m in range(len(f.models)):
        heap = at[TOKENS] + f.models[m, SPEC.heap_start] * len(HEAP)
        place = carry(row, heap, heap + s.models[m, MODEL.heap_size] * len(HEAP), words, place, way)
    place = carry(row, at[CLOSED], at[CLOSED] + g[CLOSED_SIZE] * len(HEAP), words, place, way)
    place = carry(row, at[LOGS] + g[WINDOW_TAIL] * len(LOG), at[LOGS] + g[LOGGED] * len(LOG), words, place, way)
    touched = requests + g[REQUESTS_TOUCHED] * len(REQUEST)
    place = carry(row, requests + first * len(REQUEST), touched, words, place, way)
    place = carry(row, at[PAIRS], at[PAIRS] + g[PAIRS_TOUCHED] * len(PAIR), words, place, way)
    place = carry(row, at[USERS], at[PAUSE_ROWS], words, place, way)
    place = carry(row, at[PAUSE_ROWS], at[PAUSE_ROWS] + g[PAUSES] * len(PAUSE), words, place, way)
    place = carry(batch.charged[i], int64(0), int64(NUM_TERMS), words, place, way)
    return carry(batch.marks[i], int64(0), int64(len(batch.marks[i])), words, place, way)


@inlined
def carry(row: Array, first: int, end: int, words: Array, place: int, way: int) -> int:
    """Copies `row[first:end]` to `words[place:]`, or back, if there are words; the place behind them."""
    if len(words) > 0:
        here, there = row[first:end], words[place : place + end - first]
        if way == OUT:
            for k in range(len(here)):
                there[k] = here[k]
        else:
            for k in range(len(here)):
                here[k] = there[k]
    return place + end - first
