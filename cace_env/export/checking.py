"""Questions of simulated episodes with the answers of a policy, and how an exported form answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.kernel.run import observe
from cace_env.observation import ObservationLayout
from cace_env.policies import Policy
from cace_env.policies.player import Player
from cace_env.simulation import Simulator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Question:
    """What an exported policy is asked, in physical units, and what the policy answers in cace-env.

    `S` slots, `K` models, `A` actions: S, for an agent of Swap-v0 S + K + 1.
    """

    slots: FloatArray  # (S, slot features)
    pending: FloatArray  # (K, pending features)
    context: FloatArray  # (context features,)
    legal: npt.NDArray[np.bool_]  # (A,)
    action: int
    scores: FloatArray  # (A,) of cace-env, the highest wins; NaN for illegal actions


@dataclass(frozen=True)
class Agreement:
    """How many questions were asked, at how many the action was the same, and how far scores were apart.

    `score_error` is the greatest difference of a score, over the greatest score of its question (at least 1).
    """

    questions: int
    same: int
    score_error: float


def features_at(simulator: Simulator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Raw features at the open question: slots `(S, ...)`, pending models `(M, ...)` and context, in physical units."""
    layout = ObservationLayout(simulator.max_slots, simulator.tables.num_models)
    scaling = layout.scaling()  # fresh: rows without a model are zeros
    observe(*simulator.arguments, scaling, layout.max_pending, np.empty(layout.size, dtype=np.float32))
    raw = scaling.raw
    slots, pending, context = np.split(raw, (layout.slots_end, layout.pending_end))
    return slots.reshape(layout.max_slots, -1), pending.reshape(layout.max_pending, -1), context


def questions(policy: Policy, case: Case, seed: int) -> Iterator[Question]:
    """The questions of an episode that the policy answers by its scores, as it plays.

    Where an order decides which model is loaded (Swap-v0), these are the questions for victims, and `legal` are the
    victims that the order leaves.

    Raises:
        ConfigError: the policy cannot play this case.
    """
    workload = case.workload(seed)
    player = Player(policy.name, policy, case.tables, workload, seed)
    whole = policy.network is not None and policy.network.protocol == case.tables.protocol
    simulator = Simulator(case.tables, player.limits)
    asked = simulator.reset(workload)
    while asked:
        action, _ = player.answer(simulator)
        scores = player.scores(simulator)
        scores = scores if whole or scores is None else scores[: simulator.max_slots]
        if scores is not None and not np.isnan(scores).all():
            yield Question(*features_at(simulator), ~np.isnan(scores), action, scores)
        asked = simulator.answer(action)


def agreement(
    decide: Callable[[FloatArray, FloatArray, FloatArray, npt.NDArray[np.bool_]], tuple[int, FloatArray]],
    recorded: Iterable[Question],
) -> Agreement:
    """Ask an exported form all of the questions.

    Args:
        decide: `(slots, pending, context, legal) -> (action, scores)`, as `load_onnx` gives it.
        recorded: from `questions`.
    """
    asked, same, error = 0, 0, 0.0
    for one in recorded:
        action, scores = decide(one.slots, one.pending, one.context, one.legal)
        asked, same = asked + 1, same + (action == one.action)
        expected = one.scores[one.legal]
        error = max(error, float(np.abs(scores[one.legal] - expected).max() / max(1.0, np.abs(expected).max())))
    return Agreement(asked, same, error)
