"""The learning curve of a training, from the `metrics.csv` that `EvaluationCallback` writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cace_env.config import ConfigError
from cace_env.evaluation.tracking import STEP
from cace_env.files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS: Final = "metrics.csv"
SAVED: Final = "eval/saved_vs_lru"
RIVAL: Final = ("rivals/", "_saved_vs_lru")  # around a rival's name
AGENT_COLOUR: Final = "#882255"
RIVAL_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")


def plot_learning_curve(
    metrics: str | Path | Sequence[Mapping[str, Any]], path: str | Path | None = None, *, title: str = ""
) -> Figure:
    """Plot the agent's savings over LRU against training decisions, with those of its rivals.

    Args:
        metrics: the folder of a training, its `metrics.csv`, or its rows (`EvaluationCallback.rows`).
        path: where to write the picture; None = do not write.
        title: title of the plot.

    Returns:
        The figure, which a notebook shows.

    Raises:
        ConfigError: there is no such file, or it has no evaluations.
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('learning curves need matplotlib; pip install "cace-env[learn]"') from error
    rows = _read(Path(metrics)) if isinstance(metrics, str | Path) else list(metrics)
    if not rows or SAVED not in rows[0]:
        raise ConfigError("there are no evaluations to plot; train with an EvaluationCallback")
    steps = [float(row[STEP]) / 1e3 for row in rows]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0.0, color="black", linewidth=1, label="LRU")
    names = [name.removeprefix(RIVAL[0]).removesuffix(RIVAL[1]) for name in rows[0] if name.startswith(RIVAL[0])]
    rivals = [name for name in names if name != "lru"]
    for name, colour in zip(rivals, RIVAL_COLOURS * len(rivals), strict=False):
        level = float(rows[-1][name.join(RIVAL)])
        axes.axhline(level, color=colour, linewidth=1.5, linestyle="--", label=label_of(name))
    saved = [float(row[SAVED]) for row in rows]
    axes.plot(steps, saved, color=AGENT_COLOUR, marker="o", markersize=3, label="agent")
    axes.set(xlabel="decisions [thousands]", ylabel="cost saved against LRU,\non validation seeds [%]", title=title)
    if max(saved) > 0:  # an agent that has not learned yet is far below; what comes after is what one looks for
        axes.set_ylim(bottom=max(min(*saved, 0.0), -max(saved)) - 0.5)
    axes.legend(frameon=False, fontsize=8)
    if path is not None:
        save_figure(figure, Path(path), dpi=150)
    return figure


def label_of(name: str) -> str:
    """Label of a rival: `tuned_cace` is "tuned CACE"."""
    return name.replace("_", " ").replace("cace", "CACE").replace("lru", "LRU")


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table of evaluations."""
    file = path / METRICS if path.is_dir() else path
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [dict(row) for row in csv.DictReader(lines)]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); give the folder of a training") from error
