"""The board: makes what can be handed in, plays again what was, and writes the board; and ships costs of a suite.

    python -m experiments.submission make --policy lfu --order patient-wsjf --env swap --contact "Me" --out mine
    python -m experiments.submission make --weights mine.yaml --trained-on "train seeds 0-9" --contact "Me" --out mine
    python -m experiments.submission make --agent runs/ppo/best --contact "Me, me@example.org" --out mine
    python -m experiments.submission check mine
    python -m experiments.submission board mine
    python -m experiments.submission board                     all that is on it, once more
    python -m experiments.submission ship runs/suite-v1 --out cace_env/data/suites/v1-costs.csv

`docs/leaderboard.md` is the board and says how it judges, `docs/suite.md` describes the files.
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
from experiments.board.boarding import Boarded
from experiments.board.checking import Checked
from experiments.board.making import Made
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import run_command


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
    | Annotated[Boarded, subcommand("board")]
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
