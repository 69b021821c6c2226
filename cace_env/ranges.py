"""In which range each feature was seen: what an agent was trained on, and whether an observation is like that."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from cace_env.config import Frozen
from cace_env.observation import (
    CONTEXT,
    CONTEXT_FEATURES,
    PENDING,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    Feature,
    Float32Array,
    ObservationLayout,
)

Range = tuple[float, float]
BLOCKS = ("slots", "pending", "context")
FEATURES = {"slots": SLOT_FEATURES, "pending": PENDING_FEATURES, "context": CONTEXT_FEATURES}


class Bounds(NamedTuple):
    """Least and greatest value of each feature as in the observation, by block, `(features,)` each."""

    low: dict[str, Float32Array]
    high: dict[str, Float32Array]


class FeatureRanges(Frozen):
    """The least and the greatest value of every feature, in its own unit, over rows that hold a model."""

    slots: dict[str, Range] = Field(description="by feature of slots, over occupied slots")
    pending: dict[str, Range] = Field(description="by feature of pending models, over rows that hold one")
    context: dict[str, Range] = Field(description="by feature of the context")

    @model_validator(mode="after")
    def _names_and_order(self) -> Self:
        for block, features in FEATURES.items():
            given = getattr(self, block)
            known = {feature.name for feature in features}
            if odd := sorted(set(given) ^ known):
                what = "misses" if odd[0] in known else "has an unknown"
                raise ValueError(f"{block} {what} feature {odd[0]!r}")
            for name, (low, high) in given.items():
                if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                    raise ValueError(f"{block}: range of {name!r} is {low} to {high}; it has to be finite and ascend")
        return self

    @classmethod
    def of(cls, observations: Float32Array, layout: ObservationLayout) -> FeatureRanges:
        """The ranges of some observations `(..., layout.size)`; of a block without any row they are 0 to 0."""
        flat = np.asarray(observations, dtype=np.float32).reshape(-1, layout.size)
        physical = layout.split(layout.physical(flat).astype(np.float32))
        ranges = {}
        for block, rows in zip(BLOCKS, physical, strict=True):
            width = len(FEATURES[block])
            table = rows.reshape(-1, width).astype(np.float64)
            if block != "context":
                table = table[table[:, 0] > 0]  # occupied, present
            table = table if len(table) else np.zeros((1, width))
            pairs = zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True)
            ranges[block] = {f.name: pair for f, pair in zip(FEATURES[block], pairs, strict=True)}
        return cls(**ranges)

    def bounds(self, margin: float) -> Bounds:
        """The ranges as in the observation, widened on both sides.

        Args:
            margin: by which share of its width each range is widened: the extremes of more episodes lie further out.
        """
        low, high = {}, {}
        for block, features in FEATURES.items():
            ends = np.array([[_scaled(f, x) for x in getattr(self, block)[f.name]] for f in features])
            # Besides, what float32 may round off; a flag or a constant has no width.
            slack = margin * (ends[:, 1] - ends[:, 0]) + 1e-5 * np.abs(ends).max(axis=1) + 1e-6
            low[block] = (ends[:, 0] - slack).astype(np.float32)
            high[block] = (ends[:, 1] + slack).astype(np.float32)
        return Bounds(low, high)


def _scaled(feature: Feature, value: float) -> float:
    """A value as it stands in the observation."""
    return float(np.copysign(np.log1p(abs(value) / feature.scale), value)) if feature.log else value / feature.scale


def space_bounds() -> Bounds:
    """The bounds of the observation space: what the environments promise of any fleet."""
    low = {b: np.array([-f.limit if f.signed else 0.0 for f in fs], dtype=np.float32) for b, fs in FEATURES.items()}
    return Bounds(low, {b: np.array([f.limit for f in fs], dtype=np.float32) for b, fs in FEATURES.items()})


def out_of_range(observation: Float32Array, layout: ObservationLayout, bounds: Bounds) -> str | None:
    """The first number that is NaN, infinite or out of its range, in words; None where all are well.

    Empty slots and rows without a model are left out.
    """
    if not np.isfinite(observation).all():
        at = int(np.flatnonzero(~np.isfinite(observation))[0])
        return f"{layout.names[at]} is {observation[at]}"
    names = {"slots": SLOT, "pending": PENDING, "context": CONTEXT}
    for block, rows in zip(BLOCKS, layout.split(observation), strict=True):
        low, high = bounds.low[block], bounds.high[block]
        wrong = (rows < low) | (rows > high)
        if block != "context":
            wrong &= rows[:, :1] > 0
        if wrong.any():
            *row, column = np.argwhere(wrong)[0].tolist()
            where = f"{block} row {row[0]}, " if row else ""
            return (
                f"{where}{names[block]._fields[column]} is {float(rows[(*row, column)]):.4g} in the observation, "
                f"outside {float(low[column]):.4g} to {float(high[column]):.4g}"
            )
    return None
