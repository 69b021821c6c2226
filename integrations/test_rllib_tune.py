"""Claims about searches by Ray Tune; collected by `make test-rllib` only, which installs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil  # type: ignore[import-untyped]
import pytest
import ray
import yaml
from optuna.trial import TrialState

from cace_env import evaluate
from experiments import tune
from experiments.tuning import asha
from experiments.tuning.search_space import read_space
from experiments.tuning.study import Judges, Search, train_agent

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

INTERVALS = 3
STEPS = 24


@pytest.fixture(autouse=True)
def _few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.tuning.run.ALL_VALIDATION", 3)


def space(short: Path, path: Path, **fixed: Any) -> Path:
    """What is searched: how CMA-ES searches a linear policy on next to nothing, or the learning rate of RLlib."""
    if "algorithm" in fixed:
        free: dict[str, Any] = {"learning_rate": {"min": 1e-4, "max": 1e-2}}
    else:
        fixed = {"algorithm": "linear", "population": 4, "seeds_per_generation": 2, "train_seeds": 4} | fixed
        free = {"sigma": {"distribution": "log_uniform_values", "min": 0.05, "max": 1.0}}
    parameters = {name: {"value": value} for name, value in {"train_on": str(short), **fixed}.items()}
    path.write_text(yaml.safe_dump({"parameters": parameters | free}))
    return path


def asked(file: Path, out: Path, trials: int, *more: str) -> list[str]:
    options = ["--search", "asha", "--trials", str(trials), "--steps", str(STEPS), "--intervals", str(INTERVALS)]
    return [str(file), *options, "--validation-seeds", "2", "--out", str(out), *more]


def study_of(out: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tune", storage=f"sqlite:///{out / 'study.db'}").get_trials()


def test_trials_are_ended_by_asha_s_rule_and_say_what_they_would_have_said_here(short: Path, tmp_path: Path) -> None:
    file, out = space(short, tmp_path / "space.yaml"), tmp_path / "search"
    assert tune.main(asked(file, out, 6)) == 0
    assert not ray.is_initialized()
    trials, met = study_of(out), list[float]()
    for trial in trials:  # one after the other, so that the rule can be worked out by hand
        first = trial.intermediate_values[0]
        goes_on = not met or first <= np.percentile(met, 100 / asha.REDUCTION)
        met.append(first)
        assert trial.state == (TrialState.COMPLETE if goes_on else TrialState.PRUNED)
        assert len(trial.intermediate_values) == (INTERVALS if goes_on else 1)
        assert (out / "trials" / str(trial.number) / "agent").exists() == goes_on
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    last = next(trial for trial in reversed(trials) if trial.state == TrialState.COMPLETE)
    searched = Search(tmp_path, read_space(file), 1, STEPS, INTERVALS, 2, 0, 1)
    config = {name: each.value for name, each in searched.space.parameters.items()} | last.params
    moments = list(train_agent(searched, config, Judges(searched, None), 0))
    assert [moment.least for moment in moments] == list(last.intermediate_values.values())
    assert last.user_attrs["requests"] == moments[-1].requests

    best = json.loads((out / "run.json").read_text())["finalists"][0]
    found = f"agent:{out / 'best' / 'agent'}"
    costs = {name: evaluate(name, short, range(1_000_000, 1_000_003)).column("cost").sum() for name in (found, "lru")}
    assert best["validation"] == pytest.approx(costs[found] / costs["lru"])
    with (out / "trials.csv").open() as rows:
        assert [row["state"] for row in csv.DictReader(rows)] == [trial.state.name for trial in trials]
    assert "## The best trials" in (out / "report.md").read_text()
    assert tune.main(asked(file, out, 6)) == 0  # asks for no more than is there
    assert len(study_of(out)) == 6


def test_a_trial_whose_process_is_killed_begins_anew(short: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith("ray::Implicit"):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    file, out = space(short, tmp_path / "space.yaml"), tmp_path / "search"
    killer = threading.Thread(target=kill_one)
    killer.start()
    assert tune.main(asked(file, out, 3, "--jobs", "2")) == 0
    killer.join()
    assert killed, "no trial was found"
    assert {trial.state for trial in study_of(out)} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(study_of(out)) == 3


def test_numbers_of_rllib_are_searched_and_each_trial_gets_its_cores(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"algorithm": "rllib-ppo", "envs_per_runner": 4, "n_steps": 16, "batch_size": 32, "hidden": 4}
    out = tmp_path / "search"
    file = space(short, tmp_path / "space.yaml", **small, runners=1)
    assert tune.main([*asked(file, out, 1), "--steps", "128", "--intervals", "1"]) == 0
    (trial,) = study_of(out)
    assert trial.state == TrialState.COMPLETE and trial.user_attrs["requests"] > 0
    file = space(short, tmp_path / "many.yaml", **small, runners=500)
    assert tune.main(asked(file, tmp_path / "refused", 1)) == 2
    assert "a trial needs 501 cores" in capsys.readouterr().err


def test_what_a_space_allows_and_a_trainer_refuses_is_a_line(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = space(short, tmp_path / "space.yaml", population=-1)
    assert tune.main(asked(file, tmp_path / "search", 2)) == 2
    assert "population" in capsys.readouterr().err
