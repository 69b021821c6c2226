"""A binary heap of times and the tracks that they belong to: the least time first, ties by track."""

from __future__ import annotations

from typing import Any

from cace_env.compilation import inner


@inner
def sift_down(times: Any, tracks: Any, size: int, root: int) -> None:
    """Restores the heap (least time first; ties by track) below `root`."""
    time, track = times[root], tracks[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            times[right] < times[child] or (times[right] == times[child] and tracks[right] < tracks[child])
        ):
            child = right
        if not (times[child] < time or (times[child] == time and tracks[child] < track)):
            break
        times[root], tracks[root] = times[child], tracks[child]
        root = child
    times[root], tracks[root] = time, track


@inner
def sift_up(times: Any, tracks: Any, leaf: int) -> None:
    """Restores the heap above `leaf`."""
    time, track = times[leaf], tracks[leaf]
    while leaf > 0:
        parent = (leaf - 1) // 2
        if not (time < times[parent] or (time == times[parent] and track < tracks[parent])):
            break
        times[leaf], tracks[leaf] = times[parent], tracks[parent]
        leaf = parent
    times[leaf], tracks[leaf] = time, track
