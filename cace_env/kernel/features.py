"""What a policy may know: features of slots, of pending models and of the whole, in physical units.

Nothing here reads the future: no output length of an unfinished request, no arrival that has not happened. Names,
units and scales stand in `cace_env.observation`; the order of the indices below is the order there.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.compilation import inlined, inner
from cace_env.kernel.events import PREFIX_HALF_LIFE_US, rounds_now
from cace_env.kernel.placement import IDLE_ONLY, NOBODY, is_pending, next_pending, room_without
from cace_env.kernel.processor import ln
from cace_env.kernel.state import (
    ACCELERATOR,
    CLOCK,
    CLOCKS,
    DEMAND,
    DRAINING,
    FIXED,
    IDLE,
    LAST_ASKED,
    LEGAL,
    LOADING,
    MODEL,
    NONE,
    PENDING,
    R_CACHE_BYTES,
    R_SWAP,
    REQUEST,
    RESIDENT,
    SITE,
    SPEC,
    SPEED,
    TARGET,
    UNLOADING,
    Fleet,
    State,
    int64,
)
from cace_env.kernel.swaps import channel_idle, greedy_dual, own_residual, tier_after_eviction, tier_of

Array = Any
(
    F_OCCUPIED, F_LEGAL, F_LOADING, F_LEAVING, F_PINNED, F_FREED_GB, F_WEIGHTS_GB, F_RELOAD_S, F_DECODE_MS,
    F_RUNNING, F_WAITING, F_RUNNING_AGE_S, F_EMITTED_TOKENS, F_SINCE_USE_S, F_SINCE_SECOND_USE_S, F_SINCE_LOAD_S,
    F_USES_SINCE_LOAD, F_USES, F_WINDOW_REQUESTS, F_RATE_1M, F_RATE_10M, F_RATE_60M, F_WINDOW_USERS,
    F_WINDOW_SESSIONS, F_PREFIX_TOKENS, F_LATENCY_WEIGHT, F_EXPECTED_OUTPUT_TOKENS, F_MEAN_GAP_S, F_GAP_CV,
    F_MISSING_GB, F_FREE_GB, F_GREEDY_DUAL, F_WORTH, F_DRAIN_S, F_BUSY_HERE, F_SUFFICES, F_SPARE_GB, F_TARGET_LOAD_S,
    F_TARGET_DECODE_MS,
) = range(39)  # fmt: skip
NUM_SLOT_FEATURES: Final = 39

(
    P_PRESENT, P_TARGET, P_NEED_GB, P_WEIGHTS_GB, P_LOAD_S, P_WAITING, P_WAITING_WEIGHT, P_OLDEST_WAIT_S,
    P_PENDING_S, P_RATE_1M, P_RATE_10M, P_RATE_60M, P_WINDOW_USERS, P_WINDOW_SESSIONS, P_LATENCY_WEIGHT,
    P_EXPECTED_OUTPUT_TOKENS, P_SINCE_EVICTION_S, P_LEGAL, P_FITS, P_IDLE_SUFFICES,
) = range(20)  # fmt: skip
NUM_PENDING_FEATURES: Final = 20

(
    C_ELAPSED_S, C_LEGAL, C_CHOSEN, C_TARGET_NEED_GB, C_TARGET_LOAD_S, C_MISSING_GB, C_FREE_GB, C_MEMORY_GB,
    C_PENDING, C_WAITING, C_RUNNING, C_LOADING, C_IDLE_MODELS, C_HOST_CACHE_GB, C_ORDERING, C_WAIT_LEGAL,
) = range(16)  # fmt: skip
NUM_CONTEXT_FEATURES: Final = 16

GB: Final = 1e-9
SECONDS: Final = 1e-6
NEVER_S: Final = 1e6  # [s] stands for a time since something that never happened
LEAST_LEFT: Final = 0.1  # of an expected output: what a request that runs is thought to have left at least
PER_MINUTE_1: Final = np.log(2.0)  # a count halved every minute, to requests per minute
PER_MINUTE_10: Final = np.log(2.0) / 10.0
PER_MINUTE_60: Final = np.log(2.0) / 60.0


@inlined
def demand_rates(s: State, m: int, out: Array, column: int) -> None:
    """Requests per minute of model m at half-lives of 1, 10 and 60 minutes, into `out[column:column + 3]`."""
    minutes = (s.scalars[CLOCK] - s.models[m, MODEL.last_arrival]) * SECONDS / 60.0
    slow = np.exp2(-minutes / 60.0)
    middle = slow * slow * slow
    middle *= middle
    fast = middle * middle
    fast = fast * fast * middle
    fast *= fast
    out[column] = s.demand[m, DEMAND.rate_1m] * fast * PER_MINUTE_1
    out[column + 1] = s.demand[m, DEMAND.rate_10m] * middle * PER_MINUTE_10
    out[column + 2] = s.demand[m, DEMAND.rate_60m] * slow * PER_MINUTE_60


@inlined
def missing_bytes(s: State, f: Fleet, a: int) -> int:
    """What must still come free on accelerator a for the target, beyond the victims already chosen."""
    m = s.scalars[TARGET]
    if m == NONE:
        return 0
    room, _ = room_without(s, f, a, NOBODY)
    return max(f.models[m, SPEC.need] - own_residual(s, f, m, a) - room, 0)


@inlined
def slot_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """Features of one occupied slot, `out` (NUM_SLOT_FEATURES,) float64; `missing` bytes on its accelerator."""
    place_features(s, f, slot, missing, out)
    demand_features(s, s.slots[slot], out)
    target_features(s, f, slot, missing, out)


@inlined
def place_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """The part of a slot's features that describes its model and what it does there."""
    now = s.scalars[CLOCK]
    m = s.slots[slot]
    a = s.models[m, MODEL.place]
    am = a * len(f.models) + m
    running = s.models[m, MODEL.running]
    out[F_OCCUPIED] = 1.0
    out[F_LEGAL] = s.legal[slot]
    out[F_LOADING] = s.models[m, MODEL.phase] == LOADING
    out[F_LEAVING] = s.models[m, MODEL.phase] == DRAINING or s.models[m, MODEL.phase] == UNLOADING
    out[F_PINNED] = f.models[m, SPEC.pinned_on] != NONE
    out[F_FREED_GB] = (f.models[m, SPEC.need] - f.models[m, SPEC.residual]) * GB
    out[F_WEIGHTS_GB] = f.models[m, SPEC.weights] * GB
    out[F_RELOAD_S] = f.speeds[am, SPEED.load_host + tier_after_eviction(s, f, m)] * SECONDS
    out[F_DECODE_MS] = (f.speeds[am, SPEED.round_ns] + f.speeds[am, SPEED.decode_ns]) * 1e-6
    out[F_RUNNING] = running
    out[F_WAITING] = s.models[m, MODEL.waiting]
    out[F_RUNNING_AGE_S] = (now - s.models[m, MODEL.running_arrivals] / running) * SECONDS if running > 0 else 0.0
    decoding = s.models[m, MODEL.decoding]
    out[F_EMITTED_TOKENS] = (
        decoding + ((decoding * rounds_now(s, m) - s.models[m, MODEL.decode_start_sum]) >> 20) if decoding > 0 else 0
    )
    out[F_SINCE_USE_S] = (now - s.models[m, MODEL.last_use]) * SECONDS
    out[F_SINCE_SECOND_USE_S] = (
        (now - s.models[m, MODEL.second_use]) * SECONDS if s.models[m, MODEL.second_use] >= 0 else NEVER_S
    )
    out[F_SINCE_LOAD_S] = (now - s.models[m, MODEL.loaded_at]) * SECONDS if s.models[m, MODEL.phase] != LOADING else 0.0
    out[F_USES_SINCE_LOAD] = s.models[m, MODEL.uses_since_load]
    out[F_USES] = s.models[m, MODEL.uses]
    out[F_MISSING_GB] = missing * GB
    out[F_FREE_GB] = s.accelerators[a, ACCELERATOR.free] * GB
    # Relative to the clock: what is due to be evicted next under GreedyDual has the least.
    out[F_GREEDY_DUAL] = greedy_dual(s, f, m) - s.clocks[CLOCKS.inflation]


