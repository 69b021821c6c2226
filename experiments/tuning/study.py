"""A search by Optuna: trials that may be pruned, kept in SQLite, run by one process or by several."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import Progress, TaskID

from agents.algorithms import make_trainer, read_config
from agents.objective import Objective, baseline_costs, pooled
from cace_env.config import ConfigError
from cace_env.evaluation.held_out import training_cases, validation_seeds
from cace_env.executor import Executor, Threads
from cace_env.files import csv_text, replace_file
from cace_env.policies import Agent, load_agent, write_agent
from cace_env.policies.built_in import Policy
from cace_env.tables import Protocol
from experiments.running.progress import progress_bar
from experiments.tuning.search_space import Space

DATABASE: Final = "study.db"
STARTUP_TRIALS: Final = 5  # before which no trial is pruned
FINALISTS: Final = 5  # of the best trials, judged once more on all validation seeds
JOBS_APART: Final = 1_000_003  # between the seeds of processes
POLL_S: Final = 0.5  # how often the bar asks the database what other processes have done
ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Search:
    """What every process of a search has to know."""

    folder: Path
    space: Space
    trials: int
    steps: int  # of training, per trial
    intervals: int  # after each of which a trial may be pruned
    validation_seeds: int  # that an agent is judged by
    seed: int
    threads: int  # that play, where no cluster does

    @property
    def storage(self) -> str:
        """Where Optuna keeps its trials."""
        return f"sqlite:///{(self.folder / DATABASE).resolve()}"

    def study(self, job: int = 0) -> optuna.Study:
        """The trials; made where there are none yet. A resumed search draws other trials than it has drawn.

        Args:
            job: number of the process: those that begin at the same moment draw different trials.
        """
        study = optuna.create_study(
            storage=self.storage,
            study_name="tune",
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1),
        )
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + JOBS_APART * job + len(study.get_trials(deepcopy=False))
        )
        return study

    def kept(self, number: int) -> Path:
        """Where a trial puts what it has found."""
        return self.folder / "trials" / str(number)


def run_search(search: Search, jobs: int, console: Console, cluster: Executor | None) -> None:
    """Runs the trials that are missing; returns when all have ended.

    Args:
        search: what is searched.
        jobs: processes of this machine.
        console: to be told about progress.
        cluster: plays the episodes of one trial after the other, if there is one.

    Raises:
        ConfigError: a configuration that the space allows is refused.
        KeyboardInterrupt: Ctrl-C; trials that had ended are kept.
    """
    study = search.study()
    done = search.trials - missing(search, study)
    with progress_bar(console) as progress:
        bar = progress.add_task("trials", total=search.trials, completed=done)
        if done >= search.trials:
            return
        if jobs == 1:
            run_trials(search, cluster=cluster, told=lambda: show(study, progress, bar))
            return
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = {pool.submit(run_trials, search, job) for job in range(jobs)}
            try:
                while waiting:
                    ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
                    show(study, progress, bar)
                    for future in ended:
                        future.result()
            except KeyboardInterrupt:  # a polite kill reaches this process alone, and trials take minutes
                for process in multiprocessing.active_children():
                    process.terminate()
                raise


def missing(search: Search, study: optuna.Study) -> int:
    """How many trials have not ended; those of a process that was killed are told to have failed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return max(0, search.trials - len(study.get_trials(deepcopy=False, states=ENDED)))


def show(study: optuna.Study, progress: Progress, bar: TaskID) -> None:
    """Trials that have ended, and the best value so far."""
    trials = study.get_trials(deepcopy=False, states=ENDED)
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    said = f"best {min(values):.4f} of LRU's cost" if values else "trials"
    progress.update(bar, completed=len(trials), description=said)


def run_trials(
    search: Search, job: int = 0, cluster: Executor | None = None, told: Callable[[], None] | None = None
) -> None:
    """Trials one after the other until there are as many as were asked for; what one process does."""
    study = search.study(job)
    enough = optuna.study.MaxTrialsCallback(search.trials, states=ENDED)
    callbacks: list[Any] = [enough] + ([lambda *_: told()] if told is not None else [])
    judges = Judges(search, cluster)
    study.optimize(lambda trial: play(search, trial, judges), callbacks=callbacks)


def play(search: Search, trial: optuna.Trial, judges: Judges) -> float:
    """One trial: its value is the pooled cost over LRU's; less is better.

    Raises:
        optuna.TrialPruned: after an interval it was worse than the median of the others.
    """
    config = search.space.suggest(trial)
    value = float("inf")
    for interval, moment in enumerate(train_agent(search, config, judges, trial.number)):
        value = moment.least
        keep(search, trial, interval, moment)
        if trial.should_prune():
            shutil.rmtree(search.kept(trial.number), ignore_errors=True)
            raise optuna.TrialPruned
    return value


