"""Plain integer tables: everything the kernel reads about a fleet, and nothing else.

A scenario is tabulated into a `FleetTables` once (`cace_env.scenarios`); anybody may also build one by hand and hold
another simulator against this one, event by event (`cace_env.simulator.Simulator`, `docs/tables.md`). All times are whole
microseconds unless a name says otherwise, all sizes whole bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

TASKS: Final = ("completion", "chat", "reasoning", "agent")
TIERS: Final = ("host", "disk")
HOST, DISK = 0, 1
PLACEMENTS: Final = ("spread", "pack")
FOREVER: Final = 1 << 60  # [us] a time that never comes
NONE: Final = -1

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


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
    """`A` accelerators, `M` models. Shapes in brackets; invariants are checked by `validate`."""

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
    drain_after_us: int = 30_000_000
    max_slots: int = 0  # 0 = as many as can be used; more adds rows that stay empty
    max_decisions: int = FOREVER
    unlimited_memory: bool = False  # "no swapping": every accelerator holds everything, nothing is evicted
    label: str = field(default="tables", compare=False)

    @property
    def num_accelerators(self) -> int:
        return len(self.accelerator_names)

    @property
    def num_models(self) -> int:
        return len(self.model_names)

    def replace(self, **changes: object) -> FleetTables:
        """A copy with some fields changed (`dataclasses.replace`)."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
