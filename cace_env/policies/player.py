"""A policy in one episode, asked question by question: what Python policies and guards have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cace_env.config import ConfigError
from cace_env.kernel.pick import pick
from cace_env.kernel.rules import Scratch
from cace_env.kernel.state import LIMIT
from cace_env.observation import ObservationLayout
from cace_env.policies.built_in import Policy, Training, rule_of
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.clairvoyant import Future
from cace_env.policies.orders import Order
from cace_env.policies.python import Illegal, PythonPolicy, acts, python_action
from cace_env.simulation import Limits, Simulator, new_scratch
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload

ILLEGAL_ACTIONS: Final = "illegal_actions"  # column of rows


class Player:
    """Answers the open question of a simulator, as its policy does.

    Args:
        name: stands in errors.
        policy: a built-in one, or anybody's; one with a method `reset(seed)` is reset.
        tables: the fleet.
        workload: the requests, for policies that know the future.
        seed: of the episode.
        order: of a scorer that has none itself, in Swap-v0; None = fifo.
        future: for clairvoyant policies; made here where it is needed and not given.
        training: for policies that learn from training requests.
        illegal: what becomes of a Python policy's action that is not legal.
        layout: of what an acting policy sees that has none of its own; None = the least that holds the fleet.

    Attributes:
        replaced: actions that were not legal, so far.

    Raises:
        ConfigError: a policy that cannot play on this fleet.
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
        self._scratch: Scratch | None = None  # made at the first question, which knows the number of slots
        if isinstance(policy, Policy):
            if policy.clairvoyant and future is None:
                future = Future.of(tables, workload)
            self._rule = rule_of(policy, tables, seed=seed, workload=workload, future=future, training=training)
            self.limits = policy.limits(tables)
            return
        if order is not None and acts(policy):
            raise ConfigError(f"policy {name!r} acts, so it says itself which model to load; name it without an order")
        if order is not None and tables.protocol != Protocol.SWAP:
            raise ConfigError(
                f"policy {name!r} has an order, and Eviction-v0 asks for none; run it in Swap-v0, or name the policy "
                "without it"
            )
        # Its order, with the timer of its patience; the victims of this rule are never asked for.
        self._rule = rule_of(replace(find_policy("lru"), order=order), tables)
        self.limits = Limits(patience_us=int(self._rule.limits[LIMIT.patience_us]))
        if callable(reset := getattr(policy, "reset", None)):
            reset(seed)

    def answer(self, simulator: Simulator) -> tuple[int, float]:
        """What the policy does now, and the seconds that it thought if it is a Python policy.

        Raises:
            PolicyError: the Python policy failed, or answered nonsense.
        """
        if not isinstance(self.policy, Policy):
            answer = python_action(
                self.name, self.policy, simulator, self.seed, self._rule, self._layout, self._illegal
            )
            self.replaced += answer.replaced
            return answer.action, answer.thought_s
        if self._scratch is None:
            scratch = new_scratch(simulator.max_slots, simulator.tables.num_models, self._rule.network)
            self._scratch = scratch._replace(next_pointer=self._rule.future_start[:-1].copy())
        return int(pick(*simulator.arguments, self._rule, self._scratch)), 0.0

    def columns(self) -> dict[str, float]:
        """Of the episode, as columns of a row of results: how many actions were replaced, where they may be."""
        return {ILLEGAL_ACTIONS: float(self.replaced)} if self._illegal == "replace" else {}
