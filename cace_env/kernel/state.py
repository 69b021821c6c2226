"""The arrays of one simulation, as named views into flat rows.

Three rows of int64: the *fleet* (constant, shared), the *workload* (constant, shared) and the *state* (one row of the
arena per environment: a snapshot is one copy). `state_offsets` and `fleet_row` lay them out; `cut_state` and the
`*_views` functions cut the rows up, in Python and in compiled code alike.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from cace_env import tables as plain
from cace_env.compilation import compiled, inlined
from cace_env.held import Held
from cace_env.kernel.processor import float_table, table
from cace_env.sessions import checked_table
from cace_env.tables import DISK, HOST, PLACEMENTS, TASKS, FleetTables, Protocol, slots_per_accelerator
from cace_env.workload import Workload

Int64Array = npt.NDArray[np.int64]
Array = Any  # of the dtype and shape in the comment; numba knows it exactly

# As np.int64: numba would compile a function once more for every Python constant that it is called with.
int64: Any = np.int64
NONE: Final[int] = int64(plain.NONE)
FOREVER: Final[int] = int64(plain.FOREVER)
NUM_TASKS: Final = len(TASKS)

MOST_GAPS: Final = 64  # as many possible keys for each that is there are marked in an array
MOST_MARKS: Final = 1 << 24  # and no more than these: a mark takes four bytes
WORDS_PER_LINE: Final = 8  # int64 in a cache line

# Model states.
ABSENT, PLANNED, LOADING, RESIDENT, DRAINING, UNLOADING = range(6)

# Channel operations.
IDLE, UNLOAD, LOAD = range(3)

# Memory of a swap's target: not taken, taken, or taken with its own residual in it.
NOT_YET, TAKEN, WOKEN = range(3)

# Status of a simulation.
RUNNING, ASKED, DONE, TRUNCATED, STUCK = range(5)

# Kinds of trace rows.
TRACE_KINDS: Final = (
    "ARRIVAL", "REFUSED", "ADMITTED", "FIRST_TOKEN", "FINISH", "VICTIM", "UNLOAD_START", "UNLOAD_DONE",
    "LOAD_START", "LOAD_DONE",
)  # fmt: skip
(
    T_ARRIVAL, T_REFUSED, T_ADMITTED, T_FIRST_TOKEN, T_FINISH, T_VICTIM, T_UNLOAD_START, T_UNLOAD_DONE,
    T_LOAD_START, T_LOAD_DONE,
) = (int64(kind) for kind in range(10))  # fmt: skip

# Sliding window of the demand features.
WINDOW_US: Final = 300_000_000  # 5 minutes
REGRET_US: Final = 60_000_000  # a load this soon after the model's eviction is a regret load

# Indices into `State.scalars`.
(
    CLOCK, STATUS, DIRTY, NEXT_OPEN, CLOSED_SIZE, ENDED, TIMER, TARGET, FIXED, LEGAL, DRAINS, DECISIONS,
    FORCED, LAST_ASKED, EVICTIONS, LOADS, LOAD_US, LOADED_BYTES, REFUSED, COLD, REGRETS, PREFIX_LOST,
    LONE_EVICTIONS, TOUCHES, RANKS, CACHED_BYTES, WINDOW_TAIL, LOGGED, TRACED, PENDING_MODELS, WAITS, PREFETCHES,
    REQUESTS_TOUCHED, PAIRS_TOUCHED, PAUSES, MOST_PAUSES,
) = range(36)  # fmt: skip
NUM_SCALARS: Final = 40  # whole cache lines of 8

# Indices into `Fleet.rules`.
(
    R_SPREAD, R_DRAIN_AFTER, R_MAX_DECISIONS, R_UNLIMITED, R_CACHE_BYTES, R_UNLOAD_COPIES, R_MAX_SLOTS,
    R_SWAP, R_PREFETCH_LIMIT, R_PREFETCH_MAX_WAIT, R_BATCH, R_WHOLE_ROUNDS,
) = range(12)  # fmt: skip
NUM_RULES: Final = 12


# ---------------------------------------------------------------------------------------------------------------------
# Columns. Each class names the columns of one array; its one instance (MODEL, REQUEST, ...) holds their numbers:
# `s.models[m, MODEL.phase]`. Times are absolute us.


class ModelColumns(NamedTuple):
    """`State.models`: where a model is, its queue and its engine; what is used together is one cache line of 8."""

    phase: int  # ABSENT ... UNLOADING
    place: int  # accelerator, or NONE
    slot: int  # or NONE
    waiting: int
    running: int  # admitted requests
    queue_head: int  # waiting requests, oldest first
    length_ns: int  # L, 0 = idle
    due_us: int  # when the first of its heap is due

    round_ns: int  # T, of this engine alone
    anchor_us: int
    anchor_rounds: int  # in 2^-20 rounds
    heap_size: int
    prefilling: int  # 1 = the head of the FIFO is in progress
    prefill_ns: int  # W / n of the prefill in progress, else 0
    decoding: int  # requests past their first token
    kv_halves: int  # sum over decoding requests of 2 * context + output

    kv_used: int  # tokens
    queue_tail: int
    prefill_head: int  # admitted requests without a first token; the head is in progress
    prefill_tail: int
    running_arrivals: int  # sum of the arrival times of what runs
    decode_start_sum: int  # sum over decoding requests of the round at which decoding began
    idle_since: int
    last_use: int  # last arrival or finish; its load end if there was none

    last_arrival: int  # NONE = none yet
    second_use: int  # the arrival before the last, NONE = none yet
    uses: int
    uses_since_load: int
    window_requests: int
    window_users: int
    window_sessions: int
    prefix_at: int  # when prefix_tokens was brought up to date

    loads: int  # its loads so far: the epoch of its prefix cache
    loaded_at: int
    evicted_at: int  # -FOREVER = never
    pending_since: int
    asleep: int  # accelerator that holds its residual, or NONE
    rank: int  # order in which victims were chosen
    lone: int  # 1 = unloading because its keep-alive ran out
    touched: int  # last touch in the host cache, 0 = not there


class DemandColumns(NamedTuple):
    """`State.demand`, float: what is known of the requests for a model."""

    rate_1m: int  # arrivals, halved every 1, 10, 60 min, as of the last arrival
    rate_10m: int
    rate_60m: int
    gap_s: int  # moving mean of the gap between arrivals
    gap_squared: int  # and of its square [s^2]
    mean_output: int  # moving mean of finished outputs [tokens], NaN before the first
    mean_weight: int  # moving mean of w_ttft + w_e2e of arrivals
    prefix_tokens: int  # cached prefix tokens, halved every 10 min without use, as of prefix_at
    inflation: int  # GreedyDual clock at the last use


class AcceleratorColumns(NamedTuple):
    """`State.accelerators`."""

    free: int  # bytes
    held: int  # models that occupy memory
    busy: int  # k, busy engines
    swap_target: int  # model, or NONE
    swap_open: int  # 1 = more victims must be chosen
    taken: int  # NOT_YET, or the memory of the swap's target has been taken: TAKEN, or WOKEN with its residual there
    leaving: int  # victims of the swap that have not left
    channel: int  # IDLE, UNLOAD or LOAD
    channel_model: int
    channel_end: int
    channel_tier: int  # of the load in progress
    token_due: int  # the earliest token end
    token_model: int
    busy_us: int  # engine time; minus its start while busy
    channel_us: int  # channel time; minus its start while owned


class AgendaColumns(NamedTuple):
    """`State.agenda`: see `cace_env.kernel.standing`."""

    key: int  # 4 x the time of the earliest event below, plus its priority
    accelerator: int  # whose event it is
    free: int  # most bytes that an accelerator below could offer now, with an idle channel; -1 = none has one
    idle: int  # ... that and what all its idle unpinned residents would free
    busy: int  # ... that and what all its unpinned residents would free
    stale: int  # of an accelerator: 0 = its rooms are up to date, else the next that is not, or NONE


class LinkColumns(NamedTuple):
    """`State.links`: neighbours of a model in two lists; see `cace_env.kernel.standing`."""

    before: int  # of pending models
    after: int
    colder: int  # of the host cache
    warmer: int


class RequestColumns(NamedTuple):
    """`State.requests`."""

    arrival_us: int  # FOREVER until known; later than the clock until it arrives
    first_us: int  # NONE before the first token
    finish_us: int  # NONE before the finish
    queue_next: int  # the next in the waiting queue or prefill FIFO
    prefill_tokens: int  # P, settled at admission


class TaskColumns(NamedTuple):
    """`State.tasks`: cost; `sum + count * clock` is the request-us until now."""

    waiting_sum: int
    waiting_count: int
    system_sum: int
    system_count: int
    slo_missed: int


class HeapColumns(NamedTuple):
    """`State.tokens` and `State.closed`: binary heaps; equal keys go by request."""

    key: int  # tokens: in 2^-20 rounds; closed: us
    request: int


class LogColumns(NamedTuple):
    """`State.log`: arrivals, oldest first."""

    arrival_us: int
    request: int


class PairColumns(NamedTuple):
    """`State.pairs`: a session at a model: its last admitted request, and its last pause; one cache line."""

    epoch: int  # the model's loads then, NONE = never
    context: int  # tokens
    time_us: int
    window: int  # arrivals in the window
    paused_at: int  # when its last request finished; minus the requests in flight, 0 = none yet
    task: int  # of its last arrival
    step: int  # the number of that, the first being 0 and the last that is told apart AGAIN_STEPS - 1
    pause: int  # where its pause lies in `State.pauses`, while it counts


class PauseColumns(NamedTuple):
    """`State.pauses`."""

    began_us: int
    who: int  # its pair << 32 | its model << 8 | its kind, task * AGAIN_STEPS + step; NONE = it is over


class ClockColumns(NamedTuple):
    """`State.clocks`, float."""

    inflation: int  # GreedyDual clock: the highest priority evicted so far
    memory_use: int  # byte-us in use, less what is in use now times the clock


class SpecColumns(NamedTuple):
    """`Fleet.models`: constants of a model, as in `FleetTables`."""

    need: int
    weights: int
    residual: int
    kv_tokens: int
    max_num_seqs: int
    chunk_tokens: int
    pinned_on: int
    resident_on: int
    asleep_on: int
    host_cached: int
    heap_start: int  # its token heap is State.tokens[heap_start:]
    fastest_host: int  # its shortest load over all accelerators, from each tier
    fastest_disk: int


class SpeedColumns(NamedTuple):
    """`Fleet.speeds`: constants of a model on an accelerator, row `a * M + m`."""

    load_host: int  # us; the column of a tier is load_host + tier
    load_disk: int
    unload_us: int
    token_ns: int  # a round with one decoding request, without its context
    decode_ns: int
    kv_ps: int
    prefill_ns: int
    attention_ps: int
    request_ns: int


class SiteColumns(NamedTuple):
    """`Fleet.accelerators`."""

    memory: int  # bytes
    first_slot: int
    end_slot: int  # one past its last slot
    load_slowdown: int  # thousandths


class SloColumns(NamedTuple):
    """`Fleet.slos`."""

    limit_us: int
    on_e2e: int  # 0 or 1


class WeightColumns(NamedTuple):
    """`Fleet.weights`, float."""

    ttft: int
    e2e: int


class WorkloadColumns(NamedTuple):
    """`Requests.columns`."""

    model: int
    task: int
    context: int  # tokens
    new: int  # tokens
    output: int  # tokens
    first_child: int  # the first request that follows this one, or NONE
    next_sibling: int  # the next request that follows the same one, or NONE
    session_pair: int  # session and model
    user_pair: int  # user and model


class AgainColumns(NamedTuple):
    """`Fleet.silent`, one column for each of `AGAIN_WITHIN_S`."""

    soon: int
    later: int
    much_later: int


class TimeColumns(NamedTuple):
    """`Requests.times`."""

    arrival_us: int
    think_us: int


class LimitColumns(NamedTuple):
    """`Rule.limits`: what a rule carries beside its choice of victim; behind these columns one for each model."""

    most_resident: int  # models per accelerator
    any_keep_alive: int  # 1 = some keep-alive is finite
    patience_us: int
    keep_alive_us: int  # of the first model; FOREVER = never


def _columns(names: Any) -> Any:
    """The instance of a class of columns: each name with its number."""
    return names(*range(len(names._fields)))


MODEL: Final[ModelColumns] = _columns(ModelColumns)
DEMAND: Final[DemandColumns] = _columns(DemandColumns)
ACCELERATOR: Final[AcceleratorColumns] = _columns(AcceleratorColumns)
AGENDA: Final[AgendaColumns] = _columns(AgendaColumns)
LINK: Final[LinkColumns] = _columns(LinkColumns)
REQUEST: Final[RequestColumns] = _columns(RequestColumns)
TASK: Final[TaskColumns] = _columns(TaskColumns)
HEAP: Final[HeapColumns] = _columns(HeapColumns)
LOG: Final[LogColumns] = _columns(LogColumns)
PAIR: Final[PairColumns] = _columns(PairColumns)
PAUSE: Final[PauseColumns] = _columns(PauseColumns)
CLOCKS: Final[ClockColumns] = _columns(ClockColumns)
SPEC: Final[SpecColumns] = _columns(SpecColumns)
SPEED: Final[SpeedColumns] = _columns(SpeedColumns)
SITE: Final[SiteColumns] = _columns(SiteColumns)
SLO: Final[SloColumns] = _columns(SloColumns)
WEIGHT: Final[WeightColumns] = _columns(WeightColumns)
COLUMN: Final[WorkloadColumns] = _columns(WorkloadColumns)
TIME: Final[TimeColumns] = _columns(TimeColumns)
LIMIT: Final[LimitColumns] = _columns(LimitColumns)
AGAIN: Final[AgainColumns] = _columns(AgainColumns)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays. Few and two-dimensional: numba passes every array of a tuple as seven to nine words, so dozens of them would
# cost minutes of compilation.


class Fleet(NamedTuple):
    """`FleetTables` as the kernel reads it. `A` accelerators, `M` models, `T` tasks."""

    rules: Array  # (NUM_RULES,)
    accelerators: Array  # (A, SITE)
    models: Array  # (M, SPEC)
    speeds: Array  # (A * M, SPEED)
    rounds: Array  # (A * M, R_BATCH + 1) ns, flat: a round with 0, 1, ... R_BATCH decoding requests
    slos: Array  # (T, SLO)
    weights: Array  # (T, WEIGHT) float
    prices: Array  # (3,) float: per load second, SLO missed, refusal
    silent: Array  # (kinds of pauses * ages, AGAIN) float: probability that it does not end within each horizon


class Requests(NamedTuple):
    """A `Workload` as the kernel reads it: `R` requests."""

    times: Array  # (R, TIME) int64
    columns: Array  # (R, COLUMN) int32
    open_order: Array  # (open-loop requests,) int32, by (arrival, row)


class State(NamedTuple):
    """Everything that changes. `M` models, `A` accelerators, `S` slots, `R` requests, `T` tasks.

    What every event touches comes first and lies together.
    """

    scalars: Array  # (NUM_SCALARS,)
    models: Array  # (M, MODEL)
    demand: Array  # (M, DEMAND) float
    accelerators: Array  # (A, ACCELERATOR)
    slots: Array  # (S,) the model in each slot, or NONE
    legal: Array  # (actions,) 0 or 1: each slot; in Swap-v0 then each row of models, and wait
    tasks: Array  # (T, TASK)
    clocks: Array  # (CLOCKS,) float
    silence: Array  # (M, AGAIN) float: probability that none of its sessions that pause asks again, at the last look
    agenda: Array  # (2 x A rounded up to a power of two, AGENDA)
    links: Array  # (M + 1, LINK)
    tokens: Array  # (sum of seats, HEAP) the token heaps of all engines, one after the other
    closed: Array  # (R, HEAP) closed-loop requests that will arrive
    log: Array  # (R, LOG)
    pairs: Array  # (session pairs, PAIR)
    requests: Array  # (R, REQUEST)
    users: Array  # (user pairs,) arrivals in the window
    pauses: Array  # (2 * session pairs, PAUSE) sessions that pause, oldest first; those in use are PAUSES


# Types of what compiled functions are handed.
WORDS: Final = types.int64[::1]
TABLE: Final = types.int64[:, ::1]
FLOATS: Final = types.float64[::1]
FLOAT_TABLE: Final = types.float64[:, ::1]
FLEET: Final = Held.of(Fleet, WORDS, TABLE, TABLE, TABLE, WORDS, TABLE, FLOAT_TABLE, FLOATS, FLOAT_TABLE)
REQUESTS: Final = Held.of(Requests, TABLE, types.int32[:, ::1], types.int32[::1])
STATE: Final = Held.of(
    State, WORDS, TABLE, FLOAT_TABLE, TABLE, WORDS, WORDS, TABLE, FLOATS, FLOAT_TABLE, TABLE, TABLE, TABLE, TABLE,
    TABLE, TABLE, TABLE, WORDS, TABLE,
)  # fmt: skip


def cut_state(row: Array, at: Array) -> State:
    """One arena row as `State`; array i of it lies at `row[at[i]:at[i + 1]]`. The same order as in `state_views`."""
    return State(
        row[at[0] : at[1]],
        row[at[1] : at[2]].reshape((-1, len(MODEL))),
        row[at[2] : at[3]].view(np.float64).reshape((-1, len(DEMAND))),
        row[at[3] : at[4]].reshape((-1, len(ACCELERATOR))),
        row[at[4] : at[5]],
        row[at[5] : at[6]],
        row[at[6] : at[7]].reshape((-1, len(TASK))),
        row[at[7] : at[8]].view(np.float64),
        row[at[8] : at[9]].view(np.float64).reshape((-1, len(AGAIN))),
        row[at[9] : at[10]].reshape((-1, len(AGENDA))),
        row[at[10] : at[11]].reshape((-1, len(LINK))),
        row[at[11] : at[12]].reshape((-1, len(HEAP))),
        row[at[12] : at[13]].reshape((-1, len(HEAP))),
        row[at[13] : at[14]].reshape((-1, len(LOG))),
        row[at[14] : at[15]].reshape((-1, len(PAIR))),
        row[at[15] : at[16]].reshape((-1, len(REQUEST))),
        row[at[16] : at[17]],
        row[at[17] : at[18]].reshape((-1, len(PAUSE))),
    )


@inlined
def state_views(row: Array, at: Array) -> State:
    """`cut_state` for compiled code, which so knows how wide each table is."""
    return State(
        row[at[0] : at[1]],
        table(row, at[1], at[2], MODEL),
        float_table(row, at[2], at[3], DEMAND),
        table(row, at[3], at[4], ACCELERATOR),
        row[at[4] : at[5]],
        row[at[5] : at[6]],
        table(row, at[6], at[7], TASK),
        row[at[7] : at[8]].view(np.float64),
        float_table(row, at[8], at[9], AGAIN),
        table(row, at[9], at[10], AGENDA),
        table(row, at[10], at[11], LINK),
        table(row, at[11], at[12], HEAP),
        table(row, at[12], at[13], HEAP),
        table(row, at[13], at[14], LOG),
        table(row, at[14], at[15], PAIR),
        table(row, at[15], at[16], REQUEST),
        row[at[16] : at[17]],
        table(row, at[17], at[18], PAUSE),
    )


@inlined
def fleet_views(row: Array, at: Array) -> Fleet:
    """A fleet row as `Fleet`."""
    return Fleet(
        row[at[0] : at[1]],
        table(row, at[1], at[2], SITE),
        table(row, at[2], at[3], SPEC),
        table(row, at[3], at[4], SPEED),
        row[at[4] : at[5]],
        table(row, at[5], at[6], SLO),
        float_table(row, at[6], at[7], WEIGHT),
        row[at[7] : at[8]].view(np.float64),
        float_table(row, at[8], at[9], AGAIN),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Laying out


def heap_starts(tables: FleetTables, most_seats: int) -> Int64Array:
    """`(M + 1,)` where each model's token heap begins: no engine runs more than `most_seats` requests at once."""
    return np.concatenate([[0], np.cumsum(np.minimum(tables.max_num_seqs, most_seats))]).astype(np.int64)


