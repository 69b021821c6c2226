"""Claims about the command `characterize`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("jinja2", reason="needs the extra experiments")

from cace_env.fleets import ENGINES
from cace_env.scenarios import load_scenario
from experiments.characterize import main
from experiments.logs.characterized import on_assumed_fleet
from experiments.logs.model_names import match_models
from experiments.logs.own_log import open_log, scenario_for
from tests.support.logs import ROWS, own, written
from tests.support.small import SMALL

RUDE = "\x1b[31mred/<script>alert(1)</script>"
NAMES = ("qwen2.5-coder:7b", "JetBrains/Mellum-4b-sft-python", "Qwen/Qwen2.5-Coder-14B-Instruct", RUDE)


def a_log(folder: Path, names: tuple[str, ...] = NAMES, rows: int = 400) -> Path:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(20.0, rows))
    model = rng.choice(len(names), rows, p=np.arange(len(names), 0, -1) / sum(range(len(names) + 1)))
    body = "".join(
        f'{time:.3f},{100 + n % 900},{5 + n % 40},"{names[m]}",{("chat", "completion")[n % 2]},u{n % 7},s{n % 31},,\n'
        for n, (time, m) in enumerate(zip(times, model, strict=True))
    )
    return own(folder, body, "time,context_tokens,output_tokens,model,task,user,session,after,think_s")


def models_file(folder: Path) -> Path:
    return written(folder, yaml.safe_dump({RUDE: "starcoder2-7b"}), "models.yaml")


def run(folder: Path, *more: str, status: int = 0) -> tuple[dict[str, Any], Path]:
    """The numbers of a run on the log, and its folder."""
    out = folder / "out"
    assert main([*more, "--out", str(out), "--workers", "1"]) == status
    return (json.loads((out / "characteristics.json").read_text()) if status == 0 else {}), out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("own")
    path, models = a_log(folder), models_file(folder)
    return run(folder, str(path), "--models", str(models), "--gpu", "l40s", "--gpus", "2")


def test_a_log_gets_numbers_a_report_and_a_scenario(done: tuple[dict[str, Any], Path]):
    numbers, out = done
    assert sorted(path.name for path in out.iterdir()) == ["characteristics.json", "report.html", "scenario.yaml"]
    assert numbers["log"]["requests"] == 400 and numbers["log"]["users"] == 7
    assert {row["engine"] for row in numbers["engines"]} == set(ENGINES)
    assert numbers["verdict"]["worth"] in ("no", "perhaps", "yes", "more GPUs first")
    assert numbers["models"][0]["model"] == "qwen2.5-coder-7b-int4"


def test_the_scenario_of_a_log_can_be_played(done: tuple[dict[str, Any], Path]):
    scenario = load_scenario(done[1] / "scenario.yaml")
    workload = scenario.replace(workload={**scenario.workload_config.model_dump(mode="json"), "requests": 50}).workload(
        0
    )
    assert len(workload) == 50 and workload.label == "generated"
    assert {entry.name for entry in scenario.entries} == set(NAMES)


def test_names_of_a_log_reach_no_page_and_no_terminal_unescaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, out = run(tmp_path, str(a_log(tmp_path)), "--models", str(models_file(tmp_path)))
    page, printed = (out / "report.html").read_text(), capsys.readouterr()
    assert "<script>alert" not in page and "\x1b[31mred" not in page + printed.out + printed.err
    assert "\x1b[31m" not in (out / "characteristics.json").read_text()
    assert "Content-Security-Policy" in page


def test_a_composite_and_an_assumed_fleet_cannot_be_overlooked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = written(tmp_path, ROWS)
    numbers, out = run(tmp_path, str(log), "--trace-option", "tasks=chat", "--trace-option", "time_compression=2")
    printed, page = capsys.readouterr().out, (out / "report.html").read_text()
    for said in (
        "The log does not say everything",
        "Time is compressed by 2",
        "The fleet is assumed",
        "not those of the log",
    ):
        assert said in printed and said in page
    assert numbers["log"]["label"].startswith("composite azure")


def test_requests_that_are_refused_stand_in_a_box(tmp_path: Path):
    body = "".join(f"{n},{300_000 if n % 4 == 0 else 10},5,qwen2.5-coder-32b,,,,\n" for n in range(40))
    numbers, _ = run(tmp_path, str(own(tmp_path, body)), "--gpu", "h100")
    assert any("25.0% of the requests are refused" in text for text in numbers["warnings"])


def test_a_log_is_played_on_the_fleet_of_a_scenario(tmp_path: Path):
    scenario = written(tmp_path, yaml.safe_dump(SMALL), "small.yaml")
    log = a_log(tmp_path, ("mellum-4b", "qwen2.5-coder-7b-instruct"))
    numbers, _ = run(tmp_path, str(log), "--scenario", str(scenario))
    assert numbers["fleet"]["gpus"] == [["l40s", 1]]
    assert not any("assumed" in text for text in numbers["warnings"])
    asked = {row["name"]: row["requests"] for row in numbers["models"]}
    assert asked["mellum-4b"] > 0 and asked["qwen2.5-coder-7b"] > 0 and asked["starcoder2-7b"] == 0


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ((), "have names that the catalogue does not know"),
        (("--models", "{models}", "--gpus", "2"), "--gpus needs --gpu"),
        (("--models", "{models}", "--gpu", "h300"), "no GPU 'h300'"),
        (("--models", "{models}", "--engine", "warp"), "no engine 'warp'"),
        (("--models", "{models}", "--scenario", "tiny"), "does not host"),
        (("--scenario", "tiny", "--gpu", "h100"), "is what --scenario says"),
        (("--trace-option", "mapping={a: b}"), "--models"),
        (("--workload", "tiny"), "name one of LOG"),
        (("--plot", "x.png"), "--plot needs --workload"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], problem: str
):
    models = str(models_file(tmp_path))
    _, out = run(
        tmp_path, str(a_log(tmp_path)), *(one.format(models=models) if one[0] == "{" else one for one in more), status=2
    )
    said = capsys.readouterr().err
    assert problem in re.sub(r"\s+", " ", said) and "\x1b" not in said
    assert not out.exists()


def test_a_folder_that_holds_something_is_not_written_into(
    done: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
):
    assert main([str(done[1].parent / "log.csv"), "--out", str(done[1])]) == 2
    assert str(done[1]) in capsys.readouterr().err


def test_an_engine_under_which_models_do_not_fit_is_said_and_not_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    scenario = written(tmp_path, yaml.safe_dump({**SMALL, "pressure": 3.0}), "small.yaml")
    numbers, _ = run(tmp_path, str(a_log(tmp_path, ("mellum-4b",))), "--scenario", str(scenario))
    (row,) = [row for row in numbers["engines"] if row["problem"]]
    assert row["engine"] == "sleep-mode" and row["numbers"] == {}
    assert "sleep-mode: " in capsys.readouterr().out


@pytest.mark.parametrize("times", [[0], [5, 5], [0, 1]])
def test_logs_of_a_request_or_two_are_no_trouble(tmp_path: Path, times: list[int]):
    body = "".join(f"{time},100,10,mellum-4b,,,,\n" for time in times)
    numbers, _ = run(tmp_path, str(own(tmp_path, body)))
    assert numbers["log"]["requests"] == len(times) and numbers["verdict"]["worth"] == "no"


def test_an_assumed_fleet_grows_until_it_serves_the_log(tmp_path: Path):
    names = ("qwen2.5-coder-32b", "r1-distill-qwen-32b", "granite-code-34b", "codellama-34b")
    body = "".join(f"{n * 0.4},4000,300,{names[n % 4]},,,,\n" for n in range(1200))
    log = open_log(own(tmp_path, body))
    matches = match_models(log.names)
    small = scenario_for(log, matches)
    grown = on_assumed_fleet(log, matches, "safetensors", None)
    assert grown.fleet[0].count > small.fleet[0].count
    assert grown.fleet[0].count <= len(names)


def test_a_scenario_with_a_log_is_described_by_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = written(tmp_path, ROWS)
    trace = {"path": str(log), "format": "azure", "tasks": "chat"}
    path = written(tmp_path, yaml.safe_dump({**SMALL, "trace": trace}), "logged.yaml")
    assert main(["--workload", str(path)]) == 0
    assert "4 requests (composite azure" in capsys.readouterr().out
    assert main(["--workload", str(path), "--requests", "9"]) == 2
    assert "limit" in capsys.readouterr().err


def test_a_scenario_without_a_log_is_described_by_generated_requests(capsys: pytest.CaptureFixture[str]):
    assert main(["--workload", "tiny", "--requests", "30"]) == 0
    assert "30 requests (generated)" in capsys.readouterr().out


def test_nothing_asked_for_is_an_error_that_says_what_there_is(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "LOG, --workload SCENARIO and --published" in capsys.readouterr().err
