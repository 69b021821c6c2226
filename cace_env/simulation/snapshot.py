"""Snapshots of running simulations, restored exactly: for planners, search methods and resuming.

A snapshot copies the used part of a simulation's row. What never changes is shared by all snapshots of an episode: its
requests, and what has become of those that are settled. `EnvState` adds the state of an environment besides its
simulation.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env import __version__, compilation
from cace_env.held import Frame
from cace_env.kernel.batch import BATCH, MARK, NUM_TERMS, PLACE, Batch
from cace_env.kernel.state import REQUEST, REQUESTS_TOUCHED, Int64Array, Requests, State, fleet_row
from cace_env.simulation import packing
from cace_env.tables import FleetTables

# Row, its offsets, fleet row, its offsets, workload: the arguments of the kernel's entry points for a simulation.
Arguments = tuple[Int64Array, Int64Array, Int64Array, Int64Array, Requests]

# Settled requests of an episode from the first one on, in pieces of `CHUNK`: flat rows of `State.requests`. Nothing
# will write to them again, so all snapshots that follow in the episode share them.
Past = tuple[Int64Array, ...]
CHUNK: Final = 256
WIDTH: Final = CHUNK * len(REQUEST)
REQUESTS: Final = State._fields.index("requests")
NO_WORDS: Final[Int64Array] = np.zeros(0, dtype=np.int64)
MOST_SEATS: Final = 4096  # upper bound for the models of scenarios


class Common(NamedTuple):
    """What snapshots of an episode share, those of one moment all of it."""

    fleet: bytes  # digest of everything that the kernel reads of the fleet
    at: tuple[int, ...]  # (len(State) + 1) offsets of the state
    workload: Requests
    past: Past


class Snapshot(NamedTuple):
    """A simulation at one moment. It never changes."""

    common: Common
    words: Int64Array  # the used part of the state, without the past; see `packing.py`
    trace: npt.NDArray[np.int64] | None  # (rows so far, 4) the event trace, if it is kept

    @property
    def size_bytes(self) -> int:
        """Its memory in bytes, without the requests, and with the past, which it shares."""
        return sum(piece.nbytes for piece in (self.words, self.trace, *self.common.past) if piece is not None)


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


def settled(batch: Frame, env: int, common: Common) -> Common:
    """`common` with what else of a simulation's requests is settled."""
    past, row = common.past, batch.values.arena[env]
    if row.item(REQUESTS_TOUCHED) < (len(past) + 1) * CHUNK:
        return common
    first = common.at[REQUESTS]
    end = first + packing.settled(batch.address, env, len(past) * CHUNK) // CHUNK * WIDTH
    more = [row[here : here + WIDTH].copy() for here in range(first + len(past) * WIDTH, end, WIDTH)]
    return common._replace(past=(*past, *more)) if more else common


def pack(batch: Frame, env: int, common: Common) -> Int64Array:
    """Copy what is used of a simulation of a batch, and is not in `common`."""
    first = len(common.past) * CHUNK
    words = np.empty(packing.pack(batch.address, env, first, NO_WORDS), dtype=np.int64)
    packing.pack(batch.address, env, first, words)
    return words


def unpack(batch: Frame, env: int, snapshot: Snapshot, before: Common | None) -> None:
    """Put back what `pack` has copied, and the past.

    Args:
        batch: a batch with the offsets of the snapshot at `env`.
        env: number of the simulation.
        snapshot: what was copied.
        before: what the row's episode shares: a past that is the same is not written again. None if the row does not
            hold an episode with these offsets.
    """
    common = snapshot.common
    packing.unpack(batch.address, env, len(common.past) * CHUNK, snapshot.words, before is not None)
    if common is before:
        return
    there = () if before is None else before.past
    requests = batch.values.arena[env, common.at[REQUESTS] :]
    for number, chunk in enumerate(common.past):
        if number >= len(there) or there[number] is not chunk:
            requests[number * WIDTH : (number + 1) * WIDTH] = chunk


# Of a batch whose episodes are not summed up as they end.
NOTHING_SUMMED: Final[dict[str, Any]] = {
    "shares": np.zeros((0, 0, 0), dtype=np.int64),
    "quantiles_us": np.zeros((0, 0, 0, 0)),
    "rooms": np.zeros((0, 0, 0), dtype=np.int64),
    "counts": np.zeros((0, 0), dtype=np.int64),
}


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
            **NOTHING_SUMMED,
        ),
    )
