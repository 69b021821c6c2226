"""Curves of a training against LRU, CACE and tuned CACE: `EvaluationCallback`.

```python
import wandb
wandb.init(mode="offline", project="cace-env")         # optional; a run gets everything
callback = EvaluationCallback("workstation", every=30_000, folder="runs/mine")
model.learn(600_000, callback=callback)
callback.best                                          # the best agent; it is in runs/mine/best, too
```
"""

from __future__ import annotations

import inspect
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.utils import ConstantSchedule

import cace_env
from cace_env.config import ConfigError
from cace_env.evaluation.feature_ranges import Limits
from cace_env.evaluation.held_out import Chosen, check_choosing, training_scenarios, validation_seeds
from cace_env.evaluation.pictures import halfway
from cace_env.evaluation.tracking import STEP, Row, RunLog, active_run, table_text
from cace_env.files import replace_file
from cace_env.policies import Agent
from cace_env.policies.agent import BEST
from cace_env.sb3.judging import RIVALS, Costs, Judge
from cace_env.sb3.plotting import METRICS, label_of
from cace_env.sb3.policies import is_slot_policy
from cace_env.sb3.saving import (
    agent_of,
    algorithm_name,
    environments_of,
    protocol_of,
    requests_for_rewards,
    save_agent,
    scenarios_of,
    wider,
)

LAST: Final = "last"
CURVES: Final = ("eval/", "rivals/", "train/", "rollout/", "time/")  # what SB3 and this module log
COUNTS: Final = (STEP, "requests", "is_best")  # columns of metrics.csv that are not curves


