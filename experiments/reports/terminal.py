"""The main numbers of a comparison in the terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Console

from experiments.reading.markdown import number
from experiments.reading.verdicts import floor, in_short, own_policies, saved
from experiments.reports.comparison import headlines
from experiments.running.command_line import screen_table
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


def print_tables(run: Run, console: Console) -> None:
    """The main numbers of each scenario, and a summary, in the terminal."""
    marked = {BASELINE, "cace", *own_policies(run)}
    for scenario in run.scenarios:
        about = run.about["scenarios"][scenario]
        rows = []
        for policy in run.ranking(scenario):
            gain = "" if policy == BASELINE else saved(run, scenario, policy).replace("**", "").replace(" %", "")
            cells = [number(run.mean(scenario, policy, metric)) for metric in IN_TERMINAL]
            rows.append([f"**{policy}**" if policy in marked else policy, gain, *cells])
        header = ("policy", "cost saved vs LRU [%]", *IN_TERMINAL.values())
        title = f"{scenario}: {about['label']} (times in s, means over seeds)"
        console.print(screen_table(header, rows, title, whole=2))
        if floor(run, scenario):
            console.print(floor(run, scenario))
    headings, lines = headlines(run)
    *headings, _ = headings  # without swapping: in the report, where there is room
    plain = [[cell.replace("**", "").replace(" %", "") for cell in row[:-1]] for row in lines]
    rows = [[cell.replace(" ", "\n", 1) if cell[0].isalpha() else cell for cell in row] for row in plain]
    console.print(screen_table(headings, rows, "Cost saved against LRU [%]", left=len(headings)))
    for line in in_short(run):
        console.print(line.replace("**", ""))
