"""Many simulations in one arena, with one bank of workloads, stepped by one compiled call.

A single environment is a batch of one, a vector environment a batch of many.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.fleets import REWARD_TERMS, TERM
from cace_env.held import Frame
from cace_env.kernel import batch as kernel
from cace_env.kernel.batch import BATCH, MARK, NOT_SEEN, NUM_TERMS, ONE, PLACE, Batch, Job, Look, One
from cace_env.kernel.state import (
    ASKED,
    DECISIONS,
    STATUS,
    STUCK,
    TRACED,
    Int64Array,
    Requests,
    State,
    arena,
    fleet_row,
    num_actions,
    state_offsets,
)
from cace_env.kernel.summary import DIGITS, QUANTILES, SHARE
from cace_env.observation import ObservationLayout
from cace_env.simulation.bank import Bank, Shelf
from cace_env.simulation.limits import NO_LIMITS
from cace_env.simulation.outcome import SimulationError, Summary
from cace_env.simulation.shown import ShownRows, described, whole_layout
from cace_env.simulation.simulator import Simulator, trace_rows
from cace_env.simulation.snapshot import MOST_SEATS, Common, Snapshot, fleet_digest, pack, settled, unpack
from cace_env.simulation.team import NO_TEAM, Team, can_share
from cace_env.tables import FOREVER, TASKS, CostTable, FleetTables, Protocol

SLACK: Final = 1.1  # spare room in a row of the arena, for a next workload that needs a little more
SECONDS: Final = 1e-6
NO_ACTIONS: Final = np.zeros(0, dtype=np.int64)
FIRST: Final = np.zeros(1, dtype=np.int64)


def prices(cost: CostTable) -> npt.NDArray[np.float64]:
    """Price of one unit of each of `COST_TERMS`, `(NUM_TERMS,)`: a us of waiting or loading, a missed SLO, ..."""
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
    """`N` simulations, each with one of `F` fleets, with one common observation layout.

    Args:
        tables: the fleets; checked.
        fleet_of: the fleet of each simulation, `(N,)`.
        layout: layout of the observations; its `max_slots` applies to all fleets; in Swap-v0 `max_pending` is the
            number of model rows. With `top_k` actions are the rows that are shown.
        invalid_penalty: taken from the reward for an illegal action; at least 0.
        kept: number of workloads that the bank can keep.
        threads: number of threads that share the work of a call.
        trace: keep the event trace (memory grows with the episode; for one simulation only).
        sums: sum up each episode that ends, in the step that ends it, for `summary`.
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
        sums: bool = False,
    ) -> None:
        if not invalid_penalty >= 0:
            raise ValueError(f"invalid_penalty is {invalid_penalty}; it has to be at least 0")
        self.layout, self._whole = layout, whole_layout(tables) if layout.top_k else layout
        self.tables = tuple(replace(fleet, max_slots=self._whole.max_slots) for fleet in tables)
        for fleet in self.tables:
            fleet.validate()
        self.num_actions = _common_actions(self.tables, layout)
        self.num_envs = len(fleet_of)
        self.shown = ShownRows(self.num_envs, layout, self.tables, self._whole.max_slots) if layout.top_k else None
        self.bank = Bank(self.num_envs, kept)
        self.prices = np.stack([prices(fleet.cost) for fleet in self.tables])
        self.trace = np.zeros((0, 4), dtype=np.int64)
        self._keep_trace, self._penalty = trace, invalid_penalty
        self._team: Team | None = None
        self._scalings = [layout.scaling() for _ in range(threads)]
        fleets, offsets = zip(*(fleet_row(fleet, MOST_SEATS) for fleet in self.tables), strict=True)
        self._fleets, self._fleet_at = _padded(fleets), np.stack(offsets)
        self._limits = _padded([NO_LIMITS.row(fleet) for fleet in self.tables])
        self._digests: dict[int, bytes] = {}
        self._places = np.zeros((self.num_envs, len(PLACE)), dtype=np.int64)
        self._places[:, PLACE.fleet] = fleet_of
        self._at = np.zeros((self.num_envs, len(State._fields) + 1), dtype=np.int64)
        self._common: dict[int, Common] = {}  # what snapshots of a row share, from the first one of its episode on
        self._arena = arena(self.num_envs, 0)
        self._charged = np.zeros((self.num_envs, NUM_TERMS), dtype=np.int64)
        self._marks = np.zeros((self.num_envs, 2), dtype=np.int64)
        self._one: Frame | None = None  # of `step_first`
        self._all: Frame | None = None  # of `_held`
        self._sums = sums
        self._shares = np.zeros((self.num_envs, len(TASKS), len(SHARE)), dtype=np.int64)
        self._quantiles_us = np.zeros((self.num_envs, len(TASKS) + 1, 2, len(QUANTILES) + 1))
        self._rooms = np.zeros((threads, 3, 0), dtype=np.int64)
        self._counts = np.zeros((threads, DIGITS), dtype=np.int64)

    def load(self, env: int, shelf: Shelf) -> None:
        """Give a simulation its next workload, which starts at its reset."""
        fleet = self._places[env, PLACE.fleet]
        self._places[env] = (fleet, shelf.row, shelf.requests, shelf.open_requests)
        self._at[env] = state_offsets(
            self.tables[fleet],
            self._whole.max_slots,
            self._whole.max_pending,
            shelf.requests,
            shelf.session_pairs,
            shelf.user_pairs,
            most_seats=MOST_SEATS,
        )
        self._common.pop(env, None)
        self._make_room(int(self._at[env, -1]))
        if self._keep_trace:
            self.trace = np.zeros((trace_rows(self.tables[fleet], shelf.requests), 4), dtype=np.int64)

    def _held(self) -> Frame:
        """The batch, as compiled code takes it at an address."""
        if self._all is None or not self._is_now(self._all.values):
            self._all = Frame(BATCH, self.batch())
        return self._all

    def _is_now(self, batch: Batch) -> bool:
        """Whether a batch has the arrays of now: some are replaced by larger ones."""
        return batch.arena is self._arena and batch.times is self.bank.times and batch.trace is self.trace

    def _make_room(self, words: int) -> None:
        """Grow rows to at least `words`; their content is kept."""
        if words > self._arena.shape[1]:
            wider = arena(self.num_envs, round(words * SLACK))
            wider[:, : self._arena.shape[1]] = self._arena
            self._arena = wider

    def new_look(self) -> Look:
        """New arrays for observations, masks and costs, not filled yet."""
        envs = self.num_envs
        terms = np.empty((len(REWARD_TERMS), envs))
        terms[TERM.baseline] = 0.0  # the simulator has no baseline
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
        """Start the episodes of `rows` and run each to its first question; returns how many have no question.

        Raises:
            SimulationError: a simulation cannot continue.
        """
        unasked = self._share(rows, True, NO_ACTIONS, look)
        if unasked:
            self._check(rows)
        return unasked

    def step(self, rows: Int64Array, actions: Int64Array, look: Look) -> int:
        """Answer the questions of `rows` with `actions[row]` and run to the next ones; returns how many episodes ended.

        Raises:
            SimulationError: a simulation cannot continue.
        """
        ended = self._share(rows, False, actions, look)
        if ended:
            self._check(rows)
        return ended

    def step_first(self, action: int, look: Look) -> bool:
        """`step` of the first simulation alone, with a tenth of the cost of the call; whether its episode ended.

        Raises:
            SimulationError: the simulation cannot continue.
        """
        if self.shown is not None:
            return self.step(FIRST, np.array([action]), look) == 1
        one = self._one
        if one is None or one.values.job.look is not look or not self._is_now(one.values.job.batch):
            actions = np.zeros(1, dtype=np.int64)
            job = Job(self.batch(), FIRST, False, actions, self._penalty, self.layout.max_pending, look)
            one = self._one = Frame(ONE, One(job, self._scalings[0]))
        if kernel.step_one(one.address, action):
            self._check(FIRST)
            return True
        return False

    def see(self, rows: Int64Array, look: Look) -> None:
        """Write the current observations and masks of `rows`."""
        if self.shown is not None:
            self.shown.look(self.batch(), rows, self._scalings[0], look)
        else:
            kernel.see_rows(self.batch(), rows, self._scalings[0], self.layout.max_pending, look)

    def snapshot(self, env: int) -> Snapshot:
        """Take a snapshot of a simulation, which must have been reset."""
        batch, common = self._held(), self._common.get(env)
        if common is None:
            fleet, row, requests, opened = self._places[env].tolist()
            workload = self.bank.hold(row, requests, opened)
            common = Common(self.digest(fleet), tuple(self._at[env].tolist()), workload, ())
        common = self._common[env] = settled(batch, env, common)
        trace = self.trace[: self._arena.item(env, TRACED)].copy() if self._keep_trace else None
        return Snapshot(common, pack(batch, env, common), trace)

    def restore(self, env: int, snapshot: Snapshot) -> None:
        """Continue a simulation from a snapshot of any simulation with the same fleet.

        Raises:
            ValueError: the snapshot has another fleet, or lacks the event trace that is kept here; nothing has changed.
        """
        common, _, trace = snapshot
        fleet = self._places.item(env, PLACE.fleet)
        if common.fleet != self.digest(fleet):
            raise ValueError("the snapshot is of another fleet, or of another version of the simulator")
        if self._keep_trace and trace is None:
            raise ValueError(
                "the snapshot lacks the history that rendering needs; take it from an environment with a render_mode"
            )
        before = self._common.get(env)
        if common is not before:
            workload = common.workload
            if before is None or before.at != common.at:
                before = None
                self._at[env] = common.at
                self._make_room(common.at[-1])
            row = self.bank.put_back(env, workload)
            self._places[env] = fleet, row, len(workload.times), len(workload.open_order)
        if trace is not None and self._keep_trace:
            rows = trace_rows(self.tables[fleet], len(common.workload.times))
            if len(self.trace) != rows:
                self.trace = np.zeros((rows, 4), dtype=np.int64)
            self.trace[: len(trace)] = trace
        unpack(self._held(), env, snapshot, before)
        self._common[env] = common
        if self.shown is not None:  # what the rows show follows from the state
            self.see(np.array([env]), self.new_look())

    def digest(self, fleet: int) -> bytes:
        """Digest of everything that determines simulations of a fleet; computed once, in a few hundred microseconds."""
        digest = self._digests.get(fleet)
        if digest is None:
            tables = self.tables[fleet]
            digest = self._digests[fleet] = fleet_digest(tables, NO_LIMITS.row(tables))  # limits here are padded
        return digest

    def charged_until_s(self, env: int) -> float:
        """Time until which a simulation's rewards cover its cost: 0 before the first step."""
        return float(self._marks[env, MARK.time_us] * SECONDS) if self._arena[env, DECISIONS] else 0.0

    def asked(self, env: int) -> bool:
        """Whether a question is open."""
        return self._arena.item(env, STATUS) == ASKED

    def action_of(self, env: int, number: int) -> int:
        """The simulation's own number of an action; they differ with `top_k`."""
        return number if self.shown is None else self.shown.action_of(env, number)

    def describe(self, env: int, mask: npt.NDArray[np.int8]) -> str:
        """Describe the open question of a simulation in words."""
        choices = {number: self.action_of(env, number) for number in np.flatnonzero(mask).tolist()}
        return described(self.view(env), choices) if self.asked(env) else "nothing is asked"

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
        return {**self.__dict__, "_team": None, "_one": None, "_all": None, "_common": {}}

    def batch(self) -> Batch:
        """The arrays in the form that the kernel takes, for reading; a later `load` may replace them."""
        longest = self.bank.times.shape[1]
        if self._sums and longest > self._rooms.shape[2]:
            self._rooms = np.zeros((len(self._scalings), 3, longest), dtype=np.int64)
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
            shares=self._shares,
            quantiles_us=self._quantiles_us,
            rooms=self._rooms,
            counts=self._counts,
        )

    def summary(self, env: int) -> Summary:
        """Summary of the episode that the last step of a simulation has ended; `sums` must have been asked for."""
        return Summary(self.view(env).totals(), self._shares[env].copy(), self._quantiles_us[env].copy())

    def _share(self, rows: Int64Array, begin: bool, actions: Int64Array, look: Look) -> int:
        """Start or step the rows, with all threads; returns how many have no further question."""
        words, shown = NO_TEAM, self.shown
        pending = self.layout.max_pending if shown is None else NOT_SEEN
        if shown is not None and not begin:
            actions = shown.taken(rows[self._arena[rows, STATUS] == ASKED], actions)
        if len(rows) > 1 and (team := self.team()) is not None:
            team.wake(len(rows))
            words = team.words
        batch, scaling = self.batch(), self._scalings[0]
        done = kernel.step_rows(batch, rows, begin, actions, self._penalty, scaling, pending, look, words)
        if shown is not None:
            shown.look(batch, rows, scaling, look)
        return done

    def team(self) -> Team | None:
        """The threads that help; None if there are none. They are made when they are first needed."""
        if len(self._scalings) == 1 or not can_share():
            return None
        if self._team is None or self._team.process != os.getpid():  # a forked process makes its own
            self._team = Team(self._scalings)
        return self._team

    def _check(self, rows: Int64Array) -> None:
        """Raise if a simulation among `rows` cannot continue. Traces cannot overflow: `trace_rows` is a bound."""
        for env in rows[self._arena[rows, STATUS] == STUCK].tolist():
            try:
                self.view(env).check()
            except SimulationError as error:
                raise SimulationError(f"environment {env}: {error}") from None

    def close(self) -> None:
        """Stop the threads; a later call starts new ones."""
        if self._team is not None:
            self._team.close()
        self._team = None


def _common_actions(tables: Sequence[FleetTables], layout: ObservationLayout) -> int:
    """Number of actions.

    Raises:
        ValueError: the protocols differ, or a fleet of Swap-v0 has more models than there are rows.
    """
    protocols = {fleet.protocol for fleet in tables}
    if len(protocols) > 1:
        raise ValueError(f"the fleets have the protocols {', '.join(sorted(protocols))}; give all of them the same")
    most = max(fleet.num_models for fleet in tables)
    if protocols == {Protocol.SWAP} and layout.max_pending < most and not layout.top_k:
        raise ValueError(
            f"max_pending is {layout.max_pending}, but in Swap-v0 each of {most} models has a row; give at least "
            f"{most}, or None for one per model"
        )
    return num_actions(tables[0], layout.max_slots, layout.max_pending)


def _padded(rows: Sequence[Int64Array]) -> Int64Array:
    """Rows of several lengths as one array, shorter ones padded with zeros."""
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for row, line in zip(rows, out, strict=True):
        line[: len(row)] = row
    return out