@inlined
def demand_features(s: State, m: int, out: Array) -> None:
    """The part of a slot's features that describes who asks for its model."""
    now = s.scalars[CLOCK]
    out[F_WINDOW_REQUESTS] = s.models[m, MODEL.window_requests]
    demand_rates(s, m, out, F_RATE_1M)
    out[F_WINDOW_USERS] = s.models[m, MODEL.window_users]
    out[F_WINDOW_SESSIONS] = s.models[m, MODEL.window_sessions]
    # Sums and differences of decayed tokens may miss 0 by a rounding error.
    out[F_PREFIX_TOKENS] = max(s.demand[m, DEMAND.prefix_tokens], 0.0) * np.exp2(
        -(now - s.models[m, MODEL.prefix_at]) / PREFIX_HALF_LIFE_US
    )
    out[F_LATENCY_WEIGHT] = s.demand[m, DEMAND.mean_weight]
    out[F_EXPECTED_OUTPUT_TOKENS] = (
        s.demand[m, DEMAND.mean_output] if s.demand[m, DEMAND.mean_output] == s.demand[m, DEMAND.mean_output] else 0.0
    )
    mean = s.demand[m, DEMAND.gap_s]
    out[F_MEAN_GAP_S] = mean if mean > 0.0 else NEVER_S
    variance = s.demand[m, DEMAND.gap_squared] - mean * mean
    out[F_GAP_CV] = np.sqrt(max(variance, 0.0)) / mean if mean > 0.0 else 0.0


