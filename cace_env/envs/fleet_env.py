"""The base class of Eviction-v0 and Swap-v0: everything except the protocol, which `eviction.py` and `swap.py` set."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Final, SupportsIndex

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded

from cace_env.envs.baselines import Rewards
from cace_env.envs.states import EnvState, Origin, check_origin, origin_of
from cace_env.envs.workload_seeds import Draws
from cace_env.envs.workload_seeds import whole as whole_number
from cace_env.fleets import nothing_to_decide as undecided
from cace_env.observation import ObservationLayout
from cace_env.policies import Policy
from cace_env.rendering import picture
from cace_env.rendering import scenes as rendering
from cace_env.scenarios import Scenario, Split, load_scenario
from cace_env.simulation import Simulator, Simulators, episode_metrics
from cace_env.simulation.shown import whole_layout
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload

Observation = npt.NDArray[np.float32]

OPTIONS: Final = ("workload_seed", "workload")
ROW: Final = np.zeros(1, dtype=np.int64)  # a single environment is the first row of a batch of one
ONE: Final = np.ones(1, dtype=np.bool_)  # mask of the environments that are stepped
HANDED_IN: Final = -1  # seed of a workload that was handed in, which has none


def common_layout(
    tables: Sequence[FleetTables], max_slots: int | None, max_pending: int | None, top_k: int | None
) -> ObservationLayout:
    """Layout of observations that holds all the fleets, or the `top_k` candidates; as small as possible by default.

    Raises:
        TypeError: `top_k` is not a whole number.
        ValueError: `max_slots` is less than the number of models that can fit at once, or given beside `top_k`; or
            `top_k` is less than 1.
    """
    whole = whole_layout(tables)
    needed, most_models = whole.max_slots, whole.max_pending
    if top_k is not None:
        if whole_number("top_k", top_k) < 1 or max_slots is not None:
            raise ValueError(
                f"top_k is {top_k} and max_slots {max_slots}; give a top_k of at least 1, and no max_slots beside it"
            )
        return ObservationLayout(top_k, min(top_k, most_models) if max_pending is None else max_pending, top_k=True)
    if max_slots is not None and max_slots < needed:
        raise ValueError(
            f"max_slots is {max_slots}, but {needed} models can fit at once; give at least {needed}, or top_k"
        )
    return ObservationLayout(
        needed if max_slots is None else max_slots, most_models if max_pending is None else max_pending
    )


class FleetEnv(gymnasium.Env[Observation, np.int64]):
    """The implementation of `EvictionEnv` and `SwapEnv`, whose docstrings say what it does."""

    ID: ClassVar[str]  # its id in Gymnasium
    PROTOCOL: ClassVar[Protocol]  # what is asked

    metadata: dict[str, Any] = {"render_modes": rendering.render_modes(), "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        scenario: str | Path | Mapping[str, Any] | Scenario = "default",
        split: Split = "train",
        *,
        baseline: str | Policy | None = None,
        scale_rewards: bool | None = None,
        strict: bool = False,
        invalid_penalty: float = 1.0,
        num_workloads: int | None = None,
        max_slots: int | None = None,
        max_pending: int | None = None,
        top_k: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        rendering.check_render_mode(render_mode)
        self.scenario = load_scenario(scenario)
        self.split = split
        self.strict = strict
        self.invalid_penalty = float(invalid_penalty)
        self.render_mode = render_mode
        self.tables = self.scenario.tables().replace(protocol=self.PROTOCOL)
        self.draws = Draws((self.scenario,), (self.tables,), split, num_workloads)
        if (idle := undecided.warning(self.scenario.name, self.tables)) is not None:
            gymnasium.logger.warn("%s", idle, stacklevel=2)
        self.rewards = Rewards((self.scenario,), (self.tables,), ROW, baseline=baseline, scale=scale_rewards)
        self.layout = common_layout([self.tables], max_slots, max_pending, top_k)
        self.simulators = Simulators(
            [self.tables],
            [0],
            self.layout,
            invalid_penalty=self.invalid_penalty,
            kept=self.draws.num_kept,
            trace=render_mode is not None,
        )
        self.observation_space = spaces.Box(self.layout.low, self.layout.high, dtype=np.float32)
        self.action_space = spaces.Discrete(self.simulators.num_actions)
        self._played: int | Workload | None = None  # the workload, or its seed; None before the first episode
        self.episode_metrics: dict[str, float] | None = None
        self._look = self.simulators.new_look()
        self._asked = False  # whether a question is open
        self._over = True
        self._last_choice: rendering.Choice | None = None

    @property
    def _mask(self) -> npt.NDArray[np.int8]:
        mask: npt.NDArray[np.int8] = self._look.masks[0]
        return mask

    @property
    def reward_scale(self) -> float:
        """Divisor of the rewards: reward x scale is a cost."""
        return float(self.rewards.scales[0])

    @property
    def simulator(self) -> Simulator:
        """The simulation, for reading only; valid until the next reset or `set_state`."""
        return self.simulators.view(0)

    @property
    def workload(self) -> Workload | None:
        """The requests of the episode; None before the first reset."""
        return self.scenario.workload(self._played) if isinstance(self._played, int) else self._played

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode and runs to its first question.

        Args:
            seed: seeds `np_random`, and chooses the workload as the class docstring says.
            options: `{"workload_seed": int}` or `{"workload": Workload}` to choose one workload.

        Raises:
            ValueError: an option is unknown, or the workload seed belongs to another split.
        """
        named = self._named(options or {})
        super().reset(seed=seed)
        played = self.draws.seed(seed, self.np_random) if named is None else named
        self._over = True  # until the next episode has begun
        baseline = self.rewards.baseline
        if isinstance(played, Workload):
            shelf = self.simulators.bank.put(0, played)
        else:
            met = None if baseline is None else partial(baseline.meet, 0, seed=played, keep=self.draws.keeps(played))
            shelf = self.draws.shelf(self.simulators.bank, 0, 0, played, met)
        self.simulators.load(0, shelf)
        if baseline is not None:
            baseline.begin(0, played)
        self._asked = self.simulators.reset(ROW, self._look) == 0
        self._played = played
        self._over = False
        self._last_choice = None
        self._look.terms[:] = 0.0  # a reset costs nothing
        return self._look.observations[0].copy(), self._info()

    def step(self, action: SupportsIndex) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Applies `action` and runs to the next question, or to the end.

        Raises:
            InvalidAction: `action` is not a number, out of range, or (with `strict`) not legal; nothing has changed.
            ResetNeeded: the episode is over, or has not begun.
        """
        if self._over:
            raise ResetNeeded("the episode is over or has not begun; call reset first")
        try:
            number = operator.index(action)
        except TypeError:
            raise InvalidAction(f"action is {action!r}; give one whole number") from None
        if not 0 <= number < self.simulators.num_actions:
            raise InvalidAction(f"there is no action {number}; use 0 to {self.simulators.num_actions - 1}")
        if self.strict and not self._mask[number]:
            raise InvalidAction(f"action {number} is not legal now; legal are {np.flatnonzero(self._mask).tolist()}")
        if self._asked and self.render_mode is not None:
            picked = self.simulators.action_of(0, number if self._mask[number] else int(self._mask.argmax()))
            self._last_choice = rendering.open_choice(self.simulator, picked)
        look = self._look
        self._over = over = self.simulators.step_first(number, look)
        self._asked = not over
        self.rewards.settle(look, ONE)
        self.episode_metrics = self._metrics() if over else None
        observation: Observation = look.observations[0].copy()
        return observation, look.rewards.item(), look.terminated.item(), look.truncated.item(), self._info()

    def get_state(self) -> EnvState:
        """Everything the environment needs to continue: the simulation, its costs so far, and `np_random`.

        It takes microseconds, does not change when the environment continues, and can be pickled. Wrappers and the
        generator of `action_space.sample()` are not included. `docs/environment.md` shows uses.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self._played is None:
            raise ResetNeeded("there is no state before the first reset")
        generator = self._np_random
        seeded = None if generator is None else (self._np_random_seed, generator.bit_generator.state)
        simulation, mask = self.simulators.snapshot(0), self._look.masks[0].copy()
        return EnvState(self._origin, simulation, mask, self._played, self._over, seeded, None, self._last_choice)

    def set_state(self, state: EnvState) -> None:
        """Continues from a state of this environment, or of another one of the same scenario, single or in a batch.

        What follows is the same to the bit: observations, rewards, infos, and the draws of later resets, if
        `num_workloads` is the same. `strict` and `invalid_penalty` stay those of this environment. The legal actions
        are in `action_masks()`, the observation is `simulator.observation(layout)`; wrappers and windows see the change
        at the next step. Reset an `Actor` after this.

        Raises:
            TypeError: `state` does not come from `get_state`.
            ValueError: the state has another scenario, split, size or version, or lacks the history that rendering
                needs; nothing has changed.
        """
        check_origin(state, self._origin)
        self.simulators.restore(0, state.simulation)
        self._look.masks[0] = state.mask
        self._asked = self.simulators.asked(0)
        self._played, self._over, self._last_choice = state.played, state.over, state.choice
        if self.rewards.baseline is not None:
            self.rewards.baseline.resume(0, state.played, self.simulators.charged_until_s(0))
        self.episode_metrics = self._metrics() if state.over else None
        if state.generator is None:
            self._np_random, self._np_random_seed = None, None
        else:
            self.np_random.bit_generator.state = state.generator[1]
            self._np_random_seed = state.generator[0]

    @cached_property
    def _origin(self) -> Origin:
        return origin_of(self.ID, self.scenario, self.split, self.layout, self.PROTOCOL, self.simulators.digest(0))

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions now, `(actions,)`: the hook of sb3-contrib's `MaskablePPO`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self._played is None:
            raise ResetNeeded("there is no mask before the first reset")
        masks: npt.NDArray[np.bool_] = self._mask == 1
        return masks

    def describe(self) -> str:
        """Describe the open question in words.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self._played is None:
            raise ResetNeeded("nothing is asked before the first reset")
        return self.simulators.describe(0, self._mask)

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """Render the current situation, as text or as a picture `(540, 960, 3)`.

        Returns None without `render_mode`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                'nothing is rendered; give render_mode="ansi", "rgb_array" or "human" to gymnasium.make'
            )
            return None
        if self._played is None:
            raise ResetNeeded("there is nothing to render before the first reset")
        return rendering.ansi(self._scene()) if self.render_mode == "ansi" else picture.rgb_array(self._scene())

    def _scene(self) -> rendering.Scene:
        return rendering.scene(self.simulator, self._last_choice, self.scenario.name)

    def _named(self, options: Mapping[str, Any]) -> int | Workload | None:
        """The seed of the workload to play, or the workload that was handed in, or None if neither is given."""
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown or len(options) > 1:
            raise ValueError(f"reset options are {sorted(options)}; give at most one of {', '.join(OPTIONS)}")
        if "workload" in options:
            workload: Workload = options["workload"]
            workload.validate(self.tables)
            return workload
        if options.get("workload_seed") is not None:
            return self.draws.check(whole_number("workload_seed", options["workload_seed"]))
        return None

    def _info(self) -> dict[str, Any]:
        """The current info, in fresh arrays.

        The keys are always the same, each with the same type and shape, and all values are numbers, so any library can
        batch, stack or store infos (Gymnasium's vectors, TorchRL, Minari).
        """
        look = self._look
        shown = {} if self.simulators.shown is None else {"shown": self.simulators.shown.contents()[0]}
        return {
            "action_mask": look.masks[0].copy(),
            "elapsed_s": look.elapsed_s.item(),
            "time_s": look.time_s.item(),
            "invalid_action": look.invalid.item(),
            "workload_seed": self._played if isinstance(self._played, int) else HANDED_IN,
            "reward_terms": look.terms[:, 0].copy(),
            **shown,
        }

    def _metrics(self) -> dict[str, float]:
        """Metrics of the episode so far."""
        metrics = episode_metrics(self.simulator.summary(), self.tables)
        if self.rewards.baseline is not None:
            metrics["baseline_cost"] = float(self.rewards.baseline.costs[0])
        return metrics
