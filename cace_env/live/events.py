"""What happens to real servers, written into the state that the simulator keeps.

The simulator computes when an event comes; here the world says so. What an event does to the state is the kernel's own
code wherever the kernel has it: arrival, admission, prefix cache, finish, end of a load or unload, keep-alives, timers,
placement and questions (`docs/design.md`). Three things are different:

- tokens come when the server sends them, so engines have no clock: `length_ns` stays 0, and `decode_start_sum` is minus
  the tokens that running requests have received after their first, in 2^-20 tokens;
- a request may be given up, by its client or by the server;
- a load may fail.
"""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import compiled, inlined, outlined
from cace_env.held import held
from cace_env.kernel.events import admit, arrive, finish, pause, slide_window
from cace_env.kernel.events import first_token as serve_first_token
from cace_env.kernel.placement import place
from cace_env.kernel.run import answer, reset_state
from cace_env.kernel.standing import leave_line, line_up, room_changed
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    ASKED,
    CLOCK,
    COLUMN,
    DEMAND,
    DIRTY,
    DRAINING,
    FOREVER,
    IDLE,
    LIMIT,
    MODEL,
    NONE,
    NOT_YET,
    PENDING_MODELS,
    R_PREFETCH_LIMIT,
    REQUEST,
    RESIDENT,
    RUNNING,
    STATUS,
    TARGET,
    TASK,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)
from cace_env.kernel.swaps import any_timer, channel_done, expire, set_timer, timer_due, unload_done, work_channel

Array = Any
# What `happen` is told, and of what: a request, an accelerator, or an action.
BEGIN, ARRIVED, FIRST_TOKEN, FINISHED, GIVEN_UP, CHANNEL_DONE, LOAD_FAILED, ALARM, ANSWERED, INSTANT_ENDS = (
    int64(kind) for kind in range(10)
)
NOBODY: Final = NONE  # the subject of what happens to no one


@compiled
def happen(
    row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, limits: Array, trace: Array, now: int, kind: int,
    subject: int,
) -> Any:  # fmt: skip
    """Writes one event into the state; the status: ASKED if a question is open.

    After the last event of an instant, `INSTANT_ENDS` places models or asks the policy. The clock must not go back.

    Args:
        row: with the offsets `at`, and `fleet`, `fleet_at` and `w`, as for the kernel's entry points.
        at: see `row`.
        fleet: see `row`.
        fleet_at: see `row`.
        w: see `row`.
        limits: of the policy.
        trace: rows are added while there is room.
        now: [us].
        kind: BEGIN to INSTANT_ENDS.
        subject: a request, an accelerator (CHANNEL_DONE, LOAD_FAILED), an action (ANSWERED), or NOBODY.
    """
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    w = held(w)
    if kind == BEGIN:
        reset_state(s, f)
        return s.scalars[STATUS]
    s.scalars[CLOCK] = now
    slide_window(s, w)
    if kind == ARRIVED:
        arrive(s, f, w, trace, int64(subject))
    elif kind == FIRST_TOKEN:
        begin_decoding(s, f, w, trace, int64(subject))
    elif kind == FINISHED:
        leave(s, f, w, trace, int64(subject), True)
    elif kind == GIVEN_UP:
        leave(s, f, w, trace, int64(subject), False)
    elif kind == CHANNEL_DONE:
        channel_done(s, f, w, trace, int64(subject))
    elif kind == LOAD_FAILED:
        fail_load(s, f, trace, int64(subject))
    elif kind == ALARM:
        if timer_due(s, f, limits):
            s.scalars[DIRTY] = 1
        set_timer(s, f, limits)
    elif kind == ANSWERED:
        answer(s, f, limits, trace, int64(subject))
    stop_clocks(s, f)
    if kind == INSTANT_ENDS:
        end_instant(s, f, limits, trace)
    return s.scalars[STATUS]


@inlined
def end_instant(s: State, f: Fleet, limits: Array, trace: Array) -> None:
    """Keep-alives, timers and placement, as `cace_env.kernel.run.run_events` does it where an instant ends."""
    s.scalars[STATUS] = RUNNING
    while s.scalars[DIRTY] == 1:
        s.scalars[DIRTY] = 0
        if limits[LIMIT.any_keep_alive] == 1:
            expire(s, f, limits, trace)
        if any_timer(f, limits):
            set_timer(s, f, limits)
        if (s.scalars[PENDING_MODELS] > 0 or s.scalars[TARGET] != NONE or f.rules[R_PREFETCH_LIMIT] > 0) and place(
            s, f, limits, trace
        ):
            s.scalars[DIRTY] = 1
            s.scalars[STATUS] = ASKED
            return


