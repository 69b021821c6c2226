"""Measures training by RLlib: `make bench-rllib` prints the tables of docs/scale.md.

Numbers of env runners are measured in turns, and what is compared is a ratio within a turn: no machine is quite idle.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from ray import cloudpickle
from ray.rllib.algorithms.dqn import dqn
from ray.rllib.algorithms.ppo import ppo

from agents.rllib.trainer import RLlibDQNConfig, RLlibPPOConfig, RLlibTrainer
from experiments.reading.markdown import table
from experiments.running.command_line import Console, Session
from experiments.running.executors.execution import Execution

SCENARIO: Final = "default"
RUNNERS: Final = (0, 1, 2)  # 0: the process that learns plays, too
TURNS: Final = 5
KINDS: Final = {"PPO": RLlibPPOConfig, "DQN": RLlibDQNConfig}
PARTS: Final = ("playing", "learning", "replay buffer", "the rest")


class Parts:
    """Seconds of an iteration by what was done, in the process that learns."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is counted."""

        def counted(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                self.spent[part] += time.perf_counter() - began

        return counted

    def watch(self, algorithm: Any) -> None:
        """Counts what an algorithm does from now on."""
        algorithm.learner_group.update = self.timed("learning", algorithm.learner_group.update)
        buffer = getattr(algorithm, "local_replay_buffer", None)
        for name in ("add", "sample", "update_priorities") if buffer is not None else ():
            setattr(buffer, name, self.timed("replay buffer", getattr(buffer, name)))


def measure(console: Console, undisturbed: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """All tables, PPO first; `undisturbed` is entered around each turn."""
    for name, kind in KINDS.items():
        with Execution("ray", sum(RUNNERS)).opened():
            _by_runners(console, name, kind, undisturbed)


def _by_runners(console: Console, name: str, kind: Any, undisturbed: Callable[[], AbstractContextManager[Any]]) -> None:
    parts, trainers = Parts(), {}
    for module in (ppo, dqn):
        whole = module.synchronous_parallel_sample
        module.synchronous_parallel_sample = parts.timed("playing", getattr(whole, "__wrapped__", whole))
    for runners in RUNNERS:
        more = {} if name == "PPO" else {"gradient_steps": 10 * max(runners, 1)}  # as many for each decision
        trainers[runners] = RLlibTrainer(kind(train_on=(SCENARIO,), runners=runners, **more))
        trainers[runners].learn(8_000, lambda step: None)  # compiles, fills the buffer, warms up
        parts.watch(trainers[runners].algorithm)
    rates: dict[int, list[float]] = {runners: [] for runners in RUNNERS}
    spent: dict[int, list[dict[str, float]]] = {runners: [] for runners in RUNNERS}
    for _ in range(TURNS):
        with undisturbed():
            for runners, trainer in trainers.items():
                parts.spent, before, began = dict.fromkeys(PARTS, 0.0), trainer.step, time.perf_counter()
                trainer.learn(1 if name == "PPO" else 1_500, lambda step: None)
                took, decisions = time.perf_counter() - began, trainer.step - before
                parts.spent["the rest"] = took - sum(parts.spent.values())
                rates[runners].append(decisions / took)
                spent[runners].append({part: seconds / decisions for part, seconds in parts.spent.items()})
    rows = []
    for runners in RUNNERS:
        ratios = [mine / one for mine, one in zip(rates[runners], rates[1], strict=True)]
        each = [f"{1e6 * statistics.median(turn[part] for turn in spent[runners]):.0f}" for part in PARTS]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([str(runners), f"{statistics.median(rates[runners]):,.0f}", ratio, *each])
    header = (f"{name}: env runners", "decisions/s", "times one", *(f"{part} [us/decision]" for part in PARTS))
    console.print(table(header, rows, numbers="right"), "\n")
    _moved(console, name, trainers[0].algorithm)
    for trainer in trainers.values():
        trainer.algorithm.stop()


def _moved(console: Console, name: str, algorithm: Any) -> None:
    """What a runner sends, and what it costs to take apart."""
    runner = algorithm.env_runner
    episodes = runner.sample()
    decisions = sum(len(episode) for episode in episodes)
    packed = cloudpickle.dumps(episodes)
    began = time.perf_counter()
    cloudpickle.loads(packed)
    unpacked = time.perf_counter() - began
    weights = len(cloudpickle.dumps(runner.module.get_state()))
    console.print(
        f"{name}: {len(packed) / decisions / 1e3:.2f} KB a decision come back, unpacked in "
        f"{1e6 * unpacked / decisions:.1f} us; {weights / 1e3:.0f} KB of weights go out after each update\n"
    )


if __name__ == "__main__":
    measure(Session(Console(width=140), "bench").console)
