"""What an env runner plays, and what it says of it: the native vector environment, and a count of what was simulated.

Seeds are those of the training split; nothing here takes others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium.vector import VectorWrapper
from ray.rllib.callbacks.callbacks import RLlibCallback

from cace_env.envs import EvictionVectorEnv, FleetVectorEnv, SwapVectorEnv
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol

VECTOR_ENVS: Final[dict[Protocol, type[FleetVectorEnv]]] = {
    Protocol.EVICTION: EvictionVectorEnv,
    Protocol.SWAP: SwapVectorEnv,
}
MOST_SEED: Final = 2**31 - 4097  # environment i of a runner gets its seed plus i
# What a runner says after each sample, under these names in RLlib's results; costs by the number of their scenario.
REQUESTS: Final = "requests"
FINISHED: Final = "finished_requests"
COST: Final = "cost"
BASELINE_COST: Final = "baseline_cost"


class OwnSeeds(VectorWrapper):
    """Environments whose seeds are far from those of other runners: RLlib's are one apart, as are environments'.

    Args:
        env: the environments.
        seed: numbers of the training, which make the seeds of another one different.
    """

    def __init__(self, env: FleetVectorEnv, seed: Sequence[int]) -> None:
        super().__init__(env)
        self._seed = tuple(seed)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Resets; a seed stands for one drawn from it and from the training's."""
        if seed is not None:
            seed = int(np.random.default_rng([*self._seed, seed]).integers(MOST_SEED))
        return self.env.reset(seed=seed, options=options)


def make_env(config: Mapping[str, Any]) -> OwnSeeds:
    """The environments of a runner, as RLlib asks for them; environment i plays scenario `i % n`."""
    envs = VECTOR_ENVS[config["env"]](
        config.get("num_envs", 1),
        scenario=[Scenario.model_validate_json(each) for each in config["scenarios"]],
        split="train",
        num_workloads=config["num_workloads"],
        baseline=config["baseline"],
        scale_rewards=True,
        strict=config["strict"],
        invalid_penalty=0.0,
    )
    return OwnSeeds(envs, config["seed"])


class Told(RLlibCallback):  # type: ignore[misc]  # RLlib's types are not checked
    """Counts what a runner has simulated, and says what the episodes cost that have ended."""

    def __init__(self) -> None:
        self._ended = 0  # requests of episodes that have ended
        self._over: set[int] = set()  # environments where the next one has not begun
        self._said = 0

    def on_episode_start(self, *, env_index: int, **given: Any) -> None:
        """An episode has begun."""
        del given
        self._over.discard(env_index)

    def on_episode_end(self, *, env_runner: Any, metrics_logger: Any, env_index: int, **given: Any) -> None:
        """Cost of an episode, and of the baseline on the same requests."""
        del given
        envs: FleetVectorEnv = env_runner.env.unwrapped
        metrics = {name: float(values[env_index]) for name, values in envs.episode_metrics.items()}
        scenario = str(envs.scenario_of[env_index])
        self._over.add(env_index)
        self._ended += int(metrics["requests"])
        metrics_logger.log_value(FINISHED, metrics["requests"], reduce="sum")
        metrics_logger.log_value((COST, scenario), metrics["cost"], reduce="sum")
        if "baseline_cost" in metrics:
            metrics_logger.log_value((BASELINE_COST, scenario), metrics["baseline_cost"], reduce="sum")

    def on_sample_end(self, *, env_runner: Any, metrics_logger: Any, **given: Any) -> None:
        """Requests simulated since the last sample, those for baselines and of running episodes included."""
        del given
        envs: FleetVectorEnv = env_runner.env.unwrapped
        there = set(range(envs.num_envs)) - self._over
        running = sum(int(envs.simulators.view(env).summary().shares[:, 0].sum()) for env in there)
        baseline = envs.rewards.baseline
        total = self._ended + running + envs.rewards.scale_requests + (0 if baseline is None else baseline.requests)
        metrics_logger.log_value(REQUESTS, total - self._said, reduce="sum")
        self._said = total
