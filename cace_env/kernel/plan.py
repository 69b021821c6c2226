"""Plans: the recorded decisions of an episode, and their improvement with the true future.

`improve` goes once along a plan. At each of its decisions it tries every alternative in the simulation itself, plays
on in several *ways* (below), and goes on from what is cheapest over the whole episode, which may be a new plan. Ways
that decide the same are simulated together until one of them decides otherwise: half of all steps, and no result, are
saved.
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
from cace_env.kernel.rules import Scratch, next_use
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
    REQUEST,
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
CLOSED, LOGS, PAIRS, REQUESTS, USERS, PAUSE_ROWS = (
    State._fields.index(name) for name in ("closed", "log", "pairs", "requests", "users", "pauses")
)

# How a replay goes on after a change. PLANNED: as the plan does for the same requests. RETURN: towards the models that
# the plan holds at that time. RULE: by a rule alone, which also answers what the other two leave open.
PLANNED, RETURN, RULE = (int64(mode) for mode in range(3))
RULES: Final = 4  # number of rules that continue replays
UNKNOWN: Final = int64(-2)  # an answer that nobody has looked for yet


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
    until: int  # so that the first that is not drawn is this one
    first_draw: int  # and draws begin here


class GroupColumns(NamedTuple):
    """`Search.groups`: replays that have decided the same so far, at a question of a state of their own."""

    ways: int  # bit w: way w is one of them
    action: int  # what they decide next, NONE: not known yet
    waited: int  # how often they have waited since their last other decision
    cursor: int  # the last decision of the plan that is not later
    calm: int  # so many decisions in a row were those of the plan
    logged: int  # how many arrivals had been logged when their state was copied


ENTRY: Final = EntryColumns(*range(len(EntryColumns._fields)))
NEED: Final = NeedColumns(*range(len(NeedColumns._fields)))


class SpanColumns(NamedTuple):
    """`Search.spans`: which requests of a replay's state may differ from the state that goes along the plan."""

    first: int  # those before it have finished in both
    end: int  # nothing is known of those from here on, in either


