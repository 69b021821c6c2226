"""Results on the suite that others can check: writes such a file, checks one and prints its scores, or ships costs.

    python -m experiments.submission make --policy cace --out cace.csv
    python -m experiments.submission make --agent runs/ppo/best --out ppo.csv
    python -m experiments.submission make --policy my_module:my_policy --trained-on "train seeds 0-999" --out mine.csv
    python -m experiments.submission check mine.csv
    python -m experiments.submission ship runs/suite-v1 --out cace_env/data/suites/v1-costs.csv

`docs/suite.md` describes the file, `cace_env/evaluation/results.py` reads and writes it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cace_env.evaluation.results import write_results
from cace_env.tables import Protocol
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import exit_status
from experiments.running.submissions import SPOTS, check, make


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|check|ship")
    making = commands.add_parser("make", help="run a policy on the test seeds and write its results")
    who = making.add_mutually_exclusive_group(required=True)
    who.add_argument("--policy", metavar="NAME|MODULE:OBJECT", help="a built-in policy or your own")
    who.add_argument("--agent", metavar="NAME|FOLDER", help="a trained agent; its card says what it was trained on")
    making.add_argument("--out", required=True, metavar="FILE", help="file to write; it must not exist")
    making.add_argument("--suite", default="v1", metavar="VERSION", help="version, or a YAML file (default: v1)")
    making.add_argument(
        "--env", type=Protocol, choices=tuple(Protocol), help="only the entries of one environment (default: all)"
    )
    making.add_argument(
        "--description", metavar="TEXT", help="what it does, in a line (default: its docstring's first)"
    )
    making.add_argument("--trained-on", metavar="TEXT", help='seeds, scenarios, logs it was fitted to, or "nothing"')
    making.add_argument(
        "--simulated-requests", type=int, default=0, metavar="N", help="to fit it, all trials (default: 0)"
    )
    making.add_argument("--code", metavar="TEXT", help="where its code is: a release, a commit, an address")
    making.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (default: cores)"
    )
    checking = commands.add_parser("check", help="check a results file and print its scores")
    checking.add_argument("file", type=Path, help="results file")
    checking.add_argument("--suite", metavar="VERSION", help="version, or a YAML file (default: what the file names)")
    checking.add_argument("--policy", metavar="MODULE:OBJECT", help="run this again, too: the policy of the file")
    checking.add_argument(
        "--spots",
        type=int,
        default=SPOTS,
        metavar="N",
        help=f"episodes to run again, drawn at random (default: {SPOTS})",
    )
    checking.add_argument("--spot-seed", type=int, metavar="N", help="draws the same episodes each time")
    shipping = commands.add_parser("ship", help="write the costs of LRU and the reference that ship with a suite")
    shipping.add_argument("run", type=Path, help="folder of a finished `python -m experiments.suite`")
    shipping.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    return parser


def ship(options: argparse.Namespace, console: Console) -> int:
    """Writes the costs that ship with a suite; returns the exit status.

    Raises:
        ConfigError: the run is of another split, did not finish, or lacks episodes.
    """
    write_results(options.out, SuiteRun(options.run).published())
    console.print(f"wrote {options.out}", highlight=False)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())  # where module:object is looked for first
    command = {"make": make, "check": check, "ship": ship}[options.command]
    left = "interrupted: nothing has been written" if command is make else "interrupted"
    return exit_status(lambda: command(options, console), left)


if __name__ == "__main__":
    sys.exit(main())
