"""Python policies: how user objects are called, and how their answers are checked.

There are two kinds:

- Scorers see features in physical units: `f(features (S, F), legal (S,)) -> keep-scores (S,)` chooses victims; a method
  `order`, if there is one, chooses which model to load (Swap-v0).
- Objects with a method `act(observation, action_mask) -> action`, such as any trained model, see what an agent sees in
  the environment of the scenario, and return an action.
"""

from __future__ import annotations

import operator
import time
import typing
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeGuard

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, did_you_mean
from cace_env.kernel.pick import pick, read_victims
from cace_env.kernel.rules import Rule
from cace_env.observation import SLOT, Float32Array, ObservationLayout
from cace_env.simulation import Question, Simulator, new_scratch
from cace_env.simulation.shown import ShownRows, look_at
from cace_env.tables import NONE, FloatArray, Protocol

BoolArray = npt.NDArray[np.bool_]
Int8Array = npt.NDArray[np.int8]
Scorer = Callable[[FloatArray, BoolArray], npt.ArrayLike]  # (features (S, F), legal (S,)) -> keep-scores (S,)
# Handling of an illegal action: an error, or the legal action of lowest index in its place, as in the environments.
Illegal = Literal["error", "replace"]


class Acting(typing.Protocol):
    """A policy that sees observations, like an agent.

    `act(observation (layout.size,) float32, action_mask (actions,) int8) -> action`, the number of a legal action; both
    as the environment of the scenario gives them. A policy that does not use masks may return any action with
    `illegal="replace"` (`cace_env.evaluate`). An attribute `layout` (an `ObservationLayout`) asks for more rows than
    the fleet needs, like `max_slots` and `max_pending` of an environment: so a network with a fixed number of inputs
    plays fleets of several sizes. With `top_k` it shows what an environment with `top_k` does, and actions are rows. An
    attribute `protocol` (a `cace_env.tables.Protocol`) says which environment it was made for; in the other one it is
    refused.
    """

    def act(self, observation: Float32Array, action_mask: Int8Array, /) -> SupportsIndex: ...


PythonPolicy = Scorer | Acting


class PolicyError(RuntimeError):
    """A Python policy failed, or its answer is not valid; the message names policy, seed and decision."""


class Answer(NamedTuple):
    """The action taken at a question."""

    action: int
    thought_s: float  # time that the Python policy took
    replaced: bool = False  # whether the policy's own action was illegal
    scores: FloatArray | None = None  # (actions,) of a scorer: the highest is chosen, NaN = none


class View(NamedTuple):
    """What an agent sees at a question, and its legal actions."""

    observation: Float32Array  # (layout.size,)
    action_mask: Int8Array  # (S,); in Swap-v0 (S + K + 1,)
    shown: ShownRows | None = None  # with `top_k`: what the rows are


def acts(policy: Any) -> TypeGuard[Acting]:
    """Whether a Python policy answers with actions; one that could do both is asked for actions."""
    return callable(getattr(policy, "act", None))


@lru_cache(maxsize=32)
def _layout(slots: int, pending: int) -> ObservationLayout:
    return ObservationLayout(slots, pending)


def layout_for(policy: Any, simulator: Simulator, default: ObservationLayout | None = None) -> ObservationLayout:
    """The layout for an acting policy: its own, else `default`, else the smallest that holds the fleet.

    Raises:
        ConfigError: its own layout is too small for the fleet, or not an `ObservationLayout`.
    """
    slots, models = simulator.max_slots, simulator.tables.num_models
    own = getattr(policy, "layout", None)
    if own is None:
        return default or _layout(slots, models)
    if not isinstance(own, ObservationLayout):
        raise ConfigError(f"the policy's attribute layout is {own!r}; it has to be an ObservationLayout, or missing")
    least = models if simulator.tables.protocol == Protocol.SWAP else 0
    if not own.top_k and (own.max_slots < slots or own.max_pending < least):
        raise ConfigError(
            f"the policy's layout has {own.max_slots} slots and {own.max_pending} pending rows; this fleet needs "
            f"{slots} and {least} at least"
        )
    return own


