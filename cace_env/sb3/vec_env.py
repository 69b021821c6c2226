"""Stable-Baselines3 on the vector environments: `EvictionVecEnv` and `SwapVecEnv`.

SB3 does not take Gymnasium's vector environments; its own `DummyVecEnv` steps single environments one by one in Python.
These return the same, step by step, and cost a few microseconds a step on top of the vector environment.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from cace_env import EVICTION_ID, SWAP_ID
from cace_env.config import did_you_mean
from cace_env.envs import FleetVectorEnv

NUM_ENVS: Final = 60  # by default: a rollout of 128 decisions of each suits PPO's learning rate
ENDED: Final = ("final_obs", "final_info", "episode")  # of the episode that ended; the rest is of the next one
TRUNCATED: Final = "TimeLimit.truncated"


class FleetVecEnv(VecEnv):
    """Many environments as the `VecEnv` that algorithms of SB3 and sb3-contrib take: `EvictionVecEnv`, `SwapVecEnv`.

    ```python
    venv = EvictionVecEnv(scenario="default", baseline="lru")
    model = MaskablePPO("SlotPolicy", venv, device="cpu", **hyperparameters("maskable-ppo")).learn(150_000)
    ```

    Equal, step by step, to `DummyVecEnv` over N single environments with SB3's `Monitor` and the same seeds:
    observations, rewards (float32), dones, masks, and the infos of finished episodes with `terminal_observation`,
    `TimeLimit.truncated`, `episode` (`r`, `l`, `t`) and `episode_metrics`. Different is only:

    - The info of an environment that has not finished holds nothing but `TimeLimit.truncated`; all of them share one
      dict, a new one at each step. What the environment said is in `step_infos`, as arrays over the environments.

    Arrays, once returned, are never changed; nothing is copied that the vector environment has made anew.

    Args:
        num_envs: how many environments, 60 where not given.
        vector_env: a vector environment to take instead, in the autoreset mode SAME_STEP. It may be wrapped; it may be
            a `SyncVectorEnv` of single environments. `close` closes it.
        monitor: give `episode` as SB3's `Monitor` does, and say so in `env_is_wrapped`. False leaves that to
            `VecMonitor`, which otherwise warns that it overwrites it.
        **settings: everything else that `FleetVectorEnv` takes: `scenario`, `split`, `threads` and so on.

    Attributes:
        vector_env: the vector environment.
        step_infos: its infos of the last reset or step: `{"elapsed_s": (N,), "reward_terms": (N, terms), ...}`.

    Raises:
        TypeError: `vector_env` together with arguments that would make another one.
        ValueError: a vector environment in another autoreset mode, or one that overwrites what it has returned.
    """

    ID: ClassVar[str]  # of the environment

    def __init__(
        self,
        num_envs: int | None = None,
        *,
        vector_env: VectorEnv[Any, Any, Any] | None = None,
        monitor: bool = True,
        **settings: Any,
    ) -> None:
        if "autoreset_mode" in settings:
            raise TypeError("autoreset_mode cannot be given: SB3 knows SAME_STEP only")
        if vector_env is None:
            _check_names(type(self).__name__, settings)
            vector_env = gymnasium.make_vec(
                self.ID,
                num_envs=NUM_ENVS if num_envs is None else num_envs,
                autoreset_mode=AutoresetMode.SAME_STEP,
                **settings,
            )
        elif num_envs is not None or settings:
            given = ", ".join([*(["num_envs"] if num_envs is not None else []), *settings])
            raise TypeError(f"vector_env already exists; {given} cannot be given with it")
        _check(vector_env)
        self.vector_env = vector_env
        self.step_infos: dict[str, Any] = {}
        self.spec = vector_env.spec
        self._singles: Sequence[gymnasium.Env[Any, Any]] | None = getattr(vector_env.unwrapped, "envs", None)
        self._monitor = monitor
        self._began_s = time.time()
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = vector_env.metadata
        self._returns = np.zeros(self.num_envs)
        self._steps = 0
        self._first_steps = [0] * self.num_envs

    def reset(self) -> VecEnvObs:
        """Starts an episode everywhere, with the seeds and options set since the last reset.

        Returns:
            Observations `(N, layout.size)` float32.
        """
        seeds: Any = None if None in self._seeds else list(self._seeds)  # Gymnasium's stub knows no list
        observations, infos = self.vector_env.reset(seed=seeds, options=self._options_of_all())
        self._reset_seeds()
        self._reset_options()
        self.step_infos = infos
        self.reset_infos = [_info_of(infos, env) for env in range(self.num_envs)]
        self._returns = np.zeros(self.num_envs)
        self._first_steps = [self._steps] * self.num_envs
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keeps the actions `(N,)` for `step_wait`, which does the work."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps all environments; those that finish begin their next episode.

        Returns:
            Observations `(N, layout.size)` float32, of the next episode where one has finished; rewards `(N,)` float32;
            dones `(N,)` bool; one info per environment.
        """
        observations, rewards, terminated, truncated, infos = self.vector_env.step(self._actions)
        self.step_infos = infos
        self._steps += 1
        self._returns += rewards
        dones = np.logical_or(terminated, truncated)
        rows: list[dict[str, Any]] = [{TRUNCATED: False}] * self.num_envs
        for env in np.flatnonzero(dones).tolist():
            rows[env] = self._finished(env, bool(truncated[env] and not terminated[env]))
        return observations, rewards.astype(np.float32), dones, rows

    def _finished(self, env: int, truncated: bool) -> dict[str, Any]:
        """The info of an episode that has ended, as a new dict."""
        infos = self.step_infos
        row = _info_of(infos["final_info"], env)
        if (metrics := self._metrics_of(env)) is not None:
            row["episode_metrics"] = metrics
        row[TRUNCATED] = truncated
        row["terminal_observation"] = infos["final_obs"][env]
        if self._monitor:
            length = self._steps - self._first_steps[env]
            elapsed_s = time.time() - self._began_s
            row["episode"] = {"r": round(float(self._returns[env]), 6), "l": length, "t": round(elapsed_s, 6)}
        elif "episode" in infos:
            row["episode"] = _info_of(infos["episode"], env)
        self._returns[env] = 0.0
        self._first_steps[env] = self._steps
        self.reset_infos[env] = _info_of({key: infos[key] for key in infos if key not in ENDED}, env)
        return row

    def _metrics_of(self, env: int) -> dict[str, float] | None:
        """Metrics of an episode that the last step has ended; None where no environment of ours knows them."""
        if self._singles is None:
            return {name: values.item(env) for name, values in self._shared("episode_metrics").items()}
        metrics: dict[str, float] | None = self._singles[env].get_wrapper_attr("episode_metrics")
        return metrics

    def close(self) -> None:
        """Closes the vector environment; harmless when repeated."""
        self.vector_env.close()

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """One picture `(height, width, 3)` per environment, None without `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            warnings.warn(f'render_mode is {self.render_mode!r}; pictures need render_mode="rgb_array"', stacklevel=2)
            return [None] * self.num_envs
        return self.env_method("render")

    # -----------------------------------------------------------------------------------------------------------------
    # What SB3 asks of the environments behind. Single environments answer for themselves; a native vector environment
    # has one value of everything but its masks and pictures.

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment in `indices` (all by default).

        Raises:
            AttributeError: there is no such attribute.
        """
        which = list(self._get_indices(indices))
        if self._singles is not None:
            return [self._singles[env].get_wrapper_attr(attr_name) for env in which]
        value = self._shared(attr_name)
        if attr_name == "action_masks":
            return [partial(self._mask, env) for env in which]
        return [value] * len(which)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of each environment in `indices` (all by default).

        Raises:
            AttributeError: a native vector environment has no such attribute.
            ValueError: only some environments of a native vector environment are named, which has one value for all.
        """
        which = list(self._get_indices(indices))
        if self._singles is not None:
            for env in which:
                setattr(self._singles[env], attr_name, value)
            return
        self._shared(attr_name)
        if {env % self.num_envs for env in which} != set(range(self.num_envs)):
            raise ValueError(
                f"{attr_name} is one for all {self.num_envs} environments of {self.vector_env}; leave indices out"
            )
        setattr(self.vector_env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method of each environment in `indices` (all by default) returns.

        `action_masks` is answered from the last infos: one bool array `(actions,)` per environment.

        Raises:
            AttributeError: there is no such method, or it is one that a native vector environment only has for all.
            ResetNeeded: masks before the first reset.
        """
        which = list(self._get_indices(indices))
        if method_name == "action_masks":
            masks = self._masks()
            return list(masks) if indices is None else [masks[env] for env in which]
        if self._singles is not None:
            methods = [self._singles[env].get_wrapper_attr(method_name) for env in which]
            return [method(*method_args, **method_kwargs) for method in methods]
        if method_name != "render":
            raise AttributeError(
                f"{method_name!r} is not a method of single environments of {self.vector_env}; use action_masks and "
                f"render; for reset use seed, set_options and reset of this object, for others its vector_env"
            )
        frames = self.vector_env.render() or [None] * self.num_envs
        return [frames[env] for env in which]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each environment in `indices` is wrapped so; `Monitor` counts where its `episode` is given."""
        which = list(self._get_indices(indices))
        if self._monitor and issubclass(Monitor, wrapper_class):
            return [True] * len(which)
        if self._singles is None:
            return [False] * len(which)
        return [is_wrapped(self._singles[env], wrapper_class) for env in which]

    def _masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions now, `(N, actions)`, in a new array."""
        if "action_mask" not in self.step_infos:
            raise ResetNeeded("there is no mask before the first reset")
        masks: npt.NDArray[np.bool_] = self.step_infos["action_mask"].astype(np.bool_)
        return masks

    def _mask(self, env: int) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = self._masks()[env]
        return mask

    def _shared(self, name: str) -> Any:
        """An attribute of the vector environment, or of the one that it wraps."""
        env = self.vector_env
        while not hasattr(env, name) and isinstance(env, VectorWrapper):
            env = env.env
        return getattr(env, name)

    def _options_of_all(self) -> dict[str, Any] | None:
        """The options of `set_options`, as the one dict that a vector environment takes."""
        first, options = self._options[0], self._options
        if all(option == first for option in options):
            return dict(first) or None
        if self._singles is None and all(set(option) == {"workload_seed"} for option in options):
            return {"workload_seed": np.array([option["workload_seed"] for option in options])}
        raise ValueError(
            "the environments are given different reset options; give all the same, or, for a native vector "
            "environment, each a workload_seed and nothing else"
        )


