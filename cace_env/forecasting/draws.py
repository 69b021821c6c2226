"""Random numbers of the sampler, and draws from tables of values, for compiled code."""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import inlined, inner
from cace_env.generator.streams import uniform

# Streams: adding a draw to one changes no other.
ENDS, GAPS, TOKENS, MODELS, STARTS = range(5)
NUM_STREAMS: Final = 5

Array = Any
__all__ = ["ENDS", "GAPS", "MODELS", "NUM_STREAMS", "STARTS", "TOKENS", "above", "drawn", "level_of", "uniform"]


@inlined
def drawn(values: Array, level: float) -> float:
    """The value at a level in [0, 1) of ascending values, linear between them."""
    position = level * len(values) - 0.5
    if position <= 0.0:
        return float(values[0])
    low = int(position)
    if low >= len(values) - 1:
        return float(values[len(values) - 1])
    return float(values[low]) + (float(values[low + 1]) - float(values[low])) * (position - low)


@inner
def level_of(values: Array, value: float) -> float:
    """The share of ascending values below `value`, linear between them."""
    size = len(values)
    if value <= values[0]:
        return 0.0
    if value >= values[size - 1]:
        return 1.0
    low, high = 0, size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if values[middle] <= value:
            low = middle
        else:
            high = middle
    width = values[high] - values[low]
    part = (value - values[low]) / width if width > 0.0 else 0.0
    return float((low + part + 0.5) / size)


@inlined
def above(values: Array, value: float, level: float) -> float:
    """A value drawn from those above `value`; beyond the last of them it goes on by half of `value`."""
    passed = level_of(values, value)
    if passed >= 1.0:
        return value * (1.0 + 0.5 * level)
    return max(drawn(values, passed + (1.0 - passed) * level), value)
