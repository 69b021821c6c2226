"""What shadow mode has found, in sentences."""

from __future__ import annotations

from typing import Final

import numpy as np

from cace_env.config import one_line
from cace_env.evaluation.intervals import Gain, block_of, paired_gain
from cace_env.live.shadow.deciding import Watcher

MOST_WINDOWS: Final = 48  # that an interval is drawn of; of a long run, neighbours are put together
FEW: Final = 20  # differing decisions that have been judged: fewer say nothing
TRUSTED: Final = 0.8  # of the looks; one that falls between what a server does and what the mirror does differs
MANY: Final = 0.05  # of the first tokens; loads that end a little before the tables say make a few


def evictions_saved(watcher: Watcher) -> Gain:
    """How many evictions fewer the policy alone would have made [%], by the two mirrors.

    The interval draws blocks of consecutive windows again; it has none before 8 windows.
    """
    system, policy = watcher.server.evictions, watcher.own.evictions
    there = [*system, *policy]
    windows = range(min(there, default=0), max(there, default=-1) + 1)
    if not windows:
        return paired_gain([], [])
    together = np.arange(0, len(windows), -(-len(windows) // MOST_WINDOWS))
    counts = [
        np.add.reduceat(np.array([each[window] for window in windows], dtype=np.float64), together)
        for each in (system, policy)
    ]
    return paired_gain(*counts, block=block_of(len(together)))


def summary(watcher: Watcher) -> list[str]:
    """The findings, a sentence or two each."""
    tally, name, rule = watcher.tally, watcher.policy.name, watcher.deployed.name
    said = [f"{tally.requests:,} requests, {tally.asked:,} questions whom to evict."]
    if tally.unknown:
        said.append(
            f"{tally.unknown:,} requests more were for models that are not of this fleet; they are in neither mirror."
        )
    if tally.unread:
        said.append(
            f"{tally.unread:,} requests more were compressed or no JSON; they went through, and are in neither mirror."
        )
    if tally.elsewhere:
        said.append(
            f"{tally.elsewhere:,} requests more were posted to other paths, such as embeddings; they went through, and "
            "are in neither mirror."
        )
    if tally.failed or tally.given_up:
        said.append(
            f"{tally.failed:,} requests were refused or broken off by the server, and {tally.given_up:,} given up by "
            "their clients."
        )
    if not tally.requests:
        return [*said, "Nothing can be said of the policy: are the models of the requests named as in the fleet?"]
    if not tally.asked:
        return [
            *said,
            "Nothing can be said of the policy: everything that was asked for fitted, or one model could leave.",
        ]
    said.append(f"{name} would have evicted the same model in {tally.agreed / tally.asked:.0%} of them.")
    judged = tally.sooner + tally.later
    if tally.asked > tally.agreed:
        said.append(
            f"Where they differ ({tally.asked - tally.agreed:,}, of which {judged:,} have been settled since), the "
            f"model that {name} would have kept was asked for again first in {tally.sooner:,}, the other one in "
            f"{tally.later:,}." + (" That is too few to mean anything." if judged < FEW else "")
        )
    said.append(
        f"By the mirrors the watched system evicted {watcher.server.evicted:,} times, and {name} alone would have "
        f"{watcher.own.evicted:,} times for the same requests; saved: {evictions_saved(watcher)}."
    )
    if tally.by_lru:
        reasons = ", ".join(f"{reason} {times:,}" for reason, times in tally.by_lru.most_common())
        said.append(f"LRU answered for {name} in {sum(tally.by_lru.values()):,} questions ({one_line(reasons)}).")
    if tally.looks:
        same = tally.matches / tally.looks
        said.append(
            f"The server's own list was seen {tally.looks:,} times, and the mirror held the same models in {same:.0%}."
            + (
                " So the policy was often asked in another state than the server's: mend the fleet file first."
                if same < TRUSTED
                else ""
            )
            + f" {tally.seen:,} choices were seen there, the others are what {rule} does; {tally.missed:,} evictions "
            "came earlier there than in the mirror, and are not compared."
        )
    else:
        said.append(f"What lies in memory was not seen: it is what {rule} does under these rules.")
    if not watcher.server.firsts:
        return [*said, "No first token was seen: did every request fail?"]
    early = watcher.server.early / watcher.server.firsts
    said.append(
        f"{early:.1%} of the first tokens were seen before the mirror could have any."
        + (" Load times are too long, the memory too small, or the rule is another one." if early > MANY else "")
    )
    return said
