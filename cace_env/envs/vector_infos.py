"""Infos of many environments at once, in the form that `gymnasium.vector.SyncVectorEnv` gives them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from cace_env.kernel.batch import Look
from cace_env.kernel.state import Int64Array
from cace_env.simulation import METRICS, Simulators, episode_metrics
from cace_env.tables import FloatArray

Bools = npt.NDArray[np.bool_]
Infos = dict[str, Any]


class InfoWriter:
    """Writes infos: arrays over all environments, each with a mask of the environments it applies to.

    Args:
        simulators: of all environments.
        scenario_of: number of each environment's scenario, `(num_envs,)`.

    Attributes:
        all_envs: a mask of all environments. Tested by identity to skip masking, so it is never returned.
        no_envs: a mask of no environment.
    """

    def __init__(self, simulators: Simulators, scenario_of: Int64Array) -> None:
        self._simulators = simulators
        self._scenario_of = scenario_of
        self.all_envs: Bools = np.ones(simulators.num_envs, dtype=np.bool_)
        self.no_envs: Bools = np.zeros(simulators.num_envs, dtype=np.bool_)

    def infos(self, look: Look, seen: Bools, stepped: Bools, played: Int64Array) -> Infos:
        """The infos of the environments that were `seen`, with the costs of those that were `stepped`.

        Args:
            look: the current observations, masks and costs.
            seen: which environments have an info, `(num_envs,)`.
            stepped: which of them took a step; the others cost nothing.
            played: seeds of the workloads, `(num_envs,)`.
        """
        everything = seen is self.all_envs
        terms = look.terms.T.copy() if stepped is self.all_envs else only(stepped, look.terms.T)
        seen = seen.copy()
        infos: Infos = {}
        for name, values in (
            ("action_mask", look.masks),
            ("elapsed_s", look.elapsed_s),
            ("time_s", look.time_s),
            ("invalid_action", look.invalid),
            ("workload_seed", played.copy()),
            ("reward_terms", terms),
            *((("shown", self._simulators.shown.contents()),) if self._simulators.shown is not None else ()),
        ):
            add(infos, name, values if everything else only(seen, values), seen)
        return infos

    def metrics(self, rows: Int64Array) -> FloatArray:
        """Metrics of the episodes of `rows`, `(metrics, num_envs)` in the order of `METRICS`; NaN for the others."""
        values = np.full((len(METRICS), self._simulators.num_envs), np.nan)
        for env in rows.tolist():
            tables = self._simulators.tables[self._scenario_of[env]]
            values[:, env] = tuple(episode_metrics(self._simulators.summary(env), tables).values())
        return values


class Statistics:
    """Returns, lengths and wall times of the episodes of many environments, as `RecordEpisodeStatistics` keeps them."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._began_s = np.zeros(num_envs)

    def begin(self, rows: Int64Array) -> None:
        """Record that the episodes of `rows` begin now."""
        self._returns[rows] = 0.0
        self._lengths[rows] = 0
        self._began_s[rows] = time.perf_counter()

    def count(self, rewards: FloatArray, stepped: Bools) -> None:
        """Adds a step of those that are `stepped`, `(num_envs,)` both."""
        self._returns += np.where(stepped, rewards, 0.0)
        self._lengths += stepped

    def of(self, env: int) -> tuple[float, int]:
        """Return and length so far of the episode of one environment."""
        return float(self._returns[env]), int(self._lengths[env])

    def resume(self, env: int, total: float, length: int) -> None:
        """Continue the episode of one environment with this return and length."""
        self._returns[env], self._lengths[env] = total, length

    def infos(self, over: Bools) -> Infos:
        """Return `r`, length `l` and wall time `t` [s] of the episodes that are `over`, `(num_envs,)` each."""
        elapsed_s = np.round(time.perf_counter() - self._began_s, 6)
        return {
            name: only(over, each) for name, each in zip("rlt", (self._returns, self._lengths, elapsed_s), strict=True)
        }


def add(infos: Infos, name: str, values: Any, mask: Bools) -> None:
    """Store values under their name, and the mask of their environments under `_name`."""
    infos[name] = values
    infos[f"_{name}"] = mask


def only(mask: Bools, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values where the mask is True, else 0."""
    return np.where(mask if values.ndim == 1 else mask[:, None], values, values.dtype.type(0))