@inlined
def target_features(s: State, f: Fleet, slot: int, missing: int, out: Array) -> None:
    """The part of a slot's features that weighs its model against the target; reads the other features in `out`."""
    m = s.slots[slot]
    a = s.models[m, MODEL.place]
    target = s.scalars[TARGET]
    busy = s.accelerators[a, ACCELERATOR.busy]
    freed = f.models[m, SPEC.need] - f.models[m, SPEC.residual]
    out[F_WORTH] = out[F_RATE_10M] * out[F_RELOAD_S] / out[F_FREED_GB]
    left = 0.0
    if out[F_RUNNING] > 0.0:
        expected = out[F_EXPECTED_OUTPUT_TOKENS]
        left = max(expected - out[F_EMITTED_TOKENS] / out[F_RUNNING], LEAST_LEFT * expected)
    out[F_DRAIN_S] = left * out[F_DECODE_MS] * 1e-3 * busy
    out[F_BUSY_HERE] = busy
    suffices = target != NONE and freed >= missing
    out[F_SUFFICES] = suffices
    out[F_SPARE_GB] = (freed - missing) * GB if suffices else 0.0
    if target != NONE:
        at = a * len(f.models) + target
        out[F_TARGET_LOAD_S] = f.speeds[at, SPEED.load_host + tier_of(s, f, target, a)] * SECONDS
        out[F_TARGET_DECODE_MS] = (f.speeds[at, SPEED.round_ns] + f.speeds[at, SPEED.decode_ns]) * 1e-6
    else:
        out[F_TARGET_LOAD_S] = 0.0
        out[F_TARGET_DECODE_MS] = 0.0


@inlined
def fastest_load_us(s: State, f: Fleet, m: int) -> int:
    """The shortest load of absent model m over the accelerators, by the tier each would use now."""
    best = f.speeds[m, SPEED.load_host + tier_of(s, f, m, 0)]
    for a in range(1, len(f.accelerators)):
        best = min(best, f.speeds[a * len(f.models) + m, SPEED.load_host + tier_of(s, f, m, a)])
    return best


