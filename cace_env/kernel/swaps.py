"""Loads and evictions: the swap channel, the host cache, who is placed where, and who may be evicted.

`place` is the decision protocol of Eviction-v0 (`docs/design.md`, section 5): it acts until nothing can be placed or
the policy must be asked; `choose` applies an answer.
"""

from __future__ import annotations

from typing import Any

from cace_env.compilation import inlined, inner
from cace_env.kernel.events import admit, record, settle, turn_pending
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    CACHED_BYTES,
    CLOCK,
    CLOCKS,
    DEMAND,
    DIRTY,
    DRAINING,
    DRAINS,
    EVICTIONS,
    FIXED,
    FORCED,
    FOREVER,
    IDLE,
    LEGAL,
    LOAD,
    LOAD_US,
    LOADED_BYTES,
    LOADING,
    LOADS,
    LONE_EVICTIONS,
    MODEL,
    NONE,
    PENDING,
    PLANNED,
    R_CACHE_BYTES,
    R_DRAIN_AFTER,
    R_SPREAD,
    R_UNLIMITED,
    R_UNLOAD_COPIES,
    RANKS,
    REGRET_US,
    REGRETS,
    REQUEST,
    RESIDENT,
    SITE,
    SLOT,
    SPEC,
    SPEED,
    T_LOAD_DONE,
    T_LOAD_START,
    T_UNLOAD_DONE,
    T_UNLOAD_START,
    T_VICTIM,
    TARGET,
    TIMER,
    TOUCHES,
    UNLOAD,
    UNLOADING,
    Fleet,
    Requests,
    State,
    int64,
)
from cace_env.tables import DISK, HOST

Array = Any
RENEW, INSERT = int64(0), int64(1)  # what a touch does to a model that is not in the host cache
IDLE_ONLY, BUSY_TOO = int64(0), int64(1)  # who may be evicted


# ---------------------------------------------------------------------------------------------------------------------
# Host cache


@inlined
def touch(s: State, f: Fleet, m: int, how: int) -> None:
    """Renews model m's entry in the host cache, or inserts it where wanted and possible."""
    s.scalars[TOUCHES] += 1
    if s.models[m, MODEL.touched] > 0:
        s.models[m, MODEL.touched] = s.scalars[TOUCHES]
    elif how == INSERT:
        insert(s, f, m)


@inlined
def may_drop(s: State, m: int) -> bool:
    """Model m's entry is in the host cache, and nobody is about to load it."""
    phase = s.models[m, MODEL.phase]
    return s.models[m, MODEL.touched] > 0 and phase != PLANNED and phase != LOADING


@inner
def insert(s: State, f: Fleet, m: int) -> None:
    """Puts model m into the host cache if what may be dropped makes room for it."""
    size = f.models[m, SPEC.weights]
    room = f.rules[R_CACHE_BYTES] - s.scalars[CACHED_BYTES]
    if size > f.rules[R_CACHE_BYTES]:
        return
    droppable = 0
    for other in range(len(f.models)):
        if may_drop(s, other):
            droppable += f.models[other, SPEC.weights]
    if size > room + droppable:
        return
    while size > room:
        oldest = NONE
        for other in range(len(f.models)):
            older = oldest == NONE or s.models[other, MODEL.touched] < s.models[oldest, MODEL.touched]
            if older and may_drop(s, other):
                oldest = other
        s.models[oldest, MODEL.touched] = 0
        s.scalars[CACHED_BYTES] -= f.models[oldest, SPEC.weights]
        room += f.models[oldest, SPEC.weights]
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
    while s.slots[slot, SLOT.model] != NONE:
        slot += 1
    s.slots[slot, SLOT.model] = m
    s.models[m, MODEL.slot] = slot
    s.models[m, MODEL.place] = a


