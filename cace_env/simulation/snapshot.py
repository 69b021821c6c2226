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
from cace_env.held import Frame
from cace_env.kernel import packing as kernel
from cace_env.kernel.batch import BATCH, MARK, NUM_TERMS, PLACE, Batch
from cace_env.kernel.state import Int64Array, Requests, fleet_row
from cace_env.tables import FleetTables

# Row, its offsets, fleet row, its offsets, workload: the arguments of the kernel's entry points for a simulation.
Arguments = tuple[Int64Array, Int64Array, Int64Array, Int64Array, Requests]

NO_WORDS: Final[Int64Array] = np.zeros(0, dtype=np.int64)
MOST_SEATS: Final = 4096  # upper bound for the models of scenarios


class Snapshot(NamedTuple):
    """A simulation at one moment. It never changes."""

    fleet: bytes  # digest of everything that the kernel reads of the fleet
    at: tuple[int, ...]  # (len(State) + 1) offsets of the state
    words: Int64Array  # the used part of the state, see `cace_env.kernel.packing`
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


def pack(batch: Frame, env: int) -> Int64Array:
    """Copy what is used of a simulation of a batch."""
    words = np.empty(kernel.pack(batch.address, env, NO_WORDS), dtype=np.int64)
    kernel.pack(batch.address, env, words)
    return words


def unpack(batch: Frame, env: int, words: Int64Array, *, is_laid_out: bool) -> None:
    """Put back what `pack` has copied.

    Args:
        batch: a batch with the same offsets at `env`.
        env: number of the simulation.
        words: what was copied.
        is_laid_out: the row holds an episode with the same offsets, so what is unused in both need not be written.
    """
    kernel.unpack(batch.address, env, words, is_laid_out)


def alone(arguments: Arguments, limits: Int64Array, trace: Int64Array) -> Frame:
    """A simulation that belongs to no batch, as a batch of one. What its rewards cover is 0."""
    row, at, fleet, fleet_at, workload = arguments
    places = np.zeros((1, len(PLACE)), dtype=np.int64)
    places[0, PLACE.requests], places[0, PLACE.open_requests] = len(workload.times), len(workload.open_order)
    return Frame(
        BATCH,
        Batch(
            arena=row[None],
            at=at[None],
            places=places,
            charged=np.zeros((1, NUM_TERMS), dtype=np.int64),
            marks=np.zeros((1, len(MARK)), dtype=np.int64),
            fleets=fleet[None],
            fleet_at=fleet_at[None],
            limits=limits[None],
            prices=np.zeros((1, NUM_TERMS)),
            times=workload.times[None],
            columns=workload.columns[None],
            open_order=workload.open_order[None],
            trace=trace,
        ),
    )
