"""What to expect of a training, rung by rung: trains SB3's algorithms on scenarios, several seeds each.

    python -m experiments.learning_curves --rungs tiny                     five algorithms, five seeds each
    python -m experiments.learning_curves --agents MaskablePPO --seeds 3   one algorithm on all rungs
    python -m experiments.docs learning-curves --run runs/learning-curves --show    tables of what has run

Every run trains with the hyperparameters that ship (`cace_env.sb3.hyperparameters`) and rewards against LRU, and is
judged by validation seeds as it goes. At the end the agent, as it is then, plays the 100 test seeds, beside LRU, CACE
and tuned CACE. The folder holds two files per run, a CSV of the curve and a JSON of the test; runs that are in it are
not run again, so the same command goes on where it was stopped (a run that was stopped begins anew).
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

from cace_env.config import MOST_THREADS, ConfigError, Frozen, did_you_mean, read_json
from cace_env.evaluation import evaluate, paired_gain
from cace_env.evaluation.held_out import training_scenarios
from cace_env.evaluation.scores import BASELINE
from cace_env.evaluation.tracking import STEP
from cace_env.files import csv_text, json_text, replace_file
from cace_env.scenarios import Scenario, seeds
from cace_env.tables import Protocol
from experiments.running.command_line import Session, run_command, split_names
from experiments.running.options import Count, Names
from experiments.running.progress import progress_bar
from experiments.training.rungs import ABOUT, AGENTS, COLUMNS, EVALUATIONS, OUT, RIVAL_POLICIES, RIVALS, RUNGS


class Options(Frozen):
    """Train algorithms on the rungs, and draw their curves."""

    rungs: Names = Field(default=tuple(RUNGS), description='scenarios by name, or "suite"; all rungs by default')
    agents: Names = Field(default=tuple(AGENTS), description="algorithms; all by default")
    seeds: int = Field(default=5, ge=1, description="runs of each algorithm on each rung")
    decisions: Count = Field(
        default=None,
        ge=1,
        description="decisions of each run (DQN and QR-DQN: a quarter of them); by default those of the rung",
    )
    validation_seeds: Count = Field(default=None, ge=1, description="episodes that judge; by default those of the rung")
    num_envs: int = Field(default=60, ge=1, le=1_000_000, description="environments at once")
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="processes, a run each")
    out: Path = Field(default=OUT, description="run folder")


class Job(NamedTuple):
    """A run."""

    rung: str
    agent: str
    seed: int
    decisions: int
    validation_seeds: int
    num_envs: int

    def path(self, out: Path) -> Path:
        """Its CSV file."""
        return out / f"{self.rung}--{self.agent}--{self.seed}.csv"


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(job: Job, out: Path, verbose: int) -> None:
    """One run, from its first decision to its CSV file.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
    """
    import importlib

    import torch

    from cace_env.sb3 import EvaluationCallback, EvictionVecEnv, hyperparameters

    torch.set_num_threads(1)
    algorithm = AGENTS[job.agent]
    settings: dict[str, Any] = hyperparameters(algorithm.name)  # type: ignore[arg-type]
    if algorithm.policy != "SlotPolicy":
        settings["policy_kwargs"] = {}
    scenarios = list(training_scenarios(job.rung, Protocol.EVICTION).values())
    module, _, name = algorithm.kind.rpartition(".")
    venv = EvictionVecEnv(job.num_envs, scenario=scenarios, baseline=BASELINE)
    model = getattr(importlib.import_module(module), name)(algorithm.policy, venv, seed=job.seed, **settings)
    scratch = job.path(out).with_suffix("")
    every = max(1, round(job.decisions * algorithm.share) // EVALUATIONS)
    callback = EvaluationCallback(
        scenarios, every=every, seeds=job.validation_seeds, folder=scratch, wandb=False, overwrite=True, verbose=verbose
    )
    model.learn(round(job.decisions * algorithm.share), callback=callback)
    venv.close()
    tested = judge_by_test(model, scenarios)
    rows, learned_s, before = [], 0.0, 0
    for row in callback.rows:
        speed = float(row.get("time/decisions_per_s", np.inf))
        learned_s, before = learned_s + (int(row[STEP]) - before) / speed, int(row[STEP])
        rows.append((before, round(learned_s, 3), *(float(row[f"eval/saved_vs_{name}"]) for name in RIVALS)))
    shutil.rmtree(scratch)
    replace_file(job.path(out).with_suffix(".json"), json_text(tested))
    replace_file(job.path(out), csv_text(COLUMNS, rows))  # last: a run that has it is whole


def judge_by_test(model: Any, scenarios: Sequence[Scenario]) -> dict[str, dict[str, list[float]]]:
    """Cost saved against each rival on the test seeds, by scenario and rival: percent, and its 95 % interval."""
    from cace_env.sb3.judging import play_model

    found: dict[str, dict[str, list[float]]] = {}
    for scenario in scenarios:
        test = seeds("test")
        mine = np.array([episode["cost"] for episode in play_model(model, scenario, test, "test")])
        found[scenario.name] = {
            name: list(paired_gain(evaluate(policy, scenario, test).column("cost"), mine))
            for name, policy in RIVAL_POLICIES.items()
        }
    return found


def run(jobs: Sequence[Job], out: Path, workers: int) -> None:
    """Runs what is not there yet."""
    missing = [job for job in jobs if not job.path(out).exists()]
    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("runs", total=len(jobs), completed=len(jobs) - len(missing))
        if workers == 1:
            for job in missing:
                progress.update(bar, description=f"{job.rung}, {job.agent}, seed {job.seed}")
                train(job, out, verbose=1)
                progress.update(bar, advance=1)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            for _ in pool.map(train, missing, [out] * len(missing), [0] * len(missing)):
                progress.update(bar, advance=1)


def note(out: Path, jobs: Sequence[Job]) -> None:
    """Keeps what the runs on each rung have in common: others do not belong to them.

    Raises:
        ConfigError: the folder has runs with other numbers.
    """
    path = out / ABOUT
    about = read_json(path) if path.is_file() else {}
    for job in jobs:
        ours = {name: getattr(job, name) for name in ("decisions", "validation_seeds", "num_envs")}
        theirs = about.setdefault(job.rung, ours)
        if theirs != ours:
            raise ConfigError(f"{out} has runs on {job.rung} with {theirs}, not {ours}; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, json_text(about))


def learning_curves(options: Options, session: Session) -> None:
    """Trains what has not been trained.

    Raises:
        ConfigError: no such rung or algorithm, or a folder with other runs.
    """
    for given, known, what in ((options.rungs, RUNGS, "rung"), (options.agents, AGENTS, "agent")):
        for name in split_names(given):
            if name not in known:
                raise ConfigError(f"no {what} called {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")
    jobs = [
        Job(
            rung, agent, seed, options.decisions or RUNGS[rung].decisions,
            options.validation_seeds or RUNGS[rung].seeds, options.num_envs,
        )
        for rung in split_names(options.rungs)
        for seed in range(options.seeds)
        for agent in split_names(options.agents)
    ]  # fmt: skip
    note(options.out, jobs)
    run(jobs, options.out, options.workers)
    again = f"python -m experiments.docs learning-curves --run {options.out} --show"
    session.console.print(f"all runs are in {options.out}. Now: {again}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "learning_curves",
        Options,
        learning_curves,
        arguments,
        __doc__,
        interrupted="interrupted; the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main())
