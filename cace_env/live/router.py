"""The router: real requests wait here, and real servers load and unload as the policy says.

It obeys the rules of the simulator (`docs/design.md`), because it is told what to do by the simulator's own code over
its own state (`cace_env.live.mirror`): requests of a model go to its server first come, first served, as seats and KV
room allow; one load or unload at a time on each accelerator; a victim leaves when its last request has ended; the sum
of the needs never exceeds the memory. It knows no HTTP; `cace_env.live.proxy` does.

All methods are called in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from cace_env.decision_log import Decision, DecisionLog, Recorder
from cace_env.kernel.state import DEMAND
from cace_env.live.backends.base import Backend, BackendError
from cace_env.live.decider import Choice, Decider
from cace_env.live.metrics import Metrics
from cace_env.live.mirror import TOKEN, Arrival, Mirror
from cace_env.live.mover import Mover
from cace_env.live.tickets import Options, QueueFull, Ticket
from cace_env.tables import FOREVER, NONE, FleetTables

logger = logging.getLogger(__name__)

ANSWER_TOKENS: Final = 256  # room for an answer, where neither the request nor an earlier answer says more
RETRY_S: Final = (0.1, 0.5, 2.0, 5.0)  # pauses between attempts to unload; the last one again and again
REMEMBERED: Final = 50  # last decisions, for the status page


class Router:
    """Drives one backend for each accelerator of a fleet.

    Args:
        tables: the fleet, with what is resident now (`resident_now`).
        backends: one for each accelerator, in their order; each has every model.
        decider: the policy.
        options: see there.
        log: of decisions, with the clock "utc"; None = none.
        clock: function that returns seconds, and never goes back.
    """

    def __init__(
        self,
        tables: FleetTables,
        backends: Sequence[Backend],
        decider: Decider,
        options: Options | None = None,
        *,
        log: DecisionLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tables, self.backends, self.decider = tables, backends, decider
        self.options = options or Options()
        self.movers = [Mover(backend) for backend in backends]
        self.metrics = Metrics()
        self.mirror = Mirror(tables, decider.limits)
        self.open = 0  # requests on their way
        self.queued = 0  # of which no server has got these
        self.decisions: deque[Decision] = deque(maxlen=REMEMBERED)
        self.log = log
        self._clock, self._began = clock, clock()
        self._since_1970_us = round(time.time() * 1e6)
        self._models = {name: m for m, name in enumerate(tables.model_names)}
        self._inbox: deque[tuple[int, Callable[[int], None]]] = deque()
        self._thinking = False  # a question is open, and the policy is being asked
        self._timer: asyncio.TimerHandle | None = None
        self._due_us = NONE  # when it rings
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, Ticket] = {}  # by row, until the server gets it
        self._recorder = Recorder(
            self,  # type: ignore[arg-type]  # it only adds
            decider.name,
            decider.who,
            scenario=self.options.scenario,
            reasons=self.options.reasons,
        )
        for name, memory in zip(tables.accelerator_names, tables.memory_bytes.tolist(), strict=True):
            self.metrics.budget.labels(name).set(memory)

    # -----------------------------------------------------------------------------------------------------------------
    # Requests

    def number(self, name: str) -> int | None:
        """The number of a model by its name, or None."""
        return self._models.get(name)

    def enter(
        self, model: int, task: int, context_tokens: int, most_tokens: int | None, session: Hashable, user: Hashable
    ) -> Ticket:
        """Queue a request. Whoever enters calls `finish` or `give_up` in the end, whatever happens.

        Args:
            model: its number.
            task: index into TASKS.
            context_tokens: of the prompt, as far as known.
            most_tokens: the longest answer that it allows, if it says so.
            session: whose prefix it may share; any hashable.
            user: who asks; any hashable.

        Raises:
            QueueFull: too many wait.
        """
        if self.queued >= self.options.most_waiting:
            self.metrics.refused.labels("queue full").inc()
            raise QueueFull(self._retry_s(model))
        room = int(self.tables.kv_tokens[model])
        context = min(context_tokens, room - 1)
        expected = self.mirror.state.demand[model, DEMAND.mean_output]
        answer = most_tokens or (ANSWER_TOKENS if np.isnan(expected) else int(np.ceil(expected)))
        arrival = Arrival(model, task, context, max(1, min(answer, room - context)), session, user)
        ticket = Ticket(model, self.now_us(), asyncio.get_running_loop().create_future())
        self.open += 1
        self.queued += 1

        def arrive(now_us: int) -> None:
            if not ticket.over:
                ticket.row = self.mirror.arrive(now_us, arrival)
                self._waiting[ticket.row] = ticket

        self._tell(arrive)
        return ticket

    def received(self, ticket: Ticket, tokens: int) -> None:
        """The server has sent so many more tokens."""
        if tokens <= 0 or ticket.over:
            return
        if ticket.tokens == 0:
            ticket.first = self.now_us()
            self.metrics.ttft.labels(self._name(ticket)).observe((ticket.first - ticket.arrived) * 1e-6)
            self._tell(lambda now_us: self.mirror.first_token(now_us, ticket.row))
            tokens -= 1
            ticket.tokens = 1
        if tokens:
            ticket.tokens += tokens
            if self._thinking or self._inbox:
                self._tell(lambda _: self.mirror.received(ticket.row, tokens * TOKEN))
            else:
                self.mirror.received(ticket.row, tokens * TOKEN)

    def finish(self, ticket: Ticket, output_tokens: int) -> None:
        """The answer is complete."""
        if ticket.over:
            return
        self.received(ticket, 1 if ticket.tokens == 0 else 0)  # an answer without text is a token all the same
        self._leave(ticket, "finished")
        self.metrics.e2e.labels(self._name(ticket)).observe((self.now_us() - ticket.arrived) * 1e-6)
        self._tell(lambda now_us: self.mirror.finish(now_us, ticket.row, output_tokens))

    def give_up(self, ticket: Ticket, outcome: str) -> None:
        """There will be no whole answer: the client has gone, or the server has failed. Nothing after `finish`."""
        if ticket.over:
            return
        self._leave(ticket, outcome)

        def leave(now_us: int) -> None:
            if ticket.row != NONE:
                self._waiting.pop(ticket.row, None)
                self.mirror.give_up(now_us, ticket.row)

        self._tell(leave)

    def _leave(self, ticket: Ticket, outcome: str) -> None:
        ticket.over = True
        self.open -= 1
        self.queued -= ticket.accelerator == NONE
        self.metrics.requests.labels(self._name(ticket), outcome).inc()

    def _name(self, ticket: Ticket) -> str:
        return self.tables.model_names[ticket.model]

    def _retry_s(self, model: int) -> int:
        """When there may be room: after a load of the model, by the tables."""
        return int(np.clip(np.ceil(self.tables.load_us[:, model].max() * 1e-6), 1, 60))

    # -----------------------------------------------------------------------------------------------------------------
    # Events, questions, and what follows

    def start(self) -> None:
        """Begin: pinned models and what `tables` has as resident are there."""
        self._tell(lambda _: None)

    def now_us(self) -> int:
        """The router's clock: microseconds since it was made."""
        return round((self._clock() - self._began) * 1e6)

    def _tell(self, event: Callable[[int], None]) -> None:
        """Write an event into the mirror, now, or when the open question has been answered."""
        self._inbox.append((self.now_us(), event))
        if not self._thinking:
            self._work()

    def _work(self) -> None:
        """Write what has happened, and alarms at their time, until a question has to wait for its answer."""
        while True:
            at = self._inbox[0][0] if self._inbox else self.now_us()
            if self.mirror.alarm_us <= at:
                self.mirror.alarm()
            elif self._inbox:
                _, event = self._inbox.popleft()
                event(max(at, self.mirror.now_us))
            else:
                break
            self._settle()
            if self._thinking:
                return
        self._set_timer()

    def _settle(self) -> None:
        """Ends an instant: asks as often as there are questions, and does what follows."""
        asked = self.mirror.end_instant()
        self._act()
        while asked:
            if not self.decider.inline:
                self._thinking = True
                self._go(self._think())
                return
            asked = self._apply(self.decider.now(self.mirror))

    async def _think(self) -> None:
        asked = True
        while asked:
            asked = self._apply(await self.decider.soon(self.mirror))
        self._thinking = False
        self._work()

    def _apply(self, choice: Choice) -> bool:
        """Takes an answer; True if there is another question."""
        self.metrics.decisions.labels(choice.fallback or "policy").inc()
        self.metrics.decided.observe(choice.seconds)
        self._recorder.note(
            self.mirror.simulator, choice.action, choice.decider, choice.scores, fallback=choice.fallback,
            detail=choice.detail,
        )  # fmt: skip
        asked = self.mirror.answer(choice.action)
        self._act()
        return asked

    def _act(self) -> None:
        """Does what the last event has led to."""
        self._recorder.settle(self.mirror.simulator)
        rows = self.mirror.take_trace()
        self._recorder.settle(self.mirror.simulator)  # the trace begins anew
        for row in rows:
            if row.kind == "ADMITTED":
                self._admit(self._waiting.pop(row.subject), row.accelerator)
            elif row.kind == "LOAD_START":
                self._go(self._load(row.subject, row.accelerator))
            elif row.kind == "UNLOAD_START":
                self._go(self._unload(row.subject, row.accelerator))

    def _admit(self, ticket: Ticket, accelerator: int) -> None:
        ticket.accelerator = accelerator
        self.queued -= 1
        self.metrics.waited.labels(self._name(ticket)).observe((self.now_us() - ticket.arrived) * 1e-6)
        if not ticket.ready.done():
            ticket.ready.set_result(None)

    def _set_timer(self) -> None:
        due_us = self.mirror.alarm_us
        if due_us == self._due_us:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_us, self._timer = due_us, None
        if due_us < FOREVER:
            wait_s = max(0.0, (due_us - self.now_us()) * 1e-6)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._due_us = NONE  # so that one that came too early is set again
        self._tell(lambda _: None)

    def add(self, decision: Decision) -> None:
        """Keeps a decision, with the time of day: what a `Recorder` calls."""
        decision = replace(decision, time_us=decision.time_us + self._since_1970_us)
        self.decisions.append(decision)
        if self.log is not None:
            try:
                self.log.add(decision)
            except OSError as error:
                logger.error("the decision log cannot be written: %s", error.strerror)

    # -----------------------------------------------------------------------------------------------------------------
    # Servers

    def server_name(self, model: int) -> str:
        """What the servers call a model."""
        name = self.tables.model_names[model]
        return self.options.names.get(name, name)

    async def _load(self, m: int, a: int) -> None:
        name, began = self.tables.model_names[m], self._clock()
        self.metrics.loads.labels(name).inc()
        try:
            await self.movers[a].load(self.server_name(m))
        except BackendError as refused:
            error = refused
            self.metrics.failures.labels(name, "load").inc()
            logger.error("model %r does not load: %s", name, error.message)
            self._send_away(m, error)
            await self._until_gone(m, a)
            self._tell(lambda now_us: self._fail(now_us, m, a, error))
            return
        self.metrics.load.labels(name).observe(self._clock() - began)
        self._tell(lambda now_us: self.mirror.channel_done(now_us, a))

    async def _unload(self, m: int, a: int) -> None:
        name, began = self.tables.model_names[m], self._clock()
        self.metrics.evictions.labels(name).inc()
        await self._until_gone(m, a)
        self.metrics.unload.labels(name).observe(self._clock() - began)
        self._tell(lambda now_us: self.mirror.channel_done(now_us, a))

    async def _until_gone(self, m: int, a: int) -> None:
        """Unloads until the server says that it is done: until then the memory counts as taken."""
        pauses = iter(RETRY_S)
        pause = RETRY_S[-1]
        while True:
            try:
                await self.movers[a].unload(self.server_name(m))
                return
            except BackendError as error:
                name = self.tables.model_names[m]
                self.metrics.failures.labels(name, "unload").inc()
                logger.error("model %r does not leave: %s", name, error.message)
                self._send_away(m, error)
            pause = next(pauses, pause)
            await asyncio.sleep(pause)

    def _send_away(self, m: int, error: BackendError) -> None:
        """Whoever waits for a model that does not come gets the server's error."""
        for ticket in self._waiting.values():
            if ticket.model == m and not ticket.ready.done():
                ticket.ready.set_exception(error)

    def _fail(self, now_us: int, m: int, a: int, error: BackendError) -> None:
        """A load has failed, and the model is gone: those who wait are taken out first, or it would be loaded again."""
        self._send_away(m, error)
        for row in [row for row, ticket in self._waiting.items() if ticket.model == m]:
            ticket = self._waiting.pop(row)
            if not ticket.over:
                self._leave(ticket, "failed")
                self.mirror.give_up(now_us, row)
        self.mirror.load_failed(now_us, a)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the requests; an error in it is a bug, and is said."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the router has a bug", exc_info=task.exception())

    async def drain(self, most_s: float) -> bool:
        """Waits until no request is on its way, at most so long; whether that came."""
        until = self._clock() + most_s
        while self.open and self._clock() < until:
            await asyncio.sleep(0.02)
        return self.open == 0

    async def close(self) -> None:
        """Stops what runs beside the requests, and closes the log and the backends."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if self.log is not None:
            try:
                self.log.close()
            except OSError as error:
                logger.error("the decision log cannot be written: %s", error.strerror)
        for backend in self.backends:
            await backend.close()
