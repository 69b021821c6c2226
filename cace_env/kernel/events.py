"""Events: requests arrive, and engines serve them by continuous batching.

Each handler is one event of `docs/design.md`; `settle` closes an event that touched an engine by comparing round
lengths once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cace_env import tables as plain
from cace_env.compilation import inlined, outlined
from cace_env.kernel.standing import line_up, room_changed, schedule
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    CLOCK,
    CLOCKS,
    CLOSED_SIZE,
    COLD,
    COLUMN,
    DEMAND,
    DIRTY,
    ENDED,
    FOREVER,
    HEAP,
    LOAD,
    LOG,
    LOGGED,
    MODEL,
    MOST_PAUSES,
    NEXT_OPEN,
    NONE,
    PAIR,
    PAIRS_TOUCHED,
    PAUSE,
    PAUSES,
    PENDING_MODELS,
    PREFIX_LOST,
    R_BATCH,
    R_DRAIN_AFTER,
    R_SWAP,
    R_WHOLE_ROUNDS,
    REFUSED,
    REQUEST,
    REQUESTS_TOUCHED,
    RESIDENT,
    SITE,
    SLO,
    SPEC,
    SPEED,
    T_ADMITTED,
    T_ARRIVAL,
    T_FINISH,
    T_FIRST_TOKEN,
    T_REFUSED,
    TASK,
    TIME,
    TIMER,
    TRACED,
    WEIGHT,
    WINDOW_TAIL,
    WINDOW_US,
    Fleet,
    Requests,
    State,
    int64,
)
from cace_env.sessions import AGAIN_AGES_S, AGAIN_STEPS

ROUND: Final = 1 << 20  # one round in the units of a target
FRACTION: Final = ROUND - 1
STEPS: Final = int64(AGAIN_STEPS)
LONGEST_US: Final = int64(AGAIN_AGES_S[-1] * 1_000_000)  # an older pause does not count
MODEL_AT, PAIR_AT = int64(8), int64(32)  # bits of `PAUSE.who`, above its kind: the model, then the pair
SHORTEST_ROUND_NS: Final = 1000
AS_ALONE: Final = int64(plain.AS_ALONE)
MOVING_AVERAGE: Final = 0.1  # weight of the newest gap, output and latency weight
PREFIX_HALF_LIFE_US: Final = 600e6

Array = Any


@inlined
def record(s: State, trace: Array, kind: int, subject: int, accelerator: int) -> None:
    """Appends a trace row; a full buffer only counts, so that the caller knows how much room was needed."""
    row = s.scalars[TRACED]
    if row < len(trace):
        trace[row, 0] = s.scalars[CLOCK]
        trace[row, 1] = kind
        trace[row, 2] = subject
        trace[row, 3] = accelerator
    if len(trace) > 0:
        s.scalars[TRACED] += 1


# ---------------------------------------------------------------------------------------------------------------------
# The clock of an engine


@inlined
def rounds_now(s: State, m: int) -> int:
    """V(now) in 2^-20 rounds; an idle engine stands at 0."""
    length = s.models[m, MODEL.length_ns]
    if length == 0:
        return 0
    elapsed = (s.scalars[CLOCK] - s.models[m, MODEL.anchor_us]) * 1000
    # The next lines are floor(elapsed * 2^20 / length) without leaving int64.
    whole = elapsed // length
    rest = elapsed - whole * length
    return s.models[m, MODEL.anchor_rounds] + (whole << 20) + (rest << 20) // length


@inlined
def due_time(s: State, m: int, target: int) -> int:
    """When `target` is reached if the round length stays: t0 + max(0, ceil((X - V0) * L / (1000 * 2^20)))."""
    ahead = target - s.models[m, MODEL.anchor_rounds]
    if ahead <= 0:
        return s.models[m, MODEL.anchor_us]
    length = s.models[m, MODEL.length_ns]
    part = (ahead & FRACTION) * length
    nanoseconds = (ahead >> 20) * length + (part >> 20)
    microseconds = nanoseconds // 1000
    if microseconds * 1000 != nanoseconds or (part & FRACTION) != 0:
        microseconds += 1
    return s.models[m, MODEL.anchor_us] + microseconds


@inlined
def heap_push(heap: Array, base: int, size: int, key: int, r: int) -> None:
    """Adds (key, r) to the binary heap of `size` entries at `heap[base:]`, ordered by both."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        above = heap[base + parent, HEAP.key]
        if above < key or (above == key and heap[base + parent, HEAP.request] < r):
            break
        heap[base + i, HEAP.key] = above
        heap[base + i, HEAP.request] = heap[base + parent, HEAP.request]
        i = parent
    heap[base + i, HEAP.key] = key
    heap[base + i, HEAP.request] = r


