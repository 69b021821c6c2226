"""Random numbers of the generator: named streams, and the few distributions that it draws from.

SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), one counter per stream: a
nanosecond per number, and a stream costs eight bytes to start where a `numpy.random.Generator` costs microseconds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cace_env.compilation import inlined, inner
from cace_env.generator.quantiles import POINTS
from cace_env.generator.tables import KINDS

# a new stream goes to the end: the seeds of those before it stay
STREAMS = (
    "users",
    "popularity",
    "drift",
    "deployments",
    "bursts",
    *(f"{part} of {kind}" for part in ("sessions", "gaps", "tokens", "models") for kind in KINDS),
)
NUM_STREAMS = len(STREAMS)
USERS, POPULARITY, DRIFT, DEPLOYMENTS, BURSTS, SESSIONS = range(6)
GAPS, TOKENS, MODELS = SESSIONS + len(KINDS), SESSIONS + 2 * len(KINDS), SESSIONS + 3 * len(KINDS)  # + kind

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@inlined
def uniform(states: Any, stream: int) -> float:
    """Next number of a stream, in [0, 1)."""
    z = states[stream] + _GOLDEN
    states[stream] = z
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return float((z ^ (z >> _S31)) >> _S11) * (1.0 / 9007199254740992.0)


@inner
def normal(states: Any, stream: int) -> float:
    """Standard normal (Box-Muller, two numbers of the stream)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(states, stream)))
    return radius * math.cos(2.0 * math.pi * uniform(states, stream))


@inlined
def quantile(table: Any, level: float) -> float:
    """Value of a tabulated quantile function, linear between its entries."""
    position = level * (POINTS - 1)
    low = int(position)
    if low >= POINTS - 1:
        return float(table[POINTS - 1])
    return float(table[low]) + (float(table[low + 1]) - float(table[low])) * (position - low)


@inlined
def pick(cumulative: Any, level: float) -> int:
    """First index whose cumulative share exceeds `level`, which is below 1; the last where none does."""
    low, high = 0, len(cumulative) - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > level:
            high = middle
        else:
            low = middle + 1
    return low
