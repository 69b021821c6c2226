"""Training runs: what they keep, that a kill at any moment costs an interval and no more, and what is refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra train")
pytest.importorskip("matplotlib", reason="needs the extra train")
pytest.importorskip("optuna", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")

from rich.progress import Progress

from agents import algorithms as trainers
from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import evaluate
from cace_env.evaluation.held_out import training_cases, validation_seeds
from cace_env.policies import load_agent
from experiments import train as command
from experiments.train import main
from experiments.training import folder as training_folder
from experiments.training.folder import read_metrics
from experiments.training.loop import whole_batches
from experiments.training.options import options_class, read_options
from tests.support.toy_trainings import (
    assert_same_training,
    begun,
    finished,
    numbers,
    options,
    small,
    toy,
)

__all__ = ["begun", "finished", "small", "toy"]  # fixtures


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs" / "agent").glob("*.yaml"))


# --- what a run keeps ----------------------------------------------------------------------------------------------


def test_a_training_is_evaluated_at_its_beginning_after_every_interval_and_at_its_end(finished: Path):
    rows = read_metrics(finished)
    assert [row["global_step"] for row in rows] == [0, 3, 6, 9, 10]
    assert [row["interval"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["requests"] for row in rows] == [0, 30, 60, 90, 100]
    assert all(row["train/norm"] > 0 for row in rows[1:])


def test_steps_are_rounded_up_to_whole_batches_and_that_is_said_beforehand(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[float, float]] = []
    update = Progress.update

    def watched(bar: Progress, task: Any, **changes: Any) -> None:
        update(bar, task, **changes)
        drawn.append((bar.tasks[0].completed, bar.tasks[0].total or 0.0))

    monkeypatch.setattr(Progress, "update", watched)
    assert main(options(small, tmp_path / "run", "--batch", "4")) == 0
    said = capsys.readouterr().out
    beforehand, _, afterwards = said.partition("Validation cost")
    assert "--steps 10 is rounded up to 12 steps: toy learns 4 of them at once" in beforehand
    assert "trained to step 12 of 12" in said and afterwards
    assert [row["global_step"] for row in read_metrics(tmp_path / "run")] == [0, 4, 8, 12]
    assert drawn[-1] == (12, 12) and all(completed <= total == 12 for completed, total in drawn)


def test_nothing_is_said_of_steps_that_are_whole_batches(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(options(small, tmp_path / "run", "--batch", "5")) == 0
    said = capsys.readouterr().out
    assert "rounded up" not in said and "trained to step 10 of 10" in said


def test_a_batch_of_sb3_is_what_it_learns_between_two_looks_at_its_steps():
    pytest.importorskip("stable_baselines3", reason="needs the extra train")
    from agents.sb3.trainer import DQNConfig, PPOConfig, SB3Trainer

    common: dict[str, Any] = {"train_on": ("workstation",), "num_envs": 4}
    ppo = SB3Trainer(PPOConfig(n_steps=8, batch_size=16, **common))
    assert ppo.batch == 32
    ppo.learn(33, lambda step: None)
    assert ppo.step == whole_batches(33, ppo.batch) == 64
    dqn = SB3Trainer(DQNConfig(train_every=2, buffer_size=100, **common))
    dqn.learn(9, lambda step: None)
    assert dqn.step == whole_batches(9, dqn.batch) == 16


def test_evaluations_are_the_costs_of_the_agent_over_those_of_lru_on_validation_seeds(finished: Path, small: Path):
    seeds = validation_seeds(2)
    lru = evaluate("lru", small, seeds).column("cost").sum()
    for name, row in (("last", read_metrics(finished)[-1]), ("best", min(read_metrics(finished), key=cost_of))):
        ours = evaluate(load_agent(finished / name).policy(), small, seeds).column("cost").sum()
        assert row["validation/cost_vs_lru"] == pytest.approx(ours / lru)
        assert row["validation/small"] == pytest.approx(ours / lru)


def cost_of(row: dict[str, Any]) -> float:
    return float(row["validation/cost_vs_lru"])


def test_best_is_the_first_agent_with_the_least_validation_cost(finished: Path):
    rows = read_metrics(finished)
    about = json.loads((finished / "run.json").read_text())
    best = min(rows, key=cost_of)
    assert (about["best_step"], about["best_cost"]) == (best["global_step"], cost_of(best))
    least = np.minimum.accumulate([cost_of(row) for row in rows])
    assert [bool(row["is_best"]) for row in rows] == [True, *(np.diff(least) < 0)]


def test_no_request_of_another_split_is_ever_seen_in_an_evaluation(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[int] = []

    def watched(what: str, env: Any) -> dict[str, Case]:
        def workload(seed: int, case: Case) -> Any:
            drawn.append(seed)
            return case.workload(seed)

        cases = training_cases(what, env)
        return {
            name: Case(case.name, case.tables, lambda seed, case=case: workload(seed, case))  # type: ignore[misc]
            for name, case in cases.items()
        }

    monkeypatch.setattr(command, "training_cases", watched)
    assert main(options(small, tmp_path / "run")) == 0
    assert set(drawn) == set(validation_seeds(2))


def test_the_run_folder_says_how_it_came_about(finished: Path, small: Path):
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["commands"][0].startswith("python -m experiments.train --algorithm toy")
    assert about["versions"]["cace-env"]
    assert set(about["git"] or {"commit", "changed_files"}) == {"commit", "changed_files"}
    card = load_agent(finished / "best").card
    assert card.command == about["commands"][0]
    assert card.requests == 10 * about["best_step"]


def test_the_kept_configuration_trains_the_same_again(finished: Path, tmp_path: Path):
    assert main([str(finished / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert_same_training(tmp_path / "again", finished)


def test_event_files_hold_the_numbers_of_the_table(finished: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    for name in ("validation/cost_vs_lru", "train/norm", "requests"):
        rows = [(row["global_step"], np.float32(row[name])) for row in read_metrics(finished) if name in row]
        assert [(event.step, np.float32(event.value)) for event in events.Scalars(name)] == rows


def test_the_summary_says_what_came_of_it_and_what_to_type_next(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(options(small, out)) == 0
    said = capsys.readouterr().out
    best = min(cost_of(row) for row in read_metrics(out))
    assert f"{best:.3f}" in said
    assert "CACE" in said
    assert f"--policies lru,cace,agent:{out / 'best'}" in said
    assert "left:" not in said  # the progress bar is for terminals


def test_a_checkpoint_holds_nothing_that_could_run(finished: Path):
    files = [path for path in (finished / "checkpoint").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= set(training_folder.DATA)
    assert len(list((finished / "checkpoint").iterdir())) == 1  # older ones are gone


# --- going on ------------------------------------------------------------------------------------------------------


def test_a_training_that_went_on_is_the_one_that_never_stopped(begun: Path, finished: Path):
    assert main(["--out", str(begun), "--resume", "--steps", "10"]) == 0
    assert_same_training(begun, finished)


def test_the_command_of_a_job_script_begins_and_goes_on(small: Path, tmp_path: Path, finished: Path):
    out = tmp_path / "run"
    assert main(options(small, out, "--resume", "--interrupt-at", "2")) == 130
    assert main(options(small, out, "--resume", "--interrupt-at", "2")) == 0
    assert_same_training(out, finished)


def test_ctrl_c_saves_and_says_how_to_go_on(
    small: Path, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(options(small, out, "--interrupt-at", "4")) == 130
    assert f"go on with: python -m experiments.train --out {out} --resume" in capsys.readouterr().out
    assert [row["global_step"] for row in read_metrics(out)] == [0, 3, 6]
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert main(["--out", str(out), "--resume"]) == 0
    assert_same_training(out, finished)


def test_the_second_ctrl_c_stops_at_once_and_costs_the_interval(small: Path, tmp_path: Path, finished: Path):
    out = tmp_path / "run"
    assert main(options(small, out, "--interrupt-at", "5", "--interrupts", "2")) == 130
    assert [row["global_step"] for row in read_metrics(out)] == [0, 3]
    assert main(["--out", str(out), "--resume"]) == 130  # in step 5 it happens once more
    assert numbers(out) == numbers(finished)[:2]


class Killed(BaseException):
    """Caught nowhere: as near to SIGKILL as one process can come."""


@pytest.mark.parametrize(
    ("name", "survived"),
    [
        ("write_agent", 0),
        ("table_text", 1),
        ("_to_disk", 0),  # the checkpoint has no name yet
        ("_to_disk", 1),  # it has one, and the files beside it are those of before
        ("_to_disk", 2),
        ("replace_file", 1),
        ("replace_file", 2),
    ],
)
def test_whatever_a_checkpoint_was_doing_the_training_goes_on(
    name: str, survived: int, begun: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    calls, real = [0], getattr(training_folder, name)

    def fails(*arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] > survived:
            raise Killed
        return real(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training_folder, name, fails)
        main(["--out", str(begun), "--resume", "--steps", "10"])
    assert main(["--out", str(begun), "--resume", "--steps", "10"]) == 0
    assert_same_training(begun, finished)


@pytest.mark.slow
@pytest.mark.integration
def test_a_training_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    small: Path, tmp_path: Path, finished: Path
):
    out = tmp_path / "run"
    run = [sys.executable, "-m", "tests.support.toy_trainer", *options(small, out), "--pause-s", "0.1", "--resume"]
    chance = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        known = len(read_metrics(out))
        limit = time.monotonic() + 60
        while len(read_metrics(out)) <= known and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))  # somewhere in the next interval, its evaluation or its checkpoint
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = [row["global_step"] for row in read_metrics(out)]
    assert steps == [0, 3, 6, 9, 10][: len(steps)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_training(out, finished)


# --- the algorithms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in trainers.ALGORITHMS if name != "toy"])
def test_every_algorithm_has_a_configuration_with_the_common_keys(name: str):
    fields = options_class(name).model_fields
    assert {"algorithm", "env", "train_on", "seed", "steps", "out"} <= set(fields)
    config = trainers.read_config({"algorithm": name})
    assert config.model_dump(include={"algorithm", "train_on"}) == {"algorithm": name, "train_on": "suite"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_says_what_it_is_for_and_is_understood(path: Path):
    text = path.read_text()
    assert text.startswith("# ")
    assert f"configs/agent/{path.name}" in text  # the command to type
    assert len(text.splitlines()) <= 30
    read = read_options([str(path)], "")
    shown = yaml.safe_load(text)
    defaults = read_options(["--algorithm", shown["algorithm"]], "").model_dump(mode="json")
    assert [key for key in shown if key != "algorithm" and shown[key] == defaults[key]] == []  # overrides only
    assert read.model_dump(include=set(shown), mode="json") == shown


@pytest.mark.integration
def test_torch_is_loaded_by_those_who_use_it():
    code = (
        "import sys; from agents.algorithms import read_config, ALGORITHMS;"
        "[read_config({'algorithm': name}) for name in ('linear', 'network', 'maskable-ppo', 'dqn')];"
        "print([name for name in ('torch', 'stable_baselines3', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(
        trainers.ALGORITHMS, "toy", trainers.ALGORITHMS["toy"]._replace(config="no_such_library:Config")
    )
    with pytest.raises(ConfigError, match=r"needs no_such_library.*cace-env\[train\]"):
        trainers.config_class("toy")


def test_signals_are_those_of_before_when_a_training_has_ended(small: Path, tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    assert main(options(small, tmp_path / "run")) == 0
    assert signal.getsignal(signal.SIGINT) is before
