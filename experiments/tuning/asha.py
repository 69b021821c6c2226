"""The same search by Ray Tune: trials side by side on a cluster, of which ASHA ends the worse ones early.

A trial is an agent in training, judged after each interval as in a search of this machine. ASHA (Li et al., A System
for Massively Parallel Hyperparameter Tuning, MLSys 2020) compares it after 1, 3, 9, ... intervals with all that have
come so far, and lets the best third go on; none waits for another one. Ray Tune schedules, Optuna draws and remembers:
the study, and so the report, are those of every search.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from typing import Any, Final

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from rich.console import Console

from agents.algorithms import read_config
from cace_env.config import ConfigError
from experiments.running.progress import progress_bar
from experiments.tuning.study import Judges, Moment, Search, keep, missing, show, train_agent

REDUCTION: Final = 3  # one in so many goes on
RETRIES: Final = 3  # of a trial whose process or machine was lost: it begins anew
VALUE, INTERVAL, MOMENT, REFUSED = "value", "interval", "moment", "refused"
# Trials stay in the folder of the command, log nothing of their own, and Ctrl-C is the command's.
SETTINGS: Final = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}  # fmt: skip


def run_asha(search: Search, jobs: int, cores: int, console: Console) -> None:
    """Runs the trials that are missing; returns when all have ended.

    Args:
        search: what is searched.
        jobs: trials side by side, at most.
        cores: of the cluster that this process is connected to.
        console: to be told about progress.

    Raises:
        ConfigError: a configuration that the space allows is refused, or needs more cores than there are.
        KeyboardInterrupt: Ctrl-C; trials that had ended are kept.
    """
    study = search.study()
    left = missing(search, study)
    os.environ.update(SETTINGS)
    with progress_bar(console) as progress, tempfile.TemporaryDirectory() as scratch:
        bar = progress.add_task("trials", total=search.trials, completed=search.trials - left)
        if not left:
            return
        draws = Draws(search, study, left, cores, lambda: show(study, progress, bar))
        alone = replace(search, threads=1)  # a trial has one core
        trainable = tune.with_resources(tune.with_parameters(train, search=alone), resources_of)
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=VALUE,
                mode="min",
                num_samples=left,
                max_concurrent_trials=jobs,
                search_alg=draws,
                scheduler=ASHAScheduler(INTERVAL, max_t=search.intervals, reduction_factor=REDUCTION),
            ),
            run_config=tune.RunConfig(
                storage_path=scratch, verbose=0, failure_config=tune.FailureConfig(max_failures=RETRIES)
            ),
        ).fit()
    if draws.refused:
        raise ConfigError(draws.refused)


def train(given: dict[str, Any], search: Search) -> None:
    """A trial, where it runs; it tells Ray Tune how it is getting on."""
    judges = Judges(search, None)
    try:
        for interval, moment in enumerate(train_agent(search, given["config"], judges, given["number"])):
            tune.report({VALUE: moment.least, INTERVAL: interval + 1, MOMENT: tuple(moment)})
    except ConfigError as error:
        tune.report({VALUE: float("inf"), INTERVAL: search.intervals, REFUSED: str(error)})


def resources_of(given: dict[str, Any]) -> PlacementGroupFactory:
    """A core for the trial, and one for each process that its trainer starts."""
    return PlacementGroupFactory([{"CPU": 1.0}] * (1 + processes_of(given["config"])))


def processes_of(config: dict[str, Any]) -> int:
    """Processes that a trainer starts on a cluster."""
    return int(getattr(read_config(config), "cores", 0))


class Draws(Searcher):  # type: ignore[misc]  # Ray's types are not checked
    """Trials of Optuna for Ray Tune, and what became of them.

    Args:
        search: what is searched.
        study: draws the trials, and remembers them.
        left: how many are wanted.
        cores: of the cluster.
        told: called when a trial has ended.

    Attributes:
        refused: why a configuration was refused; no more are drawn then.
    """

    def __init__(self, search: Search, study: optuna.Study, left: int, cores: int, told: Any) -> None:
        super().__init__(metric=VALUE, mode="min")
        self.refused = ""
        self._search, self._study, self._left, self._cores, self._told = search, study, left, cores, told
        self._trials: dict[str, optuna.Trial] = {}
        self._reached: dict[str, int] = {}  # intervals

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for the copy that Ray Tune would go on from: the study is what is kept."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial."""
        if self.refused or not self._left:
            return str(Searcher.FINISHED)
        self._left -= 1
        trial = self._study.ask()
        config = self._search.space.suggest(trial)
        try:
            wanted = 1 + processes_of(config)
            if wanted > self._cores:
                raise ConfigError(
                    f"a trial needs {wanted} cores, and the cluster has {self._cores}; add machines to it"
                )
        except ConfigError as error:
            self.refused = str(error)
            self._study.tell(trial, state=TrialState.FAIL)
            return str(Searcher.FINISHED)
        self._trials[trial_id], self._reached[trial_id] = trial, 0
        return {"number": trial.number, "config": config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial after an interval; after one that had been told before its process was lost, nothing."""
        self.refused = self.refused or result.get(REFUSED, "")
        interval = result.get(INTERVAL, 0)
        if MOMENT in result and interval > self._reached[trial_id]:
            self._reached[trial_id] = interval
            keep(self._search, self._trials[trial_id], interval - 1, Moment(*result[MOMENT]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that has ended whole, was ended by ASHA, or was lost."""
        trial = self._trials[trial_id]
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        whole = self._reached[trial_id] == self._search.intervals
        if error or result is None or REFUSED in result:
            self._study.tell(trial, state=TrialState.FAIL)
        elif whole:
            self._study.tell(trial, result[VALUE])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)
            shutil.rmtree(self._search.kept(trial.number), ignore_errors=True)
        self._told()

    def save(self, checkpoint_path: str) -> None:
        """Nothing likewise."""
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        """Nothing likewise."""
        del checkpoint_path
