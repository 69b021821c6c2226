"""What a policy may know: features of slots, of pending models and of the whole, in physical units.

Nothing here reads the future: no output length of an unfinished request, no arrival that has not happened. Names,
units, scales and columns stand in the table of `cace_env.observation`; each function writes the part named after it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from cace_env.compilation import inlined, linked
from cace_env.held import Held
from cace_env.kernel.events import LONGEST_US, MODEL_AT, PAIR_AT, PREFIX_HALF_LIFE_US, rounds_now
from cace_env.kernel.placement import NO_VICTIM, is_pending, room_without
from cace_env.kernel.processor import ln
from cace_env.kernel.standing import find_rooms, fits, next_pending, older
from cace_env.kernel.state import (
    ACCELERATOR,
    AGAIN,
    AGENDA,
    CLOCK,
    CLOCKS,
    DEMAND,
    DRAINING,
    FIXED,
    FLEET,
    FLOATS,
    IDLE,
    LAST_ASKED,
    LEGAL,
    LOADING,
    MODEL,
    NONE,
    PAUSE,
    PAUSES,
    PENDING_MODELS,
    R_CACHE_BYTES,
    R_SWAP,
    REQUEST,
    RESIDENT,
    SITE,
    SPEC,
    SPEED,
    STATE,
    TARGET,
    UNLOADING,
    Fleet,
    State,
    int64,
)
from cace_env.kernel.swaps import greedy_dual, own_residual, tier_after_eviction, tier_of
from cace_env.observation import BLOCKS, CONTEXT, PENDING, SLOT, Scaling, logarithms_of
from cace_env.sessions import AGAIN_SHAPE

Array = Any
GB: Final = 1e-9
SECONDS: Final = 1e-6
NEVER_S: Final = 1e6  # [s] stands for a time since something that never happened
LEAST_LEFT: Final = 0.1  # of an expected output: what a request that runs is thought to have left at least
FIRST_AGE_US: Final = int64(1_000_000)  # end of the first range of ages; each is as long as all before it
AGES: Final = int64(AGAIN_SHAPE[2])
KIND_BITS: Final = (int64(1) << MODEL_AT) - 1
MODEL_BITS: Final = (int64(1) << (PAIR_AT - MODEL_AT)) - 1
PER_MINUTE_1: Final = np.log(2.0)  # a count halved every minute, to requests per minute
PER_MINUTE_10: Final = np.log(2.0) / 10.0
PER_MINUTE_60: Final = np.log(2.0) / 60.0


@inlined
def demand_rates(now: int, model: Array, demand: Array) -> tuple[float, float, float]:
    """Requests per minute of a model, whose rows these are, at half-lives of 1, 10 and 60 minutes."""
    minutes = (now - model[MODEL.last_arrival]) * SECONDS / 60.0
    slow = np.exp2(-minutes / 60.0)
    middle = slow * slow * slow
    middle *= middle
    fast = middle * middle
    fast = fast * fast * middle
    fast *= fast
    return (
        demand[DEMAND.rate_1m] * fast * PER_MINUTE_1,
        demand[DEMAND.rate_10m] * middle * PER_MINUTE_10,
        demand[DEMAND.rate_60m] * slow * PER_MINUTE_60,
    )


@inlined
def missing_bytes(s: State, f: Fleet, a: int) -> int:
    """What must still come free on accelerator a for the target, beyond the victims already chosen."""
    m = s.scalars[TARGET]
    if m == NONE:
        return 0
    room, _ = room_without(s, f, a, NO_VICTIM)
    return max(f.models[m, SPEC.need] - own_residual(s, f, m, a) - room, 0)


@inlined
def slot_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """Features of one occupied slot, `out` (len(SLOT),) float64; `missing` bytes on its accelerator.

    After `weigh_pauses`, like `pending_features`.
    """
    place_features(s, f, slot, missing, out)
    demand_features(s, s.slots[slot], out)
    target_features(s, f, slot, missing, out)
    session_features(s, s.slots[slot], out)


@inlined
def place_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """The part of a slot's features that describes its model and what it does there."""
    now = s.scalars[CLOCK]
    m = s.slots[slot]
    model, spec = s.models[m], f.models[m]
    a = model[MODEL.place]
    speed = f.speeds[a * len(f.models) + m]
    running = model[MODEL.running]
    out[SLOT.occupied] = 1.0
    out[SLOT.legal] = s.legal[slot]
    out[SLOT.loading] = model[MODEL.phase] == LOADING
    out[SLOT.leaving] = model[MODEL.phase] == DRAINING or model[MODEL.phase] == UNLOADING
    out[SLOT.pinned] = spec[SPEC.pinned_on] != NONE
    out[SLOT.freed_gb] = (spec[SPEC.need] - spec[SPEC.residual]) * GB
    out[SLOT.weights_gb] = spec[SPEC.weights] * GB
    out[SLOT.reload_s] = speed[SPEED.load_host + tier_after_eviction(s, f, m)] * SECONDS
    out[SLOT.decode_ms] = speed[SPEED.token_ns] * 1e-6
    out[SLOT.running] = running
    out[SLOT.waiting] = model[MODEL.waiting]
    out[SLOT.running_age_s] = (now - model[MODEL.running_arrivals] / running) * SECONDS if running > 0 else 0.0
    decoding = model[MODEL.decoding]
    out[SLOT.emitted_tokens] = (
        decoding + ((decoding * rounds_now(s, m) - model[MODEL.decode_start_sum]) >> 20) if decoding > 0 else 0
    )
    out[SLOT.since_use_s] = (now - model[MODEL.last_use]) * SECONDS
    out[SLOT.since_second_use_s] = (
        (now - model[MODEL.second_use]) * SECONDS if model[MODEL.second_use] >= 0 else NEVER_S
    )
    out[SLOT.since_load_s] = (now - model[MODEL.loaded_at]) * SECONDS if model[MODEL.phase] != LOADING else 0.0
    out[SLOT.uses_since_load] = model[MODEL.uses_since_load]
    out[SLOT.uses] = model[MODEL.uses]
    out[SLOT.missing_gb] = missing * GB
    out[SLOT.free_gb] = s.accelerators[a, ACCELERATOR.free] * GB
    # Relative to the clock: what is due to be evicted next under GreedyDual has the least.
    out[SLOT.greedy_dual] = greedy_dual(s, f, m) - s.clocks[CLOCKS.inflation]


