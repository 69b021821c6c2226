"""The compiled part of the generator: one pass over time, a heap of tracks, one row per request.

Reading guide: `generate_rows` at the end is the whole; `_users`, `_routing` and `_pace` prepare what an episode needs.
Random numbers: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), one counter per named stream.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cace_env.compilation import compiled, inlined, inner
from cace_env.generator_tables import (
    COMPACT_TOKENS,
    DAY_BINS,
    FIRST_TOKENS,
    GAP_S,
    KINDS,
    NEW_TOKENS,
    OUTPUT_TOKENS,
    POINTS,
    STEPS,
    STEPS_SEEN,
    GeneratorTables,
)

STREAMS = ("users", "popularity", "drift", "deployments", "bursts") + tuple(
    f"{part} of {kind}" for part in ("sessions", "gaps", "tokens", "models") for kind in KINDS
)
NUM_STREAMS = len(STREAMS)
USERS, POPULARITY, DRIFT, DEPLOYMENTS, BURSTS, SESSIONS = range(6)
NUM_KINDS = len(KINDS)
GAPS, TOKENS, MODELS = SESSIONS + NUM_KINDS, SESSIONS + 2 * NUM_KINDS, SESSIONS + 3 * NUM_KINDS
COMPLETION, AGENT, SUBAGENT = 0, 3, 4
# GeneratorTables.knobs, in the order of generator_tables.KNOBS
(ACTIVITY_SPREAD, BURST_SPREAD, BURST_S, DRIFT_TV, NEW_MODELS, STICKINESS, AGENT_SWITCH, HOME_LANGUAGE,
 LANGUAGE_SPREAD, STAY, KEPT_PREFIX, COMPACT_TO, COMPACT_KEPT, SUBAGENT_CHANCE) = range(14)  # fmt: skip

EPOCHS = 32  # steps in which popularity drifts over the episode
FITTING_ROUNDS = 25  # of iterative proportional fitting
MIN_THINK_US = 100_000.0  # from a finish to the next request of the session, at least (assumed)
FASTEST_BREAK = 0.02  # shortest mean break, as a share of the mean time from session to session
PARALLEL_LOAD = 0.6  # a user gets another track of a task where sessions would fill more than this share of his time
TYPED_TOKENS = (
    10.0  # mean tokens typed between completions at one place (CUPS: prompts change by 11 characters (p50), 126 (p90))
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@inlined
def _uniform(states: Any, stream: int) -> float:
    """Next number of a stream, in [0, 1)."""
    z = states[stream] + _GOLDEN
    states[stream] = z
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return float((z ^ (z >> _S31)) >> _S11) * (1.0 / 9007199254740992.0)


@inner
def _normal(states: Any, stream: int) -> float:
    """Standard normal (Box-Muller, two numbers of the stream)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - _uniform(states, stream)))
    return radius * math.cos(2.0 * math.pi * _uniform(states, stream))


@inlined
def _quantile(table: Any, level: float) -> float:
    """Value of a tabulated quantile function, linear between its entries."""
    position = level * (POINTS - 1)
    low = int(position)
    if low >= POINTS - 1:
        return float(table[POINTS - 1])
    return float(table[low]) + (float(table[low + 1]) - float(table[low])) * (position - low)


@inlined
def _pick(cumulative: Any, level: float) -> int:
    """First index whose cumulative share exceeds `level`, which is below 1."""
    index = 0
    while index < len(cumulative) - 1 and cumulative[index] <= level:
        index += 1
    return index


@inner
def _users(tables: GeneratorTables, states: Any) -> Any:
    """Requests per second (users, tasks) and main language (users,): log-normal activity times the role's factors."""
    users, tasks = tables.role_factor.shape
    rates = np.empty((users, tasks))
    language = np.empty(users, np.int64)
    cumulative = np.cumsum(tables.language_shares)
    for user in range(users):
        activity = math.exp(tables.knobs[ACTIVITY_SPREAD] * _normal(states, USERS))
        language[user] = _pick(cumulative, _uniform(states, USERS))
        for task in range(tasks):
            rates[user, task] = activity * tables.role_factor[user, task]
    for task in range(tasks):
        rates[:, task] *= tables.task_rate[task] / rates[:, task].sum()
    # one completion in flight per user: what the busiest cannot type, the others do
    most = 0.75 / tables.mean_gap_s[COMPLETION]
    for _ in range(8):
        excess, room = 0.0, 0.0
        for user in range(users):
            excess += max(rates[user, COMPLETION] - most, 0.0)
            rates[user, COMPLETION] = min(rates[user, COMPLETION], most)
            if rates[user, COMPLETION] < most:
                room += rates[user, COMPLETION]
        if excess <= 0.0 or room <= 0.0:
            break
        for user in range(users):
            if rates[user, COMPLETION] < most:
                rates[user, COMPLETION] *= 1.0 + excess / room
    return rates, language


