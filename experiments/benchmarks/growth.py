"""How the cost of a decision grows with slots, models and accelerators: the exponent of a fitted power law.

The fleets are made for this. All models take the same memory, so that a fleet has exactly the slots that it should
have; they are those of the default scenario, as often as it takes, equally popular; the company is the default one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cace_env.fleets import MODELS
from cace_env.scenarios import Scenario, load_scenario, seeds
from experiments.benchmarks.measures import Episodes, Figures, best_s
from experiments.benchmarks.vector import Batch, Setting

NEED_GB: Final = 64.0  # of every model; more than the largest of the default scenario needs
REQUESTS: Final = 2_000  # of an episode
NUM_ENVS: Final = 64
OBSERVED: Final = 10  # times that the whole batch is observed in a turn
MEASURED: Final = ("step_us", "request_us", "observation_us")


class Size(NamedTuple):
    """A fleet's size."""

    slots: int
    models: int
    accelerators: int


SERIES: Final[dict[str, tuple[Size, ...]]] = {
    "slots": tuple(Size(slots, 128, 2) for slots in (8, 16, 32, 64)),
    "models": tuple(Size(8, models, 2) for models in (16, 32, 64, 128)),
    "accelerators": tuple(Size(16, 64, accelerators) for accelerators in (1, 2, 4, 8)),
    "all together": tuple(Size(8 * factor, 16 * factor, factor) for factor in (1, 2, 4, 8)),
}


def fleet(size: Size, users: int = 30) -> Scenario:
    """The default scenario on a fleet of this size.

    Args:
        size: slots are shared out evenly among the accelerators.
        users: how many developers; each one asks as often as in the default scenario.
    """
    base = load_scenario("default")
    names = [entry.model for entry in base.entries]
    catalogue = [
        {
            "model": names[number % len(names)],
            "name": f"{names[number % len(names)]}-{number // len(names)}",
            "reserve_gb": NEED_GB - MODELS[names[number % len(names)]].weights_gb.value,
        }
        for number in range(size.models)
    ]
    workload = base.workload_config.model_dump(mode="json")
    workload |= {"requests": REQUESTS, "users": users}
    workload["routing"] |= {"popularity_exponent": 0.0, "popularity_cutoff": 1e6, "new_models": 0}
    memory_gb = size.slots / size.accelerators * NEED_GB + 0.001  # sizes are rounded up to whole bytes
    accelerators = [{"gpu": base.fleet[0].gpu, "count": size.accelerators, "memory_gb": memory_gb}]
    return base.replace(
        name="-".join(map(str, size)), fleet=accelerators, pressure=None, catalogue=catalogue, workload=workload
    )


def growth(rounds: int, steps: int) -> Figures:
    """Times by size, and the exponent of each series.

    Args:
        rounds: how often the sizes of a series have a turn, one after the other.
        steps: of a batch of `NUM_ENVS` in a turn.

    Returns:
        Figures: by series `points`, each with the size, `requests_per_decision`, and [us] `step_us` (of one
        environment in a batch, everything included), `request_us` (whole compiled episodes under LRU) and
        `observation_us` (of one environment, when the whole batch is observed); `exponents` of each of those against
        the size that grows.
    """
    figures: Figures = {}
    for name, sizes in SERIES.items():
        users = [30 * size.accelerators if name == "all together" else 30 for size in sizes]
        scenarios = [fleet(size, number) for size, number in zip(sizes, users, strict=True)]
        points = _measure(scenarios, rounds, steps)
        for size, point in zip(sizes, points, strict=True):
            point |= size._asdict()
        grown = [size.slots if name == "all together" else getattr(size, name) for size in sizes]
        exponents = {what: exponent(grown, [point[what] for point in points]) for what in MEASURED}
        figures[name] = {"points": points, "exponents": exponents}
    return figures


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The exponent `b` of the power law `a * size ** b` fitted to the logarithms by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _measure(scenarios: Iterable[Scenario], rounds: int, steps: int) -> list[Figures]:
    """Every scenario once in each round."""
    fleets = [_Fleet(scenario) for scenario in scenarios]
    for each in fleets:
        each.batch.play(steps)  # past the start, where memory is empty
    for _ in range(rounds):
        for each in fleets:
            each.take_turn(steps)
    points = [each.figures() for each in fleets]
    for each in fleets:
        each.batch.close()
    return points


class _Fleet:
    """One scenario's batch, whole episodes and observation, with what each turn took."""

    def __init__(self, scenario: Scenario) -> None:
        self.batch = Batch(scenario, Setting(scenario.name, NUM_ENVS, bank=NUM_ENVS))
        self.batch.observe()
        self.episodes = Episodes(scenario, seeds("test", 2))
        self.rules = self.episodes.rules("lru")
        self.episodes.run(self.rules)
        self.plays: list[tuple[float, int, int]] = []
        self.episode_s: list[list[float]] = []
        self.observation_s: list[list[float]] = []

    def take_turn(self, steps: int) -> None:
        played = self.batch.play(steps)
        self.plays.append((played.seconds, played.decisions, played.requests))
        self.episode_s.append(self.episodes.run(self.rules))
        self.observation_s.append([self.batch.observe() for _ in range(OBSERVED)])

    def figures(self) -> Figures:
        seconds, decisions, requests = np.array(self.plays).T
        return {
            "requests_per_decision": float(requests.sum() / decisions.sum()),
            "step_us": 1e6 * float(np.min(seconds / decisions)),
            "request_us": 1e6 * best_s(self.episode_s) / self.episodes.requests,
            "observation_us": 1e6 * best_s(self.observation_s) / (OBSERVED * NUM_ENVS),
        }