@inlined
def demand_features(s: State, m: int, out: Array) -> None:
    """The part of a slot's features that describes the demand for its model."""
    now = s.scalars[CLOCK]
    model, demand = s.models[m], s.demand[m]
    out[SLOT.window_requests] = model[MODEL.window_requests]
    out[SLOT.rate_1m], out[SLOT.rate_10m], out[SLOT.rate_60m] = demand_rates(now, model, demand)
    out[SLOT.window_users] = model[MODEL.window_users]
    out[SLOT.window_sessions] = model[MODEL.window_sessions]
    # Sums and differences of decayed tokens may miss 0 by a rounding error.
    out[SLOT.prefix_tokens] = max(demand[DEMAND.prefix_tokens], 0.0) * np.exp2(
        -(now - model[MODEL.prefix_at]) / PREFIX_HALF_LIFE_US
    )
    out[SLOT.latency_weight] = demand[DEMAND.mean_weight]
    out[SLOT.expected_output_tokens] = (
        demand[DEMAND.mean_output] if demand[DEMAND.mean_output] == demand[DEMAND.mean_output] else 0.0
    )
    mean = demand[DEMAND.gap_s]
    out[SLOT.mean_gap_s] = mean if mean > 0.0 else NEVER_S
    variance = demand[DEMAND.gap_squared] - mean * mean
    out[SLOT.gap_cv] = np.sqrt(max(variance, 0.0)) / mean if mean > 0.0 else 0.0