@inlined
def heap_pop(heap: Array, base: int, size: int) -> None:
    """Removes the first entry of the heap, of which `size` are left."""
    key = heap[base + size, HEAP.key]
    r = heap[base + size, HEAP.request]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        below = heap[base + child, HEAP.key]
        if child + 1 < size:
            right = heap[base + child + 1, HEAP.key]
            if right < below or (
                right == below and heap[base + child + 1, HEAP.request] < heap[base + child, HEAP.request]
            ):
                child += 1
                below = right
        if key < below or (key == below and r < heap[base + child, HEAP.request]):
            break
        heap[base + i, HEAP.key] = below
        heap[base + i, HEAP.request] = heap[base + child, HEAP.request]
        i = child
    heap[base + i, HEAP.key] = key
    heap[base + i, HEAP.request] = r


@inlined
def push_token_end(s: State, f: Fleet, m: int, target: int, r: int) -> None:
    """Adds a token end to the engine's heap."""
    heap_push(s.tokens, f.models[m, SPEC.heap_start], s.models[m, MODEL.heap_size], target, r)
    s.models[m, MODEL.heap_size] += 1


@inlined
def begin_prefill(s: State, f: Fleet, w: Requests, m: int) -> None:
    """The head of the prefill FIFO starts: n rounds that carry W / n each.

    With whole rounds it waits for the end of the round in progress, and W is spread over what is left of that as well.
    """
    r = s.models[m, MODEL.prefill_head]
    am = s.models[m, MODEL.place] * len(f.models) + m
    tokens = s.requests[r, REQUEST.prefill_tokens]
    context = int64(w.columns[r, COLUMN.context])
    cached = context - tokens
    rounds = (tokens + f.models[m, SPEC.chunk_tokens] - 1) // f.models[m, SPEC.chunk_tokens]
    work = (
        f.speeds[am, SPEED.prefill_ns] * tokens
        + f.speeds[am, SPEED.attention_ps] * (context * context - cached * cached) // 2000
        + f.speeds[am, SPEED.request_ns]
    )
    start = rounds_now(s, m)
    s.models[m, MODEL.prefilling] = 1
    if f.rules[R_WHOLE_ROUNDS] == 1:
        last = ((start + FRACTION) & ~FRACTION) + (rounds << 20)
        s.models[m, MODEL.prefill_ns] = ((work << 20) + last - start - 1) // (last - start)
    else:
        last = start + (rounds << 20)
        s.models[m, MODEL.prefill_ns] = work // rounds
    push_token_end(s, f, m, last, r)


@inlined
def admit(s: State, f: Fleet, w: Requests, trace: Array, m: int) -> None:
    """Admits waiting requests in order as long as the first finds a seat and KV room."""
    while s.models[m, MODEL.waiting] > 0:
        r = s.models[m, MODEL.queue_head]
        tokens = int64(w.columns[r, COLUMN.context]) + w.columns[r, COLUMN.output]
        if (
            s.models[m, MODEL.running] >= f.models[m, SPEC.max_num_seqs]
            or s.models[m, MODEL.kv_used] + tokens > f.models[m, SPEC.kv_tokens]
        ):
            return
        s.models[m, MODEL.queue_head] = s.requests[r, REQUEST.queue_next]
        s.models[m, MODEL.waiting] -= 1
        s.models[m, MODEL.running] += 1
        s.models[m, MODEL.kv_used] += tokens
        s.models[m, MODEL.running_arrivals] += s.requests[r, REQUEST.arrival_us]
        record(s, trace, T_ADMITTED, r, s.models[m, MODEL.place])
        settle_prefix(s, w, m, r)
        s.requests[r, REQUEST.queue_next] = NONE
        if s.models[m, MODEL.prefill_head] == NONE:
            s.models[m, MODEL.prefill_head] = r
            s.models[m, MODEL.prefill_tail] = r
            begin_prefill(s, f, w, m)
        else:
            s.requests[s.models[m, MODEL.prefill_tail], REQUEST.queue_next] = r
            s.models[m, MODEL.prefill_tail] = r


