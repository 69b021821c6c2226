"""What is handed in is played again; what is wrong with its results is said with row, value and limit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rich", reason="needs the extra experiments")
pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import load_suite
from cace_env.evaluation import results as results_module
from cace_env.evaluation.results import Results, Row, read_results, write_results
from cace_env.simulation import lower_bound
from experiments.board import checking, making
from experiments.submission import main

WHO = ("--contact", "Jane Doe")

SUITE: dict[str, Any] = {
    "version": "tiny",
    "description": "One scenario.",
    "entries": [
        {
            "id": "desk",
            "env": "eviction",
            "scenario": {"base": "workstation", "workload": {"requests": 120}},
            "question": "Is LRU good enough?",
        }
    ],
}


def mru(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Evicts what was used last."""
    from cace_env.observation import SLOT

    del legal
    return features[:, SLOT.since_use_s]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


@pytest.fixture(scope="module")
def made(suite: Path) -> Path:
    """CACE on the suite, a hundred seeds."""
    path = suite.parent / "cace"
    assert main(["make", "--policy", "cace", *WHO, "--suite", str(suite), "--out", str(path)]) == 0
    return path


def with_rows(made: Path, target: Path, rows: Iterable[Row]) -> Path:
    """The folder with other results in it."""
    shutil.copytree(made, target, dirs_exist_ok=True)
    write_results(target / "results.csv", Results(read_results(made / "results.csv").header, tuple(rows)))
    return target


def changed(made: Path, target: Path, old: str, new: str) -> Path:
    shutil.copytree(made, target)
    text = (made / "results.csv").read_text()
    assert old in text
    (target / "results.csv").write_text(text.replace(old, new, 1))
    return target


