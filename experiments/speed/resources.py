"""Growth with the fleet, starting, compiling, memory, and the share of a training that is the environment's."""

from __future__ import annotations

import importlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.speed.common import DEFAULT, Batch, Effort, Episodes, Rows, found, made

NEED_GB: Final = 64.0  # of every model in a fleet made to grow; more than the largest of the default scenario
SERIES: Final = {  # (slots, models, accelerators) of fleets that grow in one of them
    "slots": [(slots, 128, 2) for slots in (8, 16, 32, 64)],
    "models": [(8, models, 2) for models in (16, 32, 64, 128)],
    "accelerators": [(16, 64, accelerators) for accelerators in (1, 2, 4, 8)],
}


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
        small.run(effort(1_000, 2))
        resident.append(memory_mb("VmRSS"))
    decisions = 20 * effort(1_000, 2) * small.num_envs
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
        agent.learn(num_envs * effort(512, 128), reset_num_timesteps=False)
        seconds = time.perf_counter() - began
        yield f"PPO, {name}: share of the environment", sum(inside) / seconds, ""
        yield f"PPO, {name}", 1e6 * seconds / (agent.num_timesteps - before), "us/decision"
