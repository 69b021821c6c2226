"""The page of the suite, and the costs that ship with it, from the run folder of `experiments.suite`.

python -m experiments.suite_page runs/suite-v1 --write docs/suite.md
python -m experiments.suite_page runs/suite-v1 --costs cace_env/data/suites/v1-costs.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cace_env.evaluation.results import write_results
from experiments.pages.suite import page, write_page
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.suite_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a folder that experiments.suite has written")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the page, and pictures into images/ beside it"
    )
    parser.add_argument("--costs", type=Path, metavar="FILE", help="write the costs that ship with the suite")
    options = parser.parse_args(arguments)

    def run() -> int:
        suite = SuiteRun(options.folder)
        if options.costs is not None:
            write_results(options.costs, suite.published())
            print(f"wrote {options.costs}")
        if options.write is not None:
            write_page(suite, options.write)
            print(f"wrote {options.write}")
        elif options.costs is None:
            print(page(suite, {}))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
