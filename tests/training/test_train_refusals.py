"""What a training refuses: folders, files and options that do not belong to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro", reason="needs the extra train")
pytest.importorskip("matplotlib", reason="needs the extra train")
pytest.importorskip("optuna", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")


from agents import algorithms as trainers
from cace_env.config import ConfigError
from experiments.train import main
from experiments.training.folder import TrainingFolder, read_metrics
from experiments.training.options import read_options
from tests.support.toy_trainings import begun, finished, options, refused, small, toy

__all__ = ["begun", "finished", "small", "toy"]  # fixtures


def test_results_are_never_overwritten(finished: Path, small: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "metrics.csv").read_bytes()
    said = refused(capsys, *options(small, finished))
    assert "holds a finished training of 10 steps" in said
    assert f"--out {finished} --resume --steps 20" in said
    assert (finished / "metrics.csv").read_bytes() == before


def test_the_same_command_on_a_training_that_stopped_says_how_to_go_on(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(options(small, out, "--interrupt-at", "4")) == 130
    said = refused(capsys, *options(small, out, "--interrupt-at", "4"))
    assert "got to step 6 of 10" in said
    assert f"python -m experiments.train --out {out} --resume" in said


def test_a_folder_of_something_else_is_left_alone(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.txt").write_text("mine")
    assert "exists and is not empty" in refused(capsys, *options(small, tmp_path))
    (tmp_path / "run.json").write_text('{"policies": {}}')
    assert "holds no training" in refused(capsys, *options(small, tmp_path, "--resume"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "run.json"]


def test_a_training_goes_on_with_the_configuration_that_it_began_with(
    finished: Path, small: Path, capsys: pytest.CaptureFixture[str]
):
    said = refused(capsys, *options(small, finished, "--resume", "--scale", "2", "--validation-seeds", "3"))
    assert "scale 1.0, now 2.0" in said
    assert "validation_seeds 2, now 3" in said


def test_going_on_needs_to_be_told_where(capsys: pytest.CaptureFixture[str]):
    assert "--resume needs --out" in refused(capsys, "--algorithm", "toy", "--wandb", "off", "--resume")


def test_an_executor_that_the_algorithm_has_no_use_for_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = ["--algorithm", "ppo", "--wandb", "off", "--train-on", str(small), "--out", str(tmp_path / "run")]
    assert "--executor ray is for linear, network, imitation" in refused(capsys, *asked, "--executor", "ray")
    assert "--ray-address is for --executor ray" in refused(capsys, *asked, "--ray-address", "auto")
    assert not (tmp_path / "run").exists()


def test_more_workloads_than_are_kept_are_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("stable_baselines3", reason="needs the extra train")
    asked = ["--algorithm", "ppo", "--wandb", "off", "--train-on", str(small), "--out", str(tmp_path / "run")]
    assert "num_workloads is 100000; it has to be 1 to" in refused(capsys, *asked, "--num-workloads", "100000")
    assert not (tmp_path / "run").exists()


def test_two_processes_never_train_in_one_folder(finished: Path, capsys: pytest.CaptureFixture[str]):
    with TrainingFolder(finished):
        said = refused(capsys, "--out", str(finished), "--resume", "--steps", "12")
    assert "another process" in said
    assert len(read_metrics(finished)) == 5


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda home: (home / "trainer" / "weights.npz").write_bytes(b"mine"), "trainer/weights.npz"),
        (lambda home: (home / "trainer" / "model.pkl").write_bytes(b"mine"), "trainer/model.pkl"),
        (lambda home: (home / "progress.json").unlink(), "progress.json"),
        (lambda home: (home / "manifest.json").write_text("mine"), "manifest.json"),
    ],
    ids=["changed", "foreign", "missing", "unreadable"],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(
    spoil: Any, expected: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    spoil(next((out / "checkpoint").iterdir()))
    said = refused(capsys, "--out", str(out), "--resume", "--steps", "12")
    assert expected in said
    assert len(read_metrics(out)) == 5


def test_an_agent_that_was_tampered_with_is_refused_by_a_comparison(
    finished: Path, tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
):
    from experiments.compare import main as compare

    shutil.copytree(finished / "best", tmp_path / "agent")
    arguments = ["--scenarios", str(small), "--seeds", "1", "--policies", f"lru,agent:{tmp_path / 'agent'}"]
    assert compare([*arguments, "--out", str(tmp_path / "whole")]) == 0
    weights = tmp_path / "agent" / "weights.npz"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    capsys.readouterr()
    assert compare([*arguments, "--out", str(tmp_path / "spoilt")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "weights.npz" in said
    assert not (tmp_path / "spoilt").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("algorithm: toy\nscael: 2.0\n", "scael: unknown key, did you mean 'scale'?"),
        ("algorithm: toy\nstpes: 3\n", "stpes: unknown key, did you mean 'steps'?"),
        ("algorithm: toy\nscale: -1.0\n", "scale: Input should be greater than 0"),
        ("algorithm: toy\nscale: 3e-4\n", "write 3.0e-4"),
        ("algorithm: tyo\n", "algorithm: no algorithm called 'tyo', did you mean 'toy'?"),
        ("algorithm: [toy]\n", "algorithm"),
    ],
)
def test_a_file_is_refused_with_its_name_and_the_key(
    content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "agent.yaml"
    path.write_text(content)
    said = refused(capsys, str(path), "--wandb", "off")
    assert said.startswith(f"error: {path}: ")
    assert expected in said
    if "stpes" not in content:  # an option of the command, not of the trainer
        with pytest.raises(ConfigError, match=str(path)):
            trainers.read_config(path)


def test_the_command_line_wins_over_the_file(tmp_path: Path):
    path = tmp_path / "agent.yaml"
    path.write_text("algorithm: toy\nscale: 2.0\nseed: 3\nsteps: 50\n")
    read = read_options([str(path), "--scale", "4", "--steps=70"], "")
    assert read.model_dump(include={"algorithm", "scale", "seed", "steps"}) == {
        "algorithm": "toy",
        "scale": 4.0,
        "seed": 3,
        "steps": 70,
    }
