"""A wrapper that says of every decision why it was taken."""

from __future__ import annotations

from typing import Any

import gymnasium

from cace_env.config import ConfigError
from cace_env.envs.fleet_env import FleetEnv
from cace_env.kernel.state import LEGAL
from cace_env.policies import Agent, explain
from cace_env.policies import policy as find_policy
from cace_env.policies.built_in import Policy
from cace_env.policies.explanations import Against, Explanation


class ExplainDecisions(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds `info["explanation"]`: what a policy would do at the open question, and why; None where nothing is asked.

    ```python
    env = ExplainDecisions(gym.make("cace_env:cace_env/Eviction-v0"), "agent:NAME")
    observation, info = env.reset(seed=0)
    print(info["explanation"])
    ```

    It is about the question that is open now: where the same policy acts, it is why it will do what it does next.

    Args:
        env: an `EvictionEnv` or a `SwapEnv`, wrapped or not.
        policy: as for `explain`.
        against: as for `explain`.

    Raises:
        ConfigError: another environment, or a policy that cannot be explained.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], policy: str | Policy | Agent, *, against: Against = "mean"
    ) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, FleetEnv):
            raise ConfigError(f"decisions are explained in an EvictionEnv or a SwapEnv, and {env.unwrapped!r} is none")
        self._fleet_env, self._against = env.unwrapped, against
        self._policy = policy.policy() if isinstance(policy, Agent) else find_policy(policy)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"explanation": self._explain()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"explanation": self._explain()}

    def _explain(self) -> Explanation | None:
        simulator = self._fleet_env.simulator
        if simulator.state.scalars[LEGAL] == 0:
            return None
        return explain(self._policy, simulator, against=self._against)
