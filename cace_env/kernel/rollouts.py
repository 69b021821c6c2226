"""What each legal action of an open question costs: every one is tried in a copy of the simulation, and played on.

The requests to come are the true ones, so the costs differ by the actions alone (common random numbers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cace_env.compilation import compiled, inlined, inner
from cace_env.held import held
from cace_env.kernel.orders import decide
from cace_env.kernel.plan import Game, copy_state, proceed
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.run import cost_now
from cace_env.kernel.state import (
    ASKED,
    CLOCK,
    COLUMN,
    ENDED,
    NONE,
    REQUEST,
    SPEC,
    STATUS,
    WEIGHT,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)

Array = Any


@inlined
def part_after(begins: int, ends: int, moment: int, now: int) -> int:
    """How much of the time from `begins` to `ends` (NONE: it lasts) lies between a moment and now."""
    last = now if ends == NONE else ends
    return max(last - max(begins, moment), 0)


@inlined
def cost_until(s: State, f: Fleet, w: Requests, moment: int) -> float:
    """Cost from time 0 until a moment at or before the clock.

    Exact for the time that people wait. Prices of loads, missed SLOs and refusals count until the clock.
    """
    now = s.scalars[CLOCK]
    cost = cost_now(s, f)
    if moment >= now:
        return cost
    for r in range(len(s.requests)):
        arrival, first, finish = (
            s.requests[r, REQUEST.arrival_us],
            s.requests[r, REQUEST.first_us],
            s.requests[r, REQUEST.finish_us],
        )
        if arrival >= now or (finish != NONE and finish <= moment):
            continue
        tokens = int64(w.columns[r, COLUMN.context]) + w.columns[r, COLUMN.output]
        if tokens > f.models[w.columns[r, COLUMN.model], SPEC.kv_tokens]:
            continue  # refused
        task = w.columns[r, COLUMN.task]
        cost -= f.weights[task, WEIGHT.ttft] * 1e-6 * part_after(arrival, first, moment, now)
        cost -= f.weights[task, WEIGHT.e2e] * 1e-6 * part_after(arrival, finish, moment, now)
    return cost


@inner
def play_on(row: Array, game: Game, rule: Rule, scratch: Scratch, moments: Array, costs: Array) -> None:
    """Plays on by a rule and notes the cost at each of the moments, which ascend."""
    s = held(state_views(row, game.at))
    f = held(fleet_views(game.fleet, game.fleet_at))
    for m in range(len(f.models)):
        scratch.next_pointer[m] = rule.future_start[m]
    h = int64(0)
    while True:
        while h < len(moments) and (s.scalars[STATUS] != ASKED or s.scalars[CLOCK] >= moments[h]):
            costs[h] = cost_until(s, f, game.w, moments[h])
            h += 1
        if h == len(moments):
            return
        proceed(row, game, decide(s, f, game.w, rule, scratch))


@compiled
def try_actions(
    row: Array, other: Array, game: Game, rule: Rule, scratch: Scratch, moments: Array, costs: Array
) -> int:
    """Tries every legal action of the open question; how many requests were simulated in all.

    Args:
        row: the simulation; it stays as it is.
        other: room for its copy.
        game: the episode, with the limits of the simulation.
        rule: how the copies go on.
        scratch: room for it.
        moments: (H,) absolute times, ascending.
        costs: (actions, H) from time 0 until each of them, or the end of the episode; inf where not legal.
    """
    game, rule, scratch = held(game), held(rule), held(scratch)
    s = held(state_views(row, game.at))
    tried = held(state_views(other, game.at))
    requests = int64(0)
    for action in range(len(s.legal)):
        if s.legal[action] == 0:
            for h in range(len(moments)):
                costs[action, h] = np.inf
            continue
        copy_state(row, other, game.at)
        proceed(other, game, int64(action))
        play_on(other, game, rule, scratch, moments, costs[action])
        requests += tried.scalars[ENDED] - s.scalars[ENDED]
    return requests
