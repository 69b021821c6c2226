"""Scratch space for compiled code, which cannot create arrays."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np

from cace_env.kernel.network import Thought, Weights
from cace_env.kernel.rules import Rule, Scratch
from cace_env.observation import SLOT, Float32Array, ObservationLayout, Scaling

_NOTHING: Final = np.zeros(0, dtype=np.float32)
NO_NETWORK: Final = Weights(0, *[_NOTHING] * (len(Weights._fields) - 1))


def largest(rules: Iterable[Rule]) -> Weights:
    """The network that needs the most room among those of some rules."""
    return max((rule.network for rule in rules), key=lambda network: (len(network.slot_linear), network.hidden))


@lru_cache(maxsize=32)
def _layout(slots: int, models: int) -> ObservationLayout:
    return ObservationLayout(slots, models)


def new_thought(slots: int, models: int, network: Weights) -> Thought:
    """Arrays for the kernel to evaluate a network; of length 0 without one."""
    if not len(network.slot_linear):
        return Thought(Scaling(*[np.zeros(0)] * 3), *([_NOTHING] * (len(Thought._fields) - 1)))
    layout = _layout(slots, models)
    hidden = network.hidden

    def room(size: int) -> Float32Array:
        return np.zeros(size, dtype=np.float32)

    return Thought(
        scaling=layout.scaling(),
        observation=room(layout.size),
        hidden=room((slots + models) * hidden),
        pooled=room(2 * hidden),
        shared=room(hidden),
        unit=room(hidden),
    )


def new_scratch(slots: int, models: int, network: Weights = NO_NETWORK) -> Scratch:
    """Scratch arrays for a built-in rule; `network` is the rule's, or the largest of several."""
    return Scratch(
        np.zeros((slots, len(SLOT))),
        np.zeros(slots),
        np.zeros(slots, dtype=np.int64),
        np.zeros(models, dtype=np.int64),
        new_thought(slots, models, network),
    )
