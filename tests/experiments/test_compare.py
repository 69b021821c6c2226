"""Comparisons end to end: the run folder, the report written from it alone, logs, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.evaluation import paired_gain
from cace_env.evaluation.scores import relative_cost
from cace_env.policies import POLICIES, contestant_of
from cace_env.scenarios import compared_scenarios
from cace_env.simulation import METRICS, lower_bound
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import NONE, TASKS, Protocol
from experiments import report
from experiments.compare import Comparison, main, scenarios_of
from experiments.reading.markdown import percent
from experiments.reports import comparison, plots
from experiments.reports.comparison import figure
from experiments.reports.leaderboard import MOST, change_text
from experiments.reports.timelines import _lanes, spans_of
from experiments.running import runner
from experiments.running.command_line import read_options, split_names
from experiments.running.contestants import about_policy, contestants_of
from experiments.running.run_folder import Run, Span
from tests.specification.examples import fleet
from tests.support.small import SMALL

LOG = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{i // 60:02}:{i % 60:02}.000000,{50 + i},{1 + i % 7}\n" for i in range(0, 1800, 9)
)


def lru_in_python(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Keeps what was used last."""
    from cace_env.observation import SLOT

    del legal
    return -features[:, SLOT.since_use_s]


def mru_in_python(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Evicts what was used last."""
    return -lru_in_python(features, legal)


class FailsLater:
    """Answers on the first seed only."""

    def reset(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return lru_in_python(features, legal) if self.seed == 2_000_000 else broken(features, legal)


class KnowsNoMasks:
    """Always wants the second slot."""

    def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
        del observation, action_mask
        return 1


class NeedsMore:
    def __init__(self, weights: float) -> None:
        self.weights = weights


def broken(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    raise KeyError("no such thing")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "question": "Who goes?"}))
    return path


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two built-in policies and a Python one on two seeds."""
    out = tmp_path_factory.mktemp("runs") / "first"
    own = f"{__name__}:lru_in_python"
    arguments = [
        "--policies",
        "lru,cace",
        "--policy",
        own,
        "--scenarios",
        str(small),
        "--seeds",
        "2",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, policy: str, metric: str) -> list[float]:
    return [float(row[metric]) for row in rows_of(folder) if row["policy"] == policy]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said about arguments that are refused; never a traceback."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    return said


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


def test_the_report_holds_the_numbers_of_the_rows(finished: Path):
    text = (finished / "report.md").read_text()
    gain = paired_gain(column(finished, "lru", "cost"), column(finished, "cace", "cost"))
    assert percent(gain).replace("**", "") in text
    (line,) = [line for line in text.splitlines() if line.startswith("| `cace` | ") and "evict" not in line][-1:]
    for metric in ("ttft_mean_s", "ttft_p95_s", "e2e_mean_s", "evictions", "decisions"):
        assert f" {figure(np.mean(column(finished, 'cace', metric)))} |" in line, metric
    assert "generated" in text and "assumed weights" in text
    assert json.loads((finished / "run.json").read_text())["command"] in text


def test_the_report_says_what_no_policy_can_cost_less_than(finished: Path, small: Path, tmp_path: Path):
    case = case_of(small)
    bounds = [lower_bound(case.tables, case.workload(seed)).cost for seed in (2_000_000, 2_000_001)]
    for policy in ("lru", "cace", "lru_in_python", "no-swapping"):
        assert column(finished, policy, "lower_bound") == bounds
        assert np.all(np.array(bounds) <= column(finished, policy, "cost"))
    lru = sum(column(finished, "lru", "cost"))
    least, without = 100 * sum(bounds) / lru, 100 * sum(column(finished, "no-swapping", "cost")) / lru
    text = (finished / "report.md").read_text()
    assert f"No policy can cost less than {least:.1f} % of LRU's cost" in text
    assert f"Without swapping it is {without:.1f} %, which is no bound" in text
    copy = tmp_path / "copy"  # a folder from before there were bounds
    shutil.copytree(finished, copy)
    (copy / "rows.csv").write_text((copy / "rows.csv").read_text().replace(",lower_bound,", ",bound_below,"))
    assert report.main([str(copy)]) == 0
    assert "No policy can cost less" not in (copy / "report.md").read_text()


def test_every_picture_that_the_report_shows_is_there(finished: Path):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (finished / "report.md").read_text())
    assert {Path(picture).stem for picture in pictures} == {
        f"small-{name}" for name in ("gain", "ttft", "evictions", "timeline")
    }
    assert all((finished / picture).stat().st_size > 5000 for picture in pictures)


