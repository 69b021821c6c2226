"""Many simulations in one call: reset or step rows of the arena, and look at each.

The single environment is a batch of one. Rewards are made here, from exact amounts, so that they do not depend on the
order of sums.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cace_env.compilation import compiled, inlined
from cace_env.held import held
from cace_env.kernel.events import slide_window
from cace_env.kernel.features import SECONDS, write_observation
from cace_env.kernel.processor import prefetch
from cace_env.kernel.run import BEGIN, advance
from cace_env.kernel.state import (
    ASKED,
    CLOCK,
    LEGAL,
    LOAD_US,
    NUM_TASKS,
    REFUSED,
    STATUS,
    TASK,
    TRUNCATED,
    WORDS_PER_LINE,
    Fleet,
    Requests,
    State,
    fleet_views,
    int64,
    state_views,
)
from cace_env.observation import Scaling

Array = Any

# What every event touches: the arrays before the token heaps, and the top of the heap of closed-loop arrivals.
HOT_ARRAYS: Final = State._fields.index("tokens")
CLOSED_ARRAY: Final = State._fields.index("closed")
MANY_ROWS: Final = 128  # fewer stay in the cache from step to step
HOT_HEAP_WORDS: Final = 128

TERMS_PER_TASK: Final = 3  # waiting, system, SLO missed
NUM_TERMS: Final = NUM_TASKS * TERMS_PER_TASK + 2  # and loading, refused


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


@compiled
def step_rows(
    batch: Batch, rows: Array, begin: bool, actions: Array, penalty: float, scaling: Scaling, pending_rows: int,
    look: Look,
) -> int:  # fmt: skip
    """Applies `actions[i]` to each of `rows`, or starts their episodes, and runs on; how many are asked nothing more.

    An illegal action is replaced by the legal one of lowest index. Where nothing is asked, action 0 is the no-op.
    Starting an episode gives no reward: `actions` and `penalty` are not read.
    """
    batch, scaling, look = held(batch), held(scaling), held(look)
    ended = int64(0)
    for k in range(len(rows)):
        i = rows[k]
        if len(rows) >= MANY_ROWS and k + 1 < len(rows):
            fetch_ahead(batch, rows[k + 1])
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
            legal = s.legal[action] == 1
            if not legal:
                action = int64(0)
                while s.legal[action] == 0:
                    action += 1
            advance(s, f, w, batch.limits[p], batch.trace, action)
        else:
            legal = action == 0
        if not legal:
            batch.marks[i, MARK.invalid] += 1
        see(batch, s, f, w, scaling, pending_rows, look, i)
        note_time(batch, s, look, i)
        ended += s.scalars[STATUS] != ASKED
        if begin:
            continue
        fine = 0.0 if legal else -penalty
        look.rewards[i] = charge(batch, s, p, look, i) + fine
        look.terms[NUM_TERMS, i] = fine
        look.illegal[i] = not legal
        look.terminated[i] = s.scalars[STATUS] != ASKED and s.scalars[STATUS] != TRUNCATED
        look.truncated[i] = s.scalars[STATUS] == TRUNCATED
    return ended


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
def fetch_ahead(batch: Batch, i: int) -> None:
    """Asks for what every event of environment i touches, while others are computed."""
    row = batch.arena[i]
    at = batch.at[i]
    for word in range(at[0], at[HOT_ARRAYS], WORDS_PER_LINE):
        prefetch(row, word)
    closed = at[CLOSED_ARRAY]
    for word in range(closed, min(closed + HOT_HEAP_WORDS, at[CLOSED_ARRAY + 1]), WORDS_PER_LINE):
        prefetch(row, word)


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
    look.terms[term, i] = value
    return value
