"""Running simulations put away and taken up again, exactly: for planners, search methods and resuming.

A snapshot copies what is in use of a simulation's row; requests are shared by all snapshots of an episode. `EnvState`
adds what an environment keeps beside its simulation.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env import __version__, compilation
from cace_env.kernel.state import CLOSED_SIZE, HEAP, LOG, LOGGED, WINDOW_TAIL, Int64Array, Requests, State, fleet_row
from cace_env.tables import FleetTables

if TYPE_CHECKING:
    pass

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