def test_the_report_can_be_written_again_from_the_folder_alone(finished: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "report.md").read_text()
    (finished / "report.md").unlink()
    assert report.main([str(finished)]) == 0
    assert (finished / "report.md").read_text() == before
    assert report.main([str(finished / "plots")]) == 2
    assert "no run.json" in capsys.readouterr().err


def test_histograms_of_the_folder_hold_every_answered_request(finished: Path):
    run = Run(finished)
    for policy in run.policies("small"):
        counted = sum(counts.sum() for (_, name, _), counts in run.ttft.items() if name == policy)
        assert counted == sum(column(finished, policy, "answered"))


def test_timelines_never_hold_more_than_the_memory(finished: Path):
    run = Run(finished)
    about = run.about["scenarios"]["small"]
    memory_gb = sum(about["accelerators"].values())
    assert {span.policy for span in run.spans} == {"lru", "cace", "lru_in_python"}
    for policy in ("lru", "cace"):
        spans = [span for span in run.spans if span.policy == policy]
        assert sum(span.state == "loading" for span in spans) == column(finished, policy, "loads")[0]
        for moment in {span.from_s for span in spans}:
            held = [span.model for span in spans if span.from_s <= moment < span.to_s]
            assert len(set(held)) == len(held)
            assert sum(about["models"][model] for model in held) <= memory_gb + 0.1 * len(held)


def test_episodes_that_were_cut_short_are_left_out_of_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # Decisions of whole episodes, to choose a limit that ends some and spares others.
    free, limited = tmp_path / "free.yaml", tmp_path / "limited.yaml"
    free.write_text(yaml.safe_dump(SMALL))
    arguments = ["--policies", "lru,fifo,lfu", "--seeds", "4"]
    assert main([*arguments, "--scenarios", str(free), "--out", str(tmp_path / "free")]) == 0
    decisions = {policy: column(tmp_path / "free", policy, "decisions") for policy in ("lru", "fifo", "lfu")}
    limit = int(np.median([*decisions.values()]))
    limited.write_text(yaml.safe_dump(SMALL | {"rules": {"max_decisions": limit}}))
    capsys.readouterr()
    assert main([*arguments, "--scenarios", str(limited), "--out", str(tmp_path / "out")]) == 0

    run, whole = Run(tmp_path / "out"), Run(tmp_path / "free")
    kept = {policy: np.array(counts) <= limit for policy, counts in decisions.items()}
    assert 0 < sum(k.sum() for k in kept.values()) < 12
    for policy, mask in kept.items():
        for metric in ("cost", "evictions", "ttft_p95_s"):
            values = np.array(column(tmp_path / "free", policy, metric))
            np.testing.assert_array_equal(run.columns["small", policy][metric], np.where(mask, values, np.nan))
            assert run.mean("small", policy, metric) == pytest.approx(
                values[mask].mean() if mask.any() else np.nan, nan_ok=True
            )
        both = mask & kept["lru"]
        expected = paired_gain(
            whole.columns["small", "lru"]["cost"][both], whole.columns["small", policy]["cost"][both]
        )
        assert run.gain("small", policy) == pytest.approx(expected, nan_ok=True)
        counted = sum(counts.sum() for (_, name, _), counts in run.ttft.items() if name == policy)
        assert counted == np.sum(np.array(column(tmp_path / "free", policy, "answered"))[mask])
    cut = {policy: int((~mask).sum()) for policy, mask in kept.items() if not mask.all()}
    assert run.cut_short("small") == cut
    said = f"of 4 episodes each, and left out of every number: {', '.join(f'{p} {n}' for p, n in cut.items())}."
    assert said in (tmp_path / "out" / "report.md").read_text()
    assert said in capsys.readouterr().out.replace("\n", " ")


