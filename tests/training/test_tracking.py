"""What TensorBoard and W&B are told, read back from their own files; nothing here needs a key or a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra train")
pytest.importorskip("matplotlib", reason="needs the extra train")
pytest.importorskip("optuna", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")
pytest.importorskip("wandb", reason="needs the extra train")

from agents import algorithms as trainers
from cace_env.policies import load_agent
from experiments.train import main
from experiments.training.folder import read_metrics
from experiments.training.options import ANEW, read_options
from experiments.training.tracking import TensorBoard, new_run_id
from tests.support import toy_trainer
from tests.support.small import SMALL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B without network, without a key, and with files nowhere but here."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(home / name.lower()))
        toy_trainer.add()
        yield
        del trainers.ALGORITHMS["toy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy training with W&B as it is by default."""
    home = tmp_path_factory.mktemp("runs")
    (home / "small.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = [
        "--algorithm",
        "toy",
        "--train-on",
        str(home / "small.yaml"),
        "--validation-seeds",
        "2",
        "--steps",
        "4",
    ]
    more = ["--interval", "2", "--wandb-tags", "first,toy", "--wandb-group", "three-seeds"]
    assert main([*arguments, *more, "--out", str(home / "run")]) == 0
    return home / "run"


def records(folder: Path) -> list[dict[str, Any]]:
    """Every record of the offline run in a folder, by W&B's own reader."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def told(run: Path) -> list[dict[str, Any]]:
    return records(run)


def of_kind(told: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in told if record["type"] == kind]


def test_wandb_knows_every_option_and_the_versions(told: list[dict[str, Any]], run: Path):
    (begun,) = of_kind(told, "run")
    config = begun["config"]["update"]
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: config[key] for key in kept if key not in ANEW} == {
        key: value for key, value in kept.items() if key not in ANEW
    }
    assert config["versions"]["cace-env"]
    assert (begun["run_group"], begun["tags"]) == ("three-seeds", ["first", "toy"])
    assert begun["run_id"] == json.loads((run / "run.json").read_text())["wandb_id"]
    assert begun["telemetry"]["feature"]["offline"]


def test_wandb_draws_every_metric_over_the_global_step(told: list[dict[str, Any]], run: Path):
    metrics = of_kind(told, "metric")
    assert any(metric.get("glob_name") == "*" and metric.get("step_metric") == "global_step" for metric in metrics)
    history = [record["item"] for record in of_kind(told, "history")]
    rows = read_metrics(run)
    for name in ("validation/cost_vs_lru", "validation/small", "requests", "train/norm"):
        drawn = [(item["global_step"], item[name]) for item in history if name in item]
        assert drawn == [(row["global_step"], pytest.approx(row[name])) for row in rows if name in row]


def test_wandb_gets_a_table_with_the_cost_of_every_case(run: Path, told: list[dict[str, Any]]):
    shown = [record["item"] for record in of_kind(told, "history") if "validation/cases.path" in record["item"]]
    assert [item["global_step"] for item in shown] == [
        row["global_step"] for row in read_metrics(run) if row["is_best"]
    ]
    (offline,) = (run / "wandb").glob("offline-run-*")
    tables = [json.loads(path.read_text()) for path in (offline / "files").rglob("cases*.table.json")]
    assert len(tables) == sum(row["is_best"] for row in read_metrics(run))
    shares = set()
    for table in tables:
        assert table["columns"] == ["case", "cost", "lru_cost", "cost_vs_lru", "cace_vs_lru"]
        ((case, cost, lru_cost, share, _),) = table["data"]
        assert case == "small"
        assert share == pytest.approx(cost / lru_cost)
        shares.add(round(share, 9))
    assert shares == {round(row["validation/small"], 9) for row in read_metrics(run) if row["is_best"]}


def test_wandb_gets_a_picture_of_an_episode(run: Path, told: list[dict[str, Any]]):
    (shown,) = [
        item for item in (record["item"] for record in of_kind(told, "history")) if "timeline/small.path" in item
    ]
    assert (shown["timeline/small.width"], shown["timeline/small.height"]) == (960, 540)
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert (offline / "files" / shown["timeline/small.path"]).stat().st_size > 1000


def test_wandb_gets_the_agent_with_its_aliases(run: Path, told: list[dict[str, Any]]):
    versions = [artifact for artifact in of_kind(told, "artifact") if artifact["type"] == "agent"]
    rows = read_metrics(run)
    best = [row["global_step"] for row in rows if row["is_best"]]
    assert [
        json.loads(artifact["metadata"])["global_step"] for artifact in versions if "best" in artifact["aliases"]
    ] == best
    assert all("latest" in artifact["aliases"] for artifact in versions)  # the newest of them has it in the end
    assert json.loads(versions[-1]["metadata"])["global_step"] == rows[-1]["global_step"]
    assert len({artifact["name"] for artifact in versions}) == 1
    files = {content["path"] for content in versions[-1]["manifest"]["contents"]}
    assert files == {path.name for path in (run / "best").iterdir()}
    assert load_agent(run / "best").card.name == "toy"


def test_a_training_that_goes_on_is_the_same_run_of_wandb(run: Path, tmp_path: Path):
    out = tmp_path / "run"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("wandb"))
    assert main(["--out", str(out), "--resume", "--steps", "6"]) == 0
    told = records(out)
    (begun,) = of_kind(told, "run")
    assert begun["run_id"] == json.loads((run / "run.json").read_text())["wandb_id"]
    steps = [record["item"]["global_step"] for record in of_kind(told, "history") if "requests" in record["item"]]
    assert steps == [4, 6]  # where it was, and where it went


def test_online_without_a_key_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    assert main(["--algorithm", "toy", "--wandb", "online", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "--wandb online needs a key" in said
    assert "--wandb offline" in said
    assert not out.exists()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_missing_wandb_is_named_with_its_extra(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["--algorithm", "toy", "--wandb", mode, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert 'pip install "cace-env[train]"' in said
    assert "--wandb off" in said


def test_without_wandb_everything_else_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([str(run / "config.yaml"), "--wandb", "off", "--out", str(tmp_path / "run")]) == 0
    assert "Validation cost over LRU's" in capsys.readouterr().out
    assert not (tmp_path / "run" / "wandb").exists()
    assert (tmp_path / "run" / "best" / "agent.json").exists()


@pytest.mark.integration
def test_an_offline_run_asks_nobody_on_the_network(run: Path, tmp_path: Path):
    code = """
