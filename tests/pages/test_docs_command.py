"""Pages hold what the code says, and nothing but tables is filled in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib", reason="a table shows the arguments that ship for it")

from experiments import docs as command
from experiments.docs import CODE, main, out_of_date
from experiments.pages.regions import DOCS, fill, read


def test_tables_that_follow_from_code_are_up_to_date() -> None:
    assert not out_of_date(DOCS), "run python -m experiments.docs"


def test_a_table_that_is_out_of_date_is_named_and_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CODE", {name: CODE[name] for name in ("policies.md", "compare.md")})
    for name in command.CODE:
        shutil.copy(DOCS / name, tmp_path)
    fill(tmp_path / "policies.md", {"orders": "old"})
    before = (tmp_path / "policies.md").read_text()
    assert main(["--check", "--docs", str(tmp_path)]) == 1
    assert "policies.md: orders" in capsys.readouterr().out
    assert (tmp_path / "policies.md").read_text() == before
    assert main(["--docs", str(tmp_path)]) == 0
    assert (tmp_path / "policies.md").read_text() == (DOCS / "policies.md").read_text()
    assert main(["--check", "--docs", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agents", "--run", "runs/agents"], "agents needs 2 times --run, got 1"),
        (["--run", "runs/agents"], "--run and --show need to know of what: suite, claims"),
        (["suite", "--run", "runs/nowhere"], "no folder of"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_every_page_with_tables_from_runs_says_how_they_are_filled() -> None:
    for page in DOCS.glob("*.md"):
        if read(page).keys() - CODE.get(page.name, dict)().keys():
            assert "python -m experiments." in page.read_text(encoding="utf-8"), page.name
