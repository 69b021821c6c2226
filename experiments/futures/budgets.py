"""What thinking longer is worth: a planner with several budgets against its policy alone, on the same requests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.evaluation.episodes import evaluate
from cace_env.evaluation.scores import pooled_gain
from cace_env.planning import play_knowing
from cace_env.policies import Future, Planner, Policy, contestant_of
from cace_env.policies.planner import CHANGED
from experiments.futures.episodes import Judged
from experiments.reading.markdown import percent, table
from experiments.running.command_line import Session, metavar
from experiments.running.progress import progress_bar

ALL: Final = "all"  # cases, with as much weight for each
AHEAD: Final = ", prefetch"  # behind the name of a player that may load ahead


class Budgets(Judged):
    """Play a planner with several budgets, and its policy alone."""

    policy: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="the policy or shipped agent that it plans around; by default the agent of --env"
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
    prefetch_sure: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X X")] = Field(
        default=(),
        description="the same for loads that nobody waits for; where scenarios allow them, everybody plays with and "
        "without",
    )
    knowing: Annotated[tuple[float, ...], tyro.conf.arg(metavar="S S")] = Field(
        default=(), description="the policy also acts with the true future of the next so many seconds"
    )

    def run(self, session: Session) -> int:
        """Plays and prints a table; the exit status."""
        cases = self.judged()
        players = list(self.players())
        played: dict[str, list[PlannedEpisode]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            jobs = list(itertools.product(players, cases))
            for player, (case, seed) in progress.track(jobs, description="episodes"):
                played.setdefault(player.title, []).append(player.play(case, seed))
        without = {player.title: player.without for player in players if player.ahead}
        session.console.print(budget_table(played, without), soft_wrap=True)
        return 0

    def players(self) -> Iterator[Player]:
        """Who plays: first the policy alone, without prefetch."""
        names = [
            f"planner:{self.policy or self.env}@futures={futures}@horizons={horizons}@sure={sure}"
            for futures, horizons, sure in itertools.product(self.futures, self.horizons, self.sure)
        ]
        planner = contestant_of(names[0]).policy
        assert isinstance(planner, Planner)
        alone = planner.policy
        for ahead in (False, True) if self.prefetch_sure else (False,):
            yield Player(alone.name, ahead)
            for name in names:
                if ahead:
                    yield from (Player(f"{name}@prefetch_sure={sure}", ahead) for sure in self.prefetch_sure)
                else:
                    yield Player(name, ahead)
            for horizon_s in self.knowing:
                yield Player(f"knows {horizon_s:g} s", ahead, alone, horizon_s)


class Player(NamedTuple):
    """Who plays, and whether with prefetch."""

    name: str
    ahead: bool  # may prefetch, where the scenario allows it
    knowing: Policy | None = None  # acts with the true future of the next `horizon_s` seconds, and plays on so
    horizon_s: float = 0.0

    @property
    def title(self) -> str:
        """Its name in the table."""
        return self.name + AHEAD * self.ahead

    @property
    def without(self) -> str:
        """The title of the same without prefetch."""
        return self.name.partition("@prefetch_sure=")[0]

    def play(self, case: Case, seed: int) -> PlannedEpisode:
        """Plays an episode."""
        mine = case if self.ahead else replace(case, tables=case.tables.replace(prefetch_limit=0))
        began = time.thread_time()
        if self.knowing is None:
            row = evaluate(self.name, mine, [seed]).rows[0]
            cost, changed, decisions, prefetches = (
                row["cost"], row.get(CHANGED, 0.0), row["decisions"], row["prefetches"]
            )  # fmt: skip
        else:
            workload = mine.workload(seed)
            future = Future.of(mine.tables, workload)
            played = play_knowing(mine, workload, future, seed, horizon_s=self.horizon_s, base=self.knowing)
            totals = played.simulator.totals()
            cost, changed = totals.cost, played.changed / max(played.decisions, 1)
            decisions, prefetches = totals.decisions, totals.prefetches
        spent_ms = (time.thread_time() - began) * 1e3 / max(decisions, 1)
        return PlannedEpisode(case.name, cost, spent_ms, changed, prefetches)


class PlannedEpisode(NamedTuple):
    """One episode of a planner, or of its policy alone."""

    case: str
    cost: float
    ms: float  # for a decision, of the whole episode
    changed: float  # share of the decisions
    prefetches: float = 0.0


def budget_table(played: Mapping[str, Sequence[PlannedEpisode]], without: Mapping[str, str] = {}) -> str:
    """What each planner saves against its policy, by case and over all of them, as Markdown.

    Args:
        played: of the policy first, then of the planners, by `Player.title`: the same episodes of each.
        without: of those that may prefetch, who does the same without.
    """
    alone, *planners = played
    cases = list(dict.fromkeys(episode.case for episode in played[alone]))
    costs = {
        name: {case: [episode.cost for episode in episodes if episode.case == case] for case in cases}
        for name, episodes in played.items()
    }
    header = ["planner", "case", "ms a decision", "changed", f"saves against `{alone}`"]
    if without:
        header += ["prefetches", "prefetch saves"]
    rows = []
    for name in planners:
        for case in [*cases, ALL] if len(cases) > 1 else cases:
            among = cases if case == ALL else [case]
            mine, base, bare = (
                {one: costs[policy][one] for one in among} for policy in (name, alone, without.get(name, name))
            )
            episodes = [episode for episode in played[name] if episode.case in among]
            ms, changed = np.mean([[episode.ms, episode.changed] for episode in episodes], axis=0)
            gain = percent(pooled_gain(mine, base, base))
            rows.append([f"`{name}`", case, f"{ms:.1f}", f"{100 * changed:.0f} %", gain])
            if name in without:
                ahead = np.mean([episode.prefetches for episode in episodes])
                rows[-1] += [f"{ahead:.1f}", percent(pooled_gain(mine, bare, base))]
            elif without:
                rows[-1] += ["-", "-"]
    return table(header, rows, numbers="right")
