"""`experiments.planner`: habits that it fits are those it calibrates, and a table has a row for each case or budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")

from cace_env.forecasting import load_habits
from experiments.futures.calibrated import reliability
from experiments.planner import main
from experiments.reading.roc import auc
from tests.support.small import SMALL


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_habits_are_fitted_and_calibrated(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    habits = tmp_path / "habits"
    assert main(["fit", "--scenarios", str(small), "--seeds", "2", "--out", str(habits)]) == 0
    assert load_habits(habits)[1].requests == 600
    asked = ["--scenarios", str(small), "--seeds", "1", "--questions", "5", "--futures", "4", "--habits", str(habits)]
    assert main(["calibrate", *asked]) == 0
    shown = capsys.readouterr().out
    assert "the next 60 s" in shown and "the next 300 s" in shown
    assert shown.count("| small |") == 2


def test_a_budget_is_priced_against_the_policy_alone(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--scenarios", str(small), "--seeds", "2", "--policy", "lru", "--futures", "2", "4", "--horizons", "30"]
    assert main(["budget", *asked]) == 0
    shown = capsys.readouterr().out
    assert "`planner:lru@futures=2@horizons=30@sure=1.0`" in shown
    assert "`planner:lru@futures=4@horizons=30@sure=1.0`" in shown


def test_a_log_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--logs", str(tmp_path)]) != 0
    assert "none of the public logs" in capsys.readouterr().err


def test_auc_is_the_chance_that_what_happened_is_ranked_higher() -> None:
    assert auc(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) == 1.0
    assert auc(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == 0.5
    assert np.isnan(auc(np.array([0.5]), np.array([1.0])))


def test_reliability_is_how_often_it_happened_in_each_bin() -> None:
    cells = reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert cells[0] == "0.50 (2)"
    assert cells[-1] == "1.00 (2)"
    assert cells[2] == "-"
