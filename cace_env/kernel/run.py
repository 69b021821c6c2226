"""The loop over events: from reset to the next question, and whole episodes under a built-in rule.

Entry points take rows and offsets, not views: few arguments, cheap to call from Python.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from cace_env.compilation import compiled, inlined, linked, outlined
from cace_env.held import held
from cace_env.kernel.events import arrive, heap_pop, next_open_arrival, settle, slide_window, token_end
from cace_env.kernel.features import missing_bytes, pending_features, slot_features, weigh_pauses, write_observation
from cace_env.kernel.orders import decide
from cace_env.kernel.placement import act, is_pending, place
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.standing import (
    ALARM,
    ARRIVAL,
    LOAD_DONE,
    NEVER,
    TOKEN_END,
    UNLOAD_DONE,
    find_rooms,
    reset_standing,
    warm,
)
from cace_env.kernel.state import (
    ACCELERATOR,
    AGENDA,
    ASKED,
    CACHED_BYTES,
    CLOCK,
    CLOSED_SIZE,
    COLUMN,
    DECISIONS,
    DEMAND,
    DIRTY,
    DONE,
    DRAINING,
    ENDED,
    FIXED,
    FLEET,
    FOREVER,
    HEAP,
    LAST_ASKED,
    LIMIT,
    LOAD_US,
    MODEL,
    NEXT_OPEN,
    NONE,
    NUM_TASKS,
    PAIR,
    PENDING_MODELS,
    R_MAX_DECISIONS,
    R_PREFETCH_LIMIT,
    R_SWAP,
    REFUSED,
    REQUEST,
    REQUESTS,
    RESIDENT,
    RUNNING,
    SITE,
    SPEC,
    STATE,
    STATUS,
    STUCK,
    TABLE,
    TARGET,
    TASK,
    TIME,
    TIMER,
    TOUCHES,
    TRUNCATED,
    WEIGHT,
    WORDS,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)
from cace_env.kernel.swaps import (
    any_timer,
    channel_done,
    expire,
    set_timer,
    take_slot,
    timer_due,
    work_channel,
)
from cace_env.observation import Scaling

Array = Any
BEGIN: Final = NONE  # in place of an action: time 0


@outlined
def reset_state(s: State, f: Fleet) -> None:
    """Time 0: pinned and initially resident models take their slots, everything else is absent."""
    s.scalars[:] = 0
    s.scalars[TIMER] = FOREVER
    s.scalars[TARGET] = NONE
    s.scalars[FIXED] = NONE
    s.scalars[DIRTY] = 1
    s.demand[:] = 0.0
    s.accelerators[:] = 0
    s.tasks[:] = 0
    s.users[:] = 0
    s.clocks[:] = 0.0
    s.silence[:] = 0.0
    reset_requests(s, int64(0), int64(len(s.requests)))
    reset_pairs(s, int64(0), int64(len(s.pairs)))
    for slot in range(len(s.slots)):
        s.slots[slot] = NONE
    for action in range(len(s.legal)):
        s.legal[action] = 0
    reset_standing(s, f)
    for a in range(len(f.accelerators)):
        s.accelerators[a, ACCELERATOR.free] = f.accelerators[a, SITE.memory]
        s.accelerators[a, ACCELERATOR.swap_target] = NONE
        s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
        s.accelerators[a, ACCELERATOR.token_due] = FOREVER
        s.accelerators[a, ACCELERATOR.token_model] = NONE
    for m in range(len(f.models)):
        model = s.models[m]
        model[:] = 0
        model[MODEL.asleep] = f.models[m, SPEC.asleep_on]
        model[MODEL.evicted_at] = -FOREVER
        model[MODEL.due_us] = FOREVER
        model[MODEL.place] = NONE
        model[MODEL.slot] = NONE
        model[MODEL.last_arrival] = NONE
        model[MODEL.second_use] = NONE
        model[MODEL.queue_head] = NONE
        model[MODEL.prefill_head] = NONE
        s.demand[m, DEMAND.mean_output] = np.nan
        if f.models[m, SPEC.asleep_on] != NONE:
            s.accelerators[f.models[m, SPEC.asleep_on], ACCELERATOR.free] -= f.models[m, SPEC.residual]
        if f.models[m, SPEC.host_cached] == 1:
            s.scalars[TOUCHES] += 1
            model[MODEL.touched] = s.scalars[TOUCHES]
            warm(s, int64(m))
            s.scalars[CACHED_BYTES] += f.models[m, SPEC.weights]
    for m in range(len(f.models)):
        start_resident(s, f, m, f.models[m, SPEC.pinned_on])
    for m in range(len(f.models)):
        if f.models[m, SPEC.pinned_on] == NONE:
            start_resident(s, f, m, f.models[m, SPEC.resident_on])


@inlined
def reset_requests(s: State, first: int, end: int) -> None:
    """Rows `first` to `end` as they are before their requests arrive."""
    for r in range(first, end):
        s.requests[r, REQUEST.arrival_us] = FOREVER
        s.requests[r, REQUEST.first_us] = NONE
        s.requests[r, REQUEST.finish_us] = NONE


@inlined
def reset_pairs(s: State, first: int, end: int) -> None:
    """Rows `first` to `end` as they are before their sessions begin."""
    for pair in range(first, end):
        s.pairs[pair, :] = 0
        s.pairs[pair, PAIR.epoch] = NONE


@inlined
def start_resident(s: State, f: Fleet, m: int, a: int) -> None:
    """Model m is resident on accelerator a from time 0, if that is one."""
    if a == NONE:
        return
    s.accelerators[a, ACCELERATOR.free] -= f.models[m, SPEC.need]
    s.accelerators[a, ACCELERATOR.held] += 1
    take_slot(s, f, m, a)
    s.models[m, MODEL.phase] = RESIDENT


@linked(STATE, FLEET, REQUESTS, WORDS, TABLE, types.int64)
def advance(s: State, f: Fleet, w: Requests, limits: Array, trace: Array, action: int) -> int:
    """Applies the policy's answer (BEGIN: starts the episode) and runs to the next question or the end; the status."""
    if action == BEGIN:
        reset_state(s, f)
    else:
        answer(s, f, limits, trace, action)
    run_events(s, f, w, limits, trace)
    return s.scalars[STATUS]


