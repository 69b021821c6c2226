"""Many simulations in one call: reset or step rows of the arena, and look at each.

The single environment is a batch of one. Rewards are made here, from exact amounts, so that they do not depend on the
order of sums.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from numba import types

from cace_env.compilation import compiled, inlined, linked
from cace_env.held import Held, address_of, at_address, held
from cace_env.kernel.events import slide_window
from cace_env.kernel.features import (
    CONTEXT_LOGS,
    PENDING_LOGS,
    SCALING,
    SECONDS,
    SLOT_LOGS,
    clear,
    compress,
    context_features,
    fastest_load_us,
    missing_bytes,
    pending_features,
    slot_features,
    weigh_pauses,
    write_observation,
)
from cace_env.kernel.processor import atomic_add, atomic_read, atomic_write, give_way, pause, prefetch
from cace_env.kernel.run import BEGIN, advance
from cace_env.kernel.standing import find_rooms, next_pending
from cace_env.kernel.state import (
    ASKED,
    CLOCK,
    DEMAND,
    FLOAT_TABLE,
    FLOATS,
    LEGAL,
    LOAD_US,
    LOGGED,
    MODEL,
    NONE,
    NUM_TASKS,
    PAUSE,
    PAUSES,
    R_SWAP,
    REFUSED,
    SITE,
    SPEC,
    SPEED,
    STATUS,
    TABLE,
    TARGET,
    TASK,
    TRUNCATED,
    WINDOW_TAIL,
    WORDS,
    WORDS_PER_LINE,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)
from cace_env.kernel.summary import sum_up
from cace_env.kernel.swaps import tier_after_eviction
from cace_env.observation import CONTEXT, PENDING, SLOT, Scaling

Array = Any

MODELS_ARRAY, PLACES_ARRAY, TOKENS_ARRAY, CLOSED_ARRAY = (
    State._fields.index(name) for name in ("models", "accelerators", "tokens", "closed")
)
MANY_ROWS: Final = 128  # fewer stay in the cache from step to step
PAUSES_PER_LINE: Final = WORDS_PER_LINE // len(PAUSE)

TERMS_PER_TASK: Final = 3  # waiting, system, SLO missed
NUM_TERMS: Final = NUM_TASKS * TERMS_PER_TASK + 2  # and loading, refused

NOT_SEEN: Final = -1  # in place of the rows of pending models: `show_rows` looks instead


class PlaceColumns(NamedTuple):
    """`Batch.places`: which fleet and workload an environment plays."""

    fleet: int
    workload: int
    requests: int
    open_requests: int


PLACE: Final = PlaceColumns(*range(len(PlaceColumns._fields)))


class MarkColumns(NamedTuple):
    """`Batch.marks`: what is remembered from the last look."""

    time_us: int
    invalid: int  # illegal actions of the episode


MARK: Final = MarkColumns(*range(len(MarkColumns._fields)))


class Batch(NamedTuple):
    """`N` environments, `F` fleets, `B` workloads of at most `R` requests."""

    arena: Array  # (N, longest row) int64
    at: Array  # (N, len(State) + 1) offsets of the state
    places: Array  # (N, PLACE)
    charged: Array  # (N, NUM_TERMS) int64: amounts due from time 0 until the last look
    marks: Array  # (N, MARK)
    fleets: Array  # (F, longest row) int64
    fleet_at: Array  # (F, len(Fleet) + 1)
    limits: Array  # (F, LIMIT.keep_alive_us + most models)
    prices: Array  # (F, NUM_TERMS) float
    times: Array  # (B, R, TIME) int64
    columns: Array  # (B, R, COLUMN) int32
    open_order: Array  # (B, R) int32
    trace: Array  # (rows, 4) int64
    shares: Array  # (N, T, SHARE) int64, of the last episode that has ended
    quantiles_us: Array  # (N, T + 1, 2, len(QUANTILES) + 1) float, the same; see `sum_up`
    rooms: Array  # (threads, 3, R) int64 to sum up in; (threads, 3, 0) = nothing is summed up
    counts: Array  # (threads, DIGITS) int64


class Look(NamedTuple):
    """What is seen of `N` environments; a call writes only the rows that it was asked for."""

    observations: Array  # (N, size) float32
    masks: Array  # (N, actions) int8
    rewards: Array  # (N,) float
    terms: Array  # (NUM_TERMS + 1, N) float: they add up to the reward; the last is the penalty of an illegal action
    terminated: Array  # (N,) bool
    truncated: Array  # (N,) bool
    elapsed_s: Array  # (N,) float: since the look before
    time_s: Array  # (N,) float
    illegal: Array  # (N,) bool: the action was illegal
    invalid: Array  # (N,) int64: illegal actions of the episode so far


class Job(NamedTuple):
    """Which rows to step or to start, and how."""

    batch: Batch
    rows: Array  # int64
    begin: bool
    actions: Array  # (N,) int64
    penalty: float
    pending_rows: int
    look: Look


BATCH: Final = Held.of(
    Batch, TABLE, TABLE, TABLE, TABLE, TABLE, TABLE, TABLE, TABLE, FLOAT_TABLE, types.int64[:, :, ::1],
    types.int32[:, :, ::1], types.int32[:, ::1], TABLE, types.int64[:, :, ::1], types.float64[:, :, :, ::1],
    types.int64[:, :, ::1], TABLE,
)  # fmt: skip
LOOK: Final = Held.of(
    Look, types.float32[:, ::1], types.int8[:, ::1], FLOATS, FLOAT_TABLE, types.boolean[::1], types.boolean[::1],
    FLOATS, FLOATS, types.boolean[::1], WORDS,
)  # fmt: skip
JOB: Final = Held.of(
    Job, BATCH.values, WORDS, types.boolean, WORDS, types.float64, types.int64, LOOK.values
)  # fmt: skip
job_at = at_address(JOB)


class One(NamedTuple):
    """Everything that a single environment is stepped with; it lies in a `Frame`."""

    job: Job
    scaling: Scaling


ONE: Final = Held.of(One, JOB.values, SCALING.values)
one_at = at_address(ONE)


class TeamWords(NamedTuple):
    """Words of a team of threads, each in a line of the cache of its own; then one for each member, the caller first.

    `next` of a member counts how far his share of the rows is done. Whoever has finished his own goes on with those of
    others: an environment that takes long holds up nobody.
    """

    job: int  # address of the job, good while one is open
    open: int  # number of the open job; 0 = none
    last: int  # number of the last job
    inside: int  # workers that may read the job
    leave: int  # 1 = workers shall return to Python
    ended: int  # sum over workers, for the open job
    next: int


TEAM: Final = TeamWords(*range(0, len(TeamWords._fields) * WORDS_PER_LINE, WORDS_PER_LINE))
MOST_AT_ONCE: Final = 8  # rows that a member takes at once, fewer where there are few
TAKES: Final = 32  # a member takes his share in about so many steps
PATIENCE: Final = 2_000  # looks at a worker that is not done, until the core is left to others


@compiled
def see_rows(batch: Batch, rows: Array, scaling: Scaling, pending_rows: int, look: Look) -> None:
    """Observations and masks of `rows` as they stand; nothing goes on."""
    batch, scaling, look = held(batch), held(scaling), held(look)
    for k in range(len(rows)):
        i = rows[k]
        p = batch.places[i, PLACE.fleet]
        s = held(state_views(batch.arena[i], batch.at[i]))
        f = held(fleet_views(batch.fleets[p], batch.fleet_at[p]))
        see(batch, s, f, held(workload_views(batch, i)), scaling, pending_rows, look, i)


@linked(JOB, SCALING, types.int64, types.int64, types.int64)
def step_some(job: Job, scaling: Scaling, member: int, first: int, end: int) -> int:
    """Applies `actions[i]` to each of `rows[first:end]`, or starts them, and runs on; how many are asked nothing more.

    An illegal action, or NONE, is replaced by the legal one of lowest index. Where nothing is asked, 0 is the no-op.
    Starting an episode gives no reward: `actions` and `penalty` are not read. An episode that ends is summed up, in the
    room of this `member` of the team.
    """
    batch, look, rows, actions = job.batch, job.look, job.rows, job.actions
    begin, penalty, pending_rows = job.begin, job.penalty, job.pending_rows
    ended = int64(0)
    ahead = not begin and len(rows) >= MANY_ROWS
    for k in range(first, end):
        if ahead:
            fetch_ahead(batch, rows, k)
        i = rows[k]
        p = batch.places[i, PLACE.fleet]
        s = held(state_views(batch.arena[i], batch.at[i]))
        f = held(fleet_views(batch.fleets[p], batch.fleet_at[p]))
        w = held(workload_views(batch, i))
        action = BEGIN if begin else actions[i]
        legal = True
        if begin:
            advance(s, f, w, batch.limits[p], batch.trace, BEGIN)
            for term in range(NUM_TERMS):
                batch.charged[i, term] = 0
            batch.marks[i, MARK.time_us] = 0
            batch.marks[i, MARK.invalid] = 0
        elif s.scalars[STATUS] == ASKED:
            legal = action >= 0 and s.legal[action] == 1
            if not legal:
                action = int64(0)
                while s.legal[action] == 0:
                    action += 1
            advance(s, f, w, batch.limits[p], batch.trace, action)
        else:
            legal = action == 0
        if not legal:
            batch.marks[i, MARK.invalid] += 1
        if pending_rows != NOT_SEEN:
            see(batch, s, f, w, scaling, pending_rows, look, i)
        note_time(batch, s, look, i)
        ended += s.scalars[STATUS] != ASKED
        if begin:
            continue
        fine = 0.0 if legal else -penalty
        look.rewards[i] = charge(batch, s, p, look, i) + fine
        look.terms[NUM_TERMS, i] = fine + 0.0
        look.illegal[i] = not legal
        look.terminated[i] = s.scalars[STATUS] != ASKED and s.scalars[STATUS] != TRUNCATED
        look.truncated[i] = s.scalars[STATUS] == TRUNCATED
        if s.scalars[STATUS] != ASKED and batch.rooms.shape[2] > 0:
            sum_up(s, f, w, batch.shares[i], batch.quantiles_us[i], batch.rooms[member], batch.counts[member])
    return ended


@compiled
def step_rows(
    batch: Batch, rows: Array, begin: bool, actions: Array, penalty: float, scaling: Scaling, pending_rows: int,
    look: Look, team: Array,
) -> int:  # fmt: skip
    """`step_some` for all rows, by this thread and the workers of `team` (empty = none) that are awake."""
    job, scaling = held(Job(batch, rows, begin, actions, penalty, pending_rows, look)), held(scaling)
    if len(team) == 0:
        return step_some(job, scaling, int64(0), int64(0), int64(len(rows)))
    members = members_of(team)
    for member in range(members):
        team[next_of(member)] = share_of(len(rows), members, member)
    team[TEAM.job] = address_of(job)
    team[TEAM.ended] = 0
    team[TEAM.last] += 1
    atomic_write(team, TEAM.open, team[TEAM.last])
    ended = take_part(job, scaling, team, int64(0))
    # A worker says that it is inside before it looks whether the job is open: either it is seen here, or it sees that.
    atomic_write(team, TEAM.open, int64(0))
    looks = 0
    while atomic_read(team, TEAM.inside) != 0:
        pause()
        looks += 1
        if looks > PATIENCE:
            give_way()
    return ended + team[TEAM.ended]


@compiled
def step_one(one: int, action: int) -> int:
    """`step_rows` for the one row of the job of a `One`, which lies at the address `one`."""
    o = one_at(one)
    o.job.actions[o.job.rows[0]] = action
    return step_some(o.job, o.scaling, int64(0), int64(0), int64(1))


@compiled
def serve(team: Array, member: int, scaling: Scaling, patience: int) -> None:
    """A worker: takes part in every job; returns when it shall leave, or after so many looks that found nothing."""
    scaling = held(scaling)
    looks = int64(0)
    done = int64(0)
    while looks < patience and atomic_read(team, TEAM.leave) == 0:
        number = atomic_read(team, TEAM.open)
        if number == 0 or number == done:
            pause()
            looks += 1
            continue
        atomic_add(team, TEAM.inside, int64(1))
        number = atomic_read(team, TEAM.open)
        if number != 0:
            ended = take_part(job_at(atomic_read(team, TEAM.job)), scaling, team, member)
            atomic_add(team, TEAM.ended, ended)
            done = number
            looks = int64(0)
        atomic_add(team, TEAM.inside, int64(-1))


@inlined
def take_part(job: Job, scaling: Scaling, team: Array, member: int) -> int:
    """Steps rows until none is left: the member's own share first, then those of others; how many ended."""
    members, rows = members_of(team), len(job.rows)
    step = min(max(rows // (members * TAKES), 1), MOST_AT_ONCE)
    ended = int64(0)
    for k in range(members):
        whose = (member + k) % members
        end = share_of(rows, members, whose + 1)
        first = atomic_add(team, next_of(whose), int64(step))
        while first < end:
            ended += step_some(job, scaling, member, first, int64(min(first + step, end)))
            first = atomic_add(team, next_of(whose), int64(step))
    return ended


@inlined
def members_of(team: Array) -> int:
    """How many members a team has, the caller included."""
    return (len(team) - TEAM.next) // WORDS_PER_LINE


@inlined
def next_of(member: int) -> int:
    """Index of a member's `next`."""
    return int64(TEAM.next + member * WORDS_PER_LINE)


@inlined
def share_of(rows: int, members: int, member: int) -> int:
    """Where the share of a member begins."""
    return int64(rows * member // members)


@inlined
def workload_views(batch: Batch, i: int) -> Requests:
    """The workload of environment i."""
    row = batch.places[i, PLACE.workload]
    requests = batch.places[i, PLACE.requests]
    return Requests(
        batch.times[row, :requests],
        batch.columns[row, :requests],
        batch.open_order[row, : batch.places[i, PLACE.open_requests]],
    )


@inlined
def fetch_ahead(batch: Batch, rows: Array, k: int) -> None:
    """Asks for what the next of `rows` after number k will touch, while k is computed.

    In two rounds, a row apart: what says where models and pauses lie has to be there by the second.
    """
    if k + 2 < len(rows):
        i = rows[k + 2]
        fetch_first(batch.arena[i], batch.at[i])
    if k + 1 < len(rows):
        i = rows[k + 1]
        p = batch.places[i, PLACE.fleet]
        s = held(state_views(batch.arena[i], batch.at[i]))
        fetch_shown(s, held(fleet_views(batch.fleets[p], batch.fleet_at[p])))


@inlined
def fetch_first(row: Array, at: Array) -> None:
    """What every step reads, wherever models are: of each of them the first line."""
    for word in range(at[0], at[MODELS_ARRAY], WORDS_PER_LINE):
        prefetch(row, word)
    for word in range(at[MODELS_ARRAY], at[MODELS_ARRAY + 1], len(MODEL)):
        prefetch(row, word)
    for word in range(at[PLACES_ARRAY], at[TOKENS_ARRAY], WORDS_PER_LINE):
        prefetch(row, word)
    prefetch(row, at[CLOSED_ARRAY])
    prefetch(row, at[CLOSED_ARRAY] + WORDS_PER_LINE)


@inlined
def fetch_shown(s: State, f: Fleet) -> None:
    """The rest of models in slots, their first token ends, pauses, and the ends of the log."""
    for slot in range(len(s.slots)):
        m = s.slots[slot]
        if m != NONE:
            for word in range(WORDS_PER_LINE, len(MODEL), WORDS_PER_LINE):
                prefetch(s.models[m], word)
            prefetch(s.demand[m], 0)
            prefetch(s.demand[m], len(DEMAND) - 1)
            prefetch(s.tokens[f.models[m, SPEC.heap_start]], 0)
    for place in range(0, s.scalars[PAUSES], PAUSES_PER_LINE):
        prefetch(s.pauses[place], 0)
    if s.scalars[LOGGED] < len(s.log):
        prefetch(s.log[s.scalars[WINDOW_TAIL]], 0)
        prefetch(s.log[s.scalars[LOGGED]], 0)


@inlined
def see(batch: Batch, s: State, f: Fleet, w: Requests, scaling: Scaling, pending_rows: int, look: Look, i: int) -> None:
    """Observation and mask of environment i."""
    slide_window(s, w)
    write_observation(s, f, scaling, pending_rows, look.observations[i])
    for action in range(len(s.legal)):
        look.masks[i, action] = s.legal[action]
    if s.scalars[LEGAL] == 0:
        look.masks[i, 0] = 1


@inlined
def note_time(batch: Batch, s: State, look: Look, i: int) -> None:
    """The clock of environment i, and how far it has gone since the last look."""
    look.time_s[i] = s.scalars[CLOCK] * SECONDS
    look.elapsed_s[i] = (s.scalars[CLOCK] - batch.marks[i, MARK.time_us]) * SECONDS
    look.invalid[i] = batch.marks[i, MARK.invalid]
    batch.marks[i, MARK.time_us] = s.scalars[CLOCK]


@inlined
def charge(batch: Batch, s: State, p: int, look: Look, i: int) -> float:
    """What has become due since the last look: exact amounts, weighted here, as terms of the reward; their sum."""
    now = s.scalars[CLOCK]
    reward = 0.0
    for task in range(NUM_TASKS):
        term = task * TERMS_PER_TASK
        waiting = s.tasks[task, TASK.waiting_sum] + s.tasks[task, TASK.waiting_count] * now
        in_system = s.tasks[task, TASK.system_sum] + s.tasks[task, TASK.system_count] * now
        reward += charge_term(batch, p, look, i, term, waiting)
        reward += charge_term(batch, p, look, i, term + 1, in_system)
        reward += charge_term(batch, p, look, i, term + 2, s.tasks[task, TASK.slo_missed])
    reward += charge_term(batch, p, look, i, NUM_TERMS - 2, s.scalars[LOAD_US])
    reward += charge_term(batch, p, look, i, NUM_TERMS - 1, s.scalars[REFUSED])
    return reward


@inlined
def charge_term(batch: Batch, p: int, look: Look, i: int, term: int, due: int) -> float:
    """Charges what `due`, an amount since time 0, has grown by."""
    value = batch.prices[p, term] * (batch.charged[i, term] - due)
    batch.charged[i, term] = due
    look.terms[term, i] = value + 0.0  # turns -0.0, of a term without a price, into 0.0
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Fleets that are too large to be seen whole: the most plausible candidates alone


class Shown(NamedTuple):
    """What the rows of an observation are. `k` rows of slots, `K` of pending models."""

    actions: Array  # (N, k + K + 1) the action of each row, and at last to wait; NONE = an empty row
    scores: Array  # (k + K,) float, room for one environment


@compiled
def show_rows(batch: Batch, rows: Array, scaling: Scaling, slot_rows: int, shown: Shown, look: Look) -> None:
    """Observations and masks of `rows` that hold only what is most plausible, and what that is.

    The rows of slots are the legal victims with the least to lose (`loss_rate`), least first. The rows of models are
    the target, then in Swap-v0 the models that may be loaded, by what waits for them and its weight per time to load,
    most first, then other pending models, oldest first. What does not fit in is not seen, and cannot be chosen. All
    slots are passed over once, cheaply; features are computed of what is shown.
    """
    batch, scaling, shown, look = held(batch), held(scaling), held(shown), held(look)
    for k in range(len(rows)):
        i = rows[k]
        p = batch.places[i, PLACE.fleet]
        s = held(state_views(batch.arena[i], batch.at[i]))
        f = held(fleet_views(batch.fleets[p], batch.fleet_at[p]))
        slide_window(s, held(workload_views(batch, i)))
        find_rooms(s, f)
        weigh_pauses(s, f)
        actions = shown.actions[i]
        model_rows = int64(len(actions) - 1 - slot_rows)
        least = show_slots(s, f, scaling, slot_rows, shown.scores, actions, look.observations[i])
        show_models(s, f, scaling, slot_rows, model_rows, shown.scores, actions, look.observations[i])
        context_at = slot_rows * len(SLOT) + model_rows * len(PENDING)
        context_features(s, f, max(least, 0), scaling.raw[context_at:])
        compress(scaling, context_at, CONTEXT, CONTEXT_LOGS, look.observations[i])
        actions[len(actions) - 1] = len(s.legal) - 1 if f.rules[R_SWAP] == 1 else NONE
        for row in range(look.masks.shape[1]):
            action = actions[row]
            look.masks[i, row] = action != NONE and s.legal[action] == 1
        if s.scalars[LEGAL] == 0:
            look.masks[i, 0] = 1


@inlined
def loss_rate(s: State, f: Fleet, slot: int) -> float:
    """What the presence of a slot's model has saved per second and byte, by its uses since its load.

    Cost-aware hyperbolic caching (Blankstein, Sen, Freedman, ATC 2017): uses / time since the load x reload / size.
    """
    m = s.slots[slot]
    am = s.models[m, MODEL.place] * len(f.models) + m
    reload_us = f.speeds[am, SPEED.load_host + tier_after_eviction(s, f, m)]
    present_us = max(s.scalars[CLOCK] - s.models[m, MODEL.loaded_at], 1)
    freed = f.models[m, SPEC.need] - f.models[m, SPEC.residual]
    return float(s.models[m, MODEL.uses_since_load]) / present_us * reload_us / freed


@inlined
def keep_least(actions: Array, scores: Array, first: int, count: int, room: int, action: int, score: float) -> int:
    """Adds an action to those of the least scores, `actions[first : first + count]`; their number, at most `room`.

    Least first; of equal ones the one that came earlier.
    """
    if count == room and (room == 0 or scores[first + room - 1] <= score):
        return count
    at = first + min(count, room - 1)
    while at > first and scores[at - 1] > score:
        scores[at] = scores[at - 1]
        actions[at] = actions[at - 1]
        at -= 1
    scores[at] = score
    actions[at] = action
    return min(count + 1, room)


@inlined
def show_slots(s: State, f: Fleet, scaling: Scaling, room: int, scores: Array, actions: Array, out: Array) -> int:
    """Chooses and writes the rows of slots; the least that is missing where a victim is legal [bytes], -1 = nowhere."""
    count, least = int64(0), int64(-1)
    for a in range(len(f.accelerators)):
        legal_here = False
        for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
            if s.legal[slot] == 1:
                legal_here = True
                count = keep_least(actions, scores, int64(0), count, room, int64(slot), loss_rate(s, f, slot))
        if legal_here:
            missing = missing_bytes(s, f, a)
            if least < 0 or missing < least:
                least = missing
    for row in range(count):
        slot = actions[row]
        missing = missing_bytes(s, f, s.models[s.slots[slot], MODEL.place])
        slot_features(s, f, slot, missing, scaling.raw[row * len(SLOT) :])
    for row in range(count, room):
        actions[row] = NONE
    for row in range(count):
        compress(scaling, row * len(SLOT), SLOT, SLOT_LOGS, out)
    clear(out, count * len(SLOT), room * len(SLOT))
    return least


@inlined
def show_models(
    s: State, f: Fleet, scaling: Scaling, first: int, room: int, scores: Array, actions: Array, out: Array
) -> None:
    """Chooses and writes the rows of models, which begin at row `first`."""
    slots, target = int64(len(s.slots)), s.scalars[TARGET]
    ordering = f.rules[R_SWAP] == 1 and target == NONE
    count = int64(0)
    if target != NONE and room > 0:
        actions[first] = slots + target
        count = int64(1)
    m = next_pending(s, NONE)
    while ordering and m != NONE:
        if s.legal[slots + m] == 1:
            hurry = s.models[m, MODEL.waiting] * s.demand[m, DEMAND.mean_weight] / fastest_load_us(s, f, m)
            count = keep_least(actions, scores, first, count, room, slots + m, -hurry)
        m = next_pending(s, m)
    m = next_pending(s, NONE)
    while count < room and m != NONE:
        if m != target and not (ordering and s.legal[slots + m] == 1):
            actions[first + count] = slots + m
            count += 1
        m = next_pending(s, m)
    begins = first * len(SLOT)
    for row in range(count):
        pending_features(s, f, actions[first + row] - slots, scaling.raw[begins + row * len(PENDING) :])
    for row in range(count, room):
        actions[first + row] = NONE
    for row in range(count):
        compress(scaling, begins + row * len(PENDING), PENDING, PENDING_LOGS, out)
    clear(out, begins + count * len(PENDING), begins + room * len(PENDING))
