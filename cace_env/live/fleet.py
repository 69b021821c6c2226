"""A fleet of real servers: written down by its owner, and as it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.fleets.rewards import REWARDS
from cace_env.live.backends.base import Backend
from cace_env.live.mirror import live_tables
from cace_env.tables import NONE, FleetTables, Protocol, TableError

MOST_GB: Final = 1e6
MOST_S: Final = 1e6


class LiveAccelerator(Frozen):
    """One accelerator, and the server that has it to itself."""

    name: str = Field(min_length=1, description="its name")
    memory_gb: float = Field(gt=0, le=MOST_GB, description="what models may take [GB, 10^9 bytes]")
    backend: str = Field(min_length=1, description="KIND:WHERE of its server, such as llama.cpp:http://127.0.0.1:8080")


class LiveModel(Frozen):
    """One model. What only policies read is marked; a rule that does not use it needs no exact number."""

    name: str = Field(min_length=1, description="as clients call it")
    server_name: str | None = Field(default=None, min_length=1, description="as the servers call it; default: name")
    need_gb: float = Field(gt=0, le=MOST_GB, description="memory it takes when loaded: weights, KV cache, runtime [GB]")
    weights_gb: float | None = Field(default=None, gt=0, le=MOST_GB, description="weights [GB]; default: need_gb")
    kv_tokens: int = Field(default=32_768, ge=2, le=1 << 24, description="room for prompts and answers [tokens]")
    seats: int = Field(default=4, ge=1, le=4096, description="requests that its server gets at once")
    load_s: float = Field(gt=0, le=MOST_S, description="a load from disk takes [s] (policies)")
    host_load_s: float | None = Field(
        default=None, gt=0, le=MOST_S, description="a load from host RAM [s]; default: load_s (policies)"
    )
    decode_ms: float = Field(default=20.0, gt=0, le=1e5, description="per output token, running alone [ms] (policies)")
    pinned_on: str | None = Field(default=None, description="accelerator that it never leaves")


class LiveFleet(Frozen):
    """What the router drives. Every server can load every model."""

    accelerators: tuple[LiveAccelerator, ...] = Field(min_length=1, max_length=64, description="and their servers")
    models: tuple[LiveModel, ...] = Field(min_length=1, max_length=256, description="that are served")
    host_ram_gb: float = Field(default=0.0, ge=0, le=MOST_GB, description="room for weights in host RAM [GB]")
    placement: Literal["spread", "pack"] = Field(
        default="spread", description="which accelerator that fits: most or least memory left over"
    )
    drain_after_s: float = Field(
        default=30.0, ge=0, le=1e9, description="pending time after which busy models may be chosen [s] (Eviction-v0)"
    )
    reward: Literal["balanced", "ttft", "e2e"] = Field(default="balanced", description="weights of the tasks")

    def tables(self, protocol: Protocol = Protocol.EVICTION) -> FleetTables:
        """The fleet in the form that the simulator and policies read.

        Raises:
            ConfigError: a model is pinned to an accelerator that is not there, names are not unique, or a model fits
                nowhere.
        """
        models, places = self.models, [place.name for place in self.accelerators]
        for model in models:
            if model.pinned_on is not None and model.pinned_on not in places:
                raise ConfigError(f"model {model.name!r} is pinned on {model.pinned_on!r}; there are {places}")
        shape = (len(places), len(models))

        def ints(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.int64]]:
            return np.array([round(value) for value in values], dtype=np.int64)

        def everywhere(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.int64]]:
            return np.broadcast_to(ints(values), shape).copy()

        disk_us = [1e6 * model.load_s for model in models]
        host_us = [1e6 * (model.host_load_s or model.load_s) for model in models]
        nothing = np.zeros(shape, dtype=np.int64)
        tables = FleetTables(
            accelerator_names=tuple(places),
            model_names=tuple(model.name for model in models),
            memory_bytes=ints([1e9 * place.memory_gb for place in self.accelerators]),
            need_bytes=ints([1e9 * model.need_gb for model in models]),
            weights_bytes=ints([1e9 * min(model.weights_gb or model.need_gb, model.need_gb) for model in models]),
            residual_bytes=np.zeros(len(models), dtype=np.int64),
            kv_tokens=ints([model.kv_tokens for model in models]),
            max_num_seqs=ints([model.seats for model in models]),
            chunk_tokens=np.full(len(models), 512, dtype=np.int64),
            load_us=np.stack([everywhere(host_us), everywhere(disk_us)], axis=-1),
            unload_us=nothing + 1,
            round_ns=everywhere([1e6 * model.decode_ms for model in models]),
            decode_ns=nothing,
            kv_ps=nothing,
            prefill_ns=nothing,
            attention_ps=nothing,
            pinned_on=ints([NONE if model.pinned_on is None else places.index(model.pinned_on) for model in models]),
            resident_on=np.full(len(models), NONE, dtype=np.int64),
            asleep_on=np.full(len(models), NONE, dtype=np.int64),
            host_cached=np.zeros(len(models), dtype=np.bool_),
            host_cache_bytes=round(1e9 * self.host_ram_gb),
            cost=REWARDS[self.reward].table(),
            placement=self.placement,
            protocol=protocol,
            drain_after_us=round(1e6 * self.drain_after_s),
            label="live",
        )
        return _checked(tables)

    @property
    def server_names(self) -> dict[str, str]:
        """What the servers call each model."""
        return {model.name: model.server_name or model.name for model in self.models}


async def resident_now(
    tables: FleetTables, backends: Sequence[Backend], names: Mapping[str, str] | None = None
) -> FleetTables:
    """The fleet as it is: what the servers have loaded is resident, and pinned models are loaded where they are not.

    A model takes what the tables say, or what its server says if that is more.

    Raises:
        ConfigError: a server lacks a model, has one loaded that is not of this fleet, or the fleet does not fit.
        BackendError: a server does not answer, or a pinned model does not load.
    """
    found = await _found(tables, backends, names)
    called, resident = [(names or {}).get(name, name) for name in tables.model_names], found.resident_on.copy()
    for m in np.flatnonzero(tables.pinned_on != NONE).tolist():
        if resident[m] not in (NONE, tables.pinned_on[m]):
            raise ConfigError(f"model {called[m]!r} is loaded on another accelerator than it is pinned to; unload it")
        await backends[tables.pinned_on[m]].load(called[m])
        resident[m] = NONE
    return _checked(found.replace(resident_on=resident))


async def found_now(
    tables: FleetTables, backends: Sequence[Backend], names: Mapping[str, str] | None = None
) -> FleetTables:
    """As `resident_now`, but the servers are only asked: pinned models are taken to be where they are pinned.

    Raises:
        ConfigError, BackendError: see there.
    """
    found = await _found(tables, backends, names)
    return _checked(found.replace(resident_on=np.where(tables.pinned_on != NONE, NONE, found.resident_on)))


async def _found(tables: FleetTables, backends: Sequence[Backend], names: Mapping[str, str] | None) -> FleetTables:
    """What the servers have loaded, pinned or not: not checked yet."""
    if len(backends) != tables.num_accelerators:
        raise ConfigError(
            f"the fleet has {tables.num_accelerators} accelerators, and {len(backends)} backends are given; give one "
            "for each, in their order"
        )
    called = [(names or {}).get(name, name) for name in tables.model_names]
    resident = np.full(tables.num_models, NONE, dtype=np.int64)
    need = tables.need_bytes.copy()
    for a, backend in enumerate(backends):
        place = tables.accelerator_names[a]
        found = {model.name: model for model in await backend.models()}
        if missing := [name for name in called if name not in found]:
            raise ConfigError(f"the server of {place!r} has no model {missing[0]!r}; its models are {sorted(found)}")
        for name, model in found.items():
            there = model.state in ("resident", "loading")
            if there and name not in called:
                raise ConfigError(f"the server of {place!r} has {name!r} loaded, which is not of this fleet; unload it")
            if name in called and model.memory_bytes is not None:
                need[called.index(name)] = max(need[called.index(name)], model.memory_bytes)
            if there and resident[called.index(name)] != NONE:
                raise ConfigError(f"model {name!r} is loaded on two accelerators; unload one")
            if there:
                resident[called.index(name)] = a
    asleep = np.full_like(resident, NONE)
    return live_tables(tables.replace(resident_on=resident, asleep_on=asleep, need_bytes=need))


def _checked(tables: FleetTables) -> FleetTables:
    try:
        tables.validate()
    except TableError as error:
        raise ConfigError(str(error)) from error
    return tables
