"""A trained scorer: a small network whose weights are the same for every slot and for every pending model.

The scores do not depend on the order or number of slots and models, so one set of weights plays every fleet. It scores
slots in Eviction-v0 and when Swap-v0 asks for a victim; pending models and waiting when Swap-v0 asks which model to
load. The legal action with the highest score is taken. With `x_i` = [slot i, target, context] and `y_j` = [pending
model j, context], all as in an observation, and relu(z) = max(z, 0):

    h_i = relu(slot_in x_i + slot_in_bias)             p = mean of h_i over occupied slots
    k_j = relu(pending_in y_j + pending_in_bias)       q = mean of k_j over pending models
    slot i:     slot_linear . slot_i       + slot_out    . relu(slot_mix    [h_i, p, q] + slot_mix_bias)
    pending j:  pending_linear . pending_j + pending_out . relu(pending_mix [k_j, p, q] + pending_mix_bias)
    wait:       wait_linear . context + wait_bias + wait_out . relu(wait_mix [p, q, context] + wait_mix_bias)

This is the sum of a linear policy and of a Deep Sets network (Zaheer et al., NeurIPS 2017). With `hidden` 0 only the
linear policy is left. In Swap-v0, `Urgency` may add to the score of a pending model whose oldest request waits long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.kernel.network import NUM_PENDING_INPUTS, NUM_SLOT_INPUTS, URGENCY, Weights
from cace_env.observation import CONTEXT, PENDING, SLOT, THERE, ObservationLayout
from cace_env.tables import Protocol

Float32Array = npt.NDArray[np.float32]
Weighting = Mapping[str, npt.NDArray[Any]]

MAX_HIDDEN: Final = 256


class Urgency(Frozen):
    """A price on long waits, so that a single request does not wait forever for many others (Swap-v0).

    A pending model may wait for a limit; each further limit adds `price` to its score, in the units of the network's:

        limit = (grace_s + loads * load_s + ages * age_s) * (1 if idle_suffices else busy)
        score + price * max(oldest_wait_s / limit - 1, 0)

    `load_s`, `oldest_wait_s` and `idle_suffices` are the features of its row. `age_s` is the mean of `running_age_s`
    over the resident models, if another model is pending, too, else 0: where all requests take long, a long wait is
    nothing special. It follows from the observation alone. With a high price it is a constraint: what is over its limit
    is loaded next.
    """

    grace_s: float = Field(gt=0, description="a wait that nothing is said about [s]")
    loads: float = Field(default=0.0, ge=0, description="the same, in loads of the model")
    ages: float = Field(default=0.0, ge=0, description="the same, in ages of what runs, if another model is pending")
    busy: float = Field(
        default=1.0, ge=1, description="factor of the limit if models in use would have to leave for it"
    )
    price: float = Field(gt=0, description="score for each further limit")

    def row(self) -> Float32Array:
        """In the form that the kernel reads."""
        return np.array([getattr(self, name) for name in URGENCY._fields], dtype=np.float32)

    def scores(self, slots: Float32Array, pending: Float32Array, context: Float32Array) -> Float32Array:
        """What each pending model gains, `(..., K)`, from the blocks of an observation."""
        ages = np.expm1(slots[..., SLOT.running_age_s]).sum(axis=-1)
        age_s = ages / np.maximum(slots[..., THERE].sum(axis=-1), 1) * (np.expm1(context[..., CONTEXT.pending]) > 1.5)
        limit_s = self.grace_s + self.loads * np.expm1(pending[..., PENDING.load_s]) + self.ages * age_s[..., None]
        limit_s = np.where(pending[..., PENDING.idle_suffices] == 0, self.busy * limit_s, limit_s)
        over = np.expm1(pending[..., PENDING.oldest_wait_s]) / limit_s - 1
        gains: Float32Array = np.float32(self.price) * np.maximum(over, 0)
        return gains


def weight_shapes(protocol: Protocol, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shape of each weight by name.

    Args:
        protocol: "swap" scores pending models and waiting, too.
        hidden: `H`, hidden units of each layer; 0 = a linear policy.
    """
    slots, pending, context = len(SLOT), len(PENDING), len(CONTEXT)
    shapes: dict[str, tuple[int, ...]] = {"slot_linear": (slots,)}
    if protocol == Protocol.SWAP:
        shapes |= {"pending_linear": (pending,), "wait_linear": (context,), "wait_bias": (1,)}
    if hidden == 0:
        return shapes
    shapes |= {
        "slot_in": (hidden, NUM_SLOT_INPUTS),
        "slot_in_bias": (hidden,),
        "pending_in": (hidden, NUM_PENDING_INPUTS),
        "pending_in_bias": (hidden,),
        "slot_mix": (hidden, 3 * hidden),
        "slot_mix_bias": (hidden,),
        "slot_out": (hidden,),
    }
    if protocol == Protocol.SWAP:
        shapes |= {
            "pending_mix": (hidden, 3 * hidden),
            "pending_mix_bias": (hidden,),
            "pending_out": (hidden,),
            "wait_mix": (hidden, 2 * hidden + context),
            "wait_mix_bias": (hidden,),
            "wait_out": (hidden,),
        }
    return shapes


