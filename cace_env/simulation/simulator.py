"""The simulator: owns the arrays, calls the kernel, returns plain Python values.

`Simulator` is stepped question by question (by the environment, by Python policies, and to compare it with other
simulators); `run_rule` runs a built-in rule's whole episode in one compiled call. Both start from integer tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.held import Frame
from cace_env.kernel import run as kernel
from cace_env.kernel import state as layout
from cace_env.kernel.rules import Rule
from cace_env.kernel.state import (
    ACCELERATOR,
    ASKED,
    CLOCKS,
    COLUMN,
    MODEL,
    REQUEST,
    TASK,
    TRACE_KINDS,
    TRUNCATED,
    Int64Array,
    State,
)
from cace_env.kernel.summary import DIGITS, QUANTILES, SHARE, summarize
from cace_env.observation import PENDING, SLOT, ObservationLayout
from cace_env.simulation.limits import NO_LIMITS, Limits
from cace_env.simulation.outcome import Episode, SimulationError, Summary, Totals, TraceRow
from cace_env.simulation.scratch import new_scratch
from cace_env.simulation.snapshot import Arguments, Common, Snapshot, alone, fleet_digest, pack, settled, unpack
from cace_env.tables import NONE, TASKS, FleetTables
from cace_env.workload import Workload

MAX_SUM_US: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Question:
    """A question to the policy: which slot's model to evict for the target; in Swap-v0 also which model to load.

    Valid until the answer. `legal` are the actions: evict each slot; in Swap-v0 then load each model, and wait.
    """

    now_us: int
    decision: int  # 0-based
    target: int  # model to be loaded; NONE if that is the question
    slot_models: Int64Array  # (S,) model in each slot, NONE if empty
    legal: npt.NDArray[np.bool_]  # (S,), in Swap-v0 (S + M + 1,)
    last_use_us: Int64Array  # (M,) last arrival or finish; for a model without a request so far, the end of its load
    # Raw, in physical units; the columns are SLOT and PENDING of cace_env.observation.
    features: Callable[[], npt.NDArray[np.float64]]  # () -> (S, len(SLOT))
    model_features: Callable[[], npt.NDArray[np.float64]]  # () -> (M, len(PENDING))


def trace_rows(tables: FleetTables, requests: int) -> int:
    """Upper bound on the rows of an event trace.

    A request has at most four rows, a load two and an eviction three; there are no more loads than requests (each
    admits at least one) and prefetches, and no more evictions than loads and models.
    """
    return 9 * requests + 3 * tables.num_models + 5 * tables.prefetch_limit


class Simulator:
    """One simulation of one fleet, stepped question by question.

    Args:
        tables: the fleet; checked.
        limits: keep-alive and count limit of the simulated rule, if it has any.
        trace: keep the event trace (memory grows with the episode).
    """

    def __init__(self, tables: FleetTables, limits: Limits = NO_LIMITS, trace: bool = False) -> None:
        tables.validate()
        self._begin(tables, limits.row(tables), np.zeros((0, 4), dtype=np.int64), keep_trace=trace, owner=True)

    def _begin(
        self,
        tables: FleetTables,
        limits: Int64Array,
        trace: npt.NDArray[np.int64],
        *,
        keep_trace: bool = False,
        owner: bool = False,
    ) -> None:
        self.tables, self.limits, self.trace = tables, limits, trace
        self._keep_trace, self._owns_arrays = keep_trace, owner
        self._requests, self._pairs = -1, (-1, -1)
        self._common: Common | None = None  # what snapshots share, from the first one of an episode on
        self._batch: Frame | None = None  # the simulation as a batch of one, for snapshots
        self._fleet_digest: bytes | None = None

    @classmethod
    def over(
        cls, tables: FleetTables, arguments: Arguments, limits: Int64Array, trace: npt.NDArray[np.int64]
    ) -> Simulator:
        """A simulator over arrays that an environment owns and fills: it can be read and stepped, but not reset."""
        simulator = cls.__new__(cls)
        simulator._begin(tables, limits, trace)
        simulator._use(arguments)
        return simulator

    def reset(self, workload: Workload) -> bool:
        """Start an episode; True if there is a question, False if it is already over."""
        self.load(workload)
        return self._go_on(kernel.step(*self.arguments, self.limits, self.trace, int(kernel.BEGIN)))

    def load(self, workload: Workload) -> None:
        """Prepare the arrays for a workload; they are reused for the next one of the same size.

        Raises:
            WorkloadError: the workload cannot be simulated on this fleet.
            SimulationError: the arrays belong to an environment.
        """
        self._check_owner()
        workload.validate(self.tables)
        requests_row, session_pairs, user_pairs = layout.requests_of(workload)
        requests = len(workload)
        if requests != self._requests:
            self.fleet, self.fleet_at = layout.fleet_row(self.tables, most_seats=requests)
        if requests != self._requests or session_pairs > self._pairs[0] or user_pairs > self._pairs[1]:
            slots = int(self.fleet[layout.R_MAX_SLOTS])
            self.at = layout.state_offsets(
                self.tables, slots, self.tables.num_models, requests, session_pairs, user_pairs, most_seats=requests
            )
            self.arena = layout.arena(1, int(self.at[-1]))
            self._requests, self._pairs = requests, (session_pairs, user_pairs)
        if self._keep_trace:
            self.trace = np.zeros((trace_rows(self.tables, requests), 4), dtype=np.int64)
        self._use((self.arena[0], self.at, self.fleet, self.fleet_at, requests_row))

    def _use(self, arguments: Arguments) -> None:
        """Take rows and offsets in the kernel's form, and make views for Python."""
        self.arguments = arguments
        self._common, self._batch = None, None
        self.row = arguments[0]
        self.state: State = layout.cut_state(self.row, arguments[1])
        self.max_slots = len(self.state.slots)

    @property
    def question(self) -> Question:
        """The open question; valid only while there is one."""
        s = self.state
        return Question(
            now_us=int(s.scalars[layout.CLOCK]),
            decision=int(s.scalars[layout.DECISIONS]),
            target=int(s.scalars[layout.TARGET]),
            slot_models=s.slots.copy(),
            legal=s.legal == 1,
            last_use_us=s.models[:, MODEL.last_use].copy(),
            features=self.features,
            model_features=self.model_features,
        )

    def features(self) -> npt.NDArray[np.float64]:
        """Raw slot features at the open question, `(S, len(SLOT))`."""
        out = np.zeros((self.max_slots, len(SLOT)))
        kernel.read_features(*self.arguments, out)
        return out

    def model_features(self) -> npt.NDArray[np.float64]:
        """Raw features of models at the open question, `(M, len(PENDING))`.

        Rows of pending models, the target and, in Swap-v0, models that may be prefetched; other rows are zero.
        """
        out = np.zeros((self.tables.num_models, len(PENDING)))
        kernel.read_models(*self.arguments[:4], out)
        return out

    def observation(self, layout: ObservationLayout) -> npt.NDArray[np.float32]:
        """What an agent sees at the open question, `(layout.size,)`; `layout` has the slots of this simulator."""
        out = np.empty(layout.size, dtype=np.float32)
        kernel.observe(*self.arguments, layout.scaling(), layout.max_pending, out)
        return out

    def answer(self, action: int) -> bool:
        """Evicts the model in slot `action`; in Swap-v0 also `S + m`: loads model m, and `S + M`: waits.

        Returns:
            True if there is another question, False if the episode is over.

        Raises:
            SimulationError: the action is not legal; nothing has changed.
        """
        if self.state.scalars[layout.STATUS] != ASKED:
            raise SimulationError("there is no open question; call reset first")
        if not (0 <= action < len(self.state.legal) and self.state.legal[action]):
            legal = np.flatnonzero(self.state.legal).tolist()
            raise SimulationError(f"action {action} is not legal now; legal are {legal}")
        return self._go_on(kernel.step(*self.arguments, self.limits, self.trace, action))

    def cost(self) -> float:
        """Weighted cost from time 0 until now."""
        return float(kernel.read_cost(*self.arguments[:4]))

    def _go_on(self, status: int) -> bool:
        self.check()
        return bool(status == ASKED)

    def check(self) -> None:
        """Raise a `SimulationError` if the simulation cannot continue, or if its event trace has overflowed."""
        if self.state.scalars[layout.STATUS] == layout.STUCK:
            waiting = np.flatnonzero(self.state.models[:, MODEL.waiting]).tolist()
            raise SimulationError(
                f"no event is left at {self.state.scalars[layout.CLOCK]} us; models {waiting} have waiting requests"
            )
        rows = int(self.state.scalars[layout.TRACED])
        if rows > len(self.trace):
            raise SimulationError(f"the event trace has {rows} rows, but room for only {len(self.trace)}")

    def run(self, workload: Workload, rule: Rule) -> None:
        """Play an episode under a built-in rule in one compiled call, from its start to its end."""
        self.load(workload)
        self.play(rule)

    def play(self, rule: Rule) -> None:
        """`run` on the workload that was loaded last."""
        self._common = None  # requests end otherwise than in the episode before
        slots, models = self.max_slots, self.tables.num_models
        self._go_on(kernel.run_episode(*self.arguments, rule, self.trace, new_scratch(slots, models, rule.network)))

    def snapshot(self) -> Snapshot:
        """Take a snapshot of the simulation.

        Raises:
            SimulationError: it has not begun, or its arrays belong to an environment.
        """
        self._check_owner()
        if self._requests < 0:
            raise SimulationError("there is no simulation to take a snapshot of; call reset first")
        if self._common is None:  # every `load` makes another workload, so it never changes
            self._common = Common(self._digest(), tuple(self.at.tolist()), self.arguments[4], ())
        batch = self._batch = self._batch or alone(self.arguments, self.limits, self.trace)
        self._common = settled(batch, 0, self._common)
        trace = self.trace[: self.row.item(layout.TRACED)].copy() if self._keep_trace else None
        return Snapshot(self._common, pack(batch, 0, self._common), trace)

    def restore(self, snapshot: Snapshot) -> bool:
        """Continue from a snapshot of this or another simulator of the same fleet; True if there is a question.

        Raises:
            ValueError: the snapshot has another fleet, or lacks the event trace that is kept here; nothing has changed.
            SimulationError: the arrays belong to an environment.
        """
        self._check_owner()
        common, workload = snapshot.common, snapshot.common.workload
        if common.fleet != self._digest():
            raise ValueError("the snapshot comes from another fleet, other limits or another version of the simulator")
        if self._keep_trace and snapshot.trace is None:
            raise ValueError("the snapshot lacks the event trace that is kept here; take it with trace=True")
        if self._common is None or self._common.workload is not workload:
            requests = len(workload.times)
            self.fleet, self.fleet_at = layout.fleet_row(self.tables, most_seats=requests)
            self.at = np.array(common.at, dtype=np.int64)
            self.arena = layout.arena(1, int(self.at[-1]))
            self._requests, self._pairs = requests, (-1, -1)  # the next workload has its own layout
            if self._keep_trace:
                self.trace = np.zeros((trace_rows(self.tables, requests), 4), dtype=np.int64)
            self._use((self.arena[0], self.at, self.fleet, self.fleet_at, workload))
        self._batch = self._batch or alone(self.arguments, self.limits, self.trace)
        unpack(self._batch, 0, snapshot, self._common)
        self._common = common
        if snapshot.trace is not None and self._keep_trace:
            self.trace[: len(snapshot.trace)] = snapshot.trace
        return bool(self.row[layout.STATUS] == ASKED)

    def _check_owner(self) -> None:
        if not self._owns_arrays:
            raise SimulationError(
                "this simulator only looks at an environment's arrays; use reset, get_state and set_state of the "
                "environment"
            )

    def _digest(self) -> bytes:
        if self._fleet_digest is None:
            self._fleet_digest = fleet_digest(self.tables, self.limits)
        return self._fleet_digest

    def totals(self) -> Totals:
        """Totals so far; a copy."""
        s = self.state
        g = s.scalars.tolist()
        now = g[layout.CLOCK]
        if now * len(s.requests) > MAX_SUM_US:
            _check_sums(s.requests, now)
        accelerators = s.accelerators
        held = self.tables.memory_bytes.sum() - accelerators[:, ACCELERATOR.free].sum()
        channel_owned = (accelerators[:, ACCELERATOR.swap_target] != NONE) | (
            accelerators[:, ACCELERATOR.channel] != layout.IDLE
        )
        return Totals(
            cost=self.cost(),
            end_us=now,
            truncated=g[layout.STATUS] == TRUNCATED,
            decisions=g[layout.DECISIONS],
            forced_evictions=g[layout.FORCED],
            drains=g[layout.DRAINS],
            evictions=g[layout.EVICTIONS],
            keep_alive_evictions=g[layout.LONE_EVICTIONS],
            waits=g[layout.WAITS],
            prefetches=g[layout.PREFETCHES],
            loads=g[layout.LOADS],
            load_us_total=g[layout.LOAD_US],
            loaded_bytes=g[layout.LOADED_BYTES],
            regret_loads=g[layout.REGRETS],
            cold_requests=g[layout.COLD],
            prefix_tokens_lost=g[layout.PREFIX_LOST],
            busy_us=accelerators[:, ACCELERATOR.busy_us] + (accelerators[:, ACCELERATOR.busy] > 0) * now,
            channel_us=accelerators[:, ACCELERATOR.channel_us] + channel_owned * now,
            memory_byte_us=float(s.clocks[CLOCKS.memory_use] + float(held) * now),
        )

    def summary(self) -> Summary:
        """Summary so far, as input of metrics; a copy."""
        shares = np.empty((len(TASKS), len(SHARE)), dtype=np.int64)
        quantiles_us = np.empty((len(TASKS) + 1, 2, len(QUANTILES) + 1))
        room, counts = np.empty((3, len(self.state.requests)), dtype=np.int64), np.empty(DIGITS, dtype=np.int64)
        summarize(*self.arguments, shares, quantiles_us, room, counts)
        return Summary(self.totals(), shares, quantiles_us)

    def episode(self) -> Episode:
        """Results so far; a copy."""
        s = self.state
        totals = self.totals()
        now = totals.end_us
        requests, tasks = s.requests, s.tasks
        columns = self.arguments[4].columns
        tokens = columns[:, COLUMN.context].astype(np.int64) + columns[:, COLUMN.output]
        too_long = tokens > self.tables.kv_tokens[columns[:, COLUMN.model]]
        rows = self.trace[: s.scalars[layout.TRACED]].tolist()
        return Episode(
            task=columns[:, COLUMN.task].astype(np.int8),
            arrival_us=requests[:, REQUEST.arrival_us].copy(),
            first_token_us=requests[:, REQUEST.first_us].copy(),
            finish_us=requests[:, REQUEST.finish_us].copy(),
            refused=too_long & (requests[:, REQUEST.arrival_us] <= now),
            waiting_us=tasks[:, TASK.waiting_sum] + tasks[:, TASK.waiting_count] * now,
            system_us=tasks[:, TASK.system_sum] + tasks[:, TASK.system_count] * now,
            slo_missed=tasks[:, TASK.slo_missed].copy(),
            model_loads=s.models[:, MODEL.loads].copy(),
            trace=[
                TraceRow(time, TRACE_KINDS[kind], subject, accelerator) for time, kind, subject, accelerator in rows
            ],
            **vars(totals),
        )