@inlined
def target_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """The part of a slot's features that weighs its model against the target; reads the other features in `out`."""
    m = s.slots[slot]
    spec, a = f.models[m], s.models[m, MODEL.place]
    target = s.scalars[TARGET]
    busy = s.accelerators[a, ACCELERATOR.busy]
    freed = spec[SPEC.need] - spec[SPEC.residual]
    out[SLOT.worth] = out[SLOT.rate_10m] * out[SLOT.reload_s] / out[SLOT.freed_gb]
    left = 0.0
    if out[SLOT.running] > 0.0:
        expected = out[SLOT.expected_output_tokens]
        left = max(expected - out[SLOT.emitted_tokens] / out[SLOT.running], LEAST_LEFT * expected)
    out[SLOT.drain_s] = left * out[SLOT.decode_ms] * 1e-3 * busy
    out[SLOT.busy_here] = busy
    suffices = target != NONE and freed >= missing
    out[SLOT.suffices] = suffices
    out[SLOT.spare_gb] = (freed - missing) * GB if suffices else 0.0
    if target != NONE:
        speed = f.speeds[a * len(f.models) + target]
        out[SLOT.target_load_s] = speed[SPEED.load_host + tier_of(s, f, target, a)] * SECONDS
        out[SLOT.target_decode_ms] = speed[SPEED.token_ns] * 1e-6
    else:
        out[SLOT.target_load_s] = 0.0
        out[SLOT.target_decode_ms] = 0.0


@inlined
def weigh_pauses(s: State, f: Fleet) -> None:
    """Brings `State.silence` up to date: of all models in one pass, the newest pause first."""
    now = s.scalars[CLOCK]
    for m in range(len(s.silence)):
        silence = s.silence[m]
        silence[AGAIN.soon], silence[AGAIN.later], silence[AGAIN.much_later] = 1.0, 1.0, 1.0
    age, end = int64(0), FIRST_AGE_US
    for place in range(s.scalars[PAUSES] - 1, -1, -1):
        passed, who = now - s.pauses[place, PAUSE.began_us], s.pauses[place, PAUSE.who]
        if passed >= LONGEST_US:
            break
        if who == NONE:
            continue
        while passed >= end:  # none is younger than the one before it
            end <<= 1
            age += 1
        silence = s.silence[(who >> MODEL_AT) & MODEL_BITS]
        silent = f.silent[(who & KIND_BITS) * AGES + age]
        soon = silence[AGAIN.soon] * silent[AGAIN.soon]
        later = silence[AGAIN.later] * silent[AGAIN.later]
        much_later = silence[AGAIN.much_later] * silent[AGAIN.much_later]
        silence[AGAIN.soon], silence[AGAIN.later], silence[AGAIN.much_later] = soon, later, much_later


@inlined
def chances(s: State, m: int) -> tuple[float, float, float]:
    """Probability that a session which pauses at model m ends that within each of `AGAIN_WITHIN_S`."""
    return (
        1.0 - s.silence[m, AGAIN.soon],
        1.0 - s.silence[m, AGAIN.later],
        1.0 - s.silence[m, AGAIN.much_later],
    )


@inlined
def session_features(s: State, m: int, out: Array) -> None:
    """The part of a slot's features that tells how soon its sessions come back; after `weigh_pauses`."""
    out[SLOT.again_1m], out[SLOT.again_5m], out[SLOT.again_15m] = chances(s, m)


@inlined
def fastest_load_us(s: State, f: Fleet, m: int) -> int:
    """The shortest load of absent model m over the accelerators, by the tier each would use now."""
    if s.models[m, MODEL.touched] == 0:
        return f.models[m, SPEC.fastest_disk]
    if f.models[m, SPEC.residual] == 0:
        return f.models[m, SPEC.fastest_host]
    best = f.speeds[m, SPEED.load_host + tier_of(s, f, m, 0)]
    for a in range(1, len(f.accelerators)):
        best = min(best, f.speeds[a * len(f.models) + m, SPEED.load_host + tier_of(s, f, m, a)])
    return best