@inlined
def settle_prefix(s: State, w: Requests, m: int, r: int) -> None:
    """Decides at admission what of the prompt is cached, and keeps the account of prefixes at stake."""
    now = s.scalars[CLOCK]
    pair = w.columns[r, COLUMN.session_pair]
    context = w.columns[r, COLUMN.context]
    s.demand[m, DEMAND.prefix_tokens] *= np.exp2(-(now - s.models[m, MODEL.prefix_at]) / PREFIX_HALF_LIFE_US)
    s.models[m, MODEL.prefix_at] = now
    if s.pairs[pair, PAIR.epoch] == s.models[m, MODEL.loads]:
        s.requests[r, REQUEST.prefill_tokens] = w.columns[r, COLUMN.new]
        s.demand[m, DEMAND.prefix_tokens] -= s.pairs[pair, PAIR.context] * np.exp2(
            -(now - s.pairs[pair, PAIR.time_us]) / PREFIX_HALF_LIFE_US
        )
    else:
        s.requests[r, REQUEST.prefill_tokens] = context
        if s.pairs[pair, PAIR.epoch] != NONE:
            s.scalars[PREFIX_LOST] += context - w.columns[r, COLUMN.new]
    s.demand[m, DEMAND.prefix_tokens] += context
    s.pairs[pair, PAIR.epoch] = s.models[m, MODEL.loads]
    s.pairs[pair, PAIR.context] = context
    s.pairs[pair, PAIR.time_us] = now


@inlined
def settle(s: State, f: Fleet, m: int) -> None:
    """Ends an event that touched resident model m: round lengths compared once, anchors moved, due times kept."""
    a = s.models[m, MODEL.place]
    now = s.scalars[CLOCK]
    was_busy = s.models[m, MODEL.length_ns] != 0
    is_busy = s.models[m, MODEL.running] > 0
    if is_busy:
        am = a * len(f.models) + m
        decoding = s.models[m, MODEL.decoding]
        known = min(decoding, f.rules[R_BATCH])
        round_ns = (
            f.rounds[am * (f.rules[R_BATCH] + 1) + known]
            + (decoding - known) * f.speeds[am, SPEED.decode_ns]
            + f.speeds[am, SPEED.kv_ps] * s.models[m, MODEL.kv_halves] // 2000
            + s.models[m, MODEL.prefill_ns]
        )
        s.models[m, MODEL.round_ns] = max(round_ns, SHORTEST_ROUND_NS)
    shares_change = was_busy != is_busy
    if not shares_change:
        if is_busy:
            stretch(s, m, share_of(s, f, a))
            s.models[m, MODEL.due_us] = due_time(s, m, s.tokens[f.models[m, SPEC.heap_start], HEAP.key])
    elif is_busy:
        if s.accelerators[a, ACCELERATOR.busy] == 0:
            s.accelerators[a, ACCELERATOR.busy_us] -= now
        s.accelerators[a, ACCELERATOR.busy] += 1
        s.models[m, MODEL.anchor_us] = now
        s.models[m, MODEL.anchor_rounds] = 0
        s.models[m, MODEL.length_ns] = share_of(s, f, a) * s.models[m, MODEL.round_ns] // AS_ALONE
    else:
        s.accelerators[a, ACCELERATOR.busy] -= 1
        if s.accelerators[a, ACCELERATOR.busy] == 0:
            s.accelerators[a, ACCELERATOR.busy_us] += now
        s.models[m, MODEL.length_ns] = 0
        s.models[m, MODEL.due_us] = FOREVER
    settle_others(s, f, a, shares_change)


