"""A fleet that is only watched: what requests did is known, what lies in memory follows from rules.

Arrivals, first tokens and ends are told as they were seen. Loads and unloads are not seen: they take as long as the
tables say, in the order of the rules of the simulator. Where a model is seen to answer before that, its load is over.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np

from cace_env.decision_log import Recorder
from cace_env.kernel.state import ACCELERATOR, DEMAND, DRAINING, LOADING, MODEL, RESIDENT
from cace_env.live.mirror import Arrival, Mirror
from cace_env.simulation import Limits
from cace_env.tables import FOREVER, NONE, FleetTables

ANSWER_TOKENS: Final = 256  # room for an answer, where neither the request nor an earlier answer says more


@dataclass(eq=False)
class Watched:
    """A request, as it was seen and as it is in the mirror; times in us, NONE = not yet."""

    key: Hashable
    model: int
    row: int
    first: int = NONE  # seen
    lasted: int = NONE  # seen: from the first token to the last
    admitted: int = NONE
    began: int = NONE  # in the mirror: the first token
    tokens: int = 1


class Follower:
    """A mirror that is moved by what was seen.

    Times never go back; each method first lets happen what is due until then.

    Args:
        tables: the fleet, as `live_tables` gives it.
        limits: of the rule that decides.
        answer: the answer to the open question of a mirror.
        window_us: evictions are counted by windows of this length.
        believes: a model that is seen to answer is there, even if its load would take longer. Not where another rule
            decides than the one that was seen.
        recorder: is told what has happened.

    Attributes:
        evictions: unloads that have begun, by number of the window.
        loads: loads that have begun.
        early: first tokens that were seen before the mirror could have any.
        firsts: first tokens.
    """

    def __init__(
        self,
        tables: FleetTables,
        limits: Limits,
        answer: Callable[[Mirror], int],
        *,
        window_us: int,
        believes: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self.tables, self.mirror = tables, Mirror(tables, limits)
        self.evictions: Counter[int] = Counter()
        self.loads = self.early = self.firsts = 0
        self._answer, self._window_us, self._believes, self._recorder = answer, window_us, believes, recorder
        self._watched: dict[Hashable, Watched] = {}
        self._waiting: dict[int, Watched] = {}  # by row
        self._late: list[Watched] = []  # admitted after their first tokens were seen
        self._ends: list[tuple[int, int, Hashable]] = []  # heap: time, number, request
        self._numbers = itertools.count()
        self._settle()

    def arrive(
        self, now_us: int, key: Hashable, model: int, task: int, context_tokens: int, most_tokens: int | None,
        session: Hashable, user: Hashable,
    ) -> None:  # fmt: skip
        """A request arrives; its `key` names it afterwards."""
        self.advance(now_us)
        room = int(self.tables.kv_tokens[model])
        context = min(max(context_tokens, 1), room - 1)
        expected = self.mirror.state.demand[model, DEMAND.mean_output]
        answer = most_tokens or (ANSWER_TOKENS if np.isnan(expected) else int(np.ceil(expected)))
        arrival = Arrival(model, task, context, max(1, min(answer, room - context)), session, user)
        row = self.mirror.arrive(self._at(now_us), arrival)
        self._watched[key] = self._waiting[row] = Watched(key, model, row)
        self._settle()

    def first_token(self, now_us: int, key: Hashable) -> None:
        """Its first token has come."""
        self.advance(now_us)
        one = self._watched[key]
        one.first = now_us
        self.firsts += 1
        if one.admitted == NONE:
            self.early += 1
            self._believe(now_us, one.model)
        if one.admitted != NONE and one.began == NONE:
            self._begin(one, self._at(now_us))

    def finish(self, now_us: int, key: Hashable, tokens: int) -> None:
        """Its last token has come."""
        if self._watched[key].first == NONE:
            self.first_token(now_us, key)
        self.advance(now_us)
        one = self._watched[key]
        one.lasted, one.tokens = now_us - one.first, tokens
        if one.began != NONE:
            self._end_later(one)
        self.advance(now_us)

    def give_up(self, now_us: int, key: Hashable) -> None:
        """It will not be answered to its end."""
        self.advance(now_us)
        one = self._watched.pop(key)
        self._waiting.pop(one.row, None)
        self.mirror.give_up(self._at(now_us), one.row)
        self._settle()

    def advance(self, now_us: int) -> None:
        """Lets happen what is due until then: ends of loads, unloads and answers, and alarms."""
        while True:
            ends = self.mirror.state.accelerators[:, ACCELERATOR.channel_end]
            moved_us, answered_us = int(ends.min()), self._ends[0][0] if self._ends else FOREVER
            alarm_us = self.mirror.alarm_us
            if min(moved_us, answered_us, alarm_us) > now_us:
                return
            if alarm_us <= min(moved_us, answered_us):
                self.mirror.alarm()
            elif moved_us <= answered_us:
                self.mirror.channel_done(self._at(moved_us), int(ends.argmin()))
            else:
                _, _, key = heapq.heappop(self._ends)
                if (one := self._watched.pop(key, None)) is not None:
                    self.mirror.finish(self._at(answered_us), one.row, one.tokens)
            self._settle()

    def held(self) -> frozenset[int]:
        """Models that a server would list as loaded or loading: one that drains is there until its unload begins."""
        phases = self.mirror.state.models[:, MODEL.phase]
        return frozenset(np.flatnonzero(np.isin(phases, (LOADING, RESIDENT, DRAINING))).tolist())

    @property
    def evicted(self) -> int:
        """Unloads that have begun, all together."""
        return self.evictions.total()

    def _believe(self, now_us: int, model: int) -> None:
        """A model answers: if the mirror is loading it, that is over."""
        state = self.mirror.state.models[model]
        if self._believes and state[MODEL.phase] == LOADING:
            self.mirror.channel_done(self._at(now_us), int(state[MODEL.place]))
            self._settle()

    def _begin(self, one: Watched, at_us: int) -> None:
        """Its first token comes in the mirror."""
        one.began = at_us
        self.mirror.first_token(at_us, one.row)
        self._settle()

    def _end_later(self, one: Watched) -> None:
        """Its end is known: as long after the first token as was seen."""
        heapq.heappush(self._ends, (one.began + one.lasted, next(self._numbers), one.key))

    def _at(self, time_us: int) -> int:
        return max(time_us, self.mirror.now_us)

    def _settle(self) -> None:
        """Ends an instant: asks as often as there are questions."""
        asked = self.mirror.end_instant()
        self._act()
        while asked:
            asked = self.mirror.answer(self._answer(self.mirror))
            self._act()
        while self._late:
            one = self._late.pop()
            self._begin(one, self.mirror.now_us)
            if one.lasted != NONE:
                self._end_later(one)

    def _act(self) -> None:
        """Counts what has begun, and lets begin what was seen to have begun already."""
        if self._recorder is not None:
            self._recorder.settle(self.mirror.simulator)
        rows = self.mirror.take_trace()
        if self._recorder is not None:
            self._recorder.settle(self.mirror.simulator)  # the trace begins anew
        for row in rows:
            if row.kind == "ADMITTED":
                one = self._waiting.pop(row.subject)
                one.admitted = self.mirror.now_us
                self._late += [one] if one.first != NONE else []
            elif row.kind == "LOAD_START":
                self.loads += 1
            elif row.kind == "UNLOAD_START":
                self.evictions[self.mirror.now_us // self._window_us] += 1