@inlined
def pending_features(s: State, f: Fleet, m: int, out: Array) -> None:
    """Features of one pending model (or the target, or one to prefetch), `out` (len(PENDING),) float64.

    `find_rooms` goes before it.
    """
    now = s.scalars[CLOCK]
    model, spec, demand = s.models[m], f.models[m], s.demand[m]
    waited_for = model[MODEL.waiting] > 0
    out[PENDING.present] = 1.0
    out[PENDING.target] = m == s.scalars[TARGET]
    out[PENDING.need_gb] = spec[SPEC.need] * GB
    out[PENDING.weights_gb] = spec[SPEC.weights] * GB
    out[PENDING.load_s] = fastest_load_us(s, f, m) * SECONDS
    out[PENDING.waiting] = model[MODEL.waiting]
    out[PENDING.waiting_weight] = model[MODEL.waiting] * demand[DEMAND.mean_weight]
    oldest = model[MODEL.queue_head]
    out[PENDING.oldest_wait_s] = (now - s.requests[oldest, REQUEST.arrival_us]) * SECONDS if waited_for else 0.0
    out[PENDING.pending_s] = (now - model[MODEL.pending_since]) * SECONDS if waited_for else 0.0
    out[PENDING.rate_1m], out[PENDING.rate_10m], out[PENDING.rate_60m] = demand_rates(now, model, demand)
    out[PENDING.window_users] = model[MODEL.window_users]
    out[PENDING.window_sessions] = model[MODEL.window_sessions]
    out[PENDING.latency_weight] = demand[DEMAND.mean_weight]
    out[PENDING.expected_output_tokens] = (
        demand[DEMAND.mean_output] if demand[DEMAND.mean_output] == demand[DEMAND.mean_output] else 0.0
    )
    out[PENDING.since_eviction_s] = min((now - model[MODEL.evicted_at]) * SECONDS, NEVER_S)
    out[PENDING.legal] = s.legal[len(s.slots) + m] if f.rules[R_SWAP] == 1 else 0
    out[PENDING.fits] = fits(s, f, m, AGENDA.free)
    out[PENDING.idle_suffices] = fits(s, f, m, AGENDA.idle)
    out[PENDING.again_1m], out[PENDING.again_5m], out[PENDING.again_15m] = chances(s, m)


@inlined
def context_features(s: State, f: Fleet, missing: int, out: Array) -> None:
    """Features of the whole, `out` (len(CONTEXT),) float64; `missing` bytes where least is missing."""
    now = s.scalars[CLOCK]
    target = s.scalars[TARGET]
    out[CONTEXT.elapsed_s] = (now - s.scalars[LAST_ASKED]) * SECONDS
    out[CONTEXT.legal] = s.scalars[LEGAL]
    out[CONTEXT.chosen] = s.accelerators[s.scalars[FIXED], ACCELERATOR.leaving] if s.scalars[FIXED] != NONE else 0
    out[CONTEXT.target_need_gb] = f.models[target, SPEC.need] * GB if target != NONE else 0.0
    out[CONTEXT.target_load_s] = fastest_load_us(s, f, target) * SECONDS if target != NONE else 0.0
    out[CONTEXT.missing_gb] = missing * GB
    out[CONTEXT.pending] = s.scalars[PENDING_MODELS]
    free = 0
    memory = 0
    loading = 0
    for a in range(len(f.accelerators)):
        free += s.accelerators[a, ACCELERATOR.free]
        memory += f.accelerators[a, SITE.memory]
        loading += s.accelerators[a, ACCELERATOR.channel] != IDLE
    out[CONTEXT.free_gb] = free * GB
    out[CONTEXT.memory_gb] = memory * GB
    out[CONTEXT.loading] = loading
    idle = 0
    waiting = 0
    running = 0
    for m in range(len(f.models)):
        model = s.models[m]
        waiting += model[MODEL.waiting]
        running += model[MODEL.running]
        idle += model[MODEL.phase] == RESIDENT and model[MODEL.running] == 0 and model[MODEL.waiting] == 0
    out[CONTEXT.waiting] = waiting
    out[CONTEXT.running] = running
    out[CONTEXT.idle_models] = idle
    out[CONTEXT.host_cache_gb] = f.rules[R_CACHE_BYTES] * GB
    ordering = f.rules[R_SWAP] == 1 and target == NONE and s.scalars[LEGAL] > 0
    out[CONTEXT.ordering] = ordering
    out[CONTEXT.wait_legal] = ordering and s.legal[len(s.legal) - 1] == 1


