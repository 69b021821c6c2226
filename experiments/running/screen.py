"""Tables in the terminal, all of one style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def screen_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, *, left: int = 1, whole: int = 1
) -> Table:
    """A table for the terminal.

    Args:
        header: one cell per column.
        rows: cells; a row is bold if its first one stands between two asterisks each, `**lru**`.
        title: above it.
        left: so many columns are text, which stands to the left; numbers, in all others, stand to the right.
        whole: so many columns are never broken into lines.
    """
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for at, name in enumerate(header):
        shown.add_column(name, justify="left" if at < left else "right", no_wrap=at < whole, overflow="fold")
    for row in rows:
        cells = (cell.removeprefix("**").removesuffix("**") for cell in row)
        shown.add_row(*cells, style="bold" if row[0].startswith("**") else None)
    return shown
