"""Regions of the pages in docs/ that code fills; all around them is written by hand.

A region stands between two comments, which no reader of the page sees:

    <!-- generated: features -->

    | column | feature | ...

    <!-- end -->

Its name says which function makes it; a page has each name once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cace_env.config import ConfigError
from cace_env.files import replace_file

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
REGION: Final = re.compile(r"^<!-- generated: (\S+) -->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)


def read(page: Path) -> dict[str, str]:
    """What stands in each region of a page, by name."""
    return {name: text.strip() for name, text in REGION.findall(page.read_text(encoding="utf-8"))}


def filled(text: str, regions: Mapping[str, str], page: str = "the page") -> str:
    """The text of a page with other content in some of its regions; all else stays.

    Raises:
        ConfigError: the page has no region of a name.
    """
    names = [name for name, _ in REGION.findall(text)]
    for name in regions:
        if names.count(name) != 1:
            raise ConfigError(
                f"{page} has {names.count(name)} regions called {name!r}; it needs one: write the lines "
                f"'<!-- generated: {name} -->' and '<!-- end -->' where its content goes"
            )

    def region(found: re.Match[str]) -> str:
        name = found[1]
        if name not in regions:
            return found[0]
        return f"<!-- generated: {name} -->\n\n{regions[name].strip()}\n\n<!-- end -->"

    return REGION.sub(region, text)


def fill(page: Path, regions: Mapping[str, str]) -> bool:
    """Fills regions of a page; says whether that changed anything.

    Args:
        page: a Markdown file.
        regions: new content by name of the region.

    Raises:
        ConfigError: as `filled`.
    """
    before = page.read_text(encoding="utf-8")
    after = filled(before, regions, str(page))
    if after != before:
        replace_file(page, after)
    return after != before
