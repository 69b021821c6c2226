"""Ranges of feature values in an agent's training, and a check whether an observation is within them.

Ranges are plain numbers by name, in the feature's own unit, so that an agent's card can hold them:
`{"slot.freed_gb": (8.1, 39.4), "pending.load_s": (0.9, 61.2), "context.memory_gb": (160.0, 160.0), ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cace_env.config import ConfigError, did_you_mean
from cace_env.observation import BLOCKS, THERE, Feature, Float32Array, ObservationLayout

Ranges = Mapping[str, tuple[float, float]]  # by "block.feature": least and greatest, in its unit


class Bounds(NamedTuple):
    """Least and greatest value of each feature as in the observation, by block, `(features,)` each."""

    low: dict[str, Float32Array]
    high: dict[str, Float32Array]


def feature_ranges(observations: Float32Array, layout: ObservationLayout) -> dict[str, tuple[float, float]]:
    """Compute the least and the greatest value of every feature over rows that hold a model.

    Args:
        observations: `(..., layout.size)`, one or many.
        layout: theirs.

    Returns:
        By name; features of a block without rows are left out.
    """
    physical = layout.physical(np.asarray(observations).reshape(-1, layout.size)).astype(np.float32)
    ranges: dict[str, tuple[float, float]] = {}
    for (block, features), rows in zip(BLOCKS.items(), layout.split(physical), strict=True):
        table = rows.reshape(-1, len(features))
        if block != "context":
            table = table[table[:, THERE] > 0]
        if len(table):
            ends = zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True)
            ranges |= {f"{block}.{f.name}": pair for f, pair in zip(features, ends, strict=True)}
    return ranges


def bounds_of(ranges: Ranges, margin: float) -> Bounds:
    """Convert ranges to the scale of the observation, widened on both sides.

    Flags and the context keep the bounds of the observation space. A flag that was never up in training, such as that
    of a pinned model, says nothing about other numbers. The context describes the fleet as a whole and grows with it,
    while the row of a slot or a pending model describes one model, whatever the fleet.

    Args:
        ranges: by name; a feature without one has the bounds of the observation space.
        margin: share of its width by which each range is widened, because more episodes have wider extremes; a range
            narrower than one unit of the observation counts as that wide.

    Raises:
        ConfigError: there is no such feature, or a range is not finite or does not ascend.
    """
    known = [f"{block}.{feature.name}" for block, features in BLOCKS.items() for feature in features]
    for name, (least, greatest) in ranges.items():
        if name not in known:
            raise ConfigError(f"ranges: no feature called {name!r}{did_you_mean(name, known)}")
        if not (np.isfinite(least) and np.isfinite(greatest) and least <= greatest):
            raise ConfigError(f"ranges: the range of {name!r} is {least} to {greatest}; it has to be finite and ascend")
    bounds = space_bounds()
    for block, features in BLOCKS.items():
        for column, feature in enumerate(features):
            if block != "context" and feature.unit != "flag" and f"{block}.{feature.name}" in ranges:
                low, high = (_scaled(feature, end) for end in ranges[f"{block}.{feature.name}"])
                slack = margin * max(high - low, 1.0) + 1e-5 * max(abs(low), abs(high))  # the last: float32 rounds
                bounds.low[block][column] = max(low - slack, bounds.low[block][column])
                bounds.high[block][column] = min(high + slack, bounds.high[block][column])
    return bounds


def space_bounds() -> Bounds:
    """The bounds of the observation space: guaranteed by the environments for any fleet."""
    low = {b: np.array([-f.limit if f.signed else 0.0 for f in fs], dtype=np.float32) for b, fs in BLOCKS.items()}
    return Bounds(low, {b: np.array([f.limit for f in fs], dtype=np.float32) for b, fs in BLOCKS.items()})


def _scaled(feature: Feature, value: float) -> float:
    """Convert a value to the scale of the observation."""
    return float(np.copysign(np.log1p(abs(value) / feature.scale), value)) if feature.log else value / feature.scale


def out_of_range(observation: Float32Array, layout: ObservationLayout, bounds: Bounds) -> str | None:
    """Describe the first number that is NaN, infinite or out of its range; None if there is none.

    Empty slots and rows without a model are left out.
    """
    if not np.isfinite(observation).all():
        at = int(np.flatnonzero(~np.isfinite(observation))[0])
        return f"{layout.names[at]} is {observation[at]}"
    for (block, features), rows in zip(BLOCKS.items(), layout.split(observation), strict=True):
        low, high = bounds.low[block], bounds.high[block]
        wrong = (rows < low) | (rows > high)
        if block != "context":
            wrong &= rows[:, THERE, None] > 0
        if wrong.any():
            *row, column = np.argwhere(wrong)[0].tolist()
            return (
                f"{block}{row[0] if row else ''}.{features[column].name} is {float(rows[(*row, column)]):.4g} in the "
                f"observation, outside {float(low[column]):.4g} to {float(high[column]):.4g}"
            )
    return None
