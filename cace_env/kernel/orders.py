"""Which model to load next, or whether to wait: the order of a built-in policy in Swap-v0, compiled.

The pending model with the highest score is loaded; ties go to the one whose oldest request came first. A model that
would need a busy victim is passed over until it has been pending for the rule's patience. `cace_env.policies.orders`
names the orders.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.compilation import inlined, inner, linked
from cace_env.kernel.features import SECONDS, fastest_load_us
from cace_env.kernel.network import choose
from cace_env.kernel.placement import IDLE_ONLY, NO_VICTIM, room_without, suffices, would_fit
from cace_env.kernel.rules import NETWORK, RULE, SCRATCH, Rule, Scratch, pick_slot
from cace_env.kernel.standing import channel_idle, next_pending
from cace_env.kernel.state import (
    CLOCK,
    DEMAND,
    FIXED,
    FLEET,
    MODEL,
    NONE,
    PENDING_MODELS,
    R_SWAP,
    REQUEST,
    REQUESTS,
    SITE,
    SPEC,
    STATE,
    TARGET,
    Fleet,
    Requests,
    State,
    int64,
)
from cace_env.kernel.swaps import is_idle, own_residual, patience_us

Array = Any
FIRST_COME, SHORTEST_LOAD, WEIGHT_PER_LOAD, LEARNED = range(4)  # how an order scores; LEARNED: by the rule's network


class OrderColumns(NamedTuple):
    """`Rule.order`, float."""

    kind: int  # FIRST_COME ... LEARNED
    max_wait_us: int  # a model whose oldest request has waited that long comes before all others
    idle_first: int  # 1 = busy victims only where idle ones do not suffice
    prefetch: int  # 1 = if no request waits for a model that could be loaded, the most wanted absent one is


ORDER: Final = OrderColumns(*range(len(OrderColumns._fields)))


@linked(STATE, FLEET, REQUESTS, RULE, SCRATCH)
def decide(s: State, f: Fleet, w: Requests, rule: Rule, scratch: Scratch) -> int:
    """A rule's answer to the open question: a victim, a model to load, or wait."""
    if f.rules[R_SWAP] == 1 and s.scalars[TARGET] == NONE and rule.order[ORDER.kind] != LEARNED:
        return pick_model(s, f, rule)
    victims(s, f, rule, scratch.candidates)
    if rule.kind == NETWORK:
        return choose(s, f, w, rule.network, scratch.thought, scratch.candidates)
    return pick_slot(s, f, w, rule, scratch)


@inlined
def victims(s: State, f: Fleet, rule: Rule, candidates: Array) -> None:
    """The legal victims that a rule chooses from: 1, others 0."""
    for slot in range(len(s.slots)):
        candidates[slot] = s.legal[slot]
    if f.rules[R_SWAP] == 1 and rule.order[ORDER.idle_first] == 1.0:
        keep_idle(s, f, rule.limits, candidates)


@inner
def keep_idle(s: State, f: Fleet, limits: Array, candidates: Array) -> None:
    """Of the legal victims, only the idle ones of accelerators on which those suffice; all if there is no such one."""
    m = s.scalars[TARGET]
    found = False
    for a in range(len(f.accelerators)):
        if (s.scalars[FIXED] == a or channel_idle(s, a)) and would_fit(s, f, limits, a, m, IDLE_ONLY):
            for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
                if s.legal[slot] == 1 and is_idle(s, f, s.slots[slot]):
                    candidates[slot] = 2
                    found = True
    if found:
        for slot in range(len(candidates)):
            candidates[slot] = candidates[slot] == 2


@inner
def pick_model(s: State, f: Fleet, rule: Rule) -> int:
    """The action that loads the first model of the order, or waits."""
    now = s.scalars[CLOCK]
    wait = int64(len(s.legal) - 1)
    patience = patience_us(f, rule.limits)
    best = NONE
    best_score = 0.0
    m = next_pending(s, NONE)
    while m != NONE:  # the oldest comes first, so ties go to it
        patient = now - s.models[m, MODEL.pending_since] < patience
        if s.legal[len(s.slots) + m] == 1 and (not patient or suffices(s, f, rule.limits, m, IDLE_ONLY)):
            score = order_score(s, f, rule.order, m)
            if best == NONE or score > best_score:
                best = m
                best_score = score
        m = next_pending(s, m)
    if best == NONE and rule.order[ORDER.prefetch] == 1.0 and s.scalars[PENDING_MODELS] == 0:
        best = most_wanted(s, f)
    if best != NONE:
        return len(s.slots) + best
    if s.legal[wait] == 1:
        return wait
    first = int64(len(s.slots))
    while s.legal[first] == 0:
        first += 1
    return first


@inlined
def order_score(s: State, f: Fleet, order: Array, m: int) -> float:
    """How urgent it is to load pending model m."""
    oldest = s.requests[s.models[m, MODEL.queue_head], REQUEST.arrival_us]
    if s.scalars[CLOCK] - oldest >= order[ORDER.max_wait_us]:
        return np.inf
    if order[ORDER.kind] == SHORTEST_LOAD:
        return -float(fastest_load_us(s, f, m))
    if order[ORDER.kind] == WEIGHT_PER_LOAD:
        return s.models[m, MODEL.waiting] * s.demand[m, DEMAND.mean_weight] / fastest_load_us(s, f, m)
    return 0.0


@inlined
def worth(s: State, f: Fleet, m: int) -> float:
    """What the presence of model m saves per minute and byte: arrivals (half-life 10 min) x load time / need."""
    minutes = (s.scalars[CLOCK] - s.models[m, MODEL.last_arrival]) * SECONDS / 60.0
    rate = s.demand[m, DEMAND.rate_10m] * np.exp2(-minutes / 10.0)
    return rate * fastest_load_us(s, f, m) / f.models[m, SPEC.need]


@inlined
def most_wanted(s: State, f: Fleet) -> int:
    """Of the models that may be prefetched the one that is worth most, or NONE.

    It needs room, for which idle models count that are worth less than half as much.
    """
    best = NONE
    best_worth = 0.0
    for m in range(len(f.models)):
        if s.legal[len(s.slots) + m] == 0:
            continue
        mine = worth(s, f, m)
        if mine <= best_worth:
            continue
        for a in range(len(f.accelerators)):
            if not channel_idle(s, a):
                continue
            room, _ = room_without(s, f, a, NO_VICTIM)
            room += own_residual(s, f, m, a)
            for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
                v = s.slots[slot]
                if v != NONE and is_idle(s, f, v) and worth(s, f, v) < 0.5 * mine:
                    room += f.models[v, SPEC.need] - f.models[v, SPEC.residual]
            if room >= f.models[m, SPEC.need]:
                best = m
                best_worth = mine
    return best
