"""What large fleets cost: `python -m experiments.yardsticks.growth.fleets` (`docs/scale.md`).

The scenario `fleet-256` and companies a quarter and a sixteenth as large: accelerators, models, users and the demand
grow together, each model is asked for equally often. Seconds are those of the processor, so that a busy machine may
measure; every episode is timed twice, and the better one counts.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import case_of
from cace_env.config import Frozen
from cace_env.envs import EvictionEnv, SwapEnv
from cace_env.policies import contestant_of
from cace_env.policies.built_in import Policy, rule_of
from cace_env.scenarios import Scenario, load_scenario, seeds
from cace_env.simulation import Simulator, episode_metrics
from cace_env.tables import slots_per_accelerator
from experiments.reading.markdown import table
from experiments.running.command_line import Session, run_command

LARGEST: Final = "fleet-256"
PARTS: Final = (16, 4, 1)  # a company of 16, 64 and 256 accelerators
POLICIES: Final = {"lru": "eviction", "cace": "eviction", "wsjf+cace": "swap", "agent:eviction": "eviction"}
TOP_K: Final = 32
SEED: Final = seeds("train", 1)[0]


def company(part: int, requests: int, **workload: Any) -> Scenario:
    """`fleet-256` divided by `part`: a power of two up to 16."""
    whole = load_scenario(LARGEST)
    asked = whole.workload_config
    routing = asked.routing.model_copy(
        update={
            "popularity_cutoff": asked.routing.popularity_cutoff / part,
            "new_models": round(asked.routing.new_models / part),
        }
    )
    changes = {"requests": requests, "users": asked.users // part, "routing": routing.model_dump(mode="json")}
    return whole.replace(
        name=f"{LARGEST} over {part}",
        fleet=[{**gpus.model_dump(mode="json"), "count": gpus.count // part} for gpus in whole.fleet],
        host_ram_gb=whole.host_ram_gb / part,
        catalogue=[
            {"model": entry.model, "copies": max(1, round(entry.copies / part))}
            for entry in whole.catalogue
            if not isinstance(entry, str)
        ],
        workload=asked.model_dump(mode="json") | changes | workload,
    )


class Played:
    """A policy on a company's requests: seconds of an episode, and its counts."""

    def __init__(self, scenario: Scenario, policy: str, workload: Any, rounds: int) -> None:
        tables = case_of(scenario, POLICIES[policy]).tables
        chosen = contestant_of(policy).policy
        assert isinstance(chosen, Policy)
        rule = rule_of(chosen, tables, seed=SEED, workload=workload)
        self.simulator = Simulator(tables)
        self.seconds = min(self._play(workload, rule) for _ in range(rounds))
        self.totals = self.simulator.totals()
        self.requests = len(workload)

    def _play(self, workload: Any, rule: Any) -> float:
        began = time.process_time()
        self.simulator.run(workload, rule)
        return time.process_time() - began


