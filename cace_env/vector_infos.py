"""Infos of many environments at once, in the form that `gymnasium.vector.SyncVectorEnv` gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cace_env.envs.baselines import TERM
from cace_env.kernel.batch import NUM_TERMS, Look
from cace_env.kernel.state import Int64Array
from cace_env.metrics import METRICS, episode_metrics
from cace_env.simulators import TERMS, Simulators

Bools = npt.NDArray[np.bool_]
Infos = dict[str, Any]


class InfoWriter:
    """Puts what was seen into infos: arrays of all environments, each with a mask of those that it is about.

    Args:
        simulators: of all environments.
        scenario_of: number of each environment's scenario, `(num_envs,)`.

    Attributes:
        everybody: a mask of all environments; by identity the sign that nothing has to be left out. Never returned.
        nobody: a mask of none.
    """

    def __init__(self, simulators: Simulators, scenario_of: Int64Array) -> None:
        self._simulators = simulators
        self._scenario_of = scenario_of
        self.everybody: Bools = np.ones(simulators.num_envs, dtype=np.bool_)
        self.nobody: Bools = np.zeros(simulators.num_envs, dtype=np.bool_)
        priced = simulators.prices[scenario_of] > 0  # (num_envs, NUM_TERMS)
        self._terms = [(term, TERMS[term]) for term in np.flatnonzero(priced.any(axis=0)).tolist()]
        self._charged = np.ascontiguousarray(priced.T[[term for term, _ in self._terms]])  # (terms, num_envs)

    def infos(self, look: Look, seen: Bools, stepped: Bools, paid: npt.NDArray[np.float64] | None = None) -> Infos:
        """What the single environments say: all that were `seen`, and what it cost those that were `stepped`.

        Args:
            look: what was seen.
            seen: which environments say something, `(num_envs,)`.
            stepped: which of them took a step.
            paid: the term `baseline` of those, `(num_envs,)`; None without a baseline.
        """
        everybody = seen is self.everybody and stepped is self.everybody
        masks = self._charged.copy() if everybody else self._charged & stepped
        seen = seen.copy()
        infos: Infos = {}
        for name, values in (
            ("action_mask", look.masks),
            ("elapsed_s", look.elapsed_s),
            ("time_s", look.time_s),
            ("invalid_action", look.invalid),
        ):
            add(infos, name, values if everybody else only(seen, values), seen)
        if not stepped.any():
            return infos
        terms: Infos = {}
        for (term, name), mask in zip(self._terms, masks, strict=True):
            if everybody or mask.any():
                add(terms, name, look.terms[term] if everybody else only(mask, look.terms[term]), mask)
        if paid is not None:
            add(terms, TERM, only(stepped, paid), stepped.copy())
        illegal = look.illegal & stepped
        if illegal.any():
            add(terms, "invalid_action", only(illegal, look.terms[NUM_TERMS]), illegal)
        add(infos, "reward_terms", terms, stepped.copy())
        return infos

    def metrics(self, rows: Int64Array, over: Bools) -> Infos:
        """Metrics of the episodes of `rows`, which are `over`."""
        values = np.zeros((len(METRICS), self._simulators.num_envs))
        for env in rows.tolist():
            tables = self._simulators.tables[self._scenario_of[env]]
            values[:, env] = tuple(episode_metrics(self._simulators.view(env).summary(), tables).values())
        metrics: Infos = {}
        for name, row in zip(METRICS, values, strict=True):
            add(metrics, name, row, over)
        return metrics


def add(infos: Infos, name: str, values: Any, mask: Bools) -> None:
    """Puts values under their name, and under `_name` whose they are."""
    infos[name] = values
    infos[f"_{name}"] = mask


def only(mask: Bools, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values where the mask is True, else 0."""
    return np.where(mask if values.ndim == 1 else mask[:, None], values, values.dtype.type(0))
