"""Sums and latencies of an episode, by one pass over its requests in the simulation's own arrays."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cace_env.compilation import compiled
from cace_env.held import held
from cace_env.kernel.state import (
    CLOCK,
    COLUMN,
    FOREVER,
    NONE,
    NUM_TASKS,
    REQUEST,
    SLO,
    SPEC,
    TASK,
    Requests,
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


@compiled
def summarize(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, shares: Array, latencies_us: Array
) -> None:
    """What each task had of the episode so far, in one pass over the requests.

    `shares` is (T, SHARE) int64. `latencies_us` is (T, 2, R) int64: TTFTs and E2E latencies of a task's answered
    requests, in the order of the requests; what lies behind them is left as it is.
    """
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    now = s.scalars[CLOCK]
    shares[:] = 0
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
            latencies_us[task, 0, share[SHARE.answered]] = ttft
            latencies_us[task, 1, share[SHARE.answered]] = e2e
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
