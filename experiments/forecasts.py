"""Forecasts of arrivals: how good they are, and what they are worth as the demand factor of CACE.

    python -m experiments.forecasts                   scores every forecaster beside its worth; --write fills the page
    python -m experiments.forecasts --logs traces     on public logs, too

`docs/forecasts.md` has what they found. `python -m experiments.sessions` fits the curves of `survival`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.logs.forecast_page import PICTURE, Score, draw, points
from experiments.pages.regions import DOCS, fill
from experiments.running.command_line import Session, run_command


def score(options: Score, session: Session) -> None:
    """Scores, and fills the page if that is wanted.

    Raises:
        ConfigError: options that cannot be used, or a page without a region.
    """
    regions, generated = options.run(session.console)
    if options.write:
        fill(DOCS / "forecasts.md", regions)
        draw(points(generated), DOCS / "images" / PICTURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("forecasts", Score, score, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
