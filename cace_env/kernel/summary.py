"""Sums and quantiles of an episode, from one pass over its requests in the simulation's own arrays."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from cace_env.compilation import compiled, inner, linked
from cace_env.held import held
from cace_env.kernel.state import (
    CLOCK,
    COLUMN,
    FLEET,
    FOREVER,
    NONE,
    NUM_TASKS,
    REQUEST,
    REQUESTS,
    SLO,
    SPEC,
    STATE,
    TABLE,
    TASK,
    WORDS,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any


class ShareColumns(NamedTuple):
    """`shares` of `summarize`: a task's share in an episode, until now."""

    arrived: int  # requests
    answered: int  # arrived and finished
    refused: int
    limited: int  # answered, and their task has an SLO
    met: int  # of those
    slo_missed: int  # counted at the first token or the finish, so of unfinished requests too
    ttft_us: int  # sum over answered requests
    e2e_us: int  # sum over answered requests
    waiting_us: int  # request-us until the first token
    system_us: int  # request-us in the system


SHARE: Final = ShareColumns(*range(len(ShareColumns._fields)))

QUANTILES: Final = (0.50, 0.95, 0.99)
TASK_BITS: Final = 56  # a word is a latency, which is below 2 ** 52 us, and above it the number of a task
LATENCY: Final = (1 << TASK_BITS) - 1
DIGIT_BITS: Final = 8
DIGITS: Final = 1 << DIGIT_BITS


@compiled
def summarize(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, shares: Array, quantiles_us: Array, room: Array,
    counts: Array,
) -> None:  # fmt: skip
    """`sum_up` of one environment."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    sum_up(s, f, held(w), shares, quantiles_us, room, counts)


@linked(STATE, FLEET, REQUESTS, TABLE, types.float64[:, :, ::1], TABLE, WORDS)
def sum_up(s: State, f: Fleet, w: Requests, shares: Array, quantiles_us: Array, room: Array, counts: Array) -> None:
    """What each task had of the episode so far, in one pass over the requests.

    `shares` is (T, SHARE) int64. `quantiles_us` is (T + 1, 2, len(QUANTILES) + 1) float64: quantiles and maximum of
    TTFTs and of E2E latencies of answered requests, of each task and at last of all; NaN where there is none. Room to
    sort them: `room` is (3, R) int64, `counts` (DIGITS,).
    """
    now = s.scalars[CLOCK]
    shares[:] = 0
    answered = 0
    for r in range(len(s.requests)):
        arrival = s.requests[r, REQUEST.arrival_us]
        if arrival > now:
            continue
        task = int64(w.columns[r, COLUMN.task])
        share = shares[task]
        share[SHARE.arrived] += 1
        finish = s.requests[r, REQUEST.finish_us]
        if finish != NONE:
            ttft = s.requests[r, REQUEST.first_us] - arrival
            e2e = finish - arrival
            room[0, answered] = (task << TASK_BITS) + ttft
            room[1, answered] = (task << TASK_BITS) + e2e
            answered += 1
            share[SHARE.answered] += 1
            share[SHARE.ttft_us] += ttft
            share[SHARE.e2e_us] += e2e
            judged = e2e if f.slos[task, SLO.on_e2e] == 1 else ttft
            share[SHARE.met] += int64(judged <= f.slos[task, SLO.limit_us])
        elif (
            int64(w.columns[r, COLUMN.context]) + int64(w.columns[r, COLUMN.output])
            > f.models[int64(w.columns[r, COLUMN.model]), SPEC.kv_tokens]
        ):
            share[SHARE.refused] += 1
    for task in range(NUM_TASKS):
        share = shares[task]
        if f.slos[task, SLO.limit_us] < FOREVER:
            share[SHARE.limited] = share[SHARE.answered]
        else:
            share[SHARE.met] = 0
        share[SHARE.slo_missed] = s.tasks[task, TASK.slo_missed]
        share[SHARE.waiting_us] = s.tasks[task, TASK.waiting_sum] + s.tasks[task, TASK.waiting_count] * now
        share[SHARE.system_us] = s.tasks[task, TASK.system_sum] + s.tasks[task, TASK.system_count] * now
    for latency in range(2):
        words, other = room[latency, :answered], room[2, :answered]
        present = int64(0)
        for k in range(answered):
            present |= words[k] & LATENCY
        shift = int64(0)
        while present >> shift > 0:
            sort_by(words, other, shift, counts)
            words, other = other, words
            shift += DIGIT_BITS
        read_quantiles(words, quantiles_us[NUM_TASKS, latency])
        sort_by(words, other, int64(TASK_BITS), counts)
        first = int64(0)
        for task in range(NUM_TASKS):
            end = first + shares[task, SHARE.answered]
            read_quantiles(other[first:end], quantiles_us[task, latency])
            first = end


@inner
def sort_by(words: Array, out: Array, shift: int, counts: Array) -> None:
    """Words in the order of one digit, from bit `shift` on; those with equal digits keep their order."""
    counts[:] = 0
    for k in range(len(words)):
        counts[words[k] >> shift & (DIGITS - 1)] += 1
    before = int64(0)
    for digit in range(DIGITS):
        before, counts[digit] = before + counts[digit], before
    for k in range(len(words)):
        digit = words[k] >> shift & (DIGITS - 1)
        out[counts[digit]] = words[k]
        counts[digit] += 1


@inner
def read_quantiles(words: Array, out: Array) -> None:
    """`numpy.quantile` of latencies in ascending order, at `QUANTILES`, and the largest; NaN if there is none."""
    last = len(words) - 1
    if last < 0:
        out[:] = np.nan
        return
    for k in range(len(QUANTILES)):
        position = QUANTILES[k] * last
        below = int64(position)
        low, high = words[below] & LATENCY, words[min(below + 1, last)] & LATENCY
        out[k] = low + (position - below) * (high - low)
    out[len(QUANTILES)] = words[last] & LATENCY
