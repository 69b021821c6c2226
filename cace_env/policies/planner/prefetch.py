"""Prefetches, loads that no request waits for, around a policy that knows nothing of them.

Where a scenario allows them (`rules.prefetch_limit`, Swap-v0), an agent that was not trained for them prefetches
whatever it scores highest, and most orders never do. Here such a policy does not see them: it answers as if there were
none, and plays on without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from cace_env.kernel.plan import Game
from cace_env.kernel.state import ACCELERATOR, LEGAL, MODEL, R_PREFETCH_LIMIT, RESIDENT, TARGET
from cace_env.policies.base import Policy
from cace_env.simulation import Simulator
from cace_env.tables import NONE, FloatArray, Int64Array

MOST: Final = 3  # prefetches that are priced at one question
NOTHING: Final = np.zeros(0, dtype=np.int64)


def prefetches_itself(policy: Policy) -> bool:
    """Whether a policy prefetches by a rule of its own; agents do not, whatever they score."""
    return policy.order is not None and policy.order.prefetch


def prefetches(simulator: Simulator) -> Int64Array:
    """The legal actions of the open question that load a model which no request waits for."""
    state = simulator.state
    asked_for_a_load = len(state.legal) > simulator.max_slots and state.scalars[TARGET] == NONE
    if not (asked_for_a_load and simulator.tables.prefetch_limit):
        return NOTHING
    loads = (state.legal[simulator.max_slots : -1] == 1) & (state.models[:, MODEL.waiting] == 0)
    return simulator.max_slots + np.flatnonzero(loads)


@contextmanager
def hidden(simulator: Simulator, actions: Int64Array) -> Iterator[None]:
    """Within it these legal actions are not legal."""
    state = simulator.state
    state.legal[actions] = 0
    state.scalars[LEGAL] -= len(actions)
    try:
        yield
    finally:
        state.legal[actions] = 1
        state.scalars[LEGAL] += len(actions)


def without_prefetch(game: Game) -> Game:
    """The same game, in which no question offers a prefetch any more; one that was chosen is still carried out."""
    if not game.fleet[R_PREFETCH_LIMIT]:
        return game
    fleet = game.fleet.copy()
    fleet[R_PREFETCH_LIMIT] = 0
    return game._replace(fleet=fleet)


def worth_pricing(simulator: Simulator, actions: Int64Array, used: FloatArray) -> Int64Array:
    """Of these prefetches at most `MOST` that may be worth their room: those with most demand x load time.

    The demand has to be above that of what could leave, the idle model with the least; nothing has to leave for a model
    that fits as it is. Where no model is idle, none leaves for a prefetch.

    Args:
        simulator: with the open question.
        actions: prefetches.
        used: `(M,)` share of the futures in which each model is asked for.
    """
    state, tables = simulator.state, simulator.tables
    models = actions - simulator.max_slots
    idle = (
        (state.models[:, MODEL.phase] == RESIDENT)
        & (state.models[:, MODEL.running] == 0)
        & (state.models[:, MODEL.waiting] == 0)
        & (tables.pinned_on == NONE)
    )
    fits = tables.need_bytes[models] <= state.accelerators[:, ACCELERATOR.free].max()
    least = np.where(fits, 0.0, used[idle].min(initial=np.inf))
    fastest_us = tables.load_us[:, models].min(axis=(0, 2))
    best = np.argsort(-used[models] * fastest_us, kind="stable")
    best = best[used[models[best]] > least[best]]
    return np.sort(actions[best[:MOST]])
