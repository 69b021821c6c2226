"""A gateway's log in shadow mode: its rows become arrivals, first tokens and ends, in the order of their times."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.live.mirror import Alone
from cace_env.live.shadow.deciding import Watcher
from cace_env.tables import NONE, TASKS, Int64Array
from cace_env.traces import Trace

UNTOLD: Final = TASKS.index("chat")  # a request whose task the log does not say
ARRIVE, FIRST, FINISH = range(3)


class Times(NamedTuple):
    """When each request of a log arrived, began to be answered and ended [us since 1970, or since its first]."""

    arrived: Int64Array
    first: Int64Array
    finished: Int64Array
    made_up: npt.NDArray[np.bool_]  # whose answer has no measured time


def times_of(trace: Trace, token_us: Int64Array) -> Times:
    """The times of the requests of a log.

    Where a log lacks one of TTFT and E2E, the answer is taken to have come at the speed of its model running alone.
    Where it lacks both, at once.

    Args:
        trace: the log.
        token_us: (R,) time per output token of each request's model.
    """
    arrived = (trace.began_us or 0) + trace.time_us
    nobody = np.full(len(trace), NONE, np.int64)
    ttft = nobody if trace.ttft_us is None else trace.ttft_us
    e2e = nobody if trace.e2e_us is None else trace.e2e_us
    tokens = np.ones(len(trace), np.int64) if trace.output_tokens is None else trace.output_tokens
    answer = (tokens - 1) * token_us
    first = np.where(ttft != NONE, ttft, np.where(e2e != NONE, np.maximum(e2e - answer, 0), 0))
    last = np.maximum(np.where(e2e != NONE, e2e, first + answer), first)
    return Times(arrived, arrived + first, arrived + last, (ttft == NONE) & (e2e == NONE))


class Replay:
    """Tells a watcher of a log, which may grow meanwhile.

    Args:
        numbers: of the models, as the log calls them.

    Attributes:
        made_up: requests without a measured time.
        late: requests that came into the log when later ones had been told of already; they are left out.
    """

    def __init__(self, numbers: dict[str, int]) -> None:
        self.late = self.made_up = 0
        self._numbers = numbers
        self._told_us = -(1 << 62)
        self._known = np.zeros(0, np.int64)  # arrivals of the rows that have been looked at
        self._numbered = itertools.count()  # events at the same time are told as the log has them
        self._due: list[tuple[int, int, int, tuple[Any, ...]]] = []  # heap: time, number, kind, what about

    def tell(self, trace: Trace, watcher: Watcher, until_us: int) -> None:
        """Tells of everything in a log up to a time, but not twice.

        Args:
            trace: the whole log as it is now. One that has been rotated begins later than before.
            watcher: is told.
            until_us: by the clock of the log.

        Raises:
            ConfigError: the log names no models.
        """
        if trace.model is None:
            raise ConfigError("the log names no models, so that nobody can say what was asked for")
        to_fleet = np.array([self._numbers.get(name, NONE) for name in trace.model_ids], np.int64)
        model = to_fleet[trace.model]
        token_us = np.maximum(watcher.tables.token_ns.max(axis=0)[model] // 1000, 1)
        times = times_of(trace, token_us)
        until_us = max(until_us, self._told_us)
        before = int((times.arrived <= self._told_us).sum())
        self.late += max(0, before - int((self._known >= times.arrived.min()).sum()))
        rows = np.flatnonzero((times.arrived > self._told_us) & (times.arrived <= until_us))
        self._told_us, self._known = until_us, times.arrived[times.arrived <= until_us]
        for row in rows.tolist():
            if model[row] == NONE:
                watcher.tally.unknown += 1
                continue
            self._take(trace, times, row, int(model[row]))
        while self._due and self._due[0][0] <= until_us:
            at_us, _, kind, about = heapq.heappop(self._due)
            told: tuple[Callable[..., None], ...] = watcher.arrive, watcher.first_token, watcher.finish
            told[kind](at_us - watcher.began_us, *about)

    def _take(self, trace: Trace, times: Times, row: int, model: int) -> None:
        """The three events of a row; an arrival comes before what else happens at its time."""
        self.made_up += int(times.made_up[row])
        context, output = trace.context_tokens, trace.output_tokens
        tokens = 1 if output is None else int(output[row])
        task = UNTOLD if trace.task is None or trace.task[row] == NONE else int(trace.task[row])
        key = Alone()
        about = (
            key, model, task, 1 if context is None else int(context[row]), tokens,
            Alone() if trace.session is None else int(trace.session[row]),
            "" if trace.user is None else int(trace.user[row]),
        )  # fmt: skip
        for at_us, kind, what in (
            (int(times.arrived[row]), ARRIVE, about),
            (int(times.first[row]), FIRST, (key,)),
            (int(times.finished[row]), FINISH, (key, tokens)),
        ):
            heapq.heappush(self._due, (at_us, next(self._numbered), kind, what))
