"""Loads and evictions: the swap channel, the host cache, and evictions at the end of keep-alives."""

from __future__ import annotations

from typing import Any

from cace_env.compilation import inlined, outlined
from cace_env.kernel.events import admit, record, settle, settle_load, turn_pending
from cace_env.kernel.standing import channel_idle, forget, leave_line, next_pending, room_changed, schedule, warm
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    CACHED_BYTES,
    CLOCK,
    CLOCKS,
    DEMAND,
    DIRTY,
    DRAINING,
    EVICTIONS,
    FOREVER,
    IDLE,
    LIMIT,
    LINK,
    LOAD,
    LOAD_US,
    LOADED_BYTES,
    LOADING,
    LOADS,
    LONE_EVICTIONS,
    MODEL,
    NONE,
    NOT_YET,
    PENDING_MODELS,
    PLANNED,
    PREFETCHES,
    R_CACHE_BYTES,
    R_DRAIN_AFTER,
    R_SWAP,
    R_UNLOAD_COPIES,
    REGRET_US,
    REGRETS,
    RESIDENT,
    SITE,
    SPEC,
    SPEED,
    T_LOAD_DONE,
    T_LOAD_START,
    T_UNLOAD_DONE,
    T_UNLOAD_START,
    TAKEN,
    TIMER,
    TOUCHES,
    UNLOAD,
    UNLOADING,
    WOKEN,
    Fleet,
    Requests,
    State,
    int64,
)
from cace_env.tables import DISK, HOST

Array = Any
RENEW, INSERT = int64(0), int64(1)  # what a touch does to a model that is not in the host cache


# ---------------------------------------------------------------------------------------------------------------------
# Host cache


@inlined
def touch(s: State, f: Fleet, m: int, how: int) -> None:
    """Renews model m's entry in the host cache, or inserts it where wanted and possible."""
    s.scalars[TOUCHES] += 1
    if s.models[m, MODEL.touched] > 0:
        s.models[m, MODEL.touched] = s.scalars[TOUCHES]
        forget(s, m)
        warm(s, m)
    elif how == INSERT:
        insert(s, f, m)


@outlined
def insert(s: State, f: Fleet, m: int) -> None:
    """Puts model m into the host cache if what may be dropped makes room for it: not what is planned or loading."""
    size = f.models[m, SPEC.weights]
    room = f.rules[R_CACHE_BYTES] - s.scalars[CACHED_BYTES]
    if size > f.rules[R_CACHE_BYTES]:
        return
    if size > room:
        kept = 0
        for a in range(len(f.accelerators)):
            target = s.accelerators[a, ACCELERATOR.swap_target]
            if target != NONE and s.models[target, MODEL.touched] > 0:
                kept += f.models[target, SPEC.weights]
        if size > f.rules[R_CACHE_BYTES] - kept:
            return
    oldest = s.links[len(f.models), LINK.warmer]
    while size > room:
        warmer = s.links[oldest, LINK.warmer]
        phase = s.models[oldest, MODEL.phase]
        if phase != PLANNED and phase != LOADING:
            forget(s, oldest)
            s.models[oldest, MODEL.touched] = 0
            s.scalars[CACHED_BYTES] -= f.models[oldest, SPEC.weights]
            room += f.models[oldest, SPEC.weights]
        oldest = warmer
    warm(s, m)
    s.models[m, MODEL.touched] = s.scalars[TOUCHES]
    s.scalars[CACHED_BYTES] += size


@inlined
def tier_of(s: State, f: Fleet, m: int, a: int) -> int:
    """Where model m would be loaded from, onto accelerator a, now."""
    return (
        HOST
        if s.models[m, MODEL.touched] > 0 and (f.models[m, SPEC.residual] == 0 or s.models[m, MODEL.asleep] == a)
        else DISK
    )


@inlined
def tier_after_eviction(s: State, f: Fleet, m: int) -> int:
    """Where resident model m would be loaded from after an eviction now, ignoring what the cache would have to drop."""
    fits = f.models[m, SPEC.weights] <= f.rules[R_CACHE_BYTES]
    return HOST if s.models[m, MODEL.touched] > 0 or (f.rules[R_UNLOAD_COPIES] == 1 and fits) else DISK


@inlined
def greedy_dual(s: State, f: Fleet, m: int) -> float:
    """Priority by GreedyDual-Size-Frequency (Cherkasova, HPL-98-69): clock + uses * cost / size.

    The clock is that at the last use, uses count since the load, cost is the reload [s], size what is freed [GB].
    """
    am = s.models[m, MODEL.place] * len(f.models) + m
    reload_s = f.speeds[am, SPEED.load_host + tier_after_eviction(s, f, m)] * 1e-6
    freed_gb = (f.models[m, SPEC.need] - f.models[m, SPEC.residual]) * 1e-9
    return s.demand[m, DEMAND.inflation] + s.models[m, MODEL.uses_since_load] * reload_s / freed_gb


