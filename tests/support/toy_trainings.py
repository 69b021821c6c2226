"""Trainings of the toy trainer: one that has finished, one that has begun."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agents import algorithms as trainers
from cace_env.policies import load_agent
from experiments.train import main
from experiments.training.folder import read_metrics
from tests.support import toy_trainer
from tests.support.small import SMALL


@pytest.fixture(autouse=True, scope="module")
def toy() -> Iterator[None]:
    toy_trainer.add()
    yield
    del trainers.ALGORITHMS["toy"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def options(small: Path, out: Path, *more: str) -> list[str]:
    every = ["--algorithm", "toy", "--train-on", str(small), "--validation-seeds", "2", "--wandb", "off"]
    return [*every, "--out", str(out), "--steps", "10", "--interval", "3", *more]


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps, evaluated every three."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(options(small, out)) == 0
    return out


@pytest.fixture
def begun(finished: Path, tmp_path: Path, small: Path) -> Path:
    """The first three steps of those, copied from one run: resuming must not change the original."""
    home = finished.with_name("begun")
    if not home.exists():
        assert main(options(small, home, "--steps", "3")) == 0
    return Path(shutil.copytree(home, tmp_path / "run"))


def numbers(folder: Path) -> list[dict[str, float]]:
    """metrics.csv without the clock."""
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in read_metrics(folder)]


def weights(folder: Path) -> dict[str, list[float]]:
    return {name: weight.tolist() for name, weight in load_agent(folder).network.weights.items()}


def assert_same_training(one: Path, other: Path) -> None:
    """The two folders hold the same training."""
    assert numbers(one) == numbers(other)
    for name in ("best", "last"):
        assert weights(one / name) == weights(other / name)
    assert json.loads((one / "run.json").read_text())["status"] == "finished"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said about arguments that are refused; never a traceback."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    return said
