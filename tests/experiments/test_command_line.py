"""How commands end: what their users can mend is a line on stderr and a status, never a traceback."""

from __future__ import annotations

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import ConfigError
from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from cace_env.traces import TraceError
from experiments import compare, findings, report, submission, suite
from experiments.running.command_line import exit_status


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
        (submission, "experiments.running.submissions.check", ["check", "mine.csv"]),
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