@inlined
def settle_others(s: State, f: Fleet, a: int, shares_change: bool) -> None:
    """Finds the next token end on accelerator a; gives busy engines their lengths first if their shares change."""
    due = FOREVER
    first = NONE
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        other = s.slots[slot]
        if other == NONE:
            continue
        if shares_change and s.models[other, MODEL.length_ns] != 0:
            stretch(s, other, share_of(s, f, a))
            s.models[other, MODEL.due_us] = due_time(s, other, s.tokens[f.models[other, SPEC.heap_start], HEAP.key])
        other_due = s.models[other, MODEL.due_us]
        if other_due < due or (other_due == due and other < first):
            due = other_due
            first = other
    s.accelerators[a, ACCELERATOR.token_due] = due
    s.accelerators[a, ACCELERATOR.token_model] = first
    schedule(s, a)
    room_changed(s, a)


@outlined
def settle_load(s: State, f: Fleet, a: int) -> None:
    """A load has started or ended on accelerator a: the rounds of its busy engines last longer, or no more."""
    if f.accelerators[a, SITE.load_slowdown] != AS_ALONE:
        settle_others(s, f, a, True)


@inlined
def share_of(s: State, f: Fleet, a: int) -> int:
    """How many thousandths of its time alone a round lasts on accelerator a now."""
    loads = s.accelerators[a, ACCELERATOR.channel] == LOAD
    return s.accelerators[a, ACCELERATOR.busy] * (f.accelerators[a, SITE.load_slowdown] if loads else AS_ALONE)


@inlined
def stretch(s: State, m: int, share: int) -> None:
    """Gives a busy engine its round length; the anchor moves only if it changed."""
    length = share * s.models[m, MODEL.round_ns] // AS_ALONE
    if length != s.models[m, MODEL.length_ns]:
        s.models[m, MODEL.anchor_rounds] = rounds_now(s, m)
        s.models[m, MODEL.anchor_us] = s.scalars[CLOCK]
        s.models[m, MODEL.length_ns] = length


# ---------------------------------------------------------------------------------------------------------------------
# Token ends


@inlined
def token_end(s: State, f: Fleet, w: Requests, trace: Array, m: int) -> None:
    """A first token or a finish: the first entry of the engine's heap."""
    base = f.models[m, SPEC.heap_start]
    target, r = s.tokens[base, HEAP.key], s.tokens[base, HEAP.request]
    s.models[m, MODEL.heap_size] -= 1
    heap_pop(s.tokens, base, s.models[m, MODEL.heap_size])
    if f.rules[R_WHOLE_ROUNDS] == 1:  # times are whole microseconds, so the clock has run past the end of the round
        s.models[m, MODEL.anchor_us] = s.scalars[CLOCK]
        s.models[m, MODEL.anchor_rounds] = target
    halves = 2 * int64(w.columns[r, COLUMN.context]) + w.columns[r, COLUMN.output]
    decode_rounds = (int64(w.columns[r, COLUMN.output]) - 1) << 20
    finished = True
    if r == s.models[m, MODEL.prefill_head]:
        s.models[m, MODEL.prefill_head] = s.requests[r, REQUEST.queue_next]
        s.models[m, MODEL.prefilling] = 0
        s.models[m, MODEL.prefill_ns] = 0
        first_token(s, f, w, trace, m, r)
        if decode_rounds > 0:
            finished = False
            start = rounds_now(s, m)
            s.models[m, MODEL.decoding] += 1
            s.models[m, MODEL.kv_halves] += halves
            s.models[m, MODEL.decode_start_sum] += start
            push_token_end(s, f, m, start + decode_rounds, r)
    else:
        s.models[m, MODEL.decoding] -= 1
        s.models[m, MODEL.kv_halves] -= halves
        s.models[m, MODEL.decode_start_sum] -= target - decode_rounds
    if finished:
        finish(s, f, w, trace, m, r)
    if s.models[m, MODEL.prefilling] == 0 and s.models[m, MODEL.prefill_head] != NONE:
        begin_prefill(s, f, w, m)


@inlined
def first_token(s: State, f: Fleet, w: Requests, trace: Array, m: int, r: int) -> None:
    """Output token 1: the request waits no more."""
    now = s.scalars[CLOCK]
    task = w.columns[r, COLUMN.task]
    s.requests[r, REQUEST.first_us] = now
    s.tasks[task, TASK.waiting_sum] += now
    s.tasks[task, TASK.waiting_count] -= 1
    if f.slos[task, SLO.on_e2e] == 0 and now - s.requests[r, REQUEST.arrival_us] > f.slos[task, SLO.limit_us]:
        s.tasks[task, TASK.slo_missed] += 1
    record(s, trace, T_FIRST_TOKEN, r, s.models[m, MODEL.place])


