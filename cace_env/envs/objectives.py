"""Vector rewards: `cace_env/MO-Eviction-v0` and `cace_env/MO-Swap-v0`, for learning with several objectives.

They work like `cace_env/Eviction-v0` and `cace_env/Swap-v0`; only the reward differs: an array with one number for each
objective, in seconds, evictions or requests, whatever the scenario's weights are. Everything follows MO-Gymnasium's
conventions (`reward_space`, `mo_gymnasium.make`, its wrappers), which does not have to be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from cace_env import EVICTION_ID, SWAP_ID
from cace_env.envs.fleet_env import FleetEnv, Observation
from cace_env.envs.fleet_vector_env import FleetVectorEnv
from cace_env.envs.states import EnvState
from cace_env.envs.vector_infos import Bools, Infos
from cace_env.fleets import COST_TERMS
from cace_env.kernel.batch import NUM_TERMS
from cace_env.kernel.state import DECISIONS, EVICTIONS, Int64Array
from cace_env.simulation import Simulators
from cace_env.tables import TASKS, FloatArray, Protocol

COUNTERS: Final = (*COST_TERMS, "evictions")  # exact counts: us, requests, evictions
US: Final = 1_000_000


class Objective(NamedTuple):
    """What one component of the reward sums; an episode's sum is minus the metric of the same name."""

    counters: tuple[str, ...]  # of `COUNTERS`
    per_unit: int  # counts per unit of the reward
    meaning: str


def _objectives() -> dict[str, Objective]:
    """Every objective by its name, which is the name of a metric of `cace_env.simulation.metrics`."""
    kinds = (
        ("waiting_s", "waiting", US, "seconds until the first token, summed over {whose} requests"),
        ("system_s", "system", US, "seconds in the system, summed over {whose} requests"),
        ("slo_missed", "slo", 1, "{whose} requests that missed their SLO"),
    )
    table: dict[str, Objective] = {}
    for name, part, per_unit, meaning in kinds:
        table[name] = Objective(tuple(f"{task}_{part}" for task in TASKS), per_unit, meaning.format(whose="all"))
        for task in TASKS:
            table[f"{task}_{name}"] = Objective((f"{task}_{part}",), per_unit, meaning.format(whose=task))
    table["load_s"] = Objective(("loading",), US, "seconds of loading")
    table["refused"] = Objective(("refused",), 1, "requests longer than their model's KV cache")
    table["evictions"] = Objective(("evictions",), 1, "models evicted from memory")
    return table


OBJECTIVES: Final[dict[str, Objective]] = _objectives()
DEFAULT_OBJECTIVES: Final = ("completion_waiting_s", "system_s", "load_s", "evictions")


class Ledger:
    """Exact counts of each objective so far, in each simulation.

    Args:
        simulators: the simulations.
        names: names of `OBJECTIVES`.

    Raises:
        ValueError: an objective is unknown or named twice, or no objective is named.
    """

    def __init__(self, simulators: Simulators, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in OBJECTIVES]
        if unknown:
            raise ValueError(f"there is no objective {unknown[0]!r}; the objectives are {', '.join(OBJECTIVES)}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objectives is {tuple(names)}; name at least one, and none twice")
        objectives = [OBJECTIVES[name] for name in names]
        self._simulators = simulators
        self._parts = np.array(
            [[counter in objective.counters for counter in COUNTERS] for objective in objectives], dtype=np.int64
        ).T  # (COUNTERS, objectives)
        self._per_unit = np.array([objective.per_unit for objective in objectives], dtype=np.float64)
        self._counts = np.zeros((simulators.num_envs, len(COUNTERS)), dtype=np.int64)

    def due(self) -> Int64Array:
        """Counts from time 0 until the last look, `(num_envs, objectives)`: the sum of the rewards so far."""
        batch = self._simulators.batch()
        self._counts[:, :NUM_TERMS] = batch.charged
        if batch.arena.shape[1]:  # otherwise there has been no reset
            # Before the first action no reward has been given: its step covers everything since time 0.
            self._counts[:, NUM_TERMS] = batch.arena[:, EVICTIONS] * (batch.arena[:, DECISIONS] > 0)
        return self._counts @ self._parts

    def rewards(self, before: Int64Array, after: Int64Array) -> FloatArray:
        """Minus what was counted between two moments, in units, `(num_envs, objectives)`."""
        rewards: FloatArray = (before - after) / self._per_unit
        return rewards


class VectorRewards:
    """Shared code of single and vector environments with vector rewards; the first of their bases.

    Args:
        arguments: positional arguments of the environment with one reward.
        objectives: names of `OBJECTIVES`.
        named: keyword arguments of the environment with one reward.

    Attributes:
        reward_space: of one environment, `(objectives,)` float64, so that sums stay exact.
        reward_dim: how many objectives there are.

    Raises:
        ValueError: an objective is unknown, or an argument applies only to a single reward.
    """

    simulators: Simulators

    def __init__(self, *arguments: Any, objectives: Sequence[str] = DEFAULT_OBJECTIVES, **named: Any) -> None:
        for name in ("invalid_penalty", "baseline", "scale_rewards", "episode_statistics"):
            if name in named:
                raise ValueError(
                    f"{name} applies to a single reward, but this environment has a vector of rewards; leave it out, "
                    "or use the id without MO-"
                )
        super().__init__(*arguments, **named)
        self.objectives = tuple(objectives)
        self.reward_dim = len(self.objectives)
        self.reward_space = spaces.Box(-np.inf, 0.0, (self.reward_dim,), dtype=np.float64)
        self._ledger = Ledger(self.simulators, self.objectives)
        self._due = self._ledger.due()