@inner
def _fit(shares: Any, rows: Any, taste: Any) -> Any:
    """Requests by row (task, language) and model: near `taste`, with the row sums and, as far as possible, the model shares."""
    table = taste.copy()
    num_rows, models = table.shape
    for _ in range(FITTING_ROUNDS):
        for model in range(models):
            total = table[:, model].sum()
            if total > 0.0:
                table[:, model] *= shares[model] / total
        for row in range(num_rows):
            total = table[row].sum()
            if total > 0.0:
                table[row] *= rows[row] / total
    return table


@inner
def _drifted(shares: Any, states: Any, variation: float) -> Any:
    """Shares at a total variation of `variation` from `shares`, by one log-normal factor per model."""
    direction = np.empty(len(shares))
    for model in range(len(shares)):
        direction[model] = _normal(states, DRIFT)
    low, high = 0.0, 8.0
    moved = shares.copy()
    for _ in range(30):
        strength = 0.5 * (low + high)
        moved = shares * np.exp(strength * direction)
        moved /= moved.sum()
        if 0.5 * np.abs(moved - shares).sum() < variation:
            low = strength
        else:
            high = strength
    return moved


@inner
def _routing(tables: GeneratorTables, states: Any) -> Any:
    """Cumulative shares (EPOCHS, tasks * languages, models) and the epoch in which each model is deployed (models,)."""
    tasks, models = tables.serves.shape
    languages = len(tables.language_shares)
    tie = np.empty(models)
    for model in range(models):
        tie[model] = _uniform(states, POPULARITY)
    shares = np.empty(models)
    for model in range(models):
        rank = 0
        for other in range(models):
            ahead = tables.popularity_hint[other] - tables.popularity_hint[model]
            rank += ahead > 0.0 or (ahead == 0.0 and tie[other] < tie[model])
        shares[model] = tables.popularity_law[rank]
    taste = np.zeros((tasks * languages, models))
    rows = np.empty(tasks * languages)
    total_rate = tables.task_rate.sum()
    for language in range(languages):
        for model in range(models):
            factor = math.exp(tables.knobs[LANGUAGE_SPREAD] * _normal(states, POPULARITY))
            for task in range(tasks):
                if tables.serves[task, model] and tables.speaks[language, model]:
                    taste[task * languages + language, model] = factor * shares[model]
        for task in range(tasks):
            rows[task * languages + language] = tables.task_rate[task] / total_rate * tables.language_shares[language]
    first = _fit(shares, rows, taste)
    last = first
    if tables.knobs[DRIFT_TV] > 0.0:  # linear in time: half as far between the averages of both halves
        last = _fit(_drifted(shares, states, 2.0 * tables.knobs[DRIFT_TV]), rows, taste)
    deployed = _deployments(tables, states, taste)
    cumulative = np.empty((EPOCHS, tasks * languages, models))
    for epoch in range(EPOCHS):
        progress = (epoch + 0.5) / EPOCHS
        for row in range(tasks * languages):
            total = 0.0
            for model in range(models):
                if deployed[model] <= epoch:
                    total += (1.0 - progress) * first[row, model] + progress * last[row, model]
                cumulative[epoch, row, model] = total
            if total > 0.0:
                cumulative[epoch, row] /= total
    return cumulative, deployed


@inner
def _deployments(tables: GeneratorTables, states: Any, taste: Any) -> Any:
    """Epoch from which each model exists: 0, or in the middle half for new ones; no row is ever left without a model."""
    num_rows, models = taste.shape
    deployed = np.zeros(models, np.int64)
    wanted = min(int(tables.knobs[NEW_MODELS]), models - 1)
    order = np.empty(models)
    for model in range(models):
        order[model] = _uniform(states, DEPLOYMENTS)
    for model in np.argsort(order):
        if wanted == 0:
            break
        replaceable = True
        for row in range(num_rows):
            others = 0
            for other in range(models):
                others += other != model and deployed[other] == 0 and taste[row, other] > 0.0
            replaceable &= taste[row, model] == 0.0 or others > 0
        if replaceable:
            deployed[model] = EPOCHS // 4 + int(_uniform(states, DEPLOYMENTS) * (EPOCHS // 2))
            wanted -= 1
    return deployed


