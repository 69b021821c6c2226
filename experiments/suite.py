"""Runs every policy on every scenario of a suite, with the clairvoyant reference, and goes on where a run was killed.

    python -m experiments.suite --quick                 10 seeds
    python -m experiments.suite                         100 seeds
    python -m experiments.suite --policies cace,gdsf --out runs/mine
    python -m experiments.docs suite --run runs/mine --show     the scores

The same command in the same folder runs what is missing, and nothing twice.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from experiments.running.command_line import STYLE, exit_status
from experiments.running.suite_run import Options, run_suite


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first
    options: Options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.suite",
        description=__doc__,
        config=STYLE,
    )
    command = shlex.join(["python", "-m", "experiments.suite", *arguments])
    return exit_status(lambda: run_suite(options, command, console))


if __name__ == "__main__":
    sys.exit(main())
