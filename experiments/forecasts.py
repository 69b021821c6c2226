"""Forecasts of arrivals: how good they are, and what they are worth as the demand factor of CACE.

    python -m experiments.forecasts fit               fits the survival curves of sessions that ship, on training seeds
    python -m experiments.forecasts score             scores every forecaster beside its worth; --write fills the page

`docs/forecasts.md` has what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from experiments.logs.forecast_page import Score
from experiments.running.command_line import run_command
from experiments.yardsticks.foresight.fit import Fit

Command = Annotated[Fit, subcommand("fit")] | Annotated[Score, subcommand("score")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("forecasts", Command, lambda command, session: command.run(session.console), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
