"""Claims about the documentation: its links lead somewhere and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in LINK.findall(text) if not link.startswith(("http://", "https://", "mailto:"))]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/tables.md",
        "docs/environment.md",
        "docs/swap.md",
        "docs/objectives.md",
        "docs/reference.md",
        "docs/explanations.md",
    ],
)
def test_the_examples_of_a_page_run(name: str, capsys: pytest.CaptureFixture[str]):
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    examples = [example for example in examples if not example.startswith(">>>")]
    assert examples
    namespace: dict[str, object] = {"__name__": "example"}  # later examples go on where the earlier ones ended
    for example in examples:
        exec(compile(example, name, "exec"), namespace)
    assert capsys.readouterr().out
