"""Eviction-v0: what an agent sees, may do and is rewarded for."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, SupportsIndex

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded

from cace_env import picture, rendering
from cace_env.kernel.state import CLOCK, LEGAL, LOAD_US, NUM_TASKS, REFUSED, SLOT, STATUS, TARGET, TASK, TRUNCATED
from cace_env.metrics import episode_metrics
from cace_env.observation import ObservationLayout, scales
from cace_env.scenarios import SEEDS, Scenario, Split, load_scenario, seeds
from cace_env.simulator import Simulator
from cace_env.tables import FOREVER, TASKS, CostTable, slots_per_accelerator
from cace_env.workload import Workload

Observation = npt.NDArray[np.float32]

OPTIONS: Final = ("workload_seed", "workload")
SECONDS: Final = 1e-6


class _Price(NamedTuple):
    """A term of the reward; the last two are positions in the tasks' counters, loading, refusals, 0."""

    name: str
    weight: float  # per us, or per event
    amount: int
    rate: int  # what is added per us of the clock


class EvictionEnv(gymnasium.Env[Observation, np.int64]):
    """Which resident CodeLLM shall make room for the one that people wait for?

    ## Description

    A fleet of accelerators hosts more code language models than fit into its memory. A request for a model that is not
    resident waits until the model has been loaded, and often another one must be evicted first. The agent is asked
    whenever there is more than one model that could go. Between two questions the simulator serves requests by
    continuous batching, loads and drains (`docs/design.md` has every rule), so steps are unequal in simulated time.

    Everything random is drawn before the episode: for the same seed every policy meets the same users.

    ## Action Space

    `Discrete(max_slots)`: the slot whose model is evicted. Slots are numbered accelerator by accelerator.

    | Num          | Action                                     | Legal                             |
    |--------------|--------------------------------------------|-----------------------------------|
    | 0            | evict the model in slot 0                  | `info["action_mask"][0] == 1`     |
    | ...          |                                            |                                   |
    | max_slots - 1| evict the model in the last slot           | `info["action_mask"][-1] == 1`    |

    Legal are models without requests; busy ones, which drain first, only when somebody has waited for `drain_after_s`
    and no idle one helps. `info["action_mask"]` (int8) comes with every reset and step, `action_masks()` (bool) is for
    sb3-contrib. An illegal action is replaced by the legal one of lowest index, counted in `info["invalid_action"]` and
    penalised; with `strict=True` it raises `gymnasium.error.InvalidAction` and changes nothing.

    A model may need several victims: the agent picks one per step, all at one instant.

    ## Observation Space

    A flat float32 `Box`: `[slots x 32 | pending models x 17 | context x 14]`, every number scaled by a fixed constant.
    `layout.names` names each position, `layout.split(observation)` takes it apart, `layout.physical(observation)` gives
    physical units; `docs/environment.md` lists every feature with unit and scale.

    | Position             | Block                     | What                                                        |
    |----------------------|---------------------------|-------------------------------------------------------------|
    | 32 s ... 32 s + 31   | slot s of S               | its model: legal, size, reload time, requests, recency,     |
    |                      |                           | demand, users, prefix tokens, latency weight, output length |
    | 32 S + 17 k ... + 16 | k-th oldest pending model | target or not, need, load time, waiting requests, demand    |
    | the last 14          | context                   | time since the last decision, target, memory, queues        |

    It holds what a real orchestrator can know: no output length of an unfinished request, no arrival to come.

    ## Rewards

    Minus the cost of the time since the last decision: per task, `w_ttft` for every second that a request waits for its
    first token and `w_e2e` for every second that it is in the system, plus optional prices of loads, missed SLOs and
    refusals (the scenario's `reward`). The first step's reward includes the cost since time 0. `info["reward_terms"]`
    splits each reward by its source; the terms add up to it.

    Without illegal actions the return equals minus the sum of the costs of all requests. Each illegal action costs
    `invalid_penalty` on top, as the term `invalid_action`: it is no cost, and in no metric.

    ## Starting State

    Time 0 up to the first question. Models are resident, cached or asleep as the scenario says.

    `reset(seed=s)` plays the workload of seed `s` if it is one of the split's seeds, else that of the split's seed
    number `s % len(seeds)`: no seed can lead a training run to test workloads. A reset without seed draws one of the
    split's seeds with `np_random`. `info["workload_seed"]` says which it was. `options` may say instead
    `{"workload_seed": s}` (exactly this one; it must belong to the split) or `{"workload": Workload}` (a log, say).

    ## Episode End

    1. Termination: all requests have finished. The last step runs on until then.
    2. Truncation: one more decision than the scenario's `max_decisions` would be asked (no limit by default).

    `info["episode_metrics"]` comes with the last step (`cace_env.metrics.METRICS` explains each name). If nothing is
    ever asked, reset returns the mask `[1, 0, ...]`, and the only step is a no-op that returns the whole cost.

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("cace_env:cace_env/Eviction-v0", scenario="default")

    ```

    | Parameter         | Type                          | Default     | Description                                    |
    |-------------------|-------------------------------|-------------|------------------------------------------------|
    | `scenario`        | **str, Path, dict, Scenario** | `"default"` | name, YAML file, its keys, or a `Scenario`     |
    | `split`           | **str**                       | `"train"`   | whose seeds are played: train, validation, test|
    | `strict`          | **bool**                      | `False`     | illegal actions raise                          |
    | `invalid_penalty` | **float**                     | `1.0`       | taken from the reward for each illegal action  |
    | `max_pending`     | **int or None**               | `None`      | rows of pending models; `None` = one per model |
    | `render_mode`     | **str or None**               | `None`      | `"ansi"` or `"rgb_array"` (960 x 540)          |

    Rendering needs the history of the episode, which is kept only if `render_mode` is given.

    ## Vectorized environment

    `gym.make_vec("cace_env:cace_env/Eviction-v0", num_envs=4, vectorization_mode="sync")` works as for any environment.

    ## Version History

    * v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        scenario: str | Path | Mapping[str, Any] | Scenario = "default",
        split: Split = "train",
        *,
        strict: bool = False,
        invalid_penalty: float = 1.0,
        max_pending: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = ", ".join(self.metadata["render_modes"])
            raise ValueError(f"render_mode is {render_mode!r}; it has to be None or one of {known}")
        if not invalid_penalty >= 0:
            raise ValueError(f"invalid_penalty is {invalid_penalty}; it has to be at least 0")
        self.scenario = load_scenario(scenario)
        self.seeds = seeds(split)
        self.split = split
        self.strict = strict
        self.invalid_penalty = float(invalid_penalty)
        self.render_mode = render_mode
        self.tables = self.scenario.tables()
        slots = max(int(slots_per_accelerator(self.tables).sum()), self.tables.max_slots)
        self.layout = ObservationLayout(slots, self.tables.num_models if max_pending is None else max_pending)
        self.simulator = Simulator(self.tables, trace=render_mode is not None)
        self.observation_space = spaces.Box(self.layout.low, self.layout.high, dtype=np.float32)
        self.action_space = spaces.Discrete(slots)
        self._size = self.layout.size
        self._scales = scales()
        self._prices = _prices(self.tables.cost)
        self.workload: Workload | None = None  # of the episode; None before the first
        self._asked = False  # a question is open
        self._over = True
        self._invalid = 0
        self._last_choice: rendering.Choice | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode and runs to its first question.

        Args:
            seed: seeds `np_random`, and chooses the workload as the class docstring says.
            options: `{"workload_seed": int}` or `{"workload": Workload}` to say which workload exactly.

        Raises:
            ValueError: an unknown option, or a workload seed of another split.
        """
        super().reset(seed=seed)
        workload_seed, workload = self._draw(seed, options or {})
        self._asked = self.simulator.reset(workload)
        self.workload = workload
        self._over = False
        self._invalid = 0
        self._last_choice = None
        self._last_us = 0
        self._charged = [0] * len(self._prices)
        observation, info = self._look(int(self.simulator.state.scalars[CLOCK]))
        if workload_seed is not None:
            info["workload_seed"] = workload_seed
        return observation, info

    def step(self, action: SupportsIndex) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Evicts the model in slot `action` and runs to the next question, or to the end.

        Raises:
            InvalidAction: no slot at all, or with `strict` one that may not be evicted; nothing has changed.
            ResetNeeded: the episode is over, or has not begun.
        """
        if self._over or self.workload is None:
            raise ResetNeeded("the episode is over or has not begun; call reset first")
        slot = operator.index(action)
        if not 0 <= slot < self.layout.max_slots:
            raise InvalidAction(f"action {slot} is no slot; slots are 0 to {self.layout.max_slots - 1}")
        legal = self.simulator.state.slots[slot, SLOT.legal] if self._asked else slot == 0
        if not legal:
            if self.strict:
                raise InvalidAction(
                    f"slot {slot} may not be evicted now; legal are {np.flatnonzero(self._mask()).tolist()}"
                )
            self._invalid += 1
            slot = int(self._mask().argmax())
        if self._asked:
            if self.render_mode is not None:
                self._last_choice = rendering.open_choice(self.simulator, slot)
            self._asked = self.simulator.answer(slot)
        scalars = self.simulator.state.scalars.tolist()
        truncated = scalars[STATUS] == TRUNCATED
        terminated = not self._asked and not truncated
        self._over = terminated or truncated
        observation, info = self._look(scalars[CLOCK])
        terms = info["reward_terms"] = self._charge(scalars)
        if not legal:
            terms["invalid_action"] = -self.invalid_penalty
        if self._over:
            info["episode_metrics"] = episode_metrics(self.simulator.episode(), self.tables, self.workload)
        return observation, sum(terms.values()), terminated, truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions now, `(max_slots,)`: the hook of sb3-contrib's `MaskablePPO`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self.workload is None:
            raise ResetNeeded("there is no mask before the first reset")
        return self._mask().astype(np.bool_)

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """The situation now, as text or as a picture `(540, 960, 3)`; None without `render_mode`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('nothing is rendered; give render_mode="ansi" or "rgb_array" to gymnasium.make')
            return None
        if self.workload is None:
            raise ResetNeeded("there is nothing to render before the first reset")
        scene = rendering.scene(self.simulator, self.workload, self._last_choice, self.scenario.name)
        return rendering.ansi(scene) if self.render_mode == "ansi" else picture.rgb_array(scene)

    def _draw(self, seed: int | None, options: Mapping[str, Any]) -> tuple[int | None, Workload]:
        """The workload to play and its seed, None if it was handed in."""
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown or len(options) > 1:
            raise ValueError(f"reset options are {sorted(options)}; give at most one of {', '.join(OPTIONS)}")
        if "workload" in options:
            workload: Workload = options["workload"]
            workload.validate(self.tables.num_models)
            return None, workload
        if "workload_seed" in options:
            chosen = operator.index(options["workload_seed"])
            if chosen not in self.seeds:
                home = next((split for split, known in SEEDS.items() if chosen in known), None)
                fix = f"make the environment with split={home!r}" if home else f"{self.split} has {self.seeds}"
                raise ValueError(f"workload seed {chosen} is not one of split {self.split!r}; {fix}")
        elif seed is None:
            chosen = self.seeds[int(self.np_random.integers(len(self.seeds)))]
        else:
            chosen = int(seed)
            if chosen not in self.seeds:
                chosen = self.seeds[chosen % len(self.seeds)]
        return chosen, self.scenario.workload(chosen)

    def _mask(self) -> npt.NDArray[np.int8]:
        """Legal slots; where nothing is asked, the first stands for the no-op."""
        state = self.simulator.state
        mask: npt.NDArray[np.int8] = state.slots[:, SLOT.legal].astype(np.int8)
        if state.scalars[LEGAL] == 0:
            mask[0] = 1
        return mask

    def _look(self, now_us: int) -> tuple[Observation, dict[str, Any]]:
        """Observation and info of now, in arrays that nobody else has."""
        observation = np.empty(self._size, dtype=np.float32)
        self.simulator.observe(self._scales, self.layout.max_pending, observation)
        info = {
            "action_mask": self._mask(),
            "elapsed_s": (now_us - self._last_us) * SECONDS,
            "time_s": now_us * SECONDS,
            "decision": self._describe() if self._asked else "nothing is asked",
            "invalid_action": self._invalid,
        }
        self._last_us = now_us
        return observation, info

    def _describe(self) -> str:
        """The open question in words."""
        state = self.simulator.state
        names = self.tables.model_names
        victims = [f"{names[m]} (slot {slot})" for slot, (m, legal) in enumerate(state.slots.tolist()) if legal]
        return f"make room for {names[state.scalars[TARGET]]}: evict {' or '.join(victims)}"

    def _charge(self, scalars: list[int]) -> dict[str, float]:
        """What has become due since the last charge, as terms of the reward: exact amounts, weighted here."""
        now_us = scalars[CLOCK]
        counts = self.simulator.state.tasks.ravel().tolist()
        counts += (scalars[LOAD_US], scalars[REFUSED], 0)
        before, charged, terms = self._charged, [], {}
        for (name, weight, amount, rate), was in zip(self._prices, before, strict=True):
            due = counts[amount] + counts[rate] * now_us
            charged.append(due)
            terms[name] = weight * (was - due)
        self._charged = charged
        return terms


def _prices(cost: CostTable) -> tuple[_Price, ...]:
    """Everything that costs."""
    loading = NUM_TASKS * len(TASK)
    refused, nothing = loading + 1, loading + 2
    prices = []
    for task, name in enumerate(TASKS):
        row = task * len(TASK)
        waiting, system = cost.w_ttft[task] * SECONDS, cost.w_e2e[task] * SECONDS
        prices.append(_Price(f"{name}_waiting", waiting, row + TASK.waiting_sum, row + TASK.waiting_count))
        prices.append(_Price(f"{name}_system", system, row + TASK.system_sum, row + TASK.system_count))
        if cost.slo_us[task] < FOREVER:
            prices.append(_Price(f"{name}_slo", cost.w_slo, row + TASK.slo_missed, nothing))
    prices.append(_Price("loading", cost.w_load * SECONDS, loading, nothing))
    prices.append(_Price("refused", cost.w_refused, refused, nothing))
    return tuple(price._replace(weight=float(price.weight)) for price in prices if price.weight > 0)
