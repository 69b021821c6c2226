"""Placement: which model is loaded where, when the policy is asked, and which models may be evicted.

`place` acts until nothing can be placed or the policy must be asked, `act` applies an answer: the decision protocols of
Eviction-v0 (`docs/design.md`, section 5) and Swap-v0 (section 12).
"""

from __future__ import annotations

from typing import Any

from cace_env.compilation import inlined, outlined
from cace_env.kernel.events import record
from cace_env.kernel.standing import channel_idle, find_rooms, fits, next_pending
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    AGENDA,
    CLOCK,
    CLOCKS,
    DIRTY,
    DRAINING,
    DRAINS,
    FIXED,
    FORCED,
    LEGAL,
    LIMIT,
    MODEL,
    NONE,
    PENDING_MODELS,
    PREFETCHES,
    R_DRAIN_AFTER,
    R_PREFETCH_LIMIT,
    R_PREFETCH_MAX_WAIT,
    R_SPREAD,
    R_SWAP,
    R_UNLIMITED,
    RANKS,
    REQUEST,
    RESIDENT,
    SITE,
    SPEC,
    T_VICTIM,
    TARGET,
    UNLOADING,
    WAITS,
    Fleet,
    State,
    int64,
)
from cace_env.kernel.swaps import (
    greedy_dual,
    is_idle,
    own_channel,
    own_residual,
    start_load,
    work_channel,
)

Array = Any
NO_VICTIM, IDLE_ONLY, BUSY_TOO = int64(-1), int64(0), int64(1)  # which models may be evicted


@inlined
def clear_legal(s: State) -> None:
    """No action is legal; where the count says so, nothing is marked."""
    if s.scalars[LEGAL] == 0:
        return
    s.scalars[LEGAL] = 0
    for action in range(len(s.legal)):
        s.legal[action] = 0


@inlined
def is_leaving(s: State, m: int) -> bool:
    """A victim that drains or unloads."""
    return s.models[m, MODEL.phase] == DRAINING or s.models[m, MODEL.phase] == UNLOADING


@inlined
def may_leave(s: State, f: Fleet, m: int, who: int) -> bool:
    """An unpinned resident; an idle one, unless busy ones may leave too."""
    if who == BUSY_TOO:
        return s.models[m, MODEL.phase] == RESIDENT and f.models[m, SPEC.pinned_on] == NONE
    return is_idle(s, f, m)


@inlined
def room_without(s: State, f: Fleet, a: int, who: int) -> tuple[int, int]:
    """Bytes free on accelerator a, and models held there, once all that are leaving or may leave have left."""
    room = s.accelerators[a, ACCELERATOR.free]
    held = s.accelerators[a, ACCELERATOR.held]
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        v = s.slots[slot]
        if v != NONE and (is_leaving(s, v) or (who != NO_VICTIM and may_leave(s, f, v, who))):
            room += f.models[v, SPEC.need] - f.models[v, SPEC.residual]
            held -= 1
    return room, held


@inlined
def would_fit(s: State, f: Fleet, limits: Array, a: int, m: int, who: int) -> bool:
    """Model m fits on accelerator a once all that are leaving or may leave have left."""
    room, held = room_without(s, f, a, who)
    return room + own_residual(s, f, m, a) >= f.models[m, SPEC.need] and held + 1 <= limits[LIMIT.most_resident]


@inlined
def suffices(s: State, f: Fleet, limits: Array, m: int, who: int) -> bool:
    """Model m fits on some accelerator with an idle channel once all that may leave have left; after `find_rooms`."""
    if not fits(s, f, m, AGENDA.idle + who):
        return False
    return limits[LIMIT.most_resident] >= len(f.models) or within_limit(s, f, limits, m, who)


@outlined
def within_limit(s: State, f: Fleet, limits: Array, m: int, who: int) -> bool:
    """The same where a rule limits the models of an accelerator."""
    for a in range(len(f.accelerators)):
        if channel_idle(s, a) and would_fit(s, f, limits, a, m, who):
            return True
    return False


@outlined
def mark_victims(s: State, f: Fleet, limits: Array, a: int, m: int, who: int) -> int:
    """Marks the models that may leave accelerator a for model m; their number, or 0 if all together do not suffice."""
    if not would_fit(s, f, limits, a, m, who):
        return 0
    count = 0
    for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
        if s.slots[slot] != NONE and may_leave(s, f, s.slots[slot], who):
            s.legal[slot] = 1
            count += 1
    return count


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
        elif left < 0 or s.accelerators[a, ACCELERATOR.held] + 1 > limits[LIMIT.most_resident]:
            continue
        elif f.rules[R_SPREAD] == 1:
            better = best == NONE or left > best_left
        else:
            better = best == NONE or left < best_left
        if better:
            best = a
            best_left = left
    return best


@outlined
def place(s: State, f: Fleet, limits: Array, trace: Array) -> bool:
    """Places models until nothing can be placed (False) or the policy must be asked (True)."""
    while True:
        if s.scalars[TARGET] == NONE:
            if f.rules[R_SWAP] == 0:
                if not consider(s, f, limits, trace):
                    return False
                continue
            if not offer(s, f, limits):
                return False
        if s.scalars[LEGAL] > 1:
            return True
        for action in range(len(s.legal)):
            if s.legal[action] == 1:
                s.scalars[FORCED] += s.scalars[TARGET] != NONE
                act(s, f, limits, trace, action)
                break


