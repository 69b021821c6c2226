"""A wrapper that writes every decision to a log, whoever acts."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import gymnasium

from cace_env.config import ConfigError
from cace_env.decision_log import DecisionLog, Recorder
from cace_env.envs.cost_limits import AnyWrapper
from cace_env.envs.fleet_env import FleetEnv
from cace_env.kernel.state import LEGAL
from cace_env.policies import Agent
from cace_env.policies import policy as find_policy
from cace_env.policies.built_in import Policy


class LogDecisions(AnyWrapper):
    """Writes the decisions of a single environment to a `cace_env.decision_log.DecisionLog`.

    ```python
    with DecisionLog("decisions") as log:
        env = LogDecisions(gym.make("cace_env:cace_env/Eviction-v0"), log, "my agent")
        observation, info = env.reset(seed=0)
        ...
    ```

    An illegal action is written as the one that took its place. An environment that can be rendered has an event trace:
    then evictions in which nobody chose are written, too.

    Args:
        env: an `EvictionEnv` or a `SwapEnv`, wrapped or not.
        log: where to; it is not closed here.
        name: of the policy that acts.
        policy: the same as for `explain`, to write its scores and reasons; without it there are only the candidates.

    Raises:
        ConfigError: the environment is not of these kinds, or there is no such policy.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        log: DecisionLog,
        name: str,
        policy: str | Policy | Agent | None = None,
    ) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, FleetEnv):
            raise ConfigError(f"LogDecisions needs an EvictionEnv or a SwapEnv, got {env.unwrapped!r}")
        self._fleet_env, self._log, self._name = env.unwrapped, log, name
        self._policy = policy.policy() if isinstance(policy, Agent) else None if policy is None else find_policy(policy)
        self._recorder: Recorder | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        scenario = self._fleet_env.scenario.name
        recorder = Recorder(self._log, self._name, self._policy, scenario=scenario, seed=info["workload_seed"])
        recorder.begin(self._fleet_env.simulator)
        self._recorder = recorder
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment and writes the decision."""
        recorder, simulator = self._recorder, None
        if recorder is not None:
            simulator = self._fleet_env.simulator
            legal = simulator.state.legal
            number = operator.index(action) if isinstance(action, SupportsIndex) else -1
            if simulator.state.scalars[LEGAL] > 0 and 0 <= number < len(legal):  # otherwise `step` raises
                recorder.note(simulator, number if legal[number] else int(legal.argmax()), self._policy)
        result = self.env.step(action)
        if recorder is not None and simulator is not None:
            recorder.settle(simulator)
        return result
