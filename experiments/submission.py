"""Results on the suite that others can check: writes such a file, checks one and prints its scores, or ships costs.

    python -m experiments.submission make --policy cace --out cace.csv
    python -m experiments.submission make --agent runs/ppo/best --out ppo.csv
    python -m experiments.submission make --policy my_module:my_policy --trained-on "train seeds 0-999" --out mine.csv
    python -m experiments.submission check mine.csv
    python -m experiments.submission ship runs/suite-v1 --out cace_env/data/suites/v1-costs.csv

`docs/suite.md` describes the file, `cace_env/evaluation/results.py` reads and writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console
from tyro.conf import subcommand

from cace_env.config import Frozen
from cace_env.evaluation.results import write_results
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import run_command
from experiments.running.submissions import Checked, Made


class Shipped(Frozen):
    """Write the costs of LRU and the reference that ship with a suite."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_FOLDER")]] = Field(
        description="of a finished `python -m experiments.suite`"
    )
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Field(description="file to write")

    def run(self, console: Console) -> int:
        """Writes it; returns the exit status.

        Raises:
            ConfigError: the run is of another split, did not finish, or lacks episodes.
        """
        write_results(self.out, SuiteRun(self.folder).published())
        console.print(f"wrote {self.out}", soft_wrap=True)
        return 0


Command = (
    Annotated[Made, subcommand("make")]
    | Annotated[Checked, subcommand("check")]
    | Annotated[Shipped, subcommand("ship")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "submission",
        Command,
        lambda command, session: command.run(session.console),
        arguments,
        __doc__,
        interrupted="interrupted; nothing has been written",
    )


if __name__ == "__main__":
    sys.exit(main())