def exponent(sizes: list[float], times: list[float]) -> float:
    """B of the power law a size^b, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def peak_gb() -> float:
    """Peak resident memory of this process [GB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def growth(console: Console, requests: int) -> None:
    """Time per request and per decision as the company grows, and their exponents."""
    load_scenario(LARGEST)  # once, so that what is read and kept does not count
    scenarios = [company(part, requests) for part in PARTS]
    workloads = [scenario.workload(SEED) for scenario in scenarios]
    accelerators = [float(scenario.tables().num_accelerators) for scenario in scenarios]
    sizes = [f"{s.tables().num_accelerators} accelerators, {s.tables().num_models} models" for s in scenarios]
    rows = []
    for policy in POLICIES:
        played = [Played(s, policy, w, 2) for s, w in zip(scenarios, workloads, strict=True)]
        each = [1e6 * one.seconds / one.requests for one in played]
        decided = [1e6 * one.seconds / max(one.totals.decisions, 1) for one in played]
        shares = " / ".join(f"{one.totals.decisions / one.requests:.2f}" for one in played)
        rows.append([f"{policy}, us per request", *(f"{us:.2f}" for us in each), f"{exponent(accelerators, each):.2f}"])
        decided_power = f"{exponent(accelerators, decided):.2f}"
        rows.append([f"{policy}, us per decision", *(f"{us:.1f}" for us in decided), decided_power])
        rows.append([f"{policy}, decisions per request", *shares.split(" / "), ""])
    rows.append(["a request generated, us", *generated(scenarios, accelerators)])
    for name, make in LOOKS.items():
        looked = [look_us(make, scenario) for scenario in scenarios]
        rows.append([name, *(f"{us:.1f}" for us in looked), f"{exponent(accelerators, looked):.2f}"])
    console.print(table(["", *sizes, "exponent"], rows, numbers="right"), markup=False, highlight=False)


def generated(scenarios: list[Scenario], accelerators: list[float]) -> list[str]:
    """Microseconds per request of the generator, and the exponent."""
    each = []
    for scenario in scenarios:
        began = time.process_time()
        workload = scenario.workload(SEED)
        each.append(1e6 * (time.process_time() - began) / len(workload))
    return [*(f"{us:.2f}" for us in each), f"{exponent(accelerators, each):.2f}"]


LOOKS: Final[dict[str, Callable[[Scenario], Any]]] = {
    "a look at everything, us": lambda scenario: EvictionEnv(scenario),
    f"a look at {TOP_K} of each, us": lambda scenario: EvictionEnv(scenario, top_k=TOP_K),
    "a look at everything, Swap-v0, us": lambda scenario: SwapEnv(scenario),
    f"a look at {TOP_K} of each, Swap-v0, us": lambda scenario: SwapEnv(scenario, top_k=TOP_K),
}


def look_us(make: Callable[[Scenario], Any], scenario: Scenario) -> float:
    """Microseconds of an observation, mean over some hundred questions of an episode under the first legal action."""
    workload = scenario.workload_config.model_dump(mode="json") | {"requests": 20_000}
    env = make(scenario.replace(workload=workload))
    _, info = env.reset(seed=SEED)
    simulators, rows, look = env.simulators, np.zeros(1, dtype=np.int64), env.simulators.new_look()
    times = []
    for step in range(400):
        _, _, terminated, _, info = env.step(int(info["action_mask"].argmax()))
        if terminated:
            break
        if step >= 100:  # until then memory fills
            began = time.process_time()
            for _ in range(10):
                simulators.see(rows, look)
            times.append((time.process_time() - began) / 10)
    return 1e6 * float(np.median(times))


def long(console: Console, requests: int, users: int) -> None:
    """One long episode of the whole company under LRU: seconds and memory of each part of it."""
    asked = load_scenario(LARGEST).workload_config
    rate = asked.requests_per_user_hour * asked.users / users  # the same demand from more people
    scenario = company(1, requests, users=users, requests_per_user_hour=rate)
    company(1, 1_000).workload(SEED)  # compiles
    Played(company(1, 1_000), "lru", company(1, 1_000).workload(SEED), 1).simulator.summary()
    gc.collect()
    rows, began = [], time.process_time()

    def note(what: str) -> None:
        nonlocal began
        seconds = time.process_time() - began
        rows.append([what, f"{seconds:.1f}", f"{1e6 * seconds / requests:.2f}", f"{peak_gb():.2f}"])
        began = time.process_time()

    note("what is imported and compiled")
    workload = scenario.workload(SEED)
    note("requests generated")
    played = Played(scenario, "lru", workload, 1)
    note("laid out and played")
    metrics = episode_metrics(played.simulator.summary(), played.simulator.tables)
    note("summed up")
    header = ["", "s", "us per request", "peak memory so far [GB]"]
    console.print(table(header, rows, numbers="right"), markup=False, highlight=False)
    pairs = len(played.simulator.state.pairs)
    console.print(
        f"\n{requests:,} requests of {len(np.unique(workload.user)):,} users, {pairs:,} pairs of session and model, "
        f"{played.totals.decisions:,} decisions, {played.totals.loads:,} loads, {metrics['simulated_s'] / 3600:.0f} h; "
        f"{peak_gb() * 1e9 / requests:.0f} bytes per request",
        highlight=False,
    )


class Options(Frozen):
    """Measure what large fleets cost, and how that grows."""

    what: tyro.conf.Positional[Literal["growth", "long"]] = Field(
        default="growth", description="growth: three sizes of company; long: one long episode of the largest"
    )
    requests: Annotated[int, tyro.conf.arg(metavar="N")] = Field(default=100_000, ge=1_000, description="of an episode")
    users: int = Field(default=100_000, ge=1, description="of a long episode, whose demand stays that of the scenario")


def measure(options: Options, session: Session) -> None:
    """Prints the tables."""
    console = session.console
    fleet = load_scenario(LARGEST).tables()
    console.print(
        f"{LARGEST}: {fleet.num_accelerators} accelerators, {fleet.num_models} models, "
        f"{slots_per_accelerator(fleet).sum()} slots",
        highlight=False,
    )
    if options.what == "growth":
        growth(console, options.requests)
    else:
        long(console, options.requests, options.users)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("fleets", Options, measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
