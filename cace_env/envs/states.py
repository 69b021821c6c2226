"""States of environments: what `get_state` returns, and the checks before it is set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.observation import ObservationLayout
from cace_env.rendering import Choice
from cace_env.scenarios import Scenario
from cace_env.simulation import Snapshot
from cace_env.simulation.snapshot import version
from cace_env.tables import Protocol
from cace_env.workload import Workload


class Origin(NamedTuple):
    """Everything in which an environment and a state have to agree; errors name the first difference."""

    version: str
    environment: str
    scenario: str
    settings: bytes  # digest of the scenario
    split: str
    max_slots: int
    model_rows: int  # actions that load a model; 0 in Eviction-v0, where `max_pending` changes the observation alone
    fleet: bytes  # digest of the fleet, including its limit on decisions


class EnvState(NamedTuple):
    """What `get_state` of an environment returns. It can be pickled; a pickle belongs to one version of the package."""

    origin: Origin
    simulation: Snapshot
    mask: npt.NDArray[np.int8]  # (actions,) legal ones
    played: int | Workload  # the workload, or its seed if it was generated
    over: bool  # the episode has ended
    generator: tuple[int | None, Mapping[str, Any]] | None  # seed and state of np_random; None before its first use
    statistics: tuple[float, int] | None  # return and steps so far, if they are counted
    choice: Choice | None  # the last choice, if the environment renders


def origin_of(
    environment: str, scenario: Scenario, split: str, layout: ObservationLayout, protocol: str, fleet: bytes
) -> Origin:
    """Compute the origin of an environment's states; it takes half a millisecond, so keep it."""
    settings = hashlib.blake2b(scenario.model_dump_json().encode(), digest_size=16).digest()
    model_rows = layout.max_pending if protocol == Protocol.SWAP else 0
    return Origin(version(), environment, scenario.name, settings, split, layout.max_slots, model_rows, fleet)


def check_origin(state: EnvState, own: Origin) -> None:
    """Check that this environment can continue from a state.

    Raises:
        TypeError: `state` does not come from `get_state`.
        ValueError: its version, scenario, split or size differs; the message says which, and what to do.
    """
    if not isinstance(state, EnvState):
        raise TypeError(f"expected a state from get_state(), got {type(state).__name__}")
    given = state.origin
    if given == own:
        return
    field, theirs, ours = next(
        (field, theirs, ours) for field, theirs, ours in zip(Origin._fields, given, own, strict=True) if theirs != ours
    )
    raise ValueError(
        {
            "version": f"the state comes from cace-env {theirs}, this is {ours}; states do not work across versions",
            "environment": f"the state comes from {theirs}, this is {ours}",
            "scenario": f"the state comes from scenario {theirs!r}, this environment plays {ours!r}",
            "settings": f"the state comes from another scenario with the name {own.scenario!r}: its settings differ",
            "split": f"the state comes from split {theirs!r}, this environment plays {ours!r}; use the same one",
            "max_slots": f"the state has {theirs} slots, this environment {ours}; make it with max_slots={theirs}",
            "model_rows": f"the state has {theirs} rows of models, this environment {ours}; make it with "
            f"max_pending={theirs}",
            "fleet": "the state comes from an environment with another limit on decisions; give both the same "
            "max_episode_steps, or neither",
        }[field]
    )
