"""Planners on real logs: with habits of the log's first half and with those that ship, judged on the second half."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.config import Frozen
from cace_env.evaluation import Gain, block_of
from cace_env.evaluation.episodes import evaluate, metric_gain
from cace_env.forecasting import Habits, fit_habits, load_habits
from cace_env.policies import Planner, Policy, contestant_of
from cace_env.policies.planner import CHANGED, Budget
from cace_env.tables import FloatArray, Protocol
from experiments.futures.episodes import Episodes
from experiments.futures.fit import PART, lru_episode
from experiments.reading.markdown import percent, table
from experiments.running.command_line import Session, metavar
from experiments.running.options import Names
from experiments.running.progress import progress_bar

# The rules that a planner is held against, besides its policy.
RULES: Final = {
    Protocol.EVICTION: ("omlx", "gdsf", "cace:tuned-eviction"),
    Protocol.SWAP: ("very-patient-wsjf+omlx", "very-patient-wsjf+gdsf", "very-patient-wsjf+cace:tuned-swap"),
}
OWN, SHIPPED = "own", "shipped"  # habits


class OnLogs(Frozen):
    """Play a planner on the second half of public logs, and its policy and rules."""

    logs: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Field(
        description="folder with public logs; see docs/traces.md"
    )
    only: Names = Field(default=(), description="of the logs, only these; all by default")
    env: Protocol = Field(default=Protocol.EVICTION, description="what is decided")
    policy: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="the policy or shipped agent that it plans around; by default the agent that ships"
    )
    futures: int = Field(default=32, ge=2, description="sampled futures at each decision")
    seeds: int = Field(default=1, ge=1, description="draws of what is attached to a log")

    def run(self, session: Session) -> int:
        """Plays and prints a table; the exit status."""
        name = f"planner:{self.policy or self.env}@futures={self.futures}"
        planner = contestant_of(name).policy
        assert isinstance(planner, Planner)
        cases = Episodes(logs=self.logs, only=self.only, env=self.env)
        played: dict[str, dict[str, OfLog]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            jobs = list(zip(cases.cases(PART, ()), cases.cases("test", ()), strict=True))
            for (before, seed), (case, _) in progress.track(jobs, description="logs"):
                habits = {OWN: fit_habits([lru_episode(before, seed)], bursts=True), SHIPPED: load_habits()[0]}
                played[case.name] = self._log(case, planner, habits)
        session.console.print(logs_table(played, self.env), soft_wrap=True)
        return 0

    def _log(self, case: Case, planner: Planner, habits: Mapping[str, Habits]) -> dict[str, OfLog]:
        """Everybody on one log: the policy first, then planners by their habits, then rules."""
        budget = Budget(futures=self.futures)
        planners = {which: Planner(planner.policy, budget, habits=mine) for which, mine in habits.items()}
        everybody: dict[str, str | Policy | Planner] = {planner.policy.name: planner.policy, **planners}
        found = {}
        for name, policy in (everybody | {rule: rule for rule in RULES[self.env]}).items():
            began = time.thread_time()
            results = evaluate(policy, case, range(self.seeds))
            decisions = results.column("decisions").sum()
            found[name] = OfLog(
                np.array([windows["cost"] for windows in results.windows]),
                float(decisions) / self.seeds,
                (time.thread_time() - began) * 1e3 / max(float(decisions), 1.0),
                float(np.mean([row.get(CHANGED, 0.0) for row in results.rows])),
            )
        return found


class OfLog(NamedTuple):
    """A policy on a log."""

    costs: FloatArray  # (draws, windows)
    decisions: float  # of a draw
    ms: float  # for a decision, of the whole episode
    changed: float  # share of the decisions


def saved(mine: OfLog, theirs: OfLog) -> Gain:
    """What one saves against another on the same windows [%]."""
    return metric_gain("cost", theirs.costs, mine.costs, block_of(mine.costs.shape[-1]))


def logs_table(played: Mapping[str, Mapping[str, OfLog]], env: Protocol) -> str:
    """What planners save on each log against their policy, and against the best of the rules, as Markdown.

    Args:
        played: by log, everybody there: the policy first.
        env: whose rules.
    """
    rows = []
    for log, by_name in played.items():
        alone = next(iter(by_name))
        best = min(RULES[env], key=lambda rule: float(by_name[rule].costs.sum()))
        own, shipped = by_name[OWN], by_name[SHIPPED]
        against = [percent(saved(by_name[who], by_name[other])) for who, other in
                   ((OWN, alone), (SHIPPED, alone), (alone, best), (OWN, best))]  # fmt: skip
        changed = " / ".join(f"{100 * each.changed:.0f} %" for each in (own, shipped))
        ms = max(own.ms, shipped.ms)
        rows.append([log, f"{own.decisions:.0f}", f"{ms:.0f}", changed, *against[:2], f"`{best}`", *against[2:]])
    header = ("log", "decisions", "ms", "changed, own / shipped", "own habits against policy",
              "shipped habits against policy", "best rule", "policy against it", "own habits against it")  # fmt: skip
    return table(header, rows, numbers="right")