@inlined
def start_load(s: State, f: Fleet, trace: Array, a: int, m: int) -> None:
    """Takes memory and slot, fixes the tier and starts the load of model m on accelerator a, whose channel it owns."""
    now = s.scalars[CLOCK]
    tier = tier_of(s, f, m, a)
    touch(s, f, m, RENEW)
    if s.models[m, MODEL.asleep] != NONE:
        s.accelerators[s.models[m, MODEL.asleep], ACCELERATOR.free] += f.models[m, SPEC.residual]
        s.clocks[CLOCKS.memory_use] += f.models[m, SPEC.residual] * float(now)
        s.models[m, MODEL.asleep] = NONE
        s.scalars[DIRTY] = 1
    s.accelerators[a, ACCELERATOR.free] -= f.models[m, SPEC.need]
    s.clocks[CLOCKS.memory_use] -= f.models[m, SPEC.need] * float(now)
    s.accelerators[a, ACCELERATOR.held] += 1
    take_slot(s, f, m, a)
    s.models[m, MODEL.phase] = LOADING
    load_us = f.speeds[a * len(f.models) + m, SPEED.load_host + tier]
    s.accelerators[a, ACCELERATOR.channel] = LOAD
    s.accelerators[a, ACCELERATOR.channel_model] = m
    s.accelerators[a, ACCELERATOR.channel_end] = now + load_us
    s.accelerators[a, ACCELERATOR.channel_tier] = tier
    s.scalars[LOADS] += 1
    s.scalars[LOAD_US] += load_us
    s.scalars[LOADED_BYTES] += f.models[m, SPEC.weights]
    if now - s.models[m, MODEL.evicted_at] < REGRET_US:
        s.scalars[REGRETS] += 1
    record(s, trace, T_LOAD_START, m, a)


@inlined
def own_channel(s: State, a: int, m: int) -> None:
    """Gives accelerator a's channel to the swap that brings model m."""
    s.accelerators[a, ACCELERATOR.swap_target] = m
    s.accelerators[a, ACCELERATOR.channel_us] -= s.scalars[CLOCK]
    s.models[m, MODEL.phase] = PLANNED
    s.scalars[PENDING] -= 1


@inlined
def load_done(s: State, f: Fleet, w: Requests, trace: Array, a: int) -> None:
    """The model is resident, the channel free; what waits is admitted."""
    now = s.scalars[CLOCK]
    m = s.accelerators[a, ACCELERATOR.channel_model]
    s.accelerators[a, ACCELERATOR.channel] = IDLE
    s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
    s.accelerators[a, ACCELERATOR.swap_target] = NONE
    s.accelerators[a, ACCELERATOR.channel_us] += now
    s.models[m, MODEL.phase] = RESIDENT
    s.models[m, MODEL.loads] += 1
    s.models[m, MODEL.loaded_at] = now
    s.models[m, MODEL.uses_since_load] = s.models[m, MODEL.waiting]
    s.demand[m, DEMAND.inflation] = s.clocks[CLOCKS.inflation]
    record(s, trace, T_LOAD_DONE, m, a)
    if s.accelerators[a, ACCELERATOR.channel_tier] == DISK:
        touch(s, f, m, INSERT)
    s.models[m, MODEL.idle_since] = now
    admit(s, f, w, trace, m)
    settle(s, f, m)
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
    return False


@inlined
def unload_done(s: State, f: Fleet, trace: Array, a: int, m: int) -> None:
    """Model m has left accelerator a: its memory is free but for the residual; pending if somebody waits for it."""
    now = s.scalars[CLOCK]
    freed = f.models[m, SPEC.need] - f.models[m, SPEC.residual]
    s.accelerators[a, ACCELERATOR.free] += freed
    s.clocks[CLOCKS.memory_use] += freed * float(now)
    s.accelerators[a, ACCELERATOR.held] -= 1
    if f.models[m, SPEC.residual] > 0:
        s.models[m, MODEL.asleep] = a
    s.slots[s.models[m, MODEL.slot], SLOT.model] = NONE
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