@inner
def _pace(tables: GeneratorTables, states: Any, requests: int) -> Any:
    """Burst factors (bins of `burst_s`, repeated when used up) and the expected length of the episode [s]."""
    rate, bin_s = tables.task_rate.sum(), 86_400.0 / DAY_BINS
    length_s, done, index = 0.0, 0.0, 0
    per_day = rate * 86_400.0
    days = int(requests / per_day)
    length_s, done = days * 86_400.0, days * per_day
    while done < requests:
        step = rate * tables.day[index % DAY_BINS] * bin_s
        length_s += bin_s * min(1.0, (requests - done) / step)
        done += step
        index += 1
    bursts = np.empty(min(int(1.5 * length_s / tables.knobs[BURST_S]) + 16, 1 << 20))
    spread = tables.knobs[BURST_SPREAD]
    for index in range(len(bursts)):
        bursts[index] = math.exp(spread * _normal(states, BURSTS) - 0.5 * spread * spread)
    return bursts, length_s


@inner
def _break_end(tables: GeneratorTables, bursts: Any, now_s: float, need: float, cycle_s: float, busy_s: float) -> float:
    """When a break that starts now is over: the hazard, integrated over bins of day curve and bursts, has reached `need`."""
    bin_s = 86_400.0 / DAY_BINS
    burst_s = tables.knobs[BURST_S]
    while True:
        day_bin = int(now_s / bin_s)
        burst_bin = int(now_s / burst_s)
        until = min((day_bin + 1) * bin_s, (burst_bin + 1) * burst_s)
        idle_s = max(cycle_s / tables.day[day_bin % DAY_BINS] - busy_s, FASTEST_BREAK * cycle_s)
        hazard = bursts[burst_bin % len(bursts)] / idle_s
        span = until - now_s
        if hazard * span >= need:
            return now_s + need / hazard
        need -= hazard * span
        now_s = until if until > now_s else now_s + 1e-3  # rounding must not stop the clock


@inner
def _sift_down(times: Any, tracks: Any, size: int, root: int) -> None:
    """Restores the heap (least time first; ties by track) below `root`."""
    time, track = times[root], tracks[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            times[right] < times[child] or (times[right] == times[child] and tracks[right] < tracks[child])
        ):
            child = right
        if not (times[child] < time or (times[child] == time and tracks[child] < track)):
            break
        times[root], tracks[root] = times[child], tracks[child]
        root = child
    times[root], tracks[root] = time, track


@inner
def _sift_up(times: Any, tracks: Any, leaf: int) -> None:
    """Restores the heap above `leaf`."""
    time, track = times[leaf], tracks[leaf]
    while leaf > 0:
        parent = (leaf - 1) // 2
        if not (time < times[parent] or (time == times[parent] and track < tracks[parent])):
            break
        times[leaf], tracks[leaf] = times[parent], tracks[parent]
        leaf = parent
    times[leaf], tracks[leaf] = time, track


@inner
def _next_context(
    tables: GeneratorTables, states: Any, kind: int, context: int, left: int, level: float, compact: float
) -> Any:
    """(context, kept prefix of the previous request, level) of a session's next request; `context` 0 = its first."""
    stream = TOKENS + kind
    quantiles = tables.quantiles[kind]
    draw = _uniform(states, stream)
    if kind == COMPLETION:
        if context == 0 or draw >= tables.knobs[STAY]:
            return int(_quantile(quantiles[FIRST_TOKENS], _uniform(states, stream)) + 0.5), 0, 0.0
        kept = int(tables.knobs[KEPT_PREFIX] * context)
        return context + int(1.0 - TYPED_TOKENS * math.log(1.0 - _uniform(states, stream))), kept, 0.0
    if kind != AGENT and kind != SUBAGENT:  # sorted draws: the least of `left` uniform numbers above `level`
        level = 1.0 - (1.0 - level) * (1.0 - draw) ** (1.0 / left)
        return max(int(_quantile(quantiles[FIRST_TOKENS], level) + 0.5), context + 1), context, level
    if context == 0:
        return int(_quantile(quantiles[FIRST_TOKENS], draw) + 0.5), 0, 0.0
    grown = context + max(int(_quantile(quantiles[NEW_TOKENS], draw) + 0.5), 1)
    if grown <= compact:
        return grown, context, 0.0
    grown = int(tables.knobs[COMPACT_TO] * context)
    return grown, int(tables.knobs[COMPACT_KEPT] * grown), 0.0


