"""What an agent sees: the table of features, and how the flat vector is laid out.

The table is the one place that says what there is: name, unit, scale, meaning, group, phrase. The kernel computes raw
features in physical units (`cace_env/kernel/features.py`, which finds its columns by name) and scales them by the
constants of this table on the way into the observation. The scales are fixed: a trained agent needs no running
statistics beside it, and a feature means the same in every scenario. Python policies get the raw features and find a
column by name:

    features[:, SLOT.since_use_s]
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

LOG_LIMIT: Final = 50.0  # log1p of any number of microseconds, bytes or tokens that fits int64 stays below
LINEAR_LIMIT: Final = 1e9  # so does any number of GB over its scale

# Features of one group say similar things; `experiments.ablate features` takes a group away at a time.
Group = Literal[
    "states and legality", "sizes", "room", "load time", "speed", "work in progress", "recency", "demand", "users",
    "prefix", "latency and outputs", "scores of known rules", "queue", "sessions",
]  # fmt: skip
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
# What computes a feature: `place_features` and so on in `cace_env/kernel/features.py`. Those of a slot read the results
# of the ones before them; demand costs exponentials, so rules that do not need it leave it out.
Part = Literal["place", "demand", "target", "session", "pending", "context"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


@dataclass(frozen=True)
class Feature:
    """One number of the observation.

    Attributes:
        name: unique within its block; carries the unit where there is one.
        unit: physical unit, "flag" for 0 or 1, "chance" for a probability, or what is counted.
        scale: in `unit`; what one unit of the observation stands for.
        log: True = `sign(x) * log1p(|x| / scale)`, so that seconds and hours fit one range; False = `x / scale`.
        doc: its meaning in one line.
        group: which features say similar things.
        phrase: what it is called in an explanation, before its value.
        signed: it may be below 0.
        part: the function of the kernel that computes it.
    """

    name: str
    unit: str
    scale: float
    log: bool
    doc: str
    group: Group
    phrase: str
    signed: bool = False
    part: Part = "place"

    @property
    def limit(self) -> float:
        """Bound of the scaled value."""
        return 1.0 if self.unit in ("flag", "chance") else LOG_LIMIT if self.log else LINEAR_LIMIT


def _log(
    name: str, group: Group, unit: str, doc: str, scale: float = 1.0, *, phrase: str = "", signed: bool = False
) -> Feature:
    """Without a phrase of its own, a feature is called by its name without the unit."""
    said = phrase or name.replace("_", " ").removesuffix(f" {unit.lower()}")
    return Feature(name, unit, scale, True, doc, group, said, signed)


def _time(name: str, group: Group, doc: str, scale_s: float = 1.0, *, phrase: str = "") -> Feature:
    return _log(name, group, "s", doc, scale_s, phrase=phrase)


def _size(name: str, group: Group, doc: str, scale_gb: float = 20.0, *, phrase: str = "") -> Feature:
    """Sizes stay linear: whether two models fit together is a matter of sums."""
    return replace(_log(name, group, "GB", doc, scale_gb, phrase=phrase), log=False)


def _flag(name: str, group: Group, doc: str) -> Feature:
    return replace(_log(name, group, "flag", doc), log=False)


def _chance(name: str, within: str) -> Feature:
    doc = f"probability that a session which pauses at the model asks it again within {within}, if none is new"
    return replace(_log(name, "sessions", "chance", doc, phrase=f"asked again within {within}"), log=False)


def _part(part: Part, *features: Feature) -> tuple[Feature, ...]:
    return tuple(replace(feature, part=part) for feature in features)


# fmt: off
SLOT_FEATURES: Final[tuple[Feature, ...]] = (
    *_part(
        "place",
        _flag("occupied", "states and legality",
             "the slot holds a model, in any state; a row of zeros is an empty slot"),
        _flag("legal", "states and legality", "the model may be evicted now (the action mask)"),
        _flag("loading", "states and legality", "the model is being loaded"),
        _flag("leaving", "states and legality",
             "the model drains or unloads: it was chosen as a victim, or its keep-alive ran out"),
        _flag("pinned", "states and legality", "the model is never evicted"),
        _size("freed_gb", "sizes",
             "memory that its eviction frees: need less what stays behind asleep", phrase="frees"),
        _size("weights_gb", "sizes", "weights of the model"),
        _time("reload_s", "load time",
             "load time if it were evicted now and wanted again on this accelerator, from the tier it would be in",
             phrase="reload takes"),
        _log("decode_ms", "speed", "ms", "time per output token when it runs alone, without KV cache"),
        _log("running", "work in progress", "requests", "admitted requests"),
        _log("waiting", "queue", "requests", "requests that wait for their model, a seat or KV room"),
        _time("running_age_s", "work in progress", "mean time since the arrival of the admitted requests"),
        _log("emitted_tokens", "work in progress", "tokens",
             "output tokens that the admitted requests have emitted so far", 100.0),
        _time("since_use_s", "recency",
             "time since the last arrival or finish; since its load if it has never been used", phrase="not used for"),
        _time("since_second_use_s", "recency",
             "time since the arrival before the last (LRU-2); 1e6 if there is none", 10.0,
             phrase="last use but one before"),
        _time("since_load_s", "recency", "time since its load ended; 0 while it loads", 10.0, phrase="loaded for"),
        _log("uses_since_load", "demand", "requests", "arrivals since its load, those that waited for it included"),
        _log("uses", "demand", "requests", "arrivals since time 0", 10.0),
    ),
    *_part(
        "demand",
        _log("window_requests", "demand", "requests", "arrivals in the last 5 minutes", phrase="requests in 5 min"),
        _log("rate_1m", "demand", "1/min",
             "rate of arrivals, exponentially weighted with a half-life of 1 minute", phrase="demand of 1 min"),
        _log("rate_10m", "demand", "1/min", "the same, 10 minutes", phrase="demand of 10 min"),
        _log("rate_60m", "demand", "1/min", "the same, 60 minutes", phrase="demand of 60 min"),
        _log("window_users", "users", "users", "different users in the last 5 minutes", phrase="users in 5 min"),
        _log("window_sessions", "users", "sessions",
             "different sessions in the last 5 minutes", phrase="sessions in 5 min"),
        _log("prefix_tokens", "prefix", "tokens",
             "cached prompt tokens of its sessions, halved every 10 minutes without use", 1000.0,
             phrase="cached prompts"),
        _log("latency_weight", "latency and outputs", "cost/s",
             "moving mean of the cost weight (TTFT and E2E) of its requests", 0.1),
        _log("expected_output_tokens", "latency and outputs", "tokens",
             "moving mean of finished outputs; 0 before the first", 100.0, phrase="expected output"),
        _time("mean_gap_s", "demand",
             "moving mean of the time between arrivals; 1e6 before the second", 10.0, phrase="asked for every"),
        _log("gap_cv", "demand", "1",
             "coefficient of variation of that time: 0 = like clockwork, 1 = Poisson, more = bursts",
             phrase="irregularity"),
    ),
    *_part(
        "place",
        _size("missing_gb", "room",
             "what must still come free on its accelerator for the target, beyond the victims chosen"),
        _size("free_gb", "room", "free memory on its accelerator"),
        _log("greedy_dual", "scores of known rules", "s/GB",
             "GreedyDual-Size-Frequency priority, relative to its clock", signed=True),
    ),
    *_part(
        "target",
        _log("worth", "scores of known rules", "1/min s/GB",
             "rate_10m x reload_s / freed_gb: what its presence saves", 0.01),
        _time("drain_s", "work in progress",
             "guess of what its running requests still take: expected_output_tokens less emitted ones (a tenth of "
             "them at least) x decode_ms x busy_here"),
        _log("busy_here", "work in progress", "models", "models on its accelerator that have admitted requests"),
        _flag("suffices", "room", "its eviction alone makes room for the target"),
        _size("spare_gb", "room", "memory that would be left over then"),
        _time("target_load_s", "load time", "load time of the target on this accelerator; 0 without a target"),
        _log("target_decode_ms", "speed", "ms", "the target's time per output token here; 0 without a target"),
    ),
    *_part(
        "session",
        _chance("again_1m", "1 min"),
        _chance("again_5m", "5 min"),
        _chance("again_15m", "15 min"),
    ),
)

PENDING_FEATURES: Final[tuple[Feature, ...]] = _part(
    "pending",
    _flag("present", "states and legality",
         "a pending model stands here, or the target, or one that may be prefetched; a row of zeros is none"),
    _flag("target", "states and legality", "it is the model that room is made for"),
    _size("need_gb", "sizes", "memory it needs: weights and reserve", phrase="needs"),
    _size("weights_gb", "sizes", "weights of the model"),
    _time("load_s", "load time",
         "its load time on the fastest accelerator, from the tier it is in now", phrase="load takes"),
    _log("waiting", "queue", "requests", "requests that wait for it"),
    _log("waiting_weight", "queue", "cost/s",
         "waiting requests times their mean cost weight", 0.1, phrase="weight of who waits"),
    _time("oldest_wait_s", "queue", "how long the first of them has waited", phrase="waited for"),
    _time("pending_s", "queue", "how long it has been pending; at drain_after, busy models become legal victims"),
    _log("rate_1m", "demand", "1/min",
         "rate of arrivals, exponentially weighted with a half-life of 1 minute", phrase="demand of 1 min"),
    _log("rate_10m", "demand", "1/min", "the same, 10 minutes", phrase="demand of 10 min"),
    _log("rate_60m", "demand", "1/min", "the same, 60 minutes", phrase="demand of 60 min"),
    _log("window_users", "users", "users", "different users in the last 5 minutes", phrase="users in 5 min"),
    _log("window_sessions", "users", "sessions",
         "different sessions in the last 5 minutes", phrase="sessions in 5 min"),
    _log("latency_weight", "latency and outputs", "cost/s",
         "moving mean of the cost weight (TTFT and E2E) of its requests", 0.1),
    _log("expected_output_tokens", "latency and outputs", "tokens",
         "moving mean of finished outputs; 0 before the first", 100.0, phrase="expected output"),
    _time("since_eviction_s", "recency",
         "time since it was evicted; 1e6 if it never was", 10.0, phrase="evicted before"),
    _flag("legal", "states and legality",
         "it may be chosen to be loaded now (the action mask of Swap-v0; 0 in Eviction-v0)"),
    _flag("fits", "room", "free memory suffices for it on an accelerator whose channel is idle"),
    _flag("idle_suffices", "room",
         "free memory and that of idle models suffice for it on an accelerator whose channel is idle"),
    _chance("again_1m", "1 min"),
    _chance("again_5m", "5 min"),
    _chance("again_15m", "15 min"),
)

CONTEXT_FEATURES: Final[tuple[Feature, ...]] = _part(
    "context",
    _time("elapsed_s", "queue", "time since the last decision; since time 0 at the first"),
    _log("legal", "states and legality", "actions", "legal actions"),
    _log("chosen", "room", "models", "victims already chosen for this target that have not left"),
    _size("target_need_gb", "sizes", "memory that the target needs"),
    _time("target_load_s", "load time", "load time of the target on the fastest accelerator"),
    _size("missing_gb", "room", "what must still come free, on the accelerator with legal victims that lacks least"),
    _size("free_gb", "room", "free memory of all accelerators", 80.0),
    _size("memory_gb", "room", "memory of all accelerators", 80.0),
    _log("pending", "queue", "models", "pending models; the target counts until its first victim is chosen"),
    _log("waiting", "queue", "requests", "waiting requests, of all models"),
    _log("running", "work in progress", "requests", "admitted requests, of all models"),
    _log("loading", "work in progress", "accelerators", "accelerators whose channel loads or unloads"),
    _log("idle_models", "work in progress", "models", "resident models without a request"),
    _size("host_cache_gb", "room", "size of the host cache for weights", 80.0),
    _flag("ordering", "states and legality",
         "asked which model to load; in Eviction-v0, and where victims are asked for, 0"),
    _flag("wait_legal", "states and legality", "waiting is legal"),
)
# fmt: on


def _columns(name: str, features: tuple[Feature, ...]) -> Any:
    """A named tuple that holds each feature's column; compiled code takes them for constants."""
    return namedtuple(name, [feature.name for feature in features])(*range(len(features)))


