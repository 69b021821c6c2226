"""Threads that help with steps: they wait in compiled code for a while, and then asleep.

A step is a fraction of a millisecond. A future for each would cost a good part of that, so workers look at a word of
memory until there is work (`serve` in `cace_env.kernel.batch`). Who has looked in vain for `AWAKE_S` sleeps until the
next step wakes him, so that idle threads take no processor time; a step does not wait for one who still wakes up.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

import numpy as np
from numba.core import config as numba_config

from cace_env.kernel.batch import TEAM, serve
from cace_env.kernel.state import WORDS_PER_LINE, Int64Array, arena
from cace_env.observation import Scaling

AWAKE_S: Final = 100e-6  # a worker without work looks for some for so long
AWAKE_TOGETHER_S: Final = 10e-6  # where members share cores: one who looks for work keeps others from it
TRIES: Final = 5  # to find out how long a look takes
TRIED_LOOKS: Final = 400
NO_TEAM: Final = np.zeros(0, dtype=np.int64)

_TEAMS: Final[weakref.WeakSet[Team]] = weakref.WeakSet()


class _Post:
    """What workers know. They do not know their team, so that it can go while they sleep."""

    def __init__(self, members: int) -> None:
        self.words: Int64Array = arena(len(TEAM) + members - 1, WORDS_PER_LINE).reshape(-1)
        self.looks = 0  # in vain, until a worker sleeps
        self.stopped = False
        self.errands: deque[Callable[[], object]] = deque()
        self.asleep = [False] * members
        self.beds: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(members)]  # what sleepers wait for

    def wake(self, members: int) -> None:
        """Wakes those of the first so many members who sleep. One who is woken twice looks in vain once more."""
        for member in range(1, min(members, len(self.asleep))):
            if self.asleep[member]:
                self.asleep[member] = False
                self.beds[member].put(None)

    def next_errand(self) -> Callable[[], object] | None:
        """The errand that came last, if there is one; others are left to other workers."""
        self.words[TEAM.leave] = self.stopped  # before the look: an errand that comes after it sets the word again
        try:
            errand = self.errands.pop()
        except IndexError:
            return None
        if self.errands:
            self.words[TEAM.leave] = 1
        return errand

    def stop(self) -> None:
        """Makes all workers end, soon; does not wait for that."""
        self.stopped = True
        self.words[TEAM.leave] = 1
        self.wake(len(self.asleep))


class Team:
    """Workers that share the steps of one batch with the thread that calls; for the process that made it.

    Args:
        scalings: of each member, the caller's first.
    """

    def __init__(self, scalings: Sequence[Scaling]) -> None:
        self.process = os.getpid()
        self._post = post = _Post(len(scalings))
        self.words = post.words
        serve(post.words, 1, scalings[1], 0)  # loads it, or compiles it, where an error can be seen
        # The least counts: where something else had the core meanwhile, workers would never look.
        look_s = min(_tried_s(post.words, scalings[1]) for _ in range(TRIES)) / TRIED_LOOKS
        post.looks = max(round((AWAKE_S if len(scalings) <= cores() else AWAKE_TOGETHER_S) / look_s), 1)
        self._threads = [
            threading.Thread(target=_work, args=(post, member, scaling), name=f"cace-env-{member}", daemon=True)
            for member, scaling in enumerate(scalings[1:], 1)
        ]
        weakref.finalize(self, post.stop).atexit = False  # what ends them then is below
        _TEAMS.add(self)
        for thread in self._threads:
            thread.start()

    def wake(self, rows: int) -> None:
        """Wakes as many workers as a step of so many rows can use."""
        self._post.wake(rows)

    def send(self, errand: Callable[[], object]) -> None:
        """Lets a worker call a function between steps, the last one first. It may not raise anything."""
        self._post.errands.append(errand)
        self.words[TEAM.leave] = 1
        self._post.wake(len(self._threads) + 1)

    def close(self) -> None:
        """Ends the threads; waits for errands that have begun."""
        self._post.stop()
        for thread in self._threads:
            if self.process == os.getpid() and thread.is_alive() and thread is not threading.current_thread():
                thread.join()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_share() -> bool:
    """Whether there can be workers: not where nothing is compiled."""
    return not numba_config.DISABLE_JIT


def _tried_s(words: Int64Array, scaling: Scaling) -> float:
    """How long `TRIED_LOOKS` in vain take [s]."""
    began = time.perf_counter()
    serve(words, 1, scaling, TRIED_LOOKS)
    return time.perf_counter() - began


def _work(post: _Post, member: int, scaling: Scaling) -> None:
    """The life of a worker."""
    while not post.stopped:
        serve(post.words, member, scaling, post.looks)
        if errand := post.next_errand():
            errand()
            continue
        post.asleep[member] = True
        if post.stopped or post.errands or post.words[TEAM.open]:  # it came before anybody knew that he sleeps
            post.asleep[member] = False
        else:
            post.beds[member].get()


@atexit.register
def _close_all() -> None:
    """Ends all threads before the interpreter goes, which they could not survive."""
    for team in list(_TEAMS):
        team.close()
