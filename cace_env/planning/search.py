"""The cheapest way to play an episode: all sequences of decisions but those that can no longer be cheaper.

`branch_and_bound` is a whole search, for a dozen decisions. `try_action` is one step of a search that visits once what
many sequences lead to (`cace_env.planning.merged_optimum`): `write_future` writes down what the rest of an episode
depends on, and nothing else of its past.
"""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import compiled, inlined, inner
from cace_env.held import held
from cace_env.kernel.plan import Game, code_of, copy_state, proceed
from cace_env.kernel.run import BEGIN, cost_now
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    ASKED,
    CACHED_BYTES,
    CLOCK,
    CLOSED_SIZE,
    COLUMN,
    DECISIONS,
    DONE,
    DRAINING,
    FIXED,
    FOREVER,
    HEAP,
    IDLE,
    LIMIT,
    LOADING,
    MODEL,
    NEXT_OPEN,
    NONE,
    PAIR,
    PREFETCHES,
    R_CACHE_BYTES,
    R_MAX_DECISIONS,
    R_PREFETCH_LIMIT,
    REQUEST,
    RESIDENT,
    SPEC,
    SPEED,
    STATUS,
    TARGET,
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
def least_load_us(f: Fleet, m: int) -> Any:
    """The shortest load of model m from any tier onto any accelerator."""
    least = f.speeds[m, SPEED.load_host]
    for a in range(len(f.accelerators)):
        speeds = f.speeds[a * len(f.models) + m]
        least = min(least, speeds[SPEED.load_host], speeds[SPEED.load_disk])
    return least


@inlined
def until_ready_us(s: State, f: Fleet, m: int) -> Any:
    """A lower bound on the time from now until model m can admit a request."""
    phase = s.models[m, MODEL.phase]
    if phase == RESIDENT:
        return 0
    if phase == LOADING:
        return s.accelerators[s.models[m, MODEL.place], ACCELERATOR.channel_end] - s.scalars[CLOCK]
    return least_load_us(f, m)


@inner
def cost_to_come(s: State, f: Fleet, w: Requests, ttft_us: Array, e2e_us: Array) -> Any:
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
) -> Any:  # fmt: skip
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
    game = held(game)
    f = held(fleet_views(game.fleet, game.fleet_at))
    found[0], found[1], found[2] = NONE, 0, PROVEN
    proceed(rows[0], game, BEGIN)
    s = held(state_views(rows[0], game.at))
    if s.scalars[STATUS] == DONE and cost_now(s, f) < bound:
        found[0] = 0
        return cost_now(s, f)
    depth = int64(0) if s.scalars[STATUS] == ASKED else NONE
    tried[0] = NONE
    while depth >= 0:
        s = held(state_views(rows[depth], game.at))
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
        after = held(state_views(rows[depth + 1], game.at))
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


# ---------------------------------------------------------------------------------------------------------------------
# What the rest of an episode depends on. Left out is what is only counted, or seen by policies, or has been paid for:
# it changes neither later events nor their times.

ENGINE: Final = (  # of a model that runs something; anchors and targets fix when its tokens end
    MODEL.length_ns, MODEL.due_us, MODEL.round_ns, MODEL.anchor_us, MODEL.anchor_rounds, MODEL.prefilling,
    MODEL.prefill_ns, MODEL.decoding, MODEL.kv_halves, MODEL.kv_used, MODEL.decode_start_sum, MODEL.heap_size,
)  # fmt: skip
WORDS_PER_MODEL: Final = 9 + len(ENGINE)
WORDS_PER_REQUEST: Final = 8  # in a queue: 2; admitted, until its first token: 5; closed loop: 2; a prefix: 1
WORDS_PER_ACCELERATOR: Final = 8
WORDS_MORE: Final = 8


def most_words(models: int, accelerators: int, requests: int) -> Any:
    """Words that `write_future` never exceeds."""
    return WORDS_MORE + WORDS_PER_MODEL * models + WORDS_PER_ACCELERATOR * accelerators + WORDS_PER_REQUEST * requests


@inlined
def leaving_rank(s: State, m: int) -> Any:
    """How many victims that have not left were chosen before model m, which drains or unloads."""
    rank = int64(0)
    for other in range(len(s.models)):
        if s.models[other, MODEL.phase] >= DRAINING and s.models[other, MODEL.rank] < s.models[m, MODEL.rank]:
            rank += 1
    return rank


@inlined
def cache_rank(s: State, f: Fleet, m: int) -> Any:
    """0: not in the host cache. Else 1, and where the cache could be too small, how many would be dropped before m."""
    if s.models[m, MODEL.touched] == 0:
        return int64(0)
    rank = int64(1)
    in_all = int64(0)
    for other in range(len(f.models)):
        in_all += f.models[other, SPEC.weights]
        rank += 0 < s.models[other, MODEL.touched] < s.models[m, MODEL.touched]
    return rank if in_all > f.rules[R_CACHE_BYTES] else int64(1)