@inlined
def finish(s: State, f: Fleet, w: Requests, trace: Array, m: int, r: int) -> None:
    """The last token: seat and KV room are free, followers are scheduled, waiting requests are admitted."""
    now = s.scalars[CLOCK]
    task = w.columns[r, COLUMN.task]
    s.requests[r, REQUEST.finish_us] = now
    s.tasks[task, TASK.system_sum] += now
    s.tasks[task, TASK.system_count] -= 1
    if f.slos[task, SLO.on_e2e] == 1 and now - s.requests[r, REQUEST.arrival_us] > f.slos[task, SLO.limit_us]:
        s.tasks[task, TASK.slo_missed] += 1
    s.models[m, MODEL.running] -= 1
    s.models[m, MODEL.kv_used] -= int64(w.columns[r, COLUMN.context]) + w.columns[r, COLUMN.output]
    s.models[m, MODEL.running_arrivals] -= s.requests[r, REQUEST.arrival_us]
    s.scalars[ENDED] += 1
    s.models[m, MODEL.last_use] = now
    if s.demand[m, DEMAND.mean_output] != s.demand[m, DEMAND.mean_output]:
        s.demand[m, DEMAND.mean_output] = w.columns[r, COLUMN.output]
    else:
        s.demand[m, DEMAND.mean_output] += MOVING_AVERAGE * (
            w.columns[r, COLUMN.output] - s.demand[m, DEMAND.mean_output]
        )
    record(s, trace, T_FINISH, r, s.models[m, MODEL.place])
    pause(s, w, m, r)
    schedule_followers(s, w, r)
    if s.models[m, MODEL.phase] == RESIDENT and s.models[m, MODEL.waiting] > 0:
        admit(s, f, w, trace, m)
    if s.models[m, MODEL.running] == 0:
        s.models[m, MODEL.idle_since] = now
        if s.models[m, MODEL.phase] == RESIDENT:
            s.scalars[DIRTY] = 1


# ---------------------------------------------------------------------------------------------------------------------
# Arrivals


@inlined
def schedule_followers(s: State, w: Requests, r: int) -> None:
    """Puts the requests that follow r into the heap of closed-loop arrivals."""
    child = int64(w.columns[r, COLUMN.first_child])
    while child != NONE:
        arrival = s.scalars[CLOCK] + w.times[child, TIME.think_us]
        s.requests[child, REQUEST.arrival_us] = arrival
        heap_push(s.closed, 0, s.scalars[CLOSED_SIZE], arrival, child)
        s.scalars[CLOSED_SIZE] += 1
        child = int64(w.columns[child, COLUMN.next_sibling])


@inlined
def next_open_arrival(s: State, w: Requests) -> int:
    """The next open-loop request, or NONE."""
    pointer = s.scalars[NEXT_OPEN]
    return int64(w.open_order[pointer]) if pointer < len(w.open_order) else NONE


@inlined
def arrive(s: State, f: Fleet, w: Requests, trace: Array, r: int) -> None:
    """A request arrives: refused if no KV cache can hold it, else queued, and admitted if its model is resident."""
    now = s.scalars[CLOCK]
    m = int64(w.columns[r, COLUMN.model])
    s.requests[r, REQUEST.arrival_us] = now
    s.scalars[REQUESTS_TOUCHED] = max(s.scalars[REQUESTS_TOUCHED], r + 1)
    record(s, trace, T_ARRIVAL, r, s.models[m, MODEL.place])
    if int64(w.columns[r, COLUMN.context]) + w.columns[r, COLUMN.output] > f.models[m, SPEC.kv_tokens]:
        s.scalars[REFUSED] += 1
        s.scalars[ENDED] += 1
        record(s, trace, T_REFUSED, r, s.models[m, MODEL.place])
        schedule_followers(s, w, r)
        return
    task = w.columns[r, COLUMN.task]
    s.tasks[task, TASK.waiting_sum] -= now
    s.tasks[task, TASK.waiting_count] += 1
    s.tasks[task, TASK.system_sum] -= now
    s.tasks[task, TASK.system_count] += 1
    note_demand(s, f, w, m, r)
    s.requests[r, REQUEST.queue_next] = NONE
    if s.models[m, MODEL.waiting] == 0:
        s.models[m, MODEL.queue_head] = r
    else:
        s.requests[s.models[m, MODEL.queue_tail], REQUEST.queue_next] = r
    s.models[m, MODEL.queue_tail] = r
    s.models[m, MODEL.waiting] += 1
    if s.models[m, MODEL.phase] == RESIDENT:
        admit(s, f, w, trace, m)
    else:
        s.scalars[COLD] += 1
        if s.models[m, MODEL.phase] == ABSENT and s.models[m, MODEL.waiting] == 1:
            turn_pending(s, f, m)
        elif s.models[m, MODEL.phase] == ABSENT and f.rules[R_SWAP] == 1:
            s.scalars[DIRTY] = 1  # more wait for it: a policy that chose to wait may choose again


