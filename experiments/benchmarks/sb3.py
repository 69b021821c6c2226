"""How much of the time that SB3's PPO takes is the environment's."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

DECISIONS: Final = 128  # of each environment between two updates
SHARES: Final = ("environment", "vector_env", "adapter", "acting", "learning", "other")
ENVIRONMENT, AROUND, ACTING, LEARNING, ALL = "environment", "around", "acting", "learning", "all"


class _Stopwatch:
    """Seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began_s = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - began_s
            return result

        return timed

    def on(self, owner: object, method: str, name: str) -> None:
        """Times a method of this object."""
        setattr(owner, method, self(name, getattr(owner, method)))


def sb3_share(
    num_envs: int,
    steps: int,
    *,
    scenario: str = "default",
    num_workloads: int | None = None,
    baseline: str | None = None,
    masked: bool = False,
    batch_size: int = 64,
    n_epochs: int = 10,
) -> dict[str, float]:
    """Shares of wall time while PPO with SB3's default network learns, after one round to warm up.

    `batch_size` and `n_epochs` are PPO's defaults. Larger batches and fewer epochs make learning cheaper, and so the
    environment's share larger. The first reset is not counted, those that follow are as they come: give every
    environment steps for an episode or more (on the default scenario some 1,200 each).

    Args:
        num_envs: environments.
        steps: decisions at least; rounded up to whole rounds of `DECISIONS` of each environment.
        scenario: what is played.
        num_workloads: as for `EvictionVectorEnv`: None draws a workload for each episode, which takes its time, too.
        baseline: whose cost is added back to the rewards; it plays every workload once, which takes its time, too.
        masked: sb3-contrib's MaskablePPO, which asks for the masks, instead of PPO.
        batch_size: decisions per gradient step.
        n_epochs: how often each decision is learnt from.

    Returns:
        `environment_share`, which is `vector_env_share` (simulator, observations, infos and resets) plus
        `adapter_share` (`EvictionVecEnv`); `acting_share` (the network's actions and values), `learning_share`
        (gradient steps) and `other_share`, all of the wall time; `us_per_decision`, all of it,
        `vector_env_us_per_decision` and `adapter_us_per_decision`; `torch_threads`.

    Raises:
        ImportError: SB3 or sb3-contrib is missing.
    """
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import PPO

    from cace_env.sb3 import EvictionVecEnv

    venv = EvictionVecEnv(num_envs, scenario=scenario, num_workloads=num_workloads, baseline=baseline)
    algorithm = MaskablePPO if masked else PPO
    agent = algorithm(
        "MlpPolicy", venv, n_steps=DECISIONS, batch_size=batch_size, n_epochs=n_epochs, seed=0, device="cpu"
    )
    watch = _Stopwatch()
    watch.on(venv.vector_env, "step", ENVIRONMENT)
    for method in ("step", "env_method"):
        watch.on(venv, method, AROUND)
    watch.on(agent.policy, "forward", ACTING)
    watch.on(agent, "train", LEARNING)
    agent.learn(num_envs * DECISIONS)
    warm = agent.num_timesteps
    watch.seconds.clear()
    watch(ALL, agent.learn)(steps, reset_num_timesteps=False)
    decisions = float(agent.num_timesteps - warm)
    venv.close()

    seconds = watch.seconds
    parts = {
        "vector_env": seconds[ENVIRONMENT],
        "adapter": seconds[AROUND] - seconds[ENVIRONMENT],
        "acting": seconds[ACTING],
        "learning": seconds[LEARNING],
    }
    parts["other"] = seconds[ALL] - sum(parts.values())
    return {
        "environment_share": (parts["vector_env"] + parts["adapter"]) / seconds[ALL],
        **{f"{name}_share": part / seconds[ALL] for name, part in parts.items()},
        "us_per_decision": 1e6 * seconds[ALL] / decisions,
        "vector_env_us_per_decision": 1e6 * parts["vector_env"] / decisions,
        "adapter_us_per_decision": 1e6 * parts["adapter"] / decisions,
        "torch_threads": float(torch.get_num_threads()),
    }


# Learning as PPO does it by default, as it is often done with many environments, and as seldom as one would.
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "PPO, batches of 64, 10 epochs (defaults)": {},
    "the same, rewards against LRU": {"baseline": "lru"},
    "PPO, batches of 1024, 4 epochs": {"batch_size": 1024, "n_epochs": 4},
    "the same, 256 workloads kept": {"batch_size": 1024, "n_epochs": 4, "num_workloads": 256},
    "PPO, batches of 4096, 1 epoch": {"batch_size": 4096, "n_epochs": 1},
    "MaskablePPO, batches of 64, 10 epochs (defaults)": {"masked": True},
}