@inner
def write_model(s: State, f: Fleet, limits: Array, m: int, words: Array, n: int) -> Any:
    """Appends model m, its queue and its engine; the new number of words."""
    phase = s.models[m, MODEL.phase]
    words[n] = phase
    words[n + 1] = s.models[m, MODEL.place]
    words[n + 2] = s.models[m, MODEL.asleep]
    words[n + 3] = cache_rank(s, f, m)
    words[n + 4] = s.models[m, MODEL.waiting]
    words[n + 5] = s.models[m, MODEL.running]
    words[n + 6] = 0
    words[n + 7] = s.models[m, MODEL.lone]
    if phase >= DRAINING:
        words[n + 6] = leaving_rank(s, m)
    elif phase == ABSENT and s.models[m, MODEL.waiting] > 0:
        words[n + 6] = s.models[m, MODEL.pending_since]
    elif phase == RESIDENT and limits[LIMIT.any_keep_alive] == 1:
        words[n + 6] = s.models[m, MODEL.idle_since]
    n += 8
    r = s.models[m, MODEL.queue_head]
    for _ in range(s.models[m, MODEL.waiting]):
        words[n] = r
        words[n + 1] = s.requests[r, REQUEST.arrival_us]
        n += 2
        r = s.requests[r, REQUEST.queue_next]
    if s.models[m, MODEL.running] == 0:
        return n
    for column in ENGINE:
        words[n] = s.models[m, column]
        n += 1
    for k in range(f.models[m, SPEC.heap_start], f.models[m, SPEC.heap_start] + s.models[m, MODEL.heap_size]):
        r = s.tokens[k, HEAP.request]
        words[n] = s.tokens[k, HEAP.key]
        words[n + 1] = r
        words[n + 2] = s.requests[r, REQUEST.arrival_us] if f.prices[1] != 0.0 else 0  # for its SLO
        n += 3
    r = s.models[m, MODEL.prefill_head]
    while r != NONE:
        words[n] = r
        words[n + 1] = s.requests[r, REQUEST.prefill_tokens]
        words[n + 2] = s.requests[r, REQUEST.arrival_us] if f.prices[1] != 0.0 else 0
        n += 3
        r = s.requests[r, REQUEST.queue_next]
    return n


@inner
def write_future(s: State, f: Fleet, w: Requests, limits: Array, again: Array, words: Array) -> Any:
    """Writes what the rest of the episode depends on at a question; how many words.

    States with equal words have equal futures. Those with equal futures need not have equal words: slots, counters and
    what policies see are left out, but a heap in another order counts as another state.
    """
    words[0] = s.scalars[CLOCK]
    words[1] = s.scalars[NEXT_OPEN]
    words[2] = s.scalars[CLOSED_SIZE]
    words[3] = s.scalars[TARGET]
    words[4] = s.scalars[FIXED]
    words[5] = s.scalars[CACHED_BYTES]
    words[6] = s.scalars[PREFETCHES] if f.rules[R_PREFETCH_LIMIT] > 0 else 0
    words[7] = s.scalars[DECISIONS] if f.rules[R_MAX_DECISIONS] < FOREVER else 0
    n = int64(8)
    for m in range(len(f.models)):  # who may leave: slots mean nothing
        slot = s.models[m, MODEL.slot]
        words[n] = s.legal[slot] if slot != NONE else 0
        n += 1
    for m in range(len(f.models)):
        n = write_model(s, f, limits, m, words, n)
    for a in range(len(f.accelerators)):
        words[n] = s.accelerators[a, ACCELERATOR.swap_target]
        words[n + 1] = s.accelerators[a, ACCELERATOR.swap_open]
        words[n + 2] = s.accelerators[a, ACCELERATOR.leaving]
        words[n + 3] = s.accelerators[a, ACCELERATOR.channel]
        words[n + 4] = s.accelerators[a, ACCELERATOR.taken]
        n += 5
        if s.accelerators[a, ACCELERATOR.channel] != IDLE:
            words[n] = s.accelerators[a, ACCELERATOR.channel_model]
            words[n + 1] = s.accelerators[a, ACCELERATOR.channel_end]
            words[n + 2] = s.accelerators[a, ACCELERATOR.channel_tier]
            n += 3
    for k in range(s.scalars[CLOSED_SIZE]):
        words[n] = s.closed[k, HEAP.key]
        words[n + 1] = s.closed[k, HEAP.request]
        n += 2
    for r in range(len(s.requests)):  # prefixes that are cached and that a request may still find
        if again[r] == 0 or s.requests[r, REQUEST.first_us] != NONE:
            continue
        m = int64(w.columns[r, COLUMN.model])
        epoch = s.pairs[w.columns[r, COLUMN.session_pair], PAIR.epoch]
        if s.models[m, MODEL.phase] == RESIDENT and epoch == s.models[m, MODEL.loads]:
            words[n] = r
            n += 1
    return n


@compiled
def try_action(
    parent: Array, child: Array, game: Game, action: int, ttft_us: Array, e2e_us: Array, again: Array, words: Array,
    counts: Array, costs: Array,
) -> Any:  # fmt: skip
    """Plays an action in a copy, and on to the next question; the status then.

    Args:
        parent: (width,) a state at a question; or anything, where `action` is BEGIN.
        child: (width,) the state after it.
        game: the episode.
        action: a legal one, or BEGIN.
        ttft_us: (R,) least latencies, 0 where refused.
        e2e_us: (R,).
        again: (R,) 1 = another request of its session goes to the same model.
        words: what the future of the child hangs on, if there is another question.
        counts: (2,) how many words; the code of the action.
        costs: (2,) of the child: until now; the least at the end.
    """
    game = held(game)
    f = held(fleet_views(game.fleet, game.fleet_at))
    if action != BEGIN:
        counts[1] = code_of(held(state_views(parent, game.at)), f, action)
        copy_state(parent, child, game.at)
    proceed(child, game, action)
    s = held(state_views(child, game.at))
    costs[0] = cost_now(s, f)
    costs[1] = costs[0]
    counts[0] = 0
    if s.scalars[STATUS] == ASKED:
        costs[1] += cost_to_come(s, f, game.w, ttft_us, e2e_us)
        counts[0] = write_future(s, f, game.w, game.limits, again, words)
    return s.scalars[STATUS]