@inlined
def run_events(s: State, f: Fleet, w: Requests, limits: Array, trace: Array) -> None:
    """Runs events until the policy is asked, all requests have ended, the limit is reached, or nothing can happen."""
    requests = len(s.requests)
    while True:
        # The least event by (time, priority, key): a source of lower priority needs an earlier time.
        time, priority, key = FOREVER, NONE, NONE
        first = s.agenda[1, AGENDA.key]
        if first < NEVER:
            time, priority, key = first >> 2, first & 3, s.agenda[1, AGENDA.accelerator]
        r = next_open_arrival(s, w)
        if r != NONE and w.times[r, TIME.arrival_us] < time:
            time, priority, key = w.times[r, TIME.arrival_us], ARRIVAL, r
        if s.scalars[CLOSED_SIZE] > 0:
            arrives, r = s.closed[0, HEAP.key], s.closed[0, HEAP.request]
            if arrives < time or (arrives == time and priority == ARRIVAL and r < key):
                time, priority, key = arrives, ARRIVAL, r
        if s.scalars[TIMER] < time:
            time, priority = s.scalars[TIMER], ALARM

        if time > s.scalars[CLOCK] or priority == NONE:
            if s.scalars[ENDED] == requests:
                s.scalars[STATUS] = DONE
                return
            if s.scalars[DIRTY] == 1:
                s.scalars[DIRTY] = 0
                if limits[LIMIT.any_keep_alive] == 1:
                    expire(s, f, limits, trace)
                if any_timer(f, limits):
                    set_timer(s, f, limits)
                if (
                    s.scalars[PENDING_MODELS] > 0 or s.scalars[TARGET] != NONE or f.rules[R_PREFETCH_LIMIT] > 0
                ) and place(s, f, limits, trace):
                    s.scalars[DIRTY] = 1
                    s.scalars[STATUS] = ASKED
                    if s.scalars[DECISIONS] >= f.rules[R_MAX_DECISIONS]:
                        s.scalars[STATUS] = TRUNCATED
                    return
                continue
            if priority == NONE:
                s.scalars[STATUS] = STUCK
                return
        s.scalars[CLOCK] = time
        if priority == TOKEN_END:
            m = s.accelerators[key, ACCELERATOR.token_model]
            token_end(s, f, w, trace, m)
            settle(s, f, m)
            if s.models[m, MODEL.phase] == DRAINING and s.models[m, MODEL.running] == 0:
                work_channel(s, f, trace, key)
        elif priority == UNLOAD_DONE or priority == LOAD_DONE:
            channel_done(s, f, w, trace, key)
        elif priority == ARRIVAL:
            if s.scalars[CLOSED_SIZE] > 0 and s.closed[0, HEAP.request] == key:
                s.scalars[CLOSED_SIZE] -= 1
                heap_pop(s.closed, 0, s.scalars[CLOSED_SIZE])
            else:
                s.scalars[NEXT_OPEN] += 1
            arrive(s, f, w, trace, key)
            m = int64(w.columns[key, COLUMN.model])
            if s.models[m, MODEL.phase] == RESIDENT:
                settle(s, f, m)
        else:
            if timer_due(s, f, limits):
                s.scalars[DIRTY] = 1
            set_timer(s, f, limits)


