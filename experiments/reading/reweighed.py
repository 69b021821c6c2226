"""The same episodes judged by other weights of the cost: it is linear in them, so nothing has to run again.

`cost = sum over tasks of (w_ttft x waiting + w_e2e x in the system) + w_load x load seconds + w_slo x SLOs missed +
w_refused x refused`, and every run folder has these parts episode by episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.fleets import REWARDS, Reward
from cace_env.tables import TASKS, FloatArray

FACTORS: Final = (0.5, 2.0)  # every weight is an assumption, so each is halved and doubled
AS_STATED: Final = "as stated"
PARTS: Final = {"w_load": "load_s", "w_slo": "slo_missed", "w_refused": "refused"}  # weight -> column


class Weighing(NamedTuple):
    """One way to judge."""

    name: str
    by_scenario: Mapping[str, Reward]


def judged(columns: Mapping[str, FloatArray], reward: Reward) -> FloatArray:
    """Cost of each episode under the weights of `reward`, `(seeds,)`; NaN where an episode was cut short.

    Args:
        columns: of one policy on one scenario, as `experiments.running.run_folder.Run.columns` has them.
        reward: its SLOs do not matter: misses are counted by those of the run.

    Raises:
        ConfigError: the columns have no numbers by task (as those of a suite).
    """
    missing = [f"{task}_{part}" for task in TASKS for part in ("waiting_s", "system_s")]
    missing = [name for name in missing if name not in columns]
    if missing:
        raise ConfigError(
            f"the run has no column {missing[0]!r}: only folders of experiments.compare and experiments.ablate have "
            "the parts of the cost by task"
        )
    cost = np.zeros_like(columns["cost"])
    for task, weights in reward.tasks().items():
        cost += weights.w_ttft * columns[f"{task}_waiting_s"] + weights.w_e2e * columns[f"{task}_system_s"]
    for weight, column in PARTS.items():
        cost += getattr(reward, weight) * columns[column]
    return np.where(np.isfinite(columns["cost"]), cost, np.nan)


def reward_of(about: Mapping[str, Any]) -> Reward:
    """The weights that a scenario of a run folder was played with, from what run.json says of it."""
    tasks = {
        task: {key: value for key, value in row.items() if value is not None} for task, row in about["weights"].items()
    }
    return Reward.model_validate({**tasks, **about["extra_weights"]})


def presets(stated: Mapping[str, Reward]) -> list[Weighing]:
    """Every scenario as it stands, then under each preset."""
    return [
        Weighing(AS_STATED, stated),
        *(Weighing(name, dict.fromkeys(stated, preset)) for name, preset in REWARDS.items()),
    ]


def halved_and_doubled(stated: Mapping[str, Reward]) -> list[Weighing]:
    """Every scenario as it stands, then with each weight that any of them has halved, and doubled."""
    used = [weight for weight in _weights() if any(_value(reward, weight) for reward in stated.values())]
    rows = [Weighing(AS_STATED, stated)]
    for weight in used:
        for factor in FACTORS:
            changed = {name: _times(reward, weight, factor) for name, reward in stated.items()}
            rows.append(Weighing(f"{' '.join(weight)} x {factor:g}", changed))
    return rows


def _weights() -> Iterator[Sequence[str]]:
    """Every weight as a path into `Reward`."""
    for task in TASKS:
        yield task, "w_ttft"
        yield task, "w_e2e"
    for name in PARTS:
        yield (name,)


def _value(reward: Reward, weight: Sequence[str]) -> float:
    part: Any = reward
    for key in weight:
        part = getattr(part, key)
    return float(part)


def _times(reward: Reward, weight: Sequence[str], factor: float) -> Reward:
    """The reward with one weight multiplied."""
    content: dict[str, Any] = reward.model_dump()
    part = content
    for key in weight[:-1]:
        part = part[key]
    part[weight[-1]] *= factor
    return Reward.model_validate(content)
