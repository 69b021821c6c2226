"""The type of built-in policies, and their conversion to rules that the kernel runs. `built_in.py` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

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
from cace_env.tables import DISK, FOREVER, HOST, FleetTables, FloatArray, Protocol
from cace_env.workload import Workload

Training = Callable[[int], Workload]  # seed -> workload: `scenario.workload`

TRAINING_EPISODES: Final = 5  # from which static-best counts the demand
DRAWS: Final = 65_521  # scores of `random`; prime, so that repetitions do not line up with the slots
RANDOM_STREAM: Final = 7  # spawn key of those draws: they depend on the seed, but not on its other draws


@dataclass(frozen=True)
class Policy:
    """A built-in policy: a kernel rule, its numbers, and its documentation.

    Attributes:
        name: as in `POLICIES`, or one of your own.
        description: which model is evicted.
        source: where the rule comes from.
        differs: how it differs from the system or paper it is named after.
        group: its heading in `docs/policies.md`.
        kind: how it scores: one of `cace_env.kernel.rules`.
        weights: in the form of that kind: for raw slot features (`weigh`), for CACE's terms, or seconds of a churn
            guard.
        values: a keep-score per model: by name, or a function of policy, fleet and training.
        keep_alive_s: idle models leave after this time; as a mapping by model name, models that it lacks never leave.
        max_resident: most models per accelerator, including pinned ones.
        order: which model it loads first, in Swap-v0; None = `fifo`; Eviction-v0 asks for no order.
        network: network of a trained agent, for the kind NETWORK.
        clairvoyant: whether it needs a `cace_env.policies.Future`.
        trained: whether it needs the requests of training seeds, which a log does not have.
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
        """Whether models can leave without being chosen: the policy has a keep-alive or a count limit."""
        return self.keep_alive_s is not None or self.max_resident is not None

    def keep_alive_us(self, tables: FleetTables) -> list[int] | None:
        """Keep-alive of each model of the fleet [us], FOREVER = never unloaded; None without a keep-alive.

        Raises:
            ConfigError: a time is below 0, or names a model that the fleet lacks.
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
        """Keep-alive and count limit as arrays for a fleet.

        Raises:
            ConfigError: as `keep_alive_us`, or the count limit leaves no place for some model of the fleet.
        """
        if self.max_resident is not None:
            least, model = least_max_resident(tables)
            if self.max_resident < least:
                raise ConfigError(
                    f"policy {self.name!r} allows {self.max_resident} models per accelerator, but wherever "
                    f"{tables.model_names[model]!r} fits, {least - 1} or more are pinned; allow {least} with "
                    f"dataclasses.replace(policy({self.name!r}), max_resident={least}), or pin fewer"
                )
        return Limits(self.keep_alive_us(tables), self.max_resident, (self.order or ORDERS["fifo"]).patience_us)


def weigh(**weights: float) -> tuple[float, ...]:
    """Weights of raw slot features by name, with 0 for the others: `weigh(since_use_s=-1.0)` is LRU.

    Raises:
        ConfigError: there is no such feature.
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
    """Convert a policy to the rule that the kernel runs.

    Args:
        policy: from `cace_env.policies.policy(name)`.
        tables: the fleet.
        seed: seed of the episode, from which `random` draws its scores.
        workload: the episode's requests, to check that `future` belongs to them.
        future: for clairvoyant policies only, `Future.of(tables, workload)`.
        training: for trained policies only, `scenario.workload`: `static-best` counts the demand of training seeds.
            Requests from a log have no training seeds, so leave the policy out there.

    Raises:
        ConfigError: a clairvoyant policy has no future or that of another workload, a trained one has no training, a
            number is missing or names an unknown model, a limit leaves no place for some model, or the policy has an
            order in Eviction-v0.
    """
    no_times = np.zeros(0, dtype=np.int64)
    order, start, nominal_us = no_times, np.zeros(tables.num_models + 1, dtype=np.int64), no_times
    if policy.clairvoyant:
        if future is None:
            raise ConfigError(f"policy {policy.name!r} needs the future; pass future=Future.of(tables, workload)")
        known = len(future.nominal_us)
        if workload is not None and len(workload) != known:
            raise ConfigError(f"the future has {known} requests, the workload {len(workload)}; make it from this one")
        order, start, nominal_us = future.order, future.start, future.nominal_us
    if policy.trained and training is None:
        raise ConfigError(
            f"policy {policy.name!r} needs the demand of training seeds: pass training=scenario.workload; a log has no "
            "training seeds, so leave the policy out there"
        )
    if policy.network is not None and policy.network.protocol == Protocol.SWAP and tables.protocol != Protocol.SWAP:
        raise ConfigError(f"policy {policy.name!r} was trained for Swap-v0; this is Eviction-v0")
    if policy.order is not None and tables.protocol != Protocol.SWAP:
        raise ConfigError(
            f"policy {policy.name!r} has the order {policy.order.name!r}, but Eviction-v0 does not ask for one; use "
            "Swap-v0, or name the policy without its order"
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
    """One number per model, or the random numbers of `random`."""
    if policy.kind == rules.RANDOM:
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RANDOM_STREAM,))).random(DRAWS)
    if isinstance(policy.values, Mapping):
        _check_names(policy, "values", policy.values, tables)
        missing = [name for name in tables.model_names if name not in policy.values]
        if missing:
            raise ConfigError(f"policy {policy.name!r}: values lacks {missing[0]!r}; give one value per model")
        return np.array([policy.values[name] for name in tables.model_names], dtype=np.float64)
    return np.zeros(tables.num_models) if policy.values is None else policy.values(policy, tables, training)


# ---------------------------------------------------------------------------------------------------------------------
# Functions for `Policy.values`


def static_values(policy: Policy, tables: FleetTables, training: Training | None) -> FloatArray:
    """Requests of the training episodes x reload seconds per GB that an eviction frees, `(M,)`.

    The reload is the mean over the accelerators, from the host where it can cache all models at once, else from disk.

    Raises:
        ConfigError: `training` is None.
    """
    if training is None:
        raise ConfigError(f"policy {policy.name!r} needs training requests; create it with trained=True")
    tier = HOST if tables.weights_bytes.sum() <= tables.host_cache_bytes else DISK
    reload_s: FloatArray = tables.load_us[:, :, tier].mean(axis=0) * 1e-6
    freed_gb = (tables.need_bytes - tables.residual_bytes) * 1e-9
    return (
        np.array(_training_demand(training, tuple(tables.kv_tokens.tolist())), dtype=np.float64) * reload_s / freed_gb
    )


@lru_cache(maxsize=64)
def _training_demand(training: Training, kv_tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Requests per model over the first training seeds, without refused requests."""
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
    """Check that every name is a model of the fleet."""
    for name in by_name:
        if name not in tables.model_names:
            hint = did_you_mean(name, tables.model_names)
            raise ConfigError(f"policy {policy.name!r}: {what} names {name!r}, which is not a model of the fleet{hint}")


def _microseconds(time_s: float) -> int:
    return FOREVER if time_s * 1e6 >= FOREVER else math.ceil(time_s * 1e6)
