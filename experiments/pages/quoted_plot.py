"""A picture of every reading of the quoted formula, by what it does to whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib

from cace_env.files import save_figure

matplotlib.use("Agg")  # draws into files, so no screen is needed

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from cace_env.policies.quoted import QUOTED
from experiments.reading.style import STYLE

Place = tuple[float, float]  # TTFT of all requests, and of completions: better than LRU's by so much [%]

COLOURS: Final = {"queue": "#0072B2", "forecast": "#D55E00", "future": "#CC79A7"}
LARGE: Final = 0.001  # a weight of outputs that is drawn with a large mark
LOW, HIGH = -48.0, 27.0  # ends of the axes [%]
LOWEST: Final = -65.0  # lower end of that of completions [%]


def draw(readings: Mapping[str, Place], others: Mapping[str, Place], path: Path) -> None:
    """A mark for each reading, a star for each other policy; where both claims hold is shaded."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
        axes.fill_between([0, HIGH], [0, HIGH], HIGH, color="#009E73", alpha=0.12, linewidth=0)
        axes.plot([LOW, HIGH], [LOW, HIGH], color="black", linewidth=0.6, linestyle=":")
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axvline(0, color="black", linewidth=0.6)
        for name, place in readings.items():
            axes.plot(*place, linestyle="", alpha=0.9, **look(name))
        for name, place in others.items():
            axes.plot(*place, "*", color="black", markersize=9)
            axes.annotate(name, place, (6, -3), textcoords="offset points", fontsize=8)
        axes.annotate("LRU", (0, 0), (4, -11), textcoords="offset points", fontsize=8)
        axes.text(0.5, HIGH - 0.6, "both better than LRU,\ncompletions more so", va="top", fontsize=8)
        axes.set(xlim=(LOW, HIGH), ylim=(LOWEST, HIGH), xlabel="TTFT of all requests: better than LRU's by [%]")
        axes.set_ylabel("TTFT of completions: better than LRU's by [%]")
        figure.legend(handles=legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        path.parent.mkdir(exist_ok=True)
        save_figure(figure, path, dpi=120)
        plt.close(figure)


def look(reading: str) -> dict[str, Any]:
    """How the mark of a reading is drawn: colour by what is upcoming, face by direction, shape and size by w_1."""
    options = QUOTED[reading]
    weight, colour = options.output_weight, COLOURS[options.upcoming]
    return {
        "color": colour,
        "markerfacecolor": colour if options.evicts == "highest" else "white",
        "marker": "o" if weight == 0 else "^" if weight > 0 else "v",
        "markersize": 8 if weight == 0 or abs(weight) >= LARGE else 5,
    }


def legend() -> list[Any]:
    """What marks mean."""
    marks = [(f"i from the {name}", "o", colour, colour, 7) for name, colour in COLOURS.items()]
    marks += [("evicts the highest", "o", "black", "black", 7), ("evicts the lowest", "o", "black", "white", 7)]
    marks += [
        ("w_1 > 0", "^", "grey", "grey", 7),
        ("w_1 = 0", "o", "grey", "grey", 7),
        ("w_1 < 0", "v", "grey", "grey", 7),
    ]
    marks += [("small: w_1 of 0.0001, not 0.001", "^", "grey", "grey", 4)]
    return [
        Line2D([], [], linestyle="", marker=marker, color=edge, markerfacecolor=face, markersize=size, label=label)
        for label, marker, edge, face, size in marks
    ]
