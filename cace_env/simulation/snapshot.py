"""Snapshots of running simulations, restored exactly: for planners, search methods and resuming.

A snapshot copies the used part of a simulation's row; requests are shared by all snapshots of an episode. `EnvState`
adds the state of an environment besides its simulation.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env import __version__, compilation
from cace_env.kernel.state import CLOSED_SIZE, HEAP, LOG, LOGGED, WINDOW_TAIL, Int64Array, Requests, State, fleet_row
from cace_env.tables import FleetTables

CLOSED, LOGS, REQUESTS = (State._fields.index(name) for name in ("closed", "log", "requests"))
MOST_SEATS: Final = 4096  # upper bound for the models of scenarios


class Snapshot(NamedTuple):
    """A simulation at one moment. It never changes."""

    fleet: bytes  # digest of everything that the kernel reads of the fleet
    at: tuple[int, ...]  # (len(State) + 1) offsets of the state
    words: Int64Array  # the used part of the state, see `pack`, then what its owner adds
    workload: Requests  # shared by all snapshots of an episode
    trace: npt.NDArray[np.int64] | None  # (rows so far, 4) the event trace, if it is kept

    @property
    def size_bytes(self) -> int:
        """Its memory in bytes, without the requests."""
        return int(self.words.nbytes + (0 if self.trace is None else self.trace.nbytes))


def version() -> str:
    """Version of the simulator; states are valid only for the same version."""
    return f"{__version__} ({compilation.SOURCE_HASH})"


def fleet_digest(tables: FleetTables, limits: Int64Array) -> bytes:
    """Digest of a fleet: simulations with equal digests continue equal rows in the same way."""
    row, at = fleet_row(tables, MOST_SEATS)
    digest = hashlib.blake2b(f"{version()} {tables.model_names}".encode(), digest_size=16)
    for array in (row, at, limits):
        digest.update(array.tobytes())
    return digest.digest()


def pack(row: Int64Array, at: tuple[int, ...], *more: Int64Array) -> Int64Array:
    """Copy the used part of an arena row, followed by `more`.

    The heap of closed-loop arrivals and the log of the window take two fifths of a row and are mostly empty: what is
    after their ends, or before the window, is never read again.
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
    """Restore what `pack` copied; returns where in `words` the rest begins."""
    head = at[CLOSED] + len(HEAP) * words.item(CLOSED_SIZE)
    first, last = len(LOG) * words.item(WINDOW_TAIL), len(LOG) * words.item(LOGGED)
    rest = head + last - first
    end = rest + at[-1] - at[REQUESTS]
    row[:head] = words[:head]
    row[at[LOGS] + first : at[LOGS] + last] = words[head:rest]
    row[at[REQUESTS] : at[-1]] = words[rest:end]
    return end
