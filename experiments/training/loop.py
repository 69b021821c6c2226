"""A training as it runs: interval, evaluation, checkpoint. `experiments.train` makes everything ready for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import Progress as ProgressBar

from agents.algorithms import Trainer
from cace_env.evaluation.pictures import halfway
from cace_env.evaluation.tracking import Row
from cace_env.policies import Agent, load_agent
from experiments.running.progress import progress_bar
from experiments.training.folder import Progress, TrainingFolder
from experiments.training.tracking import COST, VALIDATION, Tracking
from experiments.training.validation import Validation, Verdict

COLUMNS: Final = ("case", "cost", "lru_cost", "cost_vs_lru", "cace_vs_lru")  # of the table of an evaluation
NOT_DRAWN: Final = ("global_step", "is_best")  # columns of metrics.csv that are no curves


@dataclass
class Training:
    """A trainer, its judge, and where what they say goes.

    Attributes:
        trainer: learns.
        validation: judges the agent at step 0 and after every interval.
        folder: of the run, locked by this process.
        steps: the global step to train to; `goal` is where that ends.
        interval: steps from one evaluation to the next.
        command: as typed, for the agent's card.
        reached: the newest checkpoint; None before the first.
    """

    trainer: Trainer
    validation: Validation
    folder: TrainingFolder
    steps: int
    interval: int
    command: str
    reached: Progress | None = None
    _before_s: float = 0.0  # in earlier processes
    _began: float = field(default_factory=time.perf_counter)

    @property
    def wall_s(self) -> float:
        """Seconds in training and evaluation, over all its beginnings."""
        return self._before_s + time.perf_counter() - self._began

    @property
    def goal(self) -> int:
        """The step at which training ends: the first multiple of the trainer's batch that is not below `steps`."""
        return whole_batches(self.steps, self.trainer.batch)

    @property
    def completed(self) -> bool:
        """Whether the last step has been reached."""
        return self.reached is not None and self.reached.step >= self.steps

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            ConfigError: as `TrainingFolder.restore`.
        """
        self.reached = self.folder.restore(self.trainer)
        if self.reached is not None:
            self._before_s = self.reached.wall_s

    def run(self, tracking: Tracking, patience: Patience, console: Console) -> None:
        """Interval after interval, until the last step or until it is told to stop."""
        if self.reached is None:
            self._commit({}, tracking)
        else:  # a training that was killed may not have told these yet
            is_best = self.reached.best_step == self.reached.step
            policy = load_agent(self.folder.path / "last").policy()
            self._tell(self.folder.rows[-1], self.validation.judge(policy) if is_best else None, tracking)
        trainer = self.trainer
        with progress_bar(console) as progress:
            bar = progress.add_task("training", total=self.goal, completed=min(trainer.step, self.goal))
            while trainer.step < self.steps and not patience.asked:
                before = trainer.step
                goal = min((before // self.interval + 1) * self.interval, self.steps)
                progress.update(bar, completed=before, description=f"best {self.best_cost:.3f} of LRU's cost")
                metrics = trainer.learn(goal - before, _mover(progress, bar, self.goal))
                if trainer.step <= before:
                    raise RuntimeError(f"{type(trainer).__name__} stood still at step {before}")
                self._commit(metrics, tracking)
            progress.update(bar, completed=min(trainer.step, self.goal))

    @property
    def best_cost(self) -> float:
        """Of the best agent so far, as a share of LRU's; NaN before the first evaluation."""
        return self.reached.best_cost if self.reached is not None else float("nan")

    def finish(self, tracking: Tracking) -> None:
        """Says how it ended: in run.json, and with the newest agent and a picture in W&B."""
        status = "finished" if self.completed else "interrupted"
        self.folder.describe(status=status, wall_s=round(self.wall_s, 3))
        if tracking.wandb is not None and self.reached is not None:
            path, step = self.folder.path, self.reached.step
            if self.reached.best_step != step:
                tracking.wandb.log_agent(path / "last", [], {"global_step": step})
            name, case = next(iter(self.validation.cases.items()))
            seed = self.validation.seeds[0]
            picture = halfway(load_agent(path / "best").policy(), case, seed)
            caption = f"{name}, validation seed {seed}: the best agent, half way through the episode"
            tracking.wandb.log_picture(step, f"timeline/{name}", picture, caption)
        tracking.close(completed=self.completed)

    def _commit(self, metrics: dict[str, float], tracking: Tracking) -> None:
        """Evaluates the agent, and makes a checkpoint of it all."""
        agent, trainer, before = self._agent(), self.trainer, self.reached
        verdict = self.validation.judge(agent.policy())
        is_best = before is None or verdict.cost_vs_lru < before.best_cost
        self.reached = Progress(
            step=trainer.step,
            requests=trainer.requests,
            wall_s=self.wall_s,
            best_step=trainer.step if before is None or is_best else before.best_step,
            best_cost=verdict.cost_vs_lru if before is None or is_best else before.best_cost,
        )
        row: Row = {
            "interval": len(self.folder.rows),
            "global_step": trainer.step,
            "requests": trainer.requests,
            "wall_s": round(self.wall_s, 3),
            "is_best": int(is_best),
            COST: verdict.cost_vs_lru,
            **{f"{VALIDATION}{name}": share for name, share in verdict.by_case.items()},
            **{f"train/{name}": float(value) for name, value in metrics.items()},
        }
        self.folder.commit(trainer, agent, self.reached, row)
        self.folder.describe(step=trainer.step, best_step=self.reached.best_step, best_cost=self.reached.best_cost)
        self._tell(row, verdict if is_best else None, tracking)

    def _tell(self, row: Row, best: Verdict | None, tracking: Tracking) -> None:
        """An evaluation to TensorBoard and W&B; a new best agent with the cost of every case."""
        step = int(row["global_step"])
        numbers = {name: float(value) for name, value in row.items() if name not in NOT_DRAWN}
        # What the agent has to beat, as straight lines beside its curve.
        rivals = {"rivals/lru_vs_lru": 1.0, "rivals/cace_vs_lru": self.validation.cace.cost_vs_lru}
        tracking.log(step, numbers | rivals)
        if tracking.wandb is not None and best is not None:
            tracking.wandb.log_table(step, f"{VALIDATION}cases", COLUMNS, self.validation.table(best))
            tracking.wandb.log_agent(self.folder.path / "best", ["best"], {"global_step": step, COST: best.cost_vs_lru})

    def _agent(self) -> Agent:
        """The agent as it is now, with a card that says how it was made."""
        agent = self.trainer.agent()
        about = {"command": self.command, "wall_s": round(self.wall_s, 1), "requests": self.trainer.requests}
        return Agent(agent.card.model_copy(update=about), agent.network)


class Patience:
    """Ctrl-C, or a polite kill: the interval is finished and saved; the second one stops at once.

    Attributes:
        asked: the signal that came; 0 = none.
    """

    def __init__(self, console: Console) -> None:
        self.asked = 0
        self._console = console
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            before = self._before[number]
            if callable(before):  # of the command, which remembers what ended it
                before(number, frame)
            raise KeyboardInterrupt
        self.asked = number
        self._console.print("stopping: this interval is finished and saved first; once more stops at once, without it")


def _mover(progress: ProgressBar, bar: Any, total: int) -> Callable[[int], None]:
    """What a trainer calls with its step, which may go beyond the last one where it learns by whole episodes."""
    return lambda step: progress.update(bar, completed=min(step, total))


def whole_batches(steps: int, batch: int) -> int:
    """Steps, rounded up to whole batches."""
    return -(-steps // batch) * batch
