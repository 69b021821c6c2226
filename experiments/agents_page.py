"""The page of the agents that ship, from runs of the suite and of shifted regimes that they took part in.

python -m experiments.suite --policies cace,cace:tuned-eviction,omlx,gdsf,belady-cost --out runs/agents
python -m experiments.agents_page runs/agents --shifted runs/shifted --write docs/agents.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.pages.agents import page
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import exit_status
from experiments.running.run_folder import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.agents_page", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of `python -m experiments.suite` with agents")
    parser.add_argument("--shifted", type=Path, metavar="FOLDER", help="folder of `python -m experiments.shifted`")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    options = parser.parse_args(arguments)

    def write() -> int:
        text = page(SuiteRun(options.run), Run(options.shifted) if options.shifted else None)
        if options.write is None:
            print(text)
        else:
            options.write.write_text(text, encoding="utf-8")
            print(f"wrote {options.write}")
        return 0

    return exit_status(write)


if __name__ == "__main__":
    sys.exit(main())
