"""Claims about the report of a training: what it recommends, what it warns of, and that it can be written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")

from experiments import report
from experiments.training.folder import read_metrics
from experiments.training.tracking import COST
from tests.support.html_reports import Report
from tests.support.toy_trainings import begun, finished, small, toy

__all__ = ["begun", "finished", "small", "toy"]  # fixtures


def test_the_report_of_a_training_says_what_the_best_agent_saves(finished: Path):
    page, rows = Report(finished), read_metrics(finished)
    best = min(rows, key=lambda row: row[COST])
    cost = best[COST]
    said = f"The best agent (step {best['global_step']}) costs {abs(100 * (1 - cost)):.1f} % "
    assert page.headline.startswith(said + ("less than LRU" if cost <= 1 else "more than LRU"))
    about = json.loads((finished / "run.json").read_text())
    if cost >= 1:
        assert any("No agent of this training is cheaper than LRU" in box for box in page.boxes)
    elif cost >= about["cace_vs_lru"]:
        assert any("No agent of this training is cheaper than CACE" in box for box in page.boxes)
    curve = page.figures["Cost saved against LRU"]["mean of all cases",]["data"][0]
    assert curve["y"] == pytest.approx([100 * (1 - row[COST]) for row in rows], rel=1e-5)
    assert page.table("Cost saved against LRU, case by case")[0]["CACE [%]"] != "-"
    assert len(page.table("Every evaluation")) == len(rows)
    assert about["commands"][0] in page.text


def test_the_report_of_a_training_can_be_written_again(finished: Path):
    before = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    assert report.main([str(finished)]) == 0
    assert (finished / "report.html").read_text() == before


def test_the_report_of_a_training_that_was_killed_says_how_to_go_on(begun: Path):
    about = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps(about | {"status": "running", "steps": 10}))
    assert report.main([str(begun)]) == 0
    assert any("is running, or was killed: it got to step 3 of 10" in box for box in Report(begun).boxes)
    (begun / "metrics.csv").unlink()
    assert report.main([str(begun)]) == 0
    assert Report(begun).headline == "Nothing was evaluated yet, so there is nothing to report."
