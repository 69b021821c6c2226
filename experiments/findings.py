"""What victims, order, waiting and prefetch are worth, by load engine and pressure: `docs/findings.md`.

    python -m experiments.findings --out runs/findings
    python -m experiments.docs findings --run runs/findings --run runs/suite-v1     the tables of the page

`experiments/running/findings_grid.py` has what is run, `experiments/pages/findings.py` the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from cace_env.evaluation.episodes import seed_list
from cace_env.scenarios import seeds
from experiments.pages.findings import print_summary
from experiments.running.command_line import Session, run_command
from experiments.running.findings_grid import grid_cases, read_results
from experiments.running.options import Folder, Running
from experiments.running.run_folder import Run
from experiments.running.runner import FINISHED, Plan, play

DEFAULT_SEEDS: Final = 100


class Options(Running):
    """What is run or read; 100 seeds by default."""

    results: Folder = Field(default=None, description="run folder of an earlier run, instead of running anything")


def find(options: Options, session: Session) -> int:
    """Runs or reads the grid, prints what it says; returns the exit status.

    Raises:
        ConfigError: seeds out of range, or results that cannot be used.
        SimulationError: an episode failed; what had finished is in the run folder.
    """
    if options.results is None:
        numbers = seed_list(seeds(options.split, options.seeds if options.seeds is not None else DEFAULT_SEEDS))
        with session.console.status("preparing: scenarios, requests, compiled code"):
            cases = grid_cases(numbers)
        path = options.folder("findings")
        plan = Plan(path, cases, options, options.split, options.execution(), by_task=False)
        if play(plan, session, "playing").status != FINISHED:
            return 130
        session.console.print(f"results are in {path}")
    else:
        path = Path(options.results)
    results = read_results(Run(path))
    print_summary(results, session.console)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("findings", Options, find, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