def view(simulator: Simulator, layout: ObservationLayout) -> View:
    """Observation and mask at the open question; rows beyond the fleet's are zero."""
    if layout.top_k:
        return View(*look_at(simulator, layout))
    slots, legal = simulator.max_slots, simulator.state.legal
    seen = simulator.observation(_layout(slots, layout.max_pending))
    observation = np.zeros(layout.size, dtype=np.float32)
    observation[: slots * (layout.slots_end // layout.max_slots)] = seen[: _layout(slots, 0).slots_end]
    observation[layout.slots_end :] = seen[_layout(slots, 0).slots_end :]
    swap = simulator.tables.protocol == Protocol.SWAP
    mask = np.zeros(layout.max_slots + (layout.max_pending + 1 if swap else 0), dtype=np.int8)
    mask[:slots] = legal[:slots]
    if swap:
        models = len(legal) - slots - 1
        mask[layout.max_slots : layout.max_slots + models] = legal[slots:-1]
        mask[-1] = legal[-1]
    return View(observation, mask)


def python_action(
    name: str,
    policy: PythonPolicy,
    simulator: Simulator,
    seed: int,
    rule: Rule,
    layout: ObservationLayout | None = None,
    illegal: Illegal = "error",
) -> Answer:
    """Ask a Python policy at the open question.

    Args:
        name: for error messages, like `seed`.
        policy: one with a method `act`, or a scorer.
        simulator: with an open question.
        seed: seed of the episode.
        rule: holds the order for a scorer without one of its own (`action_by_scores`).
        layout: layout for an acting policy without one of its own.
        illegal: handling of illegal actions.

    Raises:
        PolicyError: it failed, or its answer is neither an action nor scores, or is illegal and `illegal` is "error".
    """
    if not acts(policy):
        return action_by_scores(name, policy, simulator, seed, rule)  # type: ignore[arg-type]
    layout = layout_for(policy, simulator, layout)
    seen = view(simulator, layout)
    mask = seen.action_mask.copy()  # the policy may change its own copy
    where = _where(name, simulator, seed)
    began = time.perf_counter()
    try:
        answer = policy.act(seen.observation, seen.action_mask)
    except Exception as error:
        raise PolicyError(f"{where}: {problem_of(error)}") from error
    thought_s = time.perf_counter() - began
    action = _legal_action(answer, mask, where, illegal)
    replaced = action != operator.index(answer)
    if seen.shown is not None:
        return Answer(seen.shown.action_of(0, action), thought_s, replaced)
    if action < layout.max_slots:
        return Answer(action, thought_s, replaced)
    if action == len(mask) - 1:
        return Answer(len(simulator.state.legal) - 1, thought_s, replaced)
    return Answer(simulator.max_slots + action - layout.max_slots, thought_s, replaced)


def _legal_action(answer: Any, mask: Int8Array, where: str, illegal: Illegal) -> int:
    """Convert an answer to a legal action; with "replace", illegal actions are replaced as in the environments.

    Raises:
        PolicyError: it is not an action, or it is illegal and `illegal` is "error".
    """
    wanted = f"it has to be the number of one legal action, now one of {np.flatnonzero(mask).tolist()}"
    try:
        action = operator.index(answer)
    except TypeError:
        hint = "; SB3's predict returns a pair: give its first element" if isinstance(answer, tuple) else ""
        shape = f" of shape {answer.shape}" if isinstance(answer, np.ndarray) else ""
        raise PolicyError(
            f"{where}: the answer {answer!r} is a {type(answer).__name__}{shape}; {wanted}{hint}"
        ) from None
    if not 0 <= action < len(mask):
        raise PolicyError(f"{where}: there is no action {action}; use 0 to {len(mask) - 1}; {wanted}")
    if mask[action]:
        return action
    if illegal == "replace":
        return int(mask.argmax())
    raise PolicyError(
        f"{where}: the answer {action} is not legal; {wanted}; for a policy that does not use masks, "
        'evaluate(..., illegal="replace"), or experiments.compare --illegal replace, replaces it by the lowest of them '
        "and counts it"
    )


def _where(name: str, simulator: Simulator, seed: int) -> str:
    return f"policy {name!r}, seed {seed}, decision {simulator.question.decision}"


def action_by_scores(name: str, policy: Scorer, simulator: Simulator, seed: int, rule: Rule) -> Answer:
    """Ask a scorer at the open question.

    Asked for a victim it scores slots. Asked which model to load (Swap-v0), its method
    `order(features (M, F), legal (M + 1,)) -> scores (M + 1,)` scores models and waiting: the legal one with the
    highest score is taken, ties go to the lowest number. Without such a method the order of `rule` decides, and the
    scorer chooses the victims.

    Raises:
        PolicyError: it failed, or its answer is not scores; the message has `name` and `seed`.
    """
    question = simulator.question
    where = _where(name, simulator, seed)
    own_order = getattr(policy, "order", None)
    slots, models = simulator.max_slots, simulator.tables.num_models
    if question.target == NONE:
        if not callable(own_order):
            return Answer(int(pick(*simulator.arguments, rule, new_scratch(slots, models))), 0.0)
        # An environment may have more rows than models; the last action is to wait in any case.
        actions = [*range(slots, slots + models), len(question.legal) - 1]
        legal = question.legal[actions]
        answer, thought_s = _thought(own_order, simulator.model_features(), legal, where)
        scores = _numbers(answer, legal, where, "score", "model (the last is waiting)")
        return Answer(actions[_highest(scores, legal)], thought_s, scores=_of_actions(question, actions, legal, scores))
    legal = question.legal[:slots]
    features = simulator.features()
    if simulator.tables.protocol == Protocol.SWAP and not callable(own_order):
        candidates = np.zeros(slots, dtype=np.int64)
        read_victims(*simulator.arguments[:4], rule, candidates)
        legal = candidates == 1
    answer, thought_s = _thought(policy, features, legal, where)
    keep = _numbers(answer, legal, where, "keep-score", "slot")
    return Answer(_lowest(keep, features, legal), thought_s, scores=_of_actions(question, range(slots), legal, -keep))


def _thought(
    scores: Callable[[FloatArray, BoolArray], npt.ArrayLike], features: FloatArray, legal: BoolArray, where: str
) -> tuple[npt.ArrayLike, float]:
    """Call a user function with arguments that it may change; returns its answer and how long it took [s]."""
    began = time.perf_counter()
    try:
        answer = scores(features.copy(), legal.copy())
    except Exception as error:
        raise PolicyError(f"{where}: {problem_of(error)}") from error
    return answer, time.perf_counter() - began


def problem_of(error: Exception) -> str:
    """An error in the code of a user in words, with the closest name where one is misspelt."""
    hint = ""
    if isinstance(error, AttributeError) and error.name:
        hint = did_you_mean(error.name, [name for name in dir(error.obj) if not name.startswith("_")])
    return f"{type(error).__name__}: {error}{hint}"


def _of_actions(question: Question, actions: Sequence[int], legal: BoolArray, scores: FloatArray) -> FloatArray:
    """Scores of all actions, of which a scorer saw `actions` and was to choose a `legal` one."""
    out = np.full(len(question.legal), np.nan)
    out[actions] = np.where(legal, scores, np.nan)
    return out


def _highest(scores: FloatArray, legal: BoolArray) -> int:
    """The legal model with the highest score, or the number of models: wait; ties: lowest number."""
    rows = np.flatnonzero(legal)
    return int(rows[np.argmax(scores[rows])])


def _lowest(scores: FloatArray, features: FloatArray, legal: BoolArray) -> int:
    """The legal slot with the lowest keep-score; ties: least recently used, then lowest slot."""
    slots = np.flatnonzero(legal)
    tied = slots[scores[slots] == scores[slots].min()]
    return int(tied[np.argmax(features[tied, SLOT.since_use_s])])


def _numbers(answer: npt.ArrayLike, legal: BoolArray, where: str, score: str, row: str) -> FloatArray:
    """Convert an answer to numbers, one per row, legal or not.

    Raises:
        PolicyError: it does not hold numbers, has the wrong shape, or is NaN for a legal row.
    """
    wanted = f"it has to be one {score} per {row}, shape {legal.shape}"
    try:
        scores = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"{where}: the answer is a {type(answer).__name__} that does not hold numbers; {wanted}"
        ) from error
    if scores.shape != legal.shape:
        raise PolicyError(f"{where}: the answer has shape {scores.shape}; {wanted}")
    unknown = np.flatnonzero(legal & np.isnan(scores))
    if len(unknown):
        raise PolicyError(f"{where}: the {score} of legal {row} {unknown[0]} is NaN; give every legal {row} a number")
    return scores
