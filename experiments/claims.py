"""The claims made for CACE, one by one, against a comparison of the whole suite.

    python -m experiments.compare --seeds 100 --split test --out runs/suite
    python -m experiments.claims runs/suite --write docs/claims.md

`experiments.claims_quoted` writes the end of the page, about another formula, from a comparison of its own; it is kept.

Every number is a gain in percent with a 95 % bootstrap interval over paired seeds. A claim's verdict comes from the
rule that the page states, not from judgement.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cace_env.config import ConfigError
from experiments.pages.claims import MARK, NEEDED, check_policies, claims_table, factors_table, page
from experiments.running.run_folder import Run


@dataclass(frozen=True)
class Options:
    """Judge the claims for CACE by a finished comparison of all scenarios."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of `experiments.compare` with lru, cace and its ablations."""
    write: str | None = None
    """Markdown page to write, besides printing it; what `experiments.claims_quoted` wrote behind its mark stays."""


def main(options: Options) -> None:
    """Prints the table of claims and writes the page."""
    run = Run(Path(options.run))
    check_policies(run, NEEDED)
    console = Console(highlight=False, soft_wrap=True)
    console.print(claims_table(run), markup=False)
    console.print(factors_table(run), markup=False)
    if options.write is not None:
        path = Path(options.write)
        _, mark, quoted = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(MARK)
        path.write_text(page(run) + (f"\n{mark}{quoted}" if mark else ""), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m experiments.claims", description=__doc__))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
