"""Python policies: what somebody's callable is asked, and what becomes of its answer.

A policy `f(features (S, F), legal (S,)) -> keep-scores (S,)` chooses victims; where it has a method `order`, that
chooses which model to load (Swap-v0).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cace_env.kernel.pick import pick, read_victims
from cace_env.kernel.rules import Rule
from cace_env.observation import SLOT
from cace_env.simulator import Simulator, new_scratch
from cace_env.tables import NONE

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Scorer = Callable[[FloatArray, BoolArray], npt.ArrayLike]  # (features (S, F), legal (S,)) -> keep-scores (S,)


class PolicyError(RuntimeError):
    """A Python policy failed or answered nonsense; the message names policy, seed and decision."""


def action_by_scores(name: str, policy: Scorer, simulator: Simulator, seed: int, rule: Rule) -> tuple[int, float]:
    """What a Python policy does at the open question, and the seconds that it thought.

    Asked for a victim it scores slots. Asked which model to load (Swap-v0), its method `order(features (M, F),
    legal (M + 1,)) -> scores (M + 1,)` scores models and waiting: the legal one with the highest score is taken, ties
    go to the lowest number. Without such a method `rule` has the order, and leaves it the victims of that order.

    Raises:
        PolicyError: it failed, or returned what are not scores; the message names it by `name` and `seed`.
    """
    question = simulator.question
    where = f"policy {name!r}, seed {seed}, decision {question.decision}"
    own_order = getattr(policy, "order", None)
    slots, models = simulator.max_slots, simulator.tables.num_models
    if question.target == NONE:
        if not callable(own_order):
            return int(pick(*simulator.arguments, rule, new_scratch(slots, models))), 0.0
        # An environment may have more rows than models; the last action is to wait in any case.
        actions = [*range(slots, slots + models), len(question.legal) - 1]
        legal = question.legal[actions]
        answer, thought_s = _thought(own_order, simulator.model_features(), legal, where)
        return actions[_highest(answer, legal, where)], thought_s
    legal = question.legal[:slots]
    features = simulator.features()
    if simulator.tables.protocol == "swap" and not callable(own_order):
        candidates = np.zeros(slots, dtype=np.int64)
        read_victims(*simulator.arguments[:4], rule, candidates)
        legal = candidates == 1
    answer, thought_s = _thought(policy, features, legal, where)
    return _lowest(answer, features, legal, where), thought_s


def _thought(
    scores: Callable[[FloatArray, BoolArray], npt.ArrayLike], features: FloatArray, legal: BoolArray, where: str
) -> tuple[npt.ArrayLike, float]:
    """What somebody's function answers, which may do with its arguments what it likes, and how long it took [s]."""
    began = time.perf_counter()
    try:
        answer = scores(features.copy(), legal.copy())
    except Exception as error:
        raise PolicyError(f"{where}: {type(error).__name__}: {error}") from error
    return answer, time.perf_counter() - began


def _highest(answer: npt.ArrayLike, legal: BoolArray, where: str) -> int:
    """The legal model with the highest score, or the number of models: wait; ties: lowest number."""
    scores = _numbers(answer, legal, where, "score", "model (the last is waiting)")
    rows = np.flatnonzero(legal)
    return int(rows[np.argmax(scores[rows])])


def _lowest(answer: npt.ArrayLike, features: FloatArray, legal: BoolArray, where: str) -> int:
    """The legal slot with the lowest keep-score; ties: least recently used, then lowest slot."""
    scores = _numbers(answer, legal, where, "keep-score", "slot")
    slots = np.flatnonzero(legal)
    tied = slots[scores[slots] == scores[slots].min()]
    return int(tied[np.argmax(features[tied, SLOT.since_use_s])])


def _numbers(answer: npt.ArrayLike, legal: BoolArray, where: str, score: str, row: str) -> FloatArray:
    """An answer as numbers, one for each that is legal or not.

    Raises:
        PolicyError: it holds none, or too few, or NaN where it matters.
    """
    wanted = f"it has to be one {score} per {row}, shape {legal.shape}"
    try:
        scores = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"{where}: the answer is a {type(answer).__name__} that holds no numbers; {wanted}"
        ) from error
    if scores.shape != legal.shape:
        raise PolicyError(f"{where}: the answer has shape {scores.shape}; {wanted}")
    unknown = np.flatnonzero(legal & np.isnan(scores))
    if len(unknown):
        raise PolicyError(f"{where}: the {score} of legal {row} {unknown[0]} is NaN; give every legal {row} a number")
    return scores
