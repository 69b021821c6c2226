"""Plain integer tables: everything the kernel reads about a fleet, and nothing else.

A scenario is tabulated into a `FleetTables` once (`cace_env.scenarios`); one can also be built by hand, to compare
another simulator with this one, event by event (`cace_env.simulation.Simulator`, `docs/tables.md`). All times are whole
microseconds unless a name says otherwise, all sizes whole bytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

TASKS: Final = ("completion", "chat", "reasoning", "agent")
TIERS: Final = ("host", "disk")
HOST, DISK = 0, 1
PLACEMENTS: Final = ("spread", "pack")
FOREVER: Final = 1 << 60  # [us] a time that never comes
DRAIN_AFTER_US: Final = 30_000_000  # the default of a scenario
PREFETCH_MAX_WAIT_US: Final = 30_000_000  # the same
NONE: Final = -1
MAX_DURATION_US: Final = 1 << 50  # 35 years: of an arrival, a pause to think, a load, an unload
MAX_PREFETCHES: Final = 1_000_000  # the event trace needs room for all of them
MAX_ROUND_NS: Final = 1 << 43  # the clock shifts a remainder below one round by 20 bits in int64
MAX_SERVICE_NS: Final = 1 << 62  # the longest request must end within int64 nanoseconds
MAX_PREFILL_NS: Final = 1 << 42  # with `whole_rounds` the work of a prompt is shifted by 20 bits
AS_ALONE: Final = 1000  # thousandths: no slowdown
MAX_SLOWDOWN: Final = 1_000_000  # thousandths

BY_PAIR: Final = ("unload_us", "round_ns", "decode_ns", "kv_ps", "prefill_ns", "attention_ps", "request_ns")  # (A, M)
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Protocol(StrEnum):
    """What policies are asked: the word for an environment in options, files, suites and functions.

    A member is its own word (`Protocol.SWAP == "swap"`), so `"swap"` may be given in place of it.
    """

    EVICTION = "eviction"  # whom to evict for the model whose oldest request has waited longest
    SWAP = "swap"  # which model to load next, whether to wait, and whom to evict

    @property
    def env_name(self) -> str:
        """How people spell it: `Eviction-v0` or `Swap-v0`."""
        return f"{self.value.capitalize()}-v0"

    @property
    def env_id(self) -> str:
        """What Gymnasium calls it: `cace_env/Eviction-v0` or `cace_env/Swap-v0`."""
        return f"cace_env/{self.env_name}"


class TableError(ValueError):
    """A table that cannot be simulated; the message names the entry, its value, the limit and the fix."""


@dataclass(frozen=True)
class CostTable:
    """What the waiting of people costs; `T = len(TASKS)` rows, in the order of `TASKS`."""

    w_ttft: FloatArray  # (T,) per request and second until the first token
    w_e2e: FloatArray  # (T,) per request and second in the system
    slo_us: Int64Array  # (T,) FOREVER = no SLO
    slo_on_e2e: npt.NDArray[np.bool_]  # (T,) judged on E2E (True) or TTFT (False)
    w_load: float = 0.0  # per second of loading, charged when a load starts
    w_slo: float = 0.0  # per request that missed its SLO
    w_refused: float = 0.0  # per request longer than its model's KV cache


@dataclass(frozen=True)
class FleetTables:
    """`A` accelerators, `M` models. Shapes in brackets; `validate` checks shapes, ranges and room for every model."""

    accelerator_names: tuple[str, ...]
    model_names: tuple[str, ...]
    memory_bytes: Int64Array  # (A,)
    # one row per model
    need_bytes: Int64Array  # (M,) weights + reserve (KV cache and runtime)
    weights_bytes: Int64Array  # (M,)
    residual_bytes: Int64Array  # (M,) what an evicted model leaves on its accelerator (sleeping engines), else 0
    kv_tokens: Int64Array  # (M,) room of the KV cache
    max_num_seqs: Int64Array  # (M,) seats
    chunk_tokens: Int64Array  # (M,) prefill tokens per round
    # one entry per accelerator and model
    load_us: Int64Array  # (A, M, 2) by tier: HOST, DISK; at least 1
    unload_us: Int64Array  # (A, M) 0 where weights are dropped
    round_ns: Int64Array  # (A, M) t0 + bytes_per_round / bandwidth
    decode_ns: Int64Array  # (A, M) k_b, added per decoding request
    kv_ps: Int64Array  # (A, M) k_kv, added per token of a decoding request's context + output / 2
    prefill_ns: Int64Array  # (A, M) work per prompt token
    attention_ps: Int64Array  # (A, M) work per (context^2 - cached^2) / 2
    cost: CostTable
    # where everything is at time 0
    pinned_on: Int64Array  # (M,) accelerator, or NONE
    resident_on: Int64Array  # (M,) unpinned models that start resident: accelerator, or NONE
    asleep_on: Int64Array  # (M,) accelerator that holds the model's residual, or NONE
    host_cached: npt.NDArray[np.bool_]  # (M,) in the host cache (in index order, the last the most recent)
    # rules
    host_cache_bytes: int = 0
    unload_copies: bool = False  # unloading copies the weights to host RAM (unload_bandwidth > 0)
    placement: str = "spread"
    protocol: Protocol = Protocol.EVICTION  # what is asked
    drain_after_us: int = DRAIN_AFTER_US  # of Eviction-v0
    prefetch_limit: int = 0  # Swap-v0: most loads per episode of models without waiting requests
    prefetch_max_wait_us: int = PREFETCH_MAX_WAIT_US  # no prefetch while a pending model was waited for that long
    max_slots: int = 0  # 0 = as many as can be used; more adds rows that stay empty
    max_decisions: int = FOREVER
    unlimited_memory: bool = False  # "no swapping": every accelerator holds everything, nothing is evicted
    # what is measured on real servers, where it is; the defaults change nothing
    batch_ns: Int64Array = None  # type: ignore[assignment]  # (A, M, B + 1) added with 0 to B decoding requests, then
    # decode_ns for each more; default: zeros for B = 0
    request_ns: Int64Array = None  # type: ignore[assignment]  # (A, M) work per request, beside that of its prompt
    load_slowdown: Int64Array = None  # type: ignore[assignment]  # (A,) of rounds beside a load, thousandths
    whole_rounds: bool = False  # a prefill that begins during a round joins at the next one
    again: FloatArray | None = None  # see `cace_env.sessions`; None = the table that ships
    label: str = field(default="tables", compare=False)

    def __post_init__(self) -> None:
        for name, default in unmeasured(self.num_accelerators, self.num_models).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    @property
    def num_accelerators(self) -> int:
        return len(self.accelerator_names)

    @property
    def num_models(self) -> int:
        return len(self.model_names)

    @property
    def token_ns(self) -> Int64Array:
        """A round with one decoding request, without its context, `(A, M)`."""
        alone = self.batch_ns[:, :, 1] if self.batch_ns.shape[-1] > 1 else self.batch_ns[:, :, 0] + self.decode_ns
        return self.round_ns + alone

    @cached_property
    def longest_round_ns(self) -> FloatArray:
        """An upper bound on a round of each model, `(M,)` [ns]: its share of its slowest accelerator."""
        seats = np.minimum(self.max_num_seqs, self.kv_tokens).astype(np.float64)
        chunk = np.minimum(self.chunk_tokens, self.kv_tokens).astype(np.float64)
        attention = (self.kv_ps + self.attention_ps * chunk) * self.kv_tokens / 1e3
        most = self.batch_ns.shape[-1] - 1  # the last entry is the largest
        decoding = self.batch_ns[:, :, most] + np.maximum(seats - most, 0) * self.decode_ns
        longest: FloatArray = self.round_ns + decoding + chunk * self.prefill_ns + self.request_ns + attention
        return (longest * (self.load_slowdown[:, None] / AS_ALONE)).max(axis=0)  # type: ignore[no-any-return]

    @cached_property
    def longest_swap_us(self) -> float:
        """The longest load plus the longest unload [us]."""
        return float(self.load_us.max()) + float(self.unload_us.max())

    def replace(self, **changes: object) -> FleetTables:
        """A copy with some fields changed (`dataclasses.replace`)."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def validate(self) -> None:
        """Checks that these tables can be simulated: shapes, ranges, room for everything, arithmetic within int64.

        Every unpinned model must be loadable in every state of the others: on some accelerator the memory less what is
        pinned there and less the residuals of all other unpinned models must hold its need. Memory is not checked with
        `unlimited_memory`.

        Raises:
            TableError: the first entry that breaks a rule; names the entry, its value and the limit.
        """
        _check_shapes(self)
        _check_ranges(self)
        _check_arithmetic(self)
        if not self.unlimited_memory:
            _check_room(self)
        _check_start(self)
        slots = int(slots_per_accelerator(self).sum())
        if 0 < self.max_slots < slots:
            raise TableError(
                f"max_slots is {self.max_slots}, but up to {slots} models can be resident at once; "
                f"give at least {slots}, or 0 for as many as can be used"
            )