@inner
def work_channel(s: State, f: Fleet, trace: Array, a: int) -> None:
    """Lets the swap on accelerator a go on: chosen victims that run nothing unload in turn, then it loads."""
    while s.accelerators[a, ACCELERATOR.channel] == IDLE and s.accelerators[a, ACCELERATOR.swap_target] != NONE:
        if s.accelerators[a, ACCELERATOR.leaving] == 0:
            if s.accelerators[a, ACCELERATOR.swap_open] == 0:
                start_load(s, f, trace, a, s.accelerators[a, ACCELERATOR.swap_target])
            return
        first = NONE
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            m = s.slots[slot, SLOT.model]
            leaves = m != NONE and s.models[m, MODEL.phase] == DRAINING and s.models[m, MODEL.running] == 0
            if leaves and (first == NONE or s.models[m, MODEL.rank] < s.models[first, MODEL.rank]):
                first = m
        if first == NONE or not start_unload(s, f, trace, a, first):
            return


@inlined
def channel_done(s: State, f: Fleet, w: Requests, trace: Array, a: int) -> None:
    """The end of the unload or load in progress on accelerator a."""
    if s.accelerators[a, ACCELERATOR.channel] == LOAD:
        load_done(s, f, w, trace, a)
        return
    m = s.accelerators[a, ACCELERATOR.channel_model]
    lone = s.models[m, MODEL.lone] == 1
    s.accelerators[a, ACCELERATOR.channel] = IDLE
    s.accelerators[a, ACCELERATOR.channel_end] = FOREVER
    unload_done(s, f, trace, a, m)
    if lone:
        s.accelerators[a, ACCELERATOR.channel_us] += s.scalars[CLOCK]
    else:
        work_channel(s, f, trace, a)


@inlined
def clear_legal(s: State) -> None:
    """No victim is legal."""
    for slot in range(len(s.slots)):
        s.slots[slot, SLOT.legal] = 0


@inlined
def most_resident(f: Fleet, limits: Array) -> int:
    """How many models a rule allows on an accelerator; stands behind its keep-alives."""
    return limits[len(f.models)]


@inlined
def any_keep_alive(f: Fleet, limits: Array) -> bool:
    """Whether a rule's keep-alives can ever run out."""
    return limits[len(f.models) + 1] == 1


@inlined
def is_idle(s: State, f: Fleet, m: int) -> bool:
    """Resident, unpinned, nothing admitted and nothing waiting: evicting it makes nobody wait now."""
    return (
        s.models[m, MODEL.phase] == RESIDENT
        and s.models[m, MODEL.running] == 0
        and s.models[m, MODEL.waiting] == 0
        and f.models[m, SPEC.pinned_on] == NONE
    )


@inlined
def channel_idle(s: State, a: int) -> bool:
    """No swap and no lone unload on accelerator a."""
    return s.accelerators[a, ACCELERATOR.swap_target] == NONE and s.accelerators[a, ACCELERATOR.channel] == IDLE


@inlined
def expire(s: State, f: Fleet, limits: Array, trace: Array) -> None:
    """Starts the lone unloads that are due, on idle channels, in order of (due time, model)."""
    now = s.scalars[CLOCK]
    for a in range(len(f.accelerators)):
        while channel_idle(s, a):
            first = NONE
            for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
                m = s.slots[slot, SLOT.model]
                if (
                    m != NONE
                    and limits[m] < FOREVER
                    and is_idle(s, f, m)
                    and s.models[m, MODEL.idle_since] + limits[m] <= now
                ):
                    due = s.models[m, MODEL.idle_since] + limits[m]
                    if (
                        first == NONE
                        or due < s.models[first, MODEL.idle_since] + limits[first]
                        or (due == s.models[first, MODEL.idle_since] + limits[first] and m < first)
                    ):
                        first = m
            if first == NONE:
                break
            s.models[first, MODEL.lone] = 1
            s.scalars[LONE_EVICTIONS] += 1
            if not start_unload(s, f, trace, a, first):
                s.accelerators[a, ACCELERATOR.channel_us] -= now


