"""Built-in policies, compiled: each gives every candidate a keep-score; the lowest is evicted.

Ties go to the least recently used, then to the lowest slot. `cace_env.policies` names them and fills a `Rule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from cace_env.compilation import inlined, inner
from cace_env.held import Held
from cace_env.kernel.events import slide_window
from cace_env.kernel.features import (
    SECONDS,
    demand_features,
    missing_bytes,
    place_features,
    session_features,
    target_features,
    weigh_pauses,
)
from cace_env.kernel.network import THOUGHT, WEIGHTS, Thought, Weights
from cace_env.kernel.state import (
    CLOCK,
    DECISIONS,
    FLOAT_TABLE,
    FLOATS,
    FOREVER,
    MODEL,
    NONE,
    REQUEST,
    SITE,
    WORDS,
    Fleet,
    Requests,
    State,
)
from cace_env.observation import PARTS, SLOT, SLOT_FEATURES

Array = Any

# How a rule scores. FEATURES: a weighted sum of raw features; TERMS: of CACE's terms; VALUES: one number per model;
# NETWORK: a trained scorer of whole actions (`cace_env.kernel.network`); QUOTED: the formula quoted for CACE.
(
    FEATURES,
    TERMS,
    VALUES,
    RANDOM,
    HYPERBOLIC,
    RATE_LOAD_SIZE,
    CHURN_GUARD,
    SINGLE_VICTIM,
    BELADY,
    BELADY_SIZE,
    BELADY_COST,
    NETWORK,
    QUOTED,
) = range(13)

# The parts of a slot's features that a rule reads: each needs those before it.
OF_PLACE, OF_DEMAND, OF_TARGET, OF_SESSIONS = (PARTS.index(part) for part in PARTS[:4])


class Term(NamedTuple):
    """A term of CACE: the feature that it is made of, and whether little of it is a reason to keep."""

    feature: str
    falling: bool


# In the order of the weights of TERMS.
CACE_TERMS: Final = {
    "load_time": Term("reload_s", falling=False),
    "latency_sensitivity": Term("latency_weight", falling=False),
    "output_length": Term("expected_output_tokens", falling=True),
    "recency": Term("since_use_s", falling=True),
    "future_demand": Term("window_requests", falling=False),
}
TERM_COLUMNS: Final = tuple(SLOT._fields.index(term.feature) for term in CACE_TERMS.values())
TERM_FALLS: Final = tuple(term.falling for term in CACE_TERMS.values())
# Weights of QUOTED, as `cace_env.policies.quoted.Quoted` names them: -1 = the highest score is evicted, 1 = the lowest;
# 1 = t is an age; what the clock shows at time 0 [s]; where upcoming requests come from; how many of them; per expected
# token.
Q_SIGN, Q_AGE, Q_CLOCK_START_S, Q_UPCOMING, Q_WINDOW, Q_OUTPUT = range(6)
FROM_QUEUE, FROM_FORECAST, FROM_FUTURE = range(3)
LOAD_SCALE_S: Final = 100.0  # of QUOTED
APART: Final = 1e9  # [s] offset that separates protected from other models, and victims that suffice alone from others


class Rule(NamedTuple):
    """A built-in policy as the kernel reads it. `M` models, `R` requests."""

    kind: int  # FEATURES ... QUOTED
    reads: int  # OF_PLACE, OF_DEMAND, OF_TARGET or OF_SESSIONS, from `parts_read`
    # float: (len(SLOT),) for FEATURES, (len(CACE_TERMS),) for TERMS, (1,) seconds for CHURN_GUARD, (6,) for QUOTED
    weights: Array
    values: Array  # float: (M,) for VALUES; uniform draws for RANDOM
    limits: Array  # (LIMIT.keep_alive_us + M,)
    order: Array  # (ORDER,) float: which model to load, where that is asked (`cace_env.kernel.orders`)
    future_order: Array  # (R,) requests by (model, nominal arrival, row); empty for rules that do not know the future
    future_start: Array  # (M + 1,) requests of model m: future_order[future_start[m]:future_start[m + 1]]
    nominal_us: Array  # (R,) arrival without swapping
    network: Weights  # for NETWORK; empty arrays for the others


def parts_read(kind: int, weights: Sequence[float]) -> int:
    """The last part of a slot's features that a rule reads: those of demand cost exponentials, most rules read none."""
    if kind == FEATURES:
        used = [PARTS.index(feature.part) for feature, weight in zip(SLOT_FEATURES, weights, strict=True) if weight]
        return max(used, default=OF_PLACE)
    return OF_DEMAND if kind in (TERMS, RATE_LOAD_SIZE, QUOTED) else OF_PLACE