@dataclass(frozen=True, eq=False)
class Network:
    """A network that scores actions from an observation.

    Attributes:
        protocol: "eviction" (actions: slots) or "swap" (slots, models, wait).
        hidden: hidden units of each layer; 0 = a linear policy.
        weights: float32, named and shaped as `weight_shapes` says.
        urgency: what it adds to the scores of models whose requests wait for long, in Swap-v0.

    Raises:
        ConfigError: a weight is missing, unknown, of another shape or not finite; or urgency without loads to choose.
    """

    protocol: Protocol
    hidden: int
    weights: Mapping[str, Float32Array]
    urgency: Urgency | None = None

    def __post_init__(self) -> None:
        if self.urgency is not None and self.protocol != Protocol.SWAP:
            raise ConfigError(f"urgency is about which model is loaded next, and {self.protocol.env_name} does not ask")
        if not 0 <= self.hidden <= MAX_HIDDEN:
            raise ConfigError(f"hidden is {self.hidden}; a network has 0 to {MAX_HIDDEN} hidden units per layer")
        shapes = weight_shapes(self.protocol, self.hidden)
        if unknown := sorted(set(self.weights) ^ set(shapes)):
            what = "misses" if unknown[0] in shapes else "has an unknown"
            raise ConfigError(
                f"a network for {self.protocol} with {self.hidden} hidden units {what} weight {unknown[0]!r}; it needs "
                + ", ".join(shapes)
            )
        for name, shape in shapes.items():
            weight = self.weights[name]
            if weight.shape != shape or weight.dtype != np.float32:
                raise ConfigError(f"weight {name!r} is {weight.dtype} {weight.shape}; it has to be float32 {shape}")
            if not np.isfinite(weight).all():
                raise ConfigError(f"weight {name!r} holds {weight[~np.isfinite(weight)][0]}; all have to be finite")

    def logits(self, observation: Float32Array, layout: ObservationLayout) -> Float32Array:
        """Scores of actions, -inf for illegal ones.

        Args:
            observation: `(..., layout.size)`, as an environment returns it.
            layout: its layout.

        Returns:
            `(..., S)`; in Swap-v0 `(..., S + K + 1)`: slots, models, wait.
        """
        w = self.weights
        slots, pending, context = layout.split(observation)
        slot_scores = slots @ w["slot_linear"]
        if self.hidden:
            target = (pending * pending[..., PENDING.target, None]).sum(axis=-2)
            of_slots = encode(w, "slot_in", slots, np.concatenate([target, context], axis=-1))
            of_pending = encode(w, "pending_in", pending, context)
            pooled = np.concatenate([of_slots.mean, of_pending.mean], axis=-1)
            slot_scores = slot_scores + np.maximum(mix(w, "slot", of_slots.units, pooled), 0) @ w["slot_out"]
        slot_scores = _masked(slot_scores, slots[..., SLOT.legal])
        if self.protocol == Protocol.EVICTION:
            return slot_scores
        scores = pending @ w["pending_linear"]
        wait = context @ w["wait_linear"] + w["wait_bias"][0]
        if self.hidden:
            scores = scores + np.maximum(mix(w, "pending", of_pending.units, pooled), 0) @ w["pending_out"]
            wait = wait + np.maximum(mix_wait(w, pooled, context), 0) @ w["wait_out"]
        if self.urgency is not None:
            scores = scores + self.urgency.scores(slots, pending, context)
        scores = _masked(scores, pending[..., PENDING.legal])
        wait = _masked(wait, context[..., CONTEXT.wait_legal])
        return np.concatenate([slot_scores, scores, wait[..., None]], axis=-1)

    @cached_property
    def compiled(self) -> Weights:
        """The weights in the form that the kernel reads."""
        w, hidden = self.weights, self.hidden

        def flat(name: str, rows: int) -> Float32Array:
            """Weights input by input, then the bias."""
            if f"{name}_bias" not in w:
                return np.zeros((rows + 1) * hidden, dtype=np.float32)
            return np.concatenate([w[name].T.ravel(), w[f"{name}_bias"]])

        def vector(name: str, length: int) -> Float32Array:
            return np.ascontiguousarray(w[name]) if name in w else np.zeros(length, dtype=np.float32)

        bias = vector("wait_bias", 1)
        return Weights(
            hidden=hidden,
            slot_linear=vector("slot_linear", len(SLOT)),
            pending_linear=vector("pending_linear", len(PENDING)),
            wait_linear=np.concatenate([vector("wait_linear", len(CONTEXT)), bias]),
            slot_in=flat("slot_in", NUM_SLOT_INPUTS),
            pending_in=flat("pending_in", NUM_PENDING_INPUTS),
            slot_mix=flat("slot_mix", 3 * hidden),
            pending_mix=flat("pending_mix", 3 * hidden),
            wait_mix=flat("wait_mix", 2 * hidden + len(CONTEXT)),
            slot_out=vector("slot_out", hidden),
            pending_out=vector("pending_out", hidden),
            wait_out=vector("wait_out", hidden),
            urgency=np.zeros(len(URGENCY), dtype=np.float32) if self.urgency is None else self.urgency.row(),
        )


