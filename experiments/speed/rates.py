"""Rates and times: whole episodes, batches, one environment, one decision, one state."""

from __future__ import annotations

import importlib
import time
from typing import Any, Final

import numpy as np

from experiments.speed.common import (
    BANK,
    Batch,
    Effort,
    Episodes,
    Generated,
    Rows,
    Stepped,
    decisions_of_an_episode,
    found,
    made,
)

WHOLE: Final = (("lru", "eviction"), ("cace", "eviction"), ("agent:eviction", "eviction"), ("wsjf+cace", "swap"))
LATENCY: Final = ("lru", "cace", "gdsf", "belady", "agent:eviction")
SIZES: Final = (64, 1_024)  # environments of a batch
CARTPOLE_STEPS: Final = 2_000  # in a turn
TURNS: Final = 8  # of each thing that is compared


def episodes(effort: Effort) -> Rows:
    """Requests per second of whole compiled episodes, in Eviction-v0 and Swap-v0, by a rule and by a network."""
    scenario = effort.scenario()
    runs = {f"whole episodes, {policy}": Episodes(scenario, policy, protocol) for policy, protocol in WHOLE}
    rates = np.array([[run.run() for run in runs.values()] for _ in range(effort(20, 2))])
    for column, name in enumerate(runs):
        yield name, float(rates[:, column].max()), "requests/s"
    yield "Swap-v0 over LRU in Eviction-v0", float(np.median(rates[:, -1] / rates[:, 0])), "x"


def batches(effort: Effort) -> Rows:
    """Decisions per second of batches, beside LRU's whole episodes and CartPole, all in turns.

    Everything that a training loop pays for is in them: choice, observations, masks, infos, metrics of ended episodes,
    resets. No turn begins before the middle of the first episodes, and all turns together are an episode's length, so
    about every environment ends once. What is compared with LRU is requests per second.
    """
    import gymnasium

    scenario = effort.scenario()
    length, requests = decisions_of_an_episode(scenario), scenario.workload_config.requests
    lru, generated, cartpole = Episodes(scenario, "lru"), Generated(scenario), Stepped(gymnasium.make("CartPole-v1"))
    for num_envs in (4,) if effort.quick else SIZES:
        for bank in (BANK, None):
            one, two = (Batch(scenario, num_envs, threads=threads, num_workloads=bank) for threads in (1, 2))
            for batch in (one, two):
                batch.run(round(length / 2))
            turns = []
            for _ in range(TURNS):
                alone, together = (batch.run(max(round(length / TURNS), 1)) for batch in (one, two))
                by_lru = length / requests * (generated if bank is None else lru).run()
                over = (alone / by_lru, alone / cartpole.run(CARTPOLE_STEPS), together / alone, together / by_lru)
                turns.append((alone, together, *over))
            for batch in (one, two):
                batch.envs.close()
            alone, together, over_lru, over_cartpole, over_one, two_over_lru = np.median(turns, axis=0).tolist()
            name, by = f"{num_envs:,} environments, ", "LRU" if bank else "LRU with generation"
            name += "" if bank else "fresh requests, "
            yield f"{name}one thread", alone, "decisions/s"
            yield f"{name}one thread over {by}", over_lru, "x"
            yield f"{name}one thread over CartPole", over_cartpole, "x"
            yield f"{name}two threads", together, "decisions/s"
            yield f"{name}two threads over one", over_one, "x"
            yield f"{name}two threads over {by} on one core", two_over_lru, "x"


def ablation(effort: Effort) -> Rows:
    """Where the time of a batch's step goes: microseconds per environment of the whole and of parts alone, in turns.

    The compiled part simulates, looks and counts; the rest is arrays, checks and infos. An episode of LRU is simulation
    alone, and its choices; looking again writes the observation of a simulation that has not moved.
    """
    from cace_env.kernel.state import DECISIONS

    scenario = effort.scenario()
    lru, steps = Episodes(scenario, "lru"), effort(100, 2)
    decisions = sum(int(simulator.state.scalars[DECISIONS]) for simulator, _, _ in lru.played)
    for num_envs in (4,) if effort.quick else SIZES:
        whole, inner = (Batch(scenario, num_envs, num_workloads=BANK) for _ in range(2))
        for batch in (whole, inner):
            batch.run(2 * steps)  # past the start, where memory is empty; far from the end
        simulators = inner.envs.unwrapped.simulators
        rows, look = np.arange(num_envs), simulators.new_look()
        simulators.see(rows, look)

        def compiled(simulators: Any = simulators, rows: Any = rows, look: Any = look) -> None:
            simulators.step(rows, look.masks.argmax(axis=1), look)

        def again(simulators: Any = simulators, rows: Any = rows, look: Any = look) -> None:
            simulators.see(rows, look)

        turns = []
        for _ in range(TURNS // 2):
            line = [1e6 / whole.run(steps // 2)]
            for part in (compiled, again):
                began = time.perf_counter()
                for _ in range(steps // 2):
                    part()
                line.append(1e6 * (time.perf_counter() - began) / (steps // 2 * num_envs))
            turns.append([*line, 1e6 / (lru.run() * decisions / lru.requests)])
        for batch in (whole, inner):
            batch.envs.close()
        names = ("the step", "its compiled part", "looking again", "an episode of LRU per decision")
        for name, value in zip(names, np.median(turns, axis=0).tolist(), strict=True):
            yield f"{num_envs:,} environments, {name}", value, "us"


def step(effort: Effort) -> Rows:
    """Steps per second of one environment under random legal actions, resets included, beside CartPole's."""
    import gymnasium

    ours, cartpole = Stepped(made(effort.scenario())), Stepped(gymnasium.make("CartPole-v1"))
    steps = effort(5_000, 200)
    turns = np.array([(ours.run(steps), cartpole.run(steps)) for _ in range(TURNS)])
    yield "one environment", float(turns[:, 0].max()), "steps/s"
    yield "CartPole, one", float(turns[:, 1].max()), "steps/s"
    yield "one environment over CartPole", float(np.median(turns[:, 0] / turns[:, 1])), "x"


def latency(effort: Effort) -> Rows:
    """Microseconds of one decision: one compiled call from Python, at every question of some episodes."""
    pick: Any = importlib.import_module("cace_env.kernel.pick").pick
    new_scratch = found("simulation", "new_scratch")
    for name in LATENCY:
        times = []
        for simulator, workload, rule in Episodes(effort.scenario(), name, number=effort(3, 1)).played:
            scratch = new_scratch(simulator.max_slots, simulator.tables.num_models, rule.network)
            scratch = scratch._replace(next_pointer=rule.future_start[:-1].copy())
            asked = simulator.reset(workload)
            pick(*simulator.arguments, rule, scratch)  # compiles
            while asked:
                began = time.perf_counter_ns()
                action = pick(*simulator.arguments, rule, scratch)
                times.append(time.perf_counter_ns() - began)
                asked = simulator.answer(int(action))
        for quantile, label in ((50, "median"), (99, "p99")):
            yield f"decision of {name}, {label}", float(np.percentile(times, quantile)) / 1e3, "us"


def states(effort: Effort) -> Rows:
    """Microseconds to take the state of an environment and to put it back, within an episode."""
    env = made(effort.scenario(), max_slots=16)
    Stepped(env).run(effort(200, 10))
    times = []
    for _ in range(effort(1_000, 20)):
        began = time.perf_counter()
        env.unwrapped.set_state(env.unwrapped.get_state())
        times.append(time.perf_counter() - began)
    yield "a state taken and put back, 16 slots", 1e6 * float(np.median(times)), "us"