class Scratch(NamedTuple):
    """Room for one question. `S` slots, `M` models."""

    rows: Array  # (S, len(SLOT)) float
    scores: Array  # (S,) float
    candidates: Array  # (S,) int64: 1 = may be picked
    next_pointer: Array  # (M,) how far each model's future has been read
    thought: Thought  # for NETWORK; of length 0 for rules that have none


RULE: Final = Held.of(
    Rule, types.int64, types.int64, FLOATS, FLOATS, WORDS, FLOATS, WORDS, WORDS, WORDS, WEIGHTS.values
)
SCRATCH: Final = Held.of(Scratch, FLOAT_TABLE, FLOATS, WORDS, WORDS, THOUGHT.values)


@inlined
def pick_slot(s: State, f: Fleet, w: Requests, rule: Rule, scratch: Scratch) -> int:
    """The candidate with the lowest keep-score."""
    rows, scores, candidates, next_pointer = scratch.rows, scratch.scores, scratch.candidates, scratch.next_pointer
    slide_window(s, w)
    if rule.reads >= OF_SESSIONS:
        weigh_pauses(s, f)
    for a in range(len(f.accelerators)):
        missing = NONE
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            if candidates[slot] == 1:
                if missing == NONE:
                    missing = missing_bytes(s, f, a)
                place_features(s, f, slot, missing, rows[slot])
                if rule.reads >= OF_DEMAND:
                    demand_features(s, s.slots[slot], rows[slot])
                if rule.reads >= OF_TARGET:
                    target_features(s, f, slot, missing, rows[slot])
                if rule.reads >= OF_SESSIONS:
                    session_features(s, s.slots[slot], rows[slot])
    score_slots(s, f, rule, candidates, next_pointer, rows, scores)
    best = NONE
    for slot in range(len(s.slots)):
        if candidates[slot] == 1:
            if best == NONE or scores[slot] < scores[best]:
                best = slot
            elif scores[slot] == scores[best] and rows[slot, SLOT.since_use_s] > rows[best, SLOT.since_use_s]:
                best = slot
    return best


@inlined
def score_slots(
    s: State, f: Fleet, rule: Rule, candidates: Array, next_pointer: Array, rows: Array, scores: Array
) -> None:
    """Keep-scores of the candidates."""
    if rule.kind == TERMS:
        score_terms(rule.weights, candidates, rows, scores)
        return
    for slot in range(len(s.slots)):
        if candidates[slot] == 0:
            continue
        row = rows[slot]
        m = s.slots[slot]
        score = 0.0
        if rule.kind == FEATURES:
            for i in range(len(rule.weights)):
                if rule.weights[i] != 0.0:
                    score += rule.weights[i] * row[i]
        elif rule.kind == VALUES:
            score = rule.values[m]
        elif rule.kind == RANDOM:
            score = rule.values[(s.scalars[DECISIONS] * len(s.slots) + slot) % len(rule.values)]
        elif rule.kind == HYPERBOLIC:
            score = row[SLOT.uses_since_load] / max(row[SLOT.since_load_s], 1e-6)
        elif rule.kind == RATE_LOAD_SIZE:
            score = row[SLOT.rate_10m] * row[SLOT.reload_s] / row[SLOT.freed_gb]
        elif rule.kind == CHURN_GUARD:
            score = -row[SLOT.since_use_s]
            if row[SLOT.since_load_s] < rule.weights[0]:
                score += APART
        elif rule.kind == SINGLE_VICTIM:
            score = (
                -row[SLOT.since_use_s] - APART if row[SLOT.freed_gb] >= row[SLOT.missing_gb] else -row[SLOT.freed_gb]
            )
        elif rule.kind == QUOTED:
            score = quoted_score(s, rule, next_pointer, m, row)
        else:
            next_use_s = next_use(s, rule, next_pointer, m) * 1e-6
            if rule.kind == BELADY:
                score = -next_use_s
            elif rule.kind == BELADY_SIZE:
                score = -next_use_s * row[SLOT.freed_gb]
            else:
                score = row[SLOT.reload_s] / (max(next_use_s, 1e-6) * row[SLOT.freed_gb])
        scores[slot] = score


@inlined
def score_terms(weights: Array, candidates: Array, rows: Array, scores: Array) -> None:
    """CACE: named terms in [0, 1] over the candidates (min-max), times weights."""
    for slot in range(len(candidates)):
        scores[slot] = 0.0
    for term in range(len(TERM_COLUMNS)):
        add_term(candidates, weights[term], rows, TERM_COLUMNS[term], TERM_FALLS[term], scores)


