"""How far the reference and the rules are from the optimum of tiny episodes.

The optimum is exact (`cace_env.planning.optimum`), the episodes are random and always the same
(`experiments.yardsticks.tiny_episodes`). Bases are the rules without keep-alive, count limit or a patience of their
own: those play by other rules than an optimum of decisions alone. The same goes for `static-best`, which there is
nothing to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.config import Frozen
from cace_env.planning import exact_optimum, find_reference
from cace_env.planning.optimum import MAX_NODES
from cace_env.policies import Future
from cace_env.simulation import lower_bound
from cace_env.workload import Workload
from experiments.reading.markdown import table
from experiments.running.command_line import split_names
from experiments.running.progress import progress_bar
from experiments.running.reference_rows import reference_options
from experiments.yardsticks.tiny_episodes import decision_bases, tiny_episodes

# Beside the reference: "eviction" names without an order, "swap" names with one.
SHOWN: Final = {
    "eviction": ("lru", "cace", "belady", "belady-size", "belady-cost"),
    "swap": ("fifo+lru", "wsjf+lru", "wsjf+cace", "fifo+belady", "wsjf+belady"),
}


class Gap(Frozen):
    """Hold the reference and the rules against the optimum of tiny episodes."""

    episodes: int = Field(default=200, ge=1, description="how many of the fixed list, in each environment")
    env: Literal["both", "eviction", "swap"] = Field(default="both", description="in which")
    max_nodes: int = Field(
        default=4 * MAX_NODES,
        description="decisions after which a search for the optimum ends unproven; such episodes are left out",
    )
    reference_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(), description="how hard it is looked for: starts, max_rounds, max_replays, gain of find_reference"
    )

    def run(self, console: Console) -> int:
        """Prints a table for each environment; the exit status."""
        search = reference_options(split_names(self.reference_option))
        for protocol in SHOWN if self.env == "both" else (self.env,):
            with progress_bar(Console(stderr=True)) as progress:
                episodes = progress.track(
                    tiny_episodes(self.episodes, protocol), total=self.episodes, description=protocol
                )
                found = [gaps_of(case, workload, self.max_nodes, search) for case, workload in episodes]
            proven = [gaps for gaps in found if gaps.proven]
            left_out = len(found) - len(proven)
            console.print(
                f"\n{protocol}: {len(proven)} episodes"
                + (f"; {left_out} more are left out, their optimum was not proven" if left_out else "")
                + f"; at most {max(gaps.nodes for gaps in found):,} decisions tried; "
                f"the lower bound is {100 * np.mean([1 + gaps.bound for gaps in proven]):.0f} % of the optimum\n",
                soft_wrap=True,
            )
            console.print(gap_table(protocol, proven), soft_wrap=True)
        return 0


class Gaps(NamedTuple):
    """What an episode costs beyond its optimum, as a share of that."""

    reference: float
    best_base: float
    shown: tuple[float, ...]  # as in SHOWN
    bound: float  # of the lower bound: below 0
    proven: bool
    nodes: int


def gaps_of(case: Case, workload: Workload, max_nodes: int, options: dict[str, Any]) -> Gaps:
    """Holds reference, bases and lower bound of an episode against its optimum.

    Raises:
        ConfigError: options out of range.
    """
    future = Future.of(case.tables, workload)
    reference = find_reference(case, workload, future, 0, bases=decision_bases(case.tables), **options)
    optimum = exact_optimum(case.tables, workload, at_most=reference.cost, max_nodes=max_nodes)

    def gap(cost: float) -> float:
        return cost / optimum.cost - 1.0

    return Gaps(
        gap(reference.cost),
        gap(reference.base_cost),
        tuple(gap(reference.costs[name]) for name in SHOWN[case.tables.protocol]),
        gap(lower_bound(case.tables, workload).cost),
        optimum.proven,
        optimum.nodes,
    )


def gap_table(protocol: str, gaps: Sequence[Gaps]) -> str:
    """Mean, quantiles and maximum of the gaps, as Markdown; `gaps` of proven optima."""

    def row(name: str, values: npt.ArrayLike) -> list[str]:
        share = np.asarray(values)
        exact = np.mean(share <= 1e-9)
        cells = (np.mean(share), np.median(share), np.quantile(share, 0.9), np.max(share))
        return [name, *(f"{100 * cell:.1f} %" for cell in cells), f"{100 * exact:.0f} %"]

    rows = [row("reference", [gap.reference for gap in gaps]), row("cheapest base", [gap.best_base for gap in gaps])]
    rows += [row(f"`{name}`", [gap.shown[k] for gap in gaps]) for k, name in enumerate(SHOWN[protocol])]
    header = ("costs more than the optimum by", "mean", "median", "90 %", "most", "optimal")
    return table(header, rows, numbers="right")
