"""What thinking longer is worth: a planner with several budgets against its policy alone, on the same requests."""

from __future__ import annotations

import itertools
import time
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.evaluation.episodes import evaluate
from cace_env.evaluation.intervals import paired_gain
from cace_env.policies import Planner, contestant_of
from cace_env.policies.lookahead import CHANGED
from cace_env.tables import FloatArray
from experiments.futures.episodes import Episodes
from experiments.reading.markdown import table
from experiments.running.progress import progress_bar


class Budgets(Episodes):
    """Play a planner with several budgets, and its policy alone."""

    policy: Annotated[str, tyro.conf.arg(metavar="NAME")] = Field(
        default="eviction", description="the policy or shipped agent that it plans around"
    )
    futures: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N N")] = Field(
        default=(32,), description="sampled futures at each decision"
    )
    horizons: Annotated[tuple[str, ...], tyro.conf.arg(metavar="S+S S+S")] = Field(
        default=("60+300",), description="times at which costs are read [s]"
    )
    sure: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X X")] = Field(
        default=(1.0,), description="standard errors by which another choice has to be cheaper"
    )

    def run(self, console: Console) -> int:
        """Plays and prints a table; the exit status."""
        cases = self.cases("test")
        names = [
            f"planner:{self.policy}@futures={futures}@horizons={horizons}@sure={sure}"
            for futures, horizons, sure in itertools.product(self.futures, self.horizons, self.sure)
        ]
        planner = contestant_of(names[0]).policy
        assert isinstance(planner, Planner)
        played: dict[str, list[tuple[str, float, float, float, float]]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            jobs = list(itertools.product([planner.policy.name, *names], cases))
            for name, (case, seed) in progress.track(jobs, description="episodes"):
                began = time.thread_time()
                row = evaluate(name, case, [seed]).rows[0]
                spent_ms = (time.thread_time() - began) * 1e3 / max(row["decisions"], 1)
                changed = row.get(CHANGED, 0.0)
                played.setdefault(name, []).append((case.name, row["cost"], spent_ms, changed, row["decisions"]))
        console.print(budget_table(played), soft_wrap=True)
        return 0


def budget_table(played: dict[str, list[tuple[str, float, float, float, float]]]) -> str:
    """Gain of each planner over its policy [%], by case and over all of them, as Markdown.

    Over all: costs are divided by what the policy costs in that case, so that every episode counts alike.
    """
    base, *planners = played
    where = np.array([row[0] for row in played[base]])
    mine = np.array([row[1] for row in played[base]])
    names = list(dict.fromkeys(where.tolist()))
    scale = np.array([mine[where == name].mean() for name in where])
    rows = []
    for name in planners:
        costs = np.array([row[1] for row in played[name]])
        gains = [_gain(mine[where == case], costs[where == case]) for case in names]
        ms, changed = (np.mean([row[column] for row in played[name]]) for column in (2, 3))
        rows.append([f"`{name}`", f"{ms:.1f}", f"{100 * changed:.0f} %", *gains, _gain(mine / scale, costs / scale)])
    return table(["planner", "ms a decision", "changed", *names, "all"], rows, numbers="right")


def _gain(base: FloatArray, costs: FloatArray) -> str:
    gain = paired_gain(base, costs)
    return f"{gain.percent:+.1f} % [{gain.low:+.1f}, {gain.high:+.1f}]"