@inner
def set_timer(s: State, f: Fleet, limits: Array) -> None:
    """The next moment at which time alone may allow something: a drain or the end of a keep-alive."""
    now = s.scalars[CLOCK]
    timer = FOREVER
    for m in range(len(f.models)):
        if s.models[m, MODEL.phase] == ABSENT and s.models[m, MODEL.waiting] > 0:
            due = s.models[m, MODEL.pending_since] + f.rules[R_DRAIN_AFTER]
            if due > now:
                timer = min(timer, due)
        elif limits[m] < FOREVER and is_idle(s, f, m):
            due = s.models[m, MODEL.idle_since] + limits[m]
            if due > now:
                timer = min(timer, due)
    s.scalars[TIMER] = timer


# ---------------------------------------------------------------------------------------------------------------------
# Who is placed, who may be evicted


@inner
def mark_victims(s: State, f: Fleet, limits: Array, a: int, m: int, who: int) -> int:
    """Marks who may leave accelerator a for model m, if all of them suffice; returns how many, 0 if they do not."""
    room = s.accelerators[a, ACCELERATOR.free] + own_residual(s, f, m, a)
    held = s.accelerators[a, ACCELERATOR.held]
    count = 0
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        v = s.slots[slot, SLOT.model]
        if v == NONE:
            continue
        if s.models[v, MODEL.phase] == DRAINING or s.models[v, MODEL.phase] == UNLOADING:
            room += f.models[v, SPEC.need] - f.models[v, SPEC.residual]
            held -= 1
        elif is_idle(s, f, v) or (
            who == BUSY_TOO and s.models[v, MODEL.phase] == RESIDENT and f.models[v, SPEC.pinned_on] == NONE
        ):
            room += f.models[v, SPEC.need] - f.models[v, SPEC.residual]
            held -= 1
            count += 1
    if room < f.models[m, SPEC.need] or held + 1 > most_resident(f, limits):
        return 0
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        v = s.slots[slot, SLOT.model]
        if v != NONE and (
            is_idle(s, f, v)
            or (who == BUSY_TOO and s.models[v, MODEL.phase] == RESIDENT and f.models[v, SPEC.pinned_on] == NONE)
        ):
            s.slots[slot, SLOT.legal] = 1
    return count


@inlined
def suffices(s: State, f: Fleet, limits: Array, a: int, m: int) -> bool:
    """Model m fits on accelerator a once the victims chosen so far have left."""
    room = s.accelerators[a, ACCELERATOR.free] + own_residual(s, f, m, a)
    held = s.accelerators[a, ACCELERATOR.held]
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        v = s.slots[slot, SLOT.model]
        if v != NONE and (s.models[v, MODEL.phase] == DRAINING or s.models[v, MODEL.phase] == UNLOADING):
            room += f.models[v, SPEC.need] - f.models[v, SPEC.residual]
            held -= 1
    return room >= f.models[m, SPEC.need] and held + 1 <= most_resident(f, limits)


@inlined
def roomiest(s: State, f: Fleet, limits: Array, m: int) -> int:
    """The accelerator on which model m fits now, by the placement rule, or NONE."""
    best = NONE
    best_left = 0
    for a in range(len(f.accelerators)):
        if not channel_idle(s, a):
            continue
        left = s.accelerators[a, ACCELERATOR.free] + own_residual(s, f, m, a) - f.models[m, SPEC.need]
        if f.rules[R_UNLIMITED] == 1:
            better = (
                best == NONE
                or left > best_left
                or (left == best_left and s.accelerators[a, ACCELERATOR.held] < s.accelerators[best, ACCELERATOR.held])
            )
        elif left < 0 or s.accelerators[a, ACCELERATOR.held] + 1 > most_resident(f, limits):
            continue
        elif f.rules[R_SPREAD] == 1:
            better = best == NONE or left > best_left
        else:
            better = best == NONE or left < best_left
        if better:
            best = a
            best_left = left
    return best


@inlined
def place(s: State, f: Fleet, limits: Array, trace: Array) -> bool:
    """Places pending models until nothing can be placed (False) or the policy must choose a victim (True)."""
    while True:
        if s.scalars[TARGET] == NONE and not consider(s, f, limits, trace):
            return False
        if s.scalars[TARGET] == NONE:
            continue
        if s.scalars[LEGAL] > 1:
            return True
        for slot in range(len(s.slots)):
            if s.slots[slot, SLOT.legal] == 1:
                s.scalars[FORCED] += 1
                choose(s, f, limits, trace, slot)
                break