def test_a_cut_episode_does_not_make_a_policy_the_cheapest(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "run.json").write_text((finished / "run.json").read_text())
    rows = rows_of(finished)
    for row in rows:
        if row["policy"] == "lru_in_python":  # what it cost until it was cut
            row["cost"], row["truncated"] = "0.001", "1.0"
    with (copy / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = Run(copy)
    assert run.ranking("small")[-1] == "lru_in_python"
    assert run.cheapest("small", "Your own") is None
    assert report.main([str(copy)]) == 0
    assert np.isnan(run.gain("small", "lru_in_python").percent)


def test_where_the_reference_ran_the_report_has_scores(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    about = json.loads((finished / "run.json").read_text())
    about["policies"]["reference"] = {"group": "Reference", "description": "made up"}
    (copy / "run.json").write_text(json.dumps(about))
    rows = rows_of(finished)
    # Of two seeds it was looked for on one.
    ran = [row for row in rows if row["policy"] == "lru" and row["seed"] == "2000001"]
    rows += [row | {"policy": "reference", "cost": str(float(row["cost"]) / 2)} for row in ran]
    with (copy / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert report.main([str(copy)]) == 0
    text = (copy / "report.md").read_text()
    lru, cace = (column(finished, policy, "cost")[1] for policy in ("lru", "cace"))
    score = 100 * (lru - cace) / (lru / 2)
    assert f"| `cace` | {score:.1f} | {score:.1f} |" in text
    assert "| *headroom: LRU to reference* |  | +50.0 % |" in text
    assert "The reference is there for 1 of 2 seeds" in text
    assert f"| {figure(score)} |" in text and "clairvoyant reference |" in text
    assert "## Scores" not in (finished / "report.md").read_text()


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
    said = refused(capsys, "--policies", "lru", "--out", str(finished / "plots"))
    assert "holds no run; results are never overwritten" in said


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
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count(label) >= 2 and "times divided by 2" in text and "CC BY 4.0" in text
    assert {float(row["requests"]) for row in rows_of(tmp_path / "out")} == {200.0}


def test_a_log_from_which_nothing_is_drawn_runs_once(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = tmp_path / "log.csv"
    names = [str(name) for name in SMALL["catalogue"]]
    lines = [f"{3 * i},{100 + i},20,{names[i % len(names)]},chat,u{i % 3},s{i % 5}\n" for i in range(60)]
    log.write_text("time,context_tokens,output_tokens,model,task,user,session\n" + "".join(lines))
    arguments = [
        "--policies",
        "lru,static-best",
        "--scenarios",
        str(small),
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--trace", str(log), "--format", "cace"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 seed instead of 3: nothing is drawn from this log, so every seed is the same" in said
    assert column(tmp_path / "out", "lru", "seed") == [2_000_000]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "every seed is the same" in text
    assert column(tmp_path / "out", "static-best", "cost") == []  # it would have been trained on the log itself
    assert "Left out here: policy 'static-best' learns from training seeds, and a log has only the requests" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policies", "lruu"], "did you mean 'lru'"),
        (["--scenarios", "defalt"], "did you mean 'default'"),
        (["--policy", "tests.experiments.test_compare:nothing"], "has no 'nothing'"),
        (
            ["--policy", "tests.experiments.test_compare:broken", "--policy", "tests.experiments.test_compare:broken"],
            "two policies",
        ),
        (["--policy", "tests.experiments.test_compare:NeedsMore"], "missing 1 required positional argument: 'weights'"),
        (["--policy", "lru"], "--policy lru has to be MODULE:OBJECT"),
        (
            ["--policies", "wsjf+cace"],
            "'wsjf+cace' has an order, and Eviction-v0 asks for none; run it with --env swap",
        ),
        (["--policies", "wsfj+cace", "--env", "swap"], "no order called 'wsfj', did you mean 'wsjf'"),
        (["--seeds", "101"], "there are 1 to 100"),
        (["--seeds", "0"], "0 test seeds were asked for; there are 1 to 100"),
        (["--workers", "0"], "0 workers were asked for"),
        (["--format", "azure"], "--trace FILE"),
        (["--trace", "log.csv"], "--format"),
        (["--trace", "log.csv", "--format", "azur"], "did you mean 'azure'"),
        (["--trace", "log.csv", "--format", "azure", "--trace-option", "users"], "KEY=VALUE"),
        (["--trace", "log.csv", "--format", "azure", "--trace-option", "user=3"], "unknown key"),
        (["--config", "no-such.yaml"], "cannot be read"),
        (["--reference-option", "starts"], "'starts' has to be KEY=VALUE"),
        (["--reference-option", "start=1"], "no key 'start', did you mean 'starts'"),
        (["--reference-option", "gain=much"], "'much' is no number"),
        (["--reference-option", "starts=1.5"], "'1.5' is no whole number"),
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
    text = (out / "report.md").read_text()
    assert "## Scores" in text and "The reference is there for 2 of 3 seeds" in text
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
    text = (out / "report.md").read_text()
    (line,) = [line for line in text.splitlines() if "`patient-fifo+lru` over `lru`" in line][:1]
    gain = paired_gain(costs["small-swap", "lru"], costs["small-swap", "patient-fifo+lru"])
    assert percent(gain).replace("**", "") in line
    assert "prefetches, and prefetch_limit is 0 here" in text
    assert "Asked (Swap-v0): which waiting model is loaded next" in text


def test_a_failing_python_policy_is_named_and_what_finished_is_kept(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--policies", "lru", "--policy", f"{__name__}:FailsLater", "--scenarios", str(small), "--seeds", "3"]
    assert main([*arguments, "--workers", "1", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "policy 'FailsLater', seed 2000001, decision 0: KeyError: 'no such thing'" in said.err
    assert "1 of 3 pairs" in said.out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "failed"
    assert {row["seed"] for row in rows_of(tmp_path / "out")} == {"2000000"}


def test_a_failure_before_anything_finished_leaves_the_folder_free(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = ["--policy", f"{__name__}:broken"]
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
    def interrupted(work: Any, jobs: Any, workers: int) -> Any:
        del workers
        yield jobs[0], work(jobs[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "as_finished", interrupted)
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "3", "--out", str(out)]) == 130
    assert "1 of 3 pairs" in capsys.readouterr().out
    assert "**This run was interrupted**" in (out / "report.md").read_text()


def test_an_interruption_of_the_drawing_leaves_a_report_with_the_plots_so_far(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    drawn = plots.draw

    def interrupted(run: Run) -> Any:
        scenario, pictures = next(drawn(run))
        yield scenario, pictures[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "draw", interrupted)
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "1", "--out", str(out)]) == 130
    said = " ".join(capsys.readouterr().out.split())
    assert "lacks plots" in said and "python -m experiments.report" in said
    text = (out / "report.md").read_text()
    assert text.count("plots/") == 1 and "How to get these numbers again" in text
    monkeypatch.undo()
    assert report.main([str(out)]) == 0
    assert (out / "report.md").read_text().count("plots/") == 4


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


def in_short(folder: Path) -> list[str]:
    """What a report says in short, line by line."""
    text = (folder / "report.md").read_text()
    return re.findall(r"^- (.*)$", text.partition("## In short")[2].partition("\n| ")[0], re.MULTILINE)


def test_of_many_policies_those_that_people_look_for_fit_on_a_screen(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    own = [
        "--agent",
        "eviction",
        "--policies",
        ",".join([*POLICIES, "cace:tuned-eviction"]),
        "--policy",
        f"{__name__}:mru_in_python",
    ]
    assert main([*own, "--scenarios", str(small), "--seeds", "2", "--reference", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    first = next(at for at, line in enumerate(shown) if line.startswith("policy"))
    rows = shown[first + 2 : next(at for at in range(first, len(shown)) if shown[at].startswith("Against LRU"))]
    names = [row.split()[0] for row in rows]
    assert 9 < len(names) <= MOST < len(Run(out).policies("small")) and max(map(len, rows)) <= 100
    assert {"reference", "agent:eviction", "mru_in_python", "cace:tuned-eviction", "cace", "lru"} < {*names}
    assert any("best Belady rule" in row for row in rows) and any("best cache rule" in row for row in rows)
    share = relative_cost(*({"small": column(out, who, "cost")} for who in ("cace", "lru")))
    assert change_text(share) in next(row for row in rows if row.startswith("cace "))


def test_one_episode_is_no_verdict(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 seed has no interval" in said.replace("\n", " ")
    assert "1 seed has no interval" in (out / "report.md").read_text().partition("## In short")[0]
    (line,) = in_short(out)
    assert re.fullmatch(
        r"\*\*CACE against LRU\*\*: costs \d+\.\d % (more|less) on this one episode .no interval.\.", line
    )


def test_few_seeds_get_numbers_but_no_verdict(finished: Path):
    text = (finished / "report.md").read_text()
    assert "2 seeds are too few for an interval to mean much" in text.partition("## In short")[0]
    for line in in_short(finished):
        assert "too few seeds for a verdict in small (" in line and "%" in line
        assert "costs" not in line and "told apart" not in line
    assert not re.search(r"\*\*[+-]\d", text)


def test_enough_seeds_get_a_verdict_for_cace_and_for_own_policies_alike(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--policies", "lru,cace", "--policy", f"{__name__}:mru_in_python", "--scenarios", str(small)]
    assert main([*arguments, "--seeds", "10", "--out", str(out), "--all"]) == 0
    said = capsys.readouterr().out
    assert "too few" not in said + (out / "report.md").read_text()
    cace, own = in_short(out)
    for name, line in (("CACE", cace), ("mru_in_python", own)):
        assert re.match(rf"\*\*{name} against LRU\*\*: (costs (less|more)|cannot be told apart) in small \(", line)
    assert "mru_in_python" in said.partition("Cost saved against LRU [%]")[2]  # the closing table has a column for it


def test_a_scenario_in_which_nobody_is_asked_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    roomy = tmp_path / "roomy.yaml"
    roomy.write_text(yaml.safe_dump({**SMALL, "name": "roomy", "pressure": 0.9}))
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(roomy), "--seeds", "2", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "othing to decide here: no policy is ever asked" in said and "to change that, raise `pressure`" in said
    assert "to change that, raise `pressure`" in (out / "report.md").read_text()
    assert in_short(out) == ["**roomy**: nothing to decide here: no policy is ever asked."]


def test_actions_that_were_replaced_stand_beside_the_results(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--policies", "lru", "--policy", f"{__name__}:KnowsNoMasks", "--scenarios", str(small)]
    arguments += ["--seeds", "2", "--out", str(out)]
    assert main(arguments) == 1
    assert "is not legal" in (said := capsys.readouterr().err) and "--illegal replace" in said
    shutil.rmtree(out, ignore_errors=True)
    assert main([*arguments, "--illegal", "replace"]) == 0
    counts, decisions = column(out, "KnowsNoMasks", "illegal_actions"), column(out, "KnowsNoMasks", "decisions")
    assert sum(counts) > 0 and np.isnan(column(out, "lru", "illegal_actions")).all()
    expected = f"Actions of KnowsNoMasks that were not legal: {sum(counts):,.0f} of {sum(decisions):,.0f}."
    assert expected in (out / "report.md").read_text()
    assert expected in " ".join(capsys.readouterr().out.split())


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
    assert about_policy(contestant_of(f"wsjf+{__name__}:mru_in_python"))["group"] == "Your own"


def test_names_may_stand_in_one_list_or_in_several():
    assert split_names(("a,b", " c ,a", "")) == ["a", "b", "c"]


def test_spans_follow_the_event_trace():
    tables = fleet(need=(6, 6), resident_on=(0, NONE))
    trace = [
        TraceRow(5, "ARRIVAL", 0, NONE),
        TraceRow(10_000_000, "VICTIM", 0, 0),
        TraceRow(10_000_000, "UNLOAD_START", 0, 0),
        TraceRow(12_000_000, "UNLOAD_DONE", 0, 0),
        TraceRow(12_000_000, "LOAD_START", 1, 0),
        TraceRow(15_000_000, "LOAD_DONE", 1, 0),
    ]
    assert spans_of(trace, tables, end_us=20_000_000) == [
        ("gpu-0", "model-0", "resident", 0.0, 10.0),
        ("gpu-0", "model-0", "unloading", 10.0, 12.0),
        ("gpu-0", "model-1", "loading", 12.0, 15.0),
        ("gpu-0", "model-1", "resident", 15.0, 20.0),
    ]


def test_a_model_keeps_its_row_when_the_next_load_begins_as_its_own_ends():
    def span(model: str, state: str, from_s: float, to_s: float) -> Span:
        return Span("small", "lru", 1, "gpu-0", model, state, from_s, to_s)

    spans = [
        span("a", "loading", 0, 1),
        span("b", "loading", 1, 2),
        span("a", "resident", 1, 5),
        span("b", "resident", 2, 5),
    ]
    assert list(_lanes(spans, ["gpu-0"])["gpu-0"].items()) == [
        (spans[0], 0),
        (spans[2], 0),
        (spans[1], 1),
        (spans[3], 1),
    ]


def test_the_page_explains_every_metric_and_its_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    tasks = tuple(f"{task}_" for task in TASKS)
    assert [name for name in METRICS if f"`{name}`" not in page and not name.startswith(tasks)] == []
    example, of_another_library = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    compile(of_another_library, "docs/compare.md", "exec")  # needs a library and a model of somebody's own to run
    exec(compile(example, "docs/compare.md", "exec"), {"__name__": "example"})


def test_figures_are_short_and_never_pretend():
    assert [figure(value) for value in (0.0, 0.01234, 3.14159, 98.76, 12345.6, np.nan)] == [
        "0",
        "0.0123",
        "3.14",
        "98.8",
        "12,346",
        "-",
    ]


def test_the_scenario_for_debugging_is_compared_where_it_is_named_only() -> None:
    for env in ("eviction", "both"):
        every = scenarios_of(read_options(Comparison, ["--env", env], "compare"))
        assert {one.scenario.name for one in every} == set(compared_scenarios())
    (tiny,) = scenarios_of(read_options(Comparison, ["--scenarios", "tiny"], "compare"))
    assert (tiny.name, tiny.protocol) == ("tiny", Protocol.EVICTION)
