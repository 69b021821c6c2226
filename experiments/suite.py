"""Runs every policy on every scenario of a suite, with the clairvoyant reference, and goes on where a run was killed.

    python -m experiments.suite --quick                 10 seeds
    python -m experiments.suite                         100 seeds
    python -m experiments.suite --policies cace,gdsf --out runs/mine
    python -m experiments.docs suite --run runs/mine --show     the scores

The same command in the same folder runs what is missing, and nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from cace_env.config import dump
from cace_env.evaluation import load_suite
from cace_env.evaluation.episodes import seed_list
from cace_env.scenarios import seeds
from cace_env.tables import Protocol
from experiments.reports.comparison import write_report
from experiments.running.cases import of_entry, prepared
from experiments.running.command_line import Session, metavar, run_command
from experiments.running.contestants import default_names
from experiments.running.options import Referenced, Running, TakingPart
from experiments.running.run_folder import BASELINE
from experiments.running.run_writer import check_goes_on
from experiments.running.runner import FINISHED, Plan, play, referenced

ALL_SEEDS: Final = 100
QUICK_SEEDS: Final = 10
PARTNERS: Final = (BASELINE, "cace", "gdsf", "belady-cost")  # whose victims every order of Swap-v0 goes with


class Options(TakingPart, Referenced, Running):
    """What is run; the reference is that which ships with the suite, and looked for where none does."""

    suite: Annotated[str, metavar("VERSION")] = Field(
        default="v1", description="version (v1 by default), or a YAML file"
    )
    env: Annotated[Protocol | None, metavar("eviction|swap")] = Field(
        default=None, description="only the entries of one environment"
    )
    quick: bool = Field(default=False, description=f"{QUICK_SEEDS} seeds instead of {ALL_SEEDS}")


def run_suite(options: Options, session: Session) -> int:
    """Runs what is missing; returns the exit status.

    Raises:
        ConfigError: options or a suite that cannot be used, or a folder that holds something else.
        PolicyError, SimulationError: an episode failed; what had finished is in the folder.
    """
    suite = load_suite(options.suite)
    check_goes_on(path := Path(options.out or f"runs/suite-{suite.version}"))
    count = options.seeds if options.seeds is not None else QUICK_SEEDS if options.quick else ALL_SEEDS
    numbers, execution = seed_list(seeds(options.split, count)), options.execution()
    entries = [of_entry(entry) for entry in suite.all_entries() if options.env in (None, entry.env)]
    protocols = list(dict.fromkeys(entry.protocol for entry in entries))
    contestants = options.contestants(protocols, default_names(protocols, PARTNERS))
    choice = options.reference if options.reference is not None else "shipped"
    with session.console.status("preparing: scenarios, requests, compiled code"):
        cases = prepared(entries, contestants, numbers)
    plan = Plan(
        path,
        cases,
        options,
        options.split,
        execution,
        referenced(choice, options.reference_option, cases, numbers),
        contestants,
        by_task=False,  # a suite has many rows: numbers by task are left to comparisons
        agree={"suite": suite.version},
        about={"suite": suite.version},
        files={"suite.yaml": dump(suite)},
    )
    outcome = play(plan, session, "suite")
    if not outcome.done:
        return 130
    with session.console.status("writing the report"):
        report = write_report(outcome.run)
    session.console.print(f"{outcome.folder.about['wall_s']:.0f} s in all. Report, to open in a browser:")
    session.console.print(str(report), style="bold", soft_wrap=True)
    return 0 if outcome.status == FINISHED else 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("suite", Options, run_suite, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
