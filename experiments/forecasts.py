"""Forecasts of arrivals: how good they are, and what they are worth as the demand factor of CACE.

    python -m experiments.forecasts fit               fits the survival curves of sessions that ship, on training seeds
    python -m experiments.forecasts score             scores every forecaster beside its worth; --write fills the page

`docs/forecasts.md` has what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from rich.console import Console
from tyro.conf import subcommand

from experiments.logs.forecast_page import PICTURE, Score, draw, points
from experiments.pages.regions import DOCS, fill
from experiments.running.command_line import run_command
from experiments.yardsticks.foresight.fit import Fit

Command = Annotated[Fit, subcommand("fit")] | Annotated[Score, subcommand("score")]


def run(command: Fit | Score, console: Console) -> int:
    """Fits or scores; returns the exit status.

    Raises:
        ConfigError: options that cannot be used, or a page without a region.
    """
    if isinstance(command, Fit):
        return command.run(console)
    regions, generated = command.run(console)
    if command.write:
        fill(DOCS / "forecasts.md", regions)
        draw(points(generated), DOCS / "images" / PICTURE)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("forecasts", Command, lambda command, session: run(command, session.console), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
