"""Tables of `experiments.findings` and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from cace_env.files import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console

from cace_env import __version__
from cace_env.evaluation import Gain, paired_gain
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.tables import Protocol
from experiments.reading.markdown import number, percent, table
from experiments.reading.suite_scores import SuiteRun
from experiments.running.command_line import screen_table
from experiments.running.contestants import Contrast
from experiments.running.findings_grid import (
    CELLS,
    CONTRASTS,
    ENGINES,
    SUITE_CONTRASTS,
    Cell,
    Results,
)

PICTURE: Final = "findings.png"
FULL_COLOUR: Final = 30.0  # [%] of cost saved: the strongest colour of the picture


def gain(results: Results, cell: Cell, contrast: Contrast, metric: str = "cost") -> Gain:
    """What a contrast saves in a cell [%], paired by seed."""
    over = results[cell.name, contrast.protocol, contrast.over][metric]
    return paired_gain(over, results[cell.name, contrast.protocol, contrast.policy][metric])


def print_summary(results: Results, console: Console) -> None:
    """Every contrast: over all cells, and where it is worth most and least."""
    rows: list[tuple[str, str, str, str]] = []
    for group, contrasts in CONTRASTS.items():
        rows.append((f"**{group}**", "", "", ""))
        rows += [(contrast.what, *_range(results, contrast)) for contrast in contrasts]
    header = ("ingredient", "cost saved, least", "most", "better / worse for sure")
    console.print(screen_table(header, rows, left=len(header)))


def _range(results: Results, contrast: Contrast) -> tuple[str, str, str]:
    """The least and the greatest gain over the cells, where they are, and in how many cells the sign is sure."""
    gains = {cell: gain(results, cell, contrast) for cell in CELLS}
    least = min(gains, key=lambda cell: gains[cell].percent)
    most = max(gains, key=lambda cell: gains[cell].percent)
    better = sum(one.low > 0 for one in gains.values())
    worse = sum(one.high < 0 for one in gains.values())
    return (
        f"{gains[least].percent:+.1f} % ({least.name})",
        f"{gains[most].percent:+.1f} % ({most.name})",
        f"{better} / {worse} of {len(CELLS)}",
    )


def regions(results: Results, suite: SuiteRun) -> dict[str, str]:
    """Regions of `docs/findings.md` that a run of the grid and one of the suite fill."""
    count = len(next(iter(results.values()))["cost"])
    cells = {f"cells-{group.split()[0].lower()}": _cells(results, contrasts) for group, contrasts in CONTRASTS.items()}
    return {
        "run": f"{count} test seeds in every cell, cace-env {__version__}.",
        "overview": _overview(results),
        **cells,
        "absolute": _absolute(results),
        "suite-swap": _in_suite(suite),
        "suite-reference": _reference(suite),
    }


def _overview(results: Results) -> str:
    rows = []
    for group, contrasts in CONTRASTS.items():
        rows += [(group, contrast.what, *_range(results, contrast)) for contrast in contrasts]
    return table(("what", "ingredient", "saves least", "saves most", "better / worse for sure"), rows)


def _cells(results: Results, contrasts: Sequence[Contrast]) -> str:
    rows = [
        (cell.engine, f"{cell.pressure:g}", *(percent(gain(results, cell, contrast)) for contrast in contrasts))
        for cell in CELLS
    ]
    return table(("engine", "pressure", *(contrast.what for contrast in contrasts)), rows)


def _absolute(results: Results) -> str:
    """Cost, TTFT, longest wait and drains of what contrasts start from."""
    rows = []
    for cell in CELLS:
        for protocol, name in (
            (Protocol.EVICTION, "lru"),
            (Protocol.SWAP, "fifo+lru"),
            (Protocol.SWAP, "very-patient-wsjf+gdsf"),
        ):
            mine = results[cell.name, protocol, name]
            rows.append(
                (
                    cell.engine,
                    f"{cell.pressure:g}",
                    f"`{name}`",
                    protocol.env_name,
                    number(mine["cost"].mean()),
                    number(mine["ttft_mean_s"].mean()),
                    number(mine["longest_wait_s"].mean()),
                    number(mine["drains"].mean()),
                )
            )
    header = ("engine", "pressure", "policy", "env", "cost", "mean TTFT [s]", "longest wait [s]", "drains")
    return table(header, rows)


def _in_suite(suite: SuiteRun) -> str:
    """The same contrasts on the entries of a suite, each with a fleet and a workload of its own."""
    rows = []
    for entry in suite.entries(Protocol.SWAP):
        costs = suite.costs(entry.id)
        rows.append((entry.id, *(percent(paired_gain(costs[c.over], costs[c.policy])) for c in SUITE_CONTRASTS)))
    return table(("entry", *(contrast.what for contrast in SUITE_CONTRASTS)), rows)


def _reference(suite: SuiteRun) -> str:
    """What the reference saves against LRU and against the cheapest Belady rule of each entry."""
    rows = []
    for env in suite.envs:
        for entry in suite.entries(env):
            costs = suite.costs(entry.id)
            belady = {name: cost for name, cost in costs.items() if "belady" in name}
            cheapest = min(belady, key=lambda name: np.nansum(belady[name]))
            rows.append(
                (
                    entry.id,
                    percent(paired_gain(costs[BASELINE], costs[REFERENCE])),
                    f"`{cheapest}`",
                    percent(paired_gain(costs[BASELINE], costs[cheapest])),
                    percent(paired_gain(costs[cheapest], costs[REFERENCE])),
                )
            )
    header = ("entry", "reference for LRU", "cheapest Belady rule", "that for LRU", "reference for that")
    return table(header, rows)


def draw(results: Results, path: Path) -> None:
    """Rows are contrasts, columns cells; the colour is the gain, a dot says that its sign is not sure."""
    contrasts = [(group, contrast) for group, row in CONTRASTS.items() for contrast in row]
    gains = [[gain(results, cell, contrast) for cell in CELLS] for _, contrast in contrasts]
    values = np.array([[one.percent for one in row] for row in gains])
    figure, axes = plt.subplots(figsize=(11, 0.34 * len(contrasts) + 1.6), layout="constrained")
    image = axes.imshow(values, cmap="RdBu", vmin=-FULL_COLOUR, vmax=FULL_COLOUR, aspect="auto")
    for y, row in enumerate(gains):
        for x, one in enumerate(row):
            sure = one.low > 0 or one.high < 0
            colour = "white" if abs(one.percent) > 0.7 * FULL_COLOUR else "black"
            text = f"{one.percent:+.0f}" if sure else "·"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(contrasts)), [contrast.what for _, contrast in contrasts], fontsize=8)
    axes.set_xticks(range(len(CELLS)), [f"{cell.pressure:g}" for cell in CELLS], fontsize=8)
    axes.set_xlabel("pressure")
    _separate(axes, [group for group, _ in contrasts], [cell.engine for cell in CELLS])
    figure.colorbar(image, ax=axes, label="cost saved [%]; a dot: the interval includes 0", pad=0.01)
    save_figure(figure, path, dpi=120)
    plt.close(figure)


def _separate(axes: Any, groups: Sequence[str], engines: Sequence[str]) -> None:
    """Lines between the groups of rows and of columns, and the engines' names."""
    for y in range(1, len(groups)):
        if groups[y] != groups[y - 1]:
            axes.axhline(y - 0.5, color="black", linewidth=0.8)
    for x in range(1, len(engines)):
        if engines[x] != engines[x - 1]:
            axes.axvline(x - 0.5, color="black", linewidth=0.8)
    for engine in ENGINES:
        places = [x for x, name in enumerate(engines) if name == engine]
        axes.text(float(np.mean(places)), -0.8, engine, ha="center", va="bottom", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
