"""Who decides: the policy; or LRU, as a person says, as it is LRU's turn in a pilot, or as a guard says.

In a pilot policy and LRU take turns by the clock, in blocks of some minutes: decisions interact (what one evicts the
next one loads), so that single decisions cannot be compared, and blocks of time can (a switchback experiment). Of 20
blocks `20 * share` are the policy's, drawn anew for each 20 so that no hour of the day has them all. The draw depends
on the time alone: a new start changes nothing, and whoever has a log can tell the blocks apart (`policy_decides`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError

CYCLE: Final = 20  # blocks
BY_HAND, PILOT = "by hand", "pilot"  # why LRU decides, beside the reasons of the guard
SETTLES: Final = 0.2  # share of a block after which what the other one had loaded is hardly there


class Turns(NamedTuple):
    """How a pilot divides time.

    Attributes:
        share: of the blocks that are the policy's, in steps of 0.05.
        block_s: length of a block [s].
    """

    share: float = 1.0
    block_s: float = 1800.0

    def check(self) -> None:
        """Refuses what cannot be divided.

        Raises:
            ConfigError: the share is no multiple of 0.05 up to 1, or the blocks are shorter than a second.
        """
        blocks = self.share * CYCLE
        if not (0 < self.share <= 1 and abs(blocks - round(blocks)) < 1e-6):
            raise ConfigError(f"the share is {self.share:g}; it has to be 0.05, 0.1 and so on up to 1")
        if not self.block_s >= 1:
            raise ConfigError(f"a block of a pilot has {self.block_s:g} s; it has to have 1 s at least")

    def policy_decides(self, time_s: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether the policy decides at these times, seconds since 1970."""
        blocks, which = np.unique(np.asarray(time_s) // self.block_s, return_inverse=True)
        cycles, places = np.divmod(blocks, CYCLE)
        chosen = [place in self._drawn(int(cycle)) for cycle, place in zip(cycles, places, strict=True)]
        return np.array(chosen, dtype=np.bool_)[which]

    def _drawn(self, cycle: int) -> frozenset[int]:
        blocks = random.Random(f"cace-env pilot {cycle}").sample(range(CYCLE), round(self.share * CYCLE))
        return frozenset(blocks)


class Standing(NamedTuple):
    """Who decides now.

    Attributes:
        reason: why LRU does, a word; "" = the policy does.
        detail: the same in a line.
        since_s: since when [s since 1970], as far as it was noticed.
    """

    reason: str
    detail: str
    since_s: float


class Stage:
    """Lets the policy decide, or LRU.

    Args:
        turns: of a pilot; by default the policy always decides.
        now: function that returns seconds since 1970.

    Attributes:
        by_hand: whether a person has handed over to LRU.
        handovers: how often LRU took over, by reason.
    """

    def __init__(self, turns: Turns | None = None, now: Callable[[], float] = time.time) -> None:
        self.turns = turns or Turns()
        self.turns.check()
        self.by_hand = False
        self.handovers: Counter[str] = Counter()
        self._now = now
        self._last = "", ""  # what a guard said at the last decision
        self._standing = Standing("", "", now())

    def closed(self) -> tuple[str, str]:
        """Why the policy is not even asked, a word and a line; "" if it is."""
        if self.by_hand:
            return BY_HAND, "a person has handed over to LRU (SIGUSR2 hands back)"
        if self.turns.share < 1 and not self.turns.policy_decides([self._now()])[0]:
            return PILOT, f"LRU's turn; the policy has {self.turns.share:.0%} of the blocks of {self.turns.block_s:g} s"
        return "", ""

    def decided(self, reason: str, detail: str) -> None:
        """A decision has been taken; by LRU if there is a reason."""
        if reason not in (BY_HAND, PILOT):
            self._last = reason, detail
        self.standing()

    def hand_over(self, to_lru: bool) -> None:
        """LRU decides from now on, whatever a guard or a pilot says, or no longer."""
        self.by_hand = to_lru
        self.standing()

    def standing(self) -> Standing:
        """Who decides now, and since when."""
        reason, detail = self.closed()
        if not reason:
            reason, detail = self._last
        before = self._standing
        since_s = before.since_s if reason == before.reason else self._now()
        if reason and reason != before.reason:
            self.handovers[reason] += 1
        self._standing = Standing(reason, detail, since_s)
        return self._standing
