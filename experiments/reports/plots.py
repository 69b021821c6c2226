"""The pictures of a comparison, drawn from its run folder; colours that the colour-blind tell apart (Okabe and Ito)."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from cace_env.files import save_figure
from experiments.reading.style import GROUP_COLOURS, STYLE

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from cace_env.policies.agent import LEARNED
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.simulation.metrics import TTFT_EDGES_S
from cace_env.tables import TASKS
from experiments.reports.decisions import draw_decision
from experiments.reports.timelines import draw_timeline
from experiments.running.contestants import ORDERED
from experiments.running.run_folder import BASELINE, Run

DPI: Final = 120
SEVERAL: Final = 4  # parts to draw, from which on several processes pay
OWN_STYLES: Final = ("-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
FAR: Final = 1.5  # times the median: outside the picture of evictions


def draw(run: Run) -> Iterator[tuple[str, list[tuple[str, Path]]]]:
    """Every scenario ("" = all of them) as it is drawn: names of its pictures, with paths within the folder.

    Many are drawn by several processes, because Matplotlib uses one core; but not below a script, which each of them
    would run again if it has no `if __name__ == "__main__"`.
    """
    (run.path / "plots").mkdir(exist_ok=True)
    scenarios = [*([""] if len(run.scenarios) > 1 else []), *run.scenarios]
    command = getattr(sys.modules["__main__"], "__spec__", None) is not None  # python -m
    if len(scenarios) < SEVERAL or (os.cpu_count() or 1) == 1 or not command:
        for scenario in scenarios:
            yield scenario, list(draw_scenario(run, scenario))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_reads, initargs=(run.path,)) as pool:
        try:
            yield from zip(scenarios, pool.map(_drawn, scenarios), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def draw_scenario(run: Run, scenario: str) -> Iterator[tuple[str, Path]]:
    """The pictures of a scenario ("" = of all of them) by name."""
    plots: dict[str, Callable[[Run, str], Any]] = {
        "gain": _gains,
        "ttft": _ttft,
        "evictions": _evictions,
        "timeline": draw_timeline,
        "decision": draw_decision,
    }
    if not scenario:
        plots = {"overview": lambda run, _: _overview(run)}
    with plt.rc_context(STYLE):
        for name, plot in plots.items():
            figure = plot(run, scenario)
            if figure is not None:
                path = Path("plots") / (f"{scenario}-{name}.png" if scenario else f"{name}.png")
                figure.set_dpi(DPI)
                figure.get_layout_engine().execute(figure)
                figure.set_layout_engine("none")  # Matplotlib would draw all twice for it
                save_figure(figure, run.path / path, dpi=DPI)
                plt.close(figure)
                yield name, path


_run: list[Run] = []  # of a process that draws


def _reads(path: Path) -> None:
    _run[:] = [Run(path)]


def _drawn(scenario: str) -> list[tuple[str, Path]]:
    return list(draw_scenario(_run[0], scenario))


def notable(run: Run, scenario: str) -> list[str]:
    """The baseline, CACE, the cheapest rule of each kind, own and learned policies: few enough for lines and labels."""
    groups = ("Deployed", "Proposed", "Caching", "Forecast", ORDERED, "Clairvoyant", "Reference")
    best = [run.cheapest(scenario, group) for group in groups]
    wanted = {BASELINE, "cace", *best, NO_SWAPPING}
    return [p for p in run.policies(scenario) if p in wanted or run.group(p) in (LEARNED, "Your own")]


def _colour(run: Run, policy: str) -> str:
    return "#000000" if policy == BASELINE else GROUP_COLOURS[run.group(policy)]


def _overview(run: Run) -> Any:
    """Gain over the baseline by scenario: CACE, the best agent, the cheapest deployed, caching and clairvoyant rule."""
    scenarios = run.scenarios
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.7 * len(scenarios)), layout="constrained")
    series = [
        ("CACE", "o", "CACE"),
        ("Deployed", "s", "cheapest deployed rule"),
        ("Caching", "^", "cheapest caching rule"),
        ("Clairvoyant", "D", "cheapest clairvoyant rule"),
        (LEARNED, "*", "best learned policy"),
    ]
    series = [row for row in series if row[0] != LEARNED or any(run.cheapest(s, LEARNED) for s in scenarios)]
    for offset, (group, marker, label) in zip(np.linspace(-0.3, 0.3, len(series)), series, strict=True):
        shown = False
        for y, scenario in enumerate(scenarios):
            policy = "cace" if group == "CACE" else run.cheapest(scenario, group)
            if policy is None or policy not in run.policies(scenario):
                continue
            gain, colour = run.gain(scenario, policy), GROUP_COLOURS[group]
            if np.isnan(gain.percent):
                continue
            axes.plot([gain.low, gain.high], [y + offset] * 2, color=colour, linewidth=1.6)
            face = "white" if group == "Clairvoyant" else colour
            name = None if shown else label
            axes.plot(gain.percent, y + offset, marker, color=colour, markerfacecolor=face, markersize=6, label=name)
            shown = True
            if policy != "cace":
                place = gain.percent if np.isnan(gain.high) else gain.high, y + offset
                axes.annotate(
                    policy, place, (5, 0), textcoords="offset points", fontsize=6.5, va="center", color=colour
                )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(scenarios)), scenarios)
    axes.set_ylim(len(scenarios) - 0.45, -0.55)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("cost less than LRU's [%], 95 % interval; right of 0 is better than LRU")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _gains(run: Run, scenario: str) -> Any:
    """Gain over the baseline of every policy, the best on top."""
    policies = [policy for policy in run.policies(scenario) if policy not in (BASELINE, NO_SWAPPING)]
    gains = {policy: run.gain(scenario, policy) for policy in policies}
    policies = sorted((p for p in policies if np.isfinite(gains[p].percent)), key=lambda p: gains[p].percent)
    if not policies:
        return None
    best = max(max(gains[p].percent, gains[p].high if np.isfinite(gains[p].high) else 0.0) for p in policies)
    left = max(
        min(gains[p].low if np.isfinite(gains[p].low) else gains[p].percent for p in policies), -max(30.0, 1.5 * best)
    )
    figure, axes = plt.subplots(figsize=(8, 1.3 + 0.21 * len(policies)), layout="constrained")
    axes.axvline(0, color="black", linewidth=0.8)
    for y, policy in enumerate(policies):
        gain, colour = gains[policy], GROUP_COLOURS[run.group(policy)]
        if gain.percent < left:  # a rule that is much worse must not squeeze all others into one line
            axes.plot(left, y, "<", color=colour, markersize=5)
            axes.annotate(
                f"{gain.percent:.0f} %", (left, y), (6, 0), textcoords="offset points", fontsize=7, va="center"
            )
            continue
        face = "white" if run.group(policy) == "Clairvoyant" else colour
        axes.plot([max(gain.low, left), gain.high], [y, y], color=colour, linewidth=1.6)
        marker, size = ("*", 9) if run.group(policy) == LEARNED else ("o", 5)
        axes.plot(gain.percent, y, marker, color=colour, markerfacecolor=face, markersize=size)
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(-0.7, len(policies) - 0.3)
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="cost less than LRU's [%], 95 % interval; right of 0 is better than LRU", title=scenario)
    _group_legend(figure, run, policies)
    return figure


def _group_legend(figure: Any, run: Run, policies: Sequence[str]) -> None:
    groups = [group for group in GROUP_COLOURS if any(run.group(policy) == group for policy in policies)]
    handles = [
        Line2D(
            [], [], marker="o", linestyle="", color=GROUP_COLOURS[group],
            markerfacecolor="white" if group == "Clairvoyant" else GROUP_COLOURS[group],
            label=group.lower() if group not in ("CACE",) else "CACE and ablations",
        )
        for group in groups
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(groups), 5), frameon=False, fontsize=8)


def _ttft(run: Run, scenario: str) -> Any:
    """Share of requests with their first token within a time, by task."""
    tasks = [task for task in TASKS if (scenario, BASELINE, task) in run.ttft]
    if not tasks:
        return None
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(1.5 + 2.8 * len(tasks), 3.6), layout="constrained", sharey=True, squeeze=False
    )
    weights = run.about["scenarios"][scenario]["weights"]
    policies = notable(run, scenario)
    own = [policy for policy in policies if run.group(policy) == "Your own"]
    for axes, task in zip(panels[0], tasks, strict=True):
        low, high = 1.0, 1.0
        for policy in policies:
            counts = run.ttft.get((scenario, policy, task))
            if counts is None:
                continue
            share = np.cumsum(counts) / counts.sum()
            style: Any = ":" if policy == NO_SWAPPING else "--" if run.group(policy) == "Clairvoyant" else "-"
            if run.group(policy) == "Your own":
                style = OWN_STYLES[own.index(policy) % len(OWN_STYLES)]
            width = 2.0 if policy in (BASELINE, "cace") or run.group(policy) == LEARNED else 1.3
            axes.plot(
                TTFT_EDGES_S[1:],
                100 * share,
                linestyle=style,
                color=_colour(run, policy),
                linewidth=width,
                label=policy,
            )
            low = min(low, float(TTFT_EDGES_S[np.argmax(share > 0.005)]))
            high = max(high, float(TTFT_EDGES_S[min(int(np.argmax(share > 0.998)) + 2, len(TTFT_EDGES_S) - 1)]))
        slo_s = weights[task]["slo_s"]
        if slo_s is not None and weights[task]["slo_on"] == "ttft":
            axes.axvline(slo_s, color="#555555", linewidth=0.8)
            axes.annotate(
                f"SLO {slo_s:g} s", (slo_s, 0), (3, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                rotation=90, va="bottom", fontsize=7, color="#555555",
            )  # fmt: skip
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 101), title=task, xlabel="time to first token [s]")
        axes.grid(alpha=0.3)
    figure.suptitle(scenario, fontsize=10)
    panels[0][0].set_ylabel("answered within [% of requests]")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 4 if len(tasks) < 3 else 7), frameon=False
    )
    return figure


def _evictions(run: Run, scenario: str) -> Any:
    """Evictions per 1,000 requests against the mean time to first token; one point per policy."""
    policies = [policy for policy in run.policies(scenario) if policy != NO_SWAPPING]
    policies = [policy for policy in policies if np.isfinite(run.mean(scenario, policy, "ttft_mean_s"))]
    if not policies:
        return None
    x = {p: 1000 * run.mean(scenario, p, "evictions") / run.mean(scenario, p, "requests") for p in policies}
    y = {p: run.mean(scenario, p, "ttft_mean_s") for p in policies}
    # A rule that is much worse must not squeeze all others into one spot: it is named in a corner instead.
    far = [p for p in policies if x[p] > FAR * np.median([*x.values()]) or y[p] > FAR * np.median([*y.values()])]
    near = [policy for policy in policies if policy not in far]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for policy in near:
        colour = _colour(run, policy)
        face = "white" if run.group(policy) == "Clairvoyant" else colour
        marker, size = ("*", 13) if policy in (BASELINE, "cace") or run.group(policy) == LEARNED else ("o", 6)
        axes.plot(x[policy], y[policy], marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)
    axes.set(xlabel="evictions per 1,000 requests", ylabel="mean time to first token [s]", title=scenario)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    if far:
        lines = ["outside:"] + [f"{policy} ({x[policy]:.0f}, {y[policy]:.3g} s)" for policy in far]
        axes.annotate(
            "\n".join(lines), (1, 0), (-4, 4), xycoords="axes fraction", textcoords="offset points", ha="right",
            va="bottom", fontsize=7, color="#444444",
        )  # fmt: skip
    _group_legend(figure, run, near)
    _label_points(figure, axes, {p: x[p] for p in near}, {p: y[p] for p in near})
    return figure


def _label_points(figure: Any, axes: Any, x: dict[str, float], y: dict[str, float]) -> None:
    """Names beside the points, each where it covers no other name and no point; those without room stay unnamed."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    points = [axes.transData.transform((x[name], y[name])) for name in x]
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in points]
    taken += [text.get_window_extent(renderer).extents for text in axes.texts]
    frame = axes.get_window_extent(renderer).extents
    directions = (
        (1, 0),
        (-1, 0),
        (1, 0.7),
        (-1, 0.7),
        (1, -0.7),
        (-1, -0.7),
        (0.3, 1),
        (-0.3, 1),
        (0.3, -1),
        (-0.3, -1),
    )
    places = [(radius * dx, radius * dy) for radius in (8, 15, 24, 36, 50) for dx, dy in directions]
    for name in sorted(x, key=lambda name: (name not in (BASELINE, "cace"), name)):
        for dx, dy in places:
            text = axes.annotate(
                name, (x[name], y[name]), (dx, dy), textcoords="offset points", fontsize=7, va="center",
                ha="left" if dx > 0 else "right", fontweight="bold" if name in (BASELINE, "cace") else "normal",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 3},
            )  # fmt: skip
            text.update_positions(renderer)
            left, low, right, high = matplotlib.text.Text.get_window_extent(text, renderer).extents
            box = (left - 1, low, right + 1, high)
            inside = frame[0] <= left and right <= frame[2] and frame[1] <= low and high <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
