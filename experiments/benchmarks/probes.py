"""Measurements that need a process of their own: what is compiled, imported or allocated once.

    python -m experiments.benchmarks.probes compile           first episode and first env step
    python -m experiments.benchmarks.probes start             import to first env step
    python -m experiments.benchmarks.probes memory 1000000    peak memory of one long episode
    python -m experiments.benchmarks.probes envs 1024 256     memory of 1024 environments on a bank of 256 workloads
    python -m experiments.benchmarks.probes long 10000000 64  memory over that many decisions of 64 environments
    python -m experiments.benchmarks.probes states 16 20      states of environments with 16 slots, 20 rounds

Prints one JSON object. `experiments.benchmark` runs them; by hand they say the same.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

MB: Final = 1e6
PAGES_KB: Final = 1024  # the unit of both sources below, on Linux
SAMPLES: Final = 100  # of the memory in a long run
STATES: Final = 200  # in a round
STATES_OF: Final = ("workstation", "default")  # scenarios of 2,000 and 8,000 requests


def peak_mb() -> float:
    """Peak resident memory of this process so far [MB]."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`: that starts with what the parent held when it made this process.
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * PAGES_KB / MB
    unit = 1 if sys.platform == "darwin" else PAGES_KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def resident_mb() -> float:
    """Resident memory of this process now [MB]; its peak where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    return peak_mb()


def compile_everything() -> dict[str, Any]:
    """Seconds from the first call to the first result: an episode under a rule, then an environment's first step."""
    began = time.perf_counter()
    from cace_env.policies import policy
    from cace_env.policies.built_in import rule_of
    from cace_env.scenarios import load_scenario, seeds
    from cace_env.simulation import run_rule

    imported, computed = time.perf_counter(), time.process_time()
    scenario = load_scenario("default")
    tables, workload = scenario.tables(), scenario.workload(seeds("test", 1)[0])
    generated = time.perf_counter()
    run_rule(tables, workload, rule_of(policy("lru"), tables))
    ran = time.perf_counter()
    first_step()
    stepped = time.perf_counter()
    return {
        "import_s": imported - began,
        "generation_s": generated - imported,
        "episode_s": ran - generated,
        "env_s": stepped - ran,
        "first_result_s": ran - imported,
        "all_s": stepped - imported,
        "all_cpu_s": time.process_time() - computed,
    }


def first_step() -> dict[str, Any]:
    """Seconds from the import of Gymnasium to the first step of the default environment."""
    began = time.perf_counter()
    import gymnasium

    gymnasium_imported = time.perf_counter()
    import cace_env

    imported = time.perf_counter()
    env = gymnasium.make(f"cace_env:{cace_env.EVICTION_ID}")
    made = time.perf_counter()
    _, info = env.reset(seed=0)
    reset = time.perf_counter()
    env.step(info["action_mask"].argmax())
    stepped = time.perf_counter()
    return {
        "import_gymnasium_s": gymnasium_imported - began,
        "import_cace_env_s": imported - gymnasium_imported,
        "make_s": made - imported,
        "reset_s": reset - made,
        "step_s": stepped - reset,
        "first_step_s": stepped - began,
    }


def long_episode(requests: int) -> dict[str, Any]:
    """Peak memory of one episode of the default scenario with `requests`: generation, LRU, metrics."""
    from cace_env.policies import policy
    from cace_env.policies.built_in import rule_of
    from cace_env.scenarios import load_scenario, seeds
    from cace_env.simulation import Simulator, episode_metrics

    scenario = load_scenario("default")
    config = {**scenario.workload_config.model_dump(mode="json"), "requests": requests}
    scenario = scenario.replace(workload=config)
    tables = scenario.tables()
    imported_mb = peak_mb()
    began = time.perf_counter()
    workload = scenario.workload(seeds("test", 1)[0])
    generated, generated_mb = time.perf_counter(), peak_mb()
    simulator = Simulator(tables)
    simulator.run(workload, rule_of(policy("lru"), tables))
    ran, ran_mb = time.perf_counter(), peak_mb()
    summary = simulator.summary()
    episode_metrics(summary, tables)
    return {
        "requests": len(workload),
        "after_import_mb": imported_mb,
        "after_generation_mb": generated_mb,
        "after_episode_mb": ran_mb,
        "peak_mb": peak_mb(),
        "generation_s": generated - began,
        "episode_s": ran - generated,
        "decisions_per_request": summary.totals.decisions / len(workload),
    }