@inlined
def begin_decoding(s: State, f: Fleet, w: Requests, trace: Array, r: int) -> None:
    """The first token of an admitted request."""
    m = int64(w.columns[r, COLUMN.model])
    serve_first_token(s, f, w, trace, m, r)
    s.models[m, MODEL.decoding] += 1


@outlined
def leave(s: State, f: Fleet, w: Requests, trace: Array, r: int, whole: bool) -> None:
    """A request ends: with its last token (`whole`), or given up at any time after its arrival."""
    m = int64(w.columns[r, COLUMN.model])
    task = w.columns[r, COLUMN.task]
    now = s.scalars[CLOCK]
    waits = False
    if not whole:
        if s.requests[r, REQUEST.first_us] == NONE:
            s.tasks[task, TASK.waiting_sum] += now
            s.tasks[task, TASK.waiting_count] -= 1
        waits = is_queued(s, m, r)
    if waits:
        pending = s.models[m, MODEL.phase] == ABSENT
        if pending:
            leave_line(s, m)
        unqueue(s, m, r)
        s.tasks[task, TASK.system_sum] += now
        s.tasks[task, TASK.system_count] -= 1
        s.requests[r, REQUEST.finish_us] = now
        pause(s, w, m, r)
        if pending and s.models[m, MODEL.waiting] == 0:
            s.scalars[PENDING_MODELS] -= 1
        elif pending:
            line_up(s, m)  # by the request that is its oldest now
        if s.models[m, MODEL.phase] == RESIDENT:
            admit(s, f, w, trace, m)  # it may have been the one that did not fit
        s.scalars[DIRTY] = 1
        return
    if s.requests[r, REQUEST.first_us] != NONE:
        s.models[m, MODEL.decoding] -= 1
    mean_output = s.demand[m, DEMAND.mean_output]
    finish(s, f, w, trace, m, r)
    if not whole:  # how long the answer would have been is not known
        s.demand[m, DEMAND.mean_output] = mean_output
    if s.models[m, MODEL.phase] == DRAINING and s.models[m, MODEL.running] == 0:
        work_channel(s, f, trace, s.models[m, MODEL.place])


@inlined
def is_queued(s: State, m: int, r: int) -> bool:
    """Whether request r waits in the queue of model m."""
    each = s.models[m, MODEL.queue_head]
    for _ in range(s.models[m, MODEL.waiting]):
        if each == r:
            return True
        each = s.requests[each, REQUEST.queue_next]
    return False


@inlined
def unqueue(s: State, m: int, r: int) -> None:
    """Takes a waiting request out of its queue."""
    last = NONE
    each = s.models[m, MODEL.queue_head]
    while each != r:
        last = each
        each = s.requests[each, REQUEST.queue_next]
    behind = s.requests[r, REQUEST.queue_next]
    if last == NONE:
        s.models[m, MODEL.queue_head] = behind
    else:
        s.requests[last, REQUEST.queue_next] = behind
    if s.models[m, MODEL.queue_tail] == r:
        s.models[m, MODEL.queue_tail] = last
    s.models[m, MODEL.waiting] -= 1


@inlined
def fail_load(s: State, f: Fleet, trace: Array, a: int) -> None:
    """The load in progress on accelerator a has failed: its model is absent again, as after an unload."""
    m = s.accelerators[a, ACCELERATOR.channel_model]
    s.accelerators[a, ACCELERATOR.channel] = IDLE
    s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
    s.accelerators[a, ACCELERATOR.swap_target] = NONE
    s.accelerators[a, ACCELERATOR.taken] = NOT_YET
    s.models[m, MODEL.lone] = 1
    unload_done(s, f, trace, a, m)


@inlined
def stop_clocks(s: State, f: Fleet) -> None:
    """Engines have no clock and no work ahead that is known; busy is who has an admitted request."""
    for a in range(len(f.accelerators)):
        s.accelerators[a, ACCELERATOR.busy] = 0
        s.accelerators[a, ACCELERATOR.busy_us] = 0
        s.accelerators[a, ACCELERATOR.token_due] = FOREVER
        s.accelerators[a, ACCELERATOR.token_model] = NONE
        room_changed(s, int64(a))
    for m in range(len(f.models)):
        model = s.models[m]
        if model[MODEL.running] > 0:
            s.accelerators[model[MODEL.place], ACCELERATOR.busy] += 1
        model[MODEL.length_ns] = 0
        model[MODEL.due_us] = FOREVER
        model[MODEL.heap_size] = 0
        model[MODEL.prefilling] = 0
        model[MODEL.prefill_ns] = 0
        model[MODEL.prefill_head] = NONE
        model[MODEL.prefill_tail] = NONE
