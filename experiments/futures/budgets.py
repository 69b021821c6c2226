"""What thinking longer is worth: a planner with several budgets against its policy alone, on the same requests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.evaluation.episodes import evaluate
from cace_env.evaluation.scores import pooled_gain
from cace_env.policies import Planner, contestant_of
from cace_env.policies.planner import CHANGED
from experiments.futures.episodes import Judged
from experiments.reading.markdown import percent, table
from experiments.running.command_line import Session
from experiments.running.progress import progress_bar

ALL: Final = "all"  # cases, with as much weight for each


class Budgets(Judged):
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

    def run(self, session: Session) -> int:
        """Plays and prints a table; the exit status."""
        cases = self.judged()
        names = [
            f"planner:{self.policy}@futures={futures}@horizons={horizons}@sure={sure}"
            for futures, horizons, sure in itertools.product(self.futures, self.horizons, self.sure)
        ]
        planner = contestant_of(names[0]).policy
        assert isinstance(planner, Planner)
        played: dict[str, list[PlannedEpisode]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            jobs = list(itertools.product([planner.policy.name, *names], cases))
            for name, (case, seed) in progress.track(jobs, description="episodes"):
                began = time.thread_time()
                row = evaluate(name, case, [seed]).rows[0]
                spent_ms = (time.thread_time() - began) * 1e3 / max(row["decisions"], 1)
                episode = PlannedEpisode(case.name, row["cost"], spent_ms, row.get(CHANGED, 0.0))
                played.setdefault(name, []).append(episode)
        session.console.print(budget_table(played), soft_wrap=True)
        return 0


class PlannedEpisode(NamedTuple):
    """One episode of a planner, or of its policy alone."""

    case: str
    cost: float
    ms: float  # for a decision, of the whole episode
    changed: float  # share of the decisions


def budget_table(played: Mapping[str, Sequence[PlannedEpisode]]) -> str:
    """What each planner saves against its policy, by case and over all of them, as Markdown.

    Args:
        played: of the policy first, then of the planners: the same episodes of each.
    """
    alone, *planners = played
    cases = list(dict.fromkeys(episode.case for episode in played[alone]))
    costs = {
        name: {case: [episode.cost for episode in episodes if episode.case == case] for case in cases}
        for name, episodes in played.items()
    }
    rows = []
    for name in planners:
        for case in [*cases, ALL] if len(cases) > 1 else cases:
            among = cases if case == ALL else [case]
            mine, base = ({one: costs[policy][one] for one in among} for policy in (name, alone))
            episodes = [episode for episode in played[name] if episode.case in among]
            ms, changed = np.mean([[episode.ms, episode.changed] for episode in episodes], axis=0)
            gain = percent(pooled_gain(mine, base, base))
            rows.append([f"`{name}`", case, f"{ms:.1f}", f"{100 * changed:.0f} %", gain])
    return table(["planner", "case", "ms a decision", "changed", f"saves against `{alone}`"], rows, numbers="right")