SLOT: Final = _columns("SlotColumns", SLOT_FEATURES)
PENDING: Final = _columns("PendingColumns", PENDING_FEATURES)
CONTEXT: Final = _columns("ContextColumns", CONTEXT_FEATURES)
THERE: Final = 0  # the column `SLOT.occupied` and `PENDING.present`: 1 = the row holds a model
BLOCKS: Final = {"slot": SLOT_FEATURES, "pending": PENDING_FEATURES, "context": CONTEXT_FEATURES}
EIGHT: Final = 8  # numbers that a processor computes at once


def logarithms_of(features: tuple[Feature, ...]) -> tuple[int, int]:
    """The first of columns that together hold all logarithmic ones, and how many they are: whole eights."""
    columns = [column for column, feature in enumerate(features) if feature.log]
    count = -(-(columns[-1] + 1 - columns[0]) // EIGHT) * EIGHT
    return min(columns[0], len(features) - count), count


class Scaling(NamedTuple):
    """How raw features become an observation, and room to compute them; one per thread. `size` numbers in all."""

    factors: npt.NDArray[np.float64]  # (size,) one over the scale
    logarithmic: npt.NDArray[np.float64]  # (size,) 1 = sign(x) ln(1 + |x| factor), 0 = x factor
    raw: npt.NDArray[np.float64]  # (size,) features in physical units


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
        top_k: whether the rows are only the most plausible candidates, as `cace_env.kernel.batch.show_rows` chooses
            them, and not every slot and model.
    """

    max_slots: int
    max_pending: int
    top_k: bool = False

    def __post_init__(self) -> None:
        if self.max_slots < 1 or self.max_pending < 0:
            raise ValueError(
                f"a layout needs at least 1 slot and 0 pending rows, has {self.max_slots} and {self.max_pending}"
            )

    @property
    def size(self) -> int:
        """Length of the observation."""
        return self.pending_end + len(CONTEXT)

    @property
    def slots_end(self) -> int:
        """Where the slot rows end and the pending rows begin."""
        return self.max_slots * len(SLOT)

    @property
    def pending_end(self) -> int:
        """Where the pending rows end and the context begins."""
        return self.slots_end + self.max_pending * len(PENDING)

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
            observation[..., : self.slots_end].reshape(*front, self.max_slots, len(SLOT)),
            observation[..., self.slots_end : self.pending_end].reshape(*front, self.max_pending, len(PENDING)),
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
