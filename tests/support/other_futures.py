"""Two episodes with the same past and different futures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cace_env.cases import Case
from cace_env.workload import Workload


def with_another_future(case: Case, workload: Workload, first: int) -> Workload:
    """The same requests before row `first`, others from there on: models, users, sessions, tokens, times, number."""
    rows = len(workload) - 40
    later = np.arange(first, rows)
    rng = np.random.default_rng(3)
    changed = {
        "model": rng.integers(0, case.tables.num_models, len(later)),
        "user": rng.integers(0, 3, len(later)),
        "session": 5_000 + later // 2,
        "context_tokens": rng.integers(200, 900, len(later)),
        "new_tokens": np.full(len(later), 150),
        "output_tokens": rng.integers(1, 300, len(later)),
        "after": np.full(len(later), -1),
        "think_us": np.zeros(len(later)),
        "arrival_us": workload.arrival_us[later] + 1_000_000,
    }
    columns = {}
    for name in changed:
        column = getattr(workload, name)[:rows].copy()
        column[first:] = changed[name]
        columns[name] = column
    return replace(workload, task=workload.task[:rows], **columns)
