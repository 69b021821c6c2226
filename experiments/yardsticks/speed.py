"""What `python -m experiments.benchmark` measures, one function each, every time in a process of its own.

    PYTHONPATH=CHECKOUT python -P experiments/yardsticks/speed.py episodes

Prints one JSON object: what was measured, and its value and unit. The file imports nothing of `experiments`, so that
it can measure another checkout, older ones too. No machine is quite idle: what is compared is measured in turns.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

Rows = Iterator[tuple[str, float, str]]  # what, value, unit

DEFAULT: Final = "default"  # the scenario that is measured
EPISODES: Final = 8  # test seeds that a round of whole episodes plays
TURNS: Final = 4  # of each thing that is compared
BANK: Final = 256  # workloads that a batch plays again and again, instead of new ones
CARTPOLE_STEPS: Final = 2_000  # in a turn
NEED_GB: Final = 64.0  # of every model in a fleet made to grow; more than the largest of the default scenario
WHOLE: Final = (("lru", "eviction"), ("cace", "eviction"), ("agent:eviction", "eviction"), ("wsjf+cace", "swap"))
LATENCY: Final = ("lru", "cace", "gdsf", "belady", "agent:eviction")
SERIES: Final = {  # (slots, models, accelerators) of fleets that grow in one of them
    "slots": [(slots, 128, 2) for slots in (8, 16, 32, 64)],
    "models": [(8, models, 2) for models in (16, 32, 64, 128)],
    "accelerators": [(16, 64, accelerators) for accelerators in (1, 2, 4, 8)],
}
# Where version 0.1 kept what is used here; anything else comes through doors that are the same.
BEFORE: Final = {"evaluation.episodes": "evaluation", "simulation": "simulator", "fleets": "catalogue"}


def found(wing: str, name: str) -> Any:
    """`name` of a wing of the package, or of the module that had it in version 0.1.

    Raises:
        ImportError: this checkout has it in neither.
    """
    for home in (wing, BEFORE[wing]):
        try:
            return getattr(importlib.import_module(f"cace_env.{home}"), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this checkout has no {name} in cace_env.{wing} or cace_env.{BEFORE[wing]}")


class Effort(NamedTuple):
    """How much is measured: everything, or next to nothing."""

    quick: bool

    def __call__(self, full: int, quick: int) -> int:
        """One of the two numbers."""
        return quick if self.quick else full

    def scenario(self, **workload: Any) -> Any:
        """The default scenario, with short episodes in a quick run, and with other keys of its workload."""
        from cace_env.scenarios import load_scenario

        base = load_scenario(DEFAULT)
        short = {"requests": 400} if self.quick else {}
        return base.replace(workload=base.workload_config.model_dump(mode="json") | short | workload)


class Episodes:
    """Whole compiled episodes of a policy: laid out, reset and played to their ends."""

    def __init__(self, scenario: Any, policy: str, protocol: str = "eviction", number: int = EPISODES) -> None:
        from cace_env.scenarios import seeds

        case = found("evaluation.episodes", "case_of")(scenario, protocol)
        chosen = found("evaluation.episodes", "contestant_of")(policy).policy
        rule_of = found("evaluation.episodes", "rule_of")
        self.played = []
        for seed in seeds("test", number):
            workload = case.workload(seed)
            future = found("evaluation.episodes", "Future").of(case.tables, workload) if chosen.clairvoyant else None
            rule = rule_of(chosen, case.tables, seed=seed, workload=workload, future=future)
            self.played.append((found("simulation", "Simulator")(case.tables), workload, rule))
        self.requests = sum(len(workload) for _, workload, _ in self.played)
        self.run()  # compiles, and touches the memory

    def run(self) -> float:
        """Requests per second of all episodes, one after the other."""
        began = time.perf_counter()
        for simulator, workload, rule in self.played:
            simulator.run(workload, rule)
        return self.requests / (time.perf_counter() - began)


def episodes(effort: Effort) -> Rows:
    """Requests per second of whole compiled episodes, in Eviction-v0 and Swap-v0, by a rule and by a network."""
    scenario = effort.scenario()
    runs = {f"whole episodes, {policy}": Episodes(scenario, policy, protocol) for policy, protocol in WHOLE}
    rates = np.array([[run.run() for run in runs.values()] for _ in range(effort(20, 2))])
    for column, name in enumerate(runs):
        yield name, float(rates[:, column].max()), "requests/s"
    yield "Swap-v0 over LRU in Eviction-v0", float(np.median(rates[:, -1] / rates[:, 0])), "x"


def made(scenario: Any, num_envs: int = 0, **settings: Any) -> Any:
    """Eviction-v0: one, or a batch of so many whose episodes begin again within the step."""
    import gymnasium

    env_id = "cace_env:cace_env/Eviction-v0"
    if not num_envs:
        return gymnasium.make(env_id, scenario=scenario, **settings)
    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    return gymnasium.make_vec(env_id, num_envs=num_envs, scenario=scenario, autoreset_mode=same_step, **settings)


class Stepped:
    """One environment under random legal actions, or CartPole under random ones; it goes on from turn to turn."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._draws = cycle(np.random.default_rng(0).random(1_024).tolist())
        _, self._info = env.reset(seed=0)

    def run(self, steps: int) -> float:
        """Steps per second."""
        began = time.perf_counter()
        for _ in range(steps):
            mask = self._info.get("action_mask")
            legal = (0, 1) if mask is None else mask.nonzero()[0]
            *_, terminated, truncated, self._info = self._env.step(legal[int(next(self._draws) * len(legal))])
            if terminated or truncated:
                _, self._info = self._env.reset()
        return steps / (time.perf_counter() - began)


