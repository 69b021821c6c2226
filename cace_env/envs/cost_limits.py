"""A limit on waiting as a cost per step: the constraint of safe reinforcement learning.

`CostLimit` and `VectorCostLimit` put it into `info["cost"]`; `Lateness` computes it. A request is examined only while
it waits for its first token, in all environments at once, so the work does not grow with the episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from cace_env.envs.fleet_env import FleetEnv
from cace_env.envs.fleet_vector_env import FleetVectorEnv
from cace_env.envs.vector_infos import Bools, add, only
from cace_env.kernel.batch import NUM_TERMS, PLACE, Batch
from cace_env.kernel.state import CLOCK, COLUMN, DECISIONS, LOG, LOGGED, NONE, REQUEST, Int64Array, State
from cace_env.simulation import Simulators
from cace_env.tables import TASKS

Limit = Literal["late_requests", "longest_wait"]

if TYPE_CHECKING:
    AnyWrapper = gymnasium.Wrapper[Any, Any, Any, Any]
    AnyVectorWrapper = VectorWrapper[Any, Any, Any, Any, npt.NDArray[Any]]
else:
    AnyWrapper = gymnasium.Wrapper
    AnyVectorWrapper = VectorWrapper  # no generic class before Gymnasium 1.4

LOGS: Final = State._fields.index("log")
REQUESTS: Final = State._fields.index("requests")


class Waiting(NamedTuple):
    """Requests without a first token at the last look, of all environments; `W` of them."""

    env: Int64Array  # (W,)
    request: Int64Array  # (W,) row of the environment's workload
    arrival_us: Int64Array  # (W,)
    late: Bools  # (W,) already counted

    def only(self, kept: Bools) -> Waiting:
        """The requests where `kept` is True."""
        return Waiting._make(column[kept] for column in self)

    def and_also(self, others: Waiting) -> Waiting:
        """These requests and `others`."""
        return Waiting._make(np.concatenate(pair) for pair in zip(self, others, strict=True))


def _none_waiting() -> Waiting:
    none = np.zeros(0, dtype=np.int64)
    return Waiting(none, none, none, none > 0)


class Lateness:
    """Computes the constraint's cost of each step of all environments.

    `late_requests`: requests whose time to first token has exceeded the threshold since the last decision. A request
    counts once, in the step in which it becomes late, whether or not it has its first token by then. An episode's sum
    is the number of late requests.

    `longest_wait`: seconds by which the longest wait for a first token has grown beyond the threshold since the last
    decision; waits that still go on count with their length so far. With `W(t)` the longest one until `t`, a step from
    `t` to `u` costs `max(0, W(u) - threshold) - max(0, W(t) - threshold)`; an episode's sum is
    `max(0, longest_wait_s - threshold)`.

    As with rewards, the first step also counts the time before it. Refused requests do not wait.

    Args:
        simulators: the simulations.
        limit: which of the two.
        threshold_s: the longest time to first token allowed [s].
        task: count only requests of this task; None = all.

    Raises:
        ValueError: an unknown limit or task, or a threshold below 0.
    """

    def __init__(self, simulators: Simulators, limit: Limit, threshold_s: float, task: str | None) -> None:
        if limit not in get_args(Limit):
            raise ValueError(f"limit is {limit!r}; it has to be one of {', '.join(get_args(Limit))}")
        if not threshold_s >= 0:
            raise ValueError(f"threshold_s is {threshold_s}; it has to be at least 0")
        if task is not None and task not in TASKS:
            raise ValueError(f"task is {task!r}; it has to be None or one of {', '.join(TASKS)}")
        self._simulators = simulators
        self._counts_requests = limit == "late_requests"
        self._threshold_us = round(threshold_s * 1e6)
        self._task = None if task is None else TASKS.index(task)
        envs = simulators.num_envs
        # Counters of the simulations at the last look: if one differs, it has been reset or given a state.
        self._known = np.full((envs, NUM_TERMS + 1), NONE, dtype=np.int64)
        self._seen = np.zeros(envs, dtype=np.int64)  # rows of the log of arrivals
        self._longest_us = np.zeros(envs, dtype=np.int64)
        self._waiting = _none_waiting()

    def prepare(self) -> None:
        """Before a step: starts again for environments that were reset or given a state."""
        batch = self._simulators.batch()
        for env in np.flatnonzero((self._now(batch) != self._known).any(axis=1)).tolist():
            self._begin(batch, env)

    def settle(self, stepped: Bools) -> npt.NDArray[np.float64]:
        """After a step: its cost, `(num_envs,)`; 0 for environments that were not `stepped`."""
        batch = self._simulators.batch()
        if not stepped.all():
            self._waiting = self._waiting.only(stepped[self._waiting.env])
        waiting = self._waiting.and_also(self._arrived(batch, stepped))
        wait_us, goes_on = _waits(batch, waiting)
        if self._counts_requests:
            late = wait_us > self._threshold_us
            costs = np.bincount(waiting.env[late & ~waiting.late], minlength=len(stepped)).astype(np.float64)
            waiting = waiting._replace(late=waiting.late | late)
        else:
            longest_us = self._longest_us.copy()
            np.maximum.at(longest_us, waiting.env, wait_us)
            over_us = np.maximum(longest_us, self._threshold_us) - np.maximum(self._longest_us, self._threshold_us)
            costs = over_us / 1e6
            self._longest_us = longest_us
        self._waiting = waiting.only(goes_on)
        self._known = self._now(batch)
        self._known[~stepped] = NONE
        return costs

    def _now(self, batch: Batch) -> Int64Array:
        """Counters that tell one moment of a simulation from another, `(num_envs, NUM_TERMS + 1)`."""
        if not batch.arena.shape[1]:  # there has been no reset
            return self._known.copy()
        return np.concatenate([batch.charged, batch.arena[:, DECISIONS, None]], axis=1)

    def _begin(self, batch: Batch, env: int) -> None:
        """Starts counting at the current state of an environment, without what earlier steps have counted."""
        row = batch.arena[env]
        fleet, workload, requests, _ = batch.places[env].tolist()
        columns = batch.columns[workload, :requests]
        table = row[batch.at[env, REQUESTS] :][: requests * len(REQUEST)].reshape(requests, len(REQUEST))
        tokens = columns[:, COLUMN.context].astype(np.int64) + columns[:, COLUMN.output]
        there = table[:, REQUEST.arrival_us] <= row[CLOCK]
        there &= tokens <= self._simulators.tables[fleet].kv_tokens[columns[:, COLUMN.model]]  # else refused
        if self._task is not None:
            there &= columns[:, COLUMN.task] == self._task
        request = np.flatnonzero(there)
        arrival_us = table[request, REQUEST.arrival_us]
        mine = Waiting(np.full_like(request, env), request, arrival_us, np.zeros(len(request), dtype=np.bool_))
        self._longest_us[env] = 0
        if row[DECISIONS]:  # otherwise the first step counts all since time 0, also requests with a first token
            wait_us, goes_on = _waits(batch, mine)
            self._longest_us[env] = wait_us.max(initial=0)
            mine = mine._replace(late=wait_us > self._threshold_us).only(goes_on)
        self._waiting = self._waiting.only(self._waiting.env != env).and_also(mine)
        self._seen[env] = row[LOGGED]  # a state leaves earlier rows of the log out

    def _arrived(self, batch: Batch, stepped: Bools) -> Waiting:
        """Requests that have arrived since the last look, and were not refused."""
        logged = batch.arena[:, LOGGED]
        new = np.where(stepped, logged - self._seen, 0)
        env = np.repeat(np.arange(len(new)), new)
        behind = np.arange(len(env)) - np.repeat(new.cumsum() - new, new)  # 0, 1, 2, ... in each environment
        place = batch.at[env, LOGS] + len(LOG) * (self._seen[env] + behind)
        self._seen = np.where(stepped, logged, self._seen)
        request, arrival_us = batch.arena[env, place + LOG.request], batch.arena[env, place + LOG.arrival_us]
        arrived = Waiting(env, request, arrival_us, np.zeros(len(env), np.bool_))
        if self._task is None:
            return arrived
        return arrived.only(batch.columns[batch.places[env, PLACE.workload], request, COLUMN.task] == self._task)


def _waits(batch: Batch, waiting: Waiting) -> tuple[Int64Array, Bools]:
    """How long each has waited for its first token until now [us], and whether it still does."""
    env, request, arrival_us, _ = waiting
    first_us = batch.arena[env, batch.at[env, REQUESTS] + len(REQUEST) * request + REQUEST.first_us]
    goes_on = first_us == NONE
    return np.where(goes_on, batch.arena[env, CLOCK], first_us) - arrival_us, goes_on


class CostLimit(AnyWrapper, RecordConstructorArgs):
    """Puts the cost of a limit on waiting into `info["cost"]`, which libraries for safe reinforcement learning read.

    The reward is unchanged: the agent lowers the total waiting while the constraint holds.

    | `limit`           | `info["cost"]` of a step                            | sum of an episode                      |
    |-------------------|-----------------------------------------------------|----------------------------------------|
    | `"late_requests"` | requests whose TTFT has exceeded the                | late requests                          |
    |                   | threshold                                           |                                        |
    | `"longest_wait"`  | seconds by which the longest wait for a first token | `max(0, longest_wait_s - threshold_s)` |
    |                   | has grown beyond the threshold                      |                                        |

    p95 of TTFT is at most `threshold_s` where at most 5 % of the episode's requests are late, so a library's cost limit
    is 0.05 times their number (p99: 0.01 times); that of the longest wait is 0. `cace_env.envs.cost_limits.Lateness`
    defines both. The cost is a float, never below 0; at reset it is 0, and the first step counts from time 0.

    Args:
        env: any environment of this package, possibly wrapped, but not by `Autoreset`.
        limit: "late_requests" or "longest_wait".
        threshold_s: the longest time to first token allowed [s].
        task: count only requests of this task; None = all.

    Raises:
        TypeError: the environment is not of this package.
        ValueError: an unknown limit or task, or a threshold below 0.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        limit: Limit = "late_requests",
        *,
        threshold_s: float,
        task: str | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, limit=limit, threshold_s=threshold_s, task=task)
        super().__init__(env)
        if not isinstance(env.unwrapped, FleetEnv):
            raise TypeError(
                f"CostLimit needs an environment of cace_env, got {env.unwrapped}; wrap what gymnasium.make returns "
                "for one of its ids"
            )
        self._lateness = Lateness(env.unwrapped.simulators, limit, threshold_s, task)
        self._stepped = np.ones(1, dtype=np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "cost": 0.0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._lateness.prepare()
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = float(self._lateness.settle(self._stepped)[0])
        return observation, reward, terminated, truncated, {**info, "cost": cost}


class VectorCostLimit(AnyVectorWrapper):
    """What `CostLimit` does, for the vector environments of this package: `infos["cost"]` is `(num_envs,)` float64.

    It is 0 where the step has reset an environment; under SAME_STEP the cost of an episode's last step is in
    `infos["final_info"]["cost"]`. Around a `SyncVectorEnv` or `AsyncVectorEnv`, put `CostLimit` into each environment.

    Args:
        env: `EvictionVectorEnv`, `SwapVectorEnv` or one with several objectives, possibly wrapped.
        limit: as for `CostLimit`.
        threshold_s: as for `CostLimit`.
        task: as for `CostLimit`.

    Raises:
        TypeError: the environment is not a vector environment of this package.
        ValueError: an unknown limit or task, or a threshold below 0.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        limit: Limit = "late_requests",
        *,
        threshold_s: float,
        task: str | None = None,
    ) -> None:
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, FleetVectorEnv):
            raise TypeError(
                "VectorCostLimit needs EvictionVectorEnv, SwapVectorEnv or one of their MO variants, got "
                f"{base}; put CostLimit around each of its environments"
            )
        self._lateness = Lateness(base.simulators, limit, threshold_s, task)
        self._base = base
        self._costs = np.zeros(base.num_envs)
        base.watch(self._settle)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's mode; Gymnasium keeps it in `metadata`, TorchRL reads it here."""
        return self._base.autoreset_mode

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions now, `(num_envs, actions)`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        return self._base.action_masks()

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type] # a list is allowed
        infos = dict(infos)
        add(infos, "cost", np.zeros(self.num_envs), infos["_action_mask"].copy())
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        self._lateness.prepare()
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        infos = dict(infos)
        costs = self._costs
        if "final_info" in infos:
            over = infos["_final_info"]
            infos["final_info"] = dict(infos["final_info"])
            add(infos["final_info"], "cost", only(over, costs), over.copy())
            costs = only(~over, costs)
        add(infos, "cost", costs, np.ones(self.num_envs, dtype=np.bool_))
        return observations, rewards, terminations, truncations, infos

    def _settle(self, stepped: Bools) -> None:
        self._costs = self._lateness.settle(stepped)
