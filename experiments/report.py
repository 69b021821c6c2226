"""The report of a comparison, written from its run folder alone: `python -m experiments.report RUN_FOLDER`."""

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


class Options(Frozen):
    """Whose report is written."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_FOLDER")]] = Field(
        description="a folder that experiments.compare has written"
    )


def report(options: Options, session: Session) -> None:
    """Writes it and says where it is."""
    session.console.print(str(write_report(Run(options.folder), session.console)), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    interrupted = "interrupted: the report has the plots that were drawn"
    return run_command("report", Options, report, arguments, __doc__, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
