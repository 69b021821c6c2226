"""Sampled futures: fits the habits they are drawn from, holds them against what happened, and prices planning.

    python -m experiments.planner fit --out runs/habits                         on training seeds of the suite
    python -m experiments.planner fit --logs traces --only azure-code --out runs/habits-code
    python -m experiments.planner calibrate --scenarios default,agents          arrivals, models used again
    python -m experiments.planner calibrate --logs traces --only azure-code --habits runs/habits-code
    python -m experiments.planner budget --scenarios agents --futures 8 32 64      what thinking longer is worth
    python -m experiments.planner logs --logs traces                               what it is worth on real logs

`docs/planner.md` has what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from experiments.futures.budgets import Budgets
from experiments.futures.calibrated import Calibrate
from experiments.futures.fit import Fit
from experiments.futures.on_logs import OnLogs
from experiments.running.command_line import run_command

Command = (
    Annotated[Fit, subcommand("fit")]
    | Annotated[Calibrate, subcommand("calibrate")]
    | Annotated[Budgets, subcommand("budget")]
    | Annotated[OnLogs, subcommand("logs")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("planner", Command, lambda command, session: command.run(session), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
