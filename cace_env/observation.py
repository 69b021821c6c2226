"""What an agent sees: every feature with unit, scale and meaning, and how the flat vector is laid out.

The kernel computes raw features in physical units (`cace_env/kernel/features.py`) and scales them by the constants of
this table on the way into the observation. The scales are fixed: a trained agent needs no running statistics beside it,
and a feature means the same in every scenario. Python policies get the raw features and find a column by name:

    features[:, SLOT.since_use_s]
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel.features import NUM_CONTEXT_FEATURES, NUM_PENDING_FEATURES, NUM_SLOT_FEATURES, Scaling

Float32Array = npt.NDArray[np.float32]

LOG_LIMIT: Final = 50.0  # log1p of any number of microseconds, bytes or tokens that fits int64 stays below
LINEAR_LIMIT: Final = 1e9  # so does any number of GB over its scale


@dataclass(frozen=True)
class Feature:
    """One number of the observation.

    Attributes:
        name: unique within its block; carries the unit where there is one.
        unit: physical unit, "flag" for 0 or 1, or what is counted.
        scale: in `unit`; what one unit of the observation stands for.
        log: True = `sign(x) * log1p(|x| / scale)`, so that seconds and hours fit one range; False = `x / scale`.
        doc: its meaning in one line.
        signed: it may be below 0.
    """

    name: str
    unit: str
    scale: float
    log: bool
    doc: str
    signed: bool = False

    @property
    def limit(self) -> float:
        """Bound of the scaled value."""
        return 1.0 if self.unit == "flag" else LOG_LIMIT if self.log else LINEAR_LIMIT


def _flag(name: str, doc: str) -> Feature:
    return Feature(name, "flag", 1.0, False, doc)


def _size(name: str, doc: str, scale_gb: float = 20.0) -> Feature:
    """Sizes stay linear: whether two models fit together is a matter of sums."""
    return Feature(name, "GB", scale_gb, False, doc)


def _time(name: str, doc: str, scale_s: float = 1.0) -> Feature:
    return Feature(name, "s", scale_s, True, doc)


def _log(name: str, unit: str, doc: str, scale: float = 1.0) -> Feature:
    return Feature(name, unit, scale, True, doc)


SLOT_FEATURES: Final[tuple[Feature, ...]] = (
    _flag("occupied", "the slot holds a model, in any state; a row of zeros is an empty slot"),
    _flag("legal", "the model may be evicted now (the action mask)"),
    _flag("loading", "the model is being loaded"),
    _flag("leaving", "the model drains or unloads: it was chosen as a victim, or its keep-alive ran out"),
    _flag("pinned", "the model is never evicted"),
    _size("freed_gb", "memory that its eviction frees: need less what stays behind asleep"),
    _size("weights_gb", "weights of the model"),
    _time(
        "reload_s",
        "load time if it were evicted now and wanted again on this accelerator, from the tier it would be in",
    ),
    Feature("decode_ms", "ms", 1.0, True, "time per output token when it runs alone, without KV cache"),
    _log("running", "requests", "admitted requests"),
    _log("waiting", "requests", "requests that wait for their model, a seat or KV room"),
    _time("running_age_s", "mean time since the arrival of the admitted requests"),
    _log("emitted_tokens", "tokens", "output tokens that the admitted requests have emitted so far", 100.0),
    _time("since_use_s", "time since the last arrival or finish; since its load if it has never been used"),
    _time("since_second_use_s", "time since the arrival before the last (LRU-2); 1e6 if there is none", 10.0),
    _time("since_load_s", "time since its load ended; 0 while it loads", 10.0),
    _log("uses_since_load", "requests", "arrivals since its load, those that waited for it included"),
    _log("uses", "requests", "arrivals since time 0", 10.0),
    _log("window_requests", "requests", "arrivals in the last 5 minutes"),
    _log("rate_1m", "1/min", "rate of arrivals, exponentially weighted with a half-life of 1 minute"),
    _log("rate_10m", "1/min", "the same, 10 minutes"),
    _log("rate_60m", "1/min", "the same, 60 minutes"),
    _log("window_users", "users", "different users in the last 5 minutes"),
    _log("window_sessions", "sessions", "different sessions in the last 5 minutes"),
    _log(
        "prefix_tokens", "tokens", "cached prompt tokens of its sessions, halved every 10 minutes without use", 1000.0
    ),
    _log("latency_weight", "cost/s", "moving mean of the cost weight (TTFT and E2E) of its requests", 0.1),
    _log("expected_output_tokens", "tokens", "moving mean of finished outputs; 0 before the first", 100.0),
    _time("mean_gap_s", "moving mean of the time between arrivals; 1e6 before the second", 10.0),
    _log("gap_cv", "1", "coefficient of variation of that time: 0 = like clockwork, 1 = Poisson, more = bursts"),
    _size("missing_gb", "what must still come free on its accelerator for the target, beyond the victims chosen"),
    _size("free_gb", "free memory on its accelerator"),
    Feature("greedy_dual", "s/GB", 1.0, True, "GreedyDual-Size-Frequency priority, relative to its clock", signed=True),
    _log("worth", "1/min s/GB", "rate_10m x reload_s / freed_gb: what its presence saves", 0.01),
    _time(
        "drain_s",
        "guess of what its running requests still take: expected_output_tokens less emitted ones (a tenth of them at "
        "least) x decode_ms x busy_here",
    ),
    _log("busy_here", "models", "models on its accelerator that have admitted requests"),
    _flag("suffices", "its eviction alone makes room for the target"),
    _size("spare_gb", "memory that would be left over then"),
    _time("target_load_s", "load time of the target on this accelerator; 0 without a target"),
    Feature("target_decode_ms", "ms", 1.0, True, "the target's time per output token here; 0 without a target"),
)

PENDING_FEATURES: Final[tuple[Feature, ...]] = (
    _flag(
        "present", "a pending model stands here, or the target, or one that may be prefetched; a row of zeros is none"
    ),
    _flag("target", "it is the model that room is made for"),
    _size("need_gb", "memory it needs: weights and reserve"),
    _size("weights_gb", "weights of the model"),
    _time("load_s", "its load time on the fastest accelerator, from the tier it is in now"),
    _log("waiting", "requests", "requests that wait for it"),
    _log("waiting_weight", "cost/s", "waiting requests times their mean cost weight", 0.1),
    _time("oldest_wait_s", "how long the first of them has waited"),
    _time("pending_s", "how long it has been pending; at drain_after, busy models become legal victims"),
    _log("rate_1m", "1/min", "rate of arrivals, exponentially weighted with a half-life of 1 minute"),
    _log("rate_10m", "1/min", "the same, 10 minutes"),
    _log("rate_60m", "1/min", "the same, 60 minutes"),
    _log("window_users", "users", "different users in the last 5 minutes"),
    _log("window_sessions", "sessions", "different sessions in the last 5 minutes"),
    _log("latency_weight", "cost/s", "moving mean of the cost weight (TTFT and E2E) of its requests", 0.1),
    _log("expected_output_tokens", "tokens", "moving mean of finished outputs; 0 before the first", 100.0),
    _time("since_eviction_s", "time since it was evicted; 1e6 if it never was", 10.0),
    _flag("legal", "it may be chosen to be loaded now (the action mask of Swap-v0; 0 in Eviction-v0)"),
    _flag("fits", "free memory suffices for it on an accelerator whose channel is idle"),
    _flag(
        "idle_suffices", "free memory and that of idle models suffice for it on an accelerator whose channel is idle"
    ),
)

CONTEXT_FEATURES: Final[tuple[Feature, ...]] = (
    _time("elapsed_s", "time since the last decision; since time 0 at the first"),
    _log("legal", "actions", "legal actions"),
    _log("chosen", "models", "victims already chosen for this target that have not left"),
    _size("target_need_gb", "memory that the target needs"),
    _time("target_load_s", "load time of the target on the fastest accelerator"),
    _size("missing_gb", "what must still come free, on the accelerator with legal victims that lacks least"),
    _size("free_gb", "free memory of all accelerators", 80.0),
    _size("memory_gb", "memory of all accelerators", 80.0),
    _log("pending", "models", "pending models; the target counts until its first victim is chosen"),
    _log("waiting", "requests", "waiting requests, of all models"),
    _log("running", "requests", "admitted requests, of all models"),
    _log("loading", "accelerators", "accelerators whose channel loads or unloads"),
    _log("idle_models", "models", "resident models without a request"),
    _size("host_cache_gb", "size of the host cache for weights", 80.0),
    _flag("ordering", "asked which model to load; in Eviction-v0, and where victims are asked for, 0"),
    _flag("wait_legal", "waiting is legal"),
)


def _columns(name: str, features: tuple[Feature, ...]) -> Any:
    """A named tuple that holds each feature's column."""
    return namedtuple(name, [feature.name for feature in features])(*range(len(features)))


