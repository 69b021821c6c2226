"""What the project promises about speed, and whether a benchmark kept it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from experiments.benchmarks.measures import Figures

DEFAULT: Final = "default"  # the scenario that the promises are about
MILLION: Final = 1_000_000
LONG: Final = 10 * MILLION  # decisions over which memory must not grow


class Target(NamedTuple):
    """A figure that the project promises."""

    what: str
    limit: float
    at_least: bool  # else at most
    unit: str
    measured: Callable[[Figures], float | None]  # from benchmark.json; None where it was not measured


class Judged(NamedTuple):
    """A target and what was measured."""

    what: str
    measured: float
    limit: float
    at_least: bool
    unit: str
    met: bool


def judge(figures: Figures) -> Iterator[Judged]:
    """The targets that were measured as they are meant."""
    for target in TARGETS:
        value = target.measured(figures)
        if value is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            yield Judged(target.what, value, target.limit, target.at_least, target.unit, met)


def vector_row(figures: Figures, **setting: Any) -> Figures | None:
    """The batch with this setting on the default scenario; what is not given is 1 thread and the lowest legal slot."""
    wanted = {"scenario": DEFAULT, "threads": 1, "choice": "lowest"} | setting
    rows = figures.get("vector", {}).get("rows", [])
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def _at(*path: str) -> Callable[[Figures], float | None]:
    """What stands at a path; None where there is nothing."""

    def measured(figures: Figures) -> float | None:
        value: Any = figures
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return measured


def _batch(num_envs: int, what: str, limit: float, key: str, *, banked: bool = True) -> Target:
    """A least ratio of a batch on one thread."""

    def measured(figures: Figures) -> float | None:
        row = vector_row(figures, num_envs=num_envs, bank=_bank(figures) if banked else None)
        return None if row is None else row[key]

    return Target(f"{num_envs} environments, {what}", limit, True, "x", measured)


def _two_threads(num_envs: int) -> Callable[[Figures], float | None]:
    """Decisions per second of two threads over those of one, each in units of what the machine did at the time."""

    def measured(figures: Figures) -> float | None:
        rows = [vector_row(figures, num_envs=num_envs, bank=_bank(figures), threads=threads) for threads in (1, 2)]
        one, two = rows
        return None if one is None or two is None else two["over_cartpole"] / one["over_cartpole"]

    return measured


def _bank(figures: Figures) -> int | None:
    return figures.get("vector", {}).get("bank")


def _million_requests(figures: Figures) -> float | None:
    memory = figures.get("memory", {})
    return memory.get("peak_mb") if memory.get("requests") == MILLION else None


def _long_memory(figures: Figures) -> float | None:
    run = figures.get("long", {})
    return run["last_mb"] / run["settled_mb"] if run.get("decisions", 0) >= LONG else None


def _sb3_share(figures: Figures) -> float | None:
    """The largest share with PPO's default settings and 64 environments or more."""
    rows = [row for row in figures.get("sb3", {}).get("rows", ()) if row["defaults"] and row["num_envs"] >= 64]
    return max((row["environment_share"] for row in rows), default=None)


def _exponent(series: str) -> Callable[[Figures], float | None]:
    return _at("growth", series, "exponents", "step_us")


def _swap_rate(figures: Figures) -> float | None:
    """The slowest policy's."""
    rows = figures.get("protocols", {}).get("rows", ())
    return min((row["over_eviction"] for row in rows), default=None)


def _states_us(figures: Figures) -> float | None:
    """The slowest scenario's."""
    rows = figures.get("states", {}).get("rows", ())
    return max((row["get_and_set_us"]["best"] for row in rows), default=None)


EPISODES: Final = ("scenarios", DEFAULT, "policies")
TARGETS: Final = (
    Target("LRU, whole episodes", 1e6, True, "requests/s", _at(*EPISODES, "lru", "requests_per_s", "best")),
    Target("CACE, whole episodes", 1e6, True, "requests/s", _at(*EPISODES, "cace", "requests_per_s", "best")),
    Target("Swap-v0, requests/s over LRU's in Eviction-v0", 0.7, True, "x", _swap_rate),
    _batch(64, "bank: requests/s over LRU's", 0.6, "over_lru"),
    _batch(1024, "bank: requests/s over LRU's", 0.6, "over_lru"),
    _batch(64, "fresh: requests/s over LRU's with generation", 0.6, "over_lru_with_generation", banked=False),
    _batch(1024, "fresh: requests/s over LRU's with generation", 0.6, "over_lru_with_generation", banked=False),
    _batch(64, "bank: decisions/s over CartPole's steps/s", 0.6, "over_cartpole"),
    _batch(1024, "bank: decisions/s over CartPole's steps/s", 0.8, "over_cartpole"),
    Target("64 environments, two threads over one", 1.6, True, "x", _two_threads(64)),
    Target("1024 environments, two threads over one", 1.6, True, "x", _two_threads(1024)),
    Target("one environment, steps/s over CartPole's", 0.3, True, "x", _at("steps", "made", "eviction_over_cartpole")),
    Target("time of a decision, exponent in slots", 1.0, False, "", _exponent("slots")),
    Target("time of a decision, exponent in models", 1.0, False, "", _exponent("models")),
    Target("SB3's PPO, share of environment and adapter", 0.15, False, "of the time", _sb3_share),
    Target("memory after 10,000,000 decisions over that of the first fifth", 1.01, False, "x", _long_memory),
    Target("first compilation, all of it", 40.0, False, "s", _at("compile", "all_s")),
    Target("import to first step, compiled before", 2.0, False, "s", _at("start", "median", "first_step_s")),
    Target("a state taken and put back, 16 slots", 20.0, False, "us", _states_us),
    Target("peak memory of 1,000,000 requests", 500.0, False, "MB", _million_requests),
)  # fmt: skip