def refused(path: Path, suite: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    assert main(["check", str(path), "--suite", str(suite), *more]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    return said


def test_what_make_writes_check_accepts(made: Path, suite: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(made), "--suite", str(suite), "--seeds", "3"]) == 0
    assert "trained on: nothing; simulated requests: 0; code: cace-env" in capsys.readouterr().out
    results = read_results(made / "results.csv")
    assert {row[:2] for row in results.rows} == {("desk", "lru"), ("desk", "cace")}
    assert len(results.rows) == 200


def test_scores_are_printed_where_reference_costs_ship(
    made: Path, suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    results = read_results(made / "results.csv")
    halved = [row._replace(policy="reference", cost=row.cost / 2) for row in results.rows if row.policy == "lru"]
    shipped = Results(results.header, (*(row for row in results.rows if row.policy == "lru"), *halved), "shipped")
    for module in (checking, results_module):
        monkeypatch.setattr(module, "published", lambda version: shipped)
    assert main(["check", str(made), "--suite", str(suite), "--seeds", "1"]) == 0
    seeds = range(2_000_000, 2_000_100)
    lru, cace = (results.column("desk", policy, seeds).sum() for policy in ("lru", "cace"))
    said = capsys.readouterr().out
    assert f" {100 * (lru - cace) / (lru / 2):.1f} " in said and " 50.0 " in said
    assert "[s]" in said  # rich takes what stands in brackets for markup
    # As on the page of the suite: the mean over seeds of what was the longest in each.
    assert f" {results.column('desk', 'cace', seeds, 'longest_wait_s').mean():.0f} " in said


def test_lru_that_is_not_this_lru_is_noticed(
    made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = read_results(made / "results.csv")
    other = [row._replace(cost=row.cost * (1 + 1e-12)) if row.policy == "lru" else row for row in results.rows]
    with_rows(made, tmp_path / "other", other)
    said = refused(tmp_path / "other", suite, capsys, "--seeds", "2")
    assert "lru on desk, seed 20000" in said and "cost is" in said and ", here " in said


def test_a_built_in_policy_is_run_again_too(
    made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = read_results(made / "results.csv")
    better = [row._replace(cost=row.cost * 0.9) if row.policy == "cace" else row for row in results.rows]
    with_rows(made, tmp_path / "better", better)
    assert "cace on desk, seed 20000" in refused(tmp_path / "better", suite, capsys, "--seeds", "1")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# suite: tiny", "# suite: v1", "suite is 'v1'; it has to be 'tiny'"),
        ("desk,cace,2000007,", "chair,cace,2000007,", "entry 'chair' is not in suite tiny"),
        ("desk,cace,2000007,", "desk,cace,7,", "seed 7 is no test seed; they are 2000000 to 2000099"),
        ("desk,cace,2000007,", "desk,cace,7,", "1 of 100 seeds have no row (the first is 2000007)"),
        ("desk,cace,2000007,", "desk,gdsf,2000007,", "rows of policy 'gdsf'; a file holds rows of lru and cace"),
    ],
)
def test_a_file_that_does_not_fit_the_suite_is_refused(
    old: str, new: str, said: str, made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert said in refused(changed(made, tmp_path / "other", old, new), suite, capsys)


def test_numbers_that_cannot_be_are_refused(
    made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = read_results(made / "results.csv")
    rows = list(results.rows)
    rows[1] = rows[1]._replace(e2e_mean_s=0.1)
    rows[3] = rows[3]._replace(longest_wait_s=0.0)
    with_rows(made, tmp_path / "odd", rows)
    said = refused(tmp_path / "odd", suite, capsys)
    assert "seed 2000001: e2e_mean_s is 0.1, which cannot be below ttft_mean_s" in said
    assert "seed 2000003: longest_wait_s is 0.0, which cannot be below ttft_mean_s" in said


def test_a_cost_that_no_policy_can_reach_is_refused(
    made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    case = load_suite(suite).entry("desk").case()
    least = lower_bound(case.tables, case.workload(2_000_003)).cost
    results = read_results(made / "results.csv")

    def costing(cost: float) -> Path:
        cheap = [row._replace(cost=cost) if row[:3] == ("desk", "cace", 2_000_003) else row for row in results.rows]
        with_rows(made, tmp_path / "cheap", cheap)
        return tmp_path / "cheap"

    said = refused(costing(0.999 * least), suite, capsys)
    assert f"cace on desk, seed 2000003: cost is {0.999 * least!r}, which cannot be below {least:.7g}" in said
    assert "run it with cace-env" in said
    assert "cannot be below" not in refused(costing(least), suite, capsys, "--seeds", "100")  # but it is another one


def test_results_of_a_changed_scenario_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = yaml.safe_load(yaml.safe_dump(SUITE))
    other["entries"][0]["scenario"]["pressure"] = 2.0
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(other))
    assert "has the fingerprint" in refused(made, tmp_path / "tiny.yaml", capsys)


def test_of_many_problems_the_first_are_shown(
    made: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = read_results(made / "results.csv")
    rows = tuple(row._replace(e2e_mean_s=0.0) for row in results.rows)
    with_rows(made, tmp_path / "odd", rows)
    assert "and 192 more" in refused(tmp_path / "odd", suite, capsys)


def test_ones_own_policy_says_where_it_comes_from(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own, out = f"{__name__}:mru", tmp_path / "mru"
    arguments = ["make", "--policy", own, *WHO, "--suite", str(suite), "--out", str(out)]
    assert main(arguments) == 2
    assert "--trained-on is needed for a policy or weights of your own" in capsys.readouterr().err and not out.exists()
    assert main([*arguments, "--trained-on", "nothing", "--code", "tests", "--simulated-requests", "5"]) == 0
    header = read_results(out / "results.csv").header
    assert (header.description, header.simulated_requests) == ("Evicts what was used last.", 5)
    assert header.fingerprints == {"desk": load_suite(suite).entry("desk").fingerprint()}
    assert main(["check", str(out), "--suite", str(suite), "--seeds", "2", "--policy", own]) == 0
    capsys.readouterr()
    assert main(["check", str(out), "--suite", str(suite), "--policy", "lru"]) == 2
    assert "--policy lru is 'lru'; the folder holds results of 'mru'" in capsys.readouterr().err


def test_results_may_be_of_one_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    both = yaml.safe_load(yaml.safe_dump(SUITE))
    both["entries"].append(both["entries"][0] | {"id": "desk-swap", "env": "swap"})
    suite, out = tmp_path / "tiny.yaml", tmp_path / "wsjf"
    suite.write_text(yaml.safe_dump(both))
    arguments = ["make", "--policy", "wsjf+cace", *WHO, "--suite", str(suite), "--out", str(out)]
    assert main(arguments) == 2
    assert "make results of --env swap" in capsys.readouterr().err
    assert main([*arguments, "--env", "swap"]) == 0
    assert {row.entry for row in read_results(out / "results.csv").rows} == {"desk-swap"}
    assert main(["check", str(out), "--suite", str(suite), "--seeds", "2"]) == 0


@pytest.mark.parametrize(
    "policy",
    ["cace:demand=survival", "cace:tuned-eviction:demand=survival", "wsjf+cace:demand=survival", "planner:cace",
     "planner:wsjf+cace", "guarded:lru", "cace-quoted:window=20", "no-swapping"],
)  # fmt: skip
def test_what_no_folder_can_hold_is_refused_before_it_is_played(
    policy: str, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(making, "play", lambda *_: pytest.fail("it was played"))
    out = tmp_path / "out"
    given = ["--policy", policy, *WHO, "--trained-on", "nothing", "--code", "tests"]
    assert main(["make", *given, "--suite", str(suite), "--out", str(out)]) == 2
    assert f"{policy!r} cannot be handed in" in capsys.readouterr().err and not out.exists()


def test_who_hands_it_in_is_asked_for_before_anything_is_played(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(making, "play", lambda *_: pytest.fail("it was played"))
    out = tmp_path / "out"
    arguments = ["make", "--policy", "lfu", "--suite", str(suite), "--out", str(out)]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--contact TEXT" in capsys.readouterr().err
    assert main([*arguments, "--contact", " "]) == 2
    assert "contact is empty: say who hands it in (make --contact)" in capsys.readouterr().err and not out.exists()


def test_results_are_never_overwritten(made: Path, suite: Path, capsys: pytest.CaptureFixture[str]):
    before = (made / "results.csv").read_text()
    assert main(["make", "--policy", "lru", *WHO, "--suite", str(suite), "--out", str(made)]) == 2
    assert "results are never overwritten" in capsys.readouterr().err and (made / "results.csv").read_text() == before
