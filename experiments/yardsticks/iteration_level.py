"""Continuous batching one forward pass at a time: what the fluid serving model of the simulator approximates.

A forward pass (iteration) of an engine emits one token of every decoding request and computes the next chunk of prompt
tokens. It takes the time of all that: the fixed part of a round, what each decoding request adds at its context *now*,
and the prefill of these very tokens at their positions. Requests that arrive meanwhile wait for the next iteration.
Times are whole nanoseconds. No swapping: every model is resident; requests are open loop and share no prefix.

Chunks are given out as vLLM does (V1 scheduler): `chunk_tokens` is a budget of tokens per iteration; the decoding
requests take one each, the rest goes to prompts in order of arrival, several of them if they fit (`batch="budget"`).
With `batch="head"` only the first prompt is computed, up to `chunk_tokens` of it, as the rules of the simulator say:
against that loop, the error of the simulator is that of the fluid approximation alone.

Engines on one accelerator share it in turn: by time slices of `slice_us`, as processes on one GPU do, or a whole
iteration each (`slice_us=None`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numba
import numpy as np
import numpy.typing as npt

from cace_env.tables import FleetTables, TableError, unmeasured
from cace_env.workload import Workload, WorkloadError

SLICE_US: Final = 2000  # [us] assumed; docs/serving.md says how little it matters
SHORTEST_NS: Final = 1000  # an iteration's least length, as in the simulator
Batch = Literal["budget", "head"]

# Columns of what the loop reads: of requests (arrival in ns, then tokens) and of engines (as in `FleetTables`).
ARRIVAL, CONTEXT, OUTPUT = range(3)
ROUND_NS, DECODE_NS, KV_PS, PREFILL_NS, ATTENTION_PS, CHUNK, SEATS, KV_TOKENS = range(8)


@dataclass(frozen=True)
class IterationRun:
    """When each of `R` requests got its first and its last token, and what the accelerator did."""

    first_token_us: npt.NDArray[np.float64]  # (R,) NaN where refused
    finish_us: npt.NDArray[np.float64]  # (R,) NaN where refused
    busy_share: float  # of the time from the first arrival to the last finish
    iterations: int


def run_iterations(
    tables: FleetTables,
    workload: Workload,
    *,
    batch: Batch = "budget",
    slice_us: int | None = SLICE_US,
    accelerator: int = 0,
) -> IterationRun:
    """Serves a workload on one accelerator where all its models are resident.

    Args:
        tables: speeds and limits; only the row of `accelerator` is read.
        workload: open loop, every session with at most one request.
        batch: how the tokens of an iteration are given out, see above.
        slice_us: time slice of co-resident engines; None = a whole iteration each.
        accelerator: index.

    Raises:
        WorkloadError: closed loop or shared prefixes, which this loop does not know.
        TableError: latency by batch, work per request, or a slowdown, which it does not know either.
    """
    for name, default in unmeasured(tables.num_accelerators, tables.num_models).items():
        if not np.array_equal(getattr(tables, name), default):
            raise TableError(f"{name} is given; this loop knows the straight line alone: leave it out")
    if (workload.after >= 0).any():
        row = int(np.flatnonzero(workload.after >= 0)[0])
        raise WorkloadError(f"workload column 'after', row {row}: {workload.after[row]} is not -1; use an open loop")
    if (workload.new_tokens != workload.context_tokens).any():
        row = int(np.flatnonzero(workload.new_tokens != workload.context_tokens)[0])
        raise WorkloadError(f"workload column 'new_tokens', row {row}: less than context_tokens; use whole prompts")
    speeds = (tables.round_ns, tables.decode_ns, tables.kv_ps, tables.prefill_ns, tables.attention_ps)
    limits = (tables.chunk_tokens, tables.max_num_seqs, tables.kv_tokens)
    engines = np.stack([*(speed[accelerator] for speed in speeds), *limits], axis=1)
    requests = np.stack([workload.arrival_us * 1000, workload.context_tokens, workload.output_tokens], axis=1)
    fits = requests[:, CONTEXT] + requests[:, OUTPUT] <= tables.kv_tokens[workload.model]
    order = np.lexsort((np.arange(len(workload)), workload.arrival_us, workload.model))
    queue = order[fits[order]]
    ends = np.searchsorted(workload.model[queue], np.arange(tables.num_models), side="right").astype(np.int64)
    slice_ns = 0 if slice_us is None else slice_us * 1000
    first_ns, finish_ns, busy_ns, iterations = _serve(
        requests.astype(np.int64), queue.astype(np.int64), ends, engines.astype(np.int64), batch == "budget", slice_ns
    )
    span_ns = finish_ns.max() - requests[queue, ARRIVAL].min()
    return IterationRun(
        first_token_us=np.where(fits, first_ns / 1000, np.nan),
        finish_us=np.where(fits, finish_ns / 1000, np.nan),
        busy_share=busy_ns / span_ns,
        iterations=iterations,
    )


@numba.njit
def _serve(requests: Any, queue: Any, ends: Any, engines: Any, shared: bool, slice_ns: int) -> Any:
    """First and last token of every request [ns], busy time [ns] and iterations; `queue` is sorted by engine, arrival.

    Of each engine's part of the queue, `prefilled <= admitted`: requests before `prefilled` have their first token,
    those before `admitted` hold a seat. `left_ns` is what remains of the iteration in progress, 0 between two.
    """
    num_engines = len(engines)
    first_ns, finish_ns = np.zeros(len(requests), np.int64), np.zeros(len(requests), np.int64)
    computed, planned = np.zeros(len(requests), np.int64), np.zeros(len(requests), np.int64)
    emitted = np.zeros(len(requests), np.int64)
    admitted, prefilled = np.zeros(num_engines, np.int64), np.zeros(num_engines, np.int64)
    admitted[1:] = ends[:-1]
    prefilled[1:] = ends[:-1]
    decoding = np.zeros((num_engines, engines[:, SEATS].max()), np.int64)
    num_decoding, num_running = np.zeros(num_engines, np.int64), np.zeros(num_engines, np.int64)
    kv_used, left_ns = np.zeros(num_engines, np.int64), np.zeros(num_engines, np.int64)
    now, busy_ns, iterations, finished, turn, passed = 0, 0, 0, 0, 0, 0
    while finished < len(queue):
        e = turn
        turn = (turn + 1) % num_engines
        slice_left = slice_ns
        worked = False
        while True:
            if left_ns[e] == 0:
                # A new iteration: admit, then give out the tokens.
                while admitted[e] < ends[e] and num_running[e] < engines[e, SEATS]:
                    r = queue[admitted[e]]
                    tokens = requests[r, CONTEXT] + requests[r, OUTPUT]
                    if requests[r, ARRIVAL] > now or kv_used[e] + tokens > engines[e, KV_TOKENS]:
                        break
                    kv_used[e] += tokens
                    num_running[e] += 1
                    admitted[e] += 1
                if num_running[e] == 0:
                    break
                length_ps = engines[e, ROUND_NS] * 1000
                for i in range(num_decoding[e]):
                    r = decoding[e, i]
                    length_ps += engines[e, DECODE_NS] * 1000 + engines[e, KV_PS] * (requests[r, CONTEXT] + emitted[r])
                room = engines[e, CHUNK] - (num_decoding[e] if shared else 0)
                i = prefilled[e]
                while i < admitted[e] and room > 0 and (shared or i == prefilled[e]):
                    r = queue[i]
                    begin = computed[r]
                    tokens = min(room, requests[r, CONTEXT] - begin)
                    planned[r] = tokens
                    room -= tokens
                    pairs = ((begin + tokens) ** 2 - begin**2) // 2
                    length_ps += engines[e, PREFILL_NS] * 1000 * tokens + engines[e, ATTENTION_PS] * pairs
                    i += 1
                left_ns[e] = max(length_ps // 1000, SHORTEST_NS)
            worked = True
            step = left_ns[e] if slice_ns == 0 else min(left_ns[e], slice_left)
            now += step
            busy_ns += step
            slice_left -= step
            left_ns[e] -= step
            if left_ns[e] == 0:
                # The iteration ends: tokens come out, finished requests give their seats back.
                iterations += 1
                still = 0
                for i in range(num_decoding[e]):
                    r = decoding[e, i]
                    emitted[r] += 1
                    if emitted[r] == requests[r, OUTPUT]:
                        finish_ns[r] = now
                        finished += 1
                        num_running[e] -= 1
                        kv_used[e] -= requests[r, CONTEXT] + requests[r, OUTPUT]
                    else:
                        decoding[e, still] = r
                        still += 1
                num_decoding[e] = still
                for i in range(prefilled[e], admitted[e]):
                    r = queue[i]
                    computed[r] += planned[r]
                    planned[r] = 0
                    if computed[r] < requests[r, CONTEXT]:
                        break
                    prefilled[e] += 1
                    first_ns[r] = now
                    emitted[r] = 1
                    if requests[r, OUTPUT] == 1:
                        finish_ns[r] = now
                        finished += 1
                        num_running[e] -= 1
                        kv_used[e] -= requests[r, CONTEXT] + 1
                    else:
                        decoding[e, num_decoding[e]] = r
                        num_decoding[e] += 1
                if slice_ns == 0:
                    break
            if slice_left == 0:
                break
        passed = 0 if worked else passed + 1
        if passed == num_engines:
            # No request has anything to do: on to the next arrival.
            passed = 0
            soonest = 1 << 62
            for other in range(num_engines):
                if admitted[other] < ends[other]:
                    arrival_ns = requests[queue[admitted[other]], ARRIVAL]
                    if arrival_ns < soonest:
                        soonest = arrival_ns
            now = max(now, soonest)
    return first_ns, finish_ns, busy_ns, iterations
