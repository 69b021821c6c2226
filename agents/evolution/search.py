"""CMA-ES over vectors that define policies, judged by the costs of whole episodes (Hansen, 2016; the library `cmaes`).

Every generation plays a few training seeds, the same for all its members, and is compared by cost relative to LRU's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from cmaes import CMA, SepCMA

from agents.objective import Objective, baseline_costs, pooled
from cace_env.config import ConfigError
from cace_env.policies import Contestant
from cace_env.policies.built_in import Policy

FloatArray = npt.NDArray[np.float64]
AVERAGED: Final = 20  # generations


class Search:
    """CMA-ES whose state is its history: the values told so far make the same search again, to the last bit.

    Args:
        mean: start of the search, `(n,)`.
        sigma: standard deviation of the first generation.
        seed: seed of its draws.
        population: candidates of a generation.
        separable: adapt variances only, for hundreds of numbers and more.
    """

    def __init__(self, mean: FloatArray, sigma: float, *, seed: int, population: int, separable: bool) -> None:
        kind = SepCMA if separable else CMA
        self._cma = kind(mean=mean, sigma=sigma, seed=seed, population_size=population)
        self._means = deque([np.array(mean)], maxlen=AVERAGED)
        self.values: list[FloatArray] = []

    @property
    def best(self) -> FloatArray:
        """The best guess, `(n,)`: the mean of the last generations' means.

        The best single candidate is partly luck, and with noisy values means move around the optimum.
        """
        return np.mean(self._means, axis=0)

    @property
    def generation(self) -> int:
        return len(self.values)

    def generate(self) -> FloatArray:
        """The next candidates, `(population, n)`; once per generation."""
        return np.stack([self._cma.ask() for _ in range(self._cma.population_size)])

    def tell(self, candidates: FloatArray, values: FloatArray) -> None:
        """Report the candidates' costs, `(population,)`; less is better."""
        self._cma.tell(list(zip(candidates, values.tolist(), strict=True)))
        if not self.values:
            self._means.clear()  # the start is not a result
        self._means.append(np.array(self._cma.mean))
        self.values.append(np.array(values))

    def replay(self, values: FloatArray) -> None:
        """Bring a new search to the state of one that was told these values, `(generations, population)`."""
        for row in values:
            self.tell(self.generate(), row)


class Evolution:
    """A search over vectors, judged by the pooled cost of the policies they stand for.

    Args:
        objective: cases and training seeds.
        search: of the vectors.
        policy_of: the policy that a vector stands for.
        seeds_per_generation: number of the objective's seeds that a generation plays.
        seed: of their choice.
    """

    def __init__(
        self,
        objective: Objective,
        search: Search,
        policy_of: Callable[[FloatArray], Policy | Contestant],
        seeds_per_generation: int,
        seed: int,
    ) -> None:
        if seeds_per_generation > len(objective.seeds):
            raise ConfigError(
                f"seeds_per_generation is {seeds_per_generation}, but there are {len(objective.seeds)} training seeds"
            )
        self.objective, self.search = objective, search
        self._policy_of, self._size, self._seed = policy_of, seeds_per_generation, seed
        self._baseline: FloatArray | None = None

    def generation(self, progress: Callable[[int], None] | None = None) -> dict[str, float]:
        """Run one generation; returns its cost relative to LRU.

        Args:
            progress: called with the number of episodes played so far in this generation.
        """
        if self._baseline is None:
            self._baseline = baseline_costs(self.objective)
        draws = np.random.default_rng([self._seed, self.search.generation])
        chosen = np.sort(draws.choice(len(self.objective.seeds), self._size, replace=False))
        candidates = self.search.generate()
        costs = self.objective.costs(
            [self._policy_of(candidate) for candidate in candidates],
            [self.objective.seeds[k] for k in chosen],
            progress,
        )
        values = pooled(costs, self._baseline[:, chosen])
        self.search.tell(candidates, values)
        return {
            "train/cost_vs_lru": float(values.mean()),
            "train/best_cost_vs_lru": float(values.min()),
            "train/spread": float(candidates.std(axis=0).mean()),
        }
