"""A wrapper that explains every decision."""

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
    """Adds `info["explanation"]`: what a policy would do at the open question, and why; None if no question is open.

    ```python
    env = ExplainDecisions(gym.make("cace_env:cace_env/Eviction-v0"), "agent:NAME")
    observation, info = env.reset(seed=0)
    print(info["explanation"])
    ```

    It explains the question that is open now. If the same policy acts, it explains the policy's next action.

    Args:
        env: an `EvictionEnv` or a `SwapEnv`, wrapped or not.
        policy: as for `explain`.
        against: as for `explain`.

    Raises:
        ConfigError: the environment is not of these kinds, or the policy cannot be explained.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], policy: str | Policy | Agent, *, against: Against = "mean"
    ) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, FleetEnv):
            raise ConfigError(f"ExplainDecisions needs an EvictionEnv or a SwapEnv, got {env.unwrapped!r}")
        self._fleet_env, self._against = env.unwrapped, against
        self._policy = policy.policy() if isinstance(policy, Agent) else find_policy(policy)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and adds the explanation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"explanation": self._explain()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment and adds the explanation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"explanation": self._explain()}

    def _explain(self) -> Explanation | None:
        simulator = self._fleet_env.simulator
        if simulator.state.scalars[LEGAL] == 0:
            return None
        return explain(self._policy, simulator, against=self._against)
