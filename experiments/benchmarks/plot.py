"""The benchmark's pictures, from the figures of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cace_env.policies import POLICIES
from experiments.benchmarks.measures import Figures
from experiments.benchmarks.targets import DEFAULT
from experiments.reading.style import GROUP_COLOURS, STYLE

BLUE, ORANGE, GREEN, SKY, RED, PINK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#8c8c8c",
)  # fmt: skip
OTHERS: Final = {
    "SyncVectorEnv": ("s", GREY),
    "EnvPool": ("^", RED),
    "CartPoleVectorEnv (NumPy)": ("D", PINK),
}


def draw(figures: Figures, path: Path) -> None:
    """Requests per second of every policy on the default scenario, and of LRU and CACE on every scenario."""
    scenarios = figures["scenarios"]
    default = scenarios[DEFAULT]["policies"]
    rows = max(len(default), 2 * len(scenarios))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.4 + 0.21 * rows), layout="constrained")
        colours = {name: GROUP_COLOURS[POLICIES[name].group] for name in default}
        _bars(left, list(default), [default[name] for name in default], [colours[name] for name in default])
        left.set_title("default scenario, every policy", loc="left")
        groups = list(dict.fromkeys(POLICIES[name].group for name in default))
        handles = [Patch(color=GROUP_COLOURS[group]) for group in groups]
        figure.legend(handles, groups, loc="outside lower center", ncols=len(groups), frameon=False)
        pairs = [(name, policy) for name in scenarios for policy in ("lru", "cace")]
        _bars(
            right,
            [f"{name}, {policy}" for name, policy in pairs],
            [scenarios[name]["policies"][policy] for name, policy in pairs],
            [colours[policy] for _, policy in pairs],
        )
        right.set_title("every scenario, LRU and CACE", loc="left")
        figure.suptitle("Whole episodes on one core: best round (bar) and median (tick)", x=0.01, ha="left")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _bars(axes: Any, labels: Sequence[str], rows: Sequence[Figures], colours: Sequence[str]) -> None:
    """One bar per row, the first on top."""
    places = range(len(labels))
    axes.barh(places, [row["requests_per_s"]["best"] / 1e6 for row in rows], color=colours, height=0.72)
    medians = [row["requests_per_s"]["median"] / 1e6 for row in rows]
    axes.scatter(medians, places, marker="|", s=60, color="black", zorder=3)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("million requests per second")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


# ---------------------------------------------------------------------------------------------------------------------
# One picture of everything


def draw_overview(figures: Figures, path: Path) -> None:
    """Batches in decisions and in requests, where their time goes, growth, and memory over time; what was measured."""
    panels: dict[str, Callable[[Any, Figures], None]] = {}
    if figures.get("vector", {}).get("rows"):
        panels |= {"decisions": _decisions, "requests": _requests}
    panels |= {part: panel for part, panel in PANELS.items() if part in figures}
    if not panels:
        return
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(
            rows, columns, figsize=(4.4 * columns, 3.6 * rows), layout="constrained", squeeze=False
        )
        for axes in all_axes.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(all_axes.flat, panels.values(), strict=False):
            panel(axes, figures)
        figure.savefig(path, dpi=140)
        plt.close(figure)


def _lines(axes: Any, figures: Figures, height: Callable[[Figures], float]) -> None:
    """One line for each number of threads and source of requests, over the size of the batch."""
    section = figures["vector"]
    for bank, colour, source in ((section["bank"], BLUE, "bank"), (None, ORANGE, "fresh requests")):
        for threads, style in ((1, "-"), (2, "--")):
            rows = [
                row
                for row in section["rows"]
                if (row["scenario"], row["bank"], row["choice"]) == (DEFAULT, bank, "lowest")
                and row["threads"] == min(threads, row["num_envs"])
            ]
            sizes = [row["num_envs"] for row in rows]
            label = f"{source}, {threads} thread{'s' if threads > 1 else ''}"
            axes.plot(sizes, [height(row) for row in rows], style, marker="o", color=colour, label=label, markersize=4)
    axes.set_xscale("log", base=2)
    sizes = sorted({row["num_envs"] for row in section["rows"]})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("environments")
    axes.grid(alpha=0.3)


def _decisions(axes: Any, figures: Figures) -> None:
    _lines(axes, figures, lambda row: row["decisions_per_s"]["median"])
    rows = figures["vector"]["rows"]
    cartpole = max(row["cartpole_steps_per_s"]["median"] for row in rows)
    axes.axhline(cartpole, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("one CartPole", (0.02, cartpole), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    for name, (marker, colour) in OTHERS.items():
        points = [
            (row["num_envs"], row["steps_per_s"]["median"])
            for row in figures.get("cartpole", {}).get("rows", ())
            if row["name"] == name and row["threads"] == 1
        ]
        if points:
            sizes, rates = zip(*points, strict=True)
            axes.scatter(sizes, rates, marker=marker, s=22, color=colour, label=f"CartPole, {name}", zorder=3)
    axes.set_yscale("log")
    axes.set_title("Decisions per second (CartPole: steps)", loc="left")
    axes.legend(frameon=False, fontsize=7, loc="upper left", handlelength=3.2)
    axes.set_ylim(top=30 * axes.get_ylim()[1])


def _requests(axes: Any, figures: Figures) -> None:
    _lines(axes, figures, lambda row: row["over_lru" if row["bank"] else "over_lru_with_generation"])
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(0.6, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("promised", (0.02, 0.6), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    axes.set_ylim(0, 1.45)
    axes.set_title("Requests/s over whole LRU episodes (fresh: generated too)", loc="left")
    axes.legend(frameon=False, fontsize=7, loc="upper right", ncols=2, handlelength=3.2)


def _shares(axes: Any, figures: Figures) -> None:
    rows = figures["shares"]["rows"]
    colours = (BLUE, ORANGE, GREEN, SKY, RED, PINK, GREY)
    labels = [f"{row['num_envs']:,}\n{'fresh' if row['bank'] is None else 'bank'}" for row in rows]
    bottom = [0.0] * len(rows)
    for part, colour in zip(rows[0]["us"], colours, strict=False):
        heights = [row["us"][part] for row in rows]
        axes.bar(labels, heights, 0.6, bottom=bottom, color=colour, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xlabel("environments")
    axes.set_ylabel("us per decision")
    axes.set_title("Where the time goes", loc="left")
    axes.set_xlim(-0.5, 2.2 * len(rows))
    axes.legend(frameon=False, fontsize=7, loc="center right", reverse=True)


def _growth(axes: Any, figures: Figures) -> None:
    for (name, series), colour in zip(figures["growth"].items(), (BLUE, ORANGE, GREEN, RED), strict=True):
        times = [point["step_us"] for point in series["points"]]
        factors = [2**place for place in range(len(times))]
        label = f"{name}: exponent {series['exponents']['step_us']:.2f}"
        axes.plot(factors, times, marker="o", color=colour, label=label, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(factors, [f"{factor}x" for factor in factors])
    axes.set_xlabel("size of the fleet")
    axes.set_ylabel("us per decision")
    axes.set_title("Growth", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)


def _long(axes: Any, figures: Figures) -> None:
    run = figures["long"]
    axes.plot([played / 1e6 for played in run["at_decision"]], run["resident_mb"], color=BLUE)
    axes.set_ylim(0, 1.3 * max(run["resident_mb"]))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("million decisions")
    axes.set_ylabel("resident memory [MB]")
    axes.set_title(f"Memory of {run['num_envs']} environments", loc="left")
    axes.grid(alpha=0.3)


PANELS: Final[dict[str, Callable[[Any, Figures], None]]] = {"shares": _shares, "growth": _growth, "long": _long}
