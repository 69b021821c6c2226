"""Plans: the recorded decisions of an episode, and their improvement with the true future.

`improve` goes once along a plan. At each of its decisions it tries every alternative in the simulation itself, plays
on in several *ways* (below), and goes on from what is cheapest over the whole episode, which may be a new plan.
`cace_env.planning.planner` chooses where to start, the ways, and when to stop.

Actions are numbered by slot, and a model lies in another slot if it was loaded at another time. So a plan holds
*codes*, which mean the same in every run: `m` = evict model m, `M + m` = load model m, `2 M` = wait.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.compilation import compiled, inlined, inner
from cace_env.held import held
from cace_env.kernel.orders import decide
from cace_env.kernel.rules import Rule, Scratch, next_use
from cace_env.kernel.run import BEGIN, advance, cost_now
from cace_env.kernel.state import (
    ASKED,
    CLOCK,
    CLOSED_SIZE,
    DECISIONS,
    DONE,
    HEAP,
    LOADING,
    LOG,
    LOGGED,
    MODEL,
    NONE,
    PAUSE,
    PAUSES,
    RESIDENT,
    STATUS,
    TARGET,
    WINDOW_TAIL,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any
CLOSED, LOGS, PAIRS, PAUSE_ROWS = (State._fields.index(name) for name in ("closed", "log", "pairs", "pauses"))

# How a replay goes on after a change. PLANNED: as the plan does for the same requests. RETURN: towards the models that
# the plan holds at that time. RULE: by a rule alone, which also answers what the other two leave open.
PLANNED, RETURN, RULE = (int64(mode) for mode in range(3))


class EntryColumns(NamedTuple):
    """`Plan.entries`."""

    code: int  # what was decided
    request: int  # the oldest one that waited for the model that was loaded or made room for, or NONE
    time_us: int
    waits: int  # how often the policy had waited since its last other decision


class NeedColumns(NamedTuple):
    """`Plan.needs`: the first decision ... a model whose oldest waiting request this was, or NONE."""

    victim: int  # to make room for
    load: int  # to load


class WayColumns(NamedTuple):
    """`Search.ways`."""

    mode: int  # PLANNED, RETURN or RULE
    rule: int  # which of the rules
    random: int  # so many decisions after the change are drawn


ENTRY: Final = EntryColumns(*range(len(EntryColumns._fields)))
NEED: Final = NeedColumns(*range(len(NeedColumns._fields)))
WAY: Final = WayColumns(*range(len(WayColumns._fields)))


class Plan(NamedTuple):
    """Decisions of a whole episode, and what became of the run. Room for `D` decisions, `M` models, `R` requests."""

    entries: Array  # (D, ENTRY) int64
    cost: Array  # (D,) float: from time 0 until each decision
    held: Array  # (D, M) int8: 1 = loading or resident then
    until: Array  # (D, M) int32: the next decision at which that was different, or their number
    needs: Array  # (R, NEED) int64
    size: Array  # (1,) int64: decisions


class Game(NamedTuple):
    """What stays the same in all runs of an episode."""

    at: Array  # offsets of a state
    fleet: Array
    fleet_at: Array
    w: Requests
    limits: Array  # of the rule that the search started from
    trace: Array  # (0, 4)


class Search(NamedTuple):
    """How far a search goes at each decision."""

    ways: Array  # (W, WAY) int64
    draws: Array  # float in [0, 1)
    slack: float  # a replay is given up when it has cost so much more than the plan by the same time
    calm: int  # ... or when so many decisions in a row were those of the plan, and it has cost no less
    max_replays: int


@inlined
def code_of(s: State, f: Fleet, action: int) -> int:
    """The code of an action."""
    if action < len(s.slots):
        return s.slots[action]
    return len(f.models) + action - len(s.slots) if action < len(s.legal) - 1 else 2 * len(f.models)


@inlined
def action_of(s: State, f: Fleet, code: int) -> int:
    """The action with this code, or NONE where it is not legal now."""
    if code < len(f.models):
        action = s.models[code, MODEL.slot]
    elif len(s.legal) == len(s.slots):
        return NONE  # Eviction-v0 asks for victims only
    else:
        action = len(s.slots) + code - len(f.models) if code < 2 * len(f.models) else int64(len(s.legal) - 1)
    return action if action != NONE and s.legal[action] == 1 else NONE


@inlined
def request_of(s: State, f: Fleet, code: int) -> int:
    """The oldest request that waits for the model which is loaded, or made room for; NONE if no request does."""
    m = s.scalars[TARGET] if code < len(f.models) else code - len(f.models)
    return s.models[m, MODEL.queue_head] if m < len(f.models) and s.models[m, MODEL.waiting] > 0 else NONE


@inner
def proceed(row: Array, game: Game, action: int) -> None:
    """Applies an action (BEGIN: starts the episode) and runs to the next question."""
    s = held(state_views(row, game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    advance(s, f, game.w, game.limits, game.trace, action)


@inlined
def copy_state(source: Array, target: Array, at: Array) -> None:
    """Copies what is in use of a state: not the empty ends of the heap of arrivals, of the log and of the pauses."""
    closed, logs, pauses = at[CLOSED], at[LOGS], at[PAUSE_ROWS]
    for i in range(closed + len(HEAP) * source[CLOSED_SIZE]):
        target[i] = source[i]
    for i in range(logs + len(LOG) * source[WINDOW_TAIL], logs + len(LOG) * source[LOGGED]):
        target[i] = source[i]
    for i in range(at[PAIRS], pauses + len(PAUSE) * source[PAUSES]):
        target[i] = source[i]


@inlined
def note(s: State, f: Fleet, record: Plan, code: int, waited: int) -> None:
    """Records a decision before it is applied; there must be room for it."""
    d = s.scalars[DECISIONS]
    record.entries[d, ENTRY.code] = code
    record.entries[d, ENTRY.request] = request_of(s, f, code)
    record.entries[d, ENTRY.time_us] = s.scalars[CLOCK]
    record.entries[d, ENTRY.waits] = waited
    record.cost[d] = cost_now(s, f)
    for m in range(len(f.models)):
        record.held[d, m] = s.models[m, MODEL.phase] == RESIDENT or s.models[m, MODEL.phase] == LOADING


@inner
def index_plan(plan: Plan) -> None:
    """Fills `until` and `needs` from the decisions."""
    size = plan.size[0]
    models = plan.held.shape[1]
    plan.needs[:] = NONE
    for back in range(size):
        d = size - 1 - back
        request = plan.entries[d, ENTRY.request]
        if request != NONE:
            plan.needs[request, NEED.victim if plan.entries[d, ENTRY.code] < models else NEED.load] = d
        for m in range(models):
            same = d < size - 1 and plan.held[d, m] == plan.held[d + 1, m]
            plan.until[d, m] = plan.until[d + 1, m] if same else d + 1


@inlined
def copy_plan(source: Plan, target: Plan, first: int) -> None:
    """Copies the decisions from the first on."""
    target.size[0] = source.size[0]
    for d in range(first, source.size[0]):
        for column in range(len(ENTRY)):
            target.entries[d, column] = source.entries[d, column]
        target.cost[d] = source.cost[d]
        for m in range(source.held.shape[1]):
            target.held[d, m] = source.held[d, m]


# ---------------------------------------------------------------------------------------------------------------------
# Ways to go on


@inlined
def planned_victim(s: State, f: Fleet, plan: Plan) -> int:
    """Who leaves for this model in the plan, when it is loaded for the same request; NONE where that is not known."""
    request = request_of(s, f, int64(0))
    d = plan.needs[request, NEED.victim] if request != NONE else NONE
    while d != NONE and d < plan.size[0] and plan.entries[d, ENTRY.request] == request:
        code = plan.entries[d, ENTRY.code]
        if code < len(f.models):
            action = action_of(s, f, code)
            if action != NONE:
                return action
        d += 1
    return NONE


@inlined
def planned_load(s: State, f: Fleet, plan: Plan, waited: int) -> int:
    """The candidate that the plan loads first for the same request, or wait until it does; NONE where it loads none."""
    first = plan.size[0]
    for m in range(len(f.models)):
        if s.legal[len(s.slots) + m] == 1 and s.models[m, MODEL.waiting] > 0:
            d = plan.needs[s.models[m, MODEL.queue_head], NEED.load]
            if d != NONE and d < first:
                first = d
    if first == plan.size[0]:
        return NONE
    too_early = waited < plan.entries[first, ENTRY.waits] and s.scalars[CLOCK] < plan.entries[first, ENTRY.time_us]
    if too_early and s.legal[len(s.legal) - 1] == 1:
        return int64(len(s.legal) - 1)
    return len(s.slots) + plan.entries[first, ENTRY.code] - len(f.models)


@inlined
def strange_victim(s: State, f: Fleet, plan: Plan, d: int) -> int:
    """The victim that the plan holds at decision d for the shortest time or, better, not at all; NONE: all for ever."""
    size = plan.size[0]
    best, longest = NONE, int64(0)
    for slot in range(len(s.slots)):
        if s.legal[slot] == 1:
            m = s.slots[slot]
            gone = 2 * size + plan.until[d, m] if plan.held[d, m] == 0 else size - plan.until[d, m]
            if gone > longest:
                best, longest = int64(slot), gone
    return best


@inlined
def held_model(s: State, f: Fleet, plan: Plan, d: int) -> int:
    """The candidate that the plan holds at decision d and longest from then on; NONE where it holds none."""
    best, longest = NONE, int64(0)
    for m in range(len(f.models)):
        action = int64(len(s.slots) + m)
        if s.legal[action] == 1 and plan.held[d, m] == 1 and plan.until[d, m] > longest:
            best, longest = action, int64(plan.until[d, m])
    return best


@inlined
def draw(s: State, number: float) -> int:
    """A legal action, by a number in [0, 1)."""
    count = int64(0)
    for action in range(len(s.legal)):
        count += s.legal[action]
    left = int64(number * count)
    for action in range(len(s.legal)):
        if s.legal[action] == 1:
            if left == 0:
                return int64(action)
            left -= 1
    return NONE


@inner
def go_on(
    s: State, f: Fleet, w: Requests, rule: Rule, scratch: Scratch, plan: Plan, mode: int, waited: int, cursor: int
) -> int:
    """What a replay does at its next question; `cursor` is the last decision of the plan that is not later."""
    ordering = s.scalars[TARGET] == NONE
    action = NONE
    if mode == PLANNED:
        action = planned_load(s, f, plan, waited) if ordering else planned_victim(s, f, plan)
    elif mode == RETURN and cursor + 1 < plan.size[0]:
        action = held_model(s, f, plan, cursor + 1) if ordering else strange_victim(s, f, plan, cursor + 1)
    return action if action != NONE else decide(s, f, w, rule, scratch)


@inlined
def as_planned(s: State, f: Fleet, plan: Plan, code: int) -> bool:
    """The plan decides the same for the same request."""
    request = request_of(s, f, code)
    if request == NONE:
        return False
    if code >= len(f.models):
        return plan.needs[request, NEED.load] != NONE
    d = plan.needs[request, NEED.victim]
    while d != NONE and d < plan.size[0] and plan.entries[d, ENTRY.request] == request:
        if plan.entries[d, ENTRY.code] == code:
            return True
        d += 1
    return False


@inner
def play(
    row: Array, game: Game, rules: Any, scratch: Scratch, plan: Plan, record: Plan, search: Search, way: int,
    bound: float, random_until: int, first_draw: int,
) -> float:  # fmt: skip
    """Plays on to the end and records it; the cost of the whole episode, inf if it was given up: not below `bound`."""
    s = held(state_views(row, game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    mode = search.ways[way, WAY.mode]
    rule = held(rules[search.ways[way, WAY.rule]])
    size = plan.size[0]
    cursor, calm, waited = int64(0), int64(0), int64(0)
    if s.scalars[DECISIONS] > 0:
        last = s.scalars[DECISIONS] - 1
        if record.entries[last, ENTRY.code] == 2 * len(f.models):
            waited = record.entries[last, ENTRY.waits] + 1
        cursor = min(last, max(size - 1, 0))
    while s.scalars[STATUS] == ASKED:
        d = s.scalars[DECISIONS]
        cost = cost_now(s, f)
        if cost >= bound or d >= len(record.cost):
            return np.inf
        while cursor + 1 < size and plan.entries[cursor + 1, ENTRY.time_us] <= s.scalars[CLOCK]:
            cursor += 1
        if cursor + 1 < size:
            begins, ends = plan.entries[cursor, ENTRY.time_us], plan.entries[cursor + 1, ENTRY.time_us]
            part = (s.scalars[CLOCK] - begins) / max(ends - begins, 1)
            excess = cost - plan.cost[cursor] - part * (plan.cost[cursor + 1] - plan.cost[cursor])
            if excess > search.slack or (calm >= search.calm and excess >= 0.0):
                return np.inf
        if d < random_until:
            action = draw(s, search.draws[(first_draw + d) % len(search.draws)])
        else:
            action = go_on(s, f, game.w, rule, scratch, plan, mode, waited, cursor)
        code = code_of(s, f, action)
        note(s, f, record, code, waited)
        if code == 2 * len(f.models):
            waited += 1
        else:
            waited = int64(0)
            calm = calm + 1 if as_planned(s, f, plan, code) else int64(0)
        proceed(row, game, action)
    if s.scalars[STATUS] != DONE:
        return np.inf
    record.size[0] = s.scalars[DECISIONS]
    cost = cost_now(s, f)
    return cost if cost < bound else np.inf


# ---------------------------------------------------------------------------------------------------------------------
# Entry points


@compiled
def first_plan(row: Array, game: Game, rules: Any, scratch: Scratch, plan: Plan, search: Search) -> float:
    """Records the episode of the first rule; its cost, inf where it was truncated or has no room."""
    game, scratch, plan, search = held(game), held(scratch), held(plan), held(search)
    for m in range(len(scratch.next_pointer)):
        scratch.next_pointer[m] = rules[0].future_start[m]
    proceed(row, game, BEGIN)
    plan.size[0] = 0
    cost = play(row, game, rules, scratch, plan, plan, search, int64(0), np.inf, int64(0), int64(0))
    index_plan(plan)
    return cost


@compiled
def improve(
    rows: Array, game: Game, rules: Any, scratch: Scratch, pointers: Array, plan: Plan, trial: Plan, best: Plan,
    search: Search, cost: float, counts: Array,
) -> float:  # fmt: skip
    """One round: goes along the plan, replaces decisions if that makes the episode cheaper; its cost afterwards.

    Args:
        rows: (2, width) the state that goes along the plan, and that of replays.
        game: the episode.
        rules: by which the ways go on; all of them know the same future, or none.
        scratch: room for them.
        pointers: (M,) how far each model's future has been read.
        plan: of the episode; at the end the better one.
        trial: room for the plan of a replay.
        best: and for the best one of a decision.
        search: how far to go.
        cost: of the plan.
        counts: (2,) replays and decisions replaced so far, counted on.
    """
    game, scratch, search = held(game), held(scratch), held(search)
    plan, trial, best = held(plan), held(trial), held(best)
    row, other = rows[0], rows[1]
    s = held(state_views(row, game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    models = len(f.models)
    first_rule = held(rules[0])
    for m in range(models):
        pointers[m] = first_rule.future_start[m]
    proceed(row, game, BEGIN)
    while s.scalars[STATUS] == ASKED:
        d = s.scalars[DECISIONS]
        if len(first_rule.future_order) > 0:
            for m in range(models):
                next_use(s, first_rule, pointers, m)
        planned = action_of(s, f, plan.entries[d, ENTRY.code])
        best_cost = cost
        copy_plan(plan, trial, d)  # the entry before this one tells replays how often the policy has waited
        for action in range(len(s.legal)):
            if s.legal[action] == 0:
                continue
            for way in range(len(search.ways)):
                drawn = search.ways[way, WAY.random]
                if (action == planned and drawn == 0) or counts[0] >= search.max_replays:
                    continue
                counts[0] += 1
                copy_state(row, other, game.at)
                for m in range(models):
                    scratch.next_pointer[m] = pointers[m]
                note(s, f, trial, code_of(s, f, action), plan.entries[d, ENTRY.waits])
                proceed(other, game, int64(action))
                first_draw = counts[0] * (drawn + 1)
                replayed = play(
                    other, game, rules, scratch, plan, trial, search, way, best_cost, d + 1 + drawn, first_draw
                )
                if replayed < best_cost:
                    best_cost = replayed
                    copy_plan(trial, best, d)
        if best_cost < cost:
            cost = best_cost
            counts[1] += 1
            copy_plan(best, plan, d)
            index_plan(plan)
            planned = action_of(s, f, plan.entries[d, ENTRY.code])
        proceed(row, game, planned)
    return cost_now(s, f)
