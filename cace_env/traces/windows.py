"""A log in pieces of time: what to tune on and what to judge by, and windows as episodes of their own.

What is attached is attached once to the whole log, which is cut afterwards: habits span the cuts. Windows have equal
numbers of requests, not equal time: none is empty at night, and each weighs about the same in a sum.

A window that is played alone begins with an empty fleet, without prefixes and without a queue. That makes policies more
alike, so nothing is judged so: policies are judged on the whole log, whose results are told apart by windows
(`cace_env.simulation.windows`). To tune on, windows are episodes as good as others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cace_env.tables import NONE, Int64Array
from cace_env.traces.config import Part
from cace_env.workload import Workload, WorkloadError


def windows_of(workload: Workload, count: int) -> list[Workload]:
    """Cut a workload into consecutive windows, in order of time.

    A request that followed one of an earlier window (`after`) arrives in open loop, at its recorded time.

    Args:
        workload: in order of arrival, as a log is.
        count: windows; their numbers of requests differ by one at most.

    Returns:
        `count` workloads whose times begin at 0. `meta` has `window` (its number), `from_s` and `to_s` (first and last
        arrival in the whole log, compressed as the log is), `requests`, and `links_cut` (requests that no longer wait
        for an earlier one).

    Raises:
        WorkloadError: there are fewer requests than windows, or none are asked for, or arrivals are not in order.
    """
    if not 1 <= count <= len(workload):
        raise WorkloadError(f"{count} windows of {len(workload)} requests; there have to be 1 to {len(workload)}")
    _check_order(workload)
    edges = edges_of(len(workload), count)
    return [
        _cut(workload, int(first), int(end), {"window": number})
        for number, (first, end) in enumerate(itertools.pairwise(edges))
    ]


def edges_of(requests: int, windows: int) -> Int64Array:
    """The rows at which windows of equally many requests begin, and the end, `(windows + 1,)`."""
    return np.linspace(0, requests, windows + 1).round().astype(np.int64)


def part_of(workload: Workload, part: Part, train_share: float) -> Workload:
    """The first `train_share` of the requests ("train"), what follows ("test"), or all of them; as in `windows_of`.

    Raises:
        WorkloadError: a part would have no request, or arrivals are not in order.
    """
    if part == "all":
        return workload
    _check_order(workload)
    at = trained_on(len(workload), train_share)
    if not 0 < at < len(workload):
        raise WorkloadError(f"{len(workload)} requests are too few for a part of {train_share:.0%} and another one")
    first, end = (0, at) if part == "train" else (at, len(workload))
    which, share = ("first", train_share) if part == "train" else ("last", 1 - train_share)
    cut = _cut(workload, first, end, {"part": part, "train_share": train_share})
    joint = ", " if ":" in workload.label else ": "
    return replace(cut, label=f"{workload.label}{joint}{which} {100 * share:g} % of the log")


def trained_on(requests: int, train_share: float) -> int:
    """How many requests of a log are in its training part."""
    return round(requests * train_share)


def _check_order(workload: Workload) -> None:
    if (np.diff(workload.arrival_us) < 0).any():
        raise WorkloadError("workload column 'arrival_us' is not in order: a log is cut in order of time; sort it")


def _cut(workload: Workload, first: int, end: int, meta: Mapping[str, Any]) -> Workload:
    """Some rows of a workload, with times from 0."""
    arrival_us, after = workload.arrival_us[first:end], workload.after[first:end]
    linked, inside = after != NONE, after >= first
    origin_us = int(arrival_us[0])
    before_s = float(workload.meta.get("from_s", 0.0))
    columns = {
        name: getattr(workload, name)[first:end]
        for name in ("model", "task", "context_tokens", "new_tokens", "output_tokens", "user", "session")
    }
    return Workload(
        arrival_us=arrival_us - origin_us,
        after=np.where(inside, after - first, NONE).astype(np.int32),
        think_us=np.where(inside, workload.think_us[first:end], 0),
        **columns,
        label=workload.label,
        meta={
            **workload.meta,
            **meta,
            "requests": end - first,
            "window_edges": edges_of(end - first, 1),
            "from_s": before_s + origin_us / 1e6,
            "to_s": before_s + int(arrival_us[-1]) / 1e6,
            "links_cut": int(workload.meta.get("links_cut", 0)) + int((linked & ~inside).sum()),
        },
    )