def unmeasured(num_accelerators: int, num_models: int) -> dict[str, Int64Array]:
    """Defaults of the columns that only measurements fill: they change nothing."""
    return {
        "batch_ns": np.zeros((num_accelerators, num_models, 1), dtype=np.int64),
        "request_ns": np.zeros((num_accelerators, num_models), dtype=np.int64),
        "load_slowdown": np.full(num_accelerators, AS_ALONE, dtype=np.int64),
    }


def slots_per_accelerator(tables: FleetTables) -> Int64Array:
    """Slots that can ever be taken, `(A,)`: the most models that fit at once, pinned first, then the smallest needs.

    With `unlimited_memory` every accelerator holds every model. Models pinned elsewhere take no slot here, except then.
    """
    if tables.unlimited_memory:
        return np.full(tables.num_accelerators, tables.num_models, dtype=np.int64)
    unpinned = tables.pinned_on == NONE
    stacked_bytes = np.cumsum(np.sort(tables.need_bytes[unpinned]))
    room_bytes = tables.memory_bytes - pinned_bytes(tables)
    pinned_count = np.bincount(tables.pinned_on[~unpinned], minlength=tables.num_accelerators)
    return (pinned_count + np.searchsorted(stacked_bytes, room_bytes, side="right")).astype(np.int64)


