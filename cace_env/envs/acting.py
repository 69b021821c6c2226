"""Any policy as one who acts in `Eviction-v0` or `Swap-v0`: for videos, data sets, imitation.

`cace_env.evaluate` runs whole episodes, which is how to compare policies. An `Actor` is asked step by step.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.envs.fleet_env import FleetEnv
from cace_env.kernel.state import LEGAL
from cace_env.policies import Agent, Guarded, PythonPolicy, contestant_of
from cace_env.policies.built_in import Policy
from cace_env.policies.player import Player
from cace_env.tables import FOREVER, Protocol


class Actor:
    """What a policy would do, step by step.

    ```python
    actor = Actor("cace", env)
    observation, info = env.reset(seed=0)
    actor.reset(info["workload_seed"])
    observation, reward, terminated, truncated, info = env.step(actor.act())
    ```

    An episode that it plays to its end is the one of `cace_env.evaluate` with the same policy, scenario and seed (and
    `protocol="swap"` in `Swap-v0`), at the same cost. That cannot be for a policy that unloads idle models by itself or
    keeps no more than so many (`ttl`, `ollama`, ...), nor for an order that wants to be asked again when its patience
    has run out (`patient-fifo`, ...): in the environments nothing leaves but what an action evicts, and nobody is woken
    by a timer. Such a policy is refused, unless its choices are all that is wanted.

    Args:
        policy: as for `evaluate`; all but "no-swapping" and those under guard. In `Swap-v0` it may have an order
            ("wsjf+cace").
        env: an `EvictionEnv` or a `SwapEnv`, wrapped or not.
        choices_only: leave out keep-alive, count limit and timer of a policy that has one.

    Raises:
        ConfigError: no such policy, or one that cannot act in this environment.
    """

    def __init__(
        self, policy: str | Policy | Agent | PythonPolicy, env: gymnasium.Env[Any, Any], *, choices_only: bool = False
    ) -> None:
        contestant = contestant_of(policy)
        if not isinstance(env.unwrapped, FleetEnv):
            raise ConfigError(f"a policy can act in an EvictionEnv or a SwapEnv, and {env.unwrapped!r} is none")
        if not contestant.swaps:
            raise ConfigError(f"{contestant.name!r} is a fleet with room for everything, not a policy that could act")
        if isinstance(contestant.policy, Guarded):
            raise ConfigError(f"{contestant.name!r} is under guard, which is for whole episodes; name it without")
        self.name = contestant.name
        self.policy: Policy | PythonPolicy = contestant.policy
        self._env = env.unwrapped
        self._order = self.policy.order if isinstance(self.policy, Policy) else contestant.order
        if self._order is not None and self._env.PROTOCOL != Protocol.SWAP:
            raise ConfigError(
                f"policy {self.name!r} has an order, and Eviction-v0 asks for none; let it act in Swap-v0, or name the "
                "policy without it"
            )
        if self.has_limits and not choices_only:
            raise ConfigError(
                f"policy {self.name!r} has a keep-alive or a count limit, by which models leave unasked, or an order "
                f"whose patience ends at a time of its own; in {self._env.ID} nothing happens but by an action that is "
                "asked for, so this would be another policy; choices_only=True plays its choices alone"
            )
        self._training = case_of(self._env.scenario).training
        self._player: Player | None = None  # since `reset`

    @property
    def has_limits(self) -> bool:
        """Whether `evaluate` would let the policy unload models without being asked, or ask it at other times."""
        if self._order is not None and 0 < self._order.patience_us < FOREVER:
            return True
        return isinstance(self.policy, Policy) and self.policy.unloads_by_itself

    def reset(self, seed: int = 0) -> None:
        """Begins an episode, or takes over in the middle; call it after `env.reset` and after `set_state`.

        Args:
            seed: for what the policy draws; `info["workload_seed"]` makes it draw what it does in `evaluate`.

        Raises:
            ConfigError: the environment has not been reset, or the policy needs what this scenario does not have.
        """
        env = self._env
        workload = env.workload  # generated anew whenever it is asked for
        if workload is None:
            raise ConfigError("there is no episode to act in; reset the environment first")
        self._player = Player(
            self.name,
            self.policy,
            env.tables,
            workload,
            seed,
            order=self._order,
            training=self._training,
            layout=env.layout,  # in Eviction-v0 it may have fewer rows of pending models than there are models
        )

    def act(self) -> int:
        """What to do now; 0, the no-op, where nothing is asked.

        Raises:
            PolicyError: the Python policy failed, or answered neither with keep-scores nor with a legal action.
            ConfigError: no `reset` before.
        """
        if self._player is None:
            raise ConfigError(f"policy {self.name!r} knows nothing of this episode; call reset after env.reset")
        simulator = self._env.simulator
        return 0 if simulator.state.scalars[LEGAL] == 0 else self._player.answer(simulator)[0]