@inlined
def turn_pending(s: State, f: Fleet, m: int) -> None:
    """An absent model has its first waiting request: it may be placed now, and in Eviction-v0 drain others later."""
    now = s.scalars[CLOCK]
    s.models[m, MODEL.pending_since] = now
    line_up(s, m)
    s.scalars[PENDING_MODELS] += 1
    s.scalars[DIRTY] = 1
    if f.rules[R_SWAP] == 0:
        s.scalars[TIMER] = min(s.scalars[TIMER], now + f.rules[R_DRAIN_AFTER])


@inlined
def note_demand(s: State, f: Fleet, w: Requests, m: int, r: int) -> None:
    """Updates what a policy may know of the demand for model m."""
    now = s.scalars[CLOCK]
    task = w.columns[r, COLUMN.task]
    weight = f.weights[task, WEIGHT.ttft] + f.weights[task, WEIGHT.e2e]
    last = s.models[m, MODEL.last_arrival]
    if last < 0:
        s.demand[m, DEMAND.mean_weight] = weight
        s.demand[m, DEMAND.rate_1m] = 1.0
        s.demand[m, DEMAND.rate_10m] = 1.0
        s.demand[m, DEMAND.rate_60m] = 1.0
    else:
        gap = (now - last) * 1e-6
        s.demand[m, DEMAND.mean_weight] += MOVING_AVERAGE * (weight - s.demand[m, DEMAND.mean_weight])
        # One exponential serves three half-lives: 60 min = 6 x 10 min = 60 x 1 min.
        slow = np.exp2(-gap / 3600.0)
        middle = slow * slow * slow
        middle *= middle
        fast = middle * middle
        fast = fast * fast * middle
        fast *= fast
        s.demand[m, DEMAND.rate_1m] = s.demand[m, DEMAND.rate_1m] * fast + 1.0
        s.demand[m, DEMAND.rate_10m] = s.demand[m, DEMAND.rate_10m] * middle + 1.0
        s.demand[m, DEMAND.rate_60m] = s.demand[m, DEMAND.rate_60m] * slow + 1.0
        if s.demand[m, DEMAND.gap_s] == 0.0:
            s.demand[m, DEMAND.gap_s] = gap
            s.demand[m, DEMAND.gap_squared] = gap * gap
        else:
            s.demand[m, DEMAND.gap_s] += MOVING_AVERAGE * (gap - s.demand[m, DEMAND.gap_s])
            s.demand[m, DEMAND.gap_squared] += MOVING_AVERAGE * (gap * gap - s.demand[m, DEMAND.gap_squared])
    s.models[m, MODEL.second_use] = last
    s.models[m, MODEL.last_arrival] = now
    s.models[m, MODEL.last_use] = now
    s.models[m, MODEL.uses] += 1
    s.models[m, MODEL.uses_since_load] += 1
    s.demand[m, DEMAND.inflation] = s.clocks[CLOCKS.inflation]
    s.log[s.scalars[LOGGED], LOG.arrival_us] = now
    s.log[s.scalars[LOGGED], LOG.request] = r
    s.scalars[LOGGED] += 1
    s.models[m, MODEL.window_requests] += 1
    session, user = w.columns[r, COLUMN.session_pair], w.columns[r, COLUMN.user_pair]
    s.scalars[PAIRS_TOUCHED] = max(s.scalars[PAIRS_TOUCHED], session + 1)
    ask(s, m, session, task)
    if s.pairs[session, PAIR.window] == 0:
        s.models[m, MODEL.window_sessions] += 1
    s.pairs[session, PAIR.window] += 1
    if s.users[user] == 0:
        s.models[m, MODEL.window_users] += 1
    s.users[user] += 1


