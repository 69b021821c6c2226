"""Claims about the command that exports, and the yardstick of its decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from experiments.export import main
from experiments.yardsticks import decisions


def test_it_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["agent:swap", "--out", str(tmp_path / "swap"), "--check", "50"]) == 0
    said = capsys.readouterr().out
    assert "chooses victims, loads and waits (Swap-v0)" in said
    assert "the same action as cace-env at 50 of 50 questions of default" in said
    assert sorted(file.name for file in (tmp_path / "swap").iterdir()) == ["policy.json", "policy.py", "weights.npz"]


def test_a_name_that_ends_with_onnx_is_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    assert main(["cace", "--out", str(tmp_path / "cace.onnx"), "--check", "50", "--scenario", "workstation"]) == 0
    assert "at 50 of 50 questions of workstation" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["cace.onnx"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["belady"], "knows the future"), (["lru", "--env", "swap"], "does not say which model"), (["lur"], "'lru'")],
)
def test_what_cannot_be_exported_ends_with_status_2(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_yardstick_measures_every_form(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    assert decisions.main(["--policies", "lru,agent:swap", "--questions", "60", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    for policy in ("`lru`", "`agent:swap`"):
        for form in ("cace-env, features and choice", "NumPy", "ONNX"):
            assert f"| {policy} | {form} |" in said
