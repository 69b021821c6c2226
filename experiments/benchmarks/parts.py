"""The parts of the benchmark and the jobs that they consist of, in the order in which they run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from cace_env.scenarios import load_scenario, seeds
from experiments.benchmarks import measures as measure
from experiments.benchmarks.cartpole import cartpole_rates, step_rates
from experiments.benchmarks.growth import growth
from experiments.benchmarks.latency import decision_latency
from experiments.benchmarks.shares import shares
from experiments.benchmarks.targets import DEFAULT
from experiments.benchmarks.vector import AMORTISED_OVER, BANK, Baselines, Setting, vector_rates

Figures = dict[str, Any]

EVERYWHERE: Final = ("lru", "cace")  # the policies that run on every scenario
SWAP_POLICIES: Final = ("lru", "patient-fifo+lru", "wsjf+cace")
EPISODES: Final = 8  # seeds per round
SIZES: Final = (1, 8, 64, 256, 1024, 4096)  # environments of a batch
ROUNDS: Final = {256: 4, 1024: 2, 4096: 1}  # of batches so large; 5 of smaller ones
HEADROOM: Final = 0.6  # of the free memory that a batch may take

PARTS: Final = {
    "scenarios": "whole compiled episodes by scenario and policy",
    "protocols": "whole compiled episodes of Swap-v0 beside Eviction-v0",
    "features": "reading all features",
    "libcachesim": "libCacheSim on the same models",
    "steps": "one environment, beside CartPole",
    "vector": "batches of environments, beside LRU's episodes and CartPole",
    "shares": "where the time of a batch goes",
    "cartpole": "CartPole of Gymnasium and of EnvPool",
    "latency": "one decision of each policy",
    "growth": "times by slots, models and accelerators",
    "sb3": "training with Stable-Baselines3",
    "start": "compilation and start of new processes (keys `compile` and `start`)",
    "memory": "peak memory of one long episode",
    "environments": "memory of a batch",
    "long": "memory over many decisions",
    "states": "states taken and put back",
}


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    quick: bool
    rounds: int
    requests: int  # of the episode whose memory is measured
    long: int  # decisions over which memory is watched
    policies: Sequence[str]  # on the default scenario
    scenarios: Sequence[str]  # the default one among them


class Job(NamedTuple):
    """Something to measure."""

    part: str
    label: str
    weight: float  # seconds that it takes, roughly: for the progress bar
    run: Callable[[Figures], None]  # puts what it measured into benchmark.json


def jobs(effort: Effort, parts: Sequence[str]) -> list[Job]:
    """All jobs of some parts."""
    by_part: dict[str, Callable[[Effort], Iterator[Job]]] = {
        "scenarios": _scenarios,
        "vector": _vector,
        "shares": _shares,
        "environments": _environments,
        "sb3": _sb3,
    }
    return [job for part in PARTS if part in parts for job in by_part.get(part, _simple(part))(effort)]


def _simple(part: str) -> Callable[[Effort], Iterator[Job]]:
    """Parts of a single job, whose figures stand under the part's name."""

    def of(effort: Effort) -> Iterator[Job]:
        quick, rounds = effort.quick, effort.rounds
        few = seeds("test", 1 if quick else 3)
        weight, run = {
            "protocols": (5, lambda: measure.protocol_rates(load_scenario(DEFAULT), few, SWAP_POLICIES, rounds)),
            "features": (5, lambda: measure.feature_cost(episodes(DEFAULT, quick), rounds)),
            "libcachesim": (5, lambda: measure.libcachesim_rate(episodes(DEFAULT, quick), rounds)),
            "steps": (5, lambda: step_rates(min(rounds, 10), 500 if quick else 5_000)),
            "cartpole": (
                15, lambda: cartpole_rates(min(rounds, 5), 0.02 if quick else 0.2, (64,) if quick else (64, 1024)),
            ),
            "latency": (20, lambda: decision_latency(load_scenario(DEFAULT), effort.policies, few)),
            "growth": (40, lambda: growth(min(rounds, 3), 20 if quick else 300)),
            "memory": (5, lambda: measure.probe("memory", str(effort.requests))),
            "long": (effort.long / 3e5, lambda: measure.probe("long", str(effort.long), "64")),
            "states": (5, lambda: measure.probe("states", "16", str(rounds))),
            "start": (40, lambda: measure.start_times(1 if quick else 5, fresh=not quick)),
        }[part]  # fmt: skip

        yield Job(part, PARTS[part], weight, partial(_put, part, run))

    return of


def _put(part: str, run: Callable[[], Figures], figures: Figures) -> None:
    found = run()
    figures.update(found if part == "start" else {part: found})


@cache
def episodes(scenario: str, quick: bool) -> measure.Episodes:
    """Whole episodes of a scenario, laid out once."""
    return measure.Episodes(load_scenario(scenario), _seeds(quick))


@cache
def baselines(scenario: str, quick: bool) -> Baselines:
    """What batches of a scenario are held against."""
    return Baselines(load_scenario(scenario), _seeds(quick))