SLOT: Final = _columns("SlotColumns", SLOT_FEATURES)
PENDING: Final = _columns("PendingColumns", PENDING_FEATURES)
CONTEXT: Final = _columns("ContextColumns", CONTEXT_FEATURES)


class Blocks(NamedTuple):
    """An observation taken apart; leading axes (environments, time) are kept."""

    slots: Float32Array  # (..., S, len(SLOT_FEATURES))
    pending: Float32Array  # (..., K, len(PENDING_FEATURES)), oldest request first; in Swap-v0 row m is model m
    context: Float32Array  # (..., len(CONTEXT_FEATURES))


@dataclass(frozen=True)
class ObservationLayout:
    """Where everything lies in the flat observation `[slots x features | pending x features | context]`.

    Attributes:
        max_slots: `S`, rows of slots.
        max_pending: `K`, rows of pending models.
    """

    max_slots: int
    max_pending: int

    def __post_init__(self) -> None:
        if self.max_slots < 1 or self.max_pending < 0:
            raise ValueError(
                f"a layout needs at least 1 slot and 0 pending rows, has {self.max_slots} and {self.max_pending}"
            )

    @property
    def size(self) -> int:
        """Length of the observation."""
        return self.pending_end + NUM_CONTEXT_FEATURES

    @property
    def slots_end(self) -> int:
        """Where the slot rows end and the pending rows begin."""
        return self.max_slots * NUM_SLOT_FEATURES

    @property
    def pending_end(self) -> int:
        """Where the pending rows end and the context begins."""
        return self.slots_end + self.max_pending * NUM_PENDING_FEATURES

    @property
    def features(self) -> tuple[Feature, ...]:
        """The feature at each position of the observation."""
        return SLOT_FEATURES * self.max_slots + PENDING_FEATURES * self.max_pending + CONTEXT_FEATURES

    def scaling(self) -> Scaling:
        """As the kernel reads it, with its own scratch space: one for each thread that computes observations."""
        scale, log = self._scale_and_log
        return Scaling(factors=1.0 / scale, logarithmic=log.astype(np.float64), raw=np.zeros(self.size))

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each position: `slot0.occupied`, `pending0.present`, `context.elapsed_s`."""
        blocks = [(f"slot{slot}", SLOT_FEATURES) for slot in range(self.max_slots)]
        blocks += [(f"pending{row}", PENDING_FEATURES) for row in range(self.max_pending)]
        blocks += [("context", CONTEXT_FEATURES)]
        return tuple(f"{block}.{feature.name}" for block, features in blocks for feature in features)

    @property
    def high(self) -> Float32Array:
        """Upper bound of each position, `(size,)`."""
        return np.array([feature.limit for feature in self.features], dtype=np.float32)

    @property
    def low(self) -> Float32Array:
        """Lower bound of each position, `(size,)`: 0, except for signed features."""
        return np.array([-feature.limit if feature.signed else 0.0 for feature in self.features], dtype=np.float32)

    def split(self, observation: Float32Array) -> Blocks:
        """The three blocks of observations of shape `(..., size)`, as views.

        Raises:
            ValueError: the last axis has another length.
        """
        if observation.shape[-1] != self.size:
            raise ValueError(
                f"the observation has {observation.shape[-1]} numbers; {self.max_slots} slots and "
                f"{self.max_pending} pending rows have {self.size}"
            )
        front = observation.shape[:-1]
        return Blocks(
            observation[..., : self.slots_end].reshape(*front, self.max_slots, NUM_SLOT_FEATURES),
            observation[..., self.slots_end : self.pending_end].reshape(*front, self.max_pending, NUM_PENDING_FEATURES),
            observation[..., self.pending_end :],
        )

    def physical(self, observation: Float32Array) -> npt.NDArray[np.float64]:
        """The same numbers in physical units, to the precision of float32; shape `(..., size)`."""
        scale, log = self._scale_and_log
        values = np.asarray(observation, dtype=np.float64)
        return np.where(log, np.copysign(np.expm1(np.where(log, np.abs(values), 0.0)), values), values) * scale

    @cached_property
    def _scale_and_log(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        features = self.features
        return np.array([f.scale for f in features]), np.array([f.log for f in features])
