"""The base class of the vector environments: many simulations, stepped by one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cace_env.envs import vector_arguments as arguments
from cace_env.envs.baselines import Rewards
from cace_env.envs.fleet_env import HANDED_IN, FleetEnv, common_layout
from cace_env.envs.states import EnvState, Origin, check_origin, origin_of
from cace_env.envs.vector_infos import Bools, Infos, InfoWriter, Statistics, add
from cace_env.envs.workload_seeds import Ahead, Draws, Generators
from cace_env.fleets import nothing_to_decide as undecided
from cace_env.kernel.batch import Look
from cace_env.kernel.state import Int64Array
from cace_env.policies import Policy
from cace_env.scenarios import Split
from cace_env.simulation import METRICS, Simulators
from cace_env.workload import Workload


class FleetVectorEnv(VectorEnv[npt.NDArray[np.float32], Int64Array, npt.NDArray[Any]]):
    """`num_envs` copies of an environment, stepped together: `EvictionVectorEnv` and `SwapVectorEnv`.

    Environment i does, to the bit, what a single one does that was reset with seed `s + i`: actions, observations,
    rewards and infos equal those of `gymnasium.vector.SyncVectorEnv`. Returned arrays are never changed later; masks in
    one step's infos may be the same array. `episode_metrics` holds, by name, the metrics of the episodes that the last
    step ended. Step one environment from one Python thread at a time.

    Args:
        num_envs: number of environments.
        scenario: as for a single environment, or a sequence: environment i plays number `i % len(scenario)`. All get
            the slots and pending rows of the one that needs most, and the memory of the one with most requests.
        split: whose seeds are played: train, validation, test.
        autoreset_mode: what happens where an episode has ended, as the enum or its value. `"NextStep"`: the next step
            ignores the action, resets and rewards 0. `"SameStep"`: the reset happens in the step that ends the episode;
            the last observation and info are `infos["final_obs"]` and `infos["final_info"]`. `"Disabled"`: call
            `reset(options={"reset_mask": terminated | truncated})`.
        num_workloads: play only the split's first so many seeds, and keep their workloads (about 50 bytes a request
            each). Resets are several times as fast, but an agent sees no more than these workloads, drawn with
            replacement. None = all seeds, each workload generated when it is played.
        threads: how many threads share the simulation; results do not depend on it. With two or more, the workload that
            an environment plays next is generated while steps go on.
        baseline: rewards are the savings against this built-in policy on the same requests, as for a single environment
            (`cace_env.envs.baselines`).
        scale_rewards: divide rewards by what LRU pays per decision of the scenario; None = if there is a baseline.
        strict: illegal actions raise an error and change nothing.
        invalid_penalty: taken from the reward for each illegal action.
        max_slots: slots; None = as many as the largest fleet can use.
        max_pending: rows of pending models, in Swap-v0 of all models; None = one per model.
        top_k: show so many of the most plausible candidates, as for a single environment; None = all.
        max_episode_steps: truncates episodes after so many steps, as Gymnasium's `TimeLimit` does; but one that ends by
            itself in its last step is only terminated, and a truncated one has `episode_metrics`, too.
        episode_statistics: `infos["episode"]` of finished episodes, as `RecordEpisodeStatistics` gives it: return `r`,
            length `l`, wall time `t` [s]. Off by default, so that the name is free for Gymnasium's wrapper.
        render_mode: only None; make a single environment to render an episode.

    Raises:
        ValueError, ConfigError: an argument is out of range, or a scenario is not valid.
    """

    SINGLE: ClassVar[type[FleetEnv]]  # class of each of its environments

    def __init__(
        self,
        num_envs: int = 1,
        scenario: arguments.AnyScenario | Sequence[arguments.AnyScenario] = "default",
        split: Split = "train",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        num_workloads: int | None = None,
        threads: int = 1,
        baseline: str | Policy | None = None,
        scale_rewards: bool | None = None,
        strict: bool = False,
        invalid_penalty: float = 1.0,
        max_slots: int | None = None,
        max_pending: int | None = None,
        top_k: int | None = None,
        max_episode_steps: int | None = None,
        episode_statistics: bool = False,
        render_mode: None = None,
    ) -> None:
        arguments.check_counts(num_envs=num_envs, threads=threads, max_episode_steps=max_episode_steps)
        arguments.check_render_mode(render_mode, self.SINGLE.ID)
        self.scenarios = arguments.scenarios(scenario)
        self.num_envs, self.render_mode, self.split, self.strict = num_envs, None, split, strict
        self.autoreset_mode = arguments.autoreset_mode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        tables = [each.tables().replace(protocol=self.SINGLE.PROTOCOL) for each in self.scenarios]
        self.draws = Draws(self.scenarios, tables, split, num_workloads)
        for each, fleet in zip(self.scenarios, tables, strict=True):
            if (idle := undecided.warning(each.name, fleet)) is not None:
                gymnasium.logger.warn("%s", idle, stacklevel=2)
        if max_episode_steps is not None:
            tables = [replace(each, max_decisions=min(each.max_decisions, max_episode_steps)) for each in tables]
        self.layout = common_layout(tables, max_slots, max_pending, top_k)
        self.scenario_of = np.arange(num_envs) % len(tables)  # (num_envs,) number of each environment's scenario
        self.rewards = Rewards(self.scenarios, tables, self.scenario_of, baseline=baseline, scale=scale_rewards)
        self.simulators = Simulators(
            tables,
            self.scenario_of.tolist(),
            self.layout,
            invalid_penalty=float(invalid_penalty),
            kept=self.draws.num_kept,
            threads=threads,
            sums=True,
        )
        self.single_observation_space = spaces.Box(self.layout.low, self.layout.high, dtype=np.float32)
        self.single_action_space = spaces.Discrete(self.simulators.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._statistics = Statistics(num_envs) if episode_statistics else None
        self._generators = Generators(num_envs)
        self._ahead = Ahead(self.draws, self._generators, self.simulators, self.scenario_of, self.rewards.baseline)
        self._played: list[int | Workload] = [-1] * num_envs  # seeds; a workload only from a single one's state
        self._over = np.ones(num_envs, dtype=np.bool_)  # (num_envs,) True before the first reset, too
        self._any_over = True
        self._mask: npt.NDArray[np.int8] | None = None  # (num_envs, actions); None before the first reset
        self._workload_seeds = np.full(num_envs, HANDED_IN)  # (num_envs,) of the current episodes
        self._ended: npt.NDArray[np.float64] | None = None  # (metrics, num_envs) of the episodes just ended
        self._ended_baseline: npt.NDArray[np.float64] | None = None  # (num_envs,) the baseline's cost; None without one
        self._writer = InfoWriter(self.simulators, self.scenario_of)
        self._watchers: list[Callable[[Bools], None]] = []
        self._all_rows = np.arange(num_envs)  # writeable: read-only rows would make Numba compile everything once more

    @property
    def reward_scales(self) -> npt.NDArray[np.float64]:
        """Divisors of each environment's rewards, `(num_envs,)`: reward x scale is a cost."""
        return self.rewards.scales.copy()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each environment, as `SyncVectorEnv` has it."""
        return tuple(self._generators[env] for env in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each environment's generator."""
        return tuple(self._generators.seed(env) for env in range(self.num_envs))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Infos | None = None
    ) -> tuple[npt.NDArray[np.float32], Infos]:
        """Starts episodes and runs each to its first question.

        Args:
            seed: `s` seeds environment i with `s + i`; a sequence has one seed, or None, for each.
            options: `{"reset_mask": (num_envs,) bool}` resets only these, and leaves the others as they are: infos
                leave them out (`_action_mask` is False), `action_masks()` does not;
                `{"workload_seed": int or (num_envs,) ints}` chooses the workloads.

        Raises:
            ValueError, TypeError: a seed, mask or option is not as above, or a workload seed belongs to another split;
                nothing has changed.
            ResetNeeded: `reset_mask` leaves out environments that have no episode.
        """
        seeds = arguments.seeds(seed, self.num_envs)
        mask, named = arguments.reset_options(options or {}, self.num_envs, self.draws)
        if mask is not None and self._mask is None and not mask.all():
            raise ResetNeeded("reset_mask leaves out environments that have no episode; reset all first")
        rows = self._all_rows if mask is None else np.flatnonzero(mask)
        self._generators.begin(seeds, rows)
        self._load(rows, seeds, named)
        look = self.simulators.new_look()
        self.simulators.reset(rows, look)
        if mask is not None:
            self.simulators.see(np.flatnonzero(~mask), look)
        self._begin(rows)
        self._mask = look.masks.copy()
        seen = self._writer.all_envs if mask is None else mask.copy()
        return look.observations, self._writer.infos(look, seen, self._writer.no_envs, self._workload_seeds)

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], Bools, Bools, Infos]:
        """Applies `actions[i]` in each environment and runs to its next question, or to the end.

        Raises:
            InvalidAction: an action is out of range, or (with `strict`) not legal; nothing has changed.
            ResetNeeded: an episode is over or has not begun, and is not reset automatically; nothing has changed.
        """
        if self._mask is None:
            raise ResetNeeded("no episode is running; call reset first")
        again = self._over  # episodes that ended in the step before
        stepped = ~again if self._any_over else self._writer.all_envs
        if self._any_over and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(again).tolist()} are over; call "
                'reset(options={"reset_mask": terminated | truncated}) before the next step'
            )
        chosen = arguments.actions(actions, stepped, self.simulators.num_actions)
        if self.strict:
            arguments.check_legal(chosen, self._mask, stepped)
        look = self.simulators.new_look()
        if stepped is self._writer.all_envs:
            ended = self.simulators.step(self._all_rows, chosen, look)
        else:
            rows = np.flatnonzero(again)
            self._load(rows, None, None)
            self.simulators.reset(rows, look)
            ended = self.simulators.step(np.flatnonzero(stepped), chosen, look)
            for values in (look.rewards, look.terminated, look.truncated, look.illegal, look.terms.T):
                values[again] = 0
            self._begin(rows)
        self.rewards.settle(look, stepped)
        for watcher in self._watchers:
            watcher(stepped)
        if self._statistics is not None:
            self._statistics.count(look.rewards, stepped)
        self._ended = None
        if ended:
            infos = self._end(look, stepped)
        else:
            infos = self._writer.infos(look, self._writer.all_envs, stepped, self._workload_seeds)
        self._mask = look.masks.copy()
        return look.observations, look.rewards, look.terminated, look.truncated, infos

    def watch(self, watcher: Callable[[Bools], None]) -> None:
        """Calls `watcher(stepped)` in every step, right after the simulations have advanced.

        So it sees the end of an episode under SAME_STEP, too, before the next one begins. `stepped` is a mask of the
        environments that took the step, `(num_envs,)`; the others have just been reset.
        """
        self._watchers.append(watcher)

    def action_masks(self) -> Bools:
        """Legal actions now, `(num_envs, actions)`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self._mask is None:
            raise ResetNeeded("there is no mask before the first reset")
        return self._mask.astype(np.bool_)

    @property
    def episode_metrics(self) -> dict[str, npt.NDArray[np.float64]]:
        """Metrics of the episodes that the last step has ended, by name, `(num_envs,)` each; NaN for the others.

        Like those of a single environment; a reset in the same step keeps them.
        """
        ended = np.full((len(METRICS), self.num_envs), np.nan) if self._ended is None else self._ended.copy()
        metrics = dict(zip(METRICS, ended, strict=True))
        if self.rewards.baseline is not None:
            costs = None if self._ended is None else self._ended_baseline
            metrics["baseline_cost"] = np.full(self.num_envs, np.nan) if costs is None else costs.copy()
        return metrics

    def describe(self, env: int) -> str:
        """Describe the open question of environment `env` in words, like `describe()` of the single environment.

        With SAME_STEP and an episode that has just ended, this is the question of the next one.

        Raises:
            ResetNeeded: there has been no reset.
            IndexError: there is no such environment.
        """
        return self.simulators.describe(env, self._mask_of(env))

    def get_state(self, env: int) -> EnvState:
        """The state of environment `env`, as `FleetEnv.get_state` gives it.

        Where its episode has ended it is that of the episode before the reset under NEXT_STEP and DISABLED, and that of
        the next one under SAME_STEP.

        Raises:
            ResetNeeded: there has been no reset.
            IndexError: there is no such environment.
        """
        mask = self._mask_of(env)
        return EnvState(
            origin=self._origins[self.scenario_of[env]],
            simulation=self.simulators.snapshot(env),
            mask=mask.copy(),
            played=self._played[env],
            over=bool(self._over[env]),
            generator=self._generators.state(env),
            statistics=None if self._statistics is None else self._statistics.of(env),
            choice=None,
        )

    def set_state(self, env: int, state: EnvState) -> None:
        """Makes environment `env` continue from a state of this batch or of a single environment.

        Nothing is returned: the legal actions are in `action_masks()`, and wrappers see the change at the next step.
        The notes on `FleetEnv.set_state` hold here, too. If the state's episode has ended, the next step follows the
        autoreset mode; under SAME_STEP, which has no ended episodes, it needs a reset.

        Raises:
            ResetNeeded: there has been no reset; the others would have no episode.
            IndexError: there is no such environment.
            TypeError, ValueError: as for `FleetEnv.set_state`; or the state lacks the return and length of its episode,
                which `episode_statistics=True` needs.
        """
        mask = self._mask_of(env)
        check_origin(state, self._origins[self.scenario_of[env]])
        if self._statistics is not None and state.statistics is None:
            raise ValueError(
                "the state lacks the return of its episode so far, which episode_statistics=True needs; take the "
                "state from a batch with episode_statistics=True, or make this batch without it"
            )
        self.simulators.restore(env, state.simulation)
        mask[:] = state.mask
        self._played[env] = state.played
        self._workload_seeds[env] = state.played if isinstance(state.played, int) else HANDED_IN
        if self.rewards.baseline is not None:
            self.rewards.baseline.resume(env, state.played, self.simulators.charged_until_s(env))
        self._over = self._over.copy()  # infos may still hold the old array
        self._over[env] = state.over
        self._any_over = bool(self._over.any())
        if self._statistics is not None and state.statistics is not None:
            self._statistics.resume(env, *state.statistics)
        self._generators.restore(env, state.generator)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        del kwargs
        if hasattr(self, "simulators"):  # Gymnasium before 1.2 also closes objects whose __init__ failed
            self.simulators.close()

    def _mask_of(self, env: int) -> npt.NDArray[np.int8]:
        """The legal actions of an environment that has been reset; not a copy."""
        if self._mask is None:
            raise ResetNeeded(f"environment {env} has no episode before the first reset")
        if not 0 <= env < self.num_envs:
            raise IndexError(f"there is no environment {env}; use 0 to {self.num_envs - 1}")
        return self._mask[env]  # type: ignore[no-any-return]

    @cached_property
    def _origins(self) -> list[Origin]:
        """Origin of the states of each scenario."""
        return [
            origin_of(
                self.SINGLE.ID, scenario, self.split, self.layout, self.SINGLE.PROTOCOL, self.simulators.digest(number)
            )
            for number, scenario in enumerate(self.scenarios)
        ]

    def _load(self, rows: Int64Array, seeds: Sequence[int | None] | None, named: Int64Array | None) -> None:
        """Gives `rows` their next workloads."""
        # No step is allowed until all have begun: an interrupt could leave new workloads with old states.
        self._mask = None
        envs = rows.tolist()
        played = self.draws.all_of(envs, seeds, named, self._generators)
        self._ahead.expect(envs, played)
        baseline = self.rewards.baseline
        for env, seed in zip(envs, played, strict=True):
            met = None if baseline is None else partial(baseline.meet, env, seed=seed, keep=self.draws.keeps(seed))
            self.simulators.load(env, self._ahead.shelf(env, seed, met))
            if baseline is not None:
                baseline.begin(env, seed)
            self._played[env] = self._workload_seeds[env] = seed
        if named is None:
            self._ahead.expect(envs, [None] * len(envs))

    def _begin(self, rows: Int64Array) -> None:
        """Record that the episodes of `rows` have begun."""
        self._over = self._over.copy()  # infos may still hold the old array
        self._over[rows] = False
        self._any_over = bool(self._over.any())
        if self._statistics is not None:
            self._statistics.begin(rows)

    def _end(self, look: Look, stepped: Bools) -> Infos:
        """Infos of a step in which episodes ended; with SAME_STEP the next ones begin."""
        over = look.terminated | look.truncated
        rows = np.flatnonzero(over)
        self._ended = self._writer.metrics(rows)
        if self.rewards.baseline is not None:
            self._ended_baseline = np.where(over, self.rewards.baseline.costs, np.nan)
        episodes = None if self._statistics is None else self._statistics.infos(over)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for env in rows.tolist():
                final_obs[env] = look.observations[env].copy()
            final_info = self._writer.infos(look, over, over, self._workload_seeds)
            self._load(rows, None, None)
            self.simulators.reset(rows, look)
            self._begin(rows)
            infos = self._writer.infos(look, self._writer.all_envs, stepped & ~over, self._workload_seeds)
            add(infos, "final_obs", final_obs, over)
            add(infos, "final_info", final_info, over)
        else:
            self._over, self._any_over = over.copy(), True
            infos = self._writer.infos(look, self._writer.all_envs, stepped, self._workload_seeds)
        if episodes is not None:
            add(infos, "episode", episodes, over)
        return infos
