"""Trains an agent, evaluates it on validation seeds as it goes, and keeps the best; goes on where it was killed.

    python -m experiments.train                                        a linear policy by CMA-ES, on the whole suite
    python -m experiments.train configs/agent/maskable-ppo.yaml --steps 300000 --out runs/ppo
    python -m experiments.train --out runs/ppo --resume                go on, after Ctrl-C or a kill at any moment
    python -m experiments.train --out runs/ppo --resume --steps 600000 train further
    python -m experiments.train configs/agent/dqn.yaml --learning-rate 3e-4 --seed 1 --wandb online
    python -m experiments.train configs/agent/rllib-ppo.yaml --runners 8 --ray-address auto
    python -m experiments.compare --policies lru,cace,agent:runs/ppo/best

`docs/training.md` explains the algorithms, the run folder and W&B.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from agents.algorithms import algorithm_of, check_spread, make_trainer
from cace_env.config import ConfigError
from cace_env.evaluation.held_out import training_cases
from cace_env.executor import Executor, Threads
from experiments.running.command_line import Session, run_command, screen_table
from experiments.running.executors.execution import Execution
from experiments.running.run_folder import check_new, surroundings
from experiments.training.folder import TrainingFolder
from experiments.training.loop import Patience, Training
from experiments.training.options import ANEW, Options, Resolved, read_options, resolved
from experiments.training.page import write_training_report
from experiments.training.tracking import COST, VALIDATION, Tracking, check_wandb, new_run_id, start_wandb
from experiments.training.validation import Validation

LIBRARIES: Final = ("torch", "stable-baselines3", "sb3-contrib", "ray", "cmaes", "wandb")  # versions noted


def train(options: Options, session: Session) -> int:
    """Trains as `options` say; returns the exit status.

    Raises:
        ConfigError: options that cannot be used, a folder that holds something else or is in use, a checkpoint that
            was changed; nothing has been trained.
        SimulationError, TaskLostError: an episode failed, or was lost; the last checkpoint is in the folder.
    """
    check_wandb(options.wandb)
    asked, folder = open_folder(options)
    with execution_of(asked).opened() as executor:
        if not algorithm_of(asked.algorithm).on_ray:
            return train_by(executor, asked, folder, session)
        if executor.cores < asked.agent.cores:
            raise ConfigError(
                f"{asked.agent.runners} runners and {asked.agent.learners} learners need a core each, and the cluster "
                f"has {executor.cores}; ask for fewer, or add machines to it"
            )
        return train_by(Threads(asked.threads), asked, folder, session)  # the cores of the cluster are taken


def train_by(executor: Executor, asked: Resolved, folder: TrainingFolder, session: Session) -> int:
    """Trains with an executor, which plays the evaluations, and elsewhere the training, too; as `train`."""
    console, command = session.console, session.command
    with console.status("preparing: scenarios, requests, compiled code"):
        trainer = make_trainer(asked.agent, executor if executor.apart else None)
        validation = Validation(
            training_cases(asked.agent.train_on, asked.agent.env), asked.options.validation_seeds, executor
        )
    training = Training(trainer, validation, folder, asked.steps, asked.interval, command)
    if not folder.exists:
        folder.create(asked.kept, **about_run(asked, validation))
    with folder, Patience(console) as patience:
        training.restore()
        commands = [*folder.about.get("commands", []), command]
        folder.describe(status="running", steps=asked.steps, commands=commands, **surroundings_of_training())
        if said := rounded_up(training, asked):
            console.print(said)
        tracking = track(asked, folder, trainer.step)
        try:
            training.run(tracking, patience, console)
        finally:
            training.finish(tracking)
    report = write_training_report(folder.path)
    summarise(training, asked, console)
    console.print(f"report, to open in a browser: {report}", soft_wrap=True)
    return 0 if training.completed else 128 + (patience.asked or signal.SIGINT)


def open_folder(options: Options) -> tuple[Resolved, TrainingFolder]:
    """What is to be done, and the run folder: new, or to go on with.

    Raises:
        ConfigError: it holds a training and --resume was not given, or one of another configuration, or something else.
    """
    if options.resume and options.out is None:
        raise ConfigError("--resume needs --out, the run folder to go on in")
    before = TrainingFolder(Path(options.out)) if options.out is not None else None
    if before is None or not before.exists:
        asked = resolved(options)
        folder = TrainingFolder(asked.out)
        check_new(folder.path)
        return asked, folder
    if not options.resume:
        raise ConfigError(already_there(before))
    return resolved(options, before.config()), before


def execution_of(asked: Resolved) -> Execution:
    """What plays the episodes that a trainer asks for; RLlib plays its own, so it gets a cluster and asks for none.

    Raises:
        ConfigError: an executor of no use for the algorithm.
    """
    options = asked.options
    if not algorithm_of(asked.algorithm).on_ray:
        if options.executor == "ray":
            check_spread(asked.algorithm)
        return options.placed(asked.threads)
    own = not (options.ray_address or os.environ.get("RAY_ADDRESS"))
    return Execution("ray", max(asked.agent.cores, 1) if own else None, options.ray_address, extra="rllib")


def already_there(folder: TrainingFolder) -> str:
    """Why nothing is written to a folder, and how to go on with the training in it."""
    path, about, again = folder.path, folder.about, go_on(folder.path)
    step, steps = about.get("step", 0), about["steps"]
    if step >= steps:
        return (
            f"{path} holds a finished training of {steps:,} steps; results are never overwritten: give another --out, "
            f"or train it further: {again} --steps {2 * steps}"
        )
    return f"{path} holds a training that got to step {step:,} of {steps:,}; go on with: {again}"


def go_on(path: Path) -> str:
    """The command that goes on with a training."""
    return f"python -m experiments.train --out {shlex.quote(str(path))} --resume"


def about_run(asked: Resolved, validation: Validation) -> dict[str, Any]:
    """run.json at the beginning."""
    return {
        "algorithm": asked.algorithm,
        "step_unit": algorithm_of(asked.algorithm).unit,
        "steps": asked.steps,
        "cases": list(validation.cases),
        "validation_seeds": [validation.seeds[0], validation.seeds[-1]],
        "cace_vs_lru": validation.cace.cost_vs_lru,
        "cace_by_case": validation.cace.by_case,
        "wandb_id": new_run_id(),
    }


def rounded_up(training: Training, asked: Resolved) -> str:
    """That a training ends later than was asked for, because steps are learned in batches; empty where it does not."""
    if training.goal == asked.steps:
        return ""
    return (
        f"--steps {asked.steps:,} is rounded up to {training.goal:,} {algorithm_of(asked.algorithm).unit}: "
        f"{asked.algorithm} learns {training.trainer.batch:,} of them at once"
    )


def surroundings_of_training() -> dict[str, Any]:
    """Versions and git revision, with those libraries that only training needs."""
    around = surroundings()
    for library in LIBRARIES:
        try:
            around["versions"][library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return around


def track(asked: Resolved, folder: TrainingFolder, step: int) -> Tracking:
    """Where the numbers go, from a step on."""
    options, wandb = asked.options, None
    if options.wandb != "off":
        wandb = start_wandb(
            folder.path,
            options.wandb,
            run_id=folder.about["wandb_id"],
            project=options.wandb_project,
            group=str(options.wandb_group),
            tags=options.wandb_tags,
            config=options.model_dump(mode="json", exclude=set(ANEW)) | surroundings_of_training(),
        )
    return Tracking(folder.path / "tensorboard", step, wandb)


def summarise(training: Training, asked: Resolved, console: Console) -> None:
    """What came of it, where it lies, and what to type next."""
    path, rows, reached, cace = training.folder.path, training.folder.rows, training.reached, training.validation.cace
    assert reached is not None
    of = f" of {training.goal:,}" if reached.step <= training.goal else f", {training.goal:,} were asked for"
    console.print(
        f"{'trained to' if training.completed else 'stopped at'} step {reached.step:,}{of} "
        f"({algorithm_of(asked.algorithm).unit}); {reached.requests:,} requests simulated, {reached.wall_s:,.0f} s",
    )
    last, best = rows[-1], next(row for row in reversed(rows) if row["global_step"] == reached.best_step)
    seeds = len(training.validation.seeds)
    title = f"Validation cost over LRU's ({seeds} seed{'s' if seeds > 1 else ''} each)"
    shares = {
        name: [of_cace, *(row[VALIDATION + name] for row in (last, best))] for name, of_cace in cace.by_case.items()
    }
    shares["mean"] = [cace.cost_vs_lru, last[COST], best[COST]]
    cells = [[name, *(f"{share:.3f}" for share in each)] for name, each in shares.items()]
    console.print(screen_table(("case", "CACE", "last agent", "best agent"), cells, title))
    lines = [
        f"best agent (step {reached.best_step:,}): {path / 'best'}",
        f"last agent: {path / 'last'}",
        f"curves: {path / 'metrics.csv'}; tensorboard --logdir {shlex.quote(str(path / 'tensorboard'))}",
    ]
    if training.completed:
        policies = f"lru,cace,agent:{shlex.quote(str(path / 'best'))}"
        lines.append(f"now: python -m experiments.compare --env {asked.agent.env} --policies {policies}")
    else:
        lines.append(f"go on with: {go_on(path)}")
    for line in lines:
        console.print(line, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "train",
        Options,
        train,
        arguments,
        interrupted="interrupted; what was evaluated is kept, and --out FOLDER --resume goes on",
        read=lambda given: read_options(given, str(__doc__)),
    )


if __name__ == "__main__":
    sys.exit(main())
