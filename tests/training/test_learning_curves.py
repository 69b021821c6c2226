"""Learning curves: short runs are kept, not run twice, and said in tables and pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")
pytest.importorskip("sb3_contrib", reason="needs the extra sb3")

from cace_env.config import ConfigError
from experiments import learning_curves as command
from experiments.learning_curves import Options
from experiments.pages import learning
from experiments.pages.learning import LINES, Curves
from experiments.running.command_line import Session
from experiments.training.rungs import AGENTS, COLUMNS, RUNGS

SILENT = Session(Console(file=io.StringIO()), "a test")
# A rollout of 768 decisions is one batch.
SHORT = {"rungs": ("tiny",), "seeds": 2, "decisions": 700, "validation_seeds": 2, "num_envs": 6}


def options(out: Path, *agents: str) -> Options:
    return Options(agents=agents, out=out, **SHORT)  # type: ignore[arg-type]


def test_runs_are_kept_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs"
    command.learning_curves(options(out, "MaskablePPO"), SILENT)
    files = sorted(path.name for path in out.glob("*.csv"))
    assert files == ["tiny--MaskablePPO--0.csv", "tiny--MaskablePPO--1.csv"]
    curves = learning.found_in(out, "tiny")["MaskablePPO"]
    assert curves.step[0] == 0 and curves.step[-1] >= 700
    assert curves.saved.shape == (2, len(curves.step), len(COLUMNS) - 2)
    assert np.isfinite(curves.saved).all()
    assert (np.diff(curves.learned_s, axis=1) > 0).all()
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("it has been trained already"))
    command.learning_curves(options(out, "MaskablePPO"), SILENT)
    with pytest.raises(ConfigError, match=r"with .*700.*, not .*900.*; give another --out"):
        command.learning_curves(Options(**{**SHORT, "decisions": 900}, out=out), SILENT)  # type: ignore[arg-type]
    ((rung, text),) = learning.regions(out).items()
    assert rung == "rung-tiny"
    learning.draw_all(out, tmp_path / "images")
    assert "images/learning-tiny.png" in text and (tmp_path / "images" / "learning-tiny.png").is_file()
    assert text.count("| MaskablePPO |") == 2 and "sure in " in text


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_that_was_stopped_leaves_nothing_that_looks_finished(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cace_env.sb3 import EvaluationCallback

    def stopped(self: EvaluationCallback) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(EvaluationCallback, "_on_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        command.learning_curves(options(tmp_path, agent), SILENT)
    assert not list(tmp_path.glob("*.csv"))


def test_a_rival_is_beaten_where_the_agent_stays_cheaper() -> None:
    saved = np.full((3, 4, 3), -1.0)
    saved[0, :, 0] = [-5, 1, -1, 2]  # ahead for good from the fourth evaluation on
    saved[1, :, 0] = [-5, 1, 1, 2]  # from the second
    curves = Curves(np.array([0.0, 100.0, 200.0, 300.0]), np.tile([0.0, 1.0, 2.0, 3.0], (3, 1)), saved)
    assert learning.when(curves, 0) == "200 (2 s), 2 of 3 runs"
    assert learning.when(curves, 1) == "0 of 3 runs"


def test_lines_of_tiny_are_in_order() -> None:
    lines = learning.level_lines("tiny", range(1_000_000, 1_000_020))
    assert list(lines) == list(LINES)
    assert 0 == lines["LRU"] < lines["CACE"] < lines["tuned CACE"] < lines["reference"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rungs": ("tinny",)}, "no rung called 'tinny', did you mean 'tiny'"),
        ({"agents": ("A2C",)}, "no agent called 'A2C'.*known are MaskablePPO"),
        ({"seeds": 0}, "seeds\n.*greater than or equal to 1"),
        ({"decisions": 0}, "decisions\n.*greater than or equal to 1"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValidationError), match=said):
        command.learning_curves(Options(**{**SHORT, "out": tmp_path, **changes}), SILENT)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds no finished run"):
        learning.regions(tmp_path)
    assert set(RUNGS) == {"tiny", "workstation", "default", "suite"}
