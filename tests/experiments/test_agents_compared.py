"""Trained agents among the policies: refused where they cannot play, described, and compared with all others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation.scores import pooled_gain, probability_of_improvement
from cace_env.policies.agent import LEARNED
from cace_env.tables import Protocol
from experiments import shifted, suite
from experiments.compare import main
from experiments.reading.pooled_gains import estimate_text
from experiments.reading.style import GROUP_COLOURS
from experiments.running.contestants import contestants_of
from experiments.running.run_folder import Run
from experiments.running.timeline_rows import read_spans
from experiments.submission import main as submission
from tests.support.agents import agent_of, lru_network, random_network, saved
from tests.support.html_reports import Report
from tests.support.small import small

__all__ = ["small"]  # a fixture


@pytest.fixture(scope="module")
def evicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(agent_of(lru_network(), works="everywhere"), tmp_path_factory.mktemp("agents") / "evicting")


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(agent_of(random_network("swap", 3), name="ours"), tmp_path_factory.mktemp("agents") / "swapping")


@pytest.fixture(scope="module")
def finished(small: Path, evicting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "agents"
    asked = ["--agent", str(evicting), "--policies", "cace", "--scenarios", str(small), "--seeds", "3"]
    assert main([*asked, "--out", str(out)]) == 0
    return out


def test_an_agent_takes_part_under_the_name_of_its_folder_and_in_a_colour_of_its_own(finished: Path, evicting: Path):
    run = Run(finished)
    name = f"agent:{evicting}"
    assert run.group(name) == LEARNED
    assert list(GROUP_COLOURS.values()).count(GROUP_COLOURS[LEARNED]) == 1
    np.testing.assert_array_equal(run.columns["small", name]["cost"], run.columns["small", "lru"]["cost"])


def test_the_report_says_what_an_agent_is_and_how_it_stands_against_everybody(finished: Path, evicting: Path):
    page = Report(finished)
    assert "Trained on small, seeds 0-9: 1,234 simulated requests" in page.text and "Works: everywhere" in page.text
    assert "ot held out" not in page.text
    run = Run(finished)
    mine, cace, lru = ({"small": run.columns["small", p]["cost"]} for p in (f"agent:{evicting}", "cace", "lru"))
    chance = estimate_text(probability_of_improvement(mine, cace), 2)
    gain = pooled_gain(mine, cace, lru).percent
    (row,) = [r for r in page.table(f"agent:{evicting} against all others") if r["policy"] == "cace"]
    assert row["the agent is cheaper"] == chance and f"{gain:+.1f} %" in row["the agent saves"]


def test_an_agent_of_the_other_environment_is_refused(
    small: Path, evicting: Path, swapping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = ["--scenarios", str(small), "--out", str(tmp_path / "x")]
    assert main(["--agent", str(swapping), *asked]) == 2
    said = capsys.readouterr().err
    assert "agent 'ours' was trained for Swap-v0, and Eviction-v0 is run; run it with --env swap" in said
    assert main(["--agent", str(evicting), "--env", "swap", *asked]) == 2
    said = capsys.readouterr().err
    assert "was trained for Eviction-v0, and Swap-v0 is run" in said and "wsjf+agent:" in said
    assert main(["--agent", str(tmp_path / "nowhere"), *asked]) == 2
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_each_agent_plays_its_own_environment_where_both_are_run(small: Path, evicting: Path, swapping: Path):
    names = [f"agent:{folder}" for folder in (evicting, swapping)]
    contestants = contestants_of(names, [], list(Protocol))
    assert [contestant.name for contestant in contestants] == ["lru", *names, "patient-fifo+lru", "no-swapping"]


def test_an_agent_that_is_judged_by_its_training_seeds_is_found_out(
    small: Path, evicting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "seen"
    asked = ["--agent", str(evicting), "--scenarios", str(small), "--split", "train", "--seeds", "2", "--out", str(out)]
    assert main(asked) == 0
    assert "its results are not held out" in capsys.readouterr().out.replace("\n", " ")
    said = "are not held out: it was trained on 2 of the seeds that it is judged by"
    assert any(said in box for box in Report(out).boxes)


def test_timelines_show_the_agent(finished: Path, evicting: Path):
    assert {span.policy for span in read_spans(Run(finished))} == {"lru", "cace", f"agent:{evicting}"}


def test_an_eviction_agent_goes_with_an_order_in_swap_v0(small: Path, evicting: Path, tmp_path: Path):
    out = tmp_path / "ordered"
    policies = f"wsjf+agent:{evicting},wsjf+lru"
    asked = ["--policies", policies, "--env", "swap", "--scenarios", str(small), "--seeds", "2", "--out", str(out)]
    assert main(asked) == 0
    costs = [Run(out).columns["small-swap", name]["cost"] for name in policies.split(",")]
    np.testing.assert_array_equal(*costs)


def test_agents_stand_in_runs_of_the_suite_and_of_shifted_regimes(small: Path, evicting: Path, tmp_path: Path):
    asked = ["--agent", str(evicting), "--env", "eviction", "--seeds", "1", "--reference", "none"]
    tiny = tmp_path / "tiny.yaml"
    entry = "{id: desk, env: eviction, scenario: {base: workstation, workload: {requests: 300}}, question: Why}"
    tiny.write_text(f"version: tiny\ndescription: One.\nentries: [{entry}]\n")
    assert suite.main([*asked, "--suite", str(tiny), "--out", str(tmp_path / "suite")]) == 0
    about = json.loads((tmp_path / "suite" / "run.json").read_text())
    assert about["agents"][f"agent:{evicting}"]["card"]["requests"] == 1234
    assert {row["scenario"] for row in Report(tmp_path / "suite").table("All policies, all scenarios")} == {"desk"}
    out = tmp_path / "shifted"
    asked = ["--agent", str(evicting), "--env", "eviction", "--suite", str(small), "--seeds", "1", "--out", str(out)]
    assert shifted.main(asked) == 0
    report = (out / "report.md").read_text()
    assert "## Who was trained" in report and f"| `agent:{evicting}` | learned | 1.000 |" in report


def test_results_of_an_agent_say_what_it_was_trained_on(
    evicting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiments.board.playing.seed_list", lambda split: [2_000_000])
    out = tmp_path / "mine"
    tiny = tmp_path / "tiny.yaml"
    entry = "{id: desk, env: eviction, scenario: {base: workstation, workload: {requests: 300}}, question: Why}"
    tiny.write_text(f"version: tiny\ndescription: One.\nentries: [{entry}]\n")
    who = ["--contact", "Jane Doe"]
    assert submission(["make", "--agent", str(evicting), *who, "--suite", str(tiny), "--out", str(out)]) == 0
    text = (out / "results.csv").read_text()
    assert "# trained_on: small, seeds 0-9" in text and "# simulated_requests: 1234" in text
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert {row["policy"] for row in rows} == {"lru", "mine"}