class EvaluationCallback(BaseCallback):
    """Evaluates on validation seeds at intervals, logs savings against rivals, and keeps the best and last agent.

    The following is logged to SB3's logger (so TensorBoard, CSV and the terminal show it), to `folder/metrics.csv` and
    to W&B if `wandb.init` has started a run:

    - `eval/saved_vs_lru`, `eval/saved_vs_cace`, `eval/saved_vs_tuned_cace`: cost saved against each rival on the same
      requests [%], mean over scenarios; with several scenarios each one's, too (`eval/NAME/saved_vs_lru`).
    - `rivals/cace_saved_vs_lru` and so on: the same for the rivals, as reference lines.
    - `eval/score`: the share of the possible savings (0 = LRU, 100 = the clairvoyant reference), if the suite ships the
      costs of the reference; its gap is that of the test seeds, so this is an estimate.
    - `eval/illegal_share`: share of illegal actions, which are replaced, for models without masks.
    - `time/decisions_per_s`: since the previous evaluation, without evaluations.

    In `folder`, `best/` and `last/` are agent folders without pickle: `agent:FOLDER` wherever a policy is named, and
    the folder itself stands for its best. Models with another policy than `"SlotPolicy"` are kept as SB3's zip files
    (`best.zip`, `last.zip`), which are pickles. W&B gets besides: hyperparameters and scenarios as configuration, and a
    table with a row per scenario for every new best; of a model with `"SlotPolicy"` also the agent as an artifact with
    the aliases `best` and `last`, and at the end a picture of an episode half way through.

    Test seeds are for the final comparison, and refused here.

    Args:
        scenario: one or several, by name (of an entry of the suite, too, or "suite"), file or object. None = those that
            the model is trained on.
        every: decisions between two evaluations; there is one at the beginning and one at the end besides.
        seeds: how many validation seeds, or which.
        folder: for `metrics.csv`, `best/` and `last/`; None = write nothing.
        rivals: policies by name; None = LRU, CACE and tuned CACE. LRU is always included.
        wandb: a run of W&B; None = the active one, if there is one; False = none.
        threads: number of threads for simulations; results do not depend on it.
        overwrite: write into a folder that already holds a training.
        verbose: 1 = a line on stderr for every evaluation; 0 = none.

    Attributes:
        rows: rows of metrics.csv.
        best: the best agent so far; None before the first evaluation, and for a model that cannot be an agent.
        best_saved: its savings over LRU [%].
        judge: holds the scenarios, seeds and rivals.

    Raises:
        ConfigError: seeds of another split, a folder that holds a training; at the start of training: an unknown
            scenario or rival, a model that was not made for our observations, or one that learns from another split
            than "train".
    """

    def __init__(
        self,
        scenario: Chosen | Sequence[Chosen] | None = None,
        *,
        every: int = 30_000,
        seeds: int | Sequence[int] = 20,
        folder: str | Path | None = None,
        rivals: Sequence[str] | None = None,
        wandb: Any | Literal[False] | None = None,
        threads: int = 1,
        overwrite: bool = False,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        if every < 1:
            raise ConfigError(f"every is {every}; it has to be at least 1 decision")
        if isinstance(seeds, str):
            raise ConfigError(f"seeds is {seeds!r}; give a number of validation seeds, such as 20, or the seeds")
        self.every, self.threads = every, threads
        self.seeds = validation_seeds(seeds) if isinstance(seeds, int) else tuple(seeds)
        check_choosing(self.seeds)
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and (self.folder / METRICS).exists() and not overwrite:
            raise ConfigError(f"{self.folder} already holds a training; give another folder, or overwrite=True")
        self.rows: list[Row] = []
        self.best: Agent | None = None
        self.best_saved = -math.inf
        self.judge: Judge | None = None
        self._scenario, self._rivals, self._wandb = scenario, rivals, wandb
        self._scratch: tempfile.TemporaryDirectory[str] | None = None  # for W&B, where no folder was given
        self._log: RunLog | None = None
        self._writer: Forward | None = None
        self._limits: Limits = {}
        self._requests = 0
        self._due = 0
        self._looked_at = -1  # the step of the last evaluation
        self._resumed_s = self._began_s = time.perf_counter()
        self._resumed_at = 0

    # -----------------------------------------------------------------------------------------------------------------
    # What SB3 calls

    def _on_training_start(self) -> None:
        """Run the rivals, and find the W&B run."""
        model: Any = self.model
        other = sorted({each.split for each in environments_of(self.training_env)} - {"train"})
        if other:
            raise ConfigError(
                f"the model is trained on split {other[0]!r}, whose seeds are not for training; make its environments "
                "with "
                'split="train"'
            )
        if self.judge is None:
            env = protocol_of(model)
            chosen = self._scenario if self._scenario is not None else scenarios_of(self.training_env)
            rivals = RIVALS[env] if self._rivals is None else self._rivals
            self.judge = Judge(training_scenarios(chosen, env), env, self.seeds, rivals, self.threads)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        run = active_run() if self._wandb is None else self._wandb or None
        if run is not None and self._log is None:
            self._log = RunLog(run, CURVES)
            run.config.update(self._about(), allow_val_change=True)
        if self._log is not None:
            self._writer = Forward(self._log)
            self.logger.output_formats.append(self._writer)
        self._resumed_s, self._resumed_at = time.perf_counter(), model.num_timesteps
        self._due = model.num_timesteps

    def _on_rollout_start(self) -> None:
        """Evaluate if due: here nothing has been learned since the last counted decision."""
        if self.model.num_timesteps >= self._due:
            self._evaluate()

    def _on_step(self) -> bool:
        """Count simulated requests."""
        for env in np.flatnonzero(self.locals["dones"]).tolist():
            metrics = self.locals["infos"][env].get("episode_metrics")
            if metrics is None:  # single environments in SB3's own VecEnvs know them until their next step
                (metrics,) = self.training_env.get_attr("episode_metrics", env)
            if metrics is not None:  # else Gymnasium's TimeLimit has cut it
                self._requests += int(metrics["requests"])
        return True

    def _on_rollout_end(self) -> None:
        """If an evaluation follows, record feature ranges before the next rollout overwrites the buffer."""
        if self.model.num_timesteps >= self._due:
            self._limits = wider(self._limits, self.model)

    def _on_training_end(self) -> None:
        """Run the last evaluation, and finish the W&B run."""
        if self.model.num_timesteps > self._looked_at:
            self._limits = wider(self._limits, self.model)
            self._evaluate()
        if self._log is not None and self.best is not None:
            self._finish(self._log, self.best)
        if self._writer is not None and self._writer in self.logger.output_formats:
            self.logger.output_formats.remove(self._writer)

    # -----------------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Evaluate the current model, log the results, and save it."""
        assert self.judge is not None
        model, step = self.model, self.model.num_timesteps
        learned_s = time.perf_counter() - self._resumed_s
        found = self.judge.judge(model)
        numbers = self.judge.numbers(found) | self.judge.of_rivals()
        if step > self._resumed_at:
            numbers["time/decisions_per_s"] = (step - self._resumed_at) / learned_s
        saved = numbers["eval/saved_vs_lru"]
        is_best = saved > self.best_saved
        self.best_saved = max(saved, self.best_saved)
        self.rows.append(
            {
                STEP: step,
                "requests": self._requests + requests_for_rewards(self.training_env),
                "wall_s": round(time.perf_counter() - self._began_s, 3),
                "is_best": int(is_best),
                **numbers,
            }
        )
        self._keep(is_best)
        if self._log is not None and is_best:
            self._tell_best(self._log, found)
        for name, value in numbers.items():
            self.logger.record(name, value)
        self.logger.record("time/total_timesteps", step, exclude="tensorboard")
        self.logger.dump(step)
        if self.verbose:
            sys.stderr.write(self._line(numbers, is_best) + "\n")
        self._looked_at = step
        self._due = (step // self.every + 1) * self.every
        self._resumed_s, self._resumed_at = time.perf_counter(), step

    def _keep(self, is_best: bool) -> None:
        """Save the agent in `last`, and in `best` if it is the best, with the table of evaluations."""
        home, model = self._home(), self.model
        if home is None:
            if is_best and is_slot_policy(model.policy):
                self.best = self._save(None)
            return
        if is_slot_policy(model.policy):
            agent = self._save(home / LAST)
            if is_best:
                self.best = agent
                shutil.copytree(home / LAST, home / BEST, dirs_exist_ok=True)
        else:
            model.save(home / f"{LAST}.zip")
            if is_best:
                shutil.copyfile(home / f"{LAST}.zip", home / f"{BEST}.zip")
        replace_file(home / METRICS, table_text(self.rows))

    def _save(self, folder: Path | None) -> Agent:
        """The current agent; written if a folder is given."""
        last = self.rows[-1]
        about: dict[str, Any] = {"requests": int(last["requests"]), "wall_s": last["wall_s"], "limits": self._limits}
        return agent_of(self.model, **about) if folder is None else save_agent(self.model, folder, **about)

    def _home(self) -> Path | None:
        """The folder; without one, a temporary folder if W&B needs files."""
        if self.folder is None and self._log is not None and self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="cace-env-")
        return self.folder if self._scratch is None else Path(self._scratch.name)

    def _tell_best(self, log: RunLog, found: Costs) -> None:
        """Log a new best agent to W&B: the agent, and its costs by scenario."""
        assert self.judge is not None
        step, home = self.model.num_timesteps, self._home()
        log.log_table(step, "eval/scenarios", *self.judge.table(found.costs))
        saved = self.judge.saved(found.costs).mean(axis=1)
        log.summarize({f"best/saved_vs_{name}": float(by) for name, by in zip(self.judge.short, saved, strict=True)})
        if home is not None and self.best is not None:
            log.log_agent(home / BEST, [BEST], {STEP: step, "eval/saved_vs_lru": self.best_saved})

    def _finish(self, log: RunLog, best: Agent) -> None:
        """Log the last agent, and a picture of the best one, to W&B."""
        assert self.judge is not None
        step, home = self.model.num_timesteps, self._home()
        if home is not None:
            log.log_agent(home / LAST, [LAST, *([BEST] if self.rows[-1]["is_best"] else [])], {STEP: step})
        name, case = next(iter(self.judge.cases.items()))
        try:
            picture = halfway(best.policy(), case, self.seeds[0])
        except ImportError:  # a missing Pillow must not end a training; it only costs the picture
            return
        caption = f"{name}, validation seed {self.seeds[0]}: the best agent, half way through the episode"
        log.log_picture(step, f"timeline/{name}", picture, caption)

    def _about(self) -> dict[str, Any]:
        """The configuration of the run: the model's arguments as plain numbers and text."""
        assert self.judge is not None
        model = self.model
        given = [name for kind in type(model).__mro__[:2] for name in inspect.signature(kind).parameters]
        settings = {name: plain(getattr(model, name)) for name in dict.fromkeys(given) if hasattr(model, name)}
        settings = {
            name: value
            for name, value in settings.items()
            if value is not None and name not in ("env", "self", "policy")  # of the policy its class is said below
        }
        return {
            "algorithm": algorithm_name(model),
            "policy_class": type(model.policy).__name__,
            "env": self.judge.env,
            "num_envs": model.n_envs,
            "trained_on": [scenario.name for scenario in scenarios_of(self.training_env)],
            "evaluated_on": list(self.judge.names),
            "validation_seeds": len(self.seeds),
            "rivals": list(self.judge.rivals),
            "cace_env": cace_env.__version__,
            "model": {name: value for name, value in settings.items() if value is not None},
        }

    def _line(self, numbers: Mapping[str, float], is_best: bool) -> str:
        """Format an evaluation in one line."""
        assert self.judge is not None
        saved = [(label_of(name), numbers[f"eval/saved_vs_{name}"]) for name in self.judge.short]
        against = ", ".join(f"{abs(by):.1f} % {'below' if by >= 0 else 'above'} {rival}'s" for rival, by in saved)
        speed = numbers.get("time/decisions_per_s")
        parts = [f"{self.model.num_timesteps:>10,} decisions: cost {against}"]
        parts += [f"score {numbers['eval/score']:.0f}"] if "eval/score" in numbers else []
        parts += [f"{100 * numbers['eval/illegal_share']:.0f} % illegal"] if "eval/illegal_share" in numbers else []
        parts += [f"{speed:,.0f} decisions/s"] if speed is not None else []
        return "; ".join([*parts, *(["best"] if is_best else [])])


class Forward(KVWriter):
    """Forwards SB3's logs to W&B: losses, returns, and the evaluations."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """Log the numbers of one dump."""
        del key_excluded
        kinds = (int, float, np.number)
        self._log.log(step, {name: float(value) for name, value in key_values.items() if isinstance(value, kinds)})

    def close(self) -> None:
        """Does nothing: the script that began the run closes it."""


def plain(value: Any) -> Any:
    """Convert a value for a configuration: schedules and classes to text, other objects to None."""
    value = getattr(value, "value_schedule", value)
    if isinstance(value, ConstantSchedule):
        return value.val
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, type):
        return value.__name__
    return repr(value) if callable(value) and "<" not in repr(value) else None
