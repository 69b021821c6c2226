"""A small comparison that has finished, and policies for others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.compare import main
from tests.support.small import SMALL, lru_in_python

HOME = __name__  # of the policies below
LOG = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{i // 60:02}:{i % 60:02}.000000,{50 + i},{1 + i % 7}\n" for i in range(0, 1800, 9)
)


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
    own = f"{HOME}:lru_in_python"
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
