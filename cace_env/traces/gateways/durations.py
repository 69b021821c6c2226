"""Whether the measured times of a log look like seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet

from cace_env.tables import NONE
from cace_env.traces.trace import Trace

SLOW_TTFT_S: Final = 60.0  # no gateway makes half of its users wait so long for the first token
ARE_MS: Final = ": are these milliseconds? Then say so in a map of columns (unit: ms), or export seconds"
Durations = Mapping[str, npt.NDArray[np.float64]]


def durations_in(path: Path) -> Iterator[Durations]:
    """The measured times of an import, a piece at a time."""
    with parquet.ParquetFile(path) as file:
        names = [name for name in ("ttft_s", "e2e_s") if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names) if names else ():
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}


def durations_of(trace: Trace) -> Iterator[Durations]:
    """The measured times of a log in memory."""
    for name in ("ttft", "e2e"):
        if (times := getattr(trace, f"{name}_us")) is not None:
            yield {f"{name}_s": np.where(times == NONE, np.nan, times / 1e6)}


def unlikely_times(pieces: Iterable[Durations], span_s: float) -> list[str]:
    """Why measured times may be in another unit than seconds; nothing if they look right.

    Args:
        pieces: seconds, NaN where they are not known, by `ttft_s` and `e2e_s`.
        span_s: from the first to the last request.
    """
    known, slow = Counter[str](), Counter[str]()
    limits = {"ttft_s": SLOW_TTFT_S, "e2e_s": max(span_s, SLOW_TTFT_S)}
    for piece in pieces:
        for name, seconds in piece.items():
            known[name] += int((~np.isnan(seconds)).sum())
            slow[name] += int((seconds > limits[name]).sum())
    found = []
    if slow["ttft_s"] * 2 > known["ttft_s"]:
        found.append(f"more than half of the times to the first token are above {SLOW_TTFT_S:g} s{ARE_MS}")
    if slow["e2e_s"] * 100 > known["e2e_s"]:
        found.append(f"{slow['e2e_s']:,} requests took longer than the whole log spans, {span_s:,.0f} s{ARE_MS}")
    return found
