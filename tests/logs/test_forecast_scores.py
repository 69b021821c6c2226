"""Claims about the scores of forecasters: by hand, and what the command prints and fills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.forecasting.demand import ALL
from experiments import forecasts
from experiments.logs.forecast_scores import TRUTH, quality
from experiments.yardsticks.foresight import fit


def test_a_forecast_that_knows_nothing_scores_nothing() -> None:
    came = np.array([True, False, False, False])
    found = quality([(np.full(4, 0.25), came)])
    assert found.auc == 0.5
    assert found.log_score == pytest.approx(0.0)
    assert found.unreliable == pytest.approx(0.0)
    assert found.used == 0.25


def test_the_order_and_the_size_of_chances_are_scored_apart() -> None:
    came = np.array([True, True, False, False])
    right, timid = quality([(came * 1.0, came)]), quality([(0.5 + came * 0.01, came)])
    assert right.auc == timid.auc == 1.0
    assert right.log_score == pytest.approx(1.0, abs=0.01)  # of one bit
    assert timid.log_score < 0.1
    assert quality([(~came * 1.0, came)]).auc == 0.0
    assert right.unreliable == 0.0 < timid.unreliable


def test_the_command_scores_every_forecaster_and_fills_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    page = "".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in ("errors", "worth", "run"))
    (tmp_path / "forecasts.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(forecasts, "DOCS", tmp_path)
    assert forecasts.main(["score", "--entries", "eviction-light-pressure", "--seeds", "2", "--write"]) == 0
    printed, filled = capsys.readouterr().out, (tmp_path / "forecasts.md").read_text(encoding="utf-8")
    for text in (printed, filled):
        assert all(f"| `{name}` |" in text for name in ALL)
        assert f"| {TRUTH} |" in text
    assert (tmp_path / "images" / "forecasts.png").is_file()


def test_curves_are_fitted_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = fit.load_suite("v1")
    monkeypatch.setattr(fit, "load_suite", lambda _: suite.model_copy(update={"entries": suite.entries[:1]}))
    assert forecasts.main(["fit", "--seeds", "1", "--out", str(tmp_path / "curves.json")]) == 0
    assert "of 1 episodes" in capsys.readouterr().out.replace("\n", "")
    assert (tmp_path / "curves.json").is_file()