# ---------------------------------------------------------------------------------------------------------------------
# The swap channel


@inlined
def own_residual(s: State, f: Fleet, m: int, a: int) -> int:
    """Bytes of model m that already lie on accelerator a."""
    return f.models[m, SPEC.residual] if s.models[m, MODEL.asleep] == a else 0


@inlined
def take_slot(s: State, f: Fleet, m: int, a: int) -> None:
    """The lowest free slot of accelerator a is model m's."""
    slot = f.accelerators[a, SITE.first_slot]
    while s.slots[slot] != NONE:
        slot += 1
    s.slots[slot] = m
    s.models[m, MODEL.slot] = slot
    s.models[m, MODEL.place] = a


@outlined
def occupy(s: State, f: Fleet, a: int, m: int) -> None:
    """Model m takes its memory on accelerator a and gives up its residual, which may be all that others lacked."""
    while True:
        now = float(s.scalars[CLOCK])
        home = s.models[m, MODEL.asleep]
        s.accelerators[a, ACCELERATOR.taken] = WOKEN if home == a else TAKEN
        s.accelerators[a, ACCELERATOR.free] -= f.models[m, SPEC.need]
        room_changed(s, a)
        s.clocks[CLOCKS.memory_use] -= f.models[m, SPEC.need] * now
        if home == NONE:
            return
        s.accelerators[home, ACCELERATOR.free] += f.models[m, SPEC.residual]
        room_changed(s, home)
        s.clocks[CLOCKS.memory_use] += f.models[m, SPEC.residual] * now
        s.models[m, MODEL.asleep] = NONE
        s.scalars[DIRTY] = 1
        if home == a or not may_occupy(s, f, home):
            return
        a, m = home, s.accelerators[home, ACCELERATOR.swap_target]


@inlined
def may_occupy(s: State, f: Fleet, a: int) -> bool:
    """All victims of accelerator a's swap are chosen, and the memory of its target is free and not yet taken."""
    m = s.accelerators[a, ACCELERATOR.swap_target]
    return (
        m != NONE
        and s.accelerators[a, ACCELERATOR.swap_open] == 0
        and s.accelerators[a, ACCELERATOR.taken] == NOT_YET
        and s.accelerators[a, ACCELERATOR.free] + own_residual(s, f, m, a) >= f.models[m, SPEC.need]
    )


@outlined
def start_load(s: State, f: Fleet, trace: Array, a: int, m: int) -> None:
    """Takes the slot, fixes the tier and starts the load of model m on accelerator a, whose channel it owns."""
    now = s.scalars[CLOCK]
    if s.accelerators[a, ACCELERATOR.taken] == NOT_YET:
        occupy(s, f, a, m)
    wakes = f.models[m, SPEC.residual] == 0 or s.accelerators[a, ACCELERATOR.taken] == WOKEN
    tier = HOST if s.models[m, MODEL.touched] > 0 and wakes else DISK
    touch(s, f, m, RENEW)
    s.accelerators[a, ACCELERATOR.held] += 1
    take_slot(s, f, m, a)
    s.models[m, MODEL.phase] = LOADING
    load_us = f.speeds[a * len(f.models) + m, SPEED.load_host + tier]
    s.accelerators[a, ACCELERATOR.channel] = LOAD
    s.accelerators[a, ACCELERATOR.channel_model] = m
    s.accelerators[a, ACCELERATOR.channel_end] = now + load_us
    s.accelerators[a, ACCELERATOR.channel_tier] = tier
    schedule(s, a)
    room_changed(s, a)
    s.scalars[LOADS] += 1
    s.scalars[LOAD_US] += load_us
    s.scalars[LOADED_BYTES] += f.models[m, SPEC.weights]
    if now - s.models[m, MODEL.evicted_at] < REGRET_US:
        s.scalars[REGRETS] += 1
    record(s, trace, T_LOAD_START, m, a)
    settle_load(s, f, a)


@inlined
def own_channel(s: State, a: int, m: int) -> None:
    """Gives accelerator a's channel to the swap that brings model m."""
    s.accelerators[a, ACCELERATOR.swap_target] = m
    s.accelerators[a, ACCELERATOR.channel_us] -= s.scalars[CLOCK]
    s.models[m, MODEL.phase] = PLANNED
    room_changed(s, a)
    if s.models[m, MODEL.waiting] > 0:
        leave_line(s, m)
        s.scalars[PENDING_MODELS] -= 1
    else:
        s.scalars[PREFETCHES] += 1


