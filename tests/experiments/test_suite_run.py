"""A run of the suite can be killed at any moment and goes on where it was; nothing runs twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import Case
from cace_env.config import ConfigError, dump
from cace_env.evaluation import SeedResult, evaluate, load_suite, run_seed
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.results import read_results
from cace_env.policies import Contestant
from cace_env.simulation import lower_bound
from experiments import docs, submission
from experiments.pages import suite as suite_page
from experiments.pages.regions import DOCS, read
from experiments.reading import suite_scores
from experiments.running import reference_rows
from experiments.running import runner as command
from experiments.running.reference_rows import DEFAULTS
from experiments.running.runner import package_hash
from experiments.suite import main

SUITE: dict[str, Any] = {
    "version": "tiny",
    "description": "Two scenarios.",
    "entries": [
        {
            "id": name,
            "env": "eviction",
            "scenario": {"base": "workstation", "pressure": pressure, "workload": {"requests": 300}},
            "question": "Is LRU good enough?",
        }
        for name, pressure in (("desk", 2.9), ("tight", 3.4))
    ],
    "memory_sweeps": [
        {
            "id": "memory",
            "env": "eviction",
            "scenario": {"base": "fast-loader", "workload": {"requests": 300}},
            "fractions": [0.25, 1.0],
            "question": "How much memory?",
        }
    ],
    "dropped": [{"scenario": "light-pressure", "env": "eviction", "why": "nothing to gain"}],
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


def arguments(suite: Path, out: Path, *more: str) -> list[str]:
    return [
        "--suite",
        str(suite),
        "--policies",
        "lru,cace",
        "--seeds",
        "3",
        "--out",
        str(out),
        "--workers",
        "1",
        "--reference",
        "none",
        *more,
    ]


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
    assert len(rows) == 4 * 3 * 3  # lru, cace and no-swapping on two entries and two fractions
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
    rest = [(name, 3, 2_000_000 + n) for name in ("tight", "memory-25", "memory-100") for n in range(3)]
    assert ran == [("desk", 1, 2_000_001), ("desk", 3, 2_000_002), *rest]
    ran.clear()
    assert main(arguments(suite, out)) == 0 and not ran  # nothing is missing


def test_a_search_that_was_cut_off_is_dropped(suite: Path, tmp_path: Path):
    out = tmp_path / "killed"
    more = ["--seeds", "2", "--reference", "compute", "--reference-option", "max_rounds=1"]
    assert main([*arguments(suite, out), *more]) == 0
    searches = (out / "searches.csv").read_text()
    lines = searches.splitlines(keepends=True)
    (out / "searches.csv").write_text("".join(lines[:-1]) + lines[-1][:20])
    rows = (out / "rows.csv").read_text().splitlines(keepends=True)
    (out / "rows.csv").write_text("".join(rows[:-1]))
    assert main([*arguments(suite, out), *more]) == 0
    untimed = [line.rpartition(",")[0] for line in (out / "searches.csv").read_text().splitlines()]
    assert untimed == [line.rpartition(",")[0] for line in searches.splitlines()]
    assert suite_page.regions(suite_scores.SuiteRun(out))


def test_rows_with_other_columns_are_never_mixed(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "old"
    assert main([*arguments(suite, out), "--seeds", "1"]) == 0
    lines = (out / "rows.csv").read_text()
    (out / "rows.csv").write_text(lines.replace(",evictions,", ",ousted,"))
    assert main(arguments(suite, out)) == 2
    assert "other columns than this version writes (differing in evictions, ousted)" in capsys.readouterr().err
    (out / "rows.csv").write_text(lines)
    monkeypatch.setattr(command, "package_hash", lambda: "0123456789abcdef")
    assert main(arguments(suite, out)) == 2
    assert "this is 0123456789abcdef: its rows do not belong to these" in capsys.readouterr().err
    assert (out / "rows.csv").read_text() == lines


def test_the_hash_of_the_code_sees_every_module(tmp_path: Path):
    (tmp_path / "kernel").mkdir()
    for name in ("planner.py", "kernel/run.py", "data.yaml"):
        (tmp_path / name).write_text("a = 1\n")
    hashes = {package_hash(tmp_path)}
    for name in ("planner.py", "kernel/run.py", "data.yaml"):
        (tmp_path / name).write_text("a = 2\n")
        hashes.add(package_hash(tmp_path))
    assert len(hashes) == 3  # data is in the fingerprints of the entries


def test_environments_that_ran_one_after_the_other_stand_on_one_page(tmp_path: Path):
    both = yaml.safe_load(yaml.safe_dump({key: SUITE[key] for key in ("version", "description", "entries")}))
    both["entries"][1]["env"] = "swap"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(both))
    run = [*arguments(tmp_path / "tiny.yaml", tmp_path / "out"), "--reference", "compute"]
    run += ["--reference-option", "max_rounds=1"]
    assert main([*run, "--env", "eviction"]) == 0
    assert main([*run, "--env", "swap", "--seeds", "2"]) == 0
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {name: said["env"] for name, said in about["scenarios"].items()} == {
        "desk": "eviction",
        "tight": "swap",
    }
    tables = suite_page.regions(suite_scores.SuiteRun(tmp_path / "out"))
    assert "2 to 3 test seeds per policy and entry" in tables["run"]
    assert "--env eviction\n" in tables["commands"] and "--env swap --seeds 2\n" in tables["commands"]


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
    assert "holds a run of another scenario called 'tight'" in capsys.readouterr().err
    assert main([*arguments(suite, finished), "--split", "validation"]) == 2
    assert "split test, this is validation" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("Dear Sir")
    assert main(arguments(suite, tmp_path / "full")) == 2
    assert "results are never overwritten: give another --out" in capsys.readouterr().err


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


def test_the_reference_is_looked_for_once_and_shipped_costs_are_taken(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    quick, easy = ["--seeds", "2", "--reference", "shipped"], ["--reference-option", "max_rounds=1"]
    out = tmp_path / "computed"
    assert main([*arguments(suite, out), *quick, *easy]) == 0
    rows = rows_of(out)
    for entry in ("desk", "tight", "memory-25", "memory-100"):
        for seed in ("2000000", "2000001"):
            assert float(rows[entry, "reference", seed]) <= float(rows[entry, "cace", seed])
    with (out / "searches.csv").open(newline="") as file:
        searches = list(csv.DictReader(file))
    assert {(row["scenario"], row["seed"]): row["cost"] for row in searches} == {
        (entry, seed): cost for (entry, policy, seed), cost in rows.items() if policy == "reference"
    }

    def never(*_: object) -> None:
        raise AssertionError("looked for a reference that was there")

    monkeypatch.setattr(command, "reference_result", never)
    assert main([*arguments(suite, out), *quick, *easy]) == 0
    the_test_split_has(2, monkeypatch)
    assert submission.main(["ship", str(out), "--out", str(tmp_path / "costs.csv")]) == 0
    monkeypatch.setattr(reference_rows, "published", lambda version: read_results(tmp_path / "costs.csv"))
    again = tmp_path / "shipped"
    assert main([*arguments(suite, again), *quick, *easy]) == 2
    assert "--reference-option max_rounds=1: costs of the reference ship with suite tiny" in capsys.readouterr().err
    assert main([*arguments(suite, again), *quick]) == 0
    assert rows_of(again) == rows
    assert not (again / "searches.csv").exists()
    # How hard those that ship were looked for, which is not how hard they would be looked for here.
    settings = json.loads((again / "run.json").read_text())["policies"]["reference"]["settings"]
    assert settings["max_rounds"] == 1 != DEFAULTS["max_rounds"]
    text = suite_page.regions(suite_scores.SuiteRun(again))["run"]
    assert "reference are those that ship with the suite, looked for with" in text and "max_rounds 1," in text


def the_test_split_has(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many seeds, so that all of them are run soon."""
    monkeypatch.setattr(suite_scores, "seed_list", lambda split: seed_list(split)[:count])