@inlined
def pending_features(s: State, f: Fleet, m: int, out: Array) -> None:
    """Features of one pending model (or the target, or one to prefetch), `out` (NUM_PENDING_FEATURES,) float64."""
    now = s.scalars[CLOCK]
    waited_for = s.models[m, MODEL.waiting] > 0
    out[P_PRESENT] = 1.0
    out[P_TARGET] = m == s.scalars[TARGET]
    out[P_NEED_GB] = f.models[m, SPEC.need] * GB
    out[P_WEIGHTS_GB] = f.models[m, SPEC.weights] * GB
    out[P_LOAD_S] = fastest_load_us(s, f, m) * SECONDS
    out[P_WAITING] = s.models[m, MODEL.waiting]
    out[P_WAITING_WEIGHT] = s.models[m, MODEL.waiting] * s.demand[m, DEMAND.mean_weight]
    oldest = s.models[m, MODEL.queue_head]
    out[P_OLDEST_WAIT_S] = (now - s.requests[oldest, REQUEST.arrival_us]) * SECONDS if waited_for else 0.0
    out[P_PENDING_S] = (now - s.models[m, MODEL.pending_since]) * SECONDS if waited_for else 0.0
    demand_rates(s, m, out, P_RATE_1M)
    out[P_WINDOW_USERS] = s.models[m, MODEL.window_users]
    out[P_WINDOW_SESSIONS] = s.models[m, MODEL.window_sessions]
    out[P_LATENCY_WEIGHT] = s.demand[m, DEMAND.mean_weight]
    out[P_EXPECTED_OUTPUT_TOKENS] = (
        s.demand[m, DEMAND.mean_output] if s.demand[m, DEMAND.mean_output] == s.demand[m, DEMAND.mean_output] else 0.0
    )
    out[P_SINCE_EVICTION_S] = min((now - s.models[m, MODEL.evicted_at]) * SECONDS, NEVER_S)
    out[P_LEGAL] = s.legal[len(s.slots) + m] if f.rules[R_SWAP] == 1 else 0
    fits = False
    idle_suffices = False
    for a in range(len(f.accelerators)):
        if channel_idle(s, a):
            missing = f.models[m, SPEC.need] - own_residual(s, f, m, a)
            room, _ = room_without(s, f, a, IDLE_ONLY)
            fits = fits or s.accelerators[a, ACCELERATOR.free] >= missing
            idle_suffices = idle_suffices or room >= missing
    out[P_FITS] = fits
    out[P_IDLE_SUFFICES] = idle_suffices


@inlined
def context_features(s: State, f: Fleet, missing: int, out: Array) -> None:
    """Features of the whole, `out` (NUM_CONTEXT_FEATURES,) float64; `missing` bytes where least is missing."""
    now = s.scalars[CLOCK]
    target = s.scalars[TARGET]
    out[C_ELAPSED_S] = (now - s.scalars[LAST_ASKED]) * SECONDS
    out[C_LEGAL] = s.scalars[LEGAL]
    out[C_CHOSEN] = s.accelerators[s.scalars[FIXED], ACCELERATOR.leaving] if s.scalars[FIXED] != NONE else 0
    out[C_TARGET_NEED_GB] = f.models[target, SPEC.need] * GB if target != NONE else 0.0
    out[C_TARGET_LOAD_S] = fastest_load_us(s, f, target) * SECONDS if target != NONE else 0.0
    out[C_MISSING_GB] = missing * GB
    out[C_PENDING] = s.scalars[PENDING]
    free = 0
    memory = 0
    loading = 0
    for a in range(len(f.accelerators)):
        free += s.accelerators[a, ACCELERATOR.free]
        memory += f.accelerators[a, SITE.memory]
        loading += s.accelerators[a, ACCELERATOR.channel] != IDLE
    out[C_FREE_GB] = free * GB
    out[C_MEMORY_GB] = memory * GB
    out[C_LOADING] = loading
    idle = 0
    waiting = 0
    running = 0
    for m in range(len(f.models)):
        waiting += s.models[m, MODEL.waiting]
        running += s.models[m, MODEL.running]
        idle += (
            s.models[m, MODEL.phase] == RESIDENT and s.models[m, MODEL.running] == 0 and s.models[m, MODEL.waiting] == 0
        )
    out[C_WAITING] = waiting
    out[C_RUNNING] = running
    out[C_IDLE_MODELS] = idle
    out[C_HOST_CACHE_GB] = f.rules[R_CACHE_BYTES] * GB
    ordering = f.rules[R_SWAP] == 1 and target == NONE and s.scalars[LEGAL] > 0
    out[C_ORDERING] = ordering
    out[C_WAIT_LEGAL] = ordering and s.legal[len(s.legal) - 1] == 1


