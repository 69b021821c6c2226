"""What the benchmark measures, one function each. Every function returns plain numbers with their units in the names.

The machine is never quite idle, so what is compared is measured in turns, one after the other in every round. `best` is
every episode's fastest run, `median` the median round: the first says what the code can do, the second what to expect.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.kernel import run as kernel
from cace_env.kernel.rules import Rule
from cace_env.policies import Future, policy, weigh
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import Scenario
from cace_env.simulation import Simulator, episode_metrics, new_scratch
from cace_env.tables import FleetTables

Figures = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
GENERATION, LAYOUT, RESULTS = "generation", "layout", "results"
# So small that it changes no sum of scores, but not 0: the features are read.
UNNOTICED: Final = 1e-300
NOTICE: Final = "compiling the simulator"


def best_s(seconds: npt.ArrayLike) -> float:
    """Seconds `(rounds,)` or `(rounds, parts)` of a round in which each part is as fast as it has ever been."""
    return float(np.sum(np.min(seconds, axis=0)))


def median_s(seconds: npt.ArrayLike) -> float:
    """Seconds `(rounds,)` or `(rounds, parts)` of the median round."""
    rounds = np.asarray(seconds)
    return float(np.median(rounds.reshape(len(rounds), -1).sum(axis=1)))


def per_second(amount: float, seconds: npt.ArrayLike) -> Figures:
    """`amount` per second, best and median."""
    return {"best": amount / best_s(seconds), "median": amount / median_s(seconds)}


# ---------------------------------------------------------------------------------------------------------------------
# Whole episodes


class Episodes:
    """A scenario's episodes, laid out for the kernel: one simulator per seed.

    Args:
        scenario: what is simulated.
        seeds: one episode each; a round runs all of them, so that no branch predictor learns one by heart.
        protocol: "eviction" or "swap".
    """

    def __init__(self, scenario: Scenario, seeds: Sequence[int], protocol: str = "eviction") -> None:
        self.scenario = scenario
        self.seeds = seeds
        self.tables: FleetTables = scenario.tables().replace(protocol=protocol)
        self.workloads = [scenario.workload(seed) for seed in seeds]
        self.simulators = [Simulator(self.tables) for _ in seeds]
        for simulator, workload in zip(self.simulators, self.workloads, strict=True):
            simulator.load(workload)
        self.requests = sum(len(workload) for workload in self.workloads)
        self._scratch = new_scratch(self.simulators[0].max_slots, self.tables.num_models)

    def rules(self, name: str) -> list[Rule]:
        """A built-in policy as the kernel reads it, one per seed."""
        chosen = policy(name)
        return [
            rule_of(
                chosen,
                self.tables,
                seed=seed,
                workload=workload,
                future=Future.of(self.tables, workload) if chosen.clairvoyant else None,
                training=self.scenario.workload,
            )
            for seed, workload in zip(self.seeds, self.workloads, strict=True)
        ]

    def run(self, rules: Sequence[Rule]) -> list[float]:
        """Runs every episode in one compiled call, from its reset to its end; seconds of each."""
        seconds = []
        for simulator, rule in zip(self.simulators, rules, strict=True):
            began = time.perf_counter()
            kernel.run_episode(*simulator.arguments, rule, simulator.trace, self._scratch)
            seconds.append(time.perf_counter() - began)
        return seconds

    def surroundings(self) -> dict[str, list[float]]:
        """Seconds of what each episode needs before and after the kernel; call it after `run`."""
        seconds: dict[str, list[float]] = {GENERATION: [], LAYOUT: [], RESULTS: []}
        for seed, simulator, workload in zip(self.seeds, self.simulators, self.workloads, strict=True):
            marks = [time.perf_counter()]
            episode_metrics(simulator.summary(), self.tables)
            marks.append(time.perf_counter())
            self.scenario.workload(seed)
            marks.append(time.perf_counter())
            simulator.load(workload)
            marks.append(time.perf_counter())
            for part, time_s in zip((RESULTS, GENERATION, LAYOUT), np.diff(marks), strict=True):
                seconds[part].append(time_s)
        return seconds

    @property
    def decisions(self) -> int:
        """Of the last round."""
        return sum(simulator.totals().decisions for simulator in self.simulators)

    @property
    def cost(self) -> float:
        """Of the last round."""
        return sum(simulator.cost() for simulator in self.simulators)


def protocol_rates(scenario: Scenario, seeds: Sequence[int], policies: Sequence[str], rounds: int) -> Figures:
    """Whole compiled episodes of Swap-v0 beside those of LRU in Eviction-v0, in turns.

    Args:
        scenario: what is simulated.
        seeds: one episode each.
        policies: of Swap-v0.
        rounds: in each, all of them run once.
    """
    eviction, swap = (Episodes(scenario, seeds, protocol) for protocol in ("eviction", "swap"))
    lru, rules = eviction.rules("lru"), {name: swap.rules(name) for name in policies}
    eviction.run(lru)  # compiles
    seconds: dict[str, list[list[float]]] = {name: [] for name in ("", *policies)}
    decisions = {}
    for _ in range(rounds):
        seconds[""].append(eviction.run(lru))
        for name in policies:
            seconds[name].append(swap.run(rules[name]))
            decisions[name] = swap.decisions
    rows = [
        {
            "env": "Swap-v0" if name else "Eviction-v0",
            "policy": name or "lru",
            "requests_per_s": per_second(eviction.requests, times),
            "decisions_per_request": (decisions[name] if name else eviction.decisions) / eviction.requests,
            "over_eviction": median_s(seconds[""]) / median_s(times),
        }
        for name, times in seconds.items()
    ]
    return {"scenario": scenario.name, "rounds": rounds, "rows": rows}


def episode_rates(episodes: Episodes, policies: Sequence[str], rounds: int) -> Figures:
    """Whole compiled episodes of several policies in turns; generation, layout and results by themselves.

    `with_generation_per_s` counts requests over the time of generating, laying out and simulating them.
    """
    rules = {name: episodes.rules(name) for name in policies}
    decisions = {}
    for name in policies:
        episodes.run(rules[name])
        decisions[name] = episodes.decisions
    seconds: dict[str, list[list[float]]] = {name: [] for name in policies}
    around: dict[str, list[list[float]]] = {GENERATION: [], LAYOUT: [], RESULTS: []}
    for _ in range(rounds):
        for name in policies:
            seconds[name].append(episodes.run(rules[name]))
        for part, time_s in episodes.surroundings().items():
            around[part].append(time_s)
    before = np.array(around[GENERATION]) + around[LAYOUT]  # (rounds, episodes)
    rows = {
        name: {
            "requests_per_s": per_second(episodes.requests, seconds[name]),
            "decisions_per_s": per_second(decisions[name], seconds[name]),
            "decisions_per_request": decisions[name] / episodes.requests,
            "with_generation_per_s": per_second(episodes.requests, before + seconds[name]),
        }
        for name in policies
    }
    return {
        "requests": episodes.requests,
        "episodes": len(episodes.seeds),
        "rounds": rounds,
        "models": episodes.tables.num_models,
        "accelerators": episodes.tables.num_accelerators,
        "policies": rows,
        "around_us_per_request": {part: 1e6 * median_s(times) / episodes.requests for part, times in around.items()},
    }


def feature_cost(episodes: Episodes, rounds: int) -> Figures:
    """What reading all features of all candidates costs: LRU beside an LRU that reads them and does not care."""
    lru = episodes.rules("lru")
    careless = [replace(policy("lru"), weights=weigh(since_use_s=-1.0, gap_cv=UNNOTICED)) for _ in lru]
    reads_all = [rule_of(policy, episodes.tables) for policy in careless]
    episodes.run(lru)
    decisions, cost = episodes.decisions, episodes.cost
    episodes.run(reads_all)
    if episodes.cost != cost:
        raise AssertionError(f"reading features changed the cost from {cost} to {episodes.cost}")
    plain, reading = [], []
    for _ in range(rounds):
        plain.append(episodes.run(lru))
        reading.append(episodes.run(reads_all))
    extra_s = best_s(reading) - best_s(plain)
    return {"share_of_episode": extra_s / best_s(reading), "ns_per_decision": 1e9 * extra_s / decisions}


# ---------------------------------------------------------------------------------------------------------------------
# Others


def libcachesim_rate(episodes: Episodes, rounds: int) -> Figures:
    """LRU of libCacheSim on the same models in the order in which their requests arrived, beside ours, in turns."""
    if importlib.util.find_spec("libcachesim") is None:
        return {"skipped": "libcachesim is not installed (pip install libcachesim)"}
    import libcachesim

    lru = episodes.rules("lru")
    episodes.run(lru)
    sequence = np.concatenate(
        [
            workload.model[np.argsort(simulator.episode().arrival_us, kind="stable")]
            for simulator, workload in zip(episodes.simulators, episodes.workloads, strict=True)
        ]
    )
    # One record of libCacheSim's oracleGeneral format per request; -2 = no next use is given.
    records = np.zeros(len(sequence), dtype=[("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next_use", "<i8")])
    records["time"], records["object"], records["size"], records["next_use"] = np.arange(len(sequence)), sequence, 1, -2
    slots = max(1, int(episodes.tables.memory_bytes.sum() // episodes.tables.need_bytes.mean()))
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.oracleGeneral"
        records.tofile(path)
        for _ in range(rounds):
            reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
            cache = libcachesim.LRU(slots, hashpower=10)
            began = time.perf_counter()
            miss_ratio, _ = cache.process_trace(reader)
            theirs.append(time.perf_counter() - began)
            ours.append(episodes.run(lru))
    return {
        "version": libcachesim.__version__,
        "requests": len(sequence),
        "slots": slots,
        "miss_ratio": float(miss_ratio),
        "requests_per_s": per_second(len(sequence), theirs),
        "ours_over_theirs": best_s(theirs) / best_s(ours),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Fresh processes


def probe(*arguments: str, cache_dir: str | None = None) -> Figures:
    """What `experiments.benchmarks.probes` measures in a process of its own.

    Args:
        arguments: its command line.
        cache_dir: where compiled code is kept; as here by default.

    Raises:
        RuntimeError: it failed; what it said is in the message.
    """
    environment = {**os.environ, **({"CACE_ENV_CACHE_DIR": cache_dir} if cache_dir else {})}
    command = [sys.executable, "-m", "experiments.benchmarks.probes", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed in a process of its own:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures | {"notices": done.stderr.count(NOTICE)}


def start_times(rounds: int, fresh: bool) -> Figures:
    """Fresh processes: the first compilation in an empty cache folder, if wanted, then starts from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = folder if fresh else None
        compiling: Figures = {"skipped": "--quick"}
        if fresh:
            compiling = probe("compile", cache_dir=cache_dir)
        probe("start", cache_dir=cache_dir)
        starts = [probe("start", cache_dir=cache_dir) for _ in range(rounds)]
    parts = [key for key in starts[0] if key.endswith("_s")]
    best = min(starts, key=lambda start: start["first_step_s"])
    medians = {key: float(np.median([start[key] for start in starts])) for key in parts}
    figures = {"rounds": rounds, "best": {key: best[key] for key in parts}, "median": medians}
    return {"compile": compiling, "start": figures}