def environments(num_envs: int, bank: int) -> dict[str, Any]:
    """Resident memory of a batch of the default scenario: what it takes beyond a batch of one.

    Args:
        num_envs: environments.
        bank: workloads that they share; 0: each has requests of its own.
    """
    from cace_env.scenarios import load_scenario
    from experiments.benchmarks.vector import Batch, Setting

    scenario = load_scenario("default")
    one = Batch(scenario, Setting("default", 1))  # whatever is compiled, imported and kept once
    one.play(100)
    before_mb = resident_mb()
    batch = Batch(scenario, Setting("default", num_envs, bank=bank or None))
    batch.play(20)
    grown_mb = resident_mb() - before_mb
    return {"num_envs": num_envs, "bank": bank, "all_mb": grown_mb, "per_env_kb": grown_mb * 1e3 / num_envs}


def long_run(decisions: int, num_envs: int) -> dict[str, Any]:
    """Resident memory of a batch of the default scenario over many decisions, with fresh requests at every reset."""
    from cace_env.scenarios import load_scenario
    from experiments.benchmarks.vector import Batch, Setting

    batch = Batch(load_scenario("default"), Setting("default", num_envs))
    steps = max(1, decisions // num_envs // SAMPLES)
    played, resident, episodes = [0], [resident_mb()], 0
    began = time.perf_counter()
    while played[-1] < decisions:
        stretch = batch.play(steps)
        episodes += stretch.episodes
        played.append(played[-1] + stretch.decisions)
        resident.append(resident_mb())
    settled = len(resident) // 5
    return {
        "decisions": played[-1],
        "num_envs": num_envs,
        "episodes": episodes,
        "seconds": time.perf_counter() - began,
        "at_decision": played,
        "resident_mb": resident,
        "settled_mb": max(resident[: settled + 1]),
        "last_mb": max(resident[-settled - 1 :]),
    }


def states(max_slots: int, rounds: int) -> dict[str, Any]:
    """How long `get_state` and `set_state` take halfway through an episode under LRU, and how large a state is.

    Args:
        max_slots: slots of the environments.
        rounds: of 200 states each, taken and put back in turns.
    """
    from cace_env.envs import Actor, EvictionEnv
    from experiments.benchmarks.measures import best_s, median_s

    rows = []
    for name in STATES_OF:
        env = EvictionEnv(name, split="test", max_slots=max_slots)
        actor = Actor("lru", env)
        _, info = env.reset(seed=env.draws.seeds[0])
        actor.reset()
        workload = env.workload
        assert workload is not None
        middle_s = workload.arrival_us.max() / 2e6
        while info["time_s"] < middle_s:
            *_, info = env.step(actor.act())
        state = env.get_state()
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(STATES):
                env.set_state(env.get_state())
            seconds.append((time.perf_counter() - began) / STATES)
        rows.append(
            {
                "scenario": name,
                "requests": len(workload),
                "slots": max_slots,
                "get_and_set_us": {"best": 1e6 * best_s(seconds), "median": 1e6 * median_s(seconds)},
                "state_kb": state.simulation.size_bytes / 1e3,
                "requests_kb": sum(column.nbytes for column in state.simulation.workload) / 1e3,
                "pickled_kb": len(pickle.dumps(state)) / 1e3,
            }
        )
    return {"rows": rows}


def main(arguments: list[str]) -> None:
    """Runs one probe."""
    match arguments:
        case ["compile"]:
            figures = compile_everything()
        case ["start"]:
            figures = first_step()
        case ["memory", requests]:
            figures = long_episode(int(requests))
        case ["envs", num_envs, bank]:
            figures = environments(int(num_envs), int(bank))
        case ["long", decisions, num_envs]:
            figures = long_run(int(decisions), int(num_envs))
        case ["states", max_slots, rounds]:
            figures = states(int(max_slots), int(rounds))
        case _:
            raise SystemExit(f"usage: {__doc__}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