class EvictionVecEnv(FleetVecEnv):
    """Many Eviction-v0 environments for Stable-Baselines3, as `FleetVecEnv` says."""

    ID = EVICTION_ID


class SwapVecEnv(FleetVecEnv):
    """Many Swap-v0 environments for Stable-Baselines3, as `FleetVecEnv` says."""

    ID = SWAP_ID


def _check_names(made: str, settings: Mapping[str, Any]) -> None:
    """Raises TypeError for an argument that `made` does not have."""
    known = {*inspect.signature(FleetVectorEnv).parameters, *inspect.signature(gymnasium.make_vec).parameters}
    for name in settings:
        if name not in known:
            raise TypeError(f"{made} has no argument {name!r}{did_you_mean(name, sorted(known))}")


def _check(vector_env: VectorEnv[Any, Any, Any]) -> None:
    """Raises ValueError for a vector environment that SB3 cannot learn from correctly."""
    mode = vector_env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"{vector_env} has the autoreset mode {getattr(mode, 'value', mode)!r}; SB3 wants the next episode's first "
            'observation from the step that ends the last one: make it with autoreset_mode="SameStep"'
        )
    if getattr(vector_env.unwrapped, "copy", True) is False:
        raise ValueError(f"{vector_env} overwrites the observations it has returned; make it with copy=True")


def _info_of(infos: Mapping[str, Any], env: int) -> dict[str, Any]:
    """One environment's info out of a vector environment's: what the masks `_key` leave it, as plain values."""
    row: dict[str, Any] = {}
    for key, values in infos.items():
        mask = infos.get("_" + key)  # RecordEpisodeStatistics gives its numbers none
        if key[0] == "_" or (mask is not None and not mask[env]):
            continue
        if isinstance(values, dict):
            row[key] = _info_of(values, env)
        elif values.ndim > 1:
            row[key] = values[env].copy()
        else:
            row[key] = values.item(env)
    return row
