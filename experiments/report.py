"""The report of a comparison, written from its run folder alone: `python -m experiments.report RUN_FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.reports.comparison import write_report
from experiments.running.command_line import exit_status
from experiments.running.run_folder import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that experiments.compare has written")
    options = parser.parse_args(arguments)

    def run() -> int:
        print(write_report(Run(options.folder)))
        return 0

    return exit_status(run, "interrupted: the report has the plots that were drawn")


if __name__ == "__main__":
    sys.exit(main())