def _check_sums(requests: Int64Array, now_us: int) -> None:
    """Raise SimulationError if requests were in the system so long that the sum does not fit into int64."""
    finish_us = requests[:, REQUEST.finish_us]
    ended_us = np.where(finish_us == NONE, now_us, finish_us)
    in_system_us = sum(np.maximum(ended_us - requests[:, REQUEST.arrival_us], 0).tolist())
    if in_system_us > MAX_SUM_US:
        raise SimulationError(
            f"{len(requests)} requests were in the system for {in_system_us:.1e} us in total, more than a sum can hold "
            f"({MAX_SUM_US}); check the units of arrival_us, think_us, and of the fleet's load_us and round_ns"
        )


def simulate(
    tables: FleetTables,
    workload: Workload,
    policy: Callable[[Question], int],
    *,
    limits: Limits = NO_LIMITS,
    trace: bool = False,
) -> Episode:
    """Run an episode under any Python policy, from plain integer tables.

    Args:
        tables: the fleet.
        workload: its requests.
        policy: maps a question to the slot to evict.
        limits: keep-alive and count limit.
        trace: keep the event trace (memory grows with the episode).

    Raises:
        TableError, WorkloadError: the input cannot be simulated.
        SimulationError: the policy's answer is illegal, or the simulation cannot continue.
    """
    simulator = Simulator(tables, limits, trace)
    open_question = simulator.reset(workload)
    while open_question:
        open_question = simulator.answer(policy(simulator.question))
    return simulator.episode()


def run_rule(tables: FleetTables, workload: Workload, rule: Rule, *, trace: bool = False) -> Episode:
    """Run an episode under a built-in rule in one compiled call; arguments and errors as for `simulate`."""
    simulator = Simulator(tables, trace=trace)
    simulator.run(workload, rule)
    return simulator.episode()
