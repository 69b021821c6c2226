"""Holds sampled futures against what happened: how many requests came, and which models were used again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.forecasting import Habits, Sampler, load_habits
from cace_env.kernel.pick import pick
from cace_env.kernel.rollouts import try_actions
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.state import CLOCK, COLUMN, DEMAND, MODEL, REQUEST, cut_state
from cace_env.policies import policy, rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import FloatArray, Int64Array
from experiments.futures.episodes import Judged
from experiments.reading.markdown import table
from experiments.reading.roc import auc
from experiments.running.command_line import Session, metavar
from experiments.running.progress import progress_bar

BINS: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
RATE_PER_S: Final = math.log(2.0) / 600.0  # from arrivals that halve every 10 minutes to a rate


class Calibrate(Judged):
    """Hold the sampler against what happened in episodes that LRU plays."""

    habits: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="what it draws from; by default the habits that ship"
    )
    seeds: int = Field(default=4, ge=1, description="episodes of each; of a log always one")
    futures: int = Field(default=32, ge=1, description="futures at each question")
    questions: int = Field(default=60, ge=1, description="questions of an episode, evenly taken")
    horizons: Annotated[tuple[float, ...], tyro.conf.arg(metavar="S S")] = Field(
        default=(60.0, 300.0), description="seconds after a question, ascending"
    )

    def run(self, session: Session) -> int:
        """Prints a table for each horizon; the exit status."""
        habits, _ = load_habits(self.habits)
        cases = self.judged()
        found: dict[str, list[Seen]] = {}
        with progress_bar(Console(stderr=True)) as progress:
            for case, seed in progress.track(cases, description="episodes"):
                seen = list(looks(case, seed, habits, self.futures, self.questions, self.horizons))
                found.setdefault(case.name, []).extend(seen)
        for h, horizon in enumerate(self.horizons):
            session.console.print(f"\nthe next {horizon:g} s\n", soft_wrap=True)
            session.console.print(calibration_table(found, h), soft_wrap=True)
        return 0


class Seen(NamedTuple):
    """One question. `M` models, `H` horizons."""

    sampled: FloatArray  # (H,) requests that come, mean of the futures
    came: FloatArray  # (H,)
    chance: FloatArray  # (H, M) share of futures in which a model is asked for
    by_rate: FloatArray  # (H, M) the same by its rate over the last minutes alone
    used: FloatArray  # (H, M) 1 = it was


def looks(
    case: Case, seed: int, habits: Habits, futures: int, questions: int, horizons: tuple[float, ...]
) -> Iterator[Seen]:
    """Some questions of an episode: what was sampled at each, and what came."""
    workload, rule = case.workload(seed), rule_of(policy("lru"), case.tables)
    simulator = Simulator(case.tables)
    simulator.run(workload, rule)
    arrivals, every = simulator.state.requests[:, REQUEST.arrival_us].copy(), simulator.totals().decisions // questions
    scratch = new_scratch(simulator.max_slots, case.tables.num_models)
    sampler = Sampler(case.tables, workload, habits, seed)
    asked, number = simulator.reset(workload), 0
    while asked:
        number += 1
        # The episode ends with its last request, and sampled futures do not: nothing is compared so late.
        late = simulator.state.scalars[CLOCK] + horizons[-1] * 1e6 > arrivals.max()
        if number % max(every, 1) == 0 and not late:
            action = int(pick(*simulator.arguments, rule, scratch))
            yield one_look(sampler, simulator, action, rule, scratch, futures, horizons, arrivals)
        asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))


def one_look(
    sampler: Sampler,
    simulator: Simulator,
    action: int,
    rule: Rule,
    scratch: Scratch,
    futures: int,
    horizons: tuple[float, ...],
    arrivals: Int64Array,
) -> Seen:
    """What came after sampled futures that the same policy serves, and what came."""
    now, models = int(simulator.state.scalars[CLOCK]), simulator.tables.num_models
    ends = (now + np.round(np.array(horizons) * 1e6)).astype(np.int64)
    asks = simulator.arguments[4].columns[:, COLUMN.model]
    sampler.look(simulator)
    sampled, chance = np.zeros(len(ends)), np.zeros((len(ends), models))
    for seeds in sampler.seeds(futures):
        future = sampler.draw(seeds, horizons[-1])
        cut_state(future.row, future.game.at).legal[:] = np.arange(len(simulator.state.legal)) == action
        after = np.empty_like(future.row)
        try_actions(future.row, after, future.game, rule, scratch, ends[-1:], np.empty((len(simulator.state.legal), 1)))
        came_at = cut_state(after, future.game.at).requests[: future.end, REQUEST.arrival_us]
        wanted = future.game.w.columns[: future.end, COLUMN.model]
        for h, end in enumerate(ends):
            early = (came_at > now) & (came_at <= end)
            sampled[h] += early.sum() / futures
            chance[h, np.unique(wanted[early])] += 1 / futures
    coming = arrivals > now
    used = np.array([np.bincount(asks[coming & (arrivals <= end)], minlength=models) for end in ends])
    last = simulator.state.models[:, MODEL.last_arrival]
    rate = simulator.state.demand[:, DEMAND.rate_10m] * np.exp2(-(now - last) / 600e6) * RATE_PER_S
    by_rate = 1.0 - np.exp(-np.outer(horizons, rate))
    return Seen(sampled, used.sum(axis=1).astype(np.float64), chance, by_rate, np.minimum(used, 1).astype(np.float64))


def calibration_table(found: dict[str, list[Seen]], h: int) -> str:
    """How well futures are calibrated at one horizon, a row for each case, as Markdown."""
    header = ["case", "questions", "requests came", "sampled / came", "correlation", "AUC", "AUC by rate", "Brier",
              "Brier by rate", *(f"{low:g}-{high:g}" for low, high in pairwise(BINS))]  # fmt: skip
    rows = []
    for name, seen in found.items():
        sampled, came = np.array([each.sampled[h] for each in seen]), np.array([each.came[h] for each in seen])
        chance, by_rate, used = (
            np.concatenate([getattr(each, column)[h] for each in seen]) for column in ("chance", "by_rate", "used")
        )
        correlation = np.corrcoef(sampled, came)[0, 1] if len(seen) > 2 else np.nan
        rows.append(
            [
                name, str(len(seen)), f"{came.mean():.1f}", f"{sampled.sum() / max(came.sum(), 1):.2f}",
                f"{correlation:.2f}", f"{auc(chance, used):.3f}", f"{auc(by_rate, used):.3f}",
                f"{np.mean((chance - used) ** 2):.3f}", f"{np.mean((by_rate - used) ** 2):.3f}",
                *reliability(chance, used),
            ]
        )  # fmt: skip
    return table(header, rows, numbers="right")


def reliability(chance: FloatArray, outcome: FloatArray) -> list[str]:
    """In each of the bins the share that happened, with how many cases there are."""
    place = np.clip(np.digitize(chance, BINS) - 1, 0, len(BINS) - 2)
    cells = []
    for number in range(len(BINS) - 1):
        mine = place == number
        cells.append(f"{outcome[mine].mean():.2f} ({mine.sum()})" if mine.any() else "-")
    return cells
