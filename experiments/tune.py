"""Searches the numbers of an agent's training, or tunes CACE to a workload.

    python -m experiments.tune configs/sweep.yaml --trials 30 --steps 200000 --jobs 2     an agent's numbers, by Optuna
    python -m experiments.tune cace --requests 50000000                                   the weights of CACE, by CMA-ES
    python -m experiments.tune cace --env swap --order very-patient-wsjf                  behind an order, in Swap-v0
    python -m experiments.tune cace --scenarios my_fleet.yaml                             for a fleet of your own
    python -m experiments.tune cace --scenarios my_fleet.yaml --trace log.csv --format cace     and its log

Whatever changes a weight uses training seeds, whatever is chosen is chosen by validation seeds; test seeds are for
`experiments.compare`. The same command in the same folder goes on where it was killed. `docs/tuning.md` explains it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from experiments.running.command_line import STYLE, exit_status
from experiments.tuning.run import TUNED_CACE, Options, search_numbers, tune_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())
    options: Options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.tune",
        description=__doc__,
        config=STYLE,
    )
    command = shlex.join(["python", "-m", "experiments.tune", *arguments])
    run = tune_weights if options.what == TUNED_CACE else search_numbers
    return exit_status(
        lambda: run(options, command, console), "interrupted: what has finished is kept, the same command goes on"
    )


if __name__ == "__main__":
    sys.exit(main())