class MOFleetEnv(VectorRewards, FleetEnv):
    """The implementation of `MOEvictionEnv` and `MOSwapEnv`, whose docstrings say what it does."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Like the environment with one reward."""
        seen = super().reset(seed=seed, options=options)
        self._due = self._ledger.due()
        return seen

    def step(self, action: SupportsIndex) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Like the environment with one reward, but the reward is `(objectives,)` float64."""
        observation, _, terminated, truncated, info = super().step(action)
        before, self._due = self._due, self._ledger.due()
        return observation, self._ledger.rewards(before, self._due)[0], terminated, truncated, info

    def set_state(self, state: EnvState) -> None:
        """Like the environment with one reward; the two can exchange states."""
        super().set_state(state)
        self._due = self._ledger.due()


class MOEvictionEnv(MOFleetEnv):
    """`cace_env/Eviction-v0` with a vector of rewards, one for each objective.

    ## Description

    Everything except the reward is as in `cace_env/Eviction-v0`: observations, actions, masks, infos, seeds, and the
    simulation. A state of one can be set in the other.

    ## Rewards

    An array `(objectives,)` float64: minus what was counted since the last decision, in physical units, whatever
    weights the scenario has. It is made from exact counts, so an episode's sum is minus the episode's metric of the
    same name, up to the rounding of the last bit. The first step also covers everything since time 0.

    | Num | Objective              | Unit      | What is lost                                                |
    |-----|------------------------|-----------|-------------------------------------------------------------|
    | 0   | `completion_waiting_s` | request s | TTFT of completions: time until their first token, summed   |
    | 1   | `system_s`             | request s | E2E of all requests: time in the system, summed             |
    | 2   | `load_s`               | s         | time of loading models                                      |
    | 3   | `evictions`            | evictions | models evicted from memory                                  |

    `objectives` names others: `waiting_s`, `system_s` and `slo_missed`, each for all requests or with a task before it
    (`chat_system_s`), `load_s`, `refused`, `evictions`. `reward_space` is their `Box`, `reward_dim` their number. A
    load counts in full when it begins. An illegal action costs nothing by itself: it is replaced by the legal one of
    lowest index and counted in `info["invalid_action"]`. `info["reward_terms"]` are the cost by the scenario's weights.

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("cace_env:cace_env/MO-Eviction-v0", objectives=("completion_waiting_s", "system_s"))

    ```

    | Parameter    | Type              | Default         | Description                                        |
    |--------------|-------------------|-----------------|----------------------------------------------------|
    | `objectives` | **tuple of str**  | those above     | names of `cace_env.envs.objectives.OBJECTIVES`     |
    | others       |                   |                 | as in Eviction-v0, except those about the single   |
    |              |                   |                 | reward (`invalid_penalty`, `baseline`, ...)        |

    ## Vectorized environment

    `gym.make_vec("cace_env:cace_env/MO-Eviction-v0", num_envs=64)` makes `MOEvictionVectorEnv`, whose rewards are
    `(num_envs, objectives)`.

    ## Version History

    * v0: first release.
    """

    ID = EVICTION_ID
    PROTOCOL = Protocol.EVICTION


class MOSwapEnv(MOFleetEnv):
    """`cace_env/Swap-v0` with a vector of rewards: rewards and arguments as in `MOEvictionEnv`, the rest as in Swap-v0.

    ## Version History

    * v0: first release.
    """

    ID = SWAP_ID
    PROTOCOL = Protocol.SWAP


class MOFleetVectorEnv(VectorRewards, FleetVectorEnv):
    """`num_envs` environments with vector rewards, stepped together: `MOEvictionVectorEnv` and `MOSwapVectorEnv`.

    Environment i equals a single one that was reset with seed `s + i`. Rewards are `(num_envs, objectives)` float64,
    and 0 if the step has reset the environment.

    Args:
        arguments: as for `FleetVectorEnv`.
        objectives: as for a single environment.
        named: as for `FleetVectorEnv`, except those about the single reward. `episode_statistics` is one of them:
            `mo_gymnasium.wrappers.vector.MORecordEpisodeStatistics` does that.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._vectors: FloatArray = np.zeros((self.num_envs, self.reward_dim))
        self.watch(self._settle)

    def step(self, actions: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], FloatArray, Bools, Bools, Infos]:
        """Like one step with a single reward, but rewards are `(num_envs, objectives)`."""
        self._due = self._ledger.due()
        observations, _, terminated, truncated, infos = super().step(actions)
        return observations, self._vectors, terminated, truncated, infos

    def _settle(self, stepped: Bools) -> None:
        """Rewards of the environments that were stepped, before any of them is reset."""
        self._vectors = np.where(stepped[:, None], self._ledger.rewards(self._due, self._ledger.due()), 0.0)


class MOEvictionVectorEnv(MOFleetVectorEnv):
    """Many `MOEvictionEnv`; arguments and everything else as `MOFleetVectorEnv` says."""

    SINGLE = MOEvictionEnv


class MOSwapVectorEnv(MOFleetVectorEnv):
    """Many `MOSwapEnv`; arguments and everything else as `MOFleetVectorEnv` says."""

    SINGLE = MOSwapEnv
