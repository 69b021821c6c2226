"""Claims about the scores of forecasters: by hand, and what the command prints and fills."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.forecasting import FORECASTERS
from cace_env.workload import Workload
from experiments import forecasts
from experiments.logs import forecast_page
from experiments.logs.forecast_scores import OWN, TRUTH, quality
from tests.support.logs import AZURE, written
from tests.support.small import SEVEN


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
    assert forecasts.main(["--entries", "eviction-light-pressure", "--seeds", "2", "--write"]) == 0
    printed, filled = capsys.readouterr().out, (tmp_path / "forecasts.md").read_text(encoding="utf-8")
    for text in (printed, filled):
        assert all(f"| `{name}` |" in text for name in FORECASTERS)
        assert f"| {TRUTH} |" in text
    assert (tmp_path / "images" / "forecasts.png").is_file()


def test_a_log_is_played_once_and_its_intervals_are_over_windows_in_time(
    tmp_path: Path,
) -> None:
    played: list[int] = []
    rows = (f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{50 + i},{1 + i % 7}\n" for i in range(400))
    log = {"path": str(written(tmp_path, AZURE + "".join(rows))), "format": "azure", "users": 20, "tasks": "completion"}
    case = case_of(SEVEN | {"trace": log | {"windows": 10, "time_compression": 0.1}}, "eviction")

    def workload(seed: int) -> Workload:
        played.append(seed)
        return case.workload(seed)

    lines = [
        line.split(" | ")
        for line in forecast_page.logs_table({"small": replace(case, workload=workload)}).splitlines()[2:]
    ]
    assert set(played) == {0}
    assert [line[1].strip("`") for line in lines] == [OWN, *FORECASTERS, TRUTH]
    assert all("[" in line[4] for line in lines)  # an interval, though there is one episode