@inlined
def load_done(s: State, f: Fleet, w: Requests, trace: Array, a: int) -> None:
    """The model is resident, the channel free; what waits is admitted."""
    now = s.scalars[CLOCK]
    m = s.accelerators[a, ACCELERATOR.channel_model]
    s.accelerators[a, ACCELERATOR.channel] = IDLE
    s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
    s.accelerators[a, ACCELERATOR.swap_target] = NONE
    s.accelerators[a, ACCELERATOR.taken] = NOT_YET
    s.accelerators[a, ACCELERATOR.channel_us] += now
    s.models[m, MODEL.phase] = RESIDENT
    s.models[m, MODEL.loads] += 1
    s.models[m, MODEL.loaded_at] = now
    if s.models[m, MODEL.uses] == 0:  # loaded before any request for it
        s.models[m, MODEL.last_use] = now
    s.models[m, MODEL.uses_since_load] = s.models[m, MODEL.waiting]
    s.demand[m, DEMAND.inflation] = s.clocks[CLOCKS.inflation]
    record(s, trace, T_LOAD_DONE, m, a)
    if s.accelerators[a, ACCELERATOR.channel_tier] == DISK:
        touch(s, f, m, INSERT)
    s.models[m, MODEL.idle_since] = now
    admit(s, f, w, trace, m)
    settle(s, f, m)  # which schedules what comes next here
    settle_load(s, f, a)
    s.scalars[DIRTY] = 1


@inlined
def start_unload(s: State, f: Fleet, trace: Array, a: int, m: int) -> bool:
    """Starts to unload model m; True if that took no time and is over."""
    now = s.scalars[CLOCK]
    s.models[m, MODEL.phase] = UNLOADING
    s.scalars[EVICTIONS] += 1
    record(s, trace, T_UNLOAD_START, m, a)
    unload_us = f.speeds[a * len(f.models) + m, SPEED.unload_us]
    if unload_us == 0:
        unload_done(s, f, trace, a, m)
        return True
    s.accelerators[a, ACCELERATOR.channel] = UNLOAD
    s.accelerators[a, ACCELERATOR.channel_model] = m
    s.accelerators[a, ACCELERATOR.channel_end] = now + unload_us
    schedule(s, a)
    room_changed(s, a)
    return False


@outlined
def unload_done(s: State, f: Fleet, trace: Array, a: int, m: int) -> None:
    """Model m has left accelerator a: its memory is free but for the residual; pending if a request waits for it."""
    now = s.scalars[CLOCK]
    freed = f.models[m, SPEC.need] - f.models[m, SPEC.residual]
    s.accelerators[a, ACCELERATOR.free] += freed
    room_changed(s, a)
    s.clocks[CLOCKS.memory_use] += freed * float(now)
    s.accelerators[a, ACCELERATOR.held] -= 1
    if f.models[m, SPEC.residual] > 0:
        s.models[m, MODEL.asleep] = a
    s.slots[s.models[m, MODEL.slot]] = NONE
    s.models[m, MODEL.slot] = NONE
    s.models[m, MODEL.place] = NONE
    s.models[m, MODEL.phase] = ABSENT
    s.models[m, MODEL.evicted_at] = now
    s.demand[m, DEMAND.prefix_tokens] = 0.0
    s.models[m, MODEL.uses_since_load] = 0
    record(s, trace, T_UNLOAD_DONE, m, a)
    touch(s, f, m, f.rules[R_UNLOAD_COPIES])
    if s.models[m, MODEL.lone] == 1:
        s.models[m, MODEL.lone] = 0
    else:
        s.accelerators[a, ACCELERATOR.leaving] -= 1
    if s.models[m, MODEL.waiting] > 0:
        turn_pending(s, f, m)
    s.scalars[DIRTY] = 1


@outlined
def work_channel(s: State, f: Fleet, trace: Array, a: int) -> None:
    """Lets the swap on accelerator a go on: chosen victims that run nothing unload in turn, then it loads.

    Its target takes its memory as soon as that is free, which may be before the last victim has left.
    """
    while True:
        if may_occupy(s, f, a):
            occupy(s, f, a, s.accelerators[a, ACCELERATOR.swap_target])
        if s.accelerators[a, ACCELERATOR.channel] != IDLE or s.accelerators[a, ACCELERATOR.swap_target] == NONE:
            return
        if s.accelerators[a, ACCELERATOR.leaving] == 0:
            if s.accelerators[a, ACCELERATOR.swap_open] == 0:
                start_load(s, f, trace, a, s.accelerators[a, ACCELERATOR.swap_target])
            return
        first = NONE
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            m = s.slots[slot]
            leaves = m != NONE and s.models[m, MODEL.phase] == DRAINING and s.models[m, MODEL.running] == 0
            if leaves and (first == NONE or s.models[m, MODEL.rank] < s.models[first, MODEL.rank]):
                first = m
        if first == NONE or not start_unload(s, f, trace, a, first):
            return


