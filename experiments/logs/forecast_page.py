"""The page of the forecasters: their errors beside what each is worth, on the suite and on public logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import MOST_THREADS, ConfigError, Frozen
from cace_env.evaluation import Gain, load_suite, run_episode, suite_scores
from cace_env.evaluation.episodes import collect, in_order, run_seed
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE, Estimate, pooled_gain
from cace_env.files import save_figure
from cace_env.policies import contestant_of
from cace_env.scenarios import seeds
from cace_env.tables import FloatArray, Protocol
from experiments.logs import public
from experiments.logs.demand_weights import SOURCES, Chosen, all_chosen
from experiments.logs.forecast_scores import (
    HORIZONS_S,
    OWN,
    SHIPPED,
    TRUTH,
    Quality,
    answers,
    makings,
    quality,
    readable,
    with_demand,
)
from experiments.reading.markdown import percent, score_text, table
from experiments.running.command_line import metavar, split_names
from experiments.running.options import Names
from experiments.running.progress import progress_bar

LOGS: Final[tuple[str, ...]] = ("azure-code", "gentd26", "claude-code", "servegen-busy")
TUNED: Final = f"cace:{SHIPPED}"
RIVALS: Final = ("cace", TUNED, "omlx", "agent:eviction")  # on the same requests
PICTURE: Final = "forecasts.png"
SHOWN: Final = 300  # horizon of the picture [s], as far as CACE's factor looks ahead
Costs = dict[str, FloatArray]  # by policy or forecaster, (seeds,)
Qualities = dict[str, dict[int, Quality]]  # by forecaster and horizon


class Score(Frozen):
    """Score every forecaster, and CACE with each of them, on test seeds of the suite and on public logs."""

    entries: Names = Field(default=(), description="of Eviction-v0 in suite v1; all by default")
    seeds: int = Field(default=8, ge=1, description="test seeds of each entry, to play")
    error_seeds: int = Field(default=5, ge=1, description="of these, how many to score forecasts on")
    tuned: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None,
        description=f"what `tune` wrote; forecasters that it did not search weights for have those of {TUNED}",
    )
    logs: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="where the public logs of docs/traces.md are; none by default"
    )
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads")
    write: bool = Field(default=False, description="fill docs/forecasts.md and draw its picture")

    def run(self, console: Console) -> Scored:
        """Plays and prints.

        Raises:
            ConfigError: an unknown entry, no weights for a forecaster, or no public log in the folder.
        """
        suite = load_suite("v1")
        cases = {each.id: each.case() for each in suite.named(split_names(self.entries), Protocol.EVICTION)}
        numbers, weights = list(seeds("test", self.seeds)), all_chosen(self.tuned)
        logs = {} if self.logs is None else logs_in(self.logs)
        qualities = self.qualities(cases, numbers[: self.error_seeds])
        found = worths(self.costs(cases, numbers, weights), numbers)
        regions = {"errors": errors_table(qualities), "worth": worth_table(qualities, found, weights)}
        regions["run"] = (
            f"Errors: {min(self.error_seeds, self.seeds)} test seeds of {len(cases)} entries. Worth: {self.seeds}."
        )
        if logs:
            regions["logs"] = logs_table(logs, weights)
        for text in regions.values():
            console.print(f"\n{text}", soft_wrap=True, highlight=False)
        return Scored(regions, qualities, found)

    def qualities(self, cases: Mapping[str, Case], numbers: Sequence[int]) -> list[Qualities]:
        """How good the forecasts are, of each entry."""
        jobs = [(case, seed) for case in cases.values() for seed in numbers]
        with progress_bar(Console(stderr=True)) as progress:
            every = in_order(lambda job: answers(job[0], job[0].workload(job[1]), job[1]), jobs, self.workers)
            said = list(progress.track(every, total=len(jobs), description="errors"))
        return [
            {
                name: {
                    horizon_s: quality([one for each in said[at : at + len(numbers)] for one in each[name][horizon_s]])
                    for horizon_s in HORIZONS_S
                }
                for name in makings()
            }
            for at in range(0, len(said), len(numbers))
        ]

    def costs(
        self, cases: Mapping[str, Case], numbers: Sequence[int], weights: Mapping[str, Chosen]
    ) -> dict[str, Costs]:
        """By entry: CACE with each forecaster, and rivals."""
        jobs = [(case, seed) for case in cases.values() for seed in numbers]
        with progress_bar(Console(stderr=True)) as progress:
            every = in_order(lambda job: episode_costs(*job, weights), jobs, self.workers)
            rows = list(progress.track(every, total=len(jobs), description="worth"))
        parts = [rows[at : at + len(numbers)] for at in range(0, len(rows), len(numbers))]
        return {
            entry: {name: np.array([row[name] for row in part]) for name in part[0]}
            for entry, part in zip(cases, parts, strict=True)
        }


class Worth(NamedTuple):
    """Of CACE with a forecaster, or of a rival."""

    score: Estimate
    of_lru: Gain  # what it saves of LRU's cost
    of_own: Gain  # of the cost of CACE with its own window


class Scored(NamedTuple):
    """What the page shows."""

    regions: dict[str, str]  # tables
    qualities: list[Qualities]  # by entry
    worths: dict[str, Worth]  # by forecaster or rival


def episode_costs(case: Case, seed: int, weights: Mapping[str, Chosen]) -> dict[str, float]:
    """Cost of an episode under CACE with each forecaster, by its name, and under the rivals."""
    workload = case.workload(seed)
    made = {name: contestant_of(name) for name in RIVALS}
    made |= {name: with_demand(each.weights, name) for name, each in weights.items()}
    return {name: run_episode(each, case, workload, seed)[0].cost() for name, each in made.items()}


def logs_in(folder: Path) -> dict[str, Case]:
    """The logs of the page that are there.

    Raises:
        ConfigError: none is.
    """
    found = public.scenarios(folder, Protocol.EVICTION)
    cases = {name: case_of(found[name], Protocol.EVICTION) for name in LOGS if name in found}
    if not cases:
        raise ConfigError(f"{folder}: none of {', '.join(LOGS)} is there; docs/traces.md has them")
    return cases


def mean_quality(qualities: Sequence[Qualities], name: str, horizon_s: int) -> Quality:
    """Mean over the entries."""
    return Quality(*np.mean([each[name][horizon_s] for each in qualities], axis=0).tolist())


def errors_table(qualities: Sequence[Qualities]) -> str:
    """How good each forecaster is at each horizon, means over the entries."""
    rows = []
    for name in makings():
        each = [mean_quality(qualities, name, horizon_s) for horizon_s in HORIZONS_S]
        cells = [f"{q.auc:.3f}" for q in each] + [f"{q.log_score:+.2f}" for q in each]
        rows.append([readable(name), *cells, *(f"{q.unreliable:.3f}" for q in each)])
    used = [f"{100 * mean_quality(qualities, TRUTH, horizon_s).used:.0f} %" for horizon_s in HORIZONS_S]
    header = ["forecaster", *(f"{what} {h} s" for what in ("AUC", "log score", "unreliable by") for h in HORIZONS_S)]
    said = ", ".join(f"{share} within {horizon_s} s" for share, horizon_s in zip(used, HORIZONS_S, strict=True))
    return f"{table(header, rows, numbers='right')}\n\nIdle models that are used again: {said}."


def worths(played: Mapping[str, Mapping[str, FloatArray]], numbers: Sequence[int]) -> dict[str, Worth]:
    """What each forecaster and rival is worth over all entries, by name.

    Args:
        played: costs by entry, then by name, `(seeds,)`.
        numbers: the seeds.
    """
    shipped = published("v1")
    if shipped is None:
        raise ConfigError("no costs of the reference ship with suite v1")
    by_entry = {
        entry: {**costs} | {name: shipped.column(entry, name, numbers) for name in (BASELINE, REFERENCE)}
        for entry, costs in played.items()
    }
    scores = suite_scores(by_entry)

    def of(name: str) -> dict[str, FloatArray]:
        return {entry: some[name] for entry, some in by_entry.items()}

    names = next(iter(played.values()))
    return {
        name: Worth(
            scores.means[name],
            pooled_gain(of(name), of(BASELINE), of(BASELINE)),
            pooled_gain(of(name), of(OWN), of(BASELINE)),
        )
        for name in names
    }


def worth_table(qualities: Sequence[Qualities], found: Mapping[str, Worth], weights: Mapping[str, Chosen]) -> str:
    """Score and savings of CACE with each forecaster, and of its rivals; all differences are of the same requests."""
    rows = []
    for name in (*weights, *RIVALS):
        said = f"{mean_quality(qualities, name, SHOWN).auc:.3f}" if name in makings() else "-"
        rows.append(
            [
                f"`{name}`" if name in RIVALS else readable(name),
                said,
                SOURCES[weights[name].source] if name in weights else "-",
                score_text(found[name].score),
                percent(found[name].of_lru),
                percent(found[name].of_own) if name != OWN else "-",
            ]
        )
    header = ("demand factor", f"AUC {SHOWN} s", "weights", "score", "saves of LRU's cost", f"of that with {OWN}")
    return table(header, rows, numbers="right")


def logs_table(cases: Mapping[str, Case], weights: Mapping[str, Chosen]) -> str:
    """On logs: how good each forecaster is, and what CACE saves with it; intervals are over windows of the log.

    A log is played whole, once: other seeds would draw what is attached to it again, and are no other time.
    """
    rows = []
    with progress_bar(Console(stderr=True)) as progress:
        for log, case in progress.track(list(cases.items()), description="logs"):
            made = [with_demand(each.weights, name) for name, each in weights.items()]
            lru, *each = (collect([result]) for result in run_seed(case, [contestant_of(BASELINE), *made], 0))
            found = dict(zip(weights, each, strict=True))
            said = answers(case, case.workload(0), 0)
            for name, evaluation in found.items():
                cells = ["-", "-"]
                if name != OWN:
                    known = quality(said[name][SHOWN])
                    cells = [f"{known.auc:.3f}", f"{known.log_score:+.2f}"]
                own = percent(evaluation.gain_over(found[OWN])) if name != OWN else "-"
                saves = percent(evaluation.gain_over(lru))
                rows.append([log if name == OWN else "", readable(name), *cells, saves, own])
    header = ("log", "demand factor", f"AUC {SHOWN} s", f"log score {SHOWN} s", "saves of LRU's cost", f"of {OWN}")
    return table(header, rows, numbers="right")


def draw(qualities: Sequence[Qualities], found: Mapping[str, Worth], path: Path) -> None:
    """Draws points of score against how well a forecaster tells which model is used next."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from experiments.reading.style import GROUP_COLOURS, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        lines = {OWN: (GROUP_COLOURS["CACE"], f"{OWN} window"), "agent:eviction": ("#444444", "agent:eviction")}
        for name, (colour, label) in lines.items():
            score = found[name].score
            axes.axhline(score.value, color=colour, linestyle="--", linewidth=0.9, label=label)
            axes.axhspan(score.low, score.high, color=colour, alpha=0.1, linewidth=0)
        places: dict[tuple[float, float], list[str]] = {}  # several may stand at one
        for name in makings():
            error, score = 1.0 - mean_quality(qualities, name, SHOWN).auc, found[name].score
            colour = "#2E86D1" if name != TRUTH else "#888888"
            axes.plot([error, error], [score.low, score.high], color=colour, linewidth=1, alpha=0.5)
            axes.plot(error, score.value, "o", color=colour, markersize=5)
            places.setdefault((round(error, 2), score.value // 2), []).append(name)
        for there in places.values():
            at = (1.0 - mean_quality(qualities, there[0], SHOWN).auc, found[there[0]].score.value)
            axes.annotate(", ".join(there), at, (6, 0), textcoords="offset points", fontsize=7, va="center")
        axes.invert_xaxis()
        axes.set(
            xlabel=f"error of the forecast: 1 - AUC of 'used within {SHOWN} s' (better to the right)",
            ylabel="score of CACE with it\n(0 = LRU, 100 = reference)",
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7, loc="center left")
        save_figure(figure, path, dpi=120)
        plt.close(figure)
