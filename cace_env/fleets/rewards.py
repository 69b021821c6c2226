"""The cost of waiting: weights by task with the presets `ttft`, `e2e` and `balanced`, and the terms of a reward.

The terms are one array, `info["reward_terms"]`, always complete and in the order of `REWARD_TERMS`; `TERM` finds a term
by its name:

    info["reward_terms"][TERM.completion_waiting]
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cace_env.config import Frozen
from cace_env.tables import FOREVER, TASKS, CostTable

# Costs since the last decision, in the order of the kernel: by task the requests that wait for their first token,
# those in the system and missed SLOs; loads; refusals; the penalty of an illegal action; the cost of the baseline.
COST_TERMS: Final = (
    *(f"{task}_{part}" for task in TASKS for part in ("waiting", "system", "slo")),
    "loading",
    "refused",
)
REWARD_TERMS: Final = (*COST_TERMS, "invalid_action", "baseline")
# mypy needs the names of a namedtuple as literals, but a second copy of them could get out of date.
TERM: Final[Any] = namedtuple("TermColumns", REWARD_TERMS)(*range(len(REWARD_TERMS)))

MOST_WEIGHT: Final = 1e9  # of a second, an SLO or a request: sums stay finite


class TaskCost(Frozen):
    """Cost of waiting for one request of a task."""

    w_ttft: float = Field(default=0.0, ge=0, le=MOST_WEIGHT, description="per second until the first token")
    w_e2e: float = Field(default=0.0, ge=0, le=MOST_WEIGHT, description="per second in the system")
    slo_s: float | None = Field(default=None, gt=0, le=1e9, description="latency target [s]; none = no SLO")
    slo_on: Literal["ttft", "e2e"] = Field(default="ttft", description="the latency that the SLO limits")


class Reward(Frozen):
    """Weights of the cost; the reward is minus the cost. A task without an entry costs nothing."""

    completion: TaskCost = Field(default=TaskCost(), description="waiting for completion requests")
    chat: TaskCost = Field(default=TaskCost(), description="waiting for chat requests")
    reasoning: TaskCost = Field(default=TaskCost(), description="waiting for reasoning requests")
    agent: TaskCost = Field(default=TaskCost(), description="waiting for agent requests")
    w_load: float = Field(default=0.0, ge=0, le=MOST_WEIGHT, description="per second of loading")
    w_slo: float = Field(default=0.0, ge=0, le=MOST_WEIGHT, description="per SLO missed")
    w_refused: float = Field(
        default=0.0, ge=0, le=MOST_WEIGHT, description="per request longer than its model's KV cache"
    )

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        if not any(task.w_ttft or task.w_e2e for task in self.tasks().values()) and not (self.w_load or self.w_slo):
            raise ValueError("all weights are 0; name at least one task's w_ttft or w_e2e")
        return self

    def tasks(self) -> dict[str, TaskCost]:
        """Costs by task, in the order of `TASKS`."""
        return {task: getattr(self, task) for task in TASKS}

    def table(self) -> CostTable:
        """The cost table in the form that the kernel reads."""
        tasks = self.tasks().values()
        slo_us = [FOREVER if task.slo_s is None else max(1, round(task.slo_s * 1e6)) for task in tasks]
        return CostTable(
            w_ttft=np.array([task.w_ttft for task in tasks]),
            w_e2e=np.array([task.w_e2e for task in tasks]),
            slo_us=np.array(slo_us, dtype=np.int64),
            slo_on_e2e=np.array([task.slo_on == "e2e" for task in tasks], dtype=np.bool_),
            w_load=self.w_load,
            w_slo=self.w_slo,
            w_refused=self.w_refused,
        )


# Weights and SLOs are assumptions: there is no published value of a developer's second of waiting by task. A completion
# that comes late is not read; a chat is read as it streams; an agent is waited for until it is done.
REWARDS: Final[dict[str, Reward]] = {
    "ttft": Reward(
        completion=TaskCost(w_ttft=1.0, slo_s=0.5),
        chat=TaskCost(w_ttft=1.0, slo_s=2.0),
        reasoning=TaskCost(w_ttft=1.0),
        agent=TaskCost(w_ttft=1.0),
    ),
    "e2e": Reward(
        completion=TaskCost(w_e2e=1.0, slo_s=0.5),
        chat=TaskCost(w_e2e=1.0, slo_s=2.0),
        reasoning=TaskCost(w_e2e=1.0),
        agent=TaskCost(w_e2e=1.0),
    ),
    "balanced": Reward(
        completion=TaskCost(w_ttft=1.0, slo_s=0.5),
        chat=TaskCost(w_ttft=0.3, w_e2e=0.1, slo_s=2.0),
        reasoning=TaskCost(w_e2e=0.1),
        agent=TaskCost(w_e2e=0.2),
    ),
}
