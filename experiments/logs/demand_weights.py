"""Weights of CACE for each forecaster of its demand factor: a small search each, and a choice by validation seeds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

from agents.evolution.tuned_cace import tune_cace
from agents.objective import Objective
from cace_env.cases import Case
from cace_env.config import MOST_SEED, ConfigError, Frozen, did_you_mean, dump
from cace_env.evaluation import load_suite, seeds_text
from cace_env.evaluation.held_out import training_seeds, validation_seeds
from cace_env.evaluation.scores import BASELINE, pooled_gain, relative_cost
from cace_env.executor import Threads
from cace_env.files import csv_text, replace_file
from cace_env.policies import Contestant, contestant_of, policy
from cace_env.policies.cace import TERMS, Cace, Tuning, load_cace
from cace_env.tables import FloatArray, Protocol
from experiments.logs.forecast_scores import BY_HAND, OWN, SHIPPED, TRUTH, makings, readable, with_demand
from experiments.reading.markdown import percent, table
from experiments.running.command_line import Session, metavar, split_names
from experiments.running.options import Names
from experiments.running.progress import progress_bar

SEARCHED: Final = "searched"  # the weights that a search found; beside those by hand, and the shipped ones it began at
SOURCES: Final = {BY_HAND: "by hand", SHIPPED: "shipped, tuned", SEARCHED: "tuned for it"}
POPULATION: Final = 16
COLUMNS: Final = ("weights", "entry", "seed", "cost")
ByEntry = dict[str, FloatArray]  # (seeds,)


class Tune(Frozen):
    """Search weights for every forecaster with equal budgets; what is in the folder is not searched again."""

    out: Annotated[Path, metavar("FOLDER")] = Field(description="gets weights and costs by forecaster")
    entries: Names = Field(default=(), description="of Eviction-v0 in suite v1; all by default")
    forecasters: Names = Field(default=(), description="only these; all by default")
    requests: int = Field(default=1_900_000, ge=1, description="budget of each search, LRU's own included")
    train_seeds: int = Field(default=16, ge=1, description="of each entry; a generation plays one of them")
    validation_seeds: int = Field(default=8, ge=2, le=100, description="of each entry, to choose weights by")
    seed: int = Field(default=0, ge=0, le=MOST_SEED, description="of the search")
    write: bool = Field(default=False, description="fill docs/forecasts.md")

    def run(self, session: Session) -> dict[str, str]:
        """Searches and prints; the table of the page by region.

        Raises:
            ConfigError: an unknown entry or forecaster, or a folder of searches with other entries or seeds.
        """
        suite = load_suite("v1")
        cases = {each.id: each.case() for each in suite.named(split_names(self.entries), Protocol.EVICTION)}
        there = [OWN, *makings()]
        forecasters = split_names(self.forecasters) or there
        for name in forecasters:
            if name not in there:
                hint = did_you_mean(name, there)
                raise ConfigError(f"no forecaster called {name!r}{hint}; known are {', '.join(there)}")
        for name in forecasters:
            self.check_kept(list(cases), name)
        judge = Objective(cases, validation_seeds(self.validation_seeds), Threads(1))
        lru = by_entry(judge, [contestant_of(BASELINE)])[0]
        found: dict[str, dict[str, ByEntry]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            for name in progress.track(forecasters, description="weights"):
                weights = self.weights(cases, name, session.command)
                path = self.out / f"{file_name(name)}.csv"
                if not path.is_file():
                    rows = {BY_HAND: policy("cace").weights, SHIPPED: shipped()}
                    rows[SEARCHED] = weights.weights.row()
                    costs = by_entry(judge, [with_demand(row, name) for row in rows.values()])
                    write_costs(path, dict(zip(rows, costs, strict=True)), judge.seeds)
                found[name] = read_costs(path)
        text = weights_table(self.out, found, lru)
        session.console.print(f"\n{text}", soft_wrap=True, highlight=False)
        return {"tuned": text, "tuning": self.said(list(cases))}

    def check_kept(self, entries: Sequence[str], name: str) -> None:
        """Refuses what the folder holds of a forecaster, if it was searched or judged otherwise."""
        weights, costs = (self.out / f"{file_name(name)}.{kind}" for kind in ("yaml", "csv"))
        other = []
        if weights.is_file():
            tuned = load_cace(weights).tuned
            theirs = (tuned.trained_on, tuned.train_seeds) if tuned is not None else None
            if theirs != (tuple(entries), seeds_text(training_seeds(self.train_seeds))):
                other.append(weights)
        if costs.is_file():
            seeds = dict.fromkeys(entries, self.validation_seeds)
            if any({entry: len(each) for entry, each in one.items()} != seeds for one in read_costs(costs).values()):
                other.append(costs)
        if other:
            raise ConfigError(f"{other[0]} is of other entries or seeds; name another folder, or give the same ones")

    def weights(self, cases: Mapping[str, Case], name: str, command: str) -> Cace:
        """Those that a search finds, or has found, for a forecaster."""
        path = self.out / f"{file_name(name)}.yaml"
        if not path.is_file():
            objective = Objective(cases, training_seeds(self.train_seeds), Threads(1))
            weights = tune_cace(
                objective,
                requests=self.requests,
                demand=makings().get(name),
                init=SHIPPED,
                seeds_per_generation=1,
                population=POPULATION,
                seed=self.seed,
            )
            tuning = Tuning(
                env=Protocol.EVICTION,
                trained_on=tuple(cases),
                train_seeds=seeds_text(objective.seeds),
                requests=objective.requests,
                command=command,
            )
            about = f"CACE tuned by CMA-ES for the demand factor {name!r}, from {SHIPPED}."
            replace_file(path, dump(Cace(description=about, weights=weights, tuned=tuning)))
        return load_cace(path)

    def said(self, names: Sequence[str]) -> str:
        """The budget in words."""
        return (
            f"Each search simulates {self.requests:,} requests of {len(names)} entries, in generations of {POPULATION} "
            f"candidates that play one of {self.train_seeds} training seeds. The table is of {self.validation_seeds} "
            "validation seeds of each entry."
        )


class Chosen(NamedTuple):
    """The weights that are best for a forecaster on validation seeds."""

    source: str  # one of SOURCES
    weights: tuple[float, ...]  # in the order of TERMS


def all_chosen(folder: Path | None) -> dict[str, Chosen]:
    """The weights for every forecaster: the shipped ones where no search was made for it in a folder.

    Raises:
        ConfigError: the folder has no search at all.
    """
    names = (OWN, *makings())
    searched = [name for name in names if folder is not None and (folder / f"{file_name(name)}.csv").is_file()]
    if folder is not None and not searched:
        raise ConfigError(f"{folder} has no weights; python -m experiments.forecasts tune --out {folder} searches them")
    return {
        name: chosen(folder, name) if folder is not None and name in searched else Chosen(SHIPPED, shipped())
        for name in names
    }


def shipped() -> tuple[float, ...]:
    """Those that all searches begin at."""
    return policy(f"cace:{SHIPPED}").weights


def chosen(folder: Path, name: str) -> Chosen:
    """The best weights for a forecaster in the folder of its search."""
    costs = read_costs(folder / f"{file_name(name)}.csv")
    # Entries count alike, each as a share of what the shipped weights cost.
    pooled = {source: relative_cost(each, costs[SHIPPED]).value for source, each in costs.items()}
    best = min(pooled, key=lambda source: pooled[source])
    files: dict[str, str | Path] = {BY_HAND: "cace", SHIPPED: SHIPPED, SEARCHED: folder / f"{file_name(name)}.yaml"}
    return Chosen(best, load_cace(files[best]).weights.row())


def by_entry(judge: Objective, contestants: Sequence[Contestant]) -> list[ByEntry]:
    """Costs of each contestant by entry."""
    costs = judge.costs(contestants)
    return [dict(zip(judge.cases, each, strict=True)) for each in costs]


def file_name(name: str) -> str:
    """Of the files of a forecaster."""
    return {OWN: "own", TRUTH: "true"}.get(name, name)


def write_costs(path: Path, costs: Mapping[str, ByEntry], seeds: Sequence[int]) -> None:
    """Costs on validation seeds, one row each."""
    rows = [
        [weights, entry, seed, float(cost)]
        for weights, each in costs.items()
        for entry, values in each.items()
        for seed, cost in zip(seeds, values, strict=True)
    ]
    replace_file(path, csv_text(COLUMNS, rows))


def read_costs(path: Path) -> dict[str, ByEntry]:
    """By weights and entry.

    Raises:
        ConfigError: the file holds something else.
    """
    found: dict[str, dict[str, list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["weights"], {}).setdefault(row["entry"], []).append(float(row["cost"]))
        if found.keys() != SOURCES.keys():
            raise ValueError(f"it has weights {', '.join(found)}, not {', '.join(SOURCES)}")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: holds no costs ({type(error).__name__}: {error}); delete it") from error
    return {weights: {entry: np.array(costs) for entry, costs in each.items()} for weights, each in found.items()}


def weights_table(folder: Path, found: Mapping[str, Mapping[str, ByEntry]], lru: ByEntry) -> str:
    """What each forecaster saves of LRU's cost on validation seeds with three rows of weights, and the best of them."""
    header = ["demand factor", *SOURCES.values(), "tuned for it saves of shipped", "chosen"]
    rows = []
    for name, costs in found.items():
        best = chosen(folder, name)
        saves = [f"{100 * (1 - relative_cost(costs[each], lru).value):+.1f} %" for each in SOURCES]
        gain = pooled_gain(costs[SEARCHED], costs[SHIPPED], lru)
        numbers = [f"{weight / np.linalg.norm(best.weights):.2f}" for weight in best.weights]
        rows.append([readable(name), *saves, percent(gain), SOURCES[best.source], *numbers])
    return table([*header, *(term.replace("_", " ") for term in TERMS)], rows, numbers="right")
