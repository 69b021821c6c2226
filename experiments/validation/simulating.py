"""The same requests in the simulator, with coefficients as measured, and moved by as much as they are uncertain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.live.calibration import Calibration, Sample, fit_model
from cace_env.live.decider import decides
from cace_env.policies import Contestant, Guarded, Player, contestant_of
from cace_env.policies.built_in import Policy
from cace_env.policies.python import PythonPolicy
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables, FloatArray, Protocol
from cace_env.workload import Workload
from experiments.calibration.outputs import Sizes, scenario_of

LEAST: Final = 0.01  # of the deviation of anything: two calibrations may agree by chance
BUSIEST: Final = 0.6  # share of the time for which some request may be served: queues, but not without end
PACES: Final = 2.0 ** np.arange(-8, 12, 0.5)
LOADS: Final = ("load_us", "unload_us")
SERVING: Final = ("round_ns", "decode_ns", "batch_ns", "request_ns", "kv_ps", "prefill_ns", "attention_ps")


class Simulated(NamedTuple):
    """One simulation; times in seconds, of each request."""

    ttft_s: list[float]
    e2e_s: list[float]
    evictions: int
    loads: int
    busy: float  # share of the time in which some request is served
    end_s: float


def tables_of(
    samples: Sequence[Sample], sizes: Mapping[str, Sizes], memory_bytes: int, drain_after_s: float
) -> FleetTables:
    """The fleet with coefficients fitted to measurements.

    Args:
        samples: of one calibration or more.
        sizes: by model, in the order of their numbers.
        memory_bytes: of the accelerator.
        drain_after_s: pending time after which busy models may be chosen.
    """
    found = [fit_model(samples, name, size.chunk_tokens) for name, size in sizes.items()]
    return fleet_of(found, sizes, memory_bytes, drain_after_s)


def fleet_of(
    found: Sequence[Calibration], sizes: Mapping[str, Sizes], memory_bytes: int, drain_after_s: float
) -> FleetTables:
    """The same from fits."""
    tables = scenario_of(found, sizes, memory_bytes, "validation").tables()
    return tables.replace(drain_after_us=round(1e6 * drain_after_s))


def unguarded(contestant: Contestant) -> Policy | PythonPolicy:
    """The policy, which decides in the simulator and in the router.

    Raises:
        ConfigError: it is guarded, or cannot decide about real requests.
    """
    who = decides(contestant, Protocol.EVICTION)
    if isinstance(who, Guarded):
        raise ConfigError(f"policy {contestant.name!r}: validate it without its guard")
    return who


def simulate(workload: Workload, tables: FleetTables, name: str) -> Simulated:
    """The workload under a policy, nothing resident at the beginning.

    Raises:
        ConfigError: the policy cannot play here.
    """
    contestant = contestant_of(name)
    player = Player(
        name, unguarded(contestant), tables, workload, 0, order=contestant.order, illegal=contestant.illegal
    )
    simulator = Simulator(tables, player.limits)
    asked = simulator.reset(workload)
    while asked:
        asked = simulator.answer(player.answer(simulator)[0])
    episode = simulator.episode()
    if episode.refused.any():
        raise ConfigError(f"workload {workload.label!r}: {episode.refused.sum()} requests are longer than a KV cache")
    return Simulated(
        ((episode.first_token_us - episode.arrival_us) * 1e-6).tolist(),
        ((episode.finish_us - episode.arrival_us) * 1e-6).tolist(),
        episode.evictions,
        episode.loads,
        float(episode.busy_us[0] / episode.end_us),
        episode.end_us * 1e-6,
    )


def pace_for(draw: Any, tables: FleetTables, policies: Sequence[str]) -> float:
    """How long pauses have to be: the least pace of a grid at which no policy's accelerator is too busy.

    Args:
        draw: the workload at a pace.
        tables: the fleet.
        policies: that will be played.
    """
    for pace in PACES.tolist():
        if all(simulate(draw(pace), tables, policy).busy <= BUSIEST for policy in policies):
            return float(pace)
    raise ConfigError("no pauses are long enough for these models: ask for fewer tokens by --scale")


class Jitter(NamedTuple):
    """How uncertain coefficients and pauses are: standard deviations of logarithms, and delays to draw from."""

    loads: float  # of all models together
    serving: float
    loads_own: float  # of each model for itself
    serving_own: float
    late_us: list[int]  # by how much clients asked later than they should have


def jitter_of(moved: Mapping[str, FloatArray], late_s: Sequence[float]) -> Jitter:
    """The measured size.

    Args:
        moved: by kind (see `judging.moved`), what changed between two calibrations, per model, as a logarithm.
        late_s: of clients.
    """

    def split(kinds: Sequence[str]) -> tuple[float, float]:
        """Two measurements that are d apart have the standard deviation d / sqrt(2)."""
        values = [moved[kind] for kind in kinds if kind in moved]
        if not values:
            return LEAST, LEAST
        together = float(np.mean([abs(value.mean()) for value in values])) / math.sqrt(2)
        own = float(np.sqrt(np.mean([np.mean((value - value.mean()) ** 2) for value in values]))) / math.sqrt(2)
        return max(LEAST, together), max(LEAST, own)

    (loads, loads_own), (serving, serving_own) = split(["load", "unload"]), split(["token", "prompt"])
    late_us = [max(0, round(1e6 * late)) for late in late_s] or [0]
    return Jitter(loads, serving, loads_own, serving_own, late_us)


def jittered(
    workload: Workload, tables: FleetTables, jitter: Jitter, rng: np.random.Generator
) -> tuple[Workload, FleetTables]:
    """The same with coefficients and pauses as they might have been."""
    models, changes = tables.num_models, {}
    for names, together, own in (
        (LOADS, jitter.loads, jitter.loads_own), (SERVING, jitter.serving, jitter.serving_own)
    ):  # fmt: skip
        factor = np.exp(together * rng.standard_normal() + own * rng.standard_normal(models))
        for name in names:
            column = getattr(tables, name)
            by_model = factor.reshape((1, models) + (1,) * (column.ndim - 2))
            changes[name] = np.maximum(np.rint(column * by_model), name == "load_us").astype(np.int64)
    late = np.where(workload.after >= 0, rng.choice(jitter.late_us, len(workload)), 0)
    columns = {name: getattr(workload, name) for name in _COLUMNS} | {"think_us": workload.think_us + late}
    return Workload.from_columns(label=workload.label, **columns), tables.replace(**changes)


_COLUMNS: Final = (
    "arrival_us", "after", "model", "task", "context_tokens", "new_tokens", "output_tokens", "user", "session"
)  # fmt: skip
