"""A policy in one episode, asked question by question: shared by Python policies and guards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.forecasting.demand import DemandScorer, News
from cace_env.forecasting.gazette import Gazette
from cace_env.kernel.orders import LEARNED, ORDER
from cace_env.kernel.pick import pick
from cace_env.kernel.rules import Scratch
from cace_env.kernel.state import LIMIT
from cace_env.observation import ObservationLayout
from cace_env.policies.built_in import Policy, Training, rule_of
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.clairvoyant import Future
from cace_env.policies.orders import Order
from cace_env.policies.python import Illegal, PythonPolicy, acts, layout_for, python_action, view
from cace_env.simulation import Limits, Simulator, new_scratch
from cace_env.tables import NONE, FleetTables, FloatArray, Protocol
from cace_env.workload import Workload

ILLEGAL_ACTIONS: Final = "illegal_actions"  # name of a column


class Player:
    """Answers the open questions of a simulator by a policy.

    Args:
        name: for error messages.
        policy: a built-in or Python policy; its methods `reset(seed)`, and `watch(news)` before each question, are
            called if it has them (`cace_env.forecasting.demand.News`).
        tables: the fleet.
        workload: the requests, for policies that know the future.
        seed: seed of the episode.
        order: order in Swap-v0 for a scorer without one of its own; None = fifo.
        future: for clairvoyant policies; made here if it is needed and not given.
        training: for policies that learn from training requests.
        illegal: handling of illegal actions of a Python policy.
        layout: layout for an acting policy without one of its own; None = the smallest that holds the fleet.

    Attributes:
        replaced: illegal actions so far.

    Raises:
        ConfigError: the policy cannot play on this fleet.
    """

    def __init__(
        self,
        name: str,
        policy: Policy | PythonPolicy,
        tables: FleetTables,
        workload: Workload,
        seed: int,
        *,
        order: Order | None = None,
        future: Future | None = None,
        training: Training | None = None,
        illegal: Illegal = "error",
        layout: ObservationLayout | None = None,
    ) -> None:
        self.name, self.policy, self.seed = name, policy, seed
        self.replaced = 0
        self._illegal, self._layout = illegal, layout
        self._scratch: Scratch | None = None  # made at the first question, when the number of slots is known
        self._given: FloatArray | None = None  # scores of a scorer in Python
        self._watch: Callable[[News], None] | None = None
        if isinstance(policy, Policy):
            if policy.clairvoyant and future is None:
                future = Future.of(tables, workload)
            self._rule = rule_of(policy, tables, seed=seed, workload=workload, future=future, training=training)
            self.limits = policy.limits(tables)
            return
        if order is not None and acts(policy):
            raise ConfigError(f"policy {name!r} has a method act, which chooses loads, too; name it without an order")
        if order is not None and tables.protocol != Protocol.SWAP:
            raise ConfigError(
                f"policy {name!r} has an order, but Eviction-v0 does not ask for one; use Swap-v0, or name the policy "
                "without it"
            )
        # The order and the timer of its patience; this rule never chooses victims.
        self._rule = rule_of(replace(find_policy("lru"), order=order), tables)
        self.limits = Limits(patience_us=int(self._rule.limits[LIMIT.patience_us]))
        if callable(reset := getattr(policy, "reset", None)):
            reset(seed)
        if isinstance(policy, DemandScorer):
            policy.begin(tables, workload, seed)
        if callable(watch := getattr(policy, "watch", None)):
            self._watch, self._gazette = watch, Gazette()

    def answer(self, simulator: Simulator) -> tuple[int, float]:
        """The policy's action, and the seconds that a Python policy took.

        Raises:
            PolicyError: the Python policy failed, or its answer is not valid.
        """
        if not isinstance(self.policy, Policy):
            if isinstance(self.policy, DemandScorer):
                self.policy.look(simulator)
            if self._watch is not None:
                self._watch(self._gazette.news(simulator))
            answer = python_action(
                self.name, self.policy, simulator, self.seed, self._rule, self._layout, self._illegal
            )
            self.replaced += answer.replaced
            self._given = answer.scores
            return answer.action, answer.thought_s
        if self._scratch is None:
            scratch = new_scratch(simulator.max_slots, simulator.tables.num_models, self._rule.network)
            self._scratch = scratch._replace(next_pointer=self._rule.future_start[:-1].copy())
        return int(pick(*simulator.arguments, self._rule, self._scratch)), 0.0

    def scores(self, simulator: Simulator) -> FloatArray | None:
        """Scores of all actions behind the last answer, `(actions,)`: the highest is chosen, NaN = has none.

        Keep-scores count with a minus. None for a Python policy that answers with actions. Ask before the simulator
        goes on.
        """
        if not isinstance(self.policy, Policy):
            return self._given
        slots, legal = simulator.max_slots, simulator.state.legal
        scores = np.full(len(legal), np.nan)
        ordering = simulator.question.target == NONE
        scratch = self._scratch
        if scratch is None or (ordering and self._rule.order[ORDER.kind] != LEARNED):
            return scores
        victims = np.flatnonzero(scratch.candidates)
        if self.policy.network is None:
            scores[victims] = -scratch.scores[victims]
            return scores
        layout = layout_for(None, simulator)
        logits = self.policy.network.logits(view(simulator, layout).observation, layout)
        if not ordering:
            scores[victims] = logits[victims]
            return scores
        models = layout.max_pending
        scores[slots : slots + models] = logits[slots : slots + models]
        scores[-1] = logits[-1]
        scores[legal == 0] = np.nan
        return scores

    def columns(self) -> dict[str, float]:
        """Counts of the episode as columns of a row of results: replaced actions, if replacing is allowed."""
        return {ILLEGAL_ACTIONS: float(self.replaced)} if self._illegal == "replace" else {}