import socket, sys
from pathlib import Path

def asked(*address):
    print("asked", *address[:2])
    raise OSError("no network")

socket.getaddrinfo = asked
from experiments.training.tracking import check_wandb, start_wandb
check_wandb("offline")
run = start_wandb(Path(sys.argv[1]), "offline", run_id="1", project="p", group="g", tags=(), config={})
run.log(0, {"cost": 1.0})
run.log_table(0, "cases", ["case"], [["small"]])
run.log_agent(Path(sys.argv[2]), ["best"], {})
run.run.finish()
"""
    asked_for = ("WANDB_MODE", "WANDB_ERROR_REPORTING")  # which most people have not set
    environment = {name: value for name, value in os.environ.items() if name not in asked_for}
    command = [sys.executable, "-c", code, str(tmp_path), str(run / "best")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_sweep_gives_its_runs_their_ids(monkeypatch: pytest.MonkeyPatch):
    assert new_run_id() != new_run_id()
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-sweep")
    assert new_run_id() == "of-the-sweep"


def test_event_files_of_a_training_that_went_back_show_each_step_once(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path, 0)
    for step in (0, 3, 6):
        first.log(step, {"cost": float(step)})
    first.close()
    later = TensorBoard(tmp_path, 3)  # the checkpoint of step 6 was never finished
    for step in (3, 5):
        later.log(step, {"cost": 10.0 + step})
    later.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("cost")] == [(0, 0.0), (3, 13.0), (5, 15.0)]


def test_the_sweep_that_ships_asks_for_options_that_there_are():
    sweep = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())
    command = sweep["command"]
    assert command[:3] == ["${env}", "${interpreter}", "-m"]
    assert command[3] == "experiments.train"
    assert sweep["metric"] == {"name": "validation/cost_vs_lru", "goal": "minimize"}
    ends = []
    for name, parameter in sweep["parameters"].items():
        both = (
            [parameter["min"], parameter["max"]]
            if "min" in parameter
            else parameter.get("values", [parameter.get("value")])
        )
        ends.append([f"--{name}={value}" for value in (both[0], both[-1])])
    fixed = [word for word in command[4:] if word != "${args}"]
    for which in (0, 1):
        read = read_options([*fixed, *(pair[which] for pair in ends)], "")
        assert set(sweep["parameters"]) <= set(type(read).model_fields)
        assert read.wandb == "online"
