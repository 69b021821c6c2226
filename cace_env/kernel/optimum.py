"""The cheapest way to play a tiny episode: every decision sequence, less those that cannot be cheaper any more."""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import compiled, inlined, inner
from cace_env.kernel.plan import BEGIN, Game, code_of, copy_state, proceed
from cace_env.kernel.run import cost_now
from cace_env.kernel.state import (
    ACCELERATOR,
    ASKED,
    CLOCK,
    COLUMN,
    DONE,
    LOADING,
    MODEL,
    NONE,
    REQUEST,
    RESIDENT,
    SPEED,
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
PROVEN, OUT_OF_NODES, OUT_OF_DEPTH = (int64(end) for end in range(3))
SECONDS: Final = 1e-6


@inlined
def least_load_us(f: Fleet, m: int) -> int:
    """The shortest load of model m from any tier onto any accelerator."""
    least = f.speeds[m, SPEED.load_host]
    for a in range(len(f.accelerators)):
        speeds = f.speeds[a * len(f.models) + m]
        least = min(least, speeds[SPEED.load_host], speeds[SPEED.load_disk])
    return least


@inlined
def until_ready_us(s: State, f: Fleet, m: int) -> int:
    """At least so long from now until model m can admit somebody."""
    phase = s.models[m, MODEL.phase]
    if phase == RESIDENT:
        return 0
    if phase == LOADING:
        return s.accelerators[s.models[m, MODEL.place], ACCELERATOR.channel_end] - s.scalars[CLOCK]
    return least_load_us(f, m)


@inner
def cost_to_come(s: State, f: Fleet, w: Requests, ttft_us: Array, e2e_us: Array) -> float:
    """What the rest of the episode costs at least, by the least latencies of its requests."""
    now = s.scalars[CLOCK]
    rest = 0.0
    for r in range(len(s.requests)):
        if s.requests[r, REQUEST.finish_us] != NONE:
            continue
        task = w.columns[r, COLUMN.task]
        gone = max(now - s.requests[r, REQUEST.arrival_us], 0)
        if s.requests[r, REQUEST.first_us] == NONE:
            rest += f.weights[task, WEIGHT.ttft] * max(ttft_us[r] - gone, 0)
        rest += f.weights[task, WEIGHT.e2e] * max(e2e_us[r] - gone, 0)
    for m in range(len(f.models)):
        ready_us = until_ready_us(s, f, m)
        r = s.models[m, MODEL.queue_head]
        for _ in range(s.models[m, MODEL.waiting]):  # nothing of their service has begun
            task = w.columns[r, COLUMN.task]
            gone = now - s.requests[r, REQUEST.arrival_us]
            rest += f.weights[task, WEIGHT.ttft] * (ready_us + ttft_us[r] - max(ttft_us[r] - gone, 0))
            rest += f.weights[task, WEIGHT.e2e] * (ready_us + e2e_us[r] - max(e2e_us[r] - gone, 0))
            r = s.requests[r, REQUEST.queue_next]
    return rest * SECONDS


@compiled
def branch_and_bound(
    rows: Array, game: Game, ttft_us: Array, e2e_us: Array, tried: Array, path: Array, plan: Array, found: Array,
    max_nodes: int, bound: float,
) -> float:  # fmt: skip
    """Depth first through all decision sequences; the cost of the cheapest that is below `bound`, else `bound`.

    Args:
        rows: (depth, width) a state for each decision on the way.
        game: the episode.
        ttft_us: (R,) least latencies, 0 where refused.
        e2e_us: (R,).
        tried: (depth,) scratch.
        path: (depth,) scratch.
        plan: (depth,) codes of the cheapest sequence.
        found: (3,) number of its decisions, or NONE; nodes; PROVEN, OUT_OF_NODES or OUT_OF_DEPTH.
        max_nodes: decisions that are applied.
        bound: a cost that is known already.
    """
    f = fleet_views(game.fleet, game.fleet_at)
    found[0], found[1], found[2] = NONE, 0, PROVEN
    proceed(rows[0], game, BEGIN)
    s = state_views(rows[0], game.at)
    if s.scalars[STATUS] == DONE and cost_now(s, f) < bound:
        found[0] = 0
        return cost_now(s, f)
    depth = int64(0) if s.scalars[STATUS] == ASKED else NONE
    tried[0] = NONE
    while depth >= 0:
        s = state_views(rows[depth], game.at)
        action = tried[depth] + 1
        while action < len(s.legal) and s.legal[action] == 0:
            action += 1
        tried[depth] = action
        if action >= len(s.legal):
            depth -= 1
            continue
        if found[1] >= max_nodes:
            found[2] = OUT_OF_NODES
            return bound
        if depth + 1 >= len(rows):
            found[2] = OUT_OF_DEPTH
            return bound
        found[1] += 1
        path[depth] = code_of(s, f, action)
        copy_state(rows[depth], rows[depth + 1], game.at)
        proceed(rows[depth + 1], game, action)
        after = state_views(rows[depth + 1], game.at)
        if after.scalars[STATUS] == ASKED:
            if cost_now(after, f) + cost_to_come(after, f, game.w, ttft_us, e2e_us) < bound:
                depth += 1
                tried[depth] = NONE
        elif after.scalars[STATUS] == DONE and cost_now(after, f) < bound:
            bound = cost_now(after, f)
            found[0] = depth + 1
            for d in range(depth + 1):
                plan[d] = path[d]
    return bound