# ---------------------------------------------------------------------------------------------------------------------
# Pauses of sessions: from the finish of a session's last request at a model until it asks that model again. They lie in
# `State.pauses` in the order in which they began, those of all models together, so that a look reads few pages of
# memory. What is over is marked; now and then that, and what is too old to count, is dropped.


@inlined
def ask(s: State, m: int, pair: int, task: int) -> None:
    """A request of a session arrives at model m: a pause, if there is one, is over."""
    at = s.pairs[pair, PAIR.paused_at]
    s.pairs[pair, PAIR.task] = task
    s.pairs[pair, PAIR.step] = min(s.pairs[pair, PAIR.step] + 1, STEPS - 1) if at != 0 else int64(0)
    s.pairs[pair, PAIR.paused_at] = min(at, 0) - 1
    if at > 0 and s.scalars[CLOCK] - at < LONGEST_US:
        s.pauses[s.pairs[pair, PAIR.pause], PAUSE.who] = NONE


@inlined
def pause(s: State, w: Requests, m: int, r: int) -> None:
    """Request r has left model m: if it was its session's last one in flight there, the session pauses."""
    pair = int64(w.columns[r, COLUMN.session_pair])
    s.pairs[pair, PAIR.paused_at] += 1
    if s.pairs[pair, PAIR.paused_at] == 0:
        began_us = max(s.scalars[CLOCK], 1)  # 0 = none yet
        s.pairs[pair, PAIR.paused_at] = began_us
        if s.scalars[PAUSES] == s.scalars[MOST_PAUSES]:
            drop_pauses(s)
        place = s.scalars[PAUSES]
        s.pairs[pair, PAIR.pause] = place
        s.pauses[place, PAUSE.began_us] = began_us
        kind = s.pairs[pair, PAIR.task] * STEPS + s.pairs[pair, PAIR.step]
        s.pauses[place, PAUSE.who] = pair << PAIR_AT | m << MODEL_AT | kind
        s.scalars[PAUSES] = place + 1


@outlined
def drop_pauses(s: State) -> None:
    """Drops what is over or too old to count, and sets when to do so again: so rarely that it costs little.

    There is room then: of a pair at most one pause is not over, and of the one that follows none.
    """
    kept = int64(0)
    for place in range(s.scalars[PAUSES]):
        began_us, who = s.pauses[place, PAUSE.began_us], s.pauses[place, PAUSE.who]
        if who != NONE and s.scalars[CLOCK] - began_us < LONGEST_US:
            s.pauses[kept, PAUSE.began_us], s.pauses[kept, PAUSE.who] = began_us, who
            s.pairs[who >> PAIR_AT, PAIR.pause] = kept
            kept += 1
    s.scalars[PAUSES] = kept
    s.scalars[MOST_PAUSES] = min(kept + (kept >> 2) + 32, len(s.pauses))


# ---------------------------------------------------------------------------------------------------------------------
# The window of the demand features


@inlined
def slide_window(s: State, w: Requests) -> None:
    """Drops arrivals older than the window from its counts."""
    oldest = s.scalars[CLOCK] - WINDOW_US
    tail = s.scalars[WINDOW_TAIL]
    while tail < s.scalars[LOGGED]:
        if s.log[tail, LOG.arrival_us] >= oldest:
            break
        r = s.log[tail, LOG.request]
        m, session, user = (
            int64(w.columns[r, COLUMN.model]),
            w.columns[r, COLUMN.session_pair],
            w.columns[r, COLUMN.user_pair],
        )
        s.models[m, MODEL.window_requests] -= 1
        s.pairs[session, PAIR.window] -= 1
        if s.pairs[session, PAIR.window] == 0:
            s.models[m, MODEL.window_sessions] -= 1
        s.users[user] -= 1
        if s.users[user] == 0:
            s.models[m, MODEL.window_users] -= 1
        tail += 1
    s.scalars[WINDOW_TAIL] = tail
