"""The pictures of the suite's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

from cace_env.files import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from cace_env.evaluation.scores import BASELINE, REFERENCE, SuiteScores
from cace_env.evaluation.suite import MemorySweep
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.style import GROUP_COLOURS, STYLE
from experiments.reading.suite_scores import SuiteRun

FURTHEST: Final = -60.0  # scores below stand at the edge, as an arrow with their number
ALONG_MEMORY: Final = (BASELINE, "cace", "patient-wsjf+cace", REFERENCE, NO_SWAPPING)  # those that ran


def draw_scores(suite: SuiteRun, env: Protocol, scores: SuiteScores, path: Path) -> None:
    """Interquartile mean and interval of every policy, the best on top, with its score on each entry behind."""
    policies = [policy for policy in suite.ranking(scores) if np.isfinite(scores.means[policy].value)][::-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.4 + 0.21 * len(policies)), layout="constrained")
        for y, policy in enumerate(policies):
            colour = _colour(suite, policy)
            there = [s.value for name, s in scores.scores[policy].items() if name not in scores.left_out]
            axes.plot(np.maximum(there, FURTHEST), [y] * len(there), "|", color=colour, alpha=0.45, markersize=7)
            value, low, high = scores.means[policy]
            if value < FURTHEST:
                axes.plot(FURTHEST, y, "<", color=colour, markersize=6)
                axes.annotate(
                    f"{value:.0f}", (FURTHEST, y), (8, 0), textcoords="offset points", fontsize=7, va="center"
                )
                continue
            axes.plot([max(low, FURTHEST), high], [y, y], color=colour, linewidth=2.2)
            axes.plot(value, y, "o", color=colour, markersize=6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(policies)), policies)
        axes.set_ylim(-0.7, len(policies) - 0.3)
        axes.set_xlim(FURTHEST - 3, 105)
        axes.grid(axis="x", alpha=0.3)
        axes.set(xlabel="score: 0 = LRU, 100 = clairvoyant reference; ticks: single scenarios", title=env.env_name)
        groups = [g for g in GROUP_COLOURS if any(suite.run.group(policy) == g for policy in policies)]
        handles = [Line2D([], [], marker="o", linestyle="", color=GROUP_COLOURS[g], label=g.lower()) for g in groups]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False, fontsize=8)
        _save(figure, path)


def draw_memory(suite: SuiteRun, sweeps: Sequence[MemorySweep], path: Path) -> None:
    """Cost along the memory sweeps, and what there is to gain; a row of two panels for each sweep."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(sweeps), 2, figsize=(9, 0.6 + 3.1 * len(sweeps)), layout="constrained", squeeze=False
        )
        for (left, right), sweep in zip(panels, sweeps, strict=True):
            x = [100 * fraction for fraction in sweep.fractions]
            names = [entry.id for entry in sweep.entries()]
            for policy in ALONG_MEMORY:
                if not all(policy in suite.run.policies(name) for name in names):
                    continue
                y = [suite.cost_per_request(name, policy) for name in names]
                style = ":" if policy == NO_SWAPPING else "--" if policy == REFERENCE else "-"
                left.plot(x, y, style, marker="o", markersize=4, color=_colour(suite, policy), label=policy)
            left.set(yscale="log", ylabel="cost per request", title=f"{sweep.env.env_name}, {sweep.id}")
            for ticks in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
                ticks(FuncFormatter(lambda value, _: f"{value:g}"))
            left.tick_params(axis="y", which="both", labelsize=7)
            scores = suite.sweep_scores(sweep)
            gains = {REFERENCE: [scores.headroom[name] for name in names]}
            for policy in ALONG_MEMORY[1:3]:
                if all(policy in suite.run.policies(name) for name in names):
                    gains[policy] = [suite.run.gain(name, policy) for name in names]
            for policy, rows in gains.items():
                colour = _colour(suite, policy)
                right.plot(x, [g.percent for g in rows], "o-", markersize=4, color=colour, label=policy)
                right.fill_between(x, [g.low for g in rows], [g.high for g in rows], color=colour, alpha=0.2)
            right.axhline(0, color="black", linewidth=0.8)
            right.set(ylabel="cost saved against LRU [%]")
            for axes in (left, right):
                axes.set_xlabel("memory, of the weights of all models [%]")
                axes.grid(alpha=0.3)
                axes.legend(frameon=False, fontsize=8)
        _save(figure, path)


def _colour(suite: SuiteRun, policy: str) -> str:
    return "#000000" if policy == BASELINE else GROUP_COLOURS[suite.run.group(policy)]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=130)
    plt.close(figure)
