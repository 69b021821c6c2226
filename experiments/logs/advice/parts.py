"""A log cut in time: what weights are tuned on, what policies are chosen by, and what they are judged by.

The three stand one after the other, so that nothing is learned from what it is judged by. Policies play the whole log
as one episode: they know the past alone, memory is filled when the judging begins, and nobody's queue is cut off.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from cace_env.config import ConfigError
from cace_env.evaluation.intervals import FEWEST_WINDOWS
from cace_env.tables import Int64Array
from cace_env.traces.windows import edges_of, part_of, windows_of
from cace_env.workload import Workload

# Tuning and judging need most of a log; choosing only tells a few policies apart.
TUNED_SHARE: Final = 0.4  # of the rows, the first
CHOSEN_SHARE: Final = 0.2  # the next
JUDGED_SHARE: Final = 0.4  # the rest
TUNING_WINDOWS: Final = 4  # episodes that the tuning part is cut into
WINDOWS: Final = 20  # of the judging part, by default: nearly seven blocks of three
LEAST_ROWS: Final = 25  # of a window: fewer say nothing


class Parts(NamedTuple):
    """A log in time order, cut into windows of equally many requests."""

    tuning: tuple[Workload, ...]  # the first part as episodes
    whole: Workload
    starts: Int64Array  # (V + 1,) rows where the windows of the whole log begin; the last is its end
    tuned: int  # windows of the first part, to tune on
    chosen: int  # windows of the second part, to choose by
    dropped: int  # requests at the beginning that were left out, because there were too many

    @property
    def windows(self) -> int:
        """How many windows judge."""
        return len(self.starts) - 1 - self.tuned - self.chosen

    @property
    def judged_from(self) -> int:
        """The row from which on policies are judged."""
        return int(self.starts[self.tuned + self.chosen])


def parts_of(workload: Workload, windows: int | None = None, most: int | None = None) -> Parts:
    """Cuts the requests of a log.

    Args:
        workload: all of them, in order of time.
        windows: that judge; as many as have enough requests by default, at most `WINDOWS`.
        most: requests; of more, the last are taken.

    Raises:
        ConfigError: too few requests for as many windows.
    """
    dropped = 0 if most is None else max(0, len(workload) - most)
    if dropped:
        workload = part_of(workload, "test", dropped / len(workload))
    rows, wanted = len(workload), windows or FEWEST_WINDOWS
    fitting = int(rows * JUDGED_SHARE) // LEAST_ROWS
    if fitting < wanted:
        raise ConfigError(
            f"the log has {rows} requests; {wanted} windows of at least {LEAST_ROWS} in its last {JUDGED_SHARE:.0%} "
            f"need {math.ceil(wanted * LEAST_ROWS / JUDGED_SHARE)}"
        )
    count = windows or min(WINDOWS, fitting)
    tuned, chosen = round(count * TUNED_SHARE / JUDGED_SHARE), round(count * CHOSEN_SHARE / JUDGED_SHARE)
    starts = edges_of(rows, tuned + chosen + count)
    tuning = part_of(workload, "train", int(starts[tuned]) / rows)
    return Parts(tuple(windows_of(tuning, TUNING_WINDOWS)), workload, starts, tuned, chosen, dropped)
