"""Compiled parts of the generator that prepare an episode: who works how much, and which model is used for what.

`user_rates` and `routing` are called once per episode, `smaller_model` when an agent starts another.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.compilation import inner
from cace_env.generator.streams import DEPLOYMENTS, DRIFT, POPULARITY, USERS, normal, pick, uniform
from cace_env.generator.tables import COMPLETION, GeneratorTables

EPOCHS = 32  # steps in which popularity drifts over the episode
FITTING_ROUNDS = 12  # of iterative proportional fitting
DRIFT_ROUNDS = 20  # of bisection for the strength of the drift
BUSIEST = 0.75  # share of a user's time that completions may fill (one in flight)


class RoutingSpace(NamedTuple):
    """Arrays that `routing` fills: `E` epochs, `R` rows (task * languages + language), `M` models."""

    cumulative: npt.NDArray[np.float64]  # (E, R, M) cumulative shares of the models
    first: npt.NDArray[np.float64]  # (R, M) requests by row and model when the episode begins
    last: npt.NDArray[np.float64]  # (R, M) and when it ends
    shares: npt.NDArray[np.float64]  # (M,) popularity when the episode begins
    moved: npt.NDArray[np.float64]  # (M,) and when it ends
    direction: npt.NDArray[np.float64]  # (M,) in which it drifts
    ranks: npt.NDArray[np.int64]  # (M,)
    deployed: npt.NDArray[np.int64]  # (M,) epoch from which a model exists


def routing_space(tables: GeneratorTables) -> RoutingSpace:
    """Arrays of zeros for `routing`."""
    rows, models = len(tables.row_shares), len(tables.popularity_law)
    return RoutingSpace(
        cumulative=np.zeros((EPOCHS, rows, models)),
        first=np.zeros((rows, models)),
        last=np.zeros((rows, models)),
        shares=np.zeros(models),
        moved=np.zeros(models),
        direction=np.zeros(models),
        ranks=np.zeros(models, np.int64),
        deployed=np.zeros(models, np.int64),
    )


@inner
def user_rates(tables: GeneratorTables, states: Any, rates: Any, home: Any) -> None:
    """Fills requests per second (users, tasks), log-normal activity times the role's factors, and main languages."""
    users, tasks = rates.shape
    for user in range(users):
        activity = math.exp(tables.knobs.activity_spread * normal(states, USERS))
        home[user] = pick(tables.language_cumulative, uniform(states, USERS))
        for task in range(tasks):
            rates[user, task] = activity * tables.role_factor[user, task]
    for task in range(tasks):
        total = 0.0
        for user in range(users):
            total += rates[user, task]
        for user in range(users):
            rates[user, task] *= tables.task_rate[task] / total
    # one completion in flight per user: what the busiest cannot type, the others do
    most = BUSIEST / tables.mean_gap_s[COMPLETION]
    for _ in range(8):
        excess, room = 0.0, 0.0
        for user in range(users):
            excess += max(rates[user, COMPLETION] - most, 0.0)
            rates[user, COMPLETION] = min(rates[user, COMPLETION], most)
            if rates[user, COMPLETION] < most:
                room += rates[user, COMPLETION]
        if excess <= 0.0 or room <= 0.0:
            break
        for user in range(users):
            if rates[user, COMPLETION] < most:
                rates[user, COMPLETION] *= 1.0 + excess / room


@inner
def _fit(shares: Any, rows: Any, table: Any) -> None:
    """Fits `table` (requests by row and model) to these row sums and, where possible, model shares; zeros stay.

    Entries are divided first: where a task is hardly asked for, wanted over present may exceed every float.
    """
    num_rows, models = table.shape
    for _ in range(FITTING_ROUNDS):
        for model in range(models):
            total = 0.0
            for row in range(num_rows):
                total += table[row, model]
            for row in range(num_rows):
                if total > 0.0:
                    table[row, model] = table[row, model] / total * shares[model]
        for row in range(num_rows):
            total = 0.0
            for model in range(models):
                total += table[row, model]
            for model in range(models):
                if total > 0.0:
                    table[row, model] = table[row, model] / total * rows[row]


