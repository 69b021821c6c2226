"""Claims about writing a report again: of runs that were killed, of damaged folders, of folders that are no run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from experiments import report
from tests.support.comparisons import finished, small
from tests.support.html_reports import Report

__all__ = ["finished", "small"]  # fixtures


def test_the_report_of_a_run_that_was_killed_is_of_what_had_finished(finished: Path, tmp_path: Path):
    killed = tmp_path / "killed"
    shutil.copytree(finished, killed)
    about = json.loads((killed / "run.json").read_text())
    for key in ("finished", "asked_for", "wall_s"):  # said at its end alone
        del about[key]
    (killed / "run.json").write_text(json.dumps(about | {"status": "running"}))
    for name in ("rows.csv", "ttft.csv", "timelines.csv"):  # in the middle of a row
        content = (killed / name).read_bytes()
        (killed / name).write_bytes(content[: content.rstrip().rfind(b"\n") + 10])
    assert report.main([str(killed)]) == 0
    assert any("This run is running, or was killed. It holds 2 pairs" in box for box in Report(killed).boxes)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.csv", "", "has no column 'answered': nothing finished"),
        ("rows.csv", "scenario,policy,seed\nsmall,lru,1\n", "has no column 'answered': nothing finished"),
        ("rows.csv", "HEADER\nsmall,l", "no whole row"),
        ("rows.csv", "HEADER\nsmall,lru,\0\0\n", "a row is none of a run"),
        ("rows.csv", "HEADER\nsmall,lru\n", "line 2 has 2 cells"),
        ("run.json", "{", "is not JSON, or was cut short"),
        ("run.json", "{}", "command: Field required"),
    ],
)
def test_a_damaged_run_folder_is_an_error_that_says_what_to_do(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, problem: str
):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "run.json").write_text((finished / "run.json").read_text())
    (folder / "rows.csv").write_text((finished / "rows.csv").read_text())
    header = (finished / "rows.csv").read_text().partition("\n")[0]
    (folder / name).write_text(content.replace("HEADER", header))
    assert report.main([str(folder)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ") and problem in said and name in said
    assert not (folder / "report.html").exists()