WAY: Final = WayColumns(*range(len(WayColumns._fields)))
GROUP: Final = GroupColumns(*range(len(GroupColumns._fields)))
SPAN: Final = SpanColumns(*range(len(SpanColumns._fields)))


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
    groups: Array  # (W, GROUP) int64; those without ways are free
    stack: Array  # (1 + W,) int64: how many groups wait, and which; the last one is played on first
    answers: Array  # (RETURN + 1 + RULES,) int64: what the plan, and each rule, does at a question
    spans: Array  # (W, SPAN) int64
    reach: Array  # (R,) int64: one past the last request of which an arrival of this one can make something known
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
    copy_part(source, target, at, int64(0), (at[USERS] - at[REQUESTS]) // len(REQUEST))


@inlined
def copy_part(source: Array, target: Array, at: Array, first: int, end: int) -> None:
    """`copy_state` where both have the same of all requests before the first and from the end on."""
    closed, logs, requests, pauses = at[CLOSED], at[LOGS], at[REQUESTS], at[PAUSE_ROWS]
    for i in range(closed + len(HEAP) * source[CLOSED_SIZE]):
        target[i] = source[i]
    for i in range(logs + len(LOG) * source[WINDOW_TAIL], logs + len(LOG) * source[LOGGED]):
        target[i] = source[i]
    for i in range(at[PAIRS], requests):
        target[i] = source[i]
    for i in range(requests + len(REQUEST) * first, requests + len(REQUEST) * end):
        target[i] = source[i]
    for i in range(at[USERS], pauses + len(PAUSE) * source[PAUSES]):
        target[i] = source[i]


@inlined
def copy_replay(source: Array, target: Array, at: Array, span: Array, first: int, end: int) -> None:
    """Copies the state that goes along the plan, or that of a replay, into the state of a replay.

    Args:
        source: what is copied.
        target: where to.
        at: offsets of both.
        span: of the target (SPAN); afterwards that of the source.
        first: the first request that has not finished in the state that goes along the plan.
        end: of the span of the source.
    """
    copy_part(source, target, at, span[SPAN.first], max(span[SPAN.end], end))
    span[SPAN.first] = first
    span[SPAN.end] = end


@inlined
def reached(s: State, search: Search, logged: int, end: int) -> int:
    """The end of the span of a state, given that when it had logged so many arrivals."""
    for i in range(logged, s.scalars[LOGGED]):
        end = max(end, search.reach[s.log[i, LOG.request]])
    return end


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


@inlined
def go_on(
    s: State, f: Fleet, w: Requests, rules: Any, scratch: Scratch, plan: Plan, search: Search, way: int, waited: int,
    cursor: int,
) -> int:  # fmt: skip
    """What a replay does at its next question; what is known is looked up in `search.answers`."""
    answers, mode, rule = search.answers, search.ways[way, WAY.mode], search.ways[way, WAY.rule]
    if mode != RULE:
        if answers[mode] == UNKNOWN:
            ordering = s.scalars[TARGET] == NONE
            if mode == PLANNED:
                answers[mode] = planned_load(s, f, plan, waited) if ordering else planned_victim(s, f, plan)
            elif cursor + 1 < plan.size[0]:
                answers[mode] = (
                    held_model(s, f, plan, cursor + 1) if ordering else strange_victim(s, f, plan, cursor + 1)
                )
            else:
                answers[mode] = NONE
        if answers[mode] != NONE:
            return answers[mode]
    if answers[RULE + rule] == UNKNOWN:
        answers[RULE + rule] = decide(s, f, w, rules[rule], scratch)
    return answers[RULE + rule]


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


@inlined
def leave(s: State, rows: Array, group: int, game: Game, search: Search, way: int, action: int, before: int) -> None:
    """A way that decides otherwise leaves its group, for one that left at the same question if there is one.

    Args:
        s: the state of the group, at a question.
        rows: (W, width) the state of each group.
        group: which it leaves; what its row says holds at this question.
        game: the episode.
        search: where the groups are.
        way: which leaves.
        action: what it does.
        before: how many groups waited before this question.
    """
    groups, stack = search.groups, search.stack
    groups[group, GROUP.ways] ^= int64(1) << way
    for place in range(before, stack[0]):
        if groups[stack[1 + place], GROUP.action] == action:
            groups[stack[1 + place], GROUP.ways] |= int64(1) << way
            return
    new = int64(0)
    while groups[new, GROUP.ways] != 0:
        new += 1
    for column in range(len(GROUP)):
        groups[new, column] = groups[group, column]
    groups[new, GROUP.ways] = int64(1) << way
    groups[new, GROUP.action] = action
    end = reached(s, search, search.groups[group, GROUP.logged], search.spans[group, SPAN.end])
    copy_replay(rows[group], rows[new], game.at, search.spans[new], search.spans[group, SPAN.first], end)
    groups[new, GROUP.logged] = s.scalars[LOGGED]
    stack[1 + stack[0]] = new
    stack[0] += 1


@inner
def choose_together(
    s: State, f: Fleet, rows: Array, group: int, game: Game, rules: Any, scratch: Scratch, plan: Plan, search: Search
) -> int:
    """What the first way of a group does at a question; those that do something else leave."""
    mine = search.groups[group]
    ways, waited, cursor = mine[GROUP.ways], mine[GROUP.waited], mine[GROUP.cursor]
    d, before = s.scalars[DECISIONS], search.stack[0]
    search.answers[:] = UNKNOWN
    chosen = NONE
    for way in range(len(search.ways)):
        if (ways >> way) & 1 == 0:
            continue
        if d < search.ways[way, WAY.until]:
            action = draw(s, search.draws[(search.ways[way, WAY.first_draw] + d) % len(search.draws)])
        else:
            action = go_on(s, f, game.w, rules, scratch, plan, search, int64(way), waited, cursor)
        if chosen == NONE:
            chosen = action
        elif action != chosen:
            leave(s, rows, group, game, search, int64(way), action, before)
    return chosen


@inner
def play(
    rows: Array, group: int, game: Game, rules: Any, scratch: Scratch, plan: Plan, record: Plan, search: Search,
    bound: float,
) -> float:  # fmt: skip
    """A group plays on to the end and is recorded; the cost of its episode, inf if it was given up: above `bound`.

    Ways that decide otherwise on their way become groups of their own, which are to be played on before any other, as
    the decisions that they have in common stand in the record.
    """
    s = held(state_views(rows[group], game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    mine = search.groups[group]
    size = plan.size[0]
    while s.scalars[STATUS] == ASKED:
        if mine[GROUP.action] == NONE:
            cost = cost_now(s, f)
            if cost > bound or s.scalars[DECISIONS] >= len(record.cost):
                return np.inf
            cursor = mine[GROUP.cursor]
            while cursor + 1 < size and plan.entries[cursor + 1, ENTRY.time_us] <= s.scalars[CLOCK]:
                cursor += 1
            mine[GROUP.cursor] = cursor
            if cursor + 1 < size:
                begins, ends = plan.entries[cursor, ENTRY.time_us], plan.entries[cursor + 1, ENTRY.time_us]
                part = (s.scalars[CLOCK] - begins) / max(ends - begins, 1)
                excess = cost - plan.cost[cursor] - part * (plan.cost[cursor + 1] - plan.cost[cursor])
                if excess > search.slack or (mine[GROUP.calm] >= search.calm and excess >= 0.0):
                    return np.inf
            mine[GROUP.action] = choose_together(s, f, rows, group, game, rules, scratch, plan, search)
        action = mine[GROUP.action]
        code = code_of(s, f, action)
        note(s, f, record, code, mine[GROUP.waited])
        if code == 2 * len(f.models):
            mine[GROUP.waited] += 1
        else:
            mine[GROUP.waited] = 0
            mine[GROUP.calm] = mine[GROUP.calm] + 1 if as_planned(s, f, plan, code) else 0
        advance(s, f, game.w, game.limits, game.trace, action)
        mine[GROUP.action] = NONE
    if s.scalars[STATUS] != DONE:
        return np.inf
    record.size[0] = s.scalars[DECISIONS]
    return cost_now(s, f)


@inlined
def first_group(search: Search, ways: int, waited: int, cursor: int, logged: int) -> None:
    """One group, whose state is in row 0, waits to be played on."""
    search.groups[:] = 0
    search.groups[0, GROUP.ways] = ways
    search.groups[0, GROUP.action] = NONE
    search.groups[0, GROUP.waited] = waited
    search.groups[0, GROUP.cursor] = cursor
    search.groups[0, GROUP.logged] = logged
    search.stack[0] = 1
    search.stack[1] = 0


@inlined
def first_way(ways: int) -> int:
    """The number of the lowest bit that is set."""
    way = int64(0)
    while (ways >> way) & 1 == 0:
        way += 1
    return way


# ---------------------------------------------------------------------------------------------------------------------
# Entry points


@compiled
def first_plan(rows: Array, game: Game, rules: Any, scratch: Scratch, plan: Plan, search: Search) -> float:
    """Records the episode of the first rule; its cost, inf where it was truncated or has no room."""
    game, scratch, plan, search = held(game), held(scratch), held(plan), held(search)
    all_rules = (held(rules[0]), held(rules[1]), held(rules[2]), held(rules[3]))
    for m in range(len(scratch.next_pointer)):
        scratch.next_pointer[m] = all_rules[0].future_start[m]
    proceed(rows[0], game, BEGIN)
    plan.size[0] = 0
    first_group(search, int64(1), int64(0), int64(0), int64(0))
    cost = play(rows, int64(0), game, all_rules, scratch, plan, plan, search, np.inf)
    index_plan(plan)
    return cost


@compiled
def improve(
    row: Array, rows: Array, game: Game, rules: Any, scratch: Scratch, pointers: Array, plan: Plan, trial: Plan,
    best: Plan, search: Search, cost: float, counts: Array,
) -> float:  # fmt: skip
    """One round: goes along the plan, replaces decisions if that makes the episode cheaper; its cost afterwards.

    Args:
        row: the state that goes along the plan.
        rows: (W, width) those of replays.
        game: the episode.
        rules: `RULES`, by which the ways go on; all of them know the same future, or none.
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
    all_rules = (held(rules[0]), held(rules[1]), held(rules[2]), held(rules[3]))
    s = held(state_views(row, game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    models, first_rule, groups, stack = len(f.models), all_rules[0], search.groups, search.stack
    for m in range(models):
        pointers[m] = first_rule.future_start[m]
    proceed(row, game, BEGIN)
    search.spans[:, SPAN.first] = 0
    search.spans[:, SPAN.end] = len(s.requests)
    first, end, logged = int64(0), int64(0), int64(0)
    while s.scalars[STATUS] == ASKED:
        d = s.scalars[DECISIONS]
        while s.requests[first, REQUEST.finish_us] != NONE:
            first += 1
        end = reached(s, search, logged, end)
        logged = s.scalars[LOGGED]
        if len(first_rule.future_order) > 0:
            for m in range(models):
                next_use(s, first_rule, pointers, m)
        planned = action_of(s, f, plan.entries[d, ENTRY.code])
        best_cost = cost
        for action in range(len(s.legal)):
            if s.legal[action] == 0:
                continue
            ways = int64(0)
            for way in range(len(search.ways)):
                drawn = search.ways[way, WAY.random]
                if (action == planned and drawn == 0) or counts[0] >= search.max_replays:
                    continue
                counts[0] += 1
                search.ways[way, WAY.until] = d + 1 + drawn
                search.ways[way, WAY.first_draw] = counts[0] * (drawn + 1)
                ways |= int64(1) << way
            if ways == 0:
                continue
            copy_replay(row, rows[0], game.at, search.spans[0], first, end)
            code, waited = code_of(s, f, action), plan.entries[d, ENTRY.waits]
            note(s, f, trial, code, waited)
            proceed(rows[0], game, int64(action))
            waited = waited + 1 if code == 2 * models else int64(0)
            first_group(search, ways, waited, min(d, max(plan.size[0] - 1, int64(0))), logged)
            winner = NONE
            while stack[0] > 0:
                group = stack[stack[0]]
                stack[0] -= 1
                for m in range(models):
                    scratch.next_pointer[m] = pointers[m]
                way = first_way(groups[group, GROUP.ways])
                replayed = play(rows, group, game, all_rules, scratch, plan, trial, search, best_cost)
                played = held(state_views(rows[group], game.at))
                search.spans[group, SPAN.end] = reached(
                    played, search, groups[group, GROUP.logged], search.spans[group, SPAN.end]
                )
                groups[group, GROUP.ways] = 0
                # Of equally good ones the first way counts, in whatever order they were played.
                if replayed < best_cost or (replayed == best_cost and way < winner):
                    best_cost, winner = replayed, way
                    copy_plan(trial, best, d)
        if best_cost < cost:
            cost = best_cost
            counts[1] += 1
            copy_plan(best, plan, d)
            index_plan(plan)
            planned = action_of(s, f, plan.entries[d, ENTRY.code])
        proceed(row, game, planned)
    return cost_now(s, f)
