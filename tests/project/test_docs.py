"""Claims about the documentation: its links lead somewhere and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from integrations.page import run, snippets

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture
def registry() -> Iterator[None]:
    """Ids that a page registers are forgotten."""
    known = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in LINK.findall(text) if not link.startswith(("http://", "https://", "mailto:"))]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize(
    "name",
    [
        "docs/index.md",
        "docs/tables.md",
        "docs/environment.md",
        "docs/swap.md",
        "docs/objectives.md",
        "docs/reference.md",
        "docs/explanations.md",
        "docs/customising.md",
    ],
)
def test_the_examples_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], registry: None
):
    monkeypatch.chdir(tmp_path)  # some save what they have trained
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    examples = [example for example in examples if not example.startswith(">>>")]
    examples = [
        example for example in examples if "150_000" not in example
    ]  # tests/project/test_quickstart.py runs that one
    assert examples
    namespace: dict[str, object] = {"__name__": "example"}  # later examples go on where the earlier ones ended
    for example in examples:
        exec(compile(example, name, "exec"), namespace)
    assert capsys.readouterr().out


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("library", ["Gymnasium", "Stable-Baselines3", "CleanRL"])
def test_the_snippets_for_libraries_that_are_here_run(library: str, tmp_path: Path):
    """Those for other libraries are run by `make test-integrations`."""
    (code,) = snippets(library)
    assert run(code, tmp_path) or library == "Stable-Baselines3"


def test_every_library_of_the_page_has_a_section_and_a_test():
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[([^]]+)\]\(#([^)]+)\).*`make (test-[a-z0-9]+)` \|$", page, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(rows) == 10
    for library, anchor, target in rows:
        assert anchor == library.lower().replace(" ", "-")
        assert snippets(library), library
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_intervals_in_sentences_are_written_as_the_library_prints_them():
    interval = re.compile(r"[\d%] \[[-+]?\d[\d.]*, [-+]?\d[\d.]*\]")
    lines = ((page, line) for page in PAGES for line in page.read_text(encoding="utf-8").splitlines())
    wrong = [f"{page.name}: {line}" for page, line in lines if not line.startswith("|") and interval.search(line)]
    assert not wrong, "write 4.0 % (2.1 to 5.9); brackets are for cells of tables"
