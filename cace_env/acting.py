"""Any policy as one who acts in `Eviction-v0`: for videos, data sets, imitation.

`cace_env.evaluate` runs whole episodes, which is how to compare policies. An `Actor` is asked step by step.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from cace_env.clairvoyant import Future
from cace_env.config import ConfigError
from cace_env.env import EvictionEnv
from cace_env.evaluation import Scorer, action_by_scores, case_of, contestant_of
from cace_env.kernel.pick import pick
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.state import LEGAL
from cace_env.policies import Policy, rule_of
from cace_env.policies import policy as find_policy
from cace_env.simulator import new_scratch


class Actor:
    """What a policy would evict, step by step.

    ```python
    actor = Actor("cace", env)
    observation, info = env.reset(seed=0)
    actor.reset(info["workload_seed"])
    observation, reward, terminated, truncated, info = env.step(actor.act())
    ```

    An episode that it plays to its end is the one of `cace_env.evaluate` with the same policy, scenario and seed, at
    the same cost. That cannot be for a policy that unloads idle models by itself or keeps no more than so many (`ttl`,
    `ollama`, ...): in `Eviction-v0` nothing leaves but what an action evicts. Such a policy is refused, unless its
    choice of victims is all that is wanted.

    Args:
        policy: as for `evaluate`; all but "no-swapping".
        env: an `EvictionEnv`, wrapped or not.
        victims_only: leave out keep-alive and count limit of a policy that has one.

    Raises:
        ConfigError: no such policy, or one that cannot act in this environment.
    """

    def __init__(
        self, policy: str | Policy | Scorer, env: gymnasium.Env[Any, Any], *, victims_only: bool = False
    ) -> None:
        contestant = contestant_of(policy)
        if not isinstance(env.unwrapped, EvictionEnv):
            raise ConfigError(f"a policy can act in an EvictionEnv, and {env.unwrapped!r} is none")
        if not contestant.swaps:
            raise ConfigError(f"{contestant.name!r} is a fleet with room for everything, not a policy that could act")
        self.name = contestant.name
        self.policy = contestant.policy
        if self.has_limits and not victims_only:
            raise ConfigError(
                f"policy {self.name!r} has a keep-alive or a count limit, by which models leave unasked; in "
                "Eviction-v0 nothing leaves but by an action, so this would be another policy; victims_only=True "
                "plays its choice of victims alone"
            )
        self._env = env.unwrapped
        self._training = case_of(self._env.scenario).training
        self._seed = 0
        self._thinking: tuple[Rule, Scratch] | None = None  # since `reset`

    @property
    def has_limits(self) -> bool:
        """Whether `evaluate` would let the policy unload models without being asked."""
        policy = self.policy
        return isinstance(policy, Policy) and (policy.keep_alive_s is not None or policy.max_resident is not None)

    def reset(self, seed: int = 0) -> None:
        """Begins an episode, or takes over in the middle; call it after `env.reset` and after `set_state`.

        Args:
            seed: for what the policy draws; `info["workload_seed"]` makes it draw what it does in `evaluate`.

        Raises:
            ConfigError: the environment has not been reset, or the policy needs what this scenario does not have.
        """
        env, policy = self._env, self.policy
        workload = env.workload  # generated anew whenever it is asked for
        if workload is None:
            raise ConfigError("there is no episode to act in; reset the environment first")
        self._seed = seed
        if isinstance(policy, Policy):
            future = Future.of(env.tables, workload) if policy.clairvoyant else None
            rule = rule_of(policy, env.tables, seed=seed, workload=workload, future=future, training=self._training)
        else:
            rule = rule_of(find_policy("lru"), env.tables)  # the order of a policy that has none, in Swap-v0
            if callable(reset := getattr(policy, "reset", None)):
                reset(seed)
        scratch = new_scratch(env.simulator.max_slots, env.tables.num_models)
        self._thinking = rule, scratch._replace(next_pointer=rule.future_start[:-1].copy())

    def act(self) -> int:
        """The slot to evict now; 0, the no-op, where nothing is asked.

        Raises:
            PolicyError: the Python policy failed, or returned what are not keep-scores.
            ConfigError: no `reset` before.
        """
        simulator = self._env.simulator
        if simulator.state.scalars[LEGAL] == 0:
            return 0
        if self._thinking is None:
            raise ConfigError(f"policy {self.name!r} knows nothing of this episode; call reset after env.reset")
        rule, scratch = self._thinking
        if isinstance(self.policy, Policy):
            return int(pick(*simulator.arguments, rule, scratch))
        return action_by_scores(self.name, self.policy, simulator, self._seed, rule)[0]
