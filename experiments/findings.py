"""What victims, order, waiting and prefetch are worth, by load engine and pressure: `docs/findings.md`.

    python -m experiments.findings --out runs/findings
    python -m experiments.docs findings --run runs/findings --run runs/suite-v1     the tables of the page

`experiments/running/findings_grid.py` has what is run, `experiments/pages/findings.py` the tables.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cace_env.scenarios import seeds
from experiments.pages.findings import print_summary
from experiments.running.command_line import exit_status
from experiments.running.findings_grid import read_results, run_grid


@dataclass(frozen=True)
class Options:
    """What victims, order, waiting and prefetch are worth, by load engine and pressure."""

    out: str | None = None
    """New folder for costs.csv; without it and without --results, runs/findings."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Test seeds of every cell."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Threads; all cores by default."""
    results: str | None = None
    """Costs of an earlier run, instead of running anything."""


def find(options: Options, console: Console) -> int:
    """Runs or reads the grid and prints what it says; returns the exit status.

    Raises:
        ConfigError: seeds out of range, a file in the way, or results that cannot be used.
        SimulationError: an episode failed; what had finished is in the file of costs.
    """
    path = Path(options.results) if options.results else Path(options.out or "runs/findings") / "costs.csv"
    if options.results is None:
        began = time.perf_counter()
        run_grid(path, seeds("test", options.seeds), options.workers or os.cpu_count() or 1, console)
        console.print(f"{time.perf_counter() - began:.0f} s; costs are in {path}", highlight=False)
    results = read_results(path)
    print_summary(results, console)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.findings")
    return exit_status(
        lambda: find(options, console), "interrupted; a file of costs that was being written is incomplete: remove it"
    )


if __name__ == "__main__":
    sys.exit(main())
