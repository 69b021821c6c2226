"""Samples futures of one episode, at its questions, from nothing but its past."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.forecasting.draws import NUM_STREAMS
from cace_env.forecasting.futures import Going, Paces, Rates, imagine, read_rates
from cace_env.forecasting.habits import PACE_ENDS_S, Habits
from cace_env.forecasting.history import catch_up, new_history
from cace_env.forecasting.present import PAIRS, REQUESTS, USERS, Maps, copy_offsets, copy_present
from cace_env.kernel.plan import Game
from cace_env.kernel.state import COLUMN, NUM_TASKS, PAIR, REQUEST, TIME, Requests, arena
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables, Int64Array
from cace_env.workload import Workload

LEAST_ROWS: Final = 512  # room for requests of a future; doubled whenever it did not suffice
SAMPLER_STREAM: Final = 11  # spawn key of the draws
NO_TRACE: Final = np.zeros((0, 4), dtype=np.int64)

States = npt.NDArray[np.uint64]


class SampledFuture(NamedTuple):
    """A sampled future as a simulation to play on with; valid until the same room is used again."""

    row: Int64Array  # the state at the question
    game: Game  # with the requests in flight, and those that were drawn
    first: int  # the requests that were drawn begin at this row
    end: int  # and end before this one

    @property
    def arrivals_us(self) -> Int64Array:
        """`(drawn,)` when they come; of those that wait for an answer, about when."""
        times: Int64Array = self.game.w.times[self.first : self.end, TIME.arrival_us]
        return times

    @property
    def models(self) -> npt.NDArray[np.int32]:
        """`(drawn,)` what they ask for."""
        models: npt.NDArray[np.int32] = self.game.w.columns[self.first : self.end, COLUMN.model]
        return models


class Room:
    """Arrays for one copy of the present and one future; each thread needs its own.

    Args:
        at: offsets of the simulation.
        rows: room for so many requests.
    """

    def __init__(self, at: Int64Array, rows: int) -> None:
        self.rows = rows
        self.at = copy_offsets(at, rows)
        self.row = arena(1, int(self.at[-1]))[0]
        columns = np.zeros((rows, len(COLUMN)), dtype=np.int32)
        self.requests = Requests(np.zeros((rows, len(TIME)), dtype=np.int64), columns, np.zeros(rows, dtype=np.int32))
        self.free, self.open_at = np.zeros(4, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self.levels = np.zeros(rows)


class Sampler:
    """Samples what may come after the open question of a simulator.

    It reads arrivals, answers and what is in flight; it never reads requests that have not arrived, arrivals that are
    scheduled, or the lengths of answers that are not finished.

    Args:
        tables: the fleet.
        workload: the requests of the episode; only users and sessions of those that have arrived are read.
        habits: what is drawn from.
        seed: of its draws.
    """

    def __init__(self, tables: FleetTables, workload: Workload, habits: Habits, seed: int = 0) -> None:
        self._habits = habits
        self._history = new_history(workload, tables.num_models)
        self._paces = _paces(tables)
        users = len(self._history.user_at)
        self._rates = Rates(
            cumulative=np.zeros((users + 1) * NUM_TASKS),
            total=np.zeros(len(PACE_ENDS_S)),
            popular=np.zeros((NUM_TASKS, tables.num_models)),
            recent=np.zeros(NUM_TASKS * tables.num_models),
        )
        self._draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SAMPLER_STREAM,)))
        self._present: Room | None = None
        nothing = np.zeros(0, dtype=np.int32)
        self._maps = Maps(nothing, nothing, nothing, np.zeros(3, dtype=np.int64))
        self._rooms: dict[int, Room] = {}
        self._full = False  # some future did not fit

    def look(self, simulator: Simulator) -> None:
        """Read what has happened until the open question, and copy the present."""
        row, at, fleet, fleet_at, known = simulator.arguments
        self._row, self._game = row, Game(at, fleet, fleet_at, known, simulator.limits, NO_TRACE)
        catch_up(row, at, known, self._history)
        read_rates(row, at, self._history, self._habits, self._rates)
        if self._present is None:
            sizes = np.diff(at)
            widths = {REQUESTS: len(REQUEST), PAIRS: len(PAIR), USERS: 1}
            self._maps = self._maps._replace(
                **{
                    name: np.zeros(int(sizes[index]) // width, dtype=np.int32)
                    for name, (index, width) in zip(("rows", "pairs", "users"), widths.items(), strict=True)
                }
            )
            self._present = Room(at, LEAST_ROWS)
        elif self._full:
            self._present = Room(at, 2 * self._present.rows)
        self._full = False
        while not copy_present(
            row, self._present.row, self._game, self._copied(self._present), self._history, self._maps
        ):
            self._present = Room(at, 2 * self._present.rows)

    def seeds(self, count: int) -> States:
        """`(count, streams)` the numbers that as many futures are drawn from."""
        return self._draws.integers(0, 1 << 64, size=(count, NUM_STREAMS), dtype=np.uint64)

    def draw(self, seeds: States, horizon_s: float, place: int = 0) -> SampledFuture:
        """Draw one future of the present that was looked at.

        Args:
            seeds: `(streams,)` one row of `seeds`.
            horizon_s: how far it reaches.
            place: which room to use: threads use different ones.
        """
        present = self._present
        assert present is not None, "look at a question first"
        room = self._rooms.get(place)
        if room is None or room.rows != present.rows:
            room = self._rooms[place] = Room(self._game.at, present.rows)
        used = int(self._maps.used[0])
        room.row[:] = present.row
        room.requests.times[:used] = present.requests.times[:used]
        room.requests.columns[:used] = present.requests.columns[:used]
        game = self._copied(room)
        going = Going(room.free, room.open_at, room.levels, self._paces)
        complete = imagine(
            self._row, self._game.at, self._game.w, room.row, game, self._history, self._maps, self._habits,
            self._rates, going, seeds.copy(), int(horizon_s * 1e6),
        )  # fmt: skip
        if not complete:  # the latest requests are missing; there will be room at the next question
            self._full = True
        opened = room.requests.open_order[: room.free[3]]
        game = game._replace(w=room.requests._replace(open_order=opened))
        return SampledFuture(room.row, game, used, int(room.free[0]))

    def _copied(self, room: Room) -> Game:
        return self._game._replace(at=room.at, w=room.requests)


def _paces(tables: FleetTables) -> Paces:
    """Nominal times per token, alone on the fastest accelerator."""
    return Paces(
        prefill_us=np.ascontiguousarray((tables.prefill_ns * 1e-3).min(axis=0)),
        decode_us=np.ascontiguousarray((tables.token_ns * 1e-3).min(axis=0)),
    )
