"""What guards did in a comparison: how often LRU decided in a policy's place, and why."""

from __future__ import annotations

from typing import Final

import numpy as np

from experiments.reports.page import Cell, Table
from experiments.running.run_folder import FALLBACKS, Run

GUARDS: Final = """\
A policy called `guarded:...` stands behind a guard, which hands a decision to LRU where the policy's inputs are far out
of range (input), where it fails (error) or takes too long (late), while demand is not what its features foretold
(forecast), where more than a quarter of the answers take longer than a load (compute), and where a model that could
be loaded has waited too long (starved). Decisions of all seeds; a policy whose guard never took over costs exactly
what it costs alone."""


def guard_table(run: Run) -> Table | None:
    """Decisions that LRU took, by scenario, policy and reason; None where no policy was guarded."""
    rows: list[list[Cell]] = []
    for scenario in run.scenarios:
        for policy in run.policies(scenario):
            columns = run.episodes[scenario, policy]
            there = [name for name in FALLBACKS if name in columns and np.isfinite(columns[name]).any()]
            if not there:
                continue
            decisions = int(np.nansum(columns["decisions"]))
            counts = {name: int(np.nansum(columns[name])) for name in there}
            share = f"{100 * sum(counts.values()) / decisions:.1f} %" if decisions else "-"
            rows.append([scenario, policy, decisions, share, *(counts.get(name) for name in FALLBACKS)])
    header = ["scenario", "policy", "decisions", "by LRU", *FALLBACKS.values()]
    return Table("Decisions that LRU took", header, rows, filters=["scenario"]) if rows else None
