"""How commands end: what their users can mend is a line on stderr and a status, never a traceback."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from cace_env.traces import TraceError
from experiments import compare, findings, report, submission, suite
from experiments.running.command_line import Session, exit_status, run_command


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError, 2), (TraceError, 2), (PolicyError, 1), (SimulationError, 1)]
)
def test_an_error_is_a_line_and_a_status(error: type[Exception], status: int, capsys: pytest.CaptureFixture[str]):
    assert exit_status(lambda: failing(error("it is so"))) == status
    assert capsys.readouterr() == ("", "error: it is so\n")


def test_an_interruption_says_what_is_left(capsys: pytest.CaptureFixture[str]):
    assert exit_status(lambda: failing(KeyboardInterrupt()), "half of it is kept") == 130
    assert capsys.readouterr() == ("", "half of it is kept\n")


def test_a_command_that_ends_has_its_own_status():
    assert [exit_status(lambda status=status: status) for status in (0, 1)] == [0, 1]  # type: ignore[misc]


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0)


@pytest.mark.parametrize("error", [PolicyError("nobody can"), SimulationError("nobody can")], ids=["policy", "kernel"])
@pytest.mark.parametrize(
    ("module", "step", "arguments"),
    [
        (compare, "experiments.compare.compare", []),
        (findings, "experiments.findings.find", []),
        (report, "experiments.report.write_report", ["."]),
        (submission, "experiments.board.checking.check", ["check", "mine"]),
        (suite, "experiments.suite.run_suite", []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_command_ends_alike(
    module: object,
    step: str,
    arguments: list[str],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(step, fails)
    monkeypatch.setattr(report, "Run", lambda path: path)
    assert module.main(arguments) == 1  # type: ignore[attr-defined]
    assert "error: nobody can" in capsys.readouterr().err


class Few(Frozen):
    """Options of every plain kind."""

    count: int | None = Field(default=None, ge=1, description="how many")
    share: float = Field(default=0.5, le=1, description="how much")
    name: str | None = Field(default=None, description="of what")
    file: Path = Field(default=Path("a"), description="where")
    how: Literal["this", "that"] = "this"


def run_few(*arguments: str) -> tuple[int, list[Few]]:
    """Status, and the options that were read."""
    read: list[Few] = []
    try:
        status = run_command("few", Few, lambda few, _: read.append(few), arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    return status, read


def test_options_are_read_as_what_they_are():
    assert run_few() == (0, [Few()])
    given = run_few("--count", "2", "--share", "0.25", "--name", "x y", "--file", "b/c", "--how", "that")
    assert given == (0, [Few(count=2, share=0.25, name="x y", file=Path("b/c"), how="that")])
    assert run_few("--count", "None", "--share", "1") == (0, [Few(share=1.0)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "0"], "error: --count: input should be greater than or equal to 1 (got 0)\n"),
        (["--share", "1.5"], "error: --share: input should be less than or equal to 1 (got 1.5)\n"),
        (["--share", "nan"], "error: --share: input should be a finite number (got nan)\n"),
    ],
)
def test_a_value_out_of_range_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert run_few(*arguments) == (2, [])
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "3months"], "Error parsing --count: '3months' is no whole number"),
        (["--share", "much"], "Error parsing --share: 'much' is no number"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_plain_words(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run_few(*arguments) == (2, [])
    error = capsys.readouterr().err
    assert said in error and "NoneType" not in error and "pydantic" not in error


def test_help_names_values_and_no_types(capsys: pytest.CaptureFixture[str]):
    run_few("--help")
    said = capsys.readouterr().out
    assert all(option in said for option in ("--count N", "--share X", "--name TEXT", "--file PATH", "{this,that}"))


@pytest.mark.parametrize(("private", "modes"), [(True, (0o600, 0o700)), (False, (0o644, 0o755))])
def test_what_a_private_command_writes_is_for_its_user_alone(private: bool, modes: tuple[int, int], tmp_path: Path):
    def write(_: Few, session: Session) -> None:
        del session
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "report.html").write_text("")

    before = os.umask(0o022)
    try:
        assert run_command("few", Few, write, [], private=private) == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    paths = tmp_path / "runs" / "report.html", tmp_path / "runs"
    assert tuple(stat.S_IMODE(path.stat().st_mode) for path in paths) == modes
