"""Claims about recommendations: the answer follows what a log was made for, and nothing is learned from what judges."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.policies import contestant_of
from cace_env.policies.cace import load_cace
from cace_env.scenarios import load_scenario
from cace_env.traces import load_trace
from cace_env.traces.windows import edges_of
from cace_env.workload import Workload
from experiments.compare import main as compare
from experiments.logs.advice import answering, contenders, playing
from experiments.logs.advice.contenders import deployed_name
from experiments.logs.advice.decision import best_before
from experiments.logs.advice.parts import parts_of
from experiments.logs.advice.prices import PRICES, fleets_named, price_table
from experiments.recommend import main
from tests.support.html_reports import Report
from tests.support.own_logs import ALIKE, fitting, log_of, one_is_dear, scarce

TODAY = ("--gpu", "l40s", "--gpus")
QUICK = ("--policies", "lru,gdsf,omlx", "--tuning", "20000", "--workers", "1")


def answered(log: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """The recommendation that the command writes."""
    assert main([str(log), *QUICK, *arguments, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((out / "recommendation.json").read_text())
    return found


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def test_where_memory_is_short_and_policies_tie_the_answer_is_another_gpu(tmp_path: Path, capsys: Any):
    found = answered(scarce(tmp_path), tmp_path / "run", *TODAY, "1", "--price", "l40s=0.02")
    assert found["answer"] == "more"
    assert found["sentence"].startswith("Another GPU: 2 x l40s in place of 1 x l40s saves ")
    assert found["steps"]["more"]["net_usd_per_month"]["low"] > 0
    assert "Another GPU" in capsys.readouterr().out


def test_where_everything_fits_the_answer_is_nothing(tmp_path: Path):
    found = answered(fitting(tmp_path), tmp_path / "run", *TODAY, "1")
    assert found["answer"] == "nothing"
    assert "memory holds all models" in found["sentence"]


def test_where_one_model_is_dear_and_gpus_too_the_answer_is_another_policy(tmp_path: Path):
    found = answered(one_is_dear(tmp_path), tmp_path / "run", *TODAY, "2", "--price", "l40s=5")
    assert found["answer"] == "policy"
    assert found["sentence"].startswith("Another policy: ")
    step = found["steps"]["policy"]
    assert step["saved_percent"]["low"] > 20 and step["gpu_usd_per_month"] == 0
    assert {row["situation"] for row in found["robustness"]} >= {"demand shift", "burst", "wrong forecast"}
    assert found["robustness"][0]["saved_percent"] == pytest.approx(step["saved_percent"]["percent"])


def test_a_gpu_is_not_given_back_where_promises_would_be_broken(tmp_path: Path):
    arguments = (*TODAY, "3", "--price", "l40s=50", "--developer-hour", "1")
    assert answered(scarce(tmp_path), tmp_path / "run", *arguments)["answer"] == "nothing"
    kept = answered(scarce(tmp_path), tmp_path / "other", *arguments, "--slo", "chat:0.5@60s")
    assert kept["answer"] == "fewer" and kept["sentence"].startswith("One GPU fewer: 2 x l40s in place of 3 x l40s")


def test_a_gpu_that_costs_more_than_it_saves_is_not_recommended(tmp_path: Path):
    found = answered(scarce(tmp_path), tmp_path / "run", *TODAY, "1", "--price", "l40s=50", "--developer-hour", "1")
    assert found["answer"] == "nothing"
    assert "would save" in found["sentence"]


def test_nobody_uses_the_policies_that_know_the_future(capsys: Any, tmp_path: Path):
    log = scarce(tmp_path)
    assert "knows the future" in refused(capsys, str(log), *TODAY, "1", "--deployed", "belady")
    assert "knows the future" in refused(
        capsys, str(log), *TODAY, "1", "--policies", "belady", "--out", str(tmp_path / "run")
    )


def test_tuning_sees_the_first_part_of_the_log_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Workload] = []
    tune = contenders.tuned_to

    def spy(case: Any, windows: Any, *rest: Any) -> Any:
        seen.extend(windows)
        return tune(case, windows, *rest)

    monkeypatch.setattr(answering, "tuned_to", spy)
    log = scarce(tmp_path)
    answered(log, tmp_path / "run", *TODAY, "1")
    whole = load_trace(log, "cace")
    last = int(0.4 * len(whole)) + 1
    tokens = np.concatenate([window.context_tokens for window in seen])  # a number of its own for each row of the log
    assert len(tokens) and set(tokens.tolist()) <= set(whole.context_tokens[:last].tolist())


def test_the_weights_do_not_depend_on_what_comes_later(tmp_path: Path):
    rng = np.random.default_rng(1)
    models, gaps_s = rng.choice(ALIKE, 700).tolist(), rng.exponential(20.0, 700).tolist()
    logs = [
        log_of(tmp_path, models, gaps_s, "one.csv"),
        log_of(tmp_path, [*models[:290], *[ALIKE[0]] * 410], [*gaps_s[:290], *[1.0] * 410], "other.csv"),
    ]
    found = []
    for log in logs:
        answered(log, tmp_path / log.stem, *TODAY, "1")
        found.append(load_cace(tmp_path / log.stem / "cace.yaml").weights)
    assert found[0] == found[1]


def test_tuned_cace_is_not_chosen_by_what_it_was_tuned_on():
    costs = {"lru": np.full(30, 10.0), "gdsf": np.full(30, 9.0), "cace:tuned-here": np.full(30, 9.0)}
    costs["cace:tuned-here"][:20] = 1.0
    assert best_before(costs, 10) == "gdsf"
    costs["cace:tuned-here"][20:] = 8.0
    assert best_before(costs, 10) == "cace:tuned-here"


def test_parts_follow_each_other_and_cover_the_log(tmp_path: Path):
    workload = load_trace(scarce(tmp_path), "cace")
    parts = parts_of(workload)
    assert sum(map(len, parts.tuning)) == parts.starts[parts.tuned]
    assert parts.starts[0] == 0 and parts.starts[-1] == len(workload) and (np.diff(parts.starts) > 0).all()
    assert parts.judged_from == pytest.approx(0.6 * len(workload), rel=0.02)
    assert parts_of(workload, most=600).dropped == 100
    with pytest.raises(ConfigError, match="windows of at least 25"):
        parts_of(workload, windows=100)


@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_costs_of_requests_sum_to_the_cost_of_the_episode(protocol: str):
    scenario = load_scenario("tiny").replace(
        reward={
            "completion": {"w_ttft": 1.0, "slo_s": 0.5},
            "chat": {"w_ttft": 0.3, "w_e2e": 0.1, "slo_s": 2.0, "slo_on": "e2e"},
            "w_load": 0.2,
            "w_slo": 1.0,
            "w_refused": 3.0,
        }
    )
    case = case_of(scenario, protocol)
    workload = case.workload(0)
    simulator, _ = run_episode(contestant_of("lru"), case, workload, 0)
    played = playing.play(case, contestant_of("lru"), workload, edges_of(len(workload), 5), 2, ())
    assert played.cost.sum() + played.cost_before.sum() == pytest.approx(simulator.cost())


def test_ctrl_c_leaves_what_had_finished_and_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    played = 0
    play = playing.play

    def interrupted(*arguments: Any) -> Any:
        nonlocal played
        played += 1
        if played > 5:
            raise KeyboardInterrupt
        return play(*arguments)

    monkeypatch.setattr(answering, "play", interrupted)
    out = tmp_path / "run"
    assert main([str(scarce(tmp_path)), *QUICK, *TODAY, "1", "--out", str(out)]) == 130
    assert "interrupted: this is the answer of what had finished" in capsys.readouterr().out
    rows = table_of(out / "windows.csv")
    assert len({(row["fleet"], row["policy"]) for row in rows}) == 5
    assert json.loads((out / "recommendation.json").read_text())["interrupted"]
    assert (out / "report.html").is_file()


def test_ctrl_c_before_anything_has_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def interrupted(*arguments: Any) -> Any:
        del arguments
        raise KeyboardInterrupt

    monkeypatch.setattr(answering, "tuned_to", interrupted)
    assert main([str(scarce(tmp_path)), *QUICK, *TODAY, "1", "--out", str(tmp_path / "run")]) == 130
    assert "there is no answer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_to_be_done_next_is_a_command_that_runs(tmp_path: Path):
    out = tmp_path / "run"
    answered(one_is_dear(tmp_path), out, *TODAY, "2", "--price", "l40s=5")
    page = html.unescape((out / "report.html").read_text())
    command = re.search(r"python -m experiments.compare (.*?)</code>", page)
    assert command is not None
    arguments = [*shlex.split(command[1]), "--out", str(tmp_path / "compared")]
    assert compare(arguments) == 0


def test_a_run_folder_is_never_written_over(tmp_path: Path, capsys: Any):
    log, out = fitting(tmp_path), tmp_path / "run"
    answered(log, out, *TODAY, "1")
    before = (out / "recommendation.json").read_bytes()
    assert "never overwritten" in refused(capsys, str(log), *TODAY, "1", "--out", str(out))
    assert (out / "recommendation.json").read_bytes() == before


def test_the_smallest_fleet_that_keeps_a_promise_is_named(tmp_path: Path):
    found = answered(scarce(tmp_path), tmp_path / "run", *TODAY, "1", "--slo", "chat:0.9@1s")
    assert found["promises"].startswith("The smallest fleet that keeps 90 % of chat within 1 s (TTFT): 3 x l40s")
    rows = table_of(tmp_path / "run" / "capacity.csv")
    kept = {
        int(row["gpus"]): float(row["kept: 90 % of chat within 1 s (TTFT)"]) for row in rows if row["policy"] == "lru"
    }
    assert kept[2] < 0.9 <= kept[3]


def test_simulated_times_are_held_against_the_measured_ones_of_the_log(tmp_path: Path):
    log = log_of(tmp_path, [ALIKE[0]] * 700, [5.0] * 700, ttft_s=[1.0] * 600 + [3.0] * 100)
    found = answered(log, tmp_path / "run", *TODAY, "1")
    (latency,) = found["measured"]["latencies"]
    assert latency["name"] == "TTFT" and latency["requests"] == 700
    assert latency["measured_mean_s"] == pytest.approx(9 / 7)
    assert latency["simulated_mean_s"] < 1  # one model, which is always there
    assert latency["quantiles"][2] == [0.5, 1.0, pytest.approx(latency["simulated_mean_s"], rel=0.5)]
    page = Report(tmp_path / "run")
    assert any("Simulated and measured" in title for title in page.titles)
    # Simulated times are far below: a box says so, and the sentence holds no money.
    assert page.boxes[0].startswith("The simulation does not fit this log.") and "**" not in page.boxes[0]
    assert found["warnings"][0].startswith("**The simulation does not fit this log.**")
    assert page.headline.startswith("No hours and no money, as the simulation does not fit this log")
    assert "USD" not in page.headline and "nothing to decide" in page.headline


def test_the_bound_is_labelled_explained_and_last_and_is_no_bar(tmp_path: Path, capsys: Any):
    answered(scarce(tmp_path), tmp_path / "run", *TODAY, "1")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("no-swapping (bound): memory with room for every model") == 1
    page = Report(tmp_path / "run")
    rows = page.table("policies on 1 x l40s")
    assert [row["policy"] for row in rows][-1] == "no-swapping (bound)"
    assert page.text.count("It cannot be deployed on these GPUs") >= 2  # beside each table
    figures = page.figures
    (shown,) = figures["Cost saved on 1 x l40s"].values()
    assert not any("no-swapping" in name for name in shown["data"][0]["y"])
    (curves,) = figures["Waiting and money"].values()
    assert len(curves["data"]) <= 10 and "tickvals" in curves["layout"]["yaxis"]


def test_swap_is_answered_too(tmp_path: Path):
    log, out = scarce(tmp_path), tmp_path / "run"
    arguments = [*TODAY, "1", "--env", "swap", "--policies", "patient-fifo+gdsf", "--tuning", "20000", "--workers", "1"]
    assert main([str(log), *arguments, "--out", str(out)]) == 0
    found = json.loads((out / "recommendation.json").read_text())
    assert found["today"]["policy"] == "patient-fifo+lru"
    assert found["tuned"]["file"] == "cace.yaml"


def test_fleets_are_typed_as_ranges_and_mixtures():
    names = [fleet.name for fleet in fleets_named(["h100:1..3", "h100:1+l40s:2"], PRICES)]
    assert names == ["1 x h100", "2 x h100", "3 x h100", "1 x h100 + 2 x l40s"]
    mixed = fleets_named(["h100:1+l40s:2"], PRICES)[0]
    assert mixed.usd_per_hour == pytest.approx(PRICES["h100"].usd_per_hour + 2 * PRICES["l40s"].usd_per_hour)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a log"),
        (("LOG", "--gpu", "h10", "--gpus", "1"), "did you mean 'h100'"),
        (("LOG", "--fleets", "h100:4..1"), "the smaller one first"),
        (("LOG", "--fleets", "h100"), "NAME:FROM..TO"),
        (("LOG", "--price", "h100=cheap"), "is no price"),
        (("LOG", "--slo", "chat:95@2s"), "TASK:SHARE@SECONDS"),
        (("LOG", "--slo", "chats:0.95@2s"), "did you mean 'chat'"),
        (("LOG", "--deployed", "olama"), "did you mean 'ollama'"),
        (("LOG", "--fleets", "h100:1", "--max-gpus", "3"), "give one of them"),
        (("--before", "LOG"), "--before LOG --after LOG"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_the_remedy(
    tmp_path: Path, capsys: Any, arguments: tuple[str, ...], said: str
):
    log = str(fitting(tmp_path))
    assert said in refused(capsys, *(log if argument == "LOG" else argument for argument in arguments))
    assert not (Path.cwd() / "runs").exists() or not list((Path.cwd() / "runs").glob("*-recommend/config.yaml"))


def test_every_gpu_of_the_catalogue_has_a_price_with_its_source():
    from cace_env.fleets import GPUS

    assert set(PRICES) == set(GPUS)
    assert all(price.source and price.read and price.usd_per_hour > 0 for price in PRICES.values())
    assert price_table(["h100=2.5"])["h100"].usd_per_hour == 2.5


@pytest.mark.parametrize(
    ("system", "env", "policy"),
    [
        ("ollama", "eviction", "ollama"),
        ("llama.cpp", "eviction", "llama-cpp"),
        ("lru", "swap", "patient-fifo+lru"),
        ("llama-swap", "swap", "llama-swap+llama-swap"),
        ("wsjf+gdsf", "swap", "wsjf+gdsf"),
    ],
)
def test_systems_stand_for_policies(system: str, env: Any, policy: str):
    assert deployed_name(system, env) == policy
