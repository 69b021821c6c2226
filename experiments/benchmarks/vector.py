"""How fast batches of environments are, beside whole compiled episodes under LRU and CartPole, in turns.

Every figure holds all that a training loop pays for: actions chosen from the mask, simulation, observations, masks,
rewards, copies, and for every episode that ends its metrics, the reset and the next one's requests. The requests are
either generated for every episode (`fresh`), or taken from a bank of a few workloads that are kept ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from cace_env import EVICTION_ID
from cace_env.kernel.state import ENDED
from cace_env.observation import SLOT, ObservationLayout
from cace_env.scenarios import Scenario, seeds
from experiments.benchmarks.cartpole import CARTPOLE, play, uniform_draws
from experiments.benchmarks.measures import GENERATION, LAYOUT, Episodes, Figures, best_s

Mask = npt.NDArray[np.int8]
Observations = npt.NDArray[np.float32]

BANK: Final = 256  # workloads of a bank: `num_workloads`
AMORTISED_OVER: Final = 10_000_000  # decisions over which the time until the first action is spread: a short training
CARTPOLE_STEPS: Final = 2_000  # of CartPole in a turn
TURNS: Final = 4  # of everybody in a round: what is compared must have met the same machine


class Setting(NamedTuple):
    """One way to run a batch."""

    scenario: str
    num_envs: int
    threads: int = 1
    bank: int | None = None  # workloads kept ready; None: fresh ones at every reset
    choice: str = "lowest"  # key of CHOICES

    @property
    def label(self) -> str:
        source = "fresh" if self.bank is None else f"bank of {self.bank}"
        return f"{self.scenario}, {self.num_envs} envs, {self.threads} thread(s), {source}, {self.choice}"


def lowest_legal(observations: Observations, mask: Mask, layout: ObservationLayout) -> npt.NDArray[np.int64]:
    """The legal slot of lowest index of each environment: the cheapest choice there is."""
    del observations, layout
    return mask.argmax(axis=1)


def least_recent(observations: Observations, mask: Mask, layout: ObservationLayout) -> npt.NDArray[np.int64]:
    """LRU, from the observation: leads to the episodes of the compiled LRU that the batch is compared with."""
    since_use = layout.split(observations).slots[:, :, SLOT.since_use_s]
    return np.where(mask, since_use, np.float32(-1.0)).argmax(axis=1)


CHOICES: Final[dict[str, Callable[[Observations, Mask, ObservationLayout], npt.NDArray[np.int64]]]] = {
    "lowest": lowest_legal,
    "lru": least_recent,
}


class Round(NamedTuple):
    """What a stretch of play took and brought."""

    seconds: float
    choosing_s: float  # of them, outside the environment
    decisions: int
    requests: int  # finished or refused
    episodes: int  # ended


class Batch:
    """A vector environment that is played on and on; episodes end and begin again by themselves.

    Args:
        scenario: what every environment plays.
        setting: how.
    """

    def __init__(self, scenario: Scenario, setting: Setting) -> None:
        began = time.perf_counter()
        self.envs = make(scenario, setting)
        kept = np.array(seeds("train", setting.bank)) if setting.bank else np.zeros(0, dtype=np.int64)
        for first in range(0, len(kept), setting.num_envs):  # fills the bank
            several = np.take(kept, range(first, first + setting.num_envs), mode="wrap")
            self.envs.reset(options={"workload_seed": several})
        self._observations, info = self.envs.reset(seed=0)
        self._mask: Mask = info["action_mask"]
        self.ready_s = time.perf_counter() - began  # until the first action
        self._layout: ObservationLayout = self.envs.unwrapped.layout
        self._choose = CHOICES[setting.choice]
        self._decisions = setting.num_envs
        self.requests = scenario.workload_config.requests

    def play(self, steps: int) -> Round:
        """So many steps of the whole batch."""
        ended, before, choosing_s = 0, requests_ended(self.envs), 0.0
        began = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            actions = self._choose(self._observations, self._mask, self._layout)
            choosing_s += time.perf_counter() - asked
            self._observations, _, terminated, _, info = self.envs.step(actions)
            self._mask = info["action_mask"]
            ended += int(np.count_nonzero(terminated))
        seconds = time.perf_counter() - began
        requests = ended * self.requests + requests_ended(self.envs) - before
        return Round(seconds, choosing_s, steps * self._decisions, requests, ended)

    def observe(self) -> float:
        """Seconds to observe every environment once more."""
        simulators = self.envs.unwrapped.simulators
        look, rows = simulators.new_look(), np.arange(self._decisions)
        began = time.perf_counter()
        simulators.see(rows, look)
        return time.perf_counter() - began

    def close(self) -> None:
        """Lets go of everything."""
        self.envs.close()


def make(scenario: Scenario, setting: Setting) -> Any:
    """The batch, resetting ended environments within the step that ends them."""
    return gymnasium.make_vec(
        f"cace_env:{EVICTION_ID}",
        num_envs=setting.num_envs,
        scenario=scenario,
        threads=setting.threads,
        num_workloads=setting.bank,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


def requests_ended(envs: Any) -> int:
    """Requests of the running episodes that have finished or were refused, all environments together."""
    simulators = envs.unwrapped.simulators
    return int(sum(simulators.view(env).state.scalars[ENDED] for env in range(simulators.num_envs)))


# ---------------------------------------------------------------------------------------------------------------------


class Baselines:
    """What a batch is held against, measured in turns with it: compiled LRU episodes, and one CartPole.

    Args:
        scenario: of the episodes.
        seeds: one episode each.
    """

    def __init__(self, scenario: Scenario, seeds: Sequence[int]) -> None:
        self.scenario = scenario
        self._episodes = Episodes(scenario, seeds)
        self._rules = self._episodes.rules("lru")
        self._episodes.run(self._rules)
        Batch(scenario, Setting(scenario.name, 1)).play(1)  # compiles
        self.requests = self._episodes.requests
        self.decisions_per_episode = self._episodes.decisions / len(seeds)
        self._cartpole = gymnasium.make(CARTPOLE)
        self._draws = uniform_draws()

    def run(self) -> tuple[list[float], list[float], float]:
        """Seconds of each episode, of generating and laying out each one's requests, and of CartPole's steps."""
        episodes = self._episodes.run(self._rules)
        around = self._episodes.surroundings()
        before = [sum(parts) for parts in zip(around[GENERATION], around[LAYOUT], strict=True)]
        return episodes, before, play(self._cartpole, self._draws, CARTPOLE_STEPS)


def settle(batch: Batch, baselines: Baselines) -> float:
    """Plays to the middle of the first episodes; the mean number of steps of an episode.

    All episodes have begun together: only from their middle on does a stretch of an episode's length hold about one end
    of every environment.
    """
    begun = batch.play(round(baselines.decisions_per_episode / 2))
    return batch.requests * begun.decisions / max(begun.requests, 1)


def vector_rates(setting: Setting, baselines: Baselines, rounds: int, decisions: int) -> Figures:
    """Requests and decisions per second of a batch, beside LRU's whole episodes and CartPole, in turns.

    Args:
        setting: how the batch runs.
        baselines: of the same scenario.
        rounds: of `TURNS` turns of everybody.
        decisions: of a round of the batch, at least; none is shorter than a mean episode, so that all have their share
            of ends and resets.

    Returns:
        Figures: the setting, rates (best and median round), what choosing actions took, and `over_lru`,
        `over_lru_with_generation` and `over_cartpole`: medians of the ratios within a round.
    """
    batch = Batch(baselines.scenario, setting)
    steps = int(np.ceil(max(decisions / setting.num_envs, settle(batch, baselines)) / TURNS))
    plays: list[Round] = []
    lru, before, cartpole = [], [], []
    for _ in range(rounds * TURNS):
        plays.append(batch.play(steps))
        episodes_s, before_s, cartpole_s = baselines.run()
        lru.append(episodes_s)
        before.append(before_s)
        cartpole.append(cartpole_s)
    batch.close()
    played = {name: np.array(values).reshape(rounds, TURNS).sum(axis=1) for name, values in _columns(plays).items()}
    lru_s, before_s = (np.sum(seconds, axis=1).reshape(rounds, TURNS).sum(axis=1) for seconds in (lru, before))
    requests_per_s = played["requests"] / played["seconds"]
    decisions_per_s = played["decisions"] / played["seconds"]
    lru_per_s = TURNS * baselines.requests / lru_s
    with_generation_per_s = TURNS * baselines.requests / (lru_s + before_s)
    cartpole_per_s = TURNS * CARTPOLE_STEPS / np.reshape(cartpole, (rounds, TURNS)).sum(axis=1)
    median = float(np.median(decisions_per_s))
    return {
        **setting._asdict(),
        "rounds": rounds,
        "steps_per_round": steps * TURNS,
        "episodes_ended": int(played["episodes"].sum()),
        "requests_per_s": _best_and_median(requests_per_s),
        "decisions_per_s": _best_and_median(decisions_per_s),
        "decisions_per_request": float(played["decisions"].sum() / max(played["requests"].sum(), 1)),
        "choosing_share": float(played["choosing_s"].sum() / played["seconds"].sum()),
        "ready_s": batch.ready_s,
        "amortised_decisions_per_s": AMORTISED_OVER / (AMORTISED_OVER / median + batch.ready_s),
        "lru_requests_per_s": {"best": baselines.requests / best_s(lru), "median": float(np.median(lru_per_s))},
        "cartpole_steps_per_s": {"best": CARTPOLE_STEPS / min(cartpole), "median": float(np.median(cartpole_per_s))},
        "over_lru": float(np.median(requests_per_s / lru_per_s)),
        "over_lru_with_generation": float(np.median(requests_per_s / with_generation_per_s)),
        "over_cartpole": float(np.median(decisions_per_s / cartpole_per_s)),
    }


def _columns(plays: Sequence[Round]) -> dict[str, list[float]]:
    """Each field of the rounds, one after the other."""
    return {name: [getattr(play, name) for play in plays] for name in Round._fields}


def _best_and_median(rates: npt.NDArray[np.float64]) -> Figures:
    return {"best": float(rates.max()), "median": float(np.median(rates))}
