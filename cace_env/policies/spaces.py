"""The observation layout recovered from an environment's two spaces, for networks that get nothing else.

Libraries give a network the spaces but no environment. With S slots and K pending rows both sizes are known:

    Eviction-v0:  n = S            size = S x slot features + K x pending features + context features
    Swap-v0:      n = S + K + 1    size = the same

With the same number of actions, Swap-v0 has fewer slots and a shorter observation, so the two cannot be confused.
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from cace_env.config import ConfigError
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.tables import Protocol


def layout_of(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> tuple[ObservationLayout, Protocol]:
    """Recover the layout of observations and the protocol from an environment's spaces.

    Args:
        observation_space: of a single environment: flat, as in `Eviction-v0` and `Swap-v0`.
        action_space: of a single environment: `Discrete`.

    Returns:
        The layout, and "eviction" or "swap".

    Raises:
        ConfigError: no environment of this package has such spaces: a wrapper adds or stacks features, or they belong
            to many environments or to something else.
    """
    shape = observation_space.shape
    if not isinstance(observation_space, spaces.Box) or shape is None or len(shape) != 1:
        raise ConfigError(
            f"the observation space is {_shown(observation_space)}; it has to be the flat Box of a single environment "
            "(single_observation_space of a vector environment), without masks in it"
        )
    if not isinstance(action_space, spaces.Discrete):
        raise ConfigError(
            f"the action space is {_shown(action_space)}; it has to be the Discrete one of a single environment "
            "(single_action_space of a vector environment)"
        )
    size, actions = shape[0], int(action_space.n)
    rows = size - len(CONTEXT)
    pending, rest = divmod(rows - actions * len(SLOT), len(PENDING))
    if not rest and pending >= 0:
        return ObservationLayout(actions, pending), Protocol.EVICTION
    # rows = S slot + K pending, K = n - 1 - S
    slots, rest = divmod(rows - (actions - 1) * len(PENDING), len(SLOT) - len(PENDING))
    if not rest and 1 <= slots < actions:
        return ObservationLayout(slots, actions - 1 - slots), Protocol.SWAP
    raise ConfigError(
        f"no fleet has observations of {size} numbers with {actions} actions: expected {len(SLOT)} numbers per slot, "
        f"{len(PENDING)} per pending row and {len(CONTEXT)} of context; "
        "take the environment without wrappers that add, remove or stack features"
    )


def _shown(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__}{shape or ''}"
