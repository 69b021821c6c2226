"""Names from scenarios, agents and logs stay in their folder, and reach terminals and tables as plain text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from rich.table import Table

from cace_env.config import ConfigError, Line, Name, one_line, printable
from cace_env.scenarios import load_scenario
from experiments import compare
from experiments.reading.markdown import table
from experiments.running.command_line import Console, exit_status
from tests.support.small import SMALL

RED = "\x1b[31mred"
COMPLETIONS = {"completion": 1.0, "chat": 0.0, "reasoning": 0.0, "agent": 0.0}
EASY: dict[str, Any] = {"pressure": 1.5, "workload": {"requests": 300, "users": 8, "shares": COMPLETIONS}}
CONTAINED = ("small", "a.b", "A_b-c 2", "x (1)", "gpt-4+lora", "_", "9" * 80)
ESCAPING = (
    *("../../../../x", "/etc/x", "a/b", "a\\b", "..", ".", ".hidden", "-x", " x", "x ", "x.", "", "9" * 81, "x" * 300),
    *("a\0b", RED, "a\nb", "C:x", "a|b", "a*b", "<b>", "nul\t", "\ud800", "\u202egnp", "naïve", "%2e%2e%2f"),
)


@pytest.mark.parametrize("name", CONTAINED)
def test_an_ordinary_name_is_taken(name: str) -> None:
    assert load_scenario({**SMALL, "name": name}).name == name


@pytest.mark.parametrize("name", ESCAPING)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: (a name has 1 to 80 letters|has )"):
        load_scenario({**SMALL, "name": name})


@pytest.mark.parametrize("name", ["../../../../x", "/tmp/x", RED])
def test_a_comparison_writes_nothing_for_a_name_that_leads_elsewhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump({**SMALL, "name": name}))
    out = tmp_path / "a" / "b" / "c" / "d" / "out"
    assert compare.main(["--scenarios", str(tmp_path / "evil.yaml"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "name: " in said and "\x1b" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


def test_names_that_differ_in_capitals_only_would_share_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, name in (("one.yaml", "mine"), ("two.yaml", "Mine")):
        (tmp_path / file).write_text(yaml.safe_dump({**SMALL, "name": name}))
    files = ",".join(str(tmp_path / file) for file in ("one.yaml", "two.yaml"))
    assert compare.main(["--scenarios", files, "--out", str(tmp_path / "out")]) == 2
    assert "two policies or scenarios are called 'mine'" in capsys.readouterr().err


def test_names_of_models_are_shown_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("[red]a|b`c$\\frac{x}$", "<script>alert(1)</script>", "[/bold] $\\nope$")
    models = ("qwen2.5-coder-7b", "qwen2.5-coder-14b-int4", "mellum-4b")
    catalogue = [{"model": model, "name": name} for model, name in zip(models, names, strict=True)]
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({**SMALL, "name": "odd", "catalogue": catalogue, **EASY}))
    arguments = ["--scenarios", str(tmp_path / "odd.yaml"), "--policies", "lru,cace", "--seeds", "2", "--all"]
    assert compare.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"odd.yaml", "out"}


def test_a_console_prints_markup_as_text_and_spells_out_escapes() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80)
    shown = Table(f"[bold]head {RED}", title=f"[s] {RED}")
    shown.add_row(f"[red]cell[/red] {RED}")
    console.print(f"[red]line[/red] :smile: {RED}", shown)
    said = text.getvalue()
    assert "\x1b" not in said
    assert all(part in said for part in ("[red]line[/red] :smile: \\x1b[31mred", "[bold]head \\x1b", "[s] \\x1b"))
    assert "[red]cell[/red] \\x1b[31mred" in said


def test_an_error_is_printed_without_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise ConfigError(f"no scenario called {RED}\nand \ud800")

    assert exit_status(fails) == 2
    assert capsys.readouterr().err == "error: no scenario called \\x1b[31mred\nand \\ud800\n"


def test_a_bar_or_a_line_feed_in_a_cell_makes_no_other_cells() -> None:
    lines = table(["a", "b"], [["x|y", "1\n2"], ["p\\|q", "**3**"]]).splitlines()
    assert lines[2:] == ["| x\\|y | 1 2 |", "| p\\|q | **3** |"]


def test_text_for_people_is_escaped_and_cut() -> None:
    assert printable(f"{RED}\u202e\ud800é日\n") == "\\x1b[31mred\\u202e\\ud800é日\n"
    assert one_line("a\nb\tc") == "a\\nb\\tc"
    assert one_line("x" * 1000) == f"{'x' * 200}... (1000 letters)"


@pytest.mark.parametrize(("kind", "bad"), [(Name, "a/b"), (Line, "a\nb"), (Line, RED), (Line, "x" * 201)])
def test_python_refuses_what_files_refuse(kind: Any, bad: str) -> None:
    with pytest.raises(ValueError, match=r"name has|one line of at most"):
        TypeAdapter(kind).validate_python(bad)
