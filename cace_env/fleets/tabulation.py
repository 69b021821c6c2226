"""Tabulation of a fleet: the speed and load formulas, from the catalogue to integer tables.

The functions take a model, a GPU and an engine and return what the kernel reads: loads in whole microseconds, rounded
up; speeds in whole nanoseconds or picoseconds, rounded to nearest. `tabulate` fills a `FleetTables` with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cace_env.fleets.catalogue import CHUNK_TOKENS, KV_TOKENS, MAX_NUM_SEQS, RUNTIME_GB, CodeModel
from cace_env.fleets.hardware import Engine, Gpu
from cace_env.fleets.measured import Measured
from cace_env.tables import (
    AS_ALONE,
    DRAIN_AFTER_US,
    FOREVER,
    NONE,
    PREFETCH_MAX_WAIT_US,
    TIERS,
    CostTable,
    FleetTables,
    FloatArray,
    Int64Array,
    TableError,
)

GB = 1_000_000_000


@dataclass(frozen=True)
class Accelerator:
    """One GPU of a fleet; `memory_bytes` may differ from the data sheet."""

    name: str
    gpu: Gpu
    memory_bytes: int
    load_slowdown: float = 1.0  # of rounds beside a load


@dataclass(frozen=True)
class HostedModel:
    """A model as a fleet runs it: its reserve, its limits, and where it is at time 0 (accelerator index, or None)."""

    name: str
    model: CodeModel
    reserve_bytes: int  # runtime + KV cache
    kv_tokens: int
    max_num_seqs: int = int(MAX_NUM_SEQS.value)
    chunk_tokens: int = int(CHUNK_TOKENS.value)
    pinned_on: int | None = None
    resident_on: int | None = None
    asleep_on: int | None = None
    cached: bool = False  # in host RAM
    measured: Measured | None = None  # coefficients, in place of the formulas


def default_kv_tokens(tasks: Sequence[str]) -> int:
    """KV cache size for the most demanding of `tasks` (`catalogue.KV_TOKENS`)."""
    return int(max(KV_TOKENS[task].value for task in tasks))


def reserve(
    model: CodeModel,
    *,
    kv_tokens: int | None = None,
    reserve_gb: float | None = None,
    runtime_gb: float = RUNTIME_GB.value,
) -> tuple[int, int]:
    """Reserve in bytes and KV cache in tokens: one follows from the other; if neither is given, from the tasks.

    `reserve = runtime + kv_tokens x kv_bytes_per_token`, solved for either.

    Raises:
        TableError: both are given, or the reserve leaves no room for a KV cache.
    """
    if kv_tokens is not None and reserve_gb is not None:
        raise TableError(f"model {model.name!r}: give kv_tokens or reserve_gb, not both; one follows from the other")
    runtime_bytes = round(runtime_gb * GB)
    if reserve_gb is None:
        tokens = default_kv_tokens(model.tasks) if kv_tokens is None else kv_tokens
        return runtime_bytes + tokens * model.kv_bytes_per_token, tokens
    reserve_bytes = round(reserve_gb * GB)
    tokens = (reserve_bytes - runtime_bytes) // model.kv_bytes_per_token
    if tokens < 1:
        raise TableError(
            f"model {model.name!r}: reserve_gb is {reserve_gb}, of which the runtime takes {runtime_gb}, which leaves "
            f"no room for a KV cache ({model.kv_bytes_per_token} bytes per token); give more"
        )
    return reserve_bytes, tokens


def weights_bytes(model: CodeModel) -> int:
    """Size of the weights."""
    return round(model.weights_gb.value * GB)


def load_us(model: CodeModel, gpu: Gpu, engine: Engine, tier: int) -> int:
    """Start + slow first inference + weights / min(bandwidth of engine and tier, link of the GPU); at least 1 us."""
    bandwidth_gb_s = min(engine.bandwidth_gb_s[tier].value, gpu.link_gb_s.value)
    start_s = engine.start_s[tier].value + engine.first_inference_s[tier].value
    return max(1, math.ceil((start_s + model.weights_gb.value / bandwidth_gb_s) * 1e6))


def unload_us(model: CodeModel, gpu: Gpu, engine: Engine) -> int:
    """Weights / min(unload bandwidth, link) if unloading copies them to the host, else 0."""
    if engine.unload_gb_s.value == 0:
        return 0
    return math.ceil(model.weights_gb.value / min(engine.unload_gb_s.value, gpu.link_gb_s.value) * 1e6)


def round_ns(model: CodeModel, gpu: Gpu) -> int:
    """A round without requests: `t0 + bytes_per_round / effective bandwidth`.

    The fits were made at batch 1, so one `decode_ns` is subtracted.
    """
    overhead_ms, per_gb_ms = gpu.overhead_ms[model.quantisation].value, gpu.ms_per_gb[model.quantisation].value
    return round((overhead_ms + per_gb_ms * model.round_gb) * 1e6) - decode_ns(model, gpu)


def decode_ns(model: CodeModel, gpu: Gpu) -> int:
    """Time that one more decoding request adds to a round (`k_b`), proportional to the active parameters."""
    return round(gpu.decode_us_per_b.value * model.active_b * 1e3)


def kv_ps(model: CodeModel, gpu: Gpu) -> int:
    """Time to read one token's keys and values, at the effective bandwidth of bf16 weights (`k_kv`)."""
    return round(model.kv_bytes_per_token / GB * gpu.ms_per_gb["bf16"].value * 1e9)


