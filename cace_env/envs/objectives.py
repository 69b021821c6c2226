"""Vector rewards: `cace_env/MO-Eviction-v0` and `cace_env/MO-Swap-v0`, for learning with several objectives.

They are played like `cace_env/Eviction-v0` and `cace_env/Swap-v0`; only the reward is another one: an array with one
number for each objective, in seconds, evictions or requests, whatever the scenario's weights are. Everything follows
MO-Gymnasium's conventions (`reward_space`, `mo_gymnasium.make`, its wrappers), and nothing needs it to be installed.
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
from cace_env.tables import TASKS, Protocol

FloatArray = npt.NDArray[np.float64]

COUNTERS: Final = (*COST_TERMS, "evictions")  # what is counted exactly: us, requests, evictions
US: Final = 1_000_000


class Objective(NamedTuple):
    """What a component of the reward adds up; an episode's sum is minus the metric of the same name."""

    counters: tuple[str, ...]  # of `COUNTERS`
    per_unit: int  # so many counts make one unit of the reward
    meaning: str


def _objectives() -> dict[str, Objective]:
    """Every objective by its name, which is that of a metric of `cace_env.simulation.metrics`."""
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
    table["evictions"] = Objective(("evictions",), 1, "models brought out of memory")
    return table


OBJECTIVES: Final[dict[str, Objective]] = _objectives()
DEFAULT_OBJECTIVES: Final = ("completion_waiting_s", "system_s", "load_s", "evictions")


class Ledger:
    """What has become due in each of some simulations, by objective, in exact counts.

    Args:
        simulators: that are played.
        names: of `OBJECTIVES`.

    Raises:
        ValueError: an unknown objective, one that is named twice, or none.
    """

    def __init__(self, simulators: Simulators, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in OBJECTIVES]
        if unknown:
            raise ValueError(f"there is no objective {unknown[0]!r}; take some of {', '.join(OBJECTIVES)}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objectives are {tuple(names)}; name at least one, and each once")
        objectives = [OBJECTIVES[name] for name in names]
        self._simulators = simulators
        self._parts = np.array(
            [[counter in objective.counters for counter in COUNTERS] for objective in objectives], dtype=np.int64
        ).T  # (COUNTERS, objectives)
        self._per_unit = np.array([objective.per_unit for objective in objectives], dtype=np.float64)
        self._counts = np.zeros((simulators.num_envs, len(COUNTERS)), dtype=np.int64)

    def due(self) -> Int64Array:
        """Counts from time 0 until the last look, `(num_envs, objectives)`: what rewards have paid so far."""
        batch = self._simulators.batch()
        self._counts[:, :NUM_TERMS] = batch.charged
        if batch.arena.shape[1]:  # else there has been no reset
            # Before the first answer nothing has been paid for: its step pays for all since time 0.
            self._counts[:, NUM_TERMS] = batch.arena[:, EVICTIONS] * (batch.arena[:, DECISIONS] > 0)
        return self._counts @ self._parts

    def rewards(self, before: Int64Array, after: Int64Array) -> FloatArray:
        """Minus what became due between two moments, in units, `(num_envs, objectives)`."""
        rewards: FloatArray = (before - after) / self._per_unit
        return rewards


class VectorRewards:
    """What a single environment with vector rewards and a vector of them share; the first of their bases.

    Args:
        arguments: of the environment with one reward.
        objectives: names of `OBJECTIVES`.
        named: of the environment with one reward.

    Attributes:
        reward_space: of one environment, `(objectives,)` float64, so that sums stay exact.
        reward_dim: how many objectives there are.

    Raises:
        ValueError: unknown objectives, or an argument about a reward that is one number.
    """

    simulators: Simulators

    def __init__(self, *arguments: Any, objectives: Sequence[str] = DEFAULT_OBJECTIVES, **named: Any) -> None:
        for name in ("invalid_penalty", "baseline", "scale_rewards", "episode_statistics"):
            if name in named:
                raise ValueError(
                    f"{name} is about a reward that is one number, and this environment rewards with amounts of the "
                    "world; leave it out, or take the id without MO-"
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
        """As in the environment with one reward."""
        seen = super().reset(seed=seed, options=options)
        self._due = self._ledger.due()
        return seen

    def step(self, action: SupportsIndex) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """As in the environment with one reward, but the reward is `(objectives,)` float64."""
        observation, _, terminated, truncated, info = super().step(action)
        before, self._due = self._due, self._ledger.due()
        return observation, self._ledger.rewards(before, self._due)[0], terminated, truncated, info

    def set_state(self, state: EnvState) -> None:
        """As in the environment with one reward, with which states can be exchanged."""
        super().set_state(state)
        self._due = self._ledger.due()


class MOEvictionEnv(MOFleetEnv):
    """`cace_env/Eviction-v0` with a vector of rewards: which CodeLLM shall leave, if several things count?

    ## Description

    Everything but the reward is as in `cace_env/Eviction-v0`: observations, actions, masks, infos, seeds, and what
    happens. A state of one goes on in the other.

    ## Rewards

    An array `(objectives,)` float64: minus what became due since the last decision, in units of the world, whatever
    weights the scenario has. It is made from exact counts, so an episode's sum is minus the episode's metric of the
    same name, but for the rounding of the last bit. The first step also pays for all since time 0.

    | Num | Objective              | Unit      | What is lost                                                |
    |-----|------------------------|-----------|-------------------------------------------------------------|
    | 0   | `completion_waiting_s` | request s | TTFT of completions: time until their first token, summed   |
    | 1   | `system_s`             | request s | E2E of all requests: time in the system, summed             |
    | 2   | `load_s`               | s         | time of loading models                                      |
    | 3   | `evictions`            | evictions | models brought out of memory                                |

    `objectives` names others: `waiting_s`, `system_s` and `slo_missed`, each for all requests or with a task before it
    (`chat_system_s`), `load_s`, `refused`, `evictions`. `reward_space` is their `Box`, `reward_dim` their number. A
    load counts whole when it begins. An illegal action costs nothing by itself: it is replaced by the legal one of
    lowest index and counted in `info["invalid_action"]`. `info["reward_terms"]` are the cost by the scenario's weights.

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("cace_env:cace_env/MO-Eviction-v0", objectives=("completion_waiting_s", "system_s"))

    ```

    | Parameter    | Type              | Default         | Description                                        |
    |--------------|-------------------|-----------------|----------------------------------------------------|
    | `objectives` | **tuple of str**  | those above     | names of `cace_env.envs.objectives.OBJECTIVES`     |
    | others       |                   |                 | as in Eviction-v0, but for those about the one     |
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

    Environment i does what a single one does that was reset with seed `s + i`. Rewards are `(num_envs, objectives)`
    float64, and 0 where the step has reset an environment.

    Args:
        arguments: as for `FleetVectorEnv`.
        objectives: as for a single environment.
        named: as for `FleetVectorEnv`, but for those about the one reward, `episode_statistics` among them:
            `mo_gymnasium.wrappers.vector.MORecordEpisodeStatistics` keeps them.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._vectors: FloatArray = np.zeros((self.num_envs, self.reward_dim))
        self.watch(self._settle)

    def step(self, actions: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], FloatArray, Bools, Bools, Infos]:
        """As with one reward, but rewards are `(num_envs, objectives)`."""
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