@inner
def _popularity(tables: GeneratorTables, states: Any, ranks: Any, shares: Any) -> None:
    """Fills the share of each model: the law by rank, ranks by hint, ties at random."""
    models = len(shares)
    for model in range(models):
        shares[model] = uniform(states, POPULARITY)  # a tie-break until ranks are known
    for model in range(models):
        ranks[model] = 0
        for other in range(models):
            ahead = tables.popularity_hint[other] - tables.popularity_hint[model]
            if ahead > 0.0 or (ahead == 0.0 and shares[other] < shares[model]):
                ranks[model] += 1
    for model in range(models):
        shares[model] = tables.popularity_law[ranks[model]]


@inner
def _drift(states: Any, shares: Any, direction: Any, moved: Any, variation: float) -> None:
    """Fills `moved`: shares at a total variation of `variation` from `shares`, by one log-normal factor per model."""
    models = len(shares)
    for model in range(models):
        direction[model] = normal(states, DRIFT)
    low, high = 0.0, 8.0
    for _ in range(DRIFT_ROUNDS):
        strength = 0.5 * (low + high)
        total, distance = 0.0, 0.0
        for model in range(models):
            moved[model] = shares[model] * math.exp(strength * direction[model])
            total += moved[model]
        for model in range(models):
            moved[model] /= total
            distance += 0.5 * abs(moved[model] - shares[model])
        if distance < variation:
            low = strength
        else:
            high = strength


@inner
def _deployments(wanted: int, states: Any, cumulative: Any, taste: Any, deployed: Any) -> None:
    """Fills the epoch from which each model exists: 0, or in the middle half for new ones.

    New models are drawn by popularity; no row is left without a model.
    """
    num_rows, models = taste.shape
    missing = min(wanted, models - 1)
    for _ in range(8 * models):
        model = pick(cumulative, uniform(states, DEPLOYMENTS))
        when = EPOCHS // 4 + int(uniform(states, DEPLOYMENTS) * (EPOCHS // 2))
        if missing == 0:
            break
        replaceable = deployed[model] == 0
        for row in range(num_rows):
            others = 0
            for other in range(models):
                if other != model and deployed[other] == 0 and taste[row, other] > 0.0:
                    others += 1
            replaceable = replaceable and (taste[row, model] == 0.0 or others > 0)
        if replaceable:
            deployed[model] = when
            missing -= 1


@inner
def routing(tables: GeneratorTables, states: Any, space: RoutingSpace) -> None:
    """Fills `space.cumulative`; the other arrays are scratch."""
    tasks, models = tables.serves.shape
    languages = len(tables.language_cumulative)
    _popularity(tables, states, space.ranks, space.shares)
    for language in range(languages):
        for model in range(models):
            factor = math.exp(tables.knobs.language_spread * normal(states, POPULARITY))
            for task in range(tasks):
                if tables.serves[task, model] and tables.speaks[language, model]:
                    row = task * languages + language
                    space.first[row, model] = space.last[row, model] = factor * space.shares[model]
    total = 0.0
    for model in range(models):
        total += space.shares[model]
        space.moved[model] = total
    _deployments(tables.knobs.new_models, states, space.moved, space.first, space.deployed)
    _fit(space.shares, tables.row_shares, space.first)
    # popularity moves linearly in time, so its averages over both halves are half as far apart as its ends
    _drift(states, space.shares, space.direction, space.moved, 2.0 * tables.knobs.drift)
    _fit(space.moved, tables.row_shares, space.last)
    for epoch in range(EPOCHS):
        progress = (epoch + 0.5) / EPOCHS
        for row in range(tasks * languages):
            total = 0.0
            for model in range(models):
                if space.deployed[model] <= epoch:
                    total += (1.0 - progress) * space.first[row, model] + progress * space.last[row, model]
                space.cumulative[epoch, row, model] = total
            for model in range(models):
                space.cumulative[epoch, row, model] /= total if total > 0.0 else 1.0


@inner
def smaller_model(weights_gb: Any, cumulative: Any, parent: int, level: float) -> int:
    """A model smaller than `parent`, by popularity among those; `parent` itself where there is none."""
    total, before = 0.0, 0.0
    for model in range(len(cumulative)):
        if weights_gb[model] < weights_gb[parent]:
            total += cumulative[model] - before
        before = cumulative[model]
    if total <= 0.0:
        return parent
    running, before, chosen = 0.0, 0.0, parent
    for model in range(len(cumulative)):
        share = cumulative[model] - before
        before = cumulative[model]
        if weights_gb[model] < weights_gb[parent] and share > 0.0:
            chosen = model
            running += share
            if running > level * total:
                break
    return chosen