@inner
def _tracks(tables: GeneratorTables, rates: Any) -> Any:
    """Tracks by user: (user, kind, seconds from session to session) each; an agent track is followed by its sub-agent's."""
    users, tasks = rates.shape
    count = np.empty((users, tasks), np.int64)
    for user in range(users):
        for task in range(tasks):
            busy = rates[user, task] * tables.mean_gap_s[task]
            count[user, task] = (
                0 if rates[user, task] <= 0.0 else 1 if task == COMPLETION else 1 + int(busy / PARALLEL_LOAD)
            )
    total = count.sum() + count[:, AGENT].sum()
    owner, kind, cycle_s = np.empty(total, np.int64), np.empty(total, np.int64), np.zeros(total)
    track = 0
    for user in range(users):
        for task in range(tasks):
            for _ in range(count[user, task]):
                owner[track], kind[track] = user, task
                cycle_s[track] = tables.mean_steps[task] * count[user, task] / rates[user, task]
                track += 1
                if task == AGENT:
                    owner[track], kind[track] = user, SUBAGENT
                    track += 1
    return owner, kind, cycle_s


@compiled
def generate_rows(
    tables: GeneratorTables,
    states: Any,
    arrival_us: Any,
    after: Any,
    think_us: Any,
    model_of: Any,
    task_of: Any,
    context_tokens: Any,
    new_tokens: Any,
    output_tokens: Any,
    user_of: Any,
    session_of: Any,
) -> None:
    """Fills the columns of a workload, row by row in order of nominal arrival; `states` (NUM_STREAMS,) are used up."""
    requests = len(arrival_us)
    knobs, quantiles = tables.knobs, tables.quantiles
    languages, models = tables.speaks.shape
    rates, home = _users(tables, states)
    cumulative, deployed = _routing(tables, states)
    bursts, length_s = _pace(tables, states, requests)
    owner, kind_of, cycle_s = _tracks(tables, rates)
    tracks = len(owner)
    language_cumulative = np.cumsum(tables.language_shares)

    habit = np.full((len(home), 4, languages), -1, np.int16)  # model a user last chose for a task and language
    seen = np.zeros(
        (tracks, models), np.int32
    )  # tokens of the running session's last request to each model, still a prefix
    left, session, model = np.zeros(tracks, np.int64), np.zeros(tracks, np.int64), np.zeros(tracks, np.int64)
    row_of = np.zeros(tracks, np.int64)  # language row of the running session
    context, level, compact = np.zeros(tracks, np.int64), np.zeros(tracks), np.zeros(tracks)
    follows = np.full(tracks, -1, np.int64)  # row that the track's next request waits for
    think = np.zeros(tracks)
    asleep = np.ones(tracks, np.bool_)  # sub-agent tracks outside the heap
    skipped = np.zeros(tracks, np.int64)  # steps a session had behind it at time 0

    times, heap = np.empty(tracks), np.empty(tracks, np.int64)
    size = 0
    for track in range(tracks):
        kind = kind_of[track]
        if kind == SUBAGENT:
            continue
        busy_s = (tables.mean_steps[kind] - 1.0) * tables.mean_gap_s[kind]
        stream = SESSIONS + kind
        running = _uniform(states, stream) < busy_s * tables.day[0] / cycle_s[track]
        need, place, delay = _uniform(states, stream), _uniform(states, stream), _uniform(states, stream)
        if running:  # met in the middle: long sessions are met more often
            skipped[track] = 1 + int(place * _quantile(quantiles[kind, STEPS_SEEN], need))
            start_s = delay * _quantile(quantiles[kind, GAP_S], _uniform(states, stream))
        else:
            start_s = _break_end(tables, bursts, 0.0, -math.log(1.0 - need), cycle_s[track], busy_s)
        times[size], heap[size] = start_s * 1e6, track
        asleep[track] = False
        size += 1
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(times, heap, size, root)

    sessions = 0
    for row in range(requests):
        now_us, track = times[0], heap[0]
        kind, user = kind_of[track], owner[track]
        task = min(kind, AGENT)
        epoch = min(int(now_us * 1e-6 / length_s * EPOCHS), EPOCHS - 1)
        if left[track] == 0:
            session[track] = sessions
            sessions += 1
            stream = SESSIONS + kind
            draw, language_draw, other = _uniform(states, stream), _uniform(states, stream), _uniform(states, stream)
            left[track] = int(_quantile(quantiles[kind, STEPS], draw) + 0.5)
            if skipped[track] > 0:
                left[track] = max(int(_quantile(quantiles[kind, STEPS_SEEN], draw) + 0.5), skipped[track] + 1)
            compact[track] = _quantile(quantiles[kind, COMPACT_TOKENS], _uniform(states, stream))
            seen[track] = 0
            context[track], level[track] = 0, 0.0
            keep, choice = _uniform(states, MODELS + kind), _uniform(states, MODELS + kind)
            if kind == SUBAGENT:
                model[track] = _smaller(tables, cumulative[epoch, row_of[track]], model[track], choice)
            else:
                language = home[user] if language_draw < knobs[HOME_LANGUAGE] else _pick(language_cumulative, other)
                row_of[track] = task * languages + language
                if habit[user, task, language] < 0 or keep >= knobs[STICKINESS]:
                    habit[user, task, language] = _pick(cumulative[epoch, row_of[track]], choice)
                model[track] = habit[user, task, language]
            for _ in range(skipped[track]):
                context[track], kept, level[track] = _next_context(
                    tables,
                    states,
                    kind,
                    context[track],
                    left[track],
                    level[track],
                    min(compact[track], 0.9 * tables.longest_request[model[track]]),
                )
                left[track] -= 1
            skipped[track] = 0
        elif kind == AGENT and _uniform(states, MODELS + kind) < knobs[AGENT_SWITCH]:
            model[track] = _pick(cumulative[epoch, row_of[track]], _uniform(states, MODELS + kind))

        chosen = model[track]
        longest = tables.longest_request[chosen]
        output = int(_quantile(quantiles[kind, OUTPUT_TOKENS], _uniform(states, TOKENS + kind)) + 0.5)
        output = min(max(output, 1), max(longest // 4, 1))
        limit = longest - output
        before = context[track]
        grown, kept, level[track] = _next_context(
            tables, states, kind, before, left[track], level[track], min(compact[track], 0.9 * limit)
        )
        grown = min(max(grown, 1), limit)
        kept = min(kept, grown)
        if kept < before:
            for other_model in range(models):
                seen[track, other_model] = min(seen[track, other_model], kept)
        context[track] = grown
        new = max(grown - seen[track, chosen], 1)
        seen[track, chosen] = grown

        arrival_us[row] = int(now_us)
        after[row] = follows[track]
        think_us[row] = int(think[track]) if follows[track] >= 0 else 0
        model_of[row], task_of[row] = chosen, task
        context_tokens[row], new_tokens[row], output_tokens[row] = grown, new, output
        user_of[row], session_of[row] = user, session[track]

        service_us = new * tables.prefill_us[chosen] + output * tables.decode_us[chosen]
        left[track] -= 1
        gap_us = 1e6 * _quantile(quantiles[kind, GAP_S], _uniform(states, GAPS + kind))
        next_us = now_us + max(gap_us, service_us + MIN_THINK_US)
        follows[track] = row
        if kind == AGENT and asleep[track + 1] and _uniform(states, SESSIONS + SUBAGENT) < knobs[SUBAGENT_CHANCE]:
            child = track + 1
            asleep[child] = False
            model[child], row_of[child], follows[child], think[child] = chosen, row_of[track], row, MIN_THINK_US
            times[size], heap[size] = now_us + service_us + MIN_THINK_US, child
            size += 1
            _sift_up(times, heap, size - 1)
        if left[track] == 0:
            if kind == SUBAGENT:
                asleep[track] = True
                size -= 1
                times[0], heap[0] = times[size], heap[size]
                _sift_down(times, heap, size, 0)
                continue
            busy_s = (tables.mean_steps[kind] - 1.0) * tables.mean_gap_s[kind]
            need = -math.log(1.0 - _uniform(states, GAPS + kind))
            end_s = (now_us + service_us + MIN_THINK_US) * 1e-6
            next_us = 1e6 * _break_end(tables, bursts, end_s, need, cycle_s[track], busy_s)
            if kind != COMPLETION:  # a new session starts at its own time, whatever became of the last one
                follows[track] = -1
        think[track] = next_us - now_us - service_us
        times[0] = next_us
        _sift_down(times, heap, size, 0)


@inner
def _smaller(tables: GeneratorTables, cumulative: Any, parent: int, level: float) -> int:
    """A model smaller than `parent`, by popularity among those; `parent` itself where there is none."""
    total, before = 0.0, 0.0
    for model in range(len(cumulative)):
        if tables.weights_gb[model] < tables.weights_gb[parent]:
            total += cumulative[model] - before
        before = cumulative[model]
    if total <= 0.0:
        return parent
    running, before, chosen = 0.0, 0.0, parent
    for model in range(len(cumulative)):
        share = cumulative[model] - before
        before = cumulative[model]
        if tables.weights_gb[model] < tables.weights_gb[parent] and share > 0.0:
            chosen = model
            running += share
            if running > level * total:
                break
    return chosen
