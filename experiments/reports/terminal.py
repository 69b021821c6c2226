"""The main numbers of a comparison in the terminal."""

from __future__ import annotations

from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.reading.verdicts import floor, in_short, own_policies, saved
from experiments.reports.comparison import figure, headlines
from experiments.running.run_folder import BASELINE, Run

IN_TERMINAL: Final = {
    "ttft_mean_s": "TTFT",
    "ttft_p95_s": "TTFT p95",
    "longest_wait_s": "longest wait",
    "e2e_mean_s": "E2E",
    "evictions": "evictions",
    "loads": "loads",
    "decisions": "decisions",
}
IN_TERMINAL_STYLE: Final[dict[str, Any]] = {
    "title_justify": "left",
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1),
    "pad_edge": False,
}


def print_tables(run: Run, console: Console) -> None:
    """The main numbers of each scenario, and a summary, in the terminal."""
    marked = {BASELINE, "cace", *own_policies(run)}
    for scenario in run.scenarios:
        about = run.about["scenarios"][scenario]
        shown = Table(title=f"{scenario}: {about['label']} (times in s, means over seeds)", **IN_TERMINAL_STYLE)
        shown.add_column("policy", no_wrap=True)
        shown.add_column("cost saved vs LRU [%]", justify="right", no_wrap=True)
        for heading in IN_TERMINAL.values():
            shown.add_column(heading, justify="right")
        for policy in run.ranking(scenario):
            gain = "" if policy == BASELINE else saved(run, scenario, policy).replace("**", "").replace(" %", "")
            cells = [figure(run.mean(scenario, policy, metric)) for metric in IN_TERMINAL]
            shown.add_row(policy, gain, *cells, style="bold" if policy in marked else None)
        console.print(shown)
        if floor(run, scenario):
            console.print(floor(run, scenario), highlight=False)
    header, rows = headlines(run)
    summary = Table(title="Cost saved against LRU [%]", **IN_TERMINAL_STYLE)
    for heading in header[:-1]:  # without swapping: in the report, where there is room
        summary.add_column(heading, no_wrap=heading == "scenario", overflow="fold")
    for row in rows:
        cells = [cell.replace("**", "").replace(" %", "") for cell in row[:-1]]
        summary.add_row(*(cell.replace(" ", "\n", 1) if cell[0].isalpha() else cell for cell in cells))
    console.print(summary)
    for line in in_short(run):
        console.print(line.replace("**", ""), highlight=False)
