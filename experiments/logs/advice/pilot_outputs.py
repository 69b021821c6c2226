"""What is said of a pilot: a sentence, a screen of numbers, pilot.json and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from cace_env.files import csv_text, json_text, replace_file
from experiments.logs.advice.measured import Measured, doubts_of
from experiments.logs.advice.page import measured_section
from experiments.logs.advice.pilot import Change, Kpi
from experiments.logs.model_names import shown
from experiments.reports.page import Page, Section, Table, write_page
from experiments.running.command_line import screen_table
from experiments.running.run_folder import surroundings

HEADER: Final = ("KPI", "change", "requests", "before s", "after s")
SHIFTED: Final = 0.1  # of the mix: from here on, means cannot be compared as they are
NOTE: Final = (
    "Below 0 is faster. Intervals are 95 %, of the logarithm of the ratio; bold: the interval leaves out 0. None where "
    "a group has too few requests for one."
)
BEWARE: Final = (
    "The two logs differ in time, and so in traffic: who asked, how much and when. Nothing here tells that from the "
    "policy but the mean of the same mix, which weighs model, task and size of prompt alone. Load is not adjusted for."
)
TURNS: Final = (
    "Before is LRU, after is the policy: they took turns in one log, by chance, so that hours of the day are "
    "spread over both. The first fifth of each turn is left out. Load is not adjusted for."
)


def sentence(change: Change) -> str:
    """What changed, first: of the same mix of requests, where the mix changed."""
    latency = change.kpis[0].latency
    mean, p95 = change.kpi(latency, "mean"), change.kpi(latency, "p95")
    mixed = change.kpi(latency, "mean of the same mix")
    assert mean is not None
    slowest = f" and p95 {_said(p95)}" if p95 is not None else ""
    if mixed is not None and change.mix_shift > SHIFTED:
        as_it_is = f"as measured, with another mix, the mean is {_said(mean)}{slowest}"
        return f"For the same mix of requests, {_means(mixed, change)}; {as_it_is}."
    more = [f"p95 is {_said(p95)}"] if p95 is not None else []
    more += [f"for the same mix of requests the mean is {_said(mixed)}"] if mixed is not None else []
    first = _means(mean, change)
    return f"{first[0].upper()}{'; '.join([first[1:], *more])}."


def _told(kpi: Kpi) -> bool:
    """Whether the interval leaves out 0."""
    return kpi.change.low > 0 or kpi.change.high < 0


def _said(kpi: Kpi) -> str:
    """`12.3 % (4.5 to 20.1) lower`; where the interval holds 0, its other end is `higher` below 0."""
    value, low, high = kpi.change
    word, sign = ("lower", -1) if value < 0 else ("higher", 1)
    size = sorted((sign * low, sign * high))
    interval = "" if low != low else f" ({size[0]:.1f} to {size[1]:.1f})"
    return f"{abs(value):.1f} %{interval} {word}"


def _means(kpi: Kpi, change: Change) -> str:
    """A mean before and after."""
    after, before, both = "after the change", "before", "before and after the change"
    if change.in_turns:
        after, before, both = "under the policy", "under LRU", "under LRU and the policy"
    if _told(kpi):
        return f"mean {kpi.latency} is {_said(kpi)} {after} than {before}"
    return f"mean {kpi.latency} cannot be told apart {both}: {_change(kpi)}"


def _change(kpi: Kpi) -> str:
    if kpi.change.low != kpi.change.low:
        return f"{kpi.change.value:+.1f} %"
    return f"{kpi.change.value:+.1f} % ({kpi.change.low:+.1f} to {kpi.change.high:+.1f})"


def warnings_of(change: Change) -> list[str]:
    """What a reader must not overlook."""
    said = [TURNS if change.in_turns else BEWARE]
    said[:0] = change.cautions
    if change.mix_shift > SHIFTED:
        said.insert(
            0,
            f"The mix changed: {100 * change.mix_shift:.0f} % of the requests would have to be of another model, task "
            "or size. Look at the mean of the same mix, not at means as they are.",
        )
    return said


def rows_of(change: Change) -> list[list[str]]:
    """Every KPI as a row of text; names of models are escaped."""
    return [
        [f"{row.latency} {row.statistic}", f"**{_change(row)}**" if _told(row) else _change(row), _group(row.group),
         f"{row.before_s:.3g}", f"{row.after_s:.3g}"]
        for row in change.kpis
    ]  # fmt: skip


def _group(group: str) -> str:
    word, _, name = group.partition(" ")
    return f"model {shown(name)}" if word == "model" else group


def show_pilot(change: Change, simulated: Sequence[Measured], console: Console) -> None:
    """The sentence, the numbers of all requests, and what to beware of."""
    console.print(f"\n{sentence(change)}", style="bold", soft_wrap=True)
    for text in expected(simulated):
        console.print(text, soft_wrap=True)
    rows = [row for row in rows_of(change) if not row[2].startswith("model")]
    console.print(screen_table(HEADER, rows))
    for text in [*warnings_of(change), *doubts(simulated)]:
        console.print(text.replace("**", ""), style="yellow", soft_wrap=True)


def doubts(simulated: Sequence[Measured]) -> list[str]:
    """Simulated times that are far from the measured ones, each said once."""
    return list(dict.fromkeys(text for found in simulated for text in doubts_of(found)))


def expected(simulated: Sequence[Measured]) -> list[str]:
    """What the simulation says of the same two logs, beside what was measured."""
    said = []
    for before, after in zip(*(found.latencies for found in simulated), strict=False):
        there = (
            100 * (getattr(after, name) / getattr(before, name) - 1) for name in ("simulated_mean_s", "measured_mean_s")
        )
        told = "the simulation expects a change of mean {} by {:+.1f} %; {:+.1f} % were measured"
        said.append(told.format(before.name, *there))
    return [f"On {simulated[0].fleet}, {'; '.join(said)}."] if said else []


def write_pilot(change: Change, simulated: Sequence[Measured], folder: Path, command: str) -> Path:
    """kpis.csv, pilot.json and the page; returns the page.

    Args:
        change: what was measured.
        simulated: of the logs before and after, each with its policy; empty where nobody said on which fleet.
        folder: of the run.
        command: as it was typed.
    """
    header = ("latency", "requests", "kpi", "before_s", "after_s", "change_percent", "low", "high")
    numbers = [[row.latency, row.group, row.statistic, row.before_s, row.after_s, *row.change] for row in change.kpis]
    replace_file(folder / "kpis.csv", csv_text(header, numbers))
    warnings = [*warnings_of(change), *doubts(simulated)]
    content = {
        "sentence": sentence(change),
        "warnings": warnings,
        "kpis": [dict(zip(header, row, strict=True)) for row in numbers],
        "traffic": [row._asdict() for row in change.traffic],
        "mix_shift": change.mix_shift,
        "simulated": [found.plain() for found in simulated],
        "windows": change.windows,
        "command": command,
        **surroundings(),
    }
    replace_file(folder / "pilot.json", json_text(content))
    page = Page(
        title="What the pilot changed",
        headline=sentence(change),
        boxes=warnings,
        sections=[
            Section(
                "KPIs",
                texts=expected(simulated),
                tables=[
                    Table("kpis", HEADER, rows_of(change), NOTE)
                ],
            ),
            Section(
                "Traffic",
                tables=[Table("traffic", ("what", "before", "after"), [list(row) for row in change.traffic])],
            ),
            *map(measured_section, simulated),
            Section(
                "How this was reached",
                texts=[
                    f"Each log in {change.windows} windows of equally many requests; blocks of consecutive windows "
                    "are drawn again, the two logs independently of each other. For the same mix, requests after are "
                    "weighed by task, model and quarter of prompt sizes as they were before; what one log lacks is "
                    "left out. Users are counted, and not matched between the logs.",
                    f"```\n{command}\n```",
                ],
                folded=True,
            ),
        ],
    )  # fmt: skip
    return write_page(page, folder / "report.html")