@inlined
def cost_now(s: State, f: Fleet) -> float:
    """Weighted cost from time 0 until now."""
    now = s.scalars[CLOCK]
    cost = f.prices[0] * s.scalars[LOAD_US] * 1e-6 + f.prices[2] * s.scalars[REFUSED]
    for task in range(NUM_TASKS):
        cost += (
            f.weights[task, WEIGHT.ttft]
            * (s.tasks[task, TASK.waiting_sum] + s.tasks[task, TASK.waiting_count] * now)
            * 1e-6
        )
        cost += (
            f.weights[task, WEIGHT.e2e]
            * (s.tasks[task, TASK.system_sum] + s.tasks[task, TASK.system_count] * now)
            * 1e-6
        )
        cost += f.prices[1] * s.tasks[task, TASK.slo_missed]
    return cost


@inlined
def answer(s: State, f: Fleet, limits: Array, trace: Array, action: int) -> None:
    """Applies the policy's answer to an open question and counts the decision."""
    s.scalars[DECISIONS] += 1
    s.scalars[LAST_ASKED] = s.scalars[CLOCK]
    s.scalars[STATUS] = RUNNING
    act(s, f, limits, trace, action)


@compiled
def step(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, limits: Array, trace: Array, action: int
) -> int:
    """Applies a legal action, or starts the episode (BEGIN), and runs to the next question; returns the status."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    w = held(w)
    return advance(s, f, w, limits, trace, int64(action))


@compiled
def run_episode(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, rule: Rule, trace: Array, scratch: Scratch
) -> int:
    """A whole episode under a built-in rule, from time 0 to its end; returns the status."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    w, rule, scratch = held(w), held(rule), held(scratch)
    for m in range(len(f.models)):
        scratch.next_pointer[m] = rule.future_start[m]
    action = BEGIN
    while True:
        status = advance(s, f, w, rule.limits, trace, action)
        if status != ASKED:
            return status
        action = decide(s, f, w, rule, scratch)


@compiled
def read_cost(row: Array, at: Array, fleet: Array, fleet_at: Array) -> float:
    """Weighted cost of one environment from time 0 until its clock."""
    return cost_now(held(state_views(row, at)), held(fleet_views(fleet, fleet_at)))


@compiled
def read_features(row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, out: Array) -> None:
    """Raw slot features at a question, `out` (S, len(SLOT)) float64; rows of empty slots are zero."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    w = held(w)
    slide_window(s, w)
    weigh_pauses(s, f)
    out[:] = 0.0
    for a in range(len(f.accelerators)):
        missing = missing_bytes(s, f, a)
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            if s.slots[slot] != NONE:
                slot_features(s, f, slot, missing, out[slot])


@compiled
def read_models(row: Array, at: Array, fleet: Array, fleet_at: Array, out: Array) -> None:
    """Raw features of models at a question, `out` (M, len(PENDING)) float64; those not asked about are zero."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    weigh_pauses(s, f)
    out[:] = 0.0
    find_rooms(s, f)
    for m in range(len(f.models)):
        if is_pending(s, m) or m == s.scalars[TARGET] or (f.rules[R_SWAP] == 1 and s.legal[len(s.slots) + m] == 1):
            pending_features(s, f, m, out[m])


@compiled
def observe(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, scaling: Scaling, pending_rows: int, out: Array
) -> None:
    """The observation at a question, float32, laid out by `ObservationLayout`."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    w = held(w)
    slide_window(s, w)
    write_observation(s, f, held(scaling), pending_rows, out)
