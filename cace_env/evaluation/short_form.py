"""The main results of an evaluation for readers: a table that `print` shows, and one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

DIGITS: Final = 3  # significant digits


class Row(NamedTuple):
    """A line of the table: its metrics, each with a word before and a unit after it."""

    title: str
    cells: tuple[tuple[str, str, str], ...]  # metric, word before, unit after


ROWS: Final = (
    Row("cost", (("cost", "", ""), ("cost_per_request", "per request", ""))),
    Row("TTFT", (("ttft_mean_s", "mean", "s"), ("ttft_p95_s", "p95", "s"))),
    Row("E2E", (("e2e_mean_s", "mean", "s"), ("e2e_p95_s", "p95", "s"))),
    Row("longest wait", (("longest_wait_s", "", "s"),)),
    Row("requests", (("requests", "", ""), ("refused", "refused", ""))),
    Row("decisions", (("decisions", "", ""), ("illegal_actions", "illegal, replaced", ""))),
    Row("evictions", (("evictions", "", ""), ("forced_evictions", "without a choice", ""))),
    Row("loads", (("loads", "", ""), ("load_s", "taking", "s"))),
)
IN_LINE: Final = (
    ("cost", "cost {}"),
    ("ttft_mean_s", "TTFT {} s"),
    ("e2e_mean_s", "E2E {} s"),
    ("evictions", "{} evictions"),
    ("decisions", "{} decisions"),
    ("illegal_actions", "{} illegal actions replaced"),
)


def rounded(value: float) -> str:
    """Format with three significant digits, without exponent; whole numbers are kept: 12,345; 12; 12.3; 0.0123."""
    if value == round(value):
        return f"{value:,.0f}"
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def table(policy: str, scenario: str, label: str, seeds: Sequence[int], means: Mapping[str, float]) -> str:
    """Format a title and a line for each of `ROWS` that has a number, in columns.

    Args:
        policy: its name.
        scenario: its name.
        label: label of the workload.
        seeds: seeds of the episodes.
        means: means over the seeds, as from `Evaluation.summary`.
    """
    title = f"{policy} on {scenario} ({label}), {_seeds(seeds)}{', means' if len(seeds) > 1 else ''}"
    shown = [
        (row.title, [(word, rounded(means[metric]), unit) for metric, word, unit in row.cells if metric in means])
        for row in ROWS
    ]
    shown = [(name, cells) for name, cells in shown if cells]
    lines = [title]
    widths = [max((len(cells[at][1]) for _, cells in shown if len(cells) > at), default=0) for at in range(2)]
    words = max((len(cells[0][0]) for _, cells in shown), default=0)
    for name, cells in shown:
        word, number, unit = cells[0]
        line = f"  {name:<12}  {word:<{words}}  {number:>{widths[0]}} {unit:<1}"
        if len(cells) > 1:
            word, number, unit = cells[1]
            line += f"  {word:<17}  {number:>{widths[1]}} {unit}"
        lines.append(line.rstrip())
    if means.get("truncated"):
        lines.append(f"  {means['truncated']:.0%} of the episodes were cut short and are not in the numbers above")
    return "\n".join(lines)


def line(policy: str, scenario: str, seeds: Sequence[int], means: Mapping[str, float]) -> str:
    """Format the same in one line; arguments as for `table`."""
    numbers = [text.format(rounded(means[metric])) for metric, text in IN_LINE if metric in means]
    return f"<{policy} on {scenario}, {_seeds(seeds)}: {', '.join(numbers) or 'no whole episode'}>"


def _seeds(seeds: Sequence[int]) -> str:
    """Format how many seeds there are, and which if they are few or consecutive."""
    first, last = seeds[0], seeds[-1]
    if len(seeds) == 1:
        return f"seed {first}"
    if list(seeds) == list(range(first, last + 1)):
        return f"{len(seeds)} seeds ({first} to {last})"
    return f"{len(seeds)} seeds"
