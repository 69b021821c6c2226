"""Comparisons end to end: the run folder, the report written from it alone, logs, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import paired_gain
from cace_env.executor import Threads
from cace_env.policies import contestant_of
from cace_env.scenarios import compared_scenarios
from cace_env.simulation import METRICS
from cace_env.tables import Protocol
from experiments.compare import Comparison, main, scenarios_of
from experiments.reading.markdown import percent
from experiments.running.command_line import read_options, split_names
from experiments.running.contestants import about_policy, contestants_of
from experiments.running.run_folder import Run
from experiments.yardsticks import log_intervals
from tests.support.comparisons import HOME, LOG, column, finished, refused, rows_of, small
from tests.support.html_reports import Report
from tests.support.small import SMALL

__all__ = ["finished", "small"]  # fixtures


def test_a_run_folder_has_a_row_per_policy_and_seed_with_every_metric(finished: Path):
    rows = rows_of(finished)
    assert {(row["policy"], row["seed"]) for row in rows} == {
        (policy, seed) for policy in ("lru", "cace", "lru_in_python", "no-swapping") for seed in ("2000000", "2000001")
    }
    assert set(METRICS) < set(rows[0])
    assert {row["label"] for row in rows} == {"generated"}


def test_a_run_folder_says_how_it_came_about(finished: Path, small: Path):
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "finished" and about["finished"] == about["asked_for"] == 2
    assert about["command"].startswith("python -m experiments.compare --policies lru,cace")
    assert about["versions"]["numba"] and about["split"] == "test"
    assert about["scenarios"]["small"]["question"] == "Who goes?"
    assert yaml.safe_load((finished / "config.yaml").read_text())["seeds"] == 2
    assert yaml.safe_load((finished / "scenarios" / "small.yaml").read_text())["pressure"] == SMALL["pressure"]


def test_a_python_policy_meets_the_same_requests(finished: Path):
    for metric in ("cost", "evictions", "ttft_p95_s", "requests"):
        assert column(finished, "lru_in_python", metric) == column(finished, "lru", metric)


def test_results_are_never_overwritten(finished: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "rows.csv").read_bytes()
    asked = ["--policies", "lru", "--seeds", "1", "--out", str(finished), "--scenarios"]
    other = tmp_path / "other.yaml"
    other.write_text(small.read_text().replace("pressure: 2.5", "pressure: 2.4"))
    said = refused(capsys, *asked, str(other))
    assert "another scenario called 'small'" in said and "--out" in said
    said = refused(capsys, *asked, str(small), "--split", "train")
    assert "split test, this is train" in said
    assert (finished / "rows.csv").read_bytes() == before
    said = refused(capsys, "--policies", "lru", "--out", str(finished / "scenarios"))
    assert "holds no run to go on with; results are never overwritten" in said


def test_rows_are_the_same_whatever_the_threads_and_kills(small: Path, tmp_path: Path):
    asked = ["--policies", "lru,cace", "--scenarios", str(small), "--env", "both", "--seeds", "3", "--workers"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*asked, "1", "--out", str(whole)]) == 0
    assert main([*asked, "2", "--out", str(killed)]) == 0
    for name in ("rows.csv", "ttft.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    lines = (killed / "rows.csv").read_bytes().splitlines(keepends=True)
    (killed / "rows.csv").write_bytes(b"".join(lines[:-4]) + lines[-4][:50])
    (killed / "ttft.csv").write_bytes((killed / "ttft.csv").read_bytes()[:-20])
    assert main([*asked, "2", "--out", str(killed)]) == 0
    for name in ("rows.csv", "ttft.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_log_takes_the_place_of_the_requests_and_says_so_everywhere(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "requests.csv"
    log.write_text(LOG)
    options = [
        "--trace-option",
        "users=5",
        "--trace-option",
        "time_compression=2",
        "--trace-option",
        "tasks=completion",
    ]
    arguments = ["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--trace", str(log), "--format", "azure", *options]) == 0
    label = "composite azure: users drawn, tasks all completion, models drawn, time x2 compressed"
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {label}
    assert label in capsys.readouterr().out.replace("\n", " ")
    page = Report(tmp_path / "out")
    assert label in page.text and "times divided by 2" in page.text and "CC BY 4.0" in page.text
    assert any("times divided by 2" in box for box in page.boxes)
    assert {float(row["requests"]) for row in rows_of(tmp_path / "out")} == {200.0}


def own_log(folder: Path, rows: int) -> list[str]:
    """A log to which nothing is attached, with some thousand decisions in as many rows, as options."""
    names = [str(name) for name in SMALL["catalogue"]]
    lines = [f"{3 * i},{100 + i},20,{names[i * i % len(names)]},chat,u{i % 3},s{i % 5}\n" for i in range(rows)]
    path = folder / "log.csv"
    path.write_text("time,context_tokens,output_tokens,model,task,user,session\n" + "".join(lines))
    return ["--trace", str(path), "--format", "cace"]


def test_a_short_log_has_one_window_and_no_interval(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--policies", "lru,cace,static-best", "--scenarios", str(small), "--seeds", "3"]
    assert main([*arguments, *own_log(tmp_path, 60), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 scenario x 1 window" in said and "no intervals" in said and not re.search("±[0-9]", said)
    assert column(tmp_path / "out", "lru", "seed") == [0]
    text = Report(tmp_path / "out").text
    assert "1 window of the log: no intervals" in text and "fewer than 8, so no interval is shown" in text
    assert column(tmp_path / "out", "static-best", "cost") == []  # it would have been trained on the log itself
    assert "Left out here: policy 'static-best' learns from training requests" in text


def test_intervals_on_a_log_are_over_windows_and_never_over_redraws(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "requests.csv"
    log.write_text(LOG)
    arguments = ["--policies", "lru,cace", "--scenarios", str(small), "--trace", str(log), "--format", "azure"]
    arguments += ["--trace-option", "users=5", "--seeds", "3", "--windows"]
    assert main([*arguments, "2", "--out", str(tmp_path / "two")]) == 0
    run = Run(tmp_path / "two")
    assert len(rows_of(tmp_path / "two")) == 3 * 3  # lru, cace and no-swapping, drawn 3 times
    assert run.columns["small", "lru"]["seed"].tolist() == [0, 1]
    assert np.isnan(run.gain("small", "cace").low)  # 3 draws of 2 windows
    assert not re.search("±[0-9]", capsys.readouterr().out)
    assert main([*arguments, "10", "--out", str(tmp_path / "ten")]) == 0
    run, said = Run(tmp_path / "ten"), " ".join(capsys.readouterr().out.split())
    with (tmp_path / "ten" / "windows.csv").open() as file:
        rows = list(csv.DictReader(file))
    costs = {p: [float(row["cost"]) for row in rows if row["policy"] == p] for p in ("lru", "cace")}
    drawn = {policy: np.reshape(cost, (3, 10)) for policy, cost in costs.items()}
    gain, averaged = run.gain("small", "cace"), paired_gain(*(drawn[p].mean(axis=0) for p in drawn), block=3)
    assert gain == paired_gain(drawn["lru"], drawn["cace"], block=3)
    assert gain.percent == pytest.approx(averaged.percent) and gain.low < averaged.low <= averaged.high < gain.high
    assert sum(costs["lru"]) == pytest.approx(sum(column(tmp_path / "ten", "lru", "cost")))
    assert "1 scenario x 10 windows" in said and "in blocks of 3, and over the 3 draws of what is attached" in said
    assert "in blocks of 3, and over the 3 draws" in Report(tmp_path / "ten").text
    assert log_intervals.main([str(tmp_path / "ten")]) == 0
    said = capsys.readouterr().out
    assert f"{gain.low:+.1f} to {gain.high:+.1f}" in said and f"{averaged.low:+.1f} to {averaged.high:+.1f}" in said
    assert "*median; 3 draws, 10 windows*" in said
    assert log_intervals.main([str(tmp_path / "two")]) == 0  # no intervals, and no error
    said = refused(capsys, *arguments, "5", "--out", str(tmp_path / "ten"))
    assert "another scenario called 'small'" in said  # rows of other windows


def test_the_test_part_of_a_log_follows_the_training_part_which_may_be_learned_from(small: Path, tmp_path: Path):
    options, out = own_log(tmp_path, 200), tmp_path / "out"
    arguments = ["--policies", "lru,static-best", "--scenarios", str(small), *options, "--part", "test"]
    assert main([*arguments, "--windows", "2", "--out", str(out)]) == 0
    assert column(out, "lru", "requests") == [100]
    assert len(column(out, "static-best", "cost")) == 1
    assert {row["label"] for row in rows_of(out)} == {"trace cace: last 50 % of the log"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policies", "lruu"], "did you mean 'lru'"),
        (["--scenarios", "defalt"], "did you mean 'default'"),
        (["--policy", "tests.support.comparisons:nothing"], "has no 'nothing'"),
        (
            ["--policy", "tests.support.comparisons:broken", "--policy", "tests.support.comparisons:broken"],
            "two policies",
        ),
        (["--policy", "tests.support.comparisons:NeedsMore"], "missing 1 required positional argument: 'weights'"),
        (["--policy", "lru"], "--policy lru has to be MODULE:OBJECT, but 'lru' is built in: --policies lru"),
        (["--policy", "since_use"], "did you mean 'since_use_s'"),
        (["--policy", "since_use_s"], "'since_use_s' is a feature: a policy is a function of features"),
        (["--policy", "own/mine.py"], "name the module as Python imports it: mine:OBJECT, with PYTHONPATH=own"),
        (["--policy", "own/mine.py:rule"], "is a path; name the module as Python imports it: mine:rule"),
        (["--policy", "tests.support.comparisons:brokn"], "did you mean 'broken'"),
        (
            ["--policies", "wsjf+cace"],
            "'wsjf+cace' has an order, and Eviction-v0 asks for none; run it with --env swap",
        ),
        (["--policies", "wsfj+cace", "--env", "swap"], "no order called 'wsfj', did you mean 'wsjf'"),
        (["--seeds", "101"], "there are 1 to 100"),
        (["--seeds", "0"], "0 test seeds were asked for; there are 1 to 100"),
        (["--workers", "0"], "0 workers were asked for"),
        (["--format", "azure"], "--trace FILE"),
        (["--windows", "9"], "windows is for a log"),
        (["--trace", "log.csv", "--format", "azure", "--split", "train"], "--part train or test is a part of a log"),
        (["--trace", "log.csv"], "no such file"),
        (["--trace", "log.csv", "--format", "azur"], "did you mean 'azure'"),
        (["--trace", "log.csv", "--format", "azure", "--trace-option", "users"], "KEY=VALUE"),
        (["--trace", "log.csv", "--format", "azure", "--trace-option", "user=3"], "unknown key"),
        (["--config", "no-such.yaml"], "cannot be read"),
        (["--reference-option", "starts"], "'starts' has to be KEY=VALUE"),
        (["--reference-option", "start=1"], "no key 'start', did you mean 'starts'"),
        (["--reference-option", "gain=much"], "'much' is no number"),
        (["--reference-option", "starts=1.5"], ": 1.5 is no whole number"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert said in refused(capsys, *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--splt", "test"], ["--split", "tset"], ["--seeds", "many"]])
def test_a_misspelt_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2


def test_the_reference_stands_beside_the_policies_on_as_many_seeds_as_were_asked_for(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    arguments = [
        "--policies",
        "lru,belady",
        "--scenarios",
        str(small),
        "--seeds",
        "3",
        "--out",
        str(out),
        "--env",
        "both",
    ]
    assert main([*arguments, "--reference", "2", "--reference-option", "max_rounds=1"]) == 0
    run = Run(out)
    for scenario in ("small", "small-swap"):
        costs = run.columns[scenario, "reference"]["cost"]
        assert np.isfinite(costs).tolist() == [True, True, False]
        assert np.all(costs[:2] <= run.columns[scenario, "belady"]["cost"][:2])
    page = Report(out)
    assert "Scores" in page.titles and "The reference is there for 2 of 3 seeds" in page.text
    assert run.about["policies"]["reference"]["settings"]["max_rounds"] == 1


def test_both_environments_are_compared_side_by_side(small: Path, tmp_path: Path):
    out = tmp_path / "both"
    policies = "lru,cace,patient-fifo+lru,wsjf+lru,prefetch-wsjf+lru"
    arguments = ["--env", "both", "--policies", policies, "--scenarios", str(small), "--seeds", "3", "--out", str(out)]
    assert main(arguments) == 0
    run = Run(out)
    assert run.scenarios == ["small", "small-swap"]
    assert run.policies("small") == ["lru", "cace", "no-swapping"]
    assert run.policies("small-swap") == ["lru", "cace", "patient-fifo+lru", "wsjf+lru", "no-swapping"]
    costs = {key: run.columns[key]["cost"].tolist() for key in run.columns}
    # Waiting for an idle victim as long as the scenario's drain_after is what Eviction-v0 does.
    assert costs["small-swap", "patient-fifo+lru"] == costs["small", "lru"] != costs["small-swap", "lru"]
    assert costs["small-swap", "no-swapping"] == costs["small", "no-swapping"]
    page = Report(out)
    rows = page.table("What one thing saves: cost")
    (row,) = [row for row in rows if (row["policy"], row["over"]) == ("patient-fifo+lru", "lru")]
    gain = paired_gain(costs["small-swap", "lru"], costs["small-swap", "patient-fifo+lru"])
    assert row["small-swap"] == percent(gain).replace("**", "")
    assert "prefetches, and prefetch_limit is 0 here" in page.text
    assert "Asked (Swap-v0): which waiting model is loaded next" in page.text


def test_a_failing_python_policy_is_named_and_what_finished_is_kept(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--policies", "lru", "--policy", f"{HOME}:FailsLater", "--scenarios", str(small), "--seeds", "3"]
    assert main([*arguments, "--workers", "1", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "policy 'FailsLater', seed 2000001, decision 0: KeyError: 'no such thing'" in said.err
    assert "1 of 3 pairs" in said.out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "failed"
    assert {row["seed"] for row in rows_of(tmp_path / "out")} == {"2000000"}


def test_a_failure_before_anything_finished_leaves_the_folder_free(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = ["--policy", f"{HOME}:broken"]
    arguments = ["--policies", "lru", "--scenarios", str(small), "--seeds", "1", "--out", str(tmp_path / "out")]
    assert main([*arguments, *own]) == 1
    said = capsys.readouterr()
    assert "policy 'broken', seed 2000000, decision 0: KeyError: 'no such thing'" in said.err
    assert "nothing is kept" in said.out
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert main([*arguments, *own]) == 1
    assert list((tmp_path / "out").iterdir()) == []  # a folder of the user's own stays
    assert main(arguments) == 0


def test_an_interruption_keeps_and_reports_what_is_finished(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(self: Threads, work: Any, tasks: Any) -> Any:
        yield 0, work(*next(tasks))
        raise KeyboardInterrupt

    monkeypatch.setattr(Threads, "run", interrupted)
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "3", "--out", str(out)]) == 130
    assert "1 of 3 pairs" in capsys.readouterr().out
    assert any("This run was interrupted. It holds 1 of 3 pairs" in box for box in Report(out).boxes)


def test_an_interruption_before_the_first_episode_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from experiments import compare

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "prepared", interrupted)
    assert main(["--policies", "lru", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted before anything had finished; nothing is kept"]
    assert not (tmp_path / "out").exists()


def test_the_list_shows_policies_and_scenarios_with_their_questions(capsys: pytest.CaptureFixture[str]):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "belady-cost" in shown and "default" in shown and "?" in shown
    assert "no-swapping" in shown and "nothing is evicted" in shown


def test_a_file_sets_options_and_the_command_line_wins(tmp_path: Path):
    path = tmp_path / "options.yaml"
    path.write_text("policies: [lru, cace]\nseeds: 7\nsplit: validation\n")
    options: Comparison = read_options(Comparison, ["--config", str(path), "--seeds", "3", "--demo"], "compare")
    assert (options.policies, options.seeds, options.split, options.demo) == (("lru", "cace"), 3, "validation", True)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs" / "experiment").glob("*.yaml")))
def test_shipped_option_files_are_accepted(path: Path):
    options: Comparison = read_options(Comparison, ["--config", str(path)], "compare")
    protocols = [one.protocol for one in scenarios_of(options)]
    assert len(contestants_of(split_names(options.policies), options.policy, protocols)) > 2


def test_the_demo_shows_both_environments_and_any_may_be_chosen():
    def chosen(*arguments: str) -> dict[str, list[str]]:
        found = scenarios_of(read_options(Comparison, arguments, "compare"))
        return {row.protocol: [one.scenario.name for one in found if one.protocol == row.protocol] for row in found}

    assert chosen("--scenarios", "agents") == {"eviction": ["agents"]}
    assert chosen("--scenarios", "agents", "--env", "both") == {"eviction": ["agents"], "swap": ["agents"]}
    assert set(chosen("--demo")) == {"eviction", "swap"} == set(chosen("--demo", "--env", "both"))
    assert set(chosen("--demo", "--env", "swap")) == {"swap"}
    assert chosen("--demo", "--scenarios", "agents") == {"eviction": ["agents"]}


def test_kinds_of_policies_with_an_order():
    kinds = {name: about_policy(contestant_of(name))["group"] for name in ("cace", "wsjf+cace", "wsjf+belady")}
    assert kinds == {"cace": "CACE", "wsjf+cace": "Order", "wsjf+belady": "Clairvoyant"}
    assert about_policy(contestant_of(f"wsjf+{HOME}:mru_in_python"))["group"] == "Your own"


def test_names_may_stand_in_one_list_or_in_several():
    assert split_names(("a,b", " c ,a", "")) == ["a", "b", "c"]


def test_the_scenario_for_debugging_is_compared_where_it_is_named_only() -> None:
    for env in ("eviction", "both"):
        every = scenarios_of(read_options(Comparison, ["--env", env], "compare"))
        assert {one.scenario.name for one in every} == set(compared_scenarios())
    (tiny,) = scenarios_of(read_options(Comparison, ["--scenarios", "tiny"], "compare"))
    assert (tiny.name, tiny.protocol) == ("tiny", Protocol.EVICTION)