@outlined
def channel_done(s: State, f: Fleet, w: Requests, trace: Array, a: int) -> None:
    """The end of the unload or load in progress on accelerator a."""
    if s.accelerators[a, ACCELERATOR.channel] == LOAD:
        load_done(s, f, w, trace, a)
        return
    m = s.accelerators[a, ACCELERATOR.channel_model]
    lone = s.models[m, MODEL.lone] == 1
    s.accelerators[a, ACCELERATOR.channel] = IDLE
    s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
    schedule(s, a)
    unload_done(s, f, trace, a, m)
    if lone:
        s.accelerators[a, ACCELERATOR.channel_us] += s.scalars[CLOCK]
    else:
        work_channel(s, f, trace, a)


@inlined
def patience_us(f: Fleet, limits: Array) -> int:
    """How long a model is pending until time alone matters: busy victims are legal, or a rule thinks again."""
    return limits[LIMIT.patience_us] if f.rules[R_SWAP] == 1 else f.rules[R_DRAIN_AFTER]


@inlined
def any_timer(f: Fleet, limits: Array) -> bool:
    """Whether the timer has to be set where an instant ends, not only where a model turns pending."""
    return limits[LIMIT.any_keep_alive] == 1 or (f.rules[R_SWAP] == 1 and limits[LIMIT.patience_us] < FOREVER)


@inlined
def is_idle(s: State, f: Fleet, m: int) -> bool:
    """Resident, unpinned, nothing admitted and nothing waiting: evicting it makes no request wait now."""
    return (
        s.models[m, MODEL.phase] == RESIDENT
        and s.models[m, MODEL.running] == 0
        and s.models[m, MODEL.waiting] == 0
        and f.models[m, SPEC.pinned_on] == NONE
    )


@outlined
def expire(s: State, f: Fleet, limits: Array, trace: Array) -> None:
    """Starts the lone unloads that are due, on idle channels, in order of (due time, model)."""
    now = s.scalars[CLOCK]
    for a in range(len(f.accelerators)):
        while channel_idle(s, a):
            first = NONE
            first_due = FOREVER
            for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
                m = s.slots[slot]
                if m == NONE or limits[LIMIT.keep_alive_us + m] == FOREVER or not is_idle(s, f, m):
                    continue
                due = s.models[m, MODEL.idle_since] + limits[LIMIT.keep_alive_us + m]
                if due <= now and (due < first_due or (due == first_due and m < first)):
                    first = m
                    first_due = due
            if first == NONE:
                break
            s.models[first, MODEL.lone] = 1
            s.scalars[LONE_EVICTIONS] += 1
            if not start_unload(s, f, trace, a, first):
                s.accelerators[a, ACCELERATOR.channel_us] -= now


@inlined
def next_timer(s: State, f: Fleet, limits: Array, least: int) -> int:
    """The first moment, not before `least`, at which time alone may matter: a drain_after, patience or keep-alive."""
    timer = FOREVER
    patience = patience_us(f, limits)
    m = next_pending(s, NONE)
    while m != NONE:
        due = s.models[m, MODEL.pending_since] + patience
        if due >= least:
            timer = min(timer, due)
        m = next_pending(s, m)
    if limits[LIMIT.any_keep_alive] == 1:
        for m in range(len(f.models)):
            if limits[LIMIT.keep_alive_us + m] < FOREVER and is_idle(s, f, m):
                due = s.models[m, MODEL.idle_since] + limits[LIMIT.keep_alive_us + m]
                if due >= least:
                    timer = min(timer, due)
    return timer


@outlined
def timer_due(s: State, f: Fleet, limits: Array) -> bool:
    """Whether the timer that goes off was not set for what has changed since."""
    return next_timer(s, f, limits, s.scalars[CLOCK]) == s.scalars[CLOCK]


@outlined
def set_timer(s: State, f: Fleet, limits: Array) -> None:
    """The next moment at which time alone may allow something."""
    s.scalars[TIMER] = next_timer(s, f, limits, s.scalars[CLOCK] + 1)
