"""The page of the forecasters: their errors beside what each is worth, on the suite and on public logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import MOST_THREADS, ConfigError, Frozen
from cace_env.evaluation import Gain, load_suite, suite_scores
from cace_env.evaluation.episodes import collect, in_order, run_seed
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE, Estimate, pooled_gain
from cace_env.files import save_figure
from cace_env.forecasting import FORECASTERS
from cace_env.policies import contestant_of
from cace_env.scenarios import seeds
from cace_env.tables import FloatArray, Protocol
from experiments.logs import public
from experiments.logs.forecast_scores import (
    HORIZONS_S,
    OWN,
    TRUTH,
    WEIGHTS,
    Answers,
    Quality,
    answers,
    contestants,
    costs,
    quality,
)
from experiments.reading.markdown import percent, score_text, table
from experiments.running.command_line import split_names
from experiments.running.progress import progress_bar

LOGS: Final[tuple[str, ...]] = ("azure-code", "gentd26", "claude-code", "servegen-busy")
BEST: Final = "survival"  # that the others are held against
PICTURE: Final = "forecasts.png"
SHOWN: Final = 300  # horizon of the picture [s], as far as CACE's factor looks ahead


class Score(Frozen):
    """Score every forecaster, and CACE with each of them, on test seeds of the suite and on public logs."""

    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = Field(
        default=(), description="of Eviction-v0 in suite v1; all by default"
    )
    seeds: int = Field(default=8, ge=1, description="test seeds of each entry")
    logs: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = Field(
        default=None, description="where the public logs of docs/traces.md are; none by default"
    )
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads")
    write: bool = Field(default=False, description="fill docs/forecasts.md and draw its picture")

    def run(self, console: Console) -> tuple[dict[str, str], Mapping[str, Played]]:
        """Plays and prints; the tables of the page by region, and the episodes of the suite for its picture.

        Raises:
            ConfigError: an unknown entry, or no public log in the folder.
        """
        suite = load_suite("v1")
        names = split_names(self.entries) or list(suite.cases(Protocol.EVICTION))
        generated = played({name: suite.entry(name).case() for name in names}, list(seeds("test", self.seeds)), self)
        regions = {"errors": errors_table(generated), "worth": worth_table(generated)}
        regions["run"] = f"{self.seeds} test seeds of {len(names)} entries."
        if self.logs is not None:
            found = public.scenarios(self.logs, Protocol.EVICTION)
            cases = {name: case_of(found[name], Protocol.EVICTION) for name in LOGS if name in found}
            if not cases:
                raise ConfigError(f"{self.logs}: none of {', '.join(LOGS)} is there; docs/traces.md has them")
            regions["logs"] = logs_table(cases)
        for text in regions.values():
            console.print(f"\n{text}", soft_wrap=True, highlight=False)
        return regions, generated


@dataclass(frozen=True)
class Played:
    """Some episodes of one case."""

    qualities: Mapping[str, Mapping[int, Quality]]  # by forecaster and horizon, of all episodes together
    costs: Mapping[str, Mapping[str, FloatArray]]  # by weights and forecaster, (episodes,)
    seeds: list[int]


class _Episode(NamedTuple):
    said: Answers
    costs: dict[str, dict[str, float]]


def played(cases: Mapping[str, Case], numbers: list[int], options: Score) -> dict[str, Played]:
    """Plays episodes of all cases, by their name."""
    jobs = [(case, seed) for case in cases.values() for seed in numbers]
    with progress_bar(Console(stderr=True)) as progress:
        found = in_order(lambda job: _episode(*job), jobs, options.workers)
        episodes = list(progress.track(found, total=len(jobs), description="forecasts"))
    return {
        name: _together(episodes[at * len(numbers) : (at + 1) * len(numbers)], numbers) for at, name in enumerate(cases)
    }


def _episode(case: Case, seed: int) -> _Episode:
    workload = case.workload(seed)
    by_weights = {name: costs(case, workload, seed, name) for name in WEIGHTS}
    return _Episode(answers(case, workload, seed), by_weights)


def _together(episodes: Sequence[_Episode], numbers: list[int]) -> Played:
    names = list(episodes[0].said)
    qualities = {
        name: {
            horizon_s: quality([said for episode in episodes for said in episode.said[name][horizon_s]])
            for horizon_s in HORIZONS_S
        }
        for name in names
    }
    by_weights = {
        weights: {name: np.array([episode.costs[weights][name] for episode in episodes]) for name in [OWN, *names]}
        for weights in WEIGHTS
    }
    return Played(qualities, by_weights, numbers)


def mean_quality(found: Mapping[str, Played], name: str, horizon_s: int) -> Quality:
    """Mean over the cases."""
    return Quality(*np.mean([played.qualities[name][horizon_s] for played in found.values()], axis=0).tolist())


def errors_table(found: Mapping[str, Played]) -> str:
    """How good each forecaster is at each horizon, means over the entries."""
    rows = []
    for name in (*FORECASTERS, TRUTH):
        each = [mean_quality(found, name, horizon_s) for horizon_s in HORIZONS_S]
        cells = [f"{q.auc:.3f}" for q in each] + [f"{q.log_score:+.2f}" for q in each]
        rows.append([_shown(name), *cells, *(f"{q.unreliable:.3f}" for q in each)])
    used = [f"{100 * mean_quality(found, TRUTH, horizon_s).used:.0f} %" for horizon_s in HORIZONS_S]
    header = ["forecaster", *(f"{what} {h} s" for what in ("AUC", "log score", "unreliable by") for h in HORIZONS_S)]
    said = ", ".join(f"{share} within {horizon_s} s" for share, horizon_s in zip(used, HORIZONS_S, strict=True))
    return f"{table(header, rows, numbers='right')}\n\nOf the idle models are used: {said}."


class Worth(NamedTuple):
    """Of one forecaster as the demand factor."""

    score: Estimate
    saves: Gain  # of the cost with CACE's own window
    best: Gain  # what `BEST` in its place saves of the cost with it


def worths(found: Mapping[str, Played], weights: str) -> dict[str, Worth]:
    """What each forecaster is worth with some weights, over all entries."""
    shipped = published("v1")
    if shipped is None:
        raise ConfigError("no costs of the reference ship with suite v1")
    names = [OWN, *FORECASTERS, TRUTH]
    by_entry = {
        entry: {name: played.costs[weights][name] for name in names}
        | {name: shipped.column(entry, name, played.seeds) for name in (BASELINE, REFERENCE)}
        for entry, played in found.items()
    }
    scores = suite_scores(by_entry)

    def of(name: str) -> dict[str, FloatArray]:
        return {entry: some[name] for entry, some in by_entry.items()}

    return {
        name: Worth(
            scores.means[name],
            pooled_gain(of(name), of(OWN), of(BASELINE)),
            pooled_gain(of(BEST), of(name), of(BASELINE)),
        )
        for name in names
    }


def worth_table(found: Mapping[str, Played]) -> str:
    """Score and saving of CACE with each forecaster, under both weights; all differences are of the same requests."""
    columns = {weights: worths(found, weights) for weights in WEIGHTS}
    rows = []
    for name in (OWN, *FORECASTERS, TRUTH):
        cells = [f"{mean_quality(found, name, SHOWN).auc:.3f}" if name != OWN else "-"]
        for worth in columns.values():
            cells.append(score_text(worth[name].score))
            cells.append(percent(worth[name].saves) if name != OWN else "-")
            cells.append(percent(worth[name].best) if name != BEST else "-")
        rows.append([_shown(name), *cells])
    header = ["demand factor", f"AUC {SHOWN} s"]
    for policy in WEIGHTS.values():
        header += [f"`{policy}`: score", f"`{policy}`: saves", f"`{policy}`: `{BEST}` saves of it"]
    return table(header, rows, numbers="right")


def logs_table(cases: Mapping[str, Case]) -> str:
    """On logs: how good each forecaster is, and what tuned CACE saves with it; intervals are over windows of the log.

    A log is played whole, once: other seeds would draw what is attached to it again, and are no other time.
    """
    rows = []
    with progress_bar(Console(stderr=True)) as progress:
        for log, case in progress.track(list(cases.items()), description="logs"):
            workload = case.workload(0)
            made = contestants(case, workload, "tuned")
            lru, *each = (collect([result]) for result in run_seed(case, [contestant_of(BASELINE), *made.values()], 0))
            found = dict(zip(made, each, strict=True))
            said = answers(case, workload, 0)
            for name, evaluation in found.items():
                cells = ["-", "-"]
                if name != OWN:
                    known = quality(said[name][SHOWN])
                    cells = [f"{known.auc:.3f}", f"{known.log_score:+.2f}"]
                own = percent(evaluation.gain_over(found[OWN])) if name != OWN else "-"
                rows.append([log if name == OWN else "", _shown(name), *cells, percent(evaluation.gain_over(lru)), own])
    header = ("log", "demand factor", f"AUC {SHOWN} s", f"log score {SHOWN} s", "saves of LRU's cost", f"of {OWN}")
    return table(header, rows, numbers="right")


def _shown(name: str) -> str:
    return f"`{name}`" if name in FORECASTERS else name


class Point(NamedTuple):
    """A forecaster in the picture."""

    policy: str  # whose weights
    name: str
    auc: float  # NaN: CACE's own window, which says no chance
    score: Estimate


def points(found: Mapping[str, Played]) -> list[Point]:
    """All forecasters under both weights."""
    return [
        Point(policy, name, np.nan if name == OWN else mean_quality(found, name, SHOWN).auc, worth.score)
        for weights, policy in WEIGHTS.items()
        for name, worth in worths(found, weights).items()
    ]


def draw(shown: Sequence[Point], path: Path) -> None:
    """Draws points of score against how well a forecaster tells which model is used next."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from experiments.reading.style import GROUP_COLOURS, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        for policy, colour in zip(WEIGHTS.values(), (GROUP_COLOURS["CACE"], "#2E86D1"), strict=True):
            mine = [point for point in shown if point.policy == policy]
            own = next(point.score.value for point in mine if point.name == OWN)
            axes.axhline(own, color=colour, linestyle="--", linewidth=0.9, label=f"{policy}, its own window")
            places: dict[tuple[float, float], list[Point]] = {}  # several may stand at one
            for point in mine:
                if point.name != OWN:
                    error = 1.0 - point.auc
                    axes.plot([error, error], [point.score.low, point.score.high], color=colour, linewidth=1, alpha=0.4)
                    axes.plot(error, point.score.value, "o", color=colour, markersize=5)
                    places.setdefault((round(error, 2), point.score.value // 2), []).append(point)
            for there in places.values():
                at = (1.0 - there[0].auc, there[0].score.value)
                named = ", ".join(point.name for point in there)
                axes.annotate(named, at, (6, 0), textcoords="offset points", fontsize=7, va="center")
        axes.invert_xaxis()
        axes.set(
            xlabel=f"error of the forecast: 1 - AUC of 'used within {SHOWN} s' (better to the right)",
            ylabel="score: 0 = LRU, 100 = reference",
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
        save_figure(figure, path, dpi=120)
        plt.close(figure)