@inlined
def act(s: State, f: Fleet, limits: Array, trace: Array, action: int) -> None:
    """Applies a legal action: a victim; or, without a target, which model to load, or to wait."""
    if s.scalars[TARGET] != NONE:
        choose(s, f, limits, trace, action)
        return
    clear_legal(s)
    if action == len(s.legal) - 1:
        s.scalars[WAITS] += 1
        s.scalars[DIRTY] = 0  # not asked again before something happens
        return
    load(s, f, limits, trace, action - len(s.slots))


@inlined
def is_pending(s: State, m: int) -> bool:
    """Absent, and a request waits for it."""
    return s.models[m, MODEL.phase] == ABSENT and s.models[m, MODEL.waiting] > 0


@outlined
def consider(s: State, f: Fleet, limits: Array, trace: Array) -> bool:
    """Eviction-v0: loads the oldest pending model that can be placed, or makes it the target and marks its victims."""
    now = s.scalars[CLOCK]
    if s.scalars[PENDING_MODELS] == 0:
        return False
    unlimited = f.rules[R_UNLIMITED] == 1
    find_rooms(s, f)
    m = NONE
    while True:
        m = next_pending(s, m)
        if m == NONE:
            return False
        a = roomiest(s, f, limits, m) if unlimited or fits(s, f, m, AGENDA.free) else NONE
        if a != NONE:
            own_channel(s, a, m)
            start_load(s, f, trace, a, m)
            return True
        if unlimited:  # no channel is idle
            return False
        clear_legal(s)
        count = 0
        patient = now - s.models[m, MODEL.pending_since] < f.rules[R_DRAIN_AFTER]
        for who in range(IDLE_ONLY, BUSY_TOO if patient else BUSY_TOO + 1):
            if not fits(s, f, m, AGENDA.idle + who):
                continue
            for a in range(len(f.accelerators)):
                if channel_idle(s, a):
                    count += mark_victims(s, f, limits, a, m, who)
            if count > 0:
                break
        if count > 0:
            s.scalars[TARGET] = m
            s.scalars[LEGAL] = count
            return True


@outlined
def choose(s: State, f: Fleet, limits: Array, trace: Array, slot: int) -> None:
    """Applies a legal victim: it drains; the first one fixes the accelerator; the swap closes when memory suffices."""
    v = s.slots[slot]
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
    if would_fit(s, f, limits, a, m, NO_VICTIM):
        s.accelerators[a, ACCELERATOR.swap_open] = 0
        s.scalars[TARGET] = NONE
        s.scalars[FIXED] = NONE
        work_channel(s, f, trace, a)
        return
    for who in range(BUSY_TOO if f.rules[R_SWAP] == 1 else IDLE_ONLY, BUSY_TOO + 1):
        s.scalars[LEGAL] = mark_victims(s, f, limits, a, m, who)
        if s.scalars[LEGAL] > 0:
            break


# ---------------------------------------------------------------------------------------------------------------------
# Swap-v0


@inlined
def may_prefetch(s: State, f: Fleet) -> bool:
    """Whether models may be prefetched: not above the limit, and not while a request has waited for too long."""
    if s.scalars[PREFETCHES] >= f.rules[R_PREFETCH_LIMIT]:
        return False
    oldest = next_pending(s, NONE)
    if oldest == NONE:
        return True
    since = s.requests[s.models[oldest, MODEL.queue_head], REQUEST.arrival_us]
    return s.scalars[CLOCK] - since < f.rules[R_PREFETCH_MAX_WAIT]


@inlined
def anything_goes_on(s: State, f: Fleet) -> bool:
    """Something runs, loads or unloads, or is about to: waiting can change something."""
    for a in range(len(f.accelerators)):
        if s.accelerators[a, ACCELERATOR.busy] > 0 or not channel_idle(s, a):
            return True
    return False


@outlined
def offer(s: State, f: Fleet, limits: Array) -> bool:
    """Marks the models that may be loaded, and whether waiting is legal; False if there is nothing to choose from."""
    clear_legal(s)
    prefetching = f.rules[R_PREFETCH_LIMIT] > 0 and may_prefetch(s, f)
    if s.scalars[PENDING_MODELS] == 0 and not prefetching:
        return False
    find_rooms(s, f)
    candidates = 0
    m = next_pending(s, NONE)
    while m != NONE:
        if suffices(s, f, limits, m, BUSY_TOO):
            s.legal[len(s.slots) + m] = 1
            candidates += 1
        m = next_pending(s, m)
    wanted = candidates > 0
    if prefetching:
        for m in range(len(f.models)):
            absent = s.models[m, MODEL.phase] == ABSENT and s.models[m, MODEL.waiting] == 0
            if absent and suffices(s, f, limits, m, BUSY_TOO):
                s.legal[len(s.slots) + m] = 1
                candidates += 1
    if candidates == 0:
        return False
    wait = not wanted or anything_goes_on(s, f)
    s.legal[len(s.legal) - 1] = wait
    s.scalars[LEGAL] = candidates + wait
    return True


@outlined
def load(s: State, f: Fleet, limits: Array, trace: Array, m: int) -> None:
    """Loads candidate m where it fits, or makes it the target and marks all models that may leave for it."""
    a = roomiest(s, f, limits, m)
    if a != NONE:
        own_channel(s, a, m)
        start_load(s, f, trace, a, m)
        return
    s.scalars[TARGET] = m
    for a in range(len(f.accelerators)):
        if channel_idle(s, a):
            s.scalars[LEGAL] += mark_victims(s, f, limits, a, m, BUSY_TOO)
