"""A trained scorer inside the kernel: the observation, then a small network, then the legal action scored highest.

The same arithmetic as `cace_env.policies.network`, which says what the weights are, in float32. Weights lie input by
input, so that what one input adds to all hidden units is one run of memory; inputs that are 0, as most are, cost
nothing.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from cace_env.compilation import inlined, inner, outlined
from cace_env.held import Held
from cace_env.kernel.events import slide_window
from cace_env.kernel.features import SCALING, write_observation
from cace_env.kernel.state import NONE, R_SWAP, TARGET, Fleet, Requests, State, int64
from cace_env.observation import CONTEXT, PENDING, SLOT, THERE, Scaling

Array = Any

NUM_SLOT_INPUTS: Final = len(SLOT) + len(PENDING) + len(CONTEXT)
NUM_PENDING_INPUTS: Final = len(PENDING) + len(CONTEXT)


class UrgencyColumns(NamedTuple):
    """`Weights.urgency`, as `cace_env.policies.network.Urgency` names them."""

    grace_s: int
    loads: int
    ages: int
    busy: int
    price: int  # 0 = no urgency


URGENCY: Final = UrgencyColumns(*range(len(UrgencyColumns._fields)))


class Weights(NamedTuple):
    """A network as the kernel reads it, float32; matrices are flat, a row of `H` numbers for each input."""

    hidden: int  # H; 0 = only the linear part
    slot_linear: Array  # (len(SLOT),)
    pending_linear: Array  # (len(PENDING),)
    wait_linear: Array  # (len(CONTEXT) + 1,), the last is the bias
    slot_in: Array  # (NUM_SLOT_INPUTS + 1) * H: slot, target, context; the last row is the bias
    pending_in: Array  # (NUM_PENDING_INPUTS + 1) * H: pending model, context
    slot_mix: Array  # (3 H + 1) * H: own hidden units, mean of the slots', mean of the pending models'
    pending_mix: Array  # the same
    wait_mix: Array  # (2 H + len(CONTEXT) + 1) * H: both means, context
    slot_out: Array  # (H,)
    pending_out: Array  # (H,)
    wait_out: Array  # (H,)
    urgency: Array  # (len(URGENCY),)


class Thought(NamedTuple):
    """Room to evaluate a network of `H` hidden units, or a smaller one. `S` slots, `K` rows of pending models."""

    scaling: Scaling
    observation: Array  # (size,) float32
    hidden: Array  # (S + K) * H float32
    pooled: Array  # 2 H: means over slots and over pending models
    shared: Array  # H: what all rows have in common
    unit: Array  # H


FLOAT32S: Final = types.float32[::1]
WEIGHTS: Final = Held.of(Weights, types.int64, *[FLOAT32S] * (len(Weights._fields) - 1))
THOUGHT: Final = Held.of(Thought, SCALING.values, *[FLOAT32S] * (len(Thought._fields) - 1))


@inner
def add_inputs(weights: Array, row: int, inputs: Array, hidden: int, out: Array) -> None:
    """`out += inputs @ weights[row:]`, `out` (H,)."""
    for i in range(len(inputs)):
        x = inputs[i]
        if x != 0.0:
            line = weights[(row + i) * hidden : (row + i + 1) * hidden]
            for h in range(hidden):
                out[h] += x * line[h]


@inlined
def copy(values: Array, first: int, out: Array) -> None:
    """`out[:] = values[first:]`; assigning to a slice would look for overlaps first."""
    part = values[first : first + len(out)]
    for h in range(len(out)):
        out[h] = part[h]


@inner
def weighted(weights: Array, values: Array) -> float:
    """Their scalar product."""
    total = 0.0
    for i in range(len(weights)):
        total += weights[i] * values[i]
    return total


@inner
def activated(weights: Array, values: Array) -> float:
    """The scalar product with what is above 0."""
    total = 0.0
    for i in range(len(weights)):
        total += weights[i] * max(values[i], 0.0)
    return total


@inner
def encode(
    inputs: Array, first: int, width: int, rows: int, weights: Array, shared: Array, out: Array, mean: Array
) -> None:
    """Hidden units of a block's rows that are there, `out` (rows * H,), and their mean."""
    hidden = len(mean)
    count = 0
    for h in range(hidden):
        mean[h] = 0.0
    for i in range(rows):
        own = inputs[first + i * width : first + (i + 1) * width]
        if own[THERE] == 0.0:
            continue
        units = out[i * hidden : (i + 1) * hidden]
        copy(shared, 0, units)
        add_inputs(weights, 0, own, hidden, units)
        for h in range(hidden):
            units[h] = max(units[h], 0.0)
            mean[h] += units[h]
        count += 1
    if count > 0:
        for h in range(hidden):
            mean[h] /= count