@inlined
def add_term(candidates: Array, weight: float, rows: Array, feature: int, falling: bool, scores: Array) -> None:
    """Adds weight * min-max of one feature over the candidates; `falling`: the least feature has the largest term."""
    if weight == 0.0:
        return
    low = np.inf
    high = -np.inf
    for slot in range(len(candidates)):
        if candidates[slot] == 1:
            low = min(low, rows[slot, feature])
            high = max(high, rows[slot, feature])
    if high <= low:
        return
    for slot in range(len(candidates)):
        if candidates[slot] == 1:
            term = (rows[slot, feature] - low) / (high - low)
            scores[slot] += weight * (1.0 - term if falling else term)


@inlined
def next_use(s: State, rule: Rule, next_pointer: Array, m: int) -> int:
    """Time until the least nominal arrival of the model's requests still to come, at least 0; FOREVER if none."""
    now = s.scalars[CLOCK]
    i = next_pointer[m]
    while i < rule.future_start[m + 1] and s.requests[rule.future_order[i], REQUEST.arrival_us] <= now:
        i += 1
    next_pointer[m] = i
    if i == rule.future_start[m + 1]:
        return FOREVER
    return max(rule.nominal_us[rule.future_order[i]] - now, 0)


@inner
def quoted_score(s: State, rule: Rule, next_pointer: Array, m: int, row: Array) -> float:
    """`1 / (1 + ln t) + 1 / (1 + l / 100) + i / w + w_1 o`, times -1 where the highest is evicted.

    Below 1 s the logarithm would be negative, and the first term grow over all bounds: t counts as at least 1 s.
    """
    weights = rule.weights
    t_s = row[SLOT.since_use_s]
    if weights[Q_AGE] == 0.0:
        t_s = weights[Q_CLOCK_START_S] + s.models[m, MODEL.last_use] * SECONDS
    score = 1.0 / (1.0 + np.log(max(t_s, 1.0)))
    score += 1.0 / (1.0 + row[SLOT.reload_s] / LOAD_SCALE_S)
    score += upcoming_index(s, rule, next_pointer, m) / weights[Q_WINDOW]
    score += weights[Q_OUTPUT] * row[SLOT.expected_output_tokens]
    return weights[Q_SIGN] * score


@inner
def upcoming_index(s: State, rule: Rule, next_pointer: Array, m: int) -> float:
    """How many upcoming requests come before the first for model m; at most the window, which is also "none there"."""
    window = rule.weights[Q_WINDOW]
    if rule.weights[Q_UPCOMING] == FROM_QUEUE:
        return min(waiting_before(s, m, window), window)
    if rule.weights[Q_UPCOMING] == FROM_FUTURE:
        return min(coming_before(s, rule, next_pointer, m, window), window)
    # What the sliding window holds is thought to come again: of N requests every (N / n)th is for the model.
    if s.models[m, MODEL.window_requests] == 0:
        return window
    requests = 0
    for other in range(len(s.models)):
        requests += s.models[other, MODEL.window_requests]
    return min(requests / s.models[m, MODEL.window_requests] - 1.0, window)


@inner
def waiting_before(s: State, m: int, window: float) -> float:
    """Waiting requests that arrived before the first that waits for model m; the window if none does."""
    if s.models[m, MODEL.waiting] == 0:
        return window
    first_us = s.requests[s.models[m, MODEL.queue_head], REQUEST.arrival_us]
    before = 0.0
    for other in range(len(s.models)):
        r = s.models[other, MODEL.queue_head]
        for _ in range(s.models[other, MODEL.waiting]):
            if s.requests[r, REQUEST.arrival_us] >= first_us:
                break
            before += 1.0
            r = s.requests[r, REQUEST.queue_next]
    return before


@inner
def coming_before(s: State, rule: Rule, next_pointer: Array, m: int, window: float) -> float:
    """Requests still to come with a nominal arrival before the next one for model m; the window if there is none."""
    if next_use(s, rule, next_pointer, m) == FOREVER:
        return window
    next_us = rule.nominal_us[rule.future_order[next_pointer[m]]]
    before = 0.0
    for other in range(len(s.models)):
        next_use(s, rule, next_pointer, other)  # reads over what has arrived, so that the loop is short
        for i in range(next_pointer[other], rule.future_start[other + 1]):
            r = rule.future_order[i]
            if rule.nominal_us[r] >= next_us or before >= window:
                break
            if s.requests[r, REQUEST.arrival_us] > s.scalars[CLOCK]:
                before += 1.0
    return before
