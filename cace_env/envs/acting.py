"""An adapter that lets any policy act in `Eviction-v0` or `Swap-v0`: for videos, data sets, imitation.

`cace_env.evaluate` runs whole episodes, which is how to compare policies. An `Actor` gives one action per step.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.envs.fleet_env import FleetEnv
from cace_env.kernel.state import LEGAL
from cace_env.policies import Agent, Guarded, Planner, PythonPolicy, contestant_of
from cace_env.policies.built_in import Policy
from cace_env.policies.player import Player
from cace_env.tables import FOREVER, Protocol


class Actor:
    """Gives the action that a policy would take, step by step.

    ```python
    actor = Actor("cace", env)
    observation, info = env.reset(seed=0)
    actor.reset(info["workload_seed"])
    observation, reward, terminated, truncated, info = env.step(actor.act())
    ```

    An episode that it plays to its end is the one of `cace_env.evaluate` with the same policy, scenario and seed (and
    `protocol="swap"` in `Swap-v0`), at the same cost. Two kinds of policies cannot do that and are refused: those that
    unload idle models by themselves or limit how many stay loaded (`ttl`, `ollama`, ...), and orders whose patience
    ends at a time of its own (`patient-fifo`, ...). In the environments a model leaves only when an action evicts it,
    and no timer asks for an action. With `choices_only=True` such a policy plays its choices alone.

    Args:
        policy: as for `evaluate`, except "no-swapping" and guarded policies. In `Swap-v0` it may have an order
            ("wsjf+cace").
        env: an `EvictionEnv` or a `SwapEnv`, wrapped or not.
        choices_only: leave out keep-alive, count limit and timer of a policy that has one.

    Raises:
        ConfigError: there is no such policy, or it cannot act in this environment.
    """

    def __init__(
        self, policy: str | Policy | Agent | PythonPolicy, env: gymnasium.Env[Any, Any], *, choices_only: bool = False
    ) -> None:
        contestant = contestant_of(policy)
        if not isinstance(env.unwrapped, FleetEnv):
            raise ConfigError(f"an Actor needs an EvictionEnv or a SwapEnv, got {env.unwrapped!r}")
        if not contestant.swaps:
            raise ConfigError(f"{contestant.name!r} stands for a fleet with room for everything; it cannot act")
        if isinstance(contestant.policy, Guarded):
            raise ConfigError(f"{contestant.name!r} is guarded, and a guard needs whole episodes; leave it out")
        if isinstance(contestant.policy, Planner):
            raise ConfigError(f"{contestant.name!r} plans, and a planner needs whole episodes; name its policy alone")
        self.name = contestant.name
        self.policy: Policy | PythonPolicy = contestant.policy
        self._env = env.unwrapped
        self._order = self.policy.order if isinstance(self.policy, Policy) else contestant.order
        if self._order is not None and self._env.PROTOCOL != Protocol.SWAP:
            raise ConfigError(
                f"policy {self.name!r} has an order, but Eviction-v0 does not ask for one; use Swap-v0, or name the "
                "policy without its order"
            )
        if self.has_limits and not choices_only:
            raise ConfigError(
                f"policy {self.name!r} has a keep-alive, a count limit or a timer, but in {self._env.ID} a model "
                "leaves only when an action evicts it, so it would be another policy; pass choices_only=True to play "
                "its choices alone"
            )
        self._training = case_of(self._env.scenario).training
        self._player: Player | None = None  # None before `reset`

    @property
    def has_limits(self) -> bool:
        """Whether `evaluate` would let the policy unload models without being asked, or ask it at other times."""
        if self._order is not None and 0 < self._order.patience_us < FOREVER:
            return True
        return isinstance(self.policy, Policy) and self.policy.unloads_by_itself

    def reset(self, seed: int = 0) -> None:
        """Begins an episode, or joins it in the middle; call it after `env.reset` and after `set_state`.

        Args:
            seed: of the policy's own random draws; `info["workload_seed"]` gives the draws of `evaluate`.

        Raises:
            ConfigError: the environment has not been reset, or the scenario lacks what the policy needs.
        """
        env = self._env
        workload = env.workload  # generated again on every access
        if workload is None:
            raise ConfigError("there is no episode yet; call env.reset first")
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
        """The action to take now; 0, the no-op, if no question is open.

        Raises:
            PolicyError: the Python policy failed, or its answer is neither keep-scores nor a legal action.
            ConfigError: `reset` has not been called.
            SimulationError: with `top_k`, the choice is not among the rows that the environment shows.
        """
        if self._player is None:
            raise ConfigError(f"policy {self.name!r} has not been reset for this episode; call reset after env.reset")
        simulator = self._env.simulator
        if simulator.state.scalars[LEGAL] == 0:
            return 0
        action, shown = self._player.answer(simulator)[0], self._env.simulators.shown
        return action if shown is None else shown.number_of(0, action)
