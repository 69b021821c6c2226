"""Running simulations put away and taken up again, exactly: for planners, search methods and resuming.

A snapshot copies what is in use of a simulation's row; requests are shared by all snapshots of an episode. `EnvState`
adds what an environment keeps beside its simulation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env import __version__, compilation
from cace_env.kernel.state import CLOSED_SIZE, HEAP, LOG, LOGGED, WINDOW_TAIL, Int64Array, Requests, State, fleet_row
from cace_env.tables import FleetTables
from cace_env.workload import Workload

if TYPE_CHECKING:
    from cace_env.observation import ObservationLayout
    from cace_env.rendering import Choice
    from cace_env.scenarios import Scenario

CLOSED, LOGS, REQUESTS = (State._fields.index(name) for name in ("closed", "log", "requests"))
MOST_SEATS: Final = 4096  # no model of a scenario has more


class Snapshot(NamedTuple):
    """A simulation at one moment. Nothing that happens later changes it."""

    fleet: bytes  # digest of all that the kernel knows of the fleet
    at: tuple[int, ...]  # (len(State) + 1) offsets of the state
    words: Int64Array  # what is in use of the state, see `pack`; behind it what its owner adds
    workload: Requests  # shared by all snapshots of an episode
    trace: npt.NDArray[np.int64] | None  # (rows so far, 4) the event trace, where one is kept

    @property
    def size_bytes(self) -> int:
        """Memory of its own, without the requests."""
        return int(self.words.nbytes + (0 if self.trace is None else self.trace.nbytes))


class Origin(NamedTuple):
    """What an environment must have in common with a state that it takes; errors name the first difference."""

    version: str
    environment: str
    scenario: str
    settings: bytes  # digest of the scenario
    split: str
    max_slots: int
    model_rows: int  # actions that load a model; 0 in Eviction-v0, where `max_pending` changes the observation alone
    fleet: bytes  # digest of the fleet, its limit on decisions included


class EnvState(NamedTuple):
    """What `get_state` of an environment returns. It can be pickled; a pickle belongs to one version of the package."""

    origin: Origin
    simulation: Snapshot
    mask: npt.NDArray[np.int8]  # (actions,) legal ones
    played: int | Workload  # the workload, or its seed
    over: bool  # the episode has ended
    generator: tuple[int | None, Mapping[str, Any]] | None  # seed and state of np_random; None before its first use
    statistics: tuple[float, int] | None  # return and steps so far, where they are counted
    choice: Choice | None  # the last one, where there is something to render


def version() -> str:
    """Which simulator this is: states mean nothing to another one."""
    return f"{__version__} ({compilation.SOURCE_HASH})"


def fleet_digest(tables: FleetTables, limits: Int64Array) -> bytes:
    """Equal for simulations in which equal rows go on alike."""
    row, at = fleet_row(tables, MOST_SEATS)
    digest = hashlib.blake2b(f"{version()} {tables.model_names}".encode(), digest_size=16)
    for array in (row, at, limits):
        digest.update(array.tobytes())
    return digest.digest()


def origin_of(
    environment: str, scenario: Scenario, split: str, layout: ObservationLayout, protocol: str, fleet: bytes
) -> Origin:
    """Where states of an environment come from; half a millisecond, so keep it."""
    settings = hashlib.blake2b(scenario.model_dump_json().encode(), digest_size=16).digest()
    model_rows = layout.max_pending if protocol == "swap" else 0
    return Origin(version(), environment, scenario.name, settings, split, layout.max_slots, model_rows, fleet)


def pack(row: Int64Array, at: tuple[int, ...], *more: Int64Array) -> Int64Array:
    """What is in use of an arena row, and `more` behind it.

    The heap of closed-loop arrivals and the log of the window take two fifths of a row and are mostly empty: what lies
    behind their ends, or before the window, is never read again.
    """
    log = at[LOGS]
    return np.concatenate(
        (
            row[: at[CLOSED] + len(HEAP) * row.item(CLOSED_SIZE)],
            row[log + len(LOG) * row.item(WINDOW_TAIL) : log + len(LOG) * row.item(LOGGED)],
            row[at[REQUESTS] : at[-1]],
            *more,
        )
    )


def unpack(words: Int64Array, row: Int64Array, at: tuple[int, ...]) -> int:
    """Puts back what `pack` has taken; where in `words` more begins."""
    head = at[CLOSED] + len(HEAP) * words.item(CLOSED_SIZE)
    first, last = len(LOG) * words.item(WINDOW_TAIL), len(LOG) * words.item(LOGGED)
    rest = head + last - first
    end = rest + at[-1] - at[REQUESTS]
    row[:head] = words[:head]
    row[at[LOGS] + first : at[LOGS] + last] = words[head:rest]
    row[at[REQUESTS] : at[-1]] = words[rest:end]
    return end


def check_origin(state: EnvState, own: Origin) -> None:
    """Refuses a state that this environment could not go on from.

    Raises:
        TypeError: it is no state.
        ValueError: it is one of another version, scenario, split or size; the message says which, and what to do.
    """
    if not isinstance(state, EnvState):
        raise TypeError(f"{type(state).__name__} is no state; give what get_state has returned")
    given = state.origin
    if given == own:
        return
    field, theirs, ours = next(
        (field, theirs, ours) for field, theirs, ours in zip(Origin._fields, given, own, strict=True) if theirs != ours
    )
    raise ValueError(
        {
            "version": f"the state is of cace-env {theirs}, this is {ours}; states are not kept across versions",
            "environment": f"the state is of {theirs}, this is {ours}",
            "scenario": f"the state is of scenario {theirs!r}, this environment plays {ours!r}",
            "settings": f"the state is of another scenario that is called {own.scenario!r}, too: its settings differ",
            "split": f"the state is of split {theirs!r}, this environment plays {ours!r}; both need the same",
            "max_slots": f"the state has {theirs} slots, this environment {ours}; make it with max_slots={theirs}",
            "model_rows": f"the state has {theirs} rows of models, this environment {ours}; make it with "
            f"max_pending={theirs}",
            "fleet": "the state is of an environment with another limit on decisions; give both the same "
            "max_episode_steps, or none",
        }[field]
    )
