"""Tunes the weights of CACE to some scenarios or to a log, by CMA-ES: several starts, one chosen by validation."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
from rich.console import Console

from agents.evolution.tuned_cace import tune_cace
from agents.objective import Objective, baseline_costs, pooled
from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, dump, parse
from cace_env.evaluation import seeds_text
from cace_env.evaluation.held_out import training_cases, training_seeds, validation_seeds
from cace_env.executor import Executor, Threads
from cace_env.files import append_file, csv_text, replace_file, save_figure
from cace_env.policies import CaceWeights
from cace_env.policies.cace import TERMS, Cace, Tuning, load_cace
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol
from cace_env.traces import TraceConfig, windows_of
from cace_env.workload import Workload
from experiments.reading.cace_ablations import cace_with
from experiments.reading.markdown import table
from experiments.reading.style import STYLE
from experiments.running.cases import in_windows
from experiments.running.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FILE: Final = "cace.yaml"  # the chosen weights
TUNED_ON: Final = 0.75  # of the windows of a log's training part; the last ones choose
FEWEST: Final = 4  # windows of it
HISTORY: Final = ("order", "start", "requests", "cost_vs_lru")


class Goal(NamedTuple):
    """What CACE is tuned to."""

    train: dict[str, Case]
    validation: dict[str, Case]
    train_seeds: Sequence[int]
    validation_seeds: Sequence[int]
    compare: str  # options of experiments.compare that judge it on what was held out


class Start(NamedTuple):
    """One search."""

    order: str | None
    number: int
    weights: CaceWeights
    requests: int  # simulated by it
    validation: float  # pooled cost over LRU's on validation seeds

    @property
    def name(self) -> str:
        return f"{self.order}, start {self.number}" if self.order else f"start {self.number}"


def goal_of(scenarios: Sequence[str], env: Protocol, train: int, validation: int) -> Goal:
    """Scenarios, entries of the suite or all of them, by training and validation seeds.

    Raises:
        ConfigError: as `training_cases`, or too many seeds.
    """
    cases = training_cases(list(scenarios) or "suite", env)
    ran = f"--scenarios {','.join(scenarios)}" if scenarios else ""
    return Goal(cases, cases, training_seeds(train), validation_seeds(validation), ran)


def goal_of_log(
    scenario: Scenario, env: Protocol, section: Mapping[str, Any], name: str, redraws: int
) -> tuple[Goal, str]:
    """The training part of a log in windows: the first to tune on, the last to choose by. The test part is not read.

    Rows of a log are not drawn: seeds differ in what is attached alone. What is held out has to be another time.

    Args:
        scenario: whose fleet serves the log.
        env: what is asked.
        section: the log, as in a scenario.
        name: of the scenario, as it was typed.
        redraws: how often what is attached is drawn.

    Returns:
        The goal, and what was done in words.

    Raises:
        ConfigError, TraceError, WorkloadError: a log that cannot be used, or cut.
    """
    if section.get("part", "train") != "train":
        raise ConfigError(f"part is {section['part']}: weights are tuned on the training part; leave --part out")
    config = parse(TraceConfig, {**section, "part": "train"}, "--trace")
    whole, draws, log = in_windows(scenario.model_copy(update={"trace": config}), env, redraws, least=FEWEST)
    count = log["windows"]
    if count < FEWEST:
        raise ConfigError(f"--windows {count}: tuning takes {FEWEST} or more, the last of them to choose by")
    if not log["baseline_decisions"]:
        raise ConfigError("nothing is decided on the training part of this log with this fleet: nothing can be tuned")
    at = round(TUNED_ON * count)
    seeds = range(count * len(draws))  # seed s is window `s % count`, and what is attached is drawn by `s // count`
    parts = [[seed for seed in seeds if (seed % count < at) == tuned] for tuned in (True, False)]

    def window(seed: int) -> Workload:
        return windows_of(whole.workload(seed // count), count)[seed % count]

    name_of_part = f"{scenario.name}, training part of a log"
    case = {name_of_part: replace(case_of(whole, env), name=name_of_part, workload=window, training=None)}
    given = {key: value for key, value in section.items() if key not in ("path", "format", "windows", "part")}
    options = " ".join(f"--trace-option {shlex.quote(f'{key}={_yaml(value)}')}" for key, value in given.items())
    judged = f"--scenarios {name} --trace {shlex.quote(config.path)} --format {config.format} {options} --part test"
    said = (
        f"The first {config.train_share:.0%} of the log in {count} windows of about {log['window_requests']:,} "
        f"requests: {at} to tune on, the next {count - at} to choose by. The rest was not looked at"
    )
    return Goal(case, case, parts[0], parts[1], " ".join(judged.split())), said


def _yaml(value: Any) -> str:
    """A value as --trace-option reads it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


