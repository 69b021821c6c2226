"""Claims about training on logs: from the first part alone, chosen by windows that taught nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agents.imitation.config import ImitationConfig
from agents.imitation.trainer import ImitationTrainer
from cace_env.config import ConfigError, dump
from cace_env.evaluation.held_out import training_cases, training_scenarios
from cace_env.scenarios import SEEDS, Scenario, load_scenario
from cace_env.tables import Protocol
from experiments.label import main as label
from experiments.logs.public import scenarios as public_scenarios
from experiments.train import main as train
from tests.support.logs import shared_file
from tests.support.small import SMALL

VALIDATION = SEEDS["validation"][0]


def log_of(folder: Path, requests: int = 960, **trace: Any) -> str:
    """A scenario whose requests come from a log; the prompt of row r has 200 + r tokens."""
    rows = "".join(f"{3 * row},{200 + row},{20 + row % 50},{row % 7}\n" for row in range(requests))
    (folder / "log.csv").write_text(f"time,context_tokens,output_tokens,user\n{rows}")
    section = {"path": str(folder / "log.csv"), "format": "cace", "part": "train", "tasks": "completion", **trace}
    path = folder / "log.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "name": "log", "trace": section}), encoding="utf-8")
    return str(path)


def rows_of(case: Any, seed: int) -> range:
    """The rows of the log that a seed plays."""
    rows = case.workload(seed).context_tokens - 200
    assert (np.diff(rows) == 1).all()
    return range(int(rows[0]), int(rows[-1]) + 1)


def test_training_sees_the_first_part_and_is_chosen_by_other_windows(tmp_path: Path) -> None:
    (case,) = training_cases([log_of(tmp_path)], Protocol.EVICTION).values()
    learned = [rows_of(case, seed) for seed in range(9)]
    chosen = [rows_of(case, VALIDATION + place) for place in range(3)]
    # 12 windows of 40 rows are the first half of the log, in order of time; the last three choose
    assert [(rows.start, rows.stop) for rows in learned + chosen] == [(40 * n, 40 * n + 40) for n in range(12)]
    with pytest.raises(ConfigError, match="seed 2000000 is not for training or choosing"):
        case.workload(SEEDS["test"][0])


def test_seeds_beyond_the_windows_draw_what_is_attached_anew(tmp_path: Path) -> None:
    (case,) = training_cases([log_of(tmp_path, windows=4)], Protocol.EVICTION).values()
    assert rows_of(case, 0) == rows_of(case, 3) == range(120)
    assert (case.workload(0).model != case.workload(3).model).any()
    np.testing.assert_array_equal(case.workload(0).model, case.workload(0).model)


@pytest.mark.parametrize(
    ("trace", "problem"),
    [({"part": "all"}, "add `part: train`"), ({"part": "test"}, "add `part: train`"), ({"windows": 3}, "4 or more")],
)
def test_what_would_judge_is_not_trained_on(tmp_path: Path, trace: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        training_cases([log_of(tmp_path, **trace)], Protocol.EVICTION)


def test_who_draws_requests_by_seed_takes_no_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="imitation, linear and network train on a log"):
        training_scenarios([log_of(tmp_path)], Protocol.EVICTION)


def test_logs_stand_beside_the_suite(tmp_path: Path) -> None:
    cases = training_cases(["suite", log_of(tmp_path)], Protocol.SWAP)
    assert len(cases) == 11 and "swap-drift" in cases and cases[str(tmp_path / "log.yaml")].name == "log"


def test_an_agent_learns_from_a_log_and_from_a_generator(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    content = {
        "algorithm": "imitation", "train_on": [str(tmp_path / "small.yaml"), log_of(tmp_path, stickiness=0.0)],
        "labels": str(tmp_path / "labels"), "player": "lru", "episodes": 2, "futures": 2, "horizons_s": [20, 60],
        "share": 0.5, "shown": 0, "hidden": 4, "validation_seeds": 2, "wandb": "off", "steps": 200, "interval": 100,
    }  # fmt: skip
    path, out = tmp_path / "mine.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert label([str(path)]) == 0
    assert train([str(path), "--out", str(out)]) == 0
    assert {file.name for file in (tmp_path / "labels").iterdir()} == {
        f"{name}-{seed}.npz" for name in ("small", "log") for seed in (0, 1)
    }
    for name in ("small", "log"):
        assert len(np.load(tmp_path / "labels" / f"{name}-0.npz")["extra"])
    assert "validation/log" in (out / "metrics.csv").read_text().splitlines()[0]


def scenario_of(name: str) -> Scenario:
    """A public log to train on, as docs/training.md makes it."""
    folder = shared_file("azure2023_code_first60.csv.gz").parent
    scenario = public_scenarios(folder, Protocol.EVICTION)[name]
    assert scenario.trace is not None
    trace = scenario.trace.model_dump(mode="json") | {"part": "train"}
    return scenario.replace(name=name, trace=trace)


@pytest.mark.parametrize("name", ["azure-code", "gentd26"])
def test_public_logs_can_be_trained_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump(scenario_of(name)), encoding="utf-8")
    assert load_scenario(str(path)).name == name
    config = ImitationConfig(
        train_on=(str(path),), shown=0, futures=2, horizons_s=(30.0,), share=0.05, hidden=4, play_on=("learner",)
    )
    trainer = ImitationTrainer(config)
    trainer.learn(1, lambda step: None)
    assert trainer.step > 0
