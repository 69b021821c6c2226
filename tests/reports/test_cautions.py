"""What a comparison may not leave unsaid: longer waits, a fair yardstick in Swap-v0, and what the requests are."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from experiments import report
from experiments.compare import main
from experiments.reading.cautions import WAITS_TITLE, longer_waits, praised
from experiments.running.run_folder import Run
from tests.support.comparisons import LOG, small
from tests.support.html_reports import Report

__all__ = ["small"]  # a fixture


@pytest.fixture(scope="module")
def swapped(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swapped") / "out"
    asked = ["--policies", "lru,very-patient-wsjf+lru,belady", "--env", "swap", "--seeds", "10"]
    assert main([*asked, "--scenarios", str(small), "--out", str(out)]) == 0
    return out


def with_longest_waits(folder: Path, copy: Path, waits: dict[str, float]) -> Run:
    """The same run with other longest waits, by policy."""
    shutil.copytree(folder, copy)
    with (copy / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["longest_wait_s"] = str(waits.get(row["policy"], 10.0))
    with (copy / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Run(copy)


def test_a_comparison_warns_of_policies_that_it_praises_where_single_requests_wait_longer(
    swapped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = praised(Run(swapped), "small-swap")
    assert "very-patient-wsjf+lru" in good and not {"lru", "belady", "no-swapping"} & set(good)
    run = with_longest_waits(swapped, tmp_path / "longer", {"very-patient-wsjf+lru": 31.0, "belady": 99.0})
    (wait,) = longer_waits(run)
    assert (wait.policy, wait.mine_s, wait.baseline_s) == ("very-patient-wsjf+lru", 31.0, 10.0)
    assert report.main([str(run.path)]) == 0
    (box,) = [box for box in Report(run.path).boxes if box.startswith(WAITS_TITLE)]
    assert "very-patient-wsjf+lru on small-swap: 31 s, LRU 10 s (x3.1)" in box
    as_long = with_longest_waits(swapped, tmp_path / "same", {})
    assert longer_waits(as_long) == []
    capsys.readouterr()


def test_savings_in_swap_v0_stand_beside_patient_fifo(
    swapped: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = Run(swapped)
    assert "patient-fifo+lru" in run.policies("small-swap")  # nobody had to name it
    page = Report(swapped)
    (row,) = [r for r in page.table("All policies, all scenarios") if r["policy"] == "very-patient-wsjf+lru"]
    gain = run.gain("small-swap", "very-patient-wsjf+lru", over="patient-fifo+lru")
    assert row["against patient FIFO + LRU"].startswith(f"{gain.percent:+.1f} % [{gain.low:+.1f}")
    assert "drains a busy model at once" in page.text and "patient-fifo+lru" in page.headline
    out = tmp_path / "out"
    asked = ["--policies", "cace,wsjf+lru", "--env", "both", "--scenarios", str(small), "--seeds", "1"]
    assert main([*asked, "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("vs patient") == 1  # in Swap-v0 alone
    assert "drains at once" in said and "waits up to 30 s" in said and "Against patient FIFO with LRU" in said
    assert "patient-fifo+lru" not in Run(out).policies("small")


def test_refused_requests_composites_and_compression_are_said_in_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log, out = tmp_path / "requests.csv", tmp_path / "out"
    log.write_text(LOG + "".join(f"2023-11-16 18:40:{i:02}.0,900000,5\n" for i in range(50)))
    asked = ["--policies", "lru,cace", "--scenarios", str(small), "--trace", str(log), "--format", "azure"]
    asked += ["--trace-option", "users=5", "--trace-option", "time_compression=2", "--windows", "1", "--seeds", "1"]
    assert main([*asked, "--out", str(out)]) == 0
    said = (
        "small: 20 % of the requests are refused (longer than their model's KV cache), and are in no latency; not "
        "in the log, and so assumed: users drawn, models drawn, tasks of the model; times divided by 2, not as "
        "recorded."
    )
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    assert line == f"! {said}"
    assert any(said in box for box in Report(out).boxes)
