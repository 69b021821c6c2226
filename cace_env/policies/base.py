"""What a built-in policy is, and how it becomes a rule that the kernel runs. The policies are in `policies.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, did_you_mean
from cace_env.kernel import rules
from cace_env.kernel.rules import Rule, parts_read
from cace_env.observation import SLOT
from cace_env.policies.clairvoyant import Future
from cace_env.policies.network import Network
from cace_env.policies.orders import ORDERS, Order
from cace_env.scenarios import seeds
from cace_env.simulation import Limits
from cace_env.simulation.limits import least_max_resident
from cace_env.simulation.scratch import NO_NETWORK
from cace_env.tables import DISK, FOREVER, HOST, FleetTables, Protocol
from cace_env.workload import Workload

FloatArray = npt.NDArray[np.float64]
Training = Callable[[int], Workload]  # seed -> workload: `scenario.workload`

TRAINING_EPISODES: Final = 5  # of which static-best takes the demand
DRAWS: Final = 65_521  # scores of `random`; prime, so that they shift against the slots when they repeat
RANDOM_STREAM: Final = 7  # spawn key of those draws: they depend on the seed, but on nothing else drawn by it


@dataclass(frozen=True)
class Policy:
    """A built-in policy: a rule of the kernel, its numbers, and what must be said about it.

    Attributes:
        name: as in `POLICIES`, or one of your own.
        description: which model is evicted.
        source: where the rule comes from.
        differs: what the system or paper it is named after does otherwise.
        group: its heading in `docs/policies.md`.
        kind: how it scores, one of `cace_env.kernel.rules`.
        weights: as that kind reads them: of raw slot features (`weigh`), of CACE's terms, or seconds of a churn guard.
        values: a keep-score per model: by name, or a function of policy, fleet and training.
        keep_alive_s: idle models leave after it; by model name: those without a name here never do.
        max_resident: most models per accelerator, pinned ones too.
        order: which model it loads first, in Swap-v0; None = `fifo`, and in Eviction-v0 nobody is asked.
        network: of a trained agent, for the kind NETWORK.
        clairvoyant: it needs a `cace_env.policies.Future`.
        trained: it needs the requests of training seeds, which a log does not have.
    """

    name: str
    description: str
    source: str = ""
    differs: str = ""
    group: str = "your own"
    kind: int = rules.FEATURES
    weights: tuple[float, ...] = ()
    values: Mapping[str, float] | Callable[[Policy, FleetTables, Training | None], FloatArray] | None = None
    keep_alive_s: float | Mapping[str, float] | None = None
    max_resident: int | None = None
    order: Order | None = None
    network: Network | None = None
    clairvoyant: bool = False
    trained: bool = False

    @property
    def unloads_by_itself(self) -> bool:
        """Whether models leave without being chosen: it has a keep-alive or a count limit."""
        return self.keep_alive_s is not None or self.max_resident is not None

    def keep_alive_us(self, tables: FleetTables) -> list[int] | None:
        """Keep-alive of each model of the fleet [us], FOREVER = never unloaded; None where the policy has none.

        Raises:
            ConfigError: a time below 0, or of a model that the fleet lacks.
        """
        if self.keep_alive_s is None:
            return None
        times_s = self.keep_alive_s
        if not isinstance(times_s, Mapping):
            times_s = dict.fromkeys(tables.model_names, times_s)
        _check_names(self, "keep_alive_s", times_s, tables)
        for name, time_s in times_s.items():
            if not time_s >= 0:
                raise ConfigError(
                    f"policy {self.name!r}: keep_alive_s of {name!r} is {time_s}; it has to be at least 0"
                )
        return [_microseconds(times_s.get(name, math.inf)) for name in tables.model_names]

    def limits(self, tables: FleetTables) -> Limits:
        """Keep-alive and count limit on a fleet.

        Raises:
            ConfigError: as `keep_alive_us`, or a count limit that leaves some model of the fleet no place.
        """
        least, model = least_max_resident(tables)
        if self.max_resident is not None and self.max_resident < least:
            raise ConfigError(
                f"policy {self.name!r} allows {self.max_resident} models per accelerator, but wherever "
                f"{tables.model_names[model]!r} fits, {least - 1} or more are pinned; allow {least} with "
                f"dataclasses.replace(policy({self.name!r}), max_resident={least}), or pin fewer"
            )
        return Limits(self.keep_alive_us(tables), self.max_resident, (self.order or ORDERS["fifo"]).patience_us)


def weigh(**weights: float) -> tuple[float, ...]:
    """Weights of raw slot features by name, 0 for the others: `weigh(since_use_s=-1.0)` is LRU.

    Raises:
        ConfigError: no such feature.
    """
    row = [0.0] * len(SLOT)
    for name, weight in weights.items():
        if name not in SLOT._fields:
            raise ConfigError(f"no slot feature called {name!r}{did_you_mean(name, SLOT._fields)}")
        row[getattr(SLOT, name)] = weight
    return tuple(row)


def rule_of(
    policy: Policy,
    tables: FleetTables,
    *,
    seed: int = 0,
    workload: Workload | None = None,
    future: Future | None = None,
    training: Training | None = None,
) -> Rule:
    """What the kernel runs.

    Args:
        policy: from `cace_env.policies.policy(name)`.
        tables: the fleet.
        seed: of the episode; `random` draws its scores by it.
        workload: the episode's requests, to check that `future` is theirs.
        future: for clairvoyant policies only, `Future.of(tables, workload)`.
        training: for trained policies only, `scenario.workload`: `static-best` counts the demand of training seeds.
            Where the requests come from a log there are none but those under test, so leave the policy out.

    Raises:
        ConfigError: a clairvoyant policy without a future or with that of another workload, a trained one
            without training, a number missing or for an unknown model, a limit that leaves some model no place, or an
            order where nobody is asked for one.
    """
    no_times = np.zeros(0, dtype=np.int64)
    order, start, nominal_us = no_times, np.zeros(tables.num_models + 1, dtype=np.int64), no_times
    if policy.clairvoyant:
        if future is None:
            raise ConfigError(f"policy {policy.name!r} knows the future; pass future=Future.of(tables, workload)")
        known = len(future.nominal_us)
        if workload is not None and len(workload) != known:
            raise ConfigError(f"the future has {known} requests, the workload {len(workload)}; make it of this one")
        order, start, nominal_us = future.order, future.start, future.nominal_us
    if policy.trained and training is None:
        raise ConfigError(
            f"policy {policy.name!r} needs the demand of training seeds: pass training=scenario.workload; a log has "
            "none apart from the requests under test, so leave the policy out there"
        )
    if policy.network is not None and policy.network.protocol == Protocol.SWAP and tables.protocol != Protocol.SWAP:
        raise ConfigError(f"policy {policy.name!r} was trained for Swap-v0; this is Eviction-v0")
    if policy.order is not None and tables.protocol != Protocol.SWAP:
        raise ConfigError(
            f"policy {policy.name!r} has the order {policy.order.name!r}, and Eviction-v0 asks for none; run it in "
            "Swap-v0, or name the policy without it"
        )
    weights = np.array(policy.weights, dtype=np.float64)
    by_order = (policy.order or ORDERS["fifo"]).row()
    values = _values(policy, tables, seed, training)
    network = NO_NETWORK if policy.network is None else policy.network.compiled
    limits = policy.limits(tables).row(tables)
    return Rule(
        kind=policy.kind,
        reads=parts_read(policy.kind, policy.weights),
        weights=weights,
        values=values,
        limits=limits,
        order=by_order,
        future_order=order,
        future_start=start,
        nominal_us=nominal_us,
        network=network,
    )


def _values(policy: Policy, tables: FleetTables, seed: int, training: Training | None) -> FloatArray:
    """One number per model, or the draws of `random`."""
    if policy.kind == rules.RANDOM:
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RANDOM_STREAM,))).random(DRAWS)
    if isinstance(policy.values, Mapping):
        _check_names(policy, "values", policy.values, tables)
        missing = [name for name in tables.model_names if name not in policy.values]
        if missing:
            raise ConfigError(f"policy {policy.name!r}: values has none for {missing[0]!r}; give one for each model")
        return np.array([policy.values[name] for name in tables.model_names], dtype=np.float64)
    return np.zeros(tables.num_models) if policy.values is None else policy.values(policy, tables, training)


# ---------------------------------------------------------------------------------------------------------------------
# Functions for `Policy.values`


def static_values(policy: Policy, tables: FleetTables, training: Training | None) -> FloatArray:
    """Requests of the training episodes x reload seconds per GB that an eviction frees, `(M,)`.

    The reload is the mean over the accelerators, from the host where it can cache all models at once, else from disk.

    Raises:
        ConfigError: no training.
    """
    if training is None:
        raise ConfigError(f"policy {policy.name!r} needs training requests; declare it with trained=True")
    tier = HOST if tables.weights_bytes.sum() <= tables.host_cache_bytes else DISK
    reload_s: FloatArray = tables.load_us[:, :, tier].mean(axis=0) * 1e-6
    freed_gb = (tables.need_bytes - tables.residual_bytes) * 1e-9
    return (
        np.array(_training_demand(training, tuple(tables.kv_tokens.tolist())), dtype=np.float64) * reload_s / freed_gb
    )


@lru_cache(maxsize=64)
def _training_demand(training: Training, kv_tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Requests per model over the first training seeds, without those that would be refused."""
    counts = np.zeros(len(kv_tokens), dtype=np.int64)
    for seed in seeds("train", TRAINING_EPISODES):
        workload = training(seed)
        tokens = workload.context_tokens.astype(np.int64) + workload.output_tokens
        counts += np.bincount(workload.model[tokens <= np.array(kv_tokens)[workload.model]], minlength=len(kv_tokens))
    return tuple(counts.tolist())


def keep_alive_order(policy: Policy, tables: FleetTables, training: Training | None) -> FloatArray:
    """Rank of each model by (keep-alive, name), `(M,)`."""
    del training
    times_us = policy.keep_alive_us(tables) or [FOREVER] * tables.num_models
    order = sorted(range(tables.num_models), key=lambda m: (times_us[m], tables.model_names[m]))
    ranks = np.empty(tables.num_models)
    ranks[order] = np.arange(tables.num_models)
    return ranks


def weights_gb(policy: Policy, tables: FleetTables, training: Training | None) -> FloatArray:
    """Size of each model's weights [GB], `(M,)`."""
    del policy, training
    return np.array(tables.weights_bytes, dtype=np.float64) * 1e-9


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def _check_names(policy: Policy, what: str, by_name: Mapping[str, Any], tables: FleetTables) -> None:
    """Every name is a model of the fleet."""
    for name in by_name:
        if name not in tables.model_names:
            hint = did_you_mean(name, tables.model_names)
            raise ConfigError(f"policy {policy.name!r}: {what} names {name!r}, which is no model of the fleet{hint}")


def _microseconds(time_s: float) -> int:
    return FOREVER if time_s * 1e6 >= FOREVER else math.ceil(time_s * 1e6)