class Scaling(NamedTuple):
    """How raw features become an observation, and room to compute them; one per thread. `size` numbers in all."""

    factors: Array  # (size,) one over the scale
    logarithmic: Array  # (size,) 1 = sign(x) ln(1 + |x| factor), 0 = x factor; float
    raw: Array  # (size,) features in physical units


@inner
def write_observation(s: State, f: Fleet, scaling: Scaling, pending_rows: int, out: Array) -> None:
    """The flat observation: every slot, the pending models (oldest first; in Swap-v0 by number), the context.

    `out` float32 of `max_slots * NUM_SLOT_FEATURES + pending_rows * NUM_PENDING_FEATURES + NUM_CONTEXT_FEATURES`.
    """
    raw = scaling.raw
    pending_at = len(s.slots) * NUM_SLOT_FEATURES
    least = int64(-1)
    for a in range(len(f.accelerators)):
        missing = missing_bytes(s, f, a)
        legal_here = False
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            legal_here = legal_here or s.legal[slot] == 1
            at = slot * NUM_SLOT_FEATURES
            if s.slots[slot] != NONE:
                slot_features(s, f, slot, missing, raw[at:])
            else:
                clear(raw, at, at + NUM_SLOT_FEATURES)
        if legal_here and (least < 0 or missing < least):
            least = missing
    target = s.scalars[TARGET]
    end = pending_at
    if f.rules[R_SWAP] == 1:
        for m in range(len(f.models)):
            if is_pending(s, m) or m == target or s.legal[len(s.slots) + m] == 1:
                pending_features(s, f, m, raw[end:])
            else:
                clear(raw, end, end + NUM_PENDING_FEATURES)
            end += NUM_PENDING_FEATURES
    else:
        m = NONE
        for _ in range(pending_rows):
            m = next_pending(s, f, m, target)
            if m == NONE:
                break
            pending_features(s, f, m, raw[end:])
            end += NUM_PENDING_FEATURES
    context_at = pending_at + pending_rows * NUM_PENDING_FEATURES
    context_features(s, f, max(least, 0), raw[context_at:])
    # The lowest free slot is taken first, so that behind an accelerator's last model there is nothing but zeros.
    done = int64(0)
    for a in range(len(f.accelerators)):
        last = f.accelerators[a, SITE.end_slot]
        while last > f.accelerators[a, SITE.first_slot] and s.slots[last - 1] == NONE:
            last -= 1
        first_at = f.accelerators[a, SITE.first_slot] * NUM_SLOT_FEATURES
        clear(out, done, first_at)
        done = last * NUM_SLOT_FEATURES
        compress(scaling, first_at, done, out)
    clear(out, done, pending_at)
    compress(scaling, pending_at, end, out)
    clear(out, end, context_at)
    compress(scaling, context_at, context_at + NUM_CONTEXT_FEATURES, out)


@inlined
def clear(array: Array, first: int, end: int) -> None:
    """Zeros in `array[first:end]`; assigning to a slice would look for overlaps first."""
    part = array[first:end]
    for i in range(len(part)):
        part[i] = 0.0


@inner
def compress(scaling: Scaling, first: int, end: int, out: Array) -> None:
    """Scales the features in `[first, end)`: a loop without branches, which the compiler vectorises.

    It has to count from 0: an index that might be negative would be counted from the end, and that is a branch.
    """
    raw, factors, logarithmic = scaling.raw[first:end], scaling.factors[first:end], scaling.logarithmic[first:end]
    scaled = out[first:end]
    for i in range(len(raw)):
        x = raw[i] * factors[i]
        y = np.copysign(ln(1.0 + abs(x)), x)
        scaled[i] = y if logarithmic[i] > 0.0 else x
