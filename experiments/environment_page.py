"""The page of Eviction-v0, from the code, and its picture.

`python -m experiments.environment_page --write docs/environment.md --picture docs/images/eviction.png`
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.pages.environment import page, picture
from experiments.running.command_line import print_or_write


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it and its picture."""
    print_or_write(page, "experiments.environment_page", __doc__, arguments, picture)


if __name__ == "__main__":
    main()
