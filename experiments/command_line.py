"""What several commands read or do alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def split_names(values: Sequence[str]) -> list[str]:
    """`a,b c` and `a b c` alike; every name once."""
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))


def print_or_write(page: Callable[[], str], module: str, about: str | None, arguments: Sequence[str] | None) -> None:
    """The command of a page that is made from code: prints it, or writes it to the file that --write names."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    options = parser.parse_args(arguments)
    if options.write is None:
        print(page())
        return
    options.write.write_text(page(), encoding="utf-8")
    print(f"wrote {options.write}")
