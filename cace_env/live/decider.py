"""Asks any policy about real servers, and LRU where the policy fails: nobody waits for a policy that hangs.

Built-in rules and trained agents are compiled, answer in well under a millisecond and cannot hang: they are asked in
the event loop. A policy in Python is asked in a thread of its own, on a copy of the state, and has `limit_s` to answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.decision_log import Recorder
from cace_env.live.mirror import Arrival, Mirror, live_tables
from cace_env.live.stage import Stage
from cace_env.policies import Contestant, Guarded, Planner, Player, policy
from cace_env.policies.built_in import Policy, Training
from cace_env.policies.contestants import NO_SWAPPING, unanswered
from cace_env.policies.guard import FALLBACK
from cace_env.policies.python import PolicyError, PythonPolicy
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload

FloatArray = npt.NDArray[np.float64]
Answer = tuple[int, Policy | None, FloatArray | None, str, str]  # the first fields of a `Choice`

LIMIT_S: Final = 0.05  # longest time to an answer where the policy is in Python
LRU_S: Final = 0.004  # of it are left to LRU, and to an event loop that rounds its timers up
NO_REQUESTS: Final = Workload.from_columns(model=[0], context_tokens=[1], output_tokens=[1])


class Choice(NamedTuple):
    """An answer to an open question."""

    action: int
    decider: Policy | None  # the built-in policy that gave it, if it was one
    scores: FloatArray | None  # (actions,) behind it: the highest is chosen, NaN = has none
    fallback: str  # why the policy did not decide, a word; "" if it did
    detail: str  # the same in a line
    seconds: float  # from the question to the answer


class Decider:
    """A policy, with LRU behind it.

    Args:
        contestant: the policy, from `cace_env.policies.contestant_of`.
        tables: the fleet, as `live_tables` gives it.
        training: for policies that learn from training requests.
        limit_s: longest time to an answer where the policy is in Python, that of LRU in its place included [s].
        stage: who decides when; by default always the policy.

    Attributes:
        inline: whether the policy is asked in the caller's thread (`now`), or in one of its own (`soon`).
        limits: keep-alive, count and patience of the policy.

    Raises:
        ConfigError: the policy cannot play on this fleet, needs the future, or watches arrivals.
    """

    def __init__(
        self,
        contestant: Contestant,
        tables: FleetTables,
        *,
        training: Training | None = None,
        limit_s: float = LIMIT_S,
        stage: Stage | None = None,
    ) -> None:
        self.who = decides(contestant, tables.protocol)
        self.name, self.inline = contestant.name, contestant.built_in is not None
        self._limit_s, self.stage = limit_s, stage or Stage()
        self._player: Player | Guarded
        if isinstance(self.who, Guarded):
            self._player, self.limits = self.who, self.who.begin(tables, NO_REQUESTS, 0, training=training)
        else:
            self._player = Player(
                self.name, self.who, tables, NO_REQUESTS, 0, order=contestant.order, training=training,
                illegal=contestant.illegal,
            )  # fmt: skip
            self.limits = self._player.limits
        self._lru = Player("lru", policy(FALLBACK[tables.protocol]), tables, NO_REQUESTS, 0)
        self._thread = None if self.inline else PolicyThread()
        self._warm_up(tables)

    def now(self, mirror: Mirror) -> Choice:
        """The answer of a policy that is asked inline."""
        began = time.perf_counter()
        if (choice := self._closed(mirror, began)) is not None:
            return choice
        try:
            answer = self._ask(mirror.simulator)
        except PolicyError as error:
            return self._fall_back(mirror, "error", str(error), began)
        return self._answered(answer, began)

    async def soon(self, mirror: Mirror) -> Choice:
        """The answer of a policy in Python, or that of LRU after an error or `limit_s`."""
        assert self._thread is not None
        began = time.perf_counter()
        if (choice := self._closed(mirror, began)) is not None:
            return choice
        if self._thread.busy:
            return self._fall_back(mirror, "late", "an earlier question is still being answered", began)
        seen = mirror.copy()
        try:
            asked = self._thread.call(lambda: self._ask(seen))
            left_s = self._limit_s - LRU_S - (time.perf_counter() - began)
            answer = await asyncio.wait_for(asked, max(left_s, 0.001))
        except TimeoutError:
            return self._fall_back(mirror, "late", f"no answer within {self._limit_s * 1e3:g} ms", began)
        except Failed as failure:
            return self._fall_back(mirror, "error", str(failure), began)
        return self._answered(answer, began)

    def _closed(self, mirror: Mirror, began: float) -> Choice | None:
        """LRU's answer where the policy is not to be asked; a guard goes on watching, unless it still thinks."""
        reason, detail = self.stage.closed()
        if not reason:
            return None
        thinking = self._thread is not None and self._thread.busy  # in its thread, over the same objects
        if isinstance(self._player, Guarded) and not thinking:
            self._player.watch(mirror.simulator)
        return self._fall_back(mirror, reason, detail, began)

    def _answered(self, answer: Answer, began: float) -> Choice:
        self.stage.decided(*answer[3:])
        return Choice(*answer, time.perf_counter() - began)

    def _ask(self, simulator: Simulator) -> Answer:
        """Action, decider, scores, fallback and detail of a `Choice`."""
        who = self._player
        action, _ = who.answer(simulator)
        player = who.decider if isinstance(who, Guarded) else who
        reason = (who.reason or "") if isinstance(who, Guarded) else ""
        detail = who.last.get(reason, "") if isinstance(who, Guarded) else ""
        decider = player.policy if isinstance(player.policy, Policy) else None
        return action, decider, player.scores(simulator), reason, detail

    def _fall_back(self, mirror: Mirror, reason: str, detail: str, began: float) -> Choice:
        action, _ = self._lru.answer(mirror.simulator)
        self.stage.decided(reason, detail)
        decider = self._lru.policy
        assert isinstance(decider, Policy)
        scores = self._lru.scores(mirror.simulator)
        return Choice(action, decider, scores, reason, detail, time.perf_counter() - began)

    def _warm_up(self, tables: FleetTables) -> None:
        """One question before there are any: what has to be compiled or loaded for it would take seconds later."""
        mirror = first_question(tables, self)
        if mirror is None:
            return
        try:
            action, decider, scores, *_ = self._ask(mirror.simulator)
        except PolicyError as error:
            raise ConfigError(f"asked before serving, to be warm: {error}") from error
        self._lru.answer(mirror.simulator)
        nowhere: Any = None  # nothing is written before `settle`
        Recorder(nowhere, self.name, self.who).note(mirror.simulator, action, decider, scores)
        if isinstance(self._player, Player) and callable(reset := getattr(self.who, "reset", None)):
            reset(0)