def tune(
    goal: Goal,
    orders: Sequence[str | None],
    starts: int,
    requests: int,
    folder: Path,
    *,
    env: Protocol,
    executor: Executor,
    seed: int,
    console: Console,
    command: str,
) -> tuple[list[Start], float]:
    """Every start of every order, the chosen one first; what has finished in the folder is not searched again.

    Args:
        goal: what it is tuned to.
        orders: which model is loaded first, in Swap-v0; None in Eviction-v0.
        starts: searches of each order, from the same weights with other draws.
        requests: budget of all together.
        folder: run folder, which gets a file per start, history.csv and the chosen weights.
        env: what is asked.
        executor: plays the episodes.
        seed: of the first start.
        console: to be told about progress.
        command: as it was typed.

    Returns:
        The starts, and the pooled cost of the shipped weights on the same validation seeds, with the first's order.
    """
    share = max(1, requests // (len(orders) * starts))
    judge = Objective(goal.validation, goal.validation_seeds, executor)
    baseline = baseline_costs(judge)
    objective = Objective(goal.train, goal.train_seeds, executor)
    found: list[Start] = []
    with progress_bar(console) as progress:
        bar = progress.add_task("tuning", total=len(orders) * starts * share)
        for order in orders:
            for number in range(starts):
                file = folder / "starts" / f"{order or 'eviction'}-{number}.yaml"
                before = (len(found)) * share
                if not file.is_file():
                    spent_before = objective.requests

                    def tell(spent: int, metrics: dict[str, float], order: Any = order, number: int = number,
                             before: int = before) -> None:  # fmt: skip
                        _note(folder, order, number, spent, metrics["train/cost_vs_lru"])
                        said = f"{metrics['train/cost_vs_lru']:.3f} of LRU's cost"
                        progress.update(bar, completed=before + min(spent, share), description=said)

                    weights = tune_cace(
                        objective,
                        requests=share,
                        order=order,
                        seeds_per_generation=min(8, len(goal.train_seeds)),
                        seed=seed + number,
                        progress=tell,
                    )
                    tuning = Tuning(
                        env=env,
                        trained_on=tuple(goal.train),
                        train_seeds=seeds_text(goal.train_seeds),
                        requests=objective.requests - spent_before,
                        order=order,
                        command=command,
                    )
                    replace_file(file, dump(Cace(description="a start", weights=weights, tuned=tuning)))
                progress.update(bar, completed=before + share, description="judging")
                kept = load_cace(file)
                if kept.tuned is None:
                    raise ConfigError(f"{file} does not say how it was tuned; remove it")
                value = pooled(judge.costs([cace_with(kept.weights, "candidate", order)])[0], baseline)
                found.append(Start(order, number, kept.weights, kept.tuned.requests, float(value)))
    found.sort(key=lambda start: start.validation)
    best = found[0]
    shipped = cace_with(load_cace("cace").weights, "shipped", best.order)
    before_tuning = float(pooled(judge.costs([shipped])[0], baseline))
    write_chosen(goal, found, folder, env, command)
    return found, before_tuning


def write_chosen(goal: Goal, found: Sequence[Start], folder: Path, env: Protocol, command: str) -> None:
    """The best start's weights, with the budget of all: none of them could have been left out beforehand."""
    best = found[0]
    tuning = Tuning(
        env=env,
        trained_on=tuple(goal.train),
        train_seeds=seeds_text(goal.train_seeds),
        requests=sum(start.requests for start in found),
        order=best.order,
        command=command,
    )
    about = f"CACE tuned by CMA-ES, {best.name}, chosen of {len(found)} by validation seeds."
    replace_file(folder / FILE, dump(Cace(description=about, weights=best.weights, tuned=tuning)))


def _note(folder: Path, order: str | None, number: int, requests: int, cost: float) -> None:
    """A generation, as a row of history.csv."""
    path = folder / "history.csv"
    append_file(path, csv_text(() if path.exists() else HISTORY, [[order or "", number, requests, cost]]))


def page(found: Sequence[Start], before_tuning: float, folder: Path, about: Mapping[str, Any], again: str) -> str:
    """The report as Markdown."""
    best, total = found[0], sum(start.requests for start in found)
    prefix = f"{best.order}+" if best.order else ""
    parts = [
        "# CACE, tuned",
        f"{about['goal']}. {len(found)} search{'es' if len(found) > 1 else ''} by CMA-ES, {about['started'][:10]}, "
        f"cace-env {about['versions']['cace-env']}. **Budget: {total:,} simulated requests in training.**",
        f"Chosen: {best.name}, `{folder / FILE}`, pooled cost {best.validation:.4f} of LRU's on validation seeds; the "
        f"weights that ship cost {before_tuning:.4f} there. That number chose it, so it flatters it. On what was held "
        f"out:\n\n```console\npython -m experiments.compare --policies cace,{prefix}cace:{folder / FILE} {again}\n```",
    ]
    header = ("search", "on validation seeds", "requests", *(term.replace("_", " ") for term in TERMS))
    rows = []
    for start in found:
        weights = [f"{getattr(start.weights, term):.3f}" for term in TERMS]
        rows.append([start.name, f"{start.validation:.4f}", f"{start.requests:,}", *weights])
    parts += ["## Searches", "Weights are of length 1: only their ratios matter.", table(header, rows, numbers="right")]
    parts += ["![Cost by requests simulated](history.png)", "## How to get these numbers again"]
    return "\n\n".join([*parts, f"```console\n{about['command']}\n```"]) + "\n"


def draw(folder: Path) -> None:
    """What each generation cost, by requests simulated."""
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        for key in dict.fromkeys((row["order"], row["start"]) for row in rows):
            here = [row for row in rows if (row["order"], row["start"]) == key]
            label = f"{key[0] + ', ' if key[0] else ''}start {key[1]}"
            x, y = ([float(row[name]) for row in here] for name in ("requests", "cost_vs_lru"))
            axes.plot(x, y, linewidth=1.2, label=label)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel="requests simulated", ylabel="mean cost of a generation, of LRU's")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        save_figure(figure, folder / "history.png", dpi=120)
        plt.close(figure)


def compiled(goal: Goal) -> None:
    """Plays one episode, so that code compiles before the progress bar is shown."""
    name, case = next(iter(goal.train.items()))
    Objective({name: replace(case, name=name)}, [goal.train_seeds[0]], Threads(1)).costs(
        [cace_with(load_cace("cace").weights, "cace")]
    )