class Encoded(NamedTuple):
    """Output of the first layer for the rows of a block, in the type of the weights."""

    before: npt.NDArray[Any]  # (..., rows, H) without the activation
    units: npt.NDArray[Any]  # (..., rows, H); 0 for empty rows
    mean: npt.NDArray[Any]  # (..., H) over the non-empty rows


def encode(w: Weighting, name: str, rows: npt.NDArray[Any], common: npt.NDArray[Any]) -> Encoded:
    """Compute the first layer, `name` "slot_in" or "pending_in"; `common` `(..., inputs)` is shared by all rows."""
    width = rows.shape[-1]
    shared = common @ w[name][:, width:].T + w[f"{name}_bias"]
    before = rows @ w[name][:, :width].T + shared[..., None, :]
    there = rows[..., THERE, None]
    units = np.maximum(before, 0) * there
    return Encoded(before, units, units.sum(axis=-2) / np.maximum(there.sum(axis=-2), 1))


def mix(w: Weighting, block: str, units: npt.NDArray[Any], pooled: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The second layer of each row without the activation, `(..., rows, H)`, of a block: "slot" or "pending"."""
    weight, hidden = w[f"{block}_mix"], units.shape[-1]
    shared = pooled @ weight[:, hidden:].T + w[f"{block}_mix_bias"]
    mixed: npt.NDArray[Any] = units @ weight[:, :hidden].T + shared[..., None, :]
    return mixed


def mix_wait(w: Weighting, pooled: npt.NDArray[Any], context: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The second layer of waiting without the activation, `(..., H)`."""
    units: npt.NDArray[Any] = np.concatenate([pooled, context], axis=-1) @ w["wait_mix"].T + w["wait_mix_bias"]
    return units


def _masked(scores: Float32Array, legal: Float32Array) -> Float32Array:
    return np.where(legal > 0, scores, np.float32(-np.inf))
