"""Claims about every command of the experiments: its help says how it is called, wrong usage ends with status 2."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

PLAIN = ("calibration",)  # without options
COMMANDS = sorted(
    path.stem
    for path in (Path(__file__).resolve().parents[2] / "experiments").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem not in PLAIN
)


def called(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit status of `python -m experiments.NAME`."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    return end.value.code


# Another test may have imported what is run here as a command.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert called(name, ["--help"], monkeypatch) in (0, None)
    assert f"usage: python -m experiments.{name} " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_usage_ends_with_status_2(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert called(name, ["--no-such-option"], monkeypatch) == 2
    assert "Traceback" not in capsys.readouterr().err
