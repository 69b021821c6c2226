"""A run of the suite can be killed at any moment and goes on where it was; nothing runs twice."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import Case, Contestant, SeedResult, evaluate, run_seed
from cace_env.suite import load_suite
from experiments import suite as command
from experiments.suite import main

SUITE: dict[str, Any] = {
    "version": "tiny",
    "description": "Two scenarios.",
    "entries": [
        {
            "id": name,
            "env": "Eviction-v0",
            "scenario": {"base": "workstation", "pressure": pressure, "workload": {"requests": 300}},
            "question": "Is LRU good enough?",
        }
        for name, pressure in (("desk", 2.9), ("tight", 3.4))
    ],
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


def arguments(suite: Path, out: Path, *more: str) -> list[str]:
    return ["--suite", str(suite), "--policies", "lru,cace", "--seeds", "3", "--out", str(out), "--workers", "1", *more]


def rows_of(folder: Path) -> dict[tuple[str, str, str], str]:
    with (folder / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_key = {(row["scenario"], row["policy"], row["seed"]): row["cost"] for row in rows}
    assert len(by_key) == len(rows)
    return by_key


@pytest.fixture(scope="module")
def finished(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(arguments(suite, out)) == 0
    return out


def test_every_policy_runs_on_every_entry_and_seed(finished: Path, suite: Path):
    rows = rows_of(finished)
    assert len(rows) == 2 * 3 * 3  # lru, cace and no-swapping
    case = load_suite(suite).entry("tight").case()
    assert float(rows["tight", "cace", "2000001"]) == evaluate("cace", case, [2_000_001]).column("cost")[0]
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "finished" and about["wall_s"] > 0


def test_a_killed_run_goes_on_where_it_was(
    finished: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "killed"
    assert main(arguments(suite, out)) == 0
    lines = (out / "rows.csv").read_text().splitlines(keepends=True)
    (out / "rows.csv").write_text("".join(lines[:6]) + lines[6][:30])  # killed while it wrote a row
    ran: list[tuple[str, int, int]] = []

    def noted(case: Case, contestants: Sequence[Contestant], seed: int) -> list[SeedResult]:
        ran.append((case.name, len(contestants), seed))
        return run_seed(case, contestants, seed)

    monkeypatch.setattr(command, "run_seed", noted)
    assert main(arguments(suite, out)) == 0
    assert rows_of(out) == rows_of(finished)
    assert ran == [("desk", 1, 2_000_001), ("desk", 3, 2_000_002)] + [("tight", 3, 2_000_000 + n) for n in range(3)]
    ran.clear()
    assert main(arguments(suite, out)) == 0 and not ran  # nothing is missing


def test_more_policies_and_seeds_join_a_finished_run(suite: Path, tmp_path: Path):
    out = tmp_path / "more"
    assert main([*arguments(suite, out), "--seeds", "1"]) == 0
    assert main([*arguments(suite, out), "--policies", "lru,gdsf", "--seeds", "2"]) == 0
    counts: dict[str, int] = {}
    for entry, policy, _ in rows_of(out):
        counts[policy] = counts.get(policy, 0) + (entry == "desk")
    assert counts == {"lru": 2, "cace": 1, "no-swapping": 2, "gdsf": 2}
    assert set(json.loads((out / "run.json").read_text())["policies"]) == set(counts)


def test_rows_of_another_suite_or_split_are_never_mixed(
    finished: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "tiny.yaml"
    other.write_text(suite.read_text().replace("3.4", "3.3"))
    assert main(arguments(other, finished)) == 2
    assert "holds a run of other entries" in capsys.readouterr().err
    assert main([*arguments(suite, finished), "--split", "validation"]) == 2
    assert "split test, this is validation" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("Dear Sir")
    assert main(arguments(suite, tmp_path / "full")) == 2
    assert "holds no run of a suite; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policies", "lruu"], "did you mean 'lru'"),
        (["--suite", "v0"], "no suite called 'v0'"),
        (["--seeds", "101"], "there are 1 to 100"),
        (["--workers", "0"], "0 workers were asked for"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(
    more: list[str], said: str, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments(suite, tmp_path / "out"), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