SCALING: Final = Held.of(Scaling, FLOATS, FLOATS, FLOATS)
SLOT_LOGS, PENDING_LOGS, CONTEXT_LOGS = (logarithms_of(BLOCKS[name]) for name in ("slot", "pending", "context"))


@linked(STATE, FLEET, SCALING, types.int64, types.float32[::1])
def write_observation(s: State, f: Fleet, scaling: Scaling, pending_rows: int, out: Array) -> None:
    """The flat observation: every slot, the pending models (oldest first; in Swap-v0 by number), the context.

    `out` float32 of `max_slots * len(SLOT) + pending_rows * len(PENDING) + len(CONTEXT)`.
    """
    weigh_pauses(s, f)
    raw = scaling.raw
    pending_at = len(s.slots) * len(SLOT)
    find_rooms(s, f)
    least = int64(-1)
    for a in range(len(f.accelerators)):
        missing = missing_bytes(s, f, a)
        legal_here = False
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            if s.slots[slot] != NONE:
                legal_here = legal_here or s.legal[slot] == 1
                slot_features(s, f, slot, missing, raw[slot * len(SLOT) :])
        if legal_here and (least < 0 or missing < least):
            least = missing
    target = s.scalars[TARGET]
    end = pending_at
    if f.rules[R_SWAP] == 1:
        for m in range(len(f.models)):
            if is_pending(s, m) or m == target or s.legal[len(s.slots) + m] == 1:
                pending_features(s, f, m, raw[end:])
            else:
                clear(raw, end, end + len(PENDING))
            end += len(PENDING)
    else:
        m = next_pending(s, NONE)
        waited_for = target != NONE and s.models[target, MODEL.waiting] > 0
        planned = target if waited_for and not is_pending(s, target) else NONE
        for _ in range(pending_rows):
            if planned != NONE and (m == NONE or older(s, planned, m)):
                pending_features(s, f, planned, raw[end:])
                planned = NONE
            elif m != NONE:
                pending_features(s, f, m, raw[end:])
                m = next_pending(s, m)
            else:
                break
            end += len(PENDING)
    context_at = pending_at + pending_rows * len(PENDING)
    context_features(s, f, max(least, 0), raw[context_at:])
    # Scaled only now: to read eight numbers at once that were just written one by one would have to wait.
    for slot in range(len(s.slots)):
        at = slot * len(SLOT)
        if s.slots[slot] != NONE:
            compress(scaling, at, SLOT, SLOT_LOGS, out)
        else:
            clear(out, at, at + len(SLOT))
    for at in range(pending_at, end, len(PENDING)):
        compress(scaling, at, PENDING, PENDING_LOGS, out)
    clear(out, end, context_at)
    compress(scaling, context_at, CONTEXT, CONTEXT_LOGS, out)


@inlined
def clear(array: Array, first: int, end: int) -> None:
    """Zeros in `array[first:end]`; assigning to a slice would look for overlaps first."""
    part = array[first:end]
    for i in range(len(part)):
        part[i] = 0.0


@inlined
def compress(scaling: Scaling, at: int, row: Any, logarithms: Any, out: Array) -> None:
    """Scales the features of one row, which begins at `at`; `logarithms` says which columns have some, and how many.

    Logarithms cost most: a loop without branches and of a length that is known and whole eights, which the compiler
    does at once. It has to count from 0: an index that might be negative would be counted from the end.
    """
    first, count = logarithms
    scale(scaling, at, first, out)
    at += first
    end = at + count
    raw, factors, logarithmic = scaling.raw[at:end], scaling.factors[at:end], scaling.logarithmic[at:end]
    scaled = out[at:end]
    for i in range(count):
        x = raw[i] * factors[i]
        y = np.copysign(ln(1.0 + abs(x)), x)
        scaled[i] = y if logarithmic[i] > 0.0 else x
    scale(scaling, end, len(row) - first - count, out)


@inlined
def scale(scaling: Scaling, at: int, count: int, out: Array) -> None:
    """Scales `count` features that have no logarithm."""
    raw, factors, scaled = scaling.raw[at : at + count], scaling.factors[at : at + count], out[at : at + count]
    for i in range(count):
        scaled[i] = raw[i] * factors[i]
