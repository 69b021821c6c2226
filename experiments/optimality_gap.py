"""How far the reference and the rules are from the optimum of tiny episodes: `python -m experiments.optimality_gap`.

The optimum is exact (`cace_env.planning.optimum`), the episodes are random and always the same
(`experiments.yardsticks.tiny_episodes`). Bases are the rules without keep-alive, count limit or a patience of their
own: those play by other rules than an optimum of decisions alone. The same goes for `static-best`, which there is
nothing to train on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.planning import exact_optimum, find_reference
from cace_env.planning.optimum import MAX_NODES
from cace_env.policies import Future
from cace_env.simulation import lower_bound
from cace_env.workload import Workload
from experiments.reading.markdown import table
from experiments.running.command_line import exit_status, split_names
from experiments.running.progress import progress_bar
from experiments.running.reference_rows import reference_options
from experiments.yardsticks.tiny_episodes import decision_bases, tiny_episodes

# Beside the reference: "eviction" names without an order, "swap" names with one.
SHOWN: Final = {
    "eviction": ("lru", "cace", "belady", "belady-size", "belady-cost"),
    "swap": ("fifo+lru", "wsjf+lru", "wsjf+cace", "fifo+belady", "wsjf+belady"),
}


@dataclass(frozen=True)
class Options:
    """Hold the reference and the rules against the optimum of tiny episodes."""

    episodes: int = 200
    """How many of the fixed list, in each environment."""
    env: Literal["both", "eviction", "swap"] = "both"
    """In which."""
    max_nodes: int = 4 * MAX_NODES
    """Decisions after which a search for the optimum ends unproven; such episodes are left out."""
    reference_option: Annotated[list[str], tyro.conf.arg(metavar="KEY=VALUE")] = field(default_factory=list)
    """How hard the reference is looked for: starts, max_rounds, max_replays, gain of find_reference."""


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


def main(options: Options) -> int:
    """Prints a table for each environment; the exit status."""
    console = Console(highlight=False)
    if options.episodes < 1:
        raise ConfigError(f"--episodes is {options.episodes}; it has to be at least 1")
    search = reference_options(split_names(options.reference_option))
    for protocol in SHOWN if options.env == "both" else (options.env,):
        found = []
        with progress_bar(Console(stderr=True)) as progress:
            bar = progress.add_task(protocol, total=options.episodes)
            for case, workload in tiny_episodes(options.episodes, protocol):
                found.append(gaps_of(case, workload, options.max_nodes, search))
                progress.update(bar, advance=1)
        proven = [gaps for gaps in found if gaps.proven]
        left_out = len(found) - len(proven)
        console.print(
            f"\n{protocol}: {len(proven)} episodes"
            + (f"; {left_out} more are left out, their optimum was not proven" if left_out else "")
            + f"; at most {max(gaps.nodes for gaps in found):,} decisions tried; "
            f"the lower bound is {100 * np.mean([1 + gaps.bound for gaps in proven]):.0f} % of the optimum\n",
            soft_wrap=True,
        )
        console.print(gap_table(protocol, proven), soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    given = tyro.cli(Options, prog="python -m experiments.optimality_gap", description=__doc__)
    sys.exit(exit_status(lambda: main(given)))