@inlined
def next_pending(s: State, f: Fleet, last: int, target: int) -> int:
    """The pending model after `last` (NONE: the first) by its oldest waiting request, or NONE; or the target."""
    last_request = NONE if last == NONE else s.models[last, MODEL.queue_head]
    last_arrival = NONE if last == NONE else s.requests[last_request, REQUEST.arrival_us]
    found = NONE
    arrival, request = FOREVER, NONE
    for m in range(len(f.models)):
        if s.models[m, MODEL.waiting] > 0 and (s.models[m, MODEL.phase] == ABSENT or m == target):
            r = s.models[m, MODEL.queue_head]
            t = s.requests[r, REQUEST.arrival_us]
            later = t > last_arrival or (t == last_arrival and r > last_request)
            if later and (t < arrival or (t == arrival and r < request)):
                found, arrival, request = m, t, r
    return found


@inlined
def consider(s: State, f: Fleet, limits: Array, trace: Array) -> bool:
    """Loads the oldest pending model that can be placed, or makes it the target and marks its legal victims."""
    now = s.scalars[CLOCK]
    if s.scalars[PENDING] == 0:
        return False
    any_idle = False
    for a in range(len(f.accelerators)):
        any_idle = any_idle or channel_idle(s, a)
    if not any_idle:
        return False
    m = NONE
    while True:
        m = next_pending(s, f, m, NONE)
        if m == NONE:
            return False
        a = roomiest(s, f, limits, m)
        if a != NONE:
            own_channel(s, a, m)
            start_load(s, f, trace, a, m)
            return True
        if f.rules[R_UNLIMITED] == 1:
            continue
        clear_legal(s)
        count = 0
        patient = now - s.models[m, MODEL.pending_since] < f.rules[R_DRAIN_AFTER]
        for who in range(IDLE_ONLY, BUSY_TOO if patient else BUSY_TOO + 1):
            for a in range(len(f.accelerators)):
                if channel_idle(s, a):
                    count += mark_victims(s, f, limits, a, m, who)
            if count > 0:
                break
        if count > 0:
            s.scalars[TARGET] = m
            s.scalars[LEGAL] = count
            return True


@inner
def choose(s: State, f: Fleet, limits: Array, trace: Array, slot: int) -> None:
    """Applies a legal victim: it drains; the first one fixes the accelerator; the swap closes when memory suffices."""
    v = s.slots[slot, SLOT.model]
    a = s.models[v, MODEL.place]
    m = s.scalars[TARGET]
    if s.scalars[FIXED] == NONE:
        s.scalars[FIXED] = a
        own_channel(s, a, m)
        s.accelerators[a, ACCELERATOR.swap_open] = 1
    if not is_idle(s, f, v):
        s.scalars[DRAINS] += 1
    s.clocks[CLOCKS.inflation] = max(s.clocks[CLOCKS.inflation], greedy_dual(s, f, v))
    s.models[v, MODEL.phase] = DRAINING
    s.models[v, MODEL.rank] = s.scalars[RANKS]
    s.scalars[RANKS] += 1
    s.accelerators[a, ACCELERATOR.leaving] += 1
    record(s, trace, T_VICTIM, v, a)
    work_channel(s, f, trace, a)
    clear_legal(s)
    s.scalars[LEGAL] = 0
    if suffices(s, f, limits, a, m):
        s.accelerators[a, ACCELERATOR.swap_open] = 0
        s.scalars[TARGET] = NONE
        s.scalars[FIXED] = NONE
        work_channel(s, f, trace, a)
        return
    for who in range(IDLE_ONLY, BUSY_TOO + 1):
        s.scalars[LEGAL] = mark_victims(s, f, limits, a, m, who)
        if s.scalars[LEGAL] > 0:
            break