def num_actions(tables: FleetTables, slots: int, model_rows: int) -> int:
    """Actions of a policy: evict a slot; in Swap-v0 also load a model (one row each, more stay illegal), or wait."""
    return slots + model_rows + 1 if tables.protocol == Protocol.SWAP else slots


def state_offsets(
    tables: FleetTables,
    slots: int,
    model_rows: int,
    requests: int,
    session_pairs: int,
    user_pairs: int,
    most_seats: int,
) -> Int64Array:
    """`(len(State) + 1,)` start of each array of `State` in an arena row, and the row's end.

    The tokens and what follows until the requests begin with a cache line each: some arrays are a little longer than it
    takes.
    """
    models, accelerators = tables.num_models, tables.num_accelerators
    sizes = State(
        scalars=NUM_SCALARS,
        models=models * len(MODEL),
        demand=models * len(DEMAND),
        accelerators=accelerators * len(ACCELERATOR),
        slots=slots,
        legal=num_actions(tables, slots, model_rows),
        tasks=NUM_TASKS * len(TASK),
        clocks=len(CLOCKS),
        silence=models * len(AGAIN),
        agenda=2 * (1 << (accelerators - 1).bit_length()) * len(AGENDA),
        links=(models + 1) * len(LINK),
        tokens=whole_lines(int(heap_starts(tables, most_seats)[-1]) * len(HEAP)),
        closed=whole_lines(requests * len(HEAP)),
        log=whole_lines(requests * len(LOG)),
        pairs=session_pairs * len(PAIR),
        requests=requests * len(REQUEST),
        users=user_pairs,
        pauses=2 * session_pairs * len(PAUSE),
    )
    hot = sum(sizes[: State._fields.index("tokens")])
    sizes = sizes._replace(clocks=sizes.clocks + whole_lines(hot) - hot)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def whole_lines(words: int) -> int:
    """At least so many words, in whole cache lines."""
    return -(-words // WORDS_PER_LINE) * WORDS_PER_LINE


def arena(rows: int, width: int) -> Int64Array:
    """Zeros, `(rows, at least width)`; every row begins with a cache line."""
    width = whole_lines(width)
    words = np.zeros(rows * width + WORDS_PER_LINE, dtype=np.int64)
    first = -(words.ctypes.data // 8) % WORDS_PER_LINE
    return words[first : first + rows * width].reshape(rows, width)


def _stacked(names: Any, **columns: Array) -> Array:
    """Columns by name as one array, `(..., columns)`; `names` is the class that says their order."""
    return np.stack(names(**columns), axis=-1)


def fleet_row(tables: FleetTables, most_seats: int) -> tuple[Int64Array, Int64Array]:
    """The constant row of a fleet and its offsets; `most_seats` as for `state_offsets`."""
    slot_ends = np.cumsum(slots_per_accelerator(tables))
    rules = np.zeros(NUM_RULES, dtype=np.int64)
    rules[R_SPREAD] = tables.placement == PLACEMENTS[0]
    rules[R_DRAIN_AFTER] = tables.drain_after_us
    rules[R_MAX_DECISIONS] = tables.max_decisions
    rules[R_UNLIMITED] = tables.unlimited_memory
    rules[R_CACHE_BYTES] = tables.host_cache_bytes
    rules[R_UNLOAD_COPIES] = tables.unload_copies
    rules[R_MAX_SLOTS] = max(int(slot_ends[-1]), tables.max_slots)
    rules[R_SWAP] = tables.protocol == Protocol.SWAP
    rules[R_PREFETCH_LIMIT] = tables.prefetch_limit
    rules[R_PREFETCH_MAX_WAIT] = tables.prefetch_max_wait_us
    rules[R_BATCH] = tables.batch_ns.shape[-1] - 1
    rules[R_WHOLE_ROUNDS] = tables.whole_rounds
    cost, rounds = tables.cost, tables.round_ns[:, :, None] + tables.batch_ns
    pieces = Fleet(
        rules=rules,
        accelerators=_stacked(
            SiteColumns,
            memory=tables.memory_bytes,
            first_slot=np.concatenate([[0], slot_ends[:-1]]),
            end_slot=slot_ends,
            load_slowdown=tables.load_slowdown,
        ),
        models=_stacked(
            SpecColumns,
            need=tables.need_bytes,
            weights=tables.weights_bytes,
            residual=tables.residual_bytes,
            kv_tokens=tables.kv_tokens,
            max_num_seqs=tables.max_num_seqs,
            chunk_tokens=tables.chunk_tokens,
            pinned_on=tables.pinned_on,
            resident_on=tables.resident_on,
            asleep_on=tables.asleep_on,
            host_cached=tables.host_cached,
            heap_start=heap_starts(tables, most_seats)[:-1],
            fastest_host=tables.load_us[:, :, HOST].min(axis=0),
            fastest_disk=tables.load_us[:, :, DISK].min(axis=0),
        ),
        speeds=_stacked(
            SpeedColumns,
            load_host=tables.load_us[:, :, HOST],
            load_disk=tables.load_us[:, :, DISK],
            unload_us=tables.unload_us,
            token_ns=tables.token_ns,
            decode_ns=tables.decode_ns,
            kv_ps=tables.kv_ps,
            prefill_ns=tables.prefill_ns,
            attention_ps=tables.attention_ps,
            request_ns=tables.request_ns,
        ),
        rounds=rounds,
        slos=_stacked(SloColumns, limit_us=cost.slo_us, on_e2e=cost.slo_on_e2e),
        weights=_stacked(WeightColumns, ttft=cost.w_ttft, e2e=cost.w_e2e).astype(np.float64).view(np.int64),
        prices=np.array([cost.w_load, cost.w_slo, cost.w_refused], dtype=np.float64).view(np.int64),
        silent=(1.0 - checked_table(tables.again)).view(np.int64),
    )
    flat = [np.asarray(piece).ravel().astype(np.int64) for piece in pieces]
    return np.concatenate(flat), np.concatenate([[0], np.cumsum([len(piece) for piece in flat])]).astype(np.int64)


def requests_of(workload: Workload) -> tuple[Requests, int, int]:
    """A workload as the kernel reads it, and how many session and user pairs it has."""
    rows = len(workload)
    times = _stacked(TimeColumns, arrival_us=workload.arrival_us, think_us=workload.think_us)
    columns = np.full((rows, len(COLUMN)), NONE, dtype=np.int32)
    columns[:, COLUMN.model] = workload.model
    columns[:, COLUMN.task] = workload.task
    columns[:, COLUMN.context] = workload.context_tokens
    columns[:, COLUMN.new] = workload.new_tokens
    columns[:, COLUMN.output] = workload.output_tokens
    columns[:, COLUMN.next_sibling] = workload.after
    opened = np.empty(rows, dtype=np.int32)
    number = link_followers(times, columns, opened)
    opened = opened[rows - abs(number) :].copy()
    if number < 0:
        opened = opened[np.argsort(workload.arrival_us[opened], kind="stable")]
    models = int(workload.model.max()) + 1
    pairs = []
    for column, owner in ((COLUMN.session_pair, workload.session), (COLUMN.user_pair, workload.user)):
        span = (int(owner.max()) + 1) * models
        if span > min(MOST_GAPS * rows, MOST_MARKS):
            values, inverse = np.unique(owner.astype(np.int64) * models + workload.model, return_inverse=True)
            columns[:, column] = inverse
            pairs.append(len(values))
        else:  # sorting, as `np.unique` does, would take a tenth of an episode
            columns[:, column] = owner
            pairs.append(number_pairs(columns, column, np.zeros(span, dtype=np.int32), models))
    return Requests(times, columns, opened), pairs[0], pairs[1]


@compiled
def link_followers(times: Array, columns: Array, opened: Array) -> int:
    """Links the followers of each request to a list; the column `next_sibling` says whom each follows.

    Those that follow nobody fill the end of `opened`, in their order. Returns how many those are, as a negative number
    if they do not arrive in this order.
    """
    first = len(columns)
    next_us, in_order = FOREVER, True
    for r in range(len(columns) - 1, -1, -1):
        leader = columns[r, COLUMN.next_sibling]
        columns[r, COLUMN.next_sibling] = NONE
        if leader >= 0:
            columns[r, COLUMN.next_sibling] = columns[leader, COLUMN.first_child]
            columns[leader, COLUMN.first_child] = r
            continue
        first -= 1
        opened[first] = r
        in_order = in_order and times[r, TIME.arrival_us] <= next_us
        next_us = times[r, TIME.arrival_us]
    number = len(columns) - first
    return number if in_order else -number


@compiled
def number_pairs(columns: Array, column: int, place: Array, models: int) -> int:
    """Replaces owners by the rank of their pair of owner and model among all pairs; how many those are.

    `place` has a zero for each pair that could be.
    """
    for r in range(len(columns)):
        place[columns[r, column] * models + columns[r, COLUMN.model]] = 1
    count = int64(0)
    for pair in range(len(place)):
        if place[pair] == 1:
            place[pair] = count
            count += 1
    for r in range(len(columns)):
        columns[r, column] = place[columns[r, column] * models + columns[r, COLUMN.model]]
    return count
