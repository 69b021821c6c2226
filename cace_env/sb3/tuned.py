"""Hyperparameters that work well, from the YAML files that ship for rl_zoo3 (`cace_env/data/rl_zoo3/`)."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final, Literal

import yaml
from stable_baselines3.common.utils import LinearSchedule

from cace_env.config import ConfigError, did_you_mean
from cace_env.tables import Protocol

Algorithm = Literal["ppo", "maskable-ppo", "dqn", "qrdqn"]
FILES: Final[dict[Algorithm, str]] = {
    "ppo": "ppo.yml",
    "maskable-ppo": "ppo_mask.yml",
    "dqn": "dqn.yml",
    "qrdqn": "qrdqn.yml",
}
NOT_OF_THE_ALGORITHM: Final = ("n_envs", "env_kwargs", "n_timesteps", "policy")  # keys that only rl_zoo3 reads
LINEAR: Final = "lin_"  # "lin_0.003": from there to 0 at the end of training
SCHEDULED: Final = ("learning_rate", "clip_range")


def hyperparameters(algorithm: Algorithm, env: Protocol | str = Protocol.EVICTION) -> dict[str, Any]:
    """Load arguments with which an algorithm of SB3 learns well here, for `"SlotPolicy"`.

        MaskablePPO("SlotPolicy", EvictionVecEnv(baseline="lru"), **hyperparameters("maskable-ppo"))
        PPO("MlpPolicy", venv, **hyperparameters("ppo") | {"policy_kwargs": {}})

    They are meant for 60 environments, which `EvictionVecEnv` makes by default, and rewards against a baseline.

    Args:
        algorithm: "ppo", "maskable-ppo", "dqn" or "qrdqn", for `MaskableDQN` and `MaskableQRDQN` as well.
        env: "eviction" or "swap".

    Returns:
        A new dict, to be changed at will: `hyperparameters("ppo") | {"gamma": 0.99}`.

    Raises:
        ConfigError: there is no such algorithm or environment.
    """
    if algorithm not in FILES:
        raise ConfigError(f"no algorithm called {algorithm!r}{did_you_mean(algorithm, FILES)}; it is {_listed(FILES)}")
    if env not in tuple(Protocol):
        raise ConfigError(
            f"no environment called {env!r}{did_you_mean(env, map(str, Protocol))}; it is {_listed(map(str, Protocol))}"
        )
    file = resources.files("cace_env") / "data" / "rl_zoo3" / FILES[algorithm]
    found = yaml.safe_load(file.read_text(encoding="utf-8"))[Protocol(env).env_id]
    settings = {name: value for name, value in found.items() if name not in NOT_OF_THE_ALGORITHM}
    for name in SCHEDULED:
        value = settings.get(name)
        if isinstance(value, str):
            settings[name] = LinearSchedule(float(value.removeprefix(LINEAR)), 0.0, 1.0)
    return settings


def _listed(names: Any) -> str:
    return " or ".join(f"{str(name)!r}" for name in names)