@pytest.fixture(scope="module")
def scored(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a reference that is made up: half of LRU's cost everywhere, nearly LRU's on `tight`."""
    out = tmp_path_factory.mktemp("runs") / "scored"
    shutil.copytree(finished, out)
    with (out / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (out / "rows.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        for row in (row for row in rows if row["policy"] == "lru"):
            share = 0.98 if row["scenario"] == "tight" else 0.5
            writer.writerow({**row, "policy": "reference", "cost": repr(share * float(row["cost"]))})
    about = json.loads((out / "run.json").read_text())
    about["policies"]["reference"] = {"group": "Reference", "description": "Made up.", "settings": {"gain": 0.01}}
    (out / "run.json").write_text(json.dumps(about))
    return out


def test_the_page_holds_the_scores_of_the_rows(scored: Path, tmp_path: Path):
    shutil.copy(DOCS / "suite.md", tmp_path)
    assert docs.main(["suite", "--run", str(scored), "--docs", str(tmp_path)]) == 0
    tables = read(tmp_path / "suite.md")
    rows = rows_of(scored)
    lru, cace = (sum(float(rows["desk", who, str(2_000_000 + n)]) for n in range(3)) for who in ("lru", "cace"))
    (line,) = [line for line in tables["eviction-scores"].splitlines() if line.startswith("| `cace` | cace |")]
    score = f"{100 * (lru - cace) / (lru / 2):.1f}"
    assert f"| **{score} [" in line  # of two entries one has no headroom: the mean is that of the other
    assert f"| {score} [" in line
    assert "Headroom under 3 %, so in no mean: tight." in tables["eviction-entries"]
    assert "| 25 % | **+50.0 % [+50.0, +50.0]**" in tables["memory"]
    pictures = sorted((tmp_path / "images").iterdir())
    assert [picture.name for picture in pictures] == ["suite-eviction.png", "suite-memory.png"]
    assert all(picture.stat().st_size > 5000 for picture in pictures)


def test_the_page_says_what_no_policy_can_cost_less_than(scored: Path, tmp_path: Path):
    old = tmp_path / "old"  # as runs were kept before their rows had bounds
    shutil.copytree(scored, old)
    with (scored / "rows.csv").open(newline="") as file:
        rows = [{key: cell for key, cell in row.items() if key != "lower_bound"} for row in csv.DictReader(file)]
    with (old / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    entry = load_suite(scored / "suite.yaml").entry("desk")
    case = entry.case()
    least = sum(lower_bound(case.tables, case.workload(2_000_000 + n)).cost for n in range(3))
    lru = sum(float(rows_of(scored)["desk", "lru", str(2_000_000 + n)]) for n in range(3))
    assert 0 < least < lru
    for folder in (scored, old):
        text = suite_page.regions(suite_scores.SuiteRun(folder))["eviction-entries"]
        (line,) = [line for line in text.splitlines() if line.startswith("| `desk` | ")]
        assert f" | {100 * least / lru:.1f} % | " in line
        assert "| LRU to no swapping | no policy can cost less than, of LRU's cost |" in text


def test_bounds_are_not_computed_of_entries_that_have_changed(scored: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(scored, copy)
    (copy / "rows.csv").write_text((copy / "rows.csv").read_text().replace(",lower_bound,", ",bound_below,"))
    (copy / "suite.yaml").write_text((copy / "suite.yaml").read_text().replace("3.4", "3.3"))
    run = suite_scores.SuiteRun(copy)
    assert run.least_cost(run.suite.entry("desk")) > 0
    with pytest.raises(ConfigError, match="entry 'tight' has changed since the run"):
        run.least_cost(run.suite.entry("tight"))


def test_the_costs_that_ship_are_those_of_the_rows(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    the_test_split_has(3, monkeypatch)
    assert submission.main(["ship", str(scored), "--out", str(tmp_path / "costs.csv")]) == 0
    results = read_results(tmp_path / "costs.csv")
    assert results.header.policy == "reference" and results.header.clairvoyant
    assert results.header.settings == {"gain": 0.01}
    assert {row.entry for row in results.rows} == {"desk", "tight", "memory-25", "memory-100"}
    rows = rows_of(scored)
    assert all(row.cost == float(rows[row.entry, row.policy, str(row.seed)]) for row in results.rows)


def test_prose_that_was_mended_since_is_taken_from_the_suite_that_ships(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shipped = load_suite("v1")
    (copy / "suite.yaml").write_text(dump(shipped.model_copy(update={"description": "About so."})))
    assert suite_scores.SuiteRun(copy).suite == shipped
    fewer = shipped.model_copy(update={"description": "About so.", "entries": shipped.entries[:3]})
    (copy / "suite.yaml").write_text(dump(fewer))
    assert suite_scores.SuiteRun(copy).suite == fewer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "lru has finished 3 of 100 test seeds of 'desk'"),
        ({"split": "validation"}, "the split of the run is validation"),
        ({"status": "interrupted"}, "the status of the run is interrupted"),
    ],
)
def test_no_costs_ship_of_half_a_run_or_of_other_seeds(
    changes: dict[str, str], said: str, scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "copy"
    shutil.copytree(scored, copy)
    about = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(about | changes))
    assert submission.main(["ship", str(copy), "--out", str(tmp_path / "costs.csv")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "costs.csv").exists()


def test_scores_need_the_reference(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for folder, said in (
        (finished, "the reference has not run on every seed of 'desk'"),
        (tmp_path, "no suite.yaml"),
    ):
        assert docs.main(["suite", "--run", str(folder), "--docs", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
