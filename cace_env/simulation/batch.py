"""Simulations side by side: one arena, one bank of workloads, one compiled call for all.

The single environment is the case of one, the vector environment that of many.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.fleets import REWARD_TERMS, TERM
from cace_env.kernel import batch as kernel
from cace_env.kernel.batch import MARK, NUM_TERMS, PLACE, Batch, Look
from cace_env.kernel.state import (
    ASKED,
    DECISIONS,
    NONE,
    STATUS,
    STUCK,
    TARGET,
    TRACED,
    Int64Array,
    Requests,
    State,
    arena,
    fleet_row,
    num_actions,
    state_offsets,
)
from cace_env.observation import ObservationLayout
from cace_env.simulation.bank import Bank, Shelf
from cace_env.simulation.limits import NO_LIMITS
from cace_env.simulation.outcome import SimulationError
from cace_env.simulation.simulator import Simulator, trace_rows
from cace_env.simulation.snapshot import MOST_SEATS, Snapshot, fleet_digest, pack, unpack
from cace_env.tables import FOREVER, TASKS, CostTable, FleetTables, Protocol

SLACK: Final = 1.1  # room in a row of the arena for a next workload that needs a little more
SLOTS: Final = State._fields.index("slots")
SECONDS: Final = 1e-6
NO_ACTIONS: Final = np.zeros(0, dtype=np.int64)


def prices(cost: CostTable) -> npt.NDArray[np.float64]:
    """What one unit of each of `COST_TERMS` costs, `(NUM_TERMS,)`: a us of waiting or loading, a missed SLO, ..."""
    found = np.empty(NUM_TERMS)
    for number, task in enumerate(TASKS):
        has_slo = cost.slo_us[number] < FOREVER
        found[getattr(TERM, f"{task}_waiting")] = cost.w_ttft[number] * SECONDS
        found[getattr(TERM, f"{task}_system")] = cost.w_e2e[number] * SECONDS
        found[getattr(TERM, f"{task}_slo")] = cost.w_slo if has_slo else 0.0
    found[TERM.loading] = cost.w_load * SECONDS
    found[TERM.refused] = cost.w_refused
    return found


class Simulators:
    """`N` simulations, each of one of `F` fleets, seen through one observation layout.

    Args:
        tables: the fleets; checked.
        fleet_of: the fleet of each simulation, `(N,)`.
        layout: of the observations; its `max_slots` hold for all fleets; in Swap-v0 `max_pending` are rows of models.
        invalid_penalty: taken from the reward for an illegal action; at least 0.
        kept: how many workloads the bank can keep.
        threads: how many share the work of a call.
        trace: keep the event trace (memory grows with the episode; for one simulation only).
    """

    def __init__(
        self,
        tables: Sequence[FleetTables],
        fleet_of: Sequence[int],
        layout: ObservationLayout,
        *,
        invalid_penalty: float,
        kept: int = 0,
        threads: int = 1,
        trace: bool = False,
    ) -> None:
        if not invalid_penalty >= 0:
            raise ValueError(f"invalid_penalty is {invalid_penalty}; it has to be at least 0")
        self.tables = tuple(replace(fleet, max_slots=layout.max_slots) for fleet in tables)
        for fleet in self.tables:
            fleet.validate()
        self.layout = layout
        self.num_actions = _common_actions(self.tables, layout)
        self.num_envs = len(fleet_of)
        self.bank = Bank(self.num_envs, kept)
        self.prices = np.stack([prices(fleet.cost) for fleet in self.tables])
        self.trace = np.zeros((0, 4), dtype=np.int64)
        self._keep_trace = trace
        self._penalty = invalid_penalty
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._scalings = [layout.scaling() for _ in range(threads)]
        fleets, offsets = zip(*(fleet_row(fleet, MOST_SEATS) for fleet in self.tables), strict=True)
        self._fleets, self._fleet_at = _padded(fleets), np.stack(offsets)
        self._limits = _padded([NO_LIMITS.row(fleet) for fleet in self.tables])
        self._digests: dict[int, bytes] = {}
        self._places = np.zeros((self.num_envs, len(PLACE)), dtype=np.int64)
        self._places[:, PLACE.fleet] = fleet_of
        self._at = np.zeros((self.num_envs, len(State._fields) + 1), dtype=np.int64)
        self._offsets: dict[int, tuple[int, ...]] = {}  # rows of `_at` as plain numbers, where they were asked for
        self._arena = arena(self.num_envs, 0)
        self._charged = np.zeros((self.num_envs, NUM_TERMS), dtype=np.int64)
        self._marks = np.zeros((self.num_envs, 2), dtype=np.int64)

    def load(self, env: int, shelf: Shelf) -> None:
        """Gives a simulation its next workload, which it begins at its reset."""
        fleet = self._places[env, PLACE.fleet]
        self._places[env] = (fleet, shelf.row, shelf.requests, shelf.open_requests)
        self._at[env] = state_offsets(
            self.tables[fleet],
            self.layout.max_slots,
            self.layout.max_pending,
            shelf.requests,
            shelf.session_pairs,
            shelf.user_pairs,
            most_seats=MOST_SEATS,
        )
        self._offsets.pop(env, None)
        self._make_room(int(self._at[env, -1]))
        if self._keep_trace:
            self.trace = np.zeros((trace_rows(self.tables[fleet], shelf.requests), 4), dtype=np.int64)

    def _make_room(self, words: int) -> None:
        """Rows of at least so many words; what is there stays."""
        if words > self._arena.shape[1]:
            wider = arena(self.num_envs, round(words * SLACK))
            wider[:, : self._arena.shape[1]] = self._arena
            self._arena = wider

    def new_look(self) -> Look:
        """Arrays for what is seen next; nothing is in them."""
        envs = self.num_envs
        terms = np.empty((len(REWARD_TERMS), envs))
        terms[TERM.baseline] = 0.0  # the simulator knows of none
        return Look(
            observations=np.empty((envs, self.layout.size), dtype=np.float32),
            masks=np.empty((envs, self.num_actions), dtype=np.int8),
            rewards=np.empty(envs),
            terms=terms,
            terminated=np.empty(envs, dtype=np.bool_),
            truncated=np.empty(envs, dtype=np.bool_),
            elapsed_s=np.empty(envs),
            time_s=np.empty(envs),
            illegal=np.empty(envs, dtype=np.bool_),
            invalid=np.empty(envs, dtype=np.int64),
        )

    def reset(self, rows: Int64Array, look: Look) -> int:
        """Starts the episodes of `rows` and runs each to its first question; how many have none.

        Raises:
            SimulationError: a simulation that cannot go on.
        """
        unasked = self._share(rows, True, NO_ACTIONS, look)
        if unasked:
            self._check(rows)
        return unasked

    def step(self, rows: Int64Array, actions: Int64Array, look: Look) -> int:
        """Answers the questions of `rows` by `actions[row]`, runs to the next ones; how many episodes ended.

        Raises:
            SimulationError: a simulation that cannot go on.
        """
        ended = self._share(rows, False, actions, look)
        if ended:
            self._check(rows)
        return ended

    def see(self, rows: Int64Array, look: Look) -> None:
        """Observations and masks of `rows` as they stand."""
        kernel.see_rows(self.batch(), rows, self._scalings[0], self.layout.max_pending, look)

    def snapshot(self, env: int) -> Snapshot:
        """A simulation as it stands; it has to have been reset."""
        fleet, row, requests, opened = self._places[env].tolist()
        words = self._arena[env]
        at = self._offsets.get(env)
        if at is None:
            at = self._offsets[env] = tuple(self._at[env].tolist())
        return Snapshot(
            self.digest(fleet),
            at,
            pack(words, at, self._charged[env], self._marks[env]),
            self.bank.hold(row, requests, opened),
            self.trace[: words.item(TRACED)].copy() if self._keep_trace else None,
        )

    def restore(self, env: int, snapshot: Snapshot) -> None:
        """Makes a simulation go on from a snapshot of any one with the same fleet.

        Raises:
            ValueError: it is of another fleet, or lacks the event trace that is kept here; nothing has changed.
        """
        fleet = self._places.item(env, PLACE.fleet)
        digest, at, packed, workload, trace = snapshot
        if digest != self.digest(fleet):
            raise ValueError("the snapshot is of another fleet, or of another version of the simulator")
        if self._keep_trace and trace is None:
            raise ValueError(
                "the snapshot lacks the history that is rendered here; take it where there is a render_mode, too"
            )
        requests = len(workload.times)
        self._places[env] = fleet, self.bank.put_back(env, workload), requests, len(workload.open_order)
        if self._offsets.get(env) is not at:
            self._at[env], self._offsets[env] = at, at
            self._make_room(at[-1])
        words = self._arena[env]
        end = unpack(packed, words, at)
        self._charged[env] = packed[end : end + NUM_TERMS]
        self._marks[env] = packed[end + NUM_TERMS :]
        if not self._keep_trace:
            words[TRACED] = 0
        elif trace is not None:
            if len(self.trace) != trace_rows(self.tables[fleet], requests):
                self.trace = np.zeros((trace_rows(self.tables[fleet], requests), 4), dtype=np.int64)
            self.trace[: len(trace)] = trace

    def digest(self, fleet: int) -> bytes:
        """Of what decides how simulations of a fleet go on; a few hundred microseconds, once."""
        digest = self._digests.get(fleet)
        if digest is None:
            tables = self.tables[fleet]
            digest = self._digests[fleet] = fleet_digest(tables, NO_LIMITS.row(tables))  # those kept here are padded
        return digest

    def charged_until_s(self, env: int) -> float:
        """Until when a simulation's rewards so far have charged its cost: 0 before the first step."""
        return float(self._marks[env, MARK.time_us] * SECONDS) if self._arena[env, DECISIONS] else 0.0

    def asked(self, env: int) -> bool:
        """Whether a question is open."""
        return bool(self._arena[env, STATUS] == ASKED)

    def describe(self, env: int, mask: npt.NDArray[np.int8]) -> str:
        """The open question of a simulation, in words."""
        if not self.asked(env):
            return "nothing is asked"
        names = self.tables[self._places[env, PLACE.fleet]].model_names
        legal = np.flatnonzero(mask).tolist()
        if self._arena[env, TARGET] == NONE:
            choices = [f"load {names[action - self.layout.max_slots]} (action {action})" for action in legal[:-1]]
            last = legal[-1]
            waits = last == self.num_actions - 1
            choices.append(
                f"wait (action {last})" if waits else f"load {names[last - self.layout.max_slots]} (action {last})"
            )
            return " or ".join(choices)
        models = self._arena[env, self._at[env, SLOTS] : self._at[env, SLOTS + 1]].tolist()
        victims = [f"{names[models[slot]]} (slot {slot})" for slot in legal]
        return f"make room for {names[self._arena[env, TARGET]]}: evict {' or '.join(victims)}"

    def view(self, env: int) -> Simulator:
        """One simulation as a `Simulator`, over the same arrays: valid until the next `load`."""
        fleet, row, requests, opened = self._places[env].tolist()
        workload = Requests(
            self.bank.times[row, :requests], self.bank.columns[row, :requests], self.bank.open_order[row, :opened]
        )
        return Simulator.over(
            self.tables[fleet],
            (self._arena[env], self._at[env], self._fleets[fleet], self._fleet_at[fleet], workload),
            self._limits[fleet],
            self.trace,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def batch(self) -> Batch:
        """The arrays as the kernel takes them, to look at; a later `load` may put others in their place."""
        return Batch(
            arena=self._arena,
            at=self._at,
            places=self._places,
            charged=self._charged,
            marks=self._marks,
            fleets=self._fleets,
            fleet_at=self._fleet_at,
            limits=self._limits,
            prices=self.prices,
            times=self.bank.times,
            columns=self.bank.columns,
            open_order=self.bank.open_order,
            trace=self.trace,
        )

    def _share(self, rows: Int64Array, begin: bool, actions: Int64Array, look: Look) -> int:
        """Gives each thread a chunk of the rows to start or to step; how many are asked nothing more."""
        batch, pending = self.batch(), self.layout.max_pending
        threads = min(len(self._scalings), len(rows))
        if threads <= 1:
            return kernel.step_rows(batch, rows, begin, actions, self._penalty, self._scalings[0], pending, look)
        mine, *others = np.array_split(rows, threads)
        waiting = [
            self._executor().submit(
                kernel.step_rows, batch, chunk, begin, actions, self._penalty, scaling, pending, look
            )
            for chunk, scaling in zip(others, self._scalings[1:], strict=False)
        ]
        try:
            done = kernel.step_rows(batch, mine, begin, actions, self._penalty, self._scalings[0], pending, look)
        finally:
            wait(waiting)  # whatever happens here, nobody may go on while others step these rows
        return done + sum(future.result() for future in waiting)

    def _executor(self) -> ThreadPoolExecutor:
        """The threads; a forked process has none of its parent's and makes its own."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(len(self._scalings) - 1, thread_name_prefix="cace-env")
        return self._pool[1]

    def _check(self, rows: Int64Array) -> None:
        """Raises for simulations among `rows` that cannot go on. No trace overflows: `trace_rows` is a bound."""
        for env in rows[self._arena[rows, STATUS] == STUCK].tolist():
            try:
                self.view(env).check()
            except SimulationError as error:
                raise SimulationError(f"environment {env}: {error}") from None

    def close(self) -> None:
        """Ends the threads; another call would start new ones."""
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown()
        self._pool = None


def _common_actions(tables: Sequence[FleetTables], layout: ObservationLayout) -> int:
    """How many actions a policy has.

    Raises:
        ValueError: different protocols, or fewer rows of models than a fleet of Swap-v0 has models.
    """
    protocols = {fleet.protocol for fleet in tables}
    if len(protocols) > 1:
        raise ValueError(f"the fleets have the protocols {', '.join(sorted(protocols))}; give all of them the same")
    most = max(fleet.num_models for fleet in tables)
    if protocols == {Protocol.SWAP} and layout.max_pending < most:
        raise ValueError(
            f"max_pending is {layout.max_pending}, but in Swap-v0 each of {most} models has a row; give at least "
            f"{most}, or None for one per model"
        )
    return num_actions(tables[0], layout.max_slots, layout.max_pending)


def _padded(rows: Sequence[Int64Array]) -> Int64Array:
    """Rows of several lengths as one array, zeros behind the shorter ones."""
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for row, line in zip(rows, out, strict=True):
        line[: len(row)] = row
    return out
