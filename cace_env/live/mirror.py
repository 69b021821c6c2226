"""The state of real servers in the simulator's own arrays, so that any policy sees what it would see there.

A `Mirror` is told what happens (a request arrives, its first token and its last, a load or an unload is over) and
answers with what has to be done (which requests the server gets, which load or unload starts), or with a question to
the policy. It has no clock, no network and no servers. Its state is that of `cace_env.simulation.Simulator`, changed by
the kernel's code (`cace_env.live.events`); whatever reads a simulator reads `Mirror.simulator`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numba.core import event as numba_event

from cace_env import compilation
from cace_env.kernel import state as layout
from cace_env.kernel.events import PAIR_AT
from cace_env.kernel.state import (
    ASKED,
    CLOCK,
    COLUMN,
    LOG,
    LOGGED,
    MODEL,
    PAIR,
    PAUSE,
    PAUSES,
    REQUEST,
    TIME,
    TIMER,
    TRACE_KINDS,
    TRACED,
    WINDOW_TAIL,
    Requests,
    State,
)
from cace_env.live import events
from cace_env.simulation import Limits, Simulator
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import FOREVER, NONE, FleetTables

announcer = logging.getLogger(compilation.__name__)

TOKEN: Final = 1 << 20  # the unit of `Mirror.received`: 2^-20 tokens, as the kernel counts rounds
NOTHING: Final = np.zeros(0, dtype=np.int32)  # all requests arrive when `arrive` says so
ROWS: Final = 1024  # requests there is room for at first
TRACE_ROWS: Final = 4096  # between two looks at the trace
FORGET_US: Final = 3_600_000_000  # a session without a request for an hour; its prefix counts 1/64 by then


class Announcement(numba_event.Listener):  # type: ignore[misc]  # mypy skips numba
    """A line before `events.happen` is compiled: a router that starts would seem to hang."""

    def on_start(self, event: numba_event.Event) -> None:
        if event.data["dispatcher"] is events.happen:
            announcer.warning(
                "compiling what happens to real model servers, once per version: 10 to 20 s of one core, twice that "
                "where the simulator is not compiled either; python -m cace_env.compile does both beforehand"
            )

    def on_end(self, event: numba_event.Event) -> None:
        del event


numba_event.register("numba:compile", Announcement())


class Alone:
    """The session of a request that belongs to none."""


class Arrival(NamedTuple):
    """What is known of a request when it arrives."""

    model: int
    task: int  # index into TASKS
    context_tokens: int
    output_tokens: int  # KV room that is kept for the answer; `Mirror.finish` says how long it was
    session: Hashable
    user: Hashable
    new_tokens: int = 1  # only for the count of lost prefix tokens


def live_tables(tables: FleetTables) -> FleetTables:
    """Tables as a live system needs them: no unload is over at once, and no number of decisions is the last."""
    return tables.replace(unload_us=np.maximum(tables.unload_us, 1), max_decisions=FOREVER)


class Mirror:
    """The state of a fleet of real servers.

    Every method that takes `now_us` writes one event; `now_us` never goes back, and no alarm (`alarm_us`) may be due
    before it. After the last event of an instant, `end_instant` is called. An open question is answered before anything
    else is written.

    Args:
        tables: the fleet, as `live_tables` gives it.
        limits: of the policy.

    Attributes:
        simulator: a `Simulator` over the state, for whatever reads one (policies, explanations, decision logs). It must
            not be stepped. Another object after the room for requests has grown.
    """

    def __init__(self, tables: FleetTables, limits: Limits) -> None:
        tables.validate()
        self.tables, self._limits = tables, limits.row(tables)
        self._seats = int(tables.max_num_seqs.max())
        self.fleet, self.fleet_at = layout.fleet_row(tables, most_seats=self._seats)
        self._trace = np.zeros((TRACE_ROWS, 4), dtype=np.int64)
        self._free: deque[int] = deque()
        self._half_free: set[int] = set()  # ended, or out of the window, but not both
        self._units: dict[int, int] = {}  # of the open requests: tokens received after the first
        self._sessions: dict[tuple[Hashable, int], int] = {}
        self._users: dict[tuple[Hashable, int], int] = {}
        self._free_sessions: deque[int] = deque()
        self._free_users: deque[int] = deque()
        self._requests = Requests(
            np.zeros((0, len(TIME)), dtype=np.int64), np.zeros((0, len(COLUMN)), dtype=np.int32), NOTHING
        )
        self._make_room(ROWS)
        self._happen(0, events.BEGIN)

    # -----------------------------------------------------------------------------------------------------------------
    # What happens

    def arrive(self, now_us: int, arrival: Arrival) -> int:
        """A request arrives; its number. Numbers are used again.

        Raises:
            ValueError: no KV cache can hold it.
        """
        if arrival.context_tokens + arrival.output_tokens > self.tables.kv_tokens[arrival.model]:
            raise ValueError(f"the KV cache of {self.tables.model_names[arrival.model]!r} cannot hold this request")
        if self.state.scalars[LOGGED] == len(self.state.log):
            self._shorten_log()
        if not self._free or self.state.scalars[LOGGED] == len(self.state.log):
            self._make_room(2 * len(self.state.requests))
        r = self._free.popleft()
        self.state.requests[r] = 0
        self._clear_requests(slice(r, r + 1))
        w = self._requests
        w.times[r, TIME.arrival_us], w.times[r, TIME.think_us] = now_us, 0
        column = w.columns[r]
        column[:] = NONE
        column[COLUMN.model], column[COLUMN.task] = arrival.model, arrival.task
        column[COLUMN.context], column[COLUMN.new] = arrival.context_tokens, arrival.new_tokens
        column[COLUMN.output] = arrival.output_tokens
        column[COLUMN.session_pair] = self._session((arrival.session, arrival.model), now_us)
        column[COLUMN.user_pair] = self._user((arrival.user, arrival.model))
        self._units[r] = 0
        self._happen(now_us, events.ARRIVED, r)
        return r

    def first_token(self, now_us: int, r: int) -> None:
        """The first token of an admitted request has come."""
        self._happen(now_us, events.FIRST_TOKEN, r)

    def received(self, r: int, units: int = TOKEN) -> None:
        """More of an answer after its first token: `TOKEN` units are one token."""
        self._units[r] += units
        self.state.models[self._requests.columns[r, COLUMN.model], MODEL.decode_start_sum] -= units

    def finish(self, now_us: int, r: int, output_tokens: int) -> None:
        """The last token of a request has come; its first was told before."""
        m = self._requests.columns[r, COLUMN.model]
        self.state.models[m, MODEL.kv_used] += output_tokens - self._requests.columns[r, COLUMN.output]
        self._requests.columns[r, COLUMN.output] = output_tokens
        self._end(now_us, events.FINISHED, r)

    def give_up(self, now_us: int, r: int) -> None:
        """A request will not be answered, or not to its end; it may wait, or be served."""
        self._end(now_us, events.GIVEN_UP, r)

    def channel_done(self, now_us: int, accelerator: int) -> None:
        """The load or unload in progress there is over."""
        self._happen(now_us, events.CHANNEL_DONE, accelerator)

    def load_failed(self, now_us: int, accelerator: int) -> None:
        """The load in progress there has failed; give up what waits for the model first, or it is loaded again."""
        self._happen(now_us, events.LOAD_FAILED, accelerator)

    @property
    def alarm_us(self) -> int:
        """When time alone may change something (drain, patience, keep-alive): `alarm` then; FOREVER = never."""
        return int(self.state.scalars[TIMER])

    def alarm(self) -> None:
        """The time `alarm_us` has come; the clock is set to it."""
        self._happen(self.alarm_us, events.ALARM)

    def end_instant(self) -> bool:
        """Nothing more happens at this moment: models are placed; True if there is a question."""
        return self._happen(self.now_us, events.INSTANT_ENDS)

    def answer(self, action: int) -> bool:
        """A legal answer to the open question; True if there is another one."""
        self._happen(self.now_us, events.ANSWERED, action)
        return self.end_instant()

    # -----------------------------------------------------------------------------------------------------------------
    # What is to be seen

    @property
    def now_us(self) -> int:
        """The time of the last event."""
        return int(self.state.scalars[CLOCK])

    @property
    def asked(self) -> bool:
        """Whether a question is open."""
        return bool(self.state.scalars[layout.STATUS] == ASKED)

    def take_trace(self) -> list[TraceRow]:
        """The rows of the event trace since the last call: what has to be done now.

        ADMITTED r: the server gets request r; LOAD_START m, UNLOAD_START m: that begins on its accelerator.

        Raises:
            SimulationError: there were more rows than the trace has room for.
        """
        self.simulator.check()
        rows = self._trace[: self.state.scalars[TRACED]].tolist()
        self.state.scalars[TRACED] = 0
        return [TraceRow(time_us, TRACE_KINDS[kind], subject, place) for time_us, kind, subject, place in rows]

    def copy(self) -> Simulator:
        """A copy of the state at an open question, for a policy that may still look at it when time has gone on."""
        row, at, fleet, fleet_at, w = self.simulator.arguments
        requests = Requests(w.times.copy(), w.columns.copy(), w.open_order)
        return Simulator.over(self.tables, (row.copy(), at, fleet, fleet_at, requests), self._limits, self._trace[:0])

    # -----------------------------------------------------------------------------------------------------------------
    # Rows

    def _happen(self, now_us: int, kind: int, subject: int = int(events.NOBODY)) -> bool:
        tail = int(self.state.scalars[WINDOW_TAIL])
        status = events.happen(*self.simulator.arguments, self._limits, self._trace, now_us, kind, subject)
        for r in self.state.log[tail : self.state.scalars[WINDOW_TAIL], LOG.request].tolist():
            self._release(r)
        return bool(status == ASKED)

    def _end(self, now_us: int, kind: int, r: int) -> None:
        self.state.models[self._requests.columns[r, COLUMN.model], MODEL.decode_start_sum] += self._units.pop(r)
        self._happen(now_us, kind, r)
        self._release(r)

    def _release(self, r: int) -> None:
        """A request has ended, or has left the window: after both its row is free."""
        if r in self._half_free:
            self._half_free.remove(r)
            self._free.append(r)
        else:
            self._half_free.add(r)

    def _shorten_log(self) -> None:
        """Forgets arrivals that have left the window."""
        s = self.state
        tail, end = int(s.scalars[WINDOW_TAIL]), int(s.scalars[LOGGED])
        s.log[: end - tail] = s.log[tail:end].copy()
        s.scalars[LOGGED], s.scalars[WINDOW_TAIL] = end - tail, 0

    def _session(self, key: tuple[Hashable, int], now_us: int) -> int:
        """The row of a session at a model."""
        if key not in self._sessions:
            if not self._free_sessions:
                self._forget_sessions(now_us)
            self._sessions[key] = pair = self._free_sessions.popleft()
            self.state.pairs[pair] = 0
            self.state.pairs[pair, PAIR.epoch] = NONE
        return self._sessions[key]

    def _user(self, key: tuple[Hashable, int]) -> int:
        if key not in self._users:
            if not self._free_users:
                gone = [each for each, row in self._users.items() if self.state.users[row] == 0]
                self._free_users.extend(self._users.pop(each) for each in gone)
            if not self._free_users:
                self._make_room(2 * len(self.state.requests))
            self._users[key] = self._free_users.popleft()
        return self._users[key]

    def _forget_sessions(self, now_us: int) -> None:
        """Makes rows of sessions free: of those that will not come back, or were silent for long; else makes room."""
        pairs = self.state.pairs
        in_use = {int(self._requests.columns[r, COLUMN.session_pair]) for r in self._units}
        unseen = pairs[:, PAIR.window] == 0
        silent = unseen & (pairs[:, PAIR.time_us] < now_us - FORGET_US)
        gone = [
            key
            for key, pair in self._sessions.items()
            if (unseen if isinstance(key[0], Alone) else silent)[pair] and pair not in in_use
        ]
        forgotten = [self._sessions.pop(key) for key in gone]
        self._forget_pauses(forgotten)
        self._free_sessions += forgotten
        if not self._free_sessions:
            self._make_room(2 * len(self.state.requests))

    def _forget_pauses(self, pairs: Sequence[int]) -> None:
        """Takes sessions that are forgotten out of the pauses."""
        who = self.state.pauses[: self.state.scalars[PAUSES], PAUSE.who]
        who[np.isin(who >> PAIR_AT, pairs)] = NONE

    def _make_room(self, rows: int) -> None:
        """Room for so many requests, sessions and users; what is there stays."""
        first, before = len(self._requests.times), self.state if len(self._requests.times) else None
        slots, models = int(self.fleet[layout.R_MAX_SLOTS]), self.tables.num_models
        at = layout.state_offsets(self.tables, slots, models, rows, rows, rows, most_seats=self._seats)
        times, columns = np.zeros((rows, len(TIME)), dtype=np.int64), np.zeros((rows, len(COLUMN)), dtype=np.int32)
        times[:first], columns[:first] = self._requests.times, self._requests.columns
        self._requests = Requests(times, columns, NOTHING)
        arguments = (layout.arena(1, int(at[-1]))[0], at, self.fleet, self.fleet_at, self._requests)
        self.simulator = Simulator.over(self.tables, arguments, self._limits, self._trace)
        self.state: State = self.simulator.state
        if before is not None:
            for new, old in zip(self.state, before, strict=True):
                new[: len(old)] = old
            self._clear_requests(slice(first, None))
            self.state.pairs[first:, PAIR.epoch] = NONE
        for free in (self._free, self._free_sessions, self._free_users):
            free.extend(range(first, rows))

    def _clear_requests(self, rows: slice) -> None:
        self.state.requests[rows, REQUEST.arrival_us] = FOREVER
        self.state.requests[rows, REQUEST.first_us] = NONE
        self.state.requests[rows, REQUEST.finish_us] = NONE
