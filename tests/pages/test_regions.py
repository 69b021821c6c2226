"""Regions of pages: code fills what is marked, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cace_env.config import ConfigError
from experiments.pages.regions import fill, filled, read

PAGE = """# Title

By hand.

<!-- generated: one -->

old

<!-- end -->

Between.

<!-- generated: two -->
<!-- end -->

Below.
"""


def test_only_what_is_marked_changes() -> None:
    text = filled(PAGE, {"one": "| new |\n", "two": "2"})
    assert text == PAGE.replace("old", "| new |").replace(": two -->\n", ": two -->\n\n2\n\n")
    assert filled(text, {"one": "| new |"}) == text


def test_a_page_is_written_only_if_it_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert read(page) == {"one": "old", "two": ""}
    assert not fill(page, {"one": "old"}) and page.read_text() == PAGE
    assert fill(page, {"two": "new"}) and read(page) == {"one": "old", "two": "new"}


def test_backslashes_stay_as_they_are() -> None:
    assert r"\1 \g<0>" in filled(PAGE, {"one": r"\1 \g<0>"})


@pytest.mark.parametrize("page", ["# Nothing marked\n", PAGE + PAGE])
def test_a_region_that_is_not_there_once_is_refused(page: str) -> None:
    with pytest.raises(ConfigError, match=r"regions called 'one'; it needs one: write the lines"):
        filled(page, {"one": "new"})