class Batch:
    """A batch that plays the legal slot of lowest index, one `argmax` for all; it goes on from turn to turn."""

    def __init__(self, scenario: Any, num_envs: int, **settings: Any) -> None:
        self.envs = made(scenario, num_envs, **settings)
        self.num_envs, self.ended = num_envs, 0
        _, self._info = self.envs.reset(seed=0)

    def run(self, steps: int) -> float:
        """Decisions per second."""
        began = time.perf_counter()
        for _ in range(steps):
            _, _, terminated, _, self._info = self.envs.step(self._info["action_mask"].argmax(axis=1))
            self.ended += int(np.count_nonzero(terminated))
        return steps * self.num_envs / (time.perf_counter() - began)


def decisions_of_an_episode(scenario: Any) -> float:
    """Mean number of decisions of an episode under the choice of `Batch`."""
    batch, steps = Batch(scenario, 16, num_workloads=BANK), 0
    while batch.ended < batch.num_envs:
        batch.run(1)
        steps += 1
    return steps * batch.num_envs / batch.ended


def batches(effort: Effort) -> Rows:
    """Decisions per second of batches, beside LRU's whole episodes and CartPole, alone and as Gymnasium's vector.

    Everything that a training loop pays for is in them: choice, observations, masks, infos, metrics of ended episodes,
    resets. No turn begins before the middle of the first episodes, and all turns together are an episode's length, so
    about every environment ends once. `over LRU` compares requests.
    """
    import gymnasium

    scenario = effort.scenario()
    length, requests = decisions_of_an_episode(scenario), scenario.workload_config.requests
    lru, cartpole = Episodes(scenario, "lru"), Stepped(gymnasium.make("CartPole-v1"))
    for num_envs in (4,) if effort.quick else (64, 1_024):
        for threads, bank in ((1, BANK), (2, BANK), (1, None)):
            batch = Batch(scenario, num_envs, threads=threads, num_workloads=bank)
            batch.run(round(length / 2))
            turns = []
            for _ in range(TURNS):
                rate = batch.run(round(length / TURNS))
                turns.append((rate, rate / cartpole.run(CARTPOLE_STEPS), rate / length * requests / lru.run()))
            batch.envs.close()
            rates = np.median(turns, axis=0).tolist()
            name = f"{num_envs:,} environments, {'two threads' if threads > 1 else 'one thread'}"
            name += "" if bank else ", fresh requests"
            yield name, rates[0], "decisions/s"
            yield f"{name} over CartPole", rates[1], "x"
            yield f"{name} over LRU", rates[2], "x"
        vector: Any = gymnasium.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point")
        vector.reset(seed=0)
        actions = np.random.default_rng(0).integers(0, 2, num_envs)
        began = time.perf_counter()
        for _ in range(CARTPOLE_STEPS):
            vector.step(actions)
        rate = CARTPOLE_STEPS * num_envs / (time.perf_counter() - began)
        yield f"CartPole, {num_envs:,} in Gymnasium's vector", rate, "steps/s"


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


def fleet(slots: int, models: int, accelerators: int) -> Any:
    """The default scenario on a fleet with exactly so many slots: all models take the same memory, equally popular."""
    from cace_env.scenarios import load_scenario

    base = load_scenario(DEFAULT)
    catalogue = []
    for number in range(models):
        model = base.entries[number % len(base.entries)].model
        reserve_gb = NEED_GB - found("fleets", "MODELS")[model].weights_gb.value
        catalogue.append({"model": model, "name": f"{model}-{number}", "reserve_gb": reserve_gb})
    workload = base.workload_config.model_dump(mode="json") | {"requests": 2_000}
    workload["routing"] |= {"popularity_exponent": 0.0, "popularity_cutoff": 1e6, "new_models": 0}
    memory_gb = slots / accelerators * NEED_GB + 0.001  # sizes are rounded up to whole bytes
    gpus = [{"gpu": base.fleet[0].gpu, "count": accelerators, "memory_gb": memory_gb}]
    return base.replace(name="grown", fleet=gpus, pressure=None, catalogue=catalogue, workload=workload)


