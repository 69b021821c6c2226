"""Forecasts of arrivals: how good they are, and what they are worth as the demand factor of CACE.

    python -m experiments.forecasts tune --out runs/forecasts       searches weights of CACE for every forecaster
    python -m experiments.forecasts score --tuned runs/forecasts    scores every forecaster beside its worth
    python -m experiments.forecasts score --logs traces             on public logs, too

`--write` fills `docs/forecasts.md`, which has what they found. `python -m experiments.sessions` fits the curves of
`survival`, and `python -m experiments.planner fit` the habits of `sampler`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Final

from tyro.conf import subcommand

from experiments.logs.demand_weights import Tune
from experiments.logs.forecast_page import PICTURE, Score, draw
from experiments.pages.regions import DOCS, fill
from experiments.running.command_line import Session, run_command

Command = Annotated[Tune, subcommand("tune")] | Annotated[Score, subcommand("score")]
PAGE: Final = "forecasts.md"


def run(options: Tune | Score, session: Session) -> None:
    """Searches or scores, and fills the page if that is wanted.

    Raises:
        ConfigError: options that cannot be used, or a page without a region.
    """
    if isinstance(options, Tune):
        regions = options.run(session)
        if options.write:
            fill(DOCS / PAGE, regions)
        return
    scored = options.run(session.console)
    if options.write:
        fill(DOCS / PAGE, scored.regions)
        draw(scored.qualities, scored.worths, DOCS / "images" / PICTURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("forecasts", Command, run, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
