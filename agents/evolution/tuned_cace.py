"""Tuned CACE: the weights of its terms with the least cost on given workloads, found like those of learned agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from agents.evolution.search import Evolution, Search
from agents.objective import Objective
from cace_env.forecasting.demand import DemandScorer, Making
from cace_env.policies import CaceWeights, Contestant, policy
from cace_env.policies.built_in import Policy
from cace_env.policies.cace import TERMS, load_cace

FloatArray = npt.NDArray[np.float64]


def tune_cace(
    objective: Objective,
    *,
    requests: int,
    order: str | None = None,
    demand: Making | None = None,
    init: str = "cace",
    seeds_per_generation: int = 8,
    population: int = 16,
    seed: int = 0,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> CaceWeights:
    """Find the weights of CACE's terms with the least cost on some workloads, by CMA-ES.

    Args:
        objective: cases and training seeds.
        requests: budget; the last generation is the one that reaches it.
        order: in Swap-v0, the order that loads the models ("very-patient-wsjf"); None = the default one.
        demand: the forecaster of the last term; None = CACE's own sliding window, which is compiled.
        init: weights to begin from, as for `load_cace`.
        seeds_per_generation: training seeds that a generation plays.
        population: candidates of a generation.
        seed: of the search.
        progress: called after each generation with the requests simulated and what it cost relative to LRU.

    Raises:
        ConfigError: unknown weights or order, or more seeds per generation than the objective has.
    """
    weights = np.array(load_cace(init).weights.row())
    scale = np.linalg.norm(weights)  # of no meaning for the choice of a victim, so the search may have its own
    before = policy("cace" if order is None else f"{order}+cace")

    def policy_of(x: FloatArray) -> Policy | Contestant:
        if demand is not None:
            return Contestant("candidate", DemandScorer(x.tolist(), demand), before.order)
        return replace(before, name="candidate", weights=tuple(x.tolist()))

    search = Search(weights / scale, 0.3, seed=seed, population=population, separable=False)
    evolution = Evolution(objective, search, policy_of, seeds_per_generation, seed)
    began = objective.requests
    while objective.requests - began < requests:
        metrics = evolution.generation()
        if progress is not None:
            progress(objective.requests - began, metrics)
    found = search.best / np.linalg.norm(search.best)
    return CaceWeights(**dict(zip(TERMS, found.tolist(), strict=True)))
