"""Pauses of sessions: from the finish of a session's last request at a model until it asks that model again.

The pauses at a model are a list from the newest to the oldest, linked through `State.pairs`: finishes come in the order
of time, so a pause begins at the front, and it ends wherever it is. Those too old to count stay at the back, where
nobody looks.
"""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import inlined
from cace_env.kernel.state import AGAIN, CLOCK, COLUMN, NONE, PAIR, Fleet, Requests, State, int64
from cace_env.sessions import AGAIN_AGES_S, AGAIN_SHAPE, AGAIN_STEPS

Array = Any
FIRST_AGE_US: Final = int64(1_000_000)  # end of the first range of ages; each is as long as all before it
LONGEST_US: Final = int64(AGAIN_AGES_S[-1] * 1_000_000)
AGES: Final = int64(AGAIN_SHAPE[2])
STEPS: Final = int64(AGAIN_STEPS)
LAST_STEP: Final = STEPS - 1  # STEPS is a power of two, so that this takes no division


@inlined
def ask(s: State, m: int, pair: int, task: int) -> None:
    """A request of a session arrives at model m: a pause, if there is one, is over."""
    at = s.pairs[pair, PAIR.paused_at]
    step = min((s.pairs[pair, PAIR.kind] & LAST_STEP) + 1, LAST_STEP) if at != 0 else int64(0)
    s.pairs[pair, PAIR.kind] = task * STEPS + step
    s.pairs[pair, PAIR.paused_at] = min(at, 0) - 1
    if at > 0:
        older, newer = s.pairs[pair, PAIR.older], s.pairs[pair, PAIR.newer]
        if newer == NONE:
            s.paused[m] = older
        else:
            s.pairs[newer, PAIR.older] = older
        if older != NONE:
            s.pairs[older, PAIR.newer] = newer


@inlined
def pause(s: State, w: Requests, m: int, r: int) -> None:
    """Request r has left model m: if it was its session's last one in flight there, the session pauses."""
    pair = int64(w.columns[r, COLUMN.session_pair])
    s.pairs[pair, PAIR.paused_at] += 1
    if s.pairs[pair, PAIR.paused_at] == 0:
        newest = s.paused[m]
        s.pairs[pair, PAIR.paused_at] = max(s.scalars[CLOCK], 1)  # 0 = none yet
        s.pairs[pair, PAIR.older] = newest
        s.pairs[pair, PAIR.newer] = NONE
        if newest != NONE:
            s.pairs[newest, PAIR.newer] = pair
        s.paused[m] = pair


@inlined
def chances(s: State, f: Fleet, m: int) -> tuple[float, float, float]:
    """Probability that a session which pauses at model m ends that within each of `AGAIN_WITHIN_S`."""
    now = s.scalars[CLOCK]
    soon, later, much_later = 1.0, 1.0, 1.0
    age, end = int64(0), FIRST_AGE_US
    pair = s.paused[m]
    while pair != NONE:
        passed = now - s.pairs[pair, PAIR.paused_at]
        if passed >= LONGEST_US:
            break
        while passed >= end:  # none is younger than the one before it
            end <<= 1
            age += 1
        row = s.pairs[pair, PAIR.kind] * AGES + age
        soon *= f.silent[row, AGAIN.soon]
        later *= f.silent[row, AGAIN.later]
        much_later *= f.silent[row, AGAIN.much_later]
        pair = s.pairs[pair, PAIR.older]
    return 1.0 - soon, 1.0 - later, 1.0 - much_later
