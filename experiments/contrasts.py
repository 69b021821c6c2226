"""Where the gain comes from in Swap-v0: pairs of policies that differ in one thing, on the same requests."""

from __future__ import annotations

from typing import Final, NamedTuple

from cace_env.markdown import table
from experiments.lineup import ENV_OF, SWAP
from experiments.run_folder import BASELINE, Run
from experiments.verdicts import saved


class Contrast(NamedTuple):
    """What one policy does and the other does not."""

    part: str
    what: str
    policy: str
    over: str


CONTRASTS: Final = (
    Contrast("victims", "CACE's victims instead of LRU's, oldest request first", "cace", BASELINE),
    Contrast("victims", "CACE's victims instead of LRU's, under WSJF", "wsjf+cace", "wsjf+lru"),
    Contrast("victims", "victims chosen knowing who asks next (belady-cost)", "belady-cost", BASELINE),
    Contrast("order", "shortest load first instead of the oldest request", "shortest-load+lru", BASELINE),
    Contrast("order", "WSJF instead of the oldest request", "wsjf+lru", BASELINE),
    Contrast("order", "WSJF instead of the oldest request, CACE's victims", "wsjf+cace", "cace"),
    Contrast("order", "120 s as the longest wait under WSJF", "wsjf-max-wait+lru", "wsjf+lru"),
    Contrast(
        "draining", "busy models are drained only where idle ones do not suffice", BASELINE, "fifo-any-victim+lru"
    ),
    Contrast(
        "draining",
        "30 s without draining: Eviction-v0 with `drain_after` 30 instead of 0 s",
        "patient-fifo+lru",
        BASELINE,
    ),
    Contrast("draining", "nobody is ever drained, instead of after 30 s", "llama-swap+lru", "patient-fifo+lru"),
    Contrast("waiting", "up to 30 s for an idle victim, under WSJF", "patient-wsjf+lru", "wsjf+lru"),
    Contrast("waiting", "up to 120 s instead of 30 s", "very-patient-wsjf+lru", "patient-wsjf+lru"),
    Contrast("prefetch", "loading ahead where nobody waits", "prefetch-wsjf+lru", "patient-wsjf+lru"),
    Contrast("together", "patient WSJF with CACE's victims instead of LRU", "patient-wsjf+cace", BASELINE),
)


def swap_scenarios(run: Run) -> list[str]:
    """Those in which the order was decided, too."""
    return [name for name in run.scenarios if run.about["scenarios"][name].get("env") == ENV_OF[SWAP]]


def gain_table(run: Run, metric: str = "cost") -> str:
    """How much each thing saves [%], by scenario; empty where no pair of policies ran."""
    scenarios = swap_scenarios(run)
    rows = []
    for contrast in CONTRASTS:
        ran = [s for s in scenarios if {contrast.policy, contrast.over} <= set(run.policies(s))]
        if ran:
            cells = [saved(run, s, contrast.policy, metric, contrast.over) if s in ran else "-" for s in scenarios]
            rows.append([contrast.part, contrast.what, f"`{contrast.policy}` over `{contrast.over}`", *cells])
    return table(("part", "what", "policies", *scenarios), rows) if rows else ""