def decides(contestant: Contestant, protocol: Protocol) -> Policy | PythonPolicy | Guarded:
    """The policy, which can decide about real requests.

    Raises:
        ConfigError: it needs the future, plans, watches arrivals, or has no answer to what is asked.
    """
    built_in = contestant.built_in
    if contestant.name == NO_SWAPPING or (built_in is not None and built_in.clairvoyant):
        raise ConfigError(f"policy {contestant.name!r} cannot decide here: the future of real requests is unknown")
    if isinstance(contestant.policy, Planner):
        raise ConfigError(f"policy {contestant.name!r} plans, and cannot decide here yet; name its policy alone")
    inner = contestant.policy.policy if isinstance(contestant.policy, Guarded) else contestant.policy
    if callable(getattr(inner, "watch", None)):
        raise ConfigError(
            f"policy {contestant.name!r} watches arrivals, which are forgotten here, so it cannot decide here yet; "
            "name one without a method watch"
        )
    if (problem := unanswered(contestant, protocol)) is not None:
        raise ConfigError(problem)
    return contestant.policy


def first_question(tables: FleetTables, decider: Decider) -> Mirror | None:
    """A mirror that stands at a question, after a request for each model in turn; None if everything fits."""
    mirror = Mirror(live_tables(tables), decider.limits)
    mirror.end_instant()
    for m in range(tables.num_models):
        now_us = m + 1
        row = mirror.arrive(now_us, Arrival(m, 0, 1, 1, "", "")) if tables.kv_tokens[m] > 1 else None
        for _ in range(4):
            if mirror.asked or mirror.end_instant():
                return mirror
            for trace in mirror.take_trace():
                if trace.kind in ("LOAD_START", "UNLOAD_START"):
                    mirror.channel_done(now_us, trace.accelerator)
        if row is not None:
            mirror.give_up(now_us, row)
            mirror.end_instant()
    return None


class Failed(Exception):
    """What a policy raised, in words."""


class PolicyThread:
    """One thread for a policy in Python. It is a daemon: a policy that hangs does not keep the process alive."""

    def __init__(self) -> None:
        self.busy = False
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="policy", daemon=True).start()

    def call(self, ask: Callable[[], Any]) -> asyncio.Future[Any]:
        """What `ask` returns; an error of any kind is a `Failed`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.busy = True

        def done(result: Any, failure: Failed | None) -> None:
            self.busy = False
            if future.done():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)

        def work() -> None:
            result, failure = None, None
            try:
                result = ask()
            except BaseException as error:  # a policy that calls sys.exit must not end the thread either
                failure = Failed(str(error) or type(error).__name__)
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, result, failure)

        self._calls.put(work)
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