def pinned_bytes(tables: FleetTables) -> Int64Array:
    """Memory that pinned models occupy for good, `(A,)`."""
    return _bytes_on(tables, tables.pinned_on, tables.need_bytes)


def _bytes_on(tables: FleetTables, place: Int64Array, size_bytes: Int64Array) -> Int64Array:
    total = np.zeros(tables.num_accelerators, dtype=np.int64)  # exact, unlike weights of `bincount`
    np.add.at(total, place[place != NONE], size_bytes[place != NONE])
    return total


def _check_shapes(tables: FleetTables) -> None:
    """Every array has its shape and type, names are unique."""
    num_a, num_m, num_t = tables.num_accelerators, tables.num_models, len(TASKS)
    for names, what in ((tables.accelerator_names, "accelerator_names"), (tables.model_names, "model_names")):
        if not names:
            raise TableError(f"{what} is empty; a fleet needs at least one accelerator and one model")
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise TableError(f"{what} has {repeated[0]!r} more than once; give each its own name")
    by_model = ("need_bytes", "weights_bytes", "residual_bytes", "kv_tokens", "max_num_seqs", "chunk_tokens")
    batches = max(1, tables.batch_ns.shape[-1]) if getattr(tables.batch_ns, "ndim", 0) == 3 else 1
    wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {"batch_ns": ((num_a, num_m, batches), np.int64)}
    wanted |= {name: ((num_a,), np.int64) for name in ("memory_bytes", "load_slowdown")}
    wanted |= {name: ((num_m,), np.int64) for name in (*by_model, "pinned_on", "resident_on", "asleep_on")}
    wanted |= {name: ((num_a, num_m), np.int64) for name in BY_PAIR}
    wanted |= {"load_us": ((num_a, num_m, len(TIERS)), np.int64), "host_cached": ((num_m,), np.bool_)}
    wanted |= {"cost.w_ttft": ((num_t,), np.float64), "cost.w_e2e": ((num_t,), np.float64)}
    wanted |= {"cost.slo_us": ((num_t,), np.int64), "cost.slo_on_e2e": ((num_t,), np.bool_)}
    for name, (shape, dtype) in wanted.items():
        array: object = _entry(tables, name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise TableError(f"{name} is {found}; it has to be an array of {np.dtype(dtype).name} of shape {shape}")


def _check_ranges(tables: FleetTables) -> None:
    """Every number lies in its range."""
    last = tables.num_accelerators - 1
    at_least_1 = ("memory_bytes", "weights_bytes", "max_num_seqs", "chunk_tokens", "cost.slo_us")
    at_least_0 = ("residual_bytes", "kv_tokens", "round_ns", "decode_ns", "kv_ps", "prefill_ns", "attention_ps")
    ranges = dict.fromkeys(at_least_1, (1, FOREVER))
    ranges |= dict.fromkeys((*at_least_0, "batch_ns", "request_ns"), (0, FOREVER))
    ranges |= {"load_us": (1, MAX_DURATION_US), "unload_us": (0, MAX_DURATION_US)}
    ranges["load_slowdown"] = (AS_ALONE, MAX_SLOWDOWN)
    for name, (least, most) in ranges.items():
        array = _entry(tables, name)
        _require(tables, name, (array >= least) & (array <= most), f"{least} to {most}")
    _require(tables, "batch_ns", np.diff(tables.batch_ns, prepend=0) >= 0, "no less than that of fewer requests")
    _require(tables, "need_bytes", tables.need_bytes >= tables.weights_bytes, "at least the model's weights_bytes")
    _require(tables, "need_bytes", tables.need_bytes <= FOREVER // tables.num_models, "less: the sum overflows int64")
    _require(tables, "residual_bytes", tables.residual_bytes < tables.need_bytes, "less than the model's need_bytes")
    for name in ("pinned_on", "resident_on", "asleep_on"):
        array = _entry(tables, name)
        _require(tables, name, (array >= NONE) & (array <= last), f"an accelerator, 0 to {last}, or {NONE}")
    for name in ("cost.w_ttft", "cost.w_e2e"):
        weights = _entry(tables, name)
        _require(tables, name, np.isfinite(weights) & (weights >= 0), "a finite weight of at least 0")
    for weight in ("w_load", "w_slo", "w_refused"):
        value = getattr(tables.cost, weight)
        if not (np.isfinite(value) and value >= 0):
            raise TableError(f"cost.{weight} is {value}; it has to be finite and at least 0")
    amounts = ("host_cache_bytes", "drain_after_us", "prefetch_limit", "prefetch_max_wait_us", "max_slots")
    for name in (*amounts, "max_decisions"):
        value, least = getattr(tables, name), int(name not in amounts)
        if not least <= value <= FOREVER:
            raise TableError(f"{name} is {value}; it has to be {least} to {FOREVER}")
    for name, words in (("placement", PLACEMENTS), ("protocol", tuple(Protocol))):
        if getattr(tables, name) not in words:
            raise TableError(f"{name} is {getattr(tables, name)!r}; it has to be one of {', '.join(words)}")
    if tables.unlimited_memory and tables.protocol == Protocol.SWAP:
        raise TableError("protocol is 'swap', but with unlimited_memory nothing is asked; it has to be 'eviction'")
    if tables.prefetch_limit > MAX_PREFETCHES:
        raise TableError(f"prefetch_limit is {tables.prefetch_limit}; it has to be 0 to {MAX_PREFETCHES}")


def _first_of_each(*columns: npt.NDArray[Any]) -> list[int]:
    """The first of equal entries along the first axis, in their order: most models and most GPUs are alike."""
    keys = [b"".join(column[i].tobytes() for column in columns) for i in range(len(columns[0]))]
    return sorted({key: i for i, key in reversed(list(enumerate(keys)))}.values())


def _check_arithmetic(tables: FleetTables) -> None:
    """The longest possible round and request stay within the kernel's int64 arithmetic (docs/design.md 2.7, 2.8)."""
    pairs = [*(getattr(tables, name) for name in BY_PAIR), tables.batch_ns]
    own = (tables.kv_tokens, tables.max_num_seqs, tables.chunk_tokens)
    models = _first_of_each(*(pair.swapaxes(0, 1) for pair in pairs), *own)
    accelerators = _first_of_each(*pairs, tables.load_slowdown)
    for m in models:
        kv_tokens, seats, chunk = int(tables.kv_tokens[m]), int(tables.max_num_seqs[m]), int(tables.chunk_tokens[m])
        seats = min(seats, kv_tokens)  # every admitted request holds at least one token
        for a in accelerators:
            attention_ps, kv_ps = int(tables.attention_ps[a, m]), int(tables.kv_ps[a, m])
            most = min(seats, tables.batch_ns.shape[-1] - 1)
            batch_ns = int(tables.batch_ns[a, m, most]) + (seats - most) * int(tables.decode_ns[a, m])
            round_ns = int(tables.round_ns[a, m]) + batch_ns + kv_ps * kv_tokens // 1000
            # W / n of a chunk at the end of the longest prompt: d(context^2)/2 <= context * chunk
            chunk_ns = chunk * int(tables.prefill_ns[a, m]) + attention_ps * kv_tokens * min(chunk, kv_tokens) // 1000
            chunk_ns += (request_ns := int(tables.request_ns[a, m]))
            slowdown = int(tables.load_slowdown[a])
            longest_ns = (round_ns + chunk_ns) * tables.num_models * slowdown // AS_ALONE
            where = f"model {tables.model_names[m]!r} on accelerator {tables.accelerator_names[a]!r}"
            advice = "check the units of its coefficients (ns, ps), or lower kv_tokens, max_num_seqs or chunk_tokens"
            whole_ns = kv_tokens * int(tables.prefill_ns[a, m]) + attention_ps * kv_tokens**2 // 2000 + request_ns
            request, service_ns = f"a request of kv_tokens = {kv_tokens}", max(longest_ns, attention_ps * kv_tokens)
            for what, most_ns, limit_ns in (
                ("a round", longest_ns, MAX_ROUND_NS),
                (request, kv_tokens * service_ns, MAX_SERVICE_NS),
                ("a prompt with whole_rounds", tables.whole_rounds * whole_ns, MAX_PREFILL_NS),
            ):
                if most_ns >= limit_ns:
                    raise TableError(f"{where}: {what} could last {most_ns} ns, the limit is {limit_ns} ns; {advice}")


def _check_room(tables: FleetTables) -> None:
    """Pinned models fit where they are pinned, and every other one can be loaded somewhere, whatever is asleep."""
    room_bytes = tables.memory_bytes - pinned_bytes(tables)
    for a in np.flatnonzero(room_bytes < 0):
        taken_bytes = tables.memory_bytes[a] - room_bytes[a]
        raise TableError(
            f"accelerator {tables.accelerator_names[a]!r}: the models pinned there need {_gb(taken_bytes, up=True)}, "
            f"its memory is {_gb(tables.memory_bytes[a])}; pin fewer, or give it more memory"
        )
    unpinned = tables.pinned_on == NONE
    residuals_bytes = int(tables.residual_bytes[unpinned].sum())
    for m in np.flatnonzero(unpinned):
        others_bytes = residuals_bytes - int(tables.residual_bytes[m])
        best = int(room_bytes.argmax())
        memory, taken = int(tables.memory_bytes[best]), int(tables.memory_bytes[best] - room_bytes[best])
        available_bytes = memory - taken - others_bytes
        if available_bytes < tables.need_bytes[m]:
            raise TableError(
                f"model {tables.model_names[m]!r} needs {_gb(tables.need_bytes[m], up=True)}, but no accelerator can "
                f"ever offer more than {_gb(available_bytes)} ({tables.accelerator_names[best]!r}: {_gb(memory)}, less "
                f"{_gb(taken)} pinned there and {_gb(others_bytes)} of residuals of the other models); "
                "give it more memory, a smaller reserve, or fewer models"
            )


def _check_start(tables: FleetTables) -> None:
    """The state at time 0 is consistent: one place per model, and everything fits."""
    pinned, resident, asleep = (array != NONE for array in (tables.pinned_on, tables.resident_on, tables.asleep_on))
    _require(tables, "resident_on", ~(pinned & resident), f"{NONE}: the model is pinned, and so resident already")
    _require(tables, "asleep_on", ~(asleep & (pinned | resident)), f"{NONE}: the model is resident at time 0")
    sleeps = tables.residual_bytes > 0
    _require(tables, "asleep_on", ~asleep | sleeps, f"{NONE}: the model leaves no residual (residual_bytes is 0)")
    used_bytes = pinned_bytes(tables) + _bytes_on(tables, tables.resident_on, tables.need_bytes)
    used_bytes += _bytes_on(tables, tables.asleep_on, tables.residual_bytes)
    if not tables.unlimited_memory:
        for a in np.flatnonzero(used_bytes > tables.memory_bytes):
            raise TableError(
                f"accelerator {tables.accelerator_names[a]!r}: pinned, resident and sleeping models take "
                f"{_gb(used_bytes[a], up=True)} at time 0, its memory is {_gb(tables.memory_bytes[a])}; start fewer"
            )
    cached_bytes = int(tables.weights_bytes[tables.host_cached].sum())
    if cached_bytes > tables.host_cache_bytes:
        raise TableError(
            f"host_cached: those models weigh {_gb(cached_bytes, up=True)}, host_cache_bytes is "
            f"{_gb(tables.host_cache_bytes)}; cache fewer at time 0, or give the host more memory"
        )


def _gb(size_bytes: int, up: bool = False) -> str:
    """What there is, rounded down, or what is needed, rounded up: so a shortage stays one."""
    return f"{(math.ceil if up else math.floor)(size_bytes / 1e7) / 100:.2f} GB"


def _entry(tables: FleetTables, name: str) -> npt.NDArray[Any]:
    """The array called `name`; `cost.x` is one of the cost table."""
    owner, _, column = name.rpartition(".")
    return getattr(tables.cost if owner else tables, column)  # type: ignore[no-any-return]


def _require(tables: FleetTables, name: str, holds: npt.NDArray[np.bool_], limit: str) -> None:
    """Raises for the first entry of `name` that does not hold, with its model or accelerator and value."""
    if holds.all():
        return
    array = _entry(tables, name)
    index = tuple(int(i) for i in np.argwhere(~holds)[0])
    last: Sequence[object] = range(array.shape[-1]) if name == "batch_ns" else TIERS
    axes: tuple[Sequence[object], ...] = (tables.accelerator_names, tables.model_names, last)
    if name.startswith("cost."):
        axes = (TASKS,)
    elif array.ndim == 1 and name not in ("memory_bytes", "load_slowdown"):
        axes = (tables.model_names,)
    where = ", ".join(str(axis[i]) for axis, i in zip(axes, index, strict=False))
    raise TableError(f"{name}[{where}] is {array[index]}; it has to be {limit}")
