"""The report of a comparison, a suite or a training, from its folder alone: `python -m experiments.report FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from cace_env.config import Frozen
from experiments.reports.comparison import write_report
from experiments.running.command_line import Session, run_command
from experiments.running.run_folder import Run
from experiments.training.folder import holds_training
from experiments.training.page import write_training_report


class Options(Frozen):
    """Whose report is written."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_FOLDER")]] = Field(
        description="a folder that experiments.compare, experiments.suite or experiments.train has written"
    )


def report(options: Options, session: Session) -> None:
    """Writes report.html and says where it is."""
    training = holds_training(options.folder)
    path = write_training_report(options.folder) if training else write_report(Run(options.folder))
    session.console.print(str(path), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    interrupted = "interrupted: no report has been written"
    return run_command("report", Options, report, arguments, __doc__, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
