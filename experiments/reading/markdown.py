"""Tables, numbers and gains as Markdown: what pages and reports are written with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import Estimate


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Literal["left", "right"] = "left") -> str:
    """A table without a line feed at its end.

    Args:
        header: one cell per column.
        rows: cells, as many as `header` has.
        numbers: "right" puts every column but the first to the right.

    Raises:
        ValueError: a row is longer or shorter than the header.
    """
    lines = [header, ["---"] + ["---:" if numbers == "right" else "---"] * (len(header) - 1), *rows]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a row of {len(line)} cells under a header of {len(header)}: {list(line)}")
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A cell as it may stand in a table: a bar or a line feed in a name would make others of it."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.splitlines()) if "\n" in text else text)


def number(value: float | None) -> str:
    """Three significant digits at most, above 100 whole; `-` where there is no number."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(gain: Gain) -> str:
    """A gain with its interval; bold where the interval leaves out 0, `-` where there is no gain."""
    if np.isnan(gain.percent):
        return "-"
    if np.isnan(gain.low):
        return f"{gain.percent:+.1f} %"
    text = f"{gain.percent:+.1f} % [{gain.low:+.1f}, {gain.high:+.1f}]"
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text


def score_text(score: Estimate, *, interval: bool = True, digits: int = 1) -> str:
    """A score with its interval, in so many decimals; without any where it is far below 0; `-` where there is none."""
    if np.isnan(score.value):
        return "-"
    digits = 0 if score.value < -100 else digits
    bounds = "" if np.isnan(score.low) or not interval else f" [{score.low:.{digits}f}, {score.high:.{digits}f}]"
    return f"{score.value:.{digits}f}{bounds}"
