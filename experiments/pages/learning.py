"""Tables and pictures of the learning curves, from the run folder of `experiments.learning_curves`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib
import numpy as np

from cace_env.config import read_json
from cace_env.files import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import evaluate, load_suite
from cace_env.evaluation.held_out import training_scenarios, validation_seeds
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.evaluation.suite import TINY
from cace_env.scenarios import FOR_DEBUGGING, Scenario
from cace_env.tables import FloatArray, Protocol
from experiments.reading.markdown import table
from experiments.reading.style import GROUP_COLOURS, STYLE
from experiments.running.reference_cache import cached_reference, default_folder
from experiments.running.reference_rows import DEFAULTS
from experiments.training.rungs import ABOUT, AGENTS, RIVALS, RUNGS

LINES: Final = {"LRU": "#000000", "CACE": GROUP_COLOURS["CACE"], "tuned CACE": "#8c4a1f", REFERENCE: "#8A6D00"}
LOWEST: Final = -25.0  # in pictures [%]: agents that have learned nothing may be far below


class Curves(NamedTuple):
    """All runs of an algorithm on a rung: `R` runs, `E` evaluations."""

    step: FloatArray  # (E,) decisions
    learned_s: FloatArray  # (R, E) seconds of training, evaluations left out
    saved: FloatArray  # (R, E, RIVALS) cost saved against each [%]


def curves_of(paths: Iterable[Path]) -> Curves:
    """Reads runs that were evaluated at the same decisions; of those that were not, what all have in common."""
    runs = [np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) for path in paths]
    steps = sorted(set.intersection(*(set(run[:, 0]) for run in runs)))
    rows = np.stack([run[np.isin(run[:, 0], steps)] for run in runs])  # (R, E, COLUMNS)
    return Curves(rows[0, :, 0], rows[:, :, 1], rows[:, :, 2:])


@functools.cache
def level_lines(rung: str, seeds: range) -> dict[str, float]:
    """What the rivals and the reference save against LRU on a rung [%], mean over its scenarios."""
    names = {"CACE": "cace", "tuned CACE": "cace:tuned-eviction"}
    saved: dict[str, list[float]] = {name: [] for name in LINES}
    for scenario in training_scenarios(rung, Protocol.EVICTION).values():
        lru = evaluate(BASELINE, scenario, seeds).column("cost").sum()
        saved["LRU"].append(0.0)
        for name, policy in names.items():
            saved[name].append(100 * (1 - evaluate(policy, scenario, seeds).column("cost").sum() / lru))
        saved[REFERENCE].append(100 * (1 - reference_cost(scenario, seeds) / lru))
    return {name: float(np.mean(values)) for name, values in saved.items()}


def reference_cost(scenario: Scenario, seeds: Sequence[int]) -> float:
    """What the reference costs on all seeds; of the scenario tiny, the optimum that ships."""
    case = case_of(scenario)
    results = published(TINY)
    if case.name in FOR_DEBUGGING and results is not None:
        return float(results.column(load_suite(TINY).entries[0].id, REFERENCE, seeds).sum())
    folder = default_folder()
    return sum(cached_reference(folder, case, case.workload(seed), seed, DEFAULTS)[0].cost for seed in seeds)


def draw(rung: str, curves: Mapping[str, Curves], lines: Mapping[str, float], path: Path) -> None:
    """Mean of the runs of each algorithm, and the band from the worst to the best."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
        for name, found in curves.items():
            saved, colour = found.saved[:, :, 0], AGENTS[name].colour
            axes.fill_between(
                found.step / 1e3, saved.min(axis=0), saved.max(axis=0), color=colour, alpha=0.18, linewidth=0
            )
            axes.plot(found.step / 1e3, saved.mean(axis=0), color=colour, linewidth=1.6, label=name)
        for number, (name, level) in enumerate(lines.items()):
            axes.axhline(level, color=LINES[name], linewidth=0.9, linestyle="-" if name == "LRU" else "--")
            axes.annotate(
                f"{name} {level:+.1f}", (1 - 0.16 * (number % 2), level), (-3, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=7, color=LINES[name],
            )  # fmt: skip
        low = min([0.0, *lines.values(), *(found.saved[:, :, 0].min() for found in curves.values())])
        axes.set_ylim(max(low, LOWEST) - 1.5, max(lines.values()) + 2.0)
        axes.set(xlabel="decisions [thousands]", ylabel="cost saved against LRU [%]", title=rung)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=len(curves), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path, dpi=120)
        plt.close(figure)