def exponent(sizes: Any, times: Any) -> float:
    """The exponent `b` of the power law `a * size ** b`, fitted to the logarithms by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def growth(effort: Effort) -> Rows:
    """How the time of a decision in a batch of 64 grows with slots, models and accelerators: 0 costs nothing."""
    steps = effort(300, 5)
    for place, (what, sizes) in enumerate(SERIES.items()):
        some = [Batch(fleet(*size), effort(64, 2), num_workloads=64) for size in sizes]
        for batch in some:
            batch.run(steps)  # past the start, where memory is empty
        times = 1 / np.max([[batch.run(steps) for batch in some] for _ in range(3)], axis=0)
        yield f"time of a decision, exponent in {what}", exponent([size[place] for size in sizes], times), ""


def start(effort: Effort) -> Rows:
    """Seconds from the import to the first step of a new process, with compiled code kept from before."""
    del effort
    began = time.perf_counter()
    import gymnasium  # noqa: F401

    import cace_env  # noqa: F401

    yield "import", time.perf_counter() - began, "s"
    env = made(DEFAULT)
    _, info = env.reset(seed=0)
    env.step(info["action_mask"].argmax())
    yield "import to first step", time.perf_counter() - began, "s"


def cpu_s() -> float:
    """Processor seconds of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compiling(effort: Effort) -> Rows:
    """Processor seconds of the first use of things with an empty cache, as a newcomer meets them."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACE_ENV_CACHE_DIR"] = folder
        from cace_env import evaluate

        def first_step() -> None:
            env = made(DEFAULT)
            _, info = env.reset(seed=0)
            env.step(info["action_mask"].argmax())

        uses: dict[str, Callable[[], Any]] = {
            "first step": first_step,
            "first evaluate": lambda: evaluate("lru", DEFAULT, [0]),
            "evaluate an agent": lambda: evaluate("agent:eviction", DEFAULT, [0]),
            "evaluate in Swap-v0": lambda: evaluate("wsjf+cace", DEFAULT, [0], protocol="swap"),
            "batch": lambda: Batch(DEFAULT, 2).run(1),
        }
        for name, use in list(uses.items())[: effort(len(uses), 0)]:
            before = cpu_s()
            use()
            yield f"compiling, {name}", cpu_s() - before, "CPU s"
        yield "compiling, all of these", cpu_s(), "CPU s"
        yield "compiling, all of these, by the clock", time.perf_counter() - began, "s"


def memory_mb(kind: str) -> float:
    """Resident memory of this process: `VmRSS` now, or `VmHWM` at its peak [MB].

    Not `ru_maxrss`, which starts with what the parent held when it made this process.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    line = next(line for line in status.read_text("ascii").splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1_024 / 1e6


def memory(effort: Effort) -> Rows:
    """Peak memory of one long episode."""
    requests = effort(1_000_000, 2_000)
    Episodes(effort.scenario(requests=requests), "lru", number=1).played[0][0].summary()
    yield f"peak memory of {requests:,} requests", memory_mb("VmHWM"), "MB"


def batch_memory(effort: Effort) -> Rows:
    """What a batch takes beyond a batch of one, and whether it grows over many decisions with fresh requests."""
    num_envs, scenario = effort(1_024, 4), effort.scenario()
    Batch(scenario, 1).run(100)  # what is compiled, imported and kept once
    before_mb = memory_mb("VmRSS")
    batch = Batch(scenario, num_envs)
    batch.run(20)
    yield f"memory of {num_envs:,} environments", memory_mb("VmRSS") - before_mb, "MB"
    small = Batch(scenario, 64)
    resident = []
    for _ in range(20):
        small.run(effort(2_000, 2))
        resident.append(memory_mb("VmRSS"))
    decisions = 20 * effort(2_000, 2) * small.num_envs
    yield f"memory after {decisions:,} decisions over the first fifth", max(resident[-4:]) / max(resident[:4]), ""


def sb3(effort: Effort) -> Rows:
    """The environment's share of the time that SB3's PPO takes, with its defaults and with large batches."""
    from stable_baselines3 import PPO

    num_envs = effort(64, 8)
    for name, batch_size, epochs in (("defaults", 64, 10), ("batches of 1,024, 4 epochs", 1_024, 4)):
        venv: Any = importlib.import_module("cace_env.sb3").EvictionVecEnv(num_envs, scenario=effort.scenario())
        agent = PPO("MlpPolicy", venv, n_steps=128, batch_size=batch_size, n_epochs=epochs, seed=0, device="cpu")
        agent.learn(num_envs * 128)  # warms up
        inside: list[float] = []

        def timed(actions: Any, step: Any = venv.step, inside: list[float] = inside) -> Any:
            began = time.perf_counter()
            result = step(actions)
            inside.append(time.perf_counter() - began)
            return result

        venv.step = timed
        before, began = agent.num_timesteps, time.perf_counter()
        agent.learn(num_envs * effort(1_536, 128), reset_num_timesteps=False)
        seconds = time.perf_counter() - began
        yield f"PPO, {name}: share of the environment", sum(inside) / seconds, ""
        yield f"PPO, {name}", 1e6 * seconds / (agent.num_timesteps - before), "us/decision"


PROBES: Final[dict[str, Callable[[Effort], Rows]]] = {
    probe.__name__: probe
    for probe in (episodes, batches, step, latency, states, growth, start, compiling, memory, batch_memory, sb3)
}


if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    print(json.dumps([list(row) for row in PROBES[name](Effort(quick="--quick" in flags))]))