class Moment(NamedTuple):
    """A trial after an interval."""

    least: float  # value of its best moment so far
    requests: int  # simulated in training
    best: Agent | None  # the agent, if this moment is the best so far


def keep(search: Search, trial: optuna.Trial, interval: int, moment: Moment) -> None:
    """Notes how a trial is getting on, and keeps its best agent."""
    trial.set_user_attr("requests", moment.requests)
    if moment.best is not None:
        write_agent(moment.best, search.kept(trial.number) / "agent")
    trial.report(moment.least, interval)


def train_agent(search: Search, config: dict[str, Any], judges: Judges, number: int) -> Iterator[Moment]:
    """An agent in training, after each interval."""
    settings: Any = read_config(config, f"trial {number}")
    trainer, least = make_trainer(settings, judges.cluster), float("inf")
    judged = judges.of(settings, validation_seeds(search.validation_seeds))
    for interval in range(search.intervals):
        trainer.learn(search.steps * (interval + 1) // search.intervals - trainer.step, lambda step: None)
        agent = trainer.agent()
        value = judged(agent.policy())
        best, least = agent if value < least else None, min(value, least)
        yield Moment(least, trainer.requests, best)


class Judge:
    """Pooled cost over LRU's on some scenarios and seeds, whose LRU is played once.

    Args:
        train_on: as in an agent's configuration.
        env: what is asked.
        seeds: of training or validation.
        executor: plays the episodes.
    """

    def __init__(self, train_on: str | Sequence[str], env: Protocol, seeds: Sequence[int], executor: Executor) -> None:
        self._objective = Objective(training_cases(train_on, env), seeds, executor)
        self._baseline = baseline_costs(self._objective)

    def __call__(self, candidate: Policy) -> float:
        """Less is better; LRU costs 1."""
        return float(pooled(self._objective.costs([candidate])[0], self._baseline))

    @property
    def requests(self) -> int:
        """Simulated so far."""
        return self._objective.requests


class Judges:
    """What judges policies, each made once per process.

    Args:
        search: whose threads play the episodes,
        cluster: unless this does.
    """

    def __init__(self, search: Search, cluster: Executor | None) -> None:
        self.cluster = cluster
        self._executor = cluster or Threads(search.threads)
        self._made: dict[tuple[str, str], Judge] = {}

    def of(self, settings: Any, seeds: Sequence[int]) -> Judge:
        """Judges policies on what they are trained on, and some seeds."""
        key = f"{settings.env} {settings.train_on}", f"{seeds[0]}-{seeds[-1]}"
        if key not in self._made:
            self._made[key] = Judge(settings.train_on, settings.env, seeds, self._executor)
        return self._made[key]

    @property
    def requests(self) -> int:
        """Simulated by all of them so far."""
        return sum(judge.requests for judge in self._made.values())


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that ended whole, the best first."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(whole, key=lambda trial: (trial.value, trial.number))


def judge_finalists(search: Search, seeds: Sequence[int], cluster: Executor | None) -> tuple[list[dict[str, Any]], int]:
    """The best trials once more, on all validation seeds: the first of them is chosen.

    Returns:
        Trial, value, value on validation seeds, the best on these first; and the requests that it took.

    Raises:
        ConfigError: no trial has ended whole.
    """
    trials = best_trials(search.study())[:FINALISTS]
    if not trials:
        raise ConfigError(f"{search.folder}: no trial has ended whole: ask for more --trials")
    judges, rows = Judges(search, cluster), []
    for trial in trials:
        config = {name: row.values[0] if row.values else row.value for name, row in search.space.parameters.items()}
        config |= trial.params
        candidate = load_agent(search.kept(trial.number) / "agent").policy()
        value = judges.of(read_config(config), seeds)(candidate)
        rows.append({"trial": trial.number, "value": trial.value, "validation": value, "config": config})
    return sorted(rows, key=lambda row: row["validation"]), judges.requests


def write_trials(study: optuna.Study, space: Space, path: Path) -> None:
    """Every trial as a row: number, state, value, requests simulated, seconds, parameters."""
    names = space.searched()
    rows = []
    for trial in study.get_trials(deepcopy=False):
        wall_s = trial.duration.total_seconds() if trial.duration else ""
        values = [trial.params.get(name, "") for name in names]
        value = "" if trial.value is None else trial.value
        rows.append([trial.number, trial.state.name, value, trial.user_attrs.get("requests", 0), wall_s, *values])
    replace_file(path, csv_text(["trial", "state", "value", "requests", "wall_s", *names], rows))