@inlined
def age_of_work(observation: Array, slots: int, context: Array) -> float:
    """How old what runs is [s], mean over the resident models; 0 if at most one model is pending."""
    if np.expm1(context[CONTEXT.pending]) < 1.5:
        return 0.0
    age, there = 0.0, 0.0
    for i in range(slots):
        age += np.expm1(observation[i * len(SLOT) + SLOT.running_age_s])
        there += observation[i * len(SLOT) + THERE]
    return age / max(there, 1.0)


@inlined
def urgency_of(urgency: Array, pending: Array, age_s: float) -> float:
    """What a pending model gains for the wait of its oldest request; `pending` (len(PENDING),) is its row."""
    limit_s = urgency[URGENCY.grace_s] + urgency[URGENCY.loads] * np.expm1(pending[PENDING.load_s])
    limit_s += urgency[URGENCY.ages] * age_s
    if pending[PENDING.idle_suffices] == 0.0:
        limit_s *= urgency[URGENCY.busy]
    return urgency[URGENCY.price] * max(np.expm1(pending[PENDING.oldest_wait_s]) / limit_s - 1.0, 0.0)


@outlined
def choose(s: State, f: Fleet, w: Requests, net: Weights, thought: Thought, candidates: Array) -> int:
    """The legal action with the highest score, ties: the lowest; of the legal victims only `candidates` (S,).

    The observation has a row for every model.
    """
    slots, models, hidden = len(s.slots), len(f.models), net.hidden
    observation = thought.observation
    # There may be room for a larger network: several rules may share it.
    pooled, shared, unit = thought.pooled[: 2 * hidden], thought.shared[:hidden], thought.unit[:hidden]
    slide_window(s, w)
    write_observation(s, f, thought.scaling, models, observation)
    pending_at = int64(slots * len(SLOT))
    context = observation[pending_at + models * len(PENDING) :]
    ordering = f.rules[R_SWAP] == 1 and s.scalars[TARGET] == NONE
    slot_units = thought.hidden[: slots * hidden]
    pending_units = thought.hidden[slots * hidden : (slots + models) * hidden]
    of_slots = pooled[:hidden]
    of_pending = pooled[hidden:]
    if hidden > 0:
        copy(net.slot_in, NUM_SLOT_INPUTS * hidden, shared)
        for k in range(models):
            row = pending_at + k * len(PENDING)
            pending = observation[row : row + len(PENDING)]
            if pending[PENDING.target] != 0.0:
                add_inputs(net.slot_in, len(SLOT), pending, hidden, shared)
        add_inputs(net.slot_in, len(SLOT) + len(PENDING), context, hidden, shared)
        encode(observation, 0, len(SLOT), slots, net.slot_in, shared, slot_units, of_slots)
        copy(net.pending_in, NUM_PENDING_INPUTS * hidden, shared)
        add_inputs(net.pending_in, len(PENDING), context, hidden, shared)
        encode(observation, pending_at, len(PENDING), models, net.pending_in, shared, pending_units, of_pending)
        mix = net.pending_mix if ordering else net.slot_mix
        copy(mix, 3 * hidden * hidden, shared)
        add_inputs(mix, hidden, pooled, hidden, shared)
    hurried = ordering and net.urgency[URGENCY.price] > 0.0
    age_s = age_of_work(observation, slots, context) if hurried else 0.0
    best = NONE
    best_score = 0.0
    first, end = (slots, slots + models) if ordering else (0, slots)
    for action in range(first, end):
        if s.legal[action] == 0 or (not ordering and candidates[action] == 0):
            continue
        i = action - first
        if ordering:
            row = pending_at + i * len(PENDING)
            score = weighted(net.pending_linear, observation[row : row + len(PENDING)])
            if hurried:
                score += urgency_of(net.urgency, observation[row : row + len(PENDING)], age_s)
        else:
            row = i * len(SLOT)
            score = weighted(net.slot_linear, observation[row : row + len(SLOT)])
        if hidden > 0:
            copy(shared, 0, unit)
            add_inputs(mix, 0, (pending_units if ordering else slot_units)[i * hidden : (i + 1) * hidden], hidden, unit)
            score += activated(net.pending_out if ordering else net.slot_out, unit)
        if best == NONE or score > best_score:
            best, best_score = int64(action), score
    wait = int64(len(s.legal) - 1)
    if ordering and s.legal[wait] == 1:
        score = weighted(net.wait_linear[: len(CONTEXT)], context) + net.wait_linear[len(CONTEXT)]
        if hidden > 0:
            copy(net.wait_mix, (2 * hidden + len(CONTEXT)) * hidden, unit)
            add_inputs(net.wait_mix, 0, pooled, hidden, unit)
            add_inputs(net.wait_mix, 2 * hidden, context, hidden, unit)
            score += activated(net.wait_out, unit)
        if best == NONE or score > best_score:
            best = wait
    return best