def prefill_ns(model: CodeModel, gpu: Gpu) -> int:
    """Work per prompt token: 2 x active parameters / (MFU x peak)."""
    return round(2 * model.active_b * 1e9 / _prefill_flops(gpu) * 1e9)


def attention_ps(model: CodeModel, gpu: Gpu) -> int:
    """Work per (query, key) pair of the prompt, in picoseconds."""
    return round(model.attention_flops_per_pair / _prefill_flops(gpu) * 1e12)


def paces_ns(hosted: HostedModel, gpu: Gpu) -> tuple[int, int]:
    """Time for a prompt token, and for a token of a request alone (without attention), as they are in the tables."""
    own, model = hosted.measured, hosted.model
    if own is not None:
        return own.prefill_ns, own.token_ns
    return prefill_ns(model, gpu), round_ns(model, gpu) + decode_ns(model, gpu)


def _prefill_flops(gpu: Gpu) -> float:
    return gpu.mfu.value * gpu.peak_tflops.value * 1e12


def tabulate(
    accelerators: Sequence[Accelerator],
    models: Sequence[HostedModel],
    engine: Engine,
    cost: CostTable,
    *,
    host_ram_bytes: int = 0,
    placement: str = "spread",
    drain_after_us: int = DRAIN_AFTER_US,
    prefetch_limit: int = 0,
    prefetch_max_wait_us: int = PREFETCH_MAX_WAIT_US,
    max_slots: int = 0,
    max_decisions: int = FOREVER,
    whole_rounds: bool = False,
    again: FloatArray | None = None,
    label: str = "tables",
) -> FleetTables:
    """Make the integer tables of a fleet, validated.

    Args:
        accelerators: in the order of their indices.
        models: in the order of their indices.
        engine: the load regime of all accelerators.
        cost: the cost of waiting.
        host_ram_bytes: size of the host cache for weights; 0 = none.
        placement: choice among several accelerators where a model fits, `spread` or `pack`.
        drain_after_us: how long a model is pending before busy models may be drained for it.
        prefetch_limit: most loads per episode of models without waiting requests (Swap-v0).
        prefetch_max_wait_us: longest wait of a pending request at which other models are still prefetched.
        max_slots: 0 = as many as can be used.
        max_decisions: the episode is truncated when one more decision would be asked.
        whole_rounds: a prefill that begins during a round joins at the next one.
        again: how likely sessions that pause ask again, `FleetTables.again`; None = the table that ships.
        label: name for error messages and reports.

    Raises:
        TableError: the fleet cannot be simulated (`FleetTables.validate`).
    """
    residual_bytes = round(engine.residual_gb.value * GB)
    weights = _column(weights_bytes(m.model) for m in models)
    unpinned = np.array([m.pinned_on is None for m in models])

    def each(column: str, figure: Callable[[CodeModel, Gpu], int | tuple[int, ...]]) -> Int64Array:
        return by_gpu(lambda m, gpu: figure(m.model, gpu) if m.measured is None else getattr(m.measured, column))

    def by_gpu(figure: Callable[[HostedModel, Gpu], int | tuple[int, ...]]) -> Int64Array:
        kinds: list[Gpu] = []  # accelerators of a kind have the same rows
        for a in accelerators:
            if a.gpu not in kinds:
                kinds.append(a.gpu)
        rows = np.array([[figure(m, gpu) for m in models] for gpu in kinds], dtype=np.int64)
        return rows[[kinds.index(a.gpu) for a in accelerators]]

    most_batches = max([0, *(len(m.measured.batch_ns) - 1 for m in models if m.measured is not None)])

    def batches(hosted: HostedModel, gpu: Gpu) -> tuple[int, ...]:
        if hosted.measured is not None:
            return hosted.measured.batches_ns(most_batches)
        return tuple(batch * decode_ns(hosted.model, gpu) for batch in range(most_batches + 1))

    def loads(model: CodeModel, gpu: Gpu) -> tuple[int, ...]:
        return tuple(load_us(model, gpu, engine, tier) for tier in range(len(TIERS)))

    tables = FleetTables(
        accelerator_names=tuple(a.name for a in accelerators),
        model_names=tuple(m.name for m in models),
        memory_bytes=_column(a.memory_bytes for a in accelerators),
        need_bytes=weights + _column(m.reserve_bytes for m in models),
        weights_bytes=weights,
        residual_bytes=residual_bytes * unpinned.astype(np.int64),
        kv_tokens=_column(m.kv_tokens for m in models),
        max_num_seqs=_column(m.max_num_seqs for m in models),
        chunk_tokens=_column(m.chunk_tokens for m in models),
        load_us=each("load_us", loads),
        unload_us=each("unload_us", lambda model, gpu: unload_us(model, gpu, engine)),
        round_ns=each("round_ns", round_ns),
        decode_ns=each("decode_ns", decode_ns),
        kv_ps=each("kv_ps", kv_ps),
        prefill_ns=each("prefill_ns", prefill_ns),
        attention_ps=each("attention_ps", attention_ps),
        cost=cost,
        pinned_on=_place(m.pinned_on for m in models),
        resident_on=_place(m.resident_on for m in models),
        asleep_on=_place(m.asleep_on for m in models),
        host_cached=np.array([m.cached for m in models], dtype=np.bool_),
        host_cache_bytes=host_ram_bytes,
        unload_copies=engine.unload_gb_s.value > 0,
        placement=placement,
        drain_after_us=drain_after_us,
        prefetch_limit=prefetch_limit,
        prefetch_max_wait_us=prefetch_max_wait_us,
        max_slots=max_slots,
        max_decisions=max_decisions,
        whole_rounds=whole_rounds,
        batch_ns=by_gpu(batches),
        request_ns=each("request_ns", lambda model, gpu: 0),
        load_slowdown=_column(round(AS_ALONE * a.load_slowdown) for a in accelerators),
        again=again,
        label=label,
    )
    tables.validate()
    return tables


def _column(values: Iterable[int]) -> Int64Array:
    return np.array(list(values), dtype=np.int64)


def _place(places: Iterable[int | None]) -> Int64Array:
    return _column(NONE if place is None else place for place in places)