def _seeds(quick: bool) -> Sequence[int]:
    return seeds("test", 2 if quick else EPISODES)


def _scenarios(effort: Effort) -> Iterator[Job]:
    for name in effort.scenarios:
        policies = effort.policies if name == DEFAULT else EVERYWHERE
        label = f"whole episodes: {name}, {len(policies)} policies"
        yield Job("scenarios", label, len(policies), partial(_episodes, effort, name, policies))


def _episodes(effort: Effort, name: str, policies: Sequence[str], figures: Figures) -> None:
    rates = measure.episode_rates(episodes(name, effort.quick), policies, effort.rounds)
    figures.setdefault("scenarios", {})[name] = rates


def _vector(effort: Effort) -> Iterator[Job]:
    bank = 16 if effort.quick else BANK
    for setting in settings(effort, bank):
        run = partial(_batch, effort, bank, setting)
        yield Job("vector", f"batch: {setting.label}", 2 + setting.num_envs / 250, run)


def _batch(effort: Effort, bank: int, setting: Setting, figures: Figures) -> None:
    about = {"bank": bank, "amortised_over": AMORTISED_OVER, "rows": [], "skipped": []}
    section = figures.setdefault("vector", about)
    needed = setting.num_envs * episodes(setting.scenario, effort.quick).simulators[0].arena.nbytes
    if needed > HEADROOM * free_bytes():
        section["skipped"].append(f"{setting.label}: needs {needed / 1e9:.1f} GB")
        return
    rounds, decisions = min(effort.rounds, ROUNDS.get(setting.num_envs, 5)), 1_000 if effort.quick else 60_000
    section["rows"].append(vector_rates(setting, baselines(setting.scenario, effort.quick), rounds, decisions))


def settings(effort: Effort, bank: int) -> Iterator[Setting]:
    """Every batch that is measured: all sizes on the default scenario, one size on the others."""
    sizes = (1, 8, 64) if effort.quick else SIZES
    for source in (bank, None):
        for num_envs in sizes:
            for threads in (1, 2) if num_envs > 1 else (1,):
                yield Setting(DEFAULT, num_envs, threads, source)
    for num_envs in (64,) if effort.quick else (64, 1024):
        yield Setting(DEFAULT, num_envs, 1, bank, "lru")
    for name in effort.scenarios:
        if name != DEFAULT:
            for source in (bank, None):
                yield Setting(name, 64, 1, source)


def free_bytes() -> float:
    """Memory that is free; no limit where the system does not say."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    return float("inf")


def _shares(effort: Effort) -> Iterator[Job]:
    for num_envs in (8,) if effort.quick else (64, 1024):
        for source in (16 if effort.quick else BANK, None):
            run = partial(_share, effort, Setting(DEFAULT, num_envs, 1, source))
            yield Job("shares", f"shares of the time: {num_envs} environments", 2 + num_envs / 250, run)


def _share(effort: Effort, setting: Setting, figures: Figures) -> None:
    row = shares(setting, baselines(DEFAULT, effort.quick), 1_000 if effort.quick else 200_000)
    figures.setdefault("shares", {"rows": []})["rows"].append(row)


def _environments(effort: Effort) -> Iterator[Job]:
    for num_envs in (16,) if effort.quick else (64, 1024):
        for bank in (16 if effort.quick else BANK, 0):
            run = partial(_memory, num_envs, bank)
            yield Job("environments", f"memory of {num_envs} environments", 2 + num_envs / 250, run)


def _memory(num_envs: int, bank: int, figures: Figures) -> None:
    row = measure.probe("envs", str(num_envs), str(bank))
    figures.setdefault("environments", {"rows": []})["rows"].append(row)


def _sb3(effort: Effort) -> Iterator[Job]:
    missing = [name for name in ("torch", "stable_baselines3", "sb3_contrib") if importlib.util.find_spec(name) is None]
    if missing:
        skipped = {"skipped": f"{missing[0]} is not installed (pip install 'cace-env[sb3]')"}
        yield Job("sb3", PARTS["sb3"], 0, lambda figures: figures.update(sb3=skipped))
        return
    from experiments.benchmarks.sb3 import SETTINGS

    first = next(iter(SETTINGS))
    for num_envs, name in [(8, first)] if effort.quick else [(256, first), *((64, name) for name in SETTINGS)]:
        run = partial(_train, effort, num_envs, name)
        yield Job("sb3", f"training: {name}, {num_envs} environments", 15, run)


def _train(effort: Effort, num_envs: int, name: str, figures: Figures) -> None:
    from experiments.benchmarks.sb3 import SETTINGS, sb3_share

    found = sb3_share(num_envs, 1_024 if effort.quick else 32_768, **SETTINGS[name])
    row = {"setting": name, "num_envs": num_envs, "defaults": name == next(iter(SETTINGS))}
    figures.setdefault("sb3", {"rows": []})["rows"].append(row | found)
