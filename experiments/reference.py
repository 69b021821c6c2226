"""Looks for the clairvoyant reference, and holds it against effort, optimum and prefetch.

    python -m experiments.reference find --scenarios fast-loader,agents --seeds 10     how much is to be gained
    python -m experiments.reference find --env swap --seeds 3 --out reference.csv
    python -m experiments.reference curve      cost against effort
    python -m experiments.reference gap        reference, rules and optimum of tiny episodes
    python -m experiments.reference prefetch   what prefetch is worth where the future is known
    python -m experiments.reference horizon    what the true future of the next seconds is worth to the shipped agents
    python -m experiments.reference tiny       optimum of all episodes of the scenario `tiny`

`docs/reference.md` has what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from experiments.running.command_line import run_command
from experiments.yardsticks.effort import Curve
from experiments.yardsticks.foresight.horizon import Horizon
from experiments.yardsticks.headroom import Headroom
from experiments.yardsticks.optimality import Gap
from experiments.yardsticks.prefetch import Prefetch
from experiments.yardsticks.tiny_costs import Tiny

Command = (
    Annotated[Headroom, subcommand("find")]
    | Annotated[Curve, subcommand("curve")]
    | Annotated[Gap, subcommand("gap")]
    | Annotated[Prefetch, subcommand("prefetch")]
    | Annotated[Horizon, subcommand("horizon")]
    | Annotated[Tiny, subcommand("tiny")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "reference",
        Command,
        lambda command, session: command.run(session.console),
        arguments,
        __doc__,
        interrupted="interrupted; the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main())
