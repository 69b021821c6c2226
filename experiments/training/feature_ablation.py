"""Linear agents trained anew without each group of features: what could be learned without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from agents.algorithms import make_trainer, read_config
from agents.evolution.trainer import SAME
from cace_env.config import ConfigError
from cace_env.executor import Executor
from cace_env.files import replace_file
from cace_env.policies import Agent, write_agent
from experiments.reading.feature_groups import FEATURE_GROUPS
from experiments.reports.ablation import draw_variants, variants_page
from experiments.running.progress import progress_bar
from experiments.running.run_folder import Run

RETRAINED: Final = "retrained.md"
ABOUT: Final = (
    "A linear agent was trained with all features, and one without each group, by the same search, the same draws and "
    "budget: {requests} simulated requests each, training seeds {seeds}. The budget is small, so compare these with "
    "each other. A search of fewer numbers is easier, so leaving out what says nothing may help."
)


def retrain(
    agent: Agent, train_on: str | Sequence[str], steps: int, executor: Executor, console: Console
) -> dict[str, Agent]:
    """Linear agents trained with all features and without each group, under the names they have in the run.

    Args:
        agent: a linear one, whose environment they are for.
        train_on: "suite", or names of entries and scenarios.
        steps: candidates that each search tries.
        executor: plays their episodes.
        console: to be told about progress.

    Raises:
        ConfigError: the agent is not linear, or there is no such scenario.
    """
    if agent.card.hidden:
        raise ConfigError(
            f"--retrain is for linear agents, and {agent.card.name!r} has {agent.card.hidden} hidden units; train "
            "others with python -m experiments.train"
        )
    base: dict[str, Any] = {"algorithm": "linear", "env": agent.card.env, "train_on": train_on}
    trained = {}
    with progress_bar(console) as progress:
        bar = progress.add_task("training", total=steps * (1 + len(FEATURE_GROUPS)))
        for at, group in enumerate([None, *FEATURE_GROUPS]):
            name = "retrained with all" if group is None else f"retrained without {group}"
            config = read_config(base if group is None else {**base, "without": without(group)})
            trainer = make_trainer(config, executor)

            def tick(step: int, at: int = at, name: str = name) -> None:
                progress.update(bar, completed=at * steps + min(step, steps), description=name)

            trainer.learn(steps, tick)
            trained[name] = trainer.agent()
    return trained


def without(group: str) -> list[str]:
    """Features of a group that a linear policy has weights for, by name, as `agents.evolution.trainer` takes them."""
    names = [name.partition(".")[2] for name in FEATURE_GROUPS[group]]
    return [name for name in dict.fromkeys(names) if name not in SAME]


def write_retrained(run: Run, trained: Mapping[str, Agent], path: Path) -> None:
    """The report on agents that were trained anew, its plot, and the agents."""
    full, *others = trained
    names = {name.removeprefix("retrained "): name for name in others}
    spent = max(row.card.requests for row in trained.values())
    about = ABOUT.format(requests=f"{spent:,}", seeds=trained[full].card.train_seeds)
    page = variants_page(run, full, names, "Linear agents, trained without each group of features", about)
    replace_file(path / RETRAINED, page.replace("parts.png", "retrained.png"))
    draw_variants(run, full, names, path / "retrained.png")
    for name, agent in trained.items():
        write_agent(agent, path / "retrained" / name.removeprefix("retrained ").replace(" ", "-"))
