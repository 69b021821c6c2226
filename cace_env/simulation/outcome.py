"""Results of a simulation: episodes, totals, event traces, errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel.state import Int64Array


class SimulationError(RuntimeError):
    """The simulator could not continue; the message says at which time and why."""


class TraceRow(NamedTuple):
    """One row of the event trace (`docs/design.md`, section 8)."""

    time_us: int
    kind: str
    subject: int  # request or model
    accelerator: int  # NONE if the model is on no accelerator


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts of an episode in total, and per accelerator (`A`). Times in us."""

    cost: float
    end_us: int
    truncated: bool
    decisions: int
    forced_evictions: int  # a single legal victim, applied without asking
    drains: int  # victims chosen while in use
    evictions: int
    keep_alive_evictions: int
    waits: int  # answers "wait" of Swap-v0
    prefetches: int  # loads chosen for models without waiting requests
    loads: int
    load_us_total: int
    loaded_bytes: int
    regret_loads: int  # loads of models evicted less than a minute before
    cold_requests: int  # arrivals whose model was not resident
    prefix_tokens_lost: int  # prompt tokens computed again because the model had been evicted
    busy_us: Int64Array  # (A,) engine time
    channel_us: Int64Array  # (A,) channel time
    memory_byte_us: float  # bytes in use, integrated over time, all accelerators


class Summary(NamedTuple):
    """The input of metrics: sums, and quantiles of the latencies of answered requests; see cace_env.kernel.summary."""

    totals: Totals
    shares: Int64Array  # (T, SHARE)
    quantiles_us: npt.NDArray[np.float64]  # (T + 1, 2, len(QUANTILES) + 1) of TTFTs and E2E latencies; at last of all


@dataclass(frozen=True, kw_only=True)
class Episode(Totals):
    """Results of an episode in total, per request (`R`), per task (`T`) and per model (`M`). Times in us."""

    task: npt.NDArray[np.int8]  # (R,) index into TASKS
    arrival_us: Int64Array  # (R,) FOREVER if the episode was cut before it
    first_token_us: Int64Array  # (R,) NONE if refused or cut
    finish_us: Int64Array  # (R,) NONE if refused or cut
    refused: npt.NDArray[np.bool_]  # (R,)
    waiting_us: Int64Array  # (T,) request-us until the first token
    system_us: Int64Array  # (T,) request-us in the system
    slo_missed: Int64Array  # (T,)
    model_loads: Int64Array  # (M,)
    trace: list[TraceRow]
