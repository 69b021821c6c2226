"""The claims made for CACE, one by one, against a comparison of all scenarios.

    python -m experiments.compare --seeds 100 --split test --out runs/suite
    python -m experiments.claims runs/suite

`docs/claims.md` says how verdicts follow from the numbers; `python -m experiments.docs claims` fills its tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from cace_env.config import Frozen
from experiments.pages.claims import NEEDED, check_policies, claims_table, factors_table
from experiments.running.command_line import Session, run_command
from experiments.running.run_folder import Run


class Options(Frozen):
    """Judges the claims for CACE by a finished comparison of all scenarios."""

    run: tyro.conf.Positional[Path] = Field(
        description="run folder of experiments.compare with lru, cace and its ablations"
    )


def judge(options: Options, session: Session) -> None:
    """Prints the claims and their verdicts.

    Raises:
        ConfigError: the run lacks a policy that the claims are about.
    """
    run = Run(options.run)
    check_policies(run, NEEDED)
    session.console.print(f"{claims_table(run)}\n\n{factors_table(run)}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("claims", Options, judge, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