def result_table(curves: Mapping[str, Curves]) -> str:
    """When each rival is beaten, and what is saved at the end."""
    rows = []
    for name, found in curves.items():
        cells = [when(found, rival) for rival in range(len(RIVALS))]
        trained = f"{found.step[-1]:,.0f} in {np.median(found.learned_s[:, -1]):,.0f} s"
        rows.append([name, *cells, trained, mean_and_range(found.saved[:, -1, 0])])
    header = ("algorithm", *(f"beats {name} after" for name in RIVALS.values()), "trained", "saved against LRU")
    return table(header, rows)


def test_table(out: Path, rung: str) -> str:
    """What the agents at the end of training save on the test seeds, and in how many runs that is for sure.

    A mean over the scenarios of a rung; for sure is what has an interval above 0 on every one of them.
    """
    rows = []
    for agent in AGENTS:
        runs = [read_json(path) for path in sorted(out.glob(f"{rung}--{agent}--*.json"))]
        cells = []
        for rival in RIVALS if runs else ():
            gains = np.array([[each[rival] for each in run.values()] for run in runs])  # (runs, scenarios, 3)
            sure = int((gains[:, :, 1] > 0).all(axis=1).sum())
            cells.append(f"{mean_and_range(gains[:, :, 0].mean(axis=1))}, sure in {sure} of {len(runs)}")
        if cells:
            rows.append([agent, *cells])
    return table(("algorithm", *(f"saved against {name}" for name in RIVALS.values())), rows)


def mean_and_range(saved: FloatArray) -> str:
    """What the runs `(R,)` save [%]: mean (worst to best)."""
    return f"{saved.mean():+.1f} % ({saved.min():+.1f} to {saved.max():+.1f})"


def when(found: Curves, rival: int) -> str:
    """Decisions and seconds until a rival is beaten for good, in the median run; in how many runs it is."""
    ahead = found.saved[:, :, rival] > 0
    stays = np.logical_and.accumulate(ahead[:, ::-1], axis=1)[:, ::-1]
    runs, count = stays.any(axis=1), len(found.saved)
    if not runs.any():
        return f"0 of {count} runs"
    first = stays.argmax(axis=1)[runs]
    seconds = found.learned_s[runs, first]
    return f"{np.median(found.step[first]):,.0f} ({np.median(seconds):,.0f} s), {runs.sum()} of {count} runs"


def regions(out: Path) -> dict[str, str]:
    """Regions of `docs/learning-curves.md`: one for each rung on which anything ran.

    Raises:
        ConfigError: nothing has run in the folder.
    """
    texts = {}
    for rung, curves in all_curves(out).items():
        judged = judged_by(out, rung)
        lines = level_lines(rung, judged)
        levels = ", ".join(f"{name} {level:+.1f} %" for name, level in lines.items() if name != "LRU")
        parts = [
            f"Saved against LRU on {len(judged)} validation seeds: {levels}.",
            f"![Learning curves on {rung}](images/learning-{rung}.png)",
            result_table(curves),
            "Agents as they are at the end of training, on the 100 test seeds: mean over runs (worst to best), and in "
            "how many runs the 95 % paired interval is above 0"
            + (" on every scenario." if len(training_scenarios(rung, Protocol.EVICTION)) > 1 else "."),
            test_table(out, rung),
        ]
        texts[f"rung-{rung}"] = "\n\n".join(parts)
    return texts


def draw_all(out: Path, images: Path) -> None:
    """Writes a picture for each rung on which anything ran."""
    for rung, curves in all_curves(out).items():
        draw(rung, curves, level_lines(rung, judged_by(out, rung)), images / f"learning-{rung}.png")


def all_curves(out: Path) -> dict[str, dict[str, Curves]]:
    """The runs of a folder, by rung and algorithm.

    Raises:
        ConfigError: it holds none.
    """
    found = {rung: curves for rung in RUNGS if (curves := found_in(out, rung))}
    if not found:
        raise ConfigError(f"{out} holds no finished run; python -m experiments.learning_curves makes them")
    return found


def judged_by(out: Path, rung: str) -> range:
    """The validation seeds of the evaluations on a rung."""
    about = read_json(out / ABOUT)
    return validation_seeds(about[rung]["validation_seeds"])


def found_in(out: Path, rung: str) -> dict[str, Curves]:
    """The runs of a folder on a rung, by algorithm."""
    files = {agent: sorted(out.glob(f"{rung}--{agent}--*.csv")) for agent in AGENTS}
    return {agent: curves_of(paths) for agent, paths in files.items() if paths}
