"""Where the gain comes from in Swap-v0: pairs of policies that differ in one thing, on the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cace_env.tables import Protocol
from experiments.reading.verdicts import saved
from experiments.running.contestants import Contrast
from experiments.running.run_folder import BASELINE, Run

CONTRASTS: Final[Mapping[str, tuple[Contrast, ...]]] = {  # by part of what a policy decides
    "victims": (
        Contrast("CACE's victims instead of LRU's, oldest request first", "cace", BASELINE),
        Contrast("CACE's victims instead of LRU's, under WSJF", "wsjf+cace", "wsjf+lru"),
        Contrast("victims chosen knowing who asks next (belady-cost)", "belady-cost", BASELINE),
    ),
    "order": (
        Contrast("shortest load first instead of the oldest request", "shortest-load+lru", BASELINE),
        Contrast("WSJF instead of the oldest request", "wsjf+lru", BASELINE),
        Contrast("WSJF instead of the oldest request, CACE's victims", "wsjf+cace", "cace"),
        Contrast("120 s as the longest wait under WSJF", "wsjf-max-wait+lru", "wsjf+lru"),
    ),
    "draining": (
        Contrast("busy models are drained only where idle ones do not suffice", BASELINE, "fifo-any-victim+lru"),
        Contrast("30 s without draining: Eviction-v0 with drain_after 30 instead of 0 s", "patient-fifo+lru", BASELINE),
        Contrast("nobody is ever drained, instead of after 30 s", "llama-swap+lru", "patient-fifo+lru"),
    ),
    "waiting": (
        Contrast("up to 30 s for an idle victim, under WSJF", "patient-wsjf+lru", "wsjf+lru"),
        Contrast("up to 120 s instead of 30 s", "very-patient-wsjf+lru", "patient-wsjf+lru"),
    ),
    "prefetch": (Contrast("loading ahead where nobody waits", "prefetch-wsjf+lru", "patient-wsjf+lru"),),
    "together": (Contrast("patient WSJF with CACE's victims instead of LRU", "patient-wsjf+cace", BASELINE),),
}


class Contrasted(NamedTuple):
    """What one thing saves on each scenario of Swap-v0."""

    part: str
    contrast: Contrast
    gains: list[str]  # by scenario, `-` where one of the two did not run


def contrasted(run: Run, metric: str = "cost") -> list[Contrasted]:
    """How much each thing saves [%], by scenario of Swap-v0; empty where no pair of policies ran."""
    scenarios, rows = run.of_env(Protocol.SWAP), []
    for part, contrast in ((part, contrast) for part, contrasts in CONTRASTS.items() for contrast in contrasts):
        ran = [s for s in scenarios if {contrast.policy, contrast.over} <= set(run.policies(s))]
        if ran:
            gains = [saved(run, s, contrast.policy, metric, contrast.over) if s in ran else "-" for s in scenarios]
            rows.append(Contrasted(part, contrast, gains))
    return rows
