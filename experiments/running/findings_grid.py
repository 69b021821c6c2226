"""The grid of `experiments.findings`: its fleets and policies, what is compared in it, and how it is run.

One fleet and one workload, under every engine and at several pressures; each ingredient is the difference between two
policies that differ in nothing else, on the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.policies import ORDERS, contestant_of, policy
from cace_env.policies.built_in import Policy
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import Protocol
from experiments.running.cases import Chosen, PreparedCase, prepared
from experiments.running.contestants import Contrast
from experiments.running.run_folder import Run

BASE: Final = "default"
LEFT_OUT: Final = "qwen2.5-coder-32b-int4"  # fits on no accelerator at the higher pressures
REQUESTS: Final = 2000
ENGINES: Final[Mapping[str, dict[str, Any]]] = {
    "cold-engine": {},
    "safetensors": {},
    "fast-loader": {},
    "sleep-mode": {"host_ram_gb": 400.0, "start": "asleep"},
}
PRESSURES: Final = (1.5, 2.0, 2.7, 3.5)
# What sleeping models leave behind on an accelerator leaves no room for the largest model at more.
SLEEPING_PRESSURES: Final = (1.5, 1.75, 2.0, 2.25)
PREFETCHES: Final = REQUESTS  # as many as there are requests: in effect without a limit


def _patient(name: str, order: str, patience_s: float, victims: str = "lru") -> Policy:
    """A policy whose order waits for an idle victim for so long."""
    return replace(policy(victims), name=name, order=replace(ORDERS[order], patience_s=patience_s))


VERY_PATIENT: Final = _patient("fifo-120s+lru", "fifo", 120.0)
# Under each protocol, the policies that some contrast needs.
CONTESTANTS: Final[Mapping[Protocol, tuple[str | Policy, ...]]] = {
    Protocol.EVICTION: ("lru", "gdsf", "rate-load-size", "cace", "cace-output-kept", "omlx", "belady", "belady-cost"),
    Protocol.SWAP: (
        "fifo+lru",
        "patient-fifo+lru",
        VERY_PATIENT,
        "llama-swap+lru",
        "fifo-any-victim+lru",
        "shortest-load+lru",
        "wsjf+lru",
        "patient-wsjf+lru",
        "very-patient-wsjf+lru",
        "prefetch-wsjf+lru",
        "very-patient-wsjf+gdsf",
        "very-patient-wsjf+omlx",
    ),
}


KEPT: Final = ("cost", "ttft_mean_s", "longest_wait_s", "drains", "prefetches")  # metrics that the page is about


CONTRASTS: Final[Mapping[str, tuple[Contrast, ...]]] = {
    "Victims": (
        Contrast("GDSF for LRU", "gdsf", "lru", Protocol.EVICTION),
        Contrast("rate x load / size for LRU", "rate-load-size", "lru", Protocol.EVICTION),
        Contrast("omlx for LRU", "omlx", "lru", Protocol.EVICTION),
        Contrast("CACE for LRU", "cace", "lru", Protocol.EVICTION),
        Contrast("CACE, long answers kept, for LRU", "cace-output-kept", "lru", Protocol.EVICTION),
        Contrast("Belady for LRU", "belady", "lru", Protocol.EVICTION),
        Contrast("Belady, cost-aware, for LRU", "belady-cost", "lru", Protocol.EVICTION),
    ),
    "Order": (
        Contrast("WSJF for FIFO, nobody waits for idle victims", "wsjf+lru", "fifo+lru"),
        Contrast("shortest load for FIFO, nobody waits", "shortest-load+lru", "fifo+lru"),
        Contrast("WSJF for FIFO, both wait up to 30 s", "patient-wsjf+lru", "patient-fifo+lru"),
        Contrast("WSJF for FIFO, both wait up to 120 s", "very-patient-wsjf+lru", VERY_PATIENT.name),
    ),
    "Waiting for an idle victim": (
        Contrast("30 s instead of draining at once", "patient-fifo+lru", "fifo+lru"),
        Contrast("120 s instead of draining at once", VERY_PATIENT.name, "fifo+lru"),
        Contrast("for ever (llama-swap)", "llama-swap+lru", "fifo+lru"),
        Contrast("idle victims first, for all alike", "fifo+lru", "fifo-any-victim+lru"),
    ),
    "Prefetch": (Contrast("with prefetch, under WSJF that waits up to 30 s", "prefetch-wsjf+lru", "patient-wsjf+lru"),),
    "All together": (
        Contrast("WSJF, 120 s, GDSF for FIFO, at once, LRU", "very-patient-wsjf+gdsf", "fifo+lru"),
        Contrast("WSJF, 120 s, GDSF for Eviction-v0 with LRU", "very-patient-wsjf+gdsf", "patient-fifo+lru"),
        Contrast("WSJF, 120 s, omlx for Eviction-v0 with LRU", "very-patient-wsjf+omlx", "patient-fifo+lru"),
    ),
}


# The same questions on the entries of a suite in Swap-v0, where "lru" loads by FIFO and drains at once.
SUITE_CONTRASTS: Final = (
    Contrast("wait 30 s instead of draining at once", "patient-fifo+lru", "lru"),
    Contrast("wait for ever", "llama-swap+lru", "lru"),
    Contrast("WSJF for FIFO, nobody waits", "wsjf+lru", "lru"),
    Contrast("WSJF for FIFO, both wait up to 30 s", "patient-wsjf+lru", "patient-fifo+lru"),
    Contrast("GDSF for LRU, FIFO that waits up to 30 s", "patient-fifo+gdsf", "patient-fifo+lru"),
    Contrast("WSJF, 120 s, GDSF for Eviction-v0 with LRU", "very-patient-wsjf+gdsf", "patient-fifo+lru"),
    Contrast("reference for Eviction-v0 with LRU", "reference", "patient-fifo+lru"),
)


class Cell(NamedTuple):
    """One fleet of the grid."""

    engine: str
    pressure: float

    @property
    def name(self) -> str:
        return f"{self.engine} at {self.pressure:g}"


CELLS: Final = tuple(
    Cell(engine, pressure)
    for engine in ENGINES
    for pressure in (SLEEPING_PRESSURES if engine == "sleep-mode" else PRESSURES)
)


def scenario_of(cell: Cell) -> Scenario:
    """The base scenario with the engine and the pressure of a cell, fewer requests, and without its largest model."""
    base = load_scenario(BASE)
    workload = {**base.workload_config.model_dump(mode="json"), "requests": REQUESTS}
    rules = {**base.rules.model_dump(mode="json"), "prefetch_limit": PREFETCHES}
    return base.replace(
        name=cell.name,
        engine=cell.engine,
        pressure=cell.pressure,
        catalogue=[model for model in base.catalogue if model != LEFT_OUT],
        workload=workload,
        rules=rules,
        **ENGINES[cell.engine],
    )


# (cell, protocol, policy) -> metric -> (seeds,)
Results = Mapping[tuple[str, Protocol, str], Mapping[str, npt.NDArray[np.float64]]]


def grid_cases(seeds: Sequence[int]) -> list[PreparedCase]:
    """Every cell in both environments, with the policies that some contrast needs."""
    cases: list[PreparedCase] = []
    for cell in CELLS:
        scenario = scenario_of(cell)
        for protocol, policies in CONTESTANTS.items():
            chosen = Chosen(case_name(cell, protocol), scenario, protocol)
            cases += prepared([chosen], [contestant_of(one) for one in policies], seeds)
    return cases


def case_name(cell: Cell, protocol: Protocol) -> str:
    """Under which a cell stands in the run folder."""
    return f"{cell.name} ({protocol})"


def read_results(run: Run) -> Results:
    """The metrics of `KEPT` by cell, protocol and policy, in the order of the seeds.

    Raises:
        ConfigError: a run of another grid, or one that did not finish.
    """
    found: dict[tuple[str, Protocol, str], Mapping[str, npt.NDArray[np.float64]]] = {}
    for cell in CELLS:
        for protocol, policies in CONTESTANTS.items():
            for name in (contestant_of(one).name for one in policies):
                columns = run.columns.get((case_name(cell, protocol), name))
                if columns is None:
                    raise ConfigError(f"{run.path} has no {cell.name} / {protocol} / {name}; it is of another grid")
                found[cell.name, protocol, name] = {metric: columns[metric] for metric in KEPT}
    counts = {len(columns["cost"]) for columns in found.values()}
    if len(counts) > 1 or any(np.isnan(columns["cost"]).any() for columns in found.values()):
        raise ConfigError(f"{run.path} has not all seeds of every cell; the same command with --out goes on with it")
    return found
