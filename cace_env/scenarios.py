"""Scenarios: a named fleet, engine, catalogue, workload and reward, as one strict configuration.

Start with `load_scenario("default")`; `docs/scenarios.md` lists every key. `Scenario.tables` tabulates the fleet and
`Scenario.workload(seed)` draws the requests; the seeds of training, validation and test are fixed in `SEEDS`, the same
for every scenario.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, SupportsIndex

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from cace_env.config import ConfigError, Frozen, Line, Name, did_you_mean, parse, read_yaml, shown
from cace_env.fleets import ENGINES, GPUS, MODELS, REWARDS, Reward, tabulate
from cace_env.fleets.catalogue import CHUNK_TOKENS, MAX_NUM_SEQS, RUNTIME_GB, CodeModel
from cace_env.fleets.measured import Measured
from cace_env.fleets.rules import Rules
from cace_env.fleets.tabulation import GB, Accelerator, HostedModel, paces_ns, reserve, weights_bytes
from cace_env.generator import ServedModel, WorkloadConfig, generate
from cace_env.sessions import again_of, load_survival
from cace_env.tables import FOREVER, FleetTables, TableError
from cace_env.traces import TraceConfig, load_config
from cace_env.workload import Workload

Split = Literal["train", "validation", "test"]
SEEDS: Final[dict[Split, range]] = {
    "train": range(
        1_000_000
    ),  # contains the small seeds that users type, so that test seeds are not trained on by accident
    "validation": range(1_000_000, 1_000_100),
    "test": range(2_000_000, 2_000_100),
}

# Small enough to solve, and chosen so that policies differ: it says nothing about other scenarios.
FOR_DEBUGGING: Final = ("tiny",)
LARGE: Final = ("fleet-64", "fleet-256")  # a second an episode: they stand in no comparison unless they are named

MOST_GB: Final = 1e6  # of anything
MOST_TOKENS: Final = 1 << 31
MOST_MODELS: Final = 4096

Task = Literal["completion", "chat", "reasoning", "agent"]


def seeds(split: Split, n: int | None = None) -> range:
    """The first `n` seeds of a split, all by default (test: exactly 100).

    Raises:
        ConfigError: there is no such split, or it has fewer than `n` seeds.
    """
    known = SEEDS.get(split)
    if known is None:
        raise ConfigError(f"no seeds called {shown(split)}; the splits are {', '.join(SEEDS)}")
    n = len(known) if n is None else n
    if not isinstance(n, SupportsIndex) or not 1 <= operator.index(n) <= len(known):
        raise ConfigError(f"{shown(n)} {split} seeds were asked for; there are 1 to {len(known)}")
    return known[:n]


def _known(rows: Mapping[str, object], what: str) -> AfterValidator:
    """Validator that checks a name against the rows, and suggests the closest one."""

    def check(name: str) -> str:
        if name not in rows:
            raise ValueError(f"no such {what}{did_you_mean(name, rows)}; known are {', '.join(sorted(rows))}")
        return name

    return AfterValidator(check)


class Accelerators(Frozen):
    """GPUs of one kind."""

    gpu: Annotated[str, _known(GPUS, "GPU")] = Field(description="name in the catalogue")
    count: int = Field(default=1, ge=1, le=1024, description="how many")
    memory_gb: float | None = Field(default=None, gt=0, le=MOST_GB, description="memory of each [GB]; default: its own")
    load_slowdown: float = Field(
        default=1.0, ge=1, le=1000, description="how many times longer a round takes beside a load"
    )


ModelName = Annotated[str, _known(MODELS, "model")]
RewardName = Annotated[str, _known(REWARDS, "reward preset")]


def _by_type(text: str, other: str) -> Discriminator:
    """Tell names (text) from explicit sections, to get one error message instead of one per alternative."""
    return Discriminator(lambda value: text if isinstance(value, str) else other)


class Hosted(Frozen):
    """One model of the fleet; a plain name in YAML stands for `{model: name}`."""

    model: ModelName = Field(description="name in the catalogue")
    name: str | None = Field(default=None, min_length=1, description="its name here, if a model is hosted twice")
    copies: int = Field(default=1, ge=1, le=MOST_MODELS, description="so many fine-tunes of it, named -1, -2, ...")
    tasks: tuple[Task, ...] | None = Field(default=None, min_length=1, description="its tasks; default: catalogue")
    languages: tuple[Line, ...] = Field(default=(), description="programming languages it is good at; none = all")
    popularity: float = Field(
        default=1.0, gt=0, le=1e9, description="hint: models are ranked by it; ties are drawn per seed"
    )
    kv_tokens: int | None = Field(
        default=None, ge=1, le=MOST_TOKENS, description="size of its KV cache; default: by its tasks"
    )
    reserve_gb: float | None = Field(
        default=None, gt=0, le=MOST_GB, description="KV cache and runtime [GB], instead of kv_tokens"
    )
    max_num_seqs: int = Field(default=int(MAX_NUM_SEQS.value), ge=1, le=4096, description="seats")
    chunk_tokens: int = Field(
        default=int(CHUNK_TOKENS.value), ge=1, le=MOST_TOKENS, description="prefill tokens per round"
    )
    pinned_on: int | None = Field(default=None, ge=0, description="accelerator that it never leaves")
    resident_on: int | None = Field(default=None, ge=0, description="accelerator it is on at time 0")
    asleep_on: int | None = Field(default=None, ge=0, description="accelerator it sleeps on at time 0 (sleep-mode)")
    cached: bool = Field(default=False, description="its weights are in host RAM at time 0; implied by asleep_on")
    measured: Measured | None = Field(default=None, description="coefficients of one's own; see experiments.calibrate")

    @property
    def row(self) -> CodeModel:
        """The row of the catalogue, with the entry's own tasks and measured weights."""
        row = MODELS[self.model] if self.tasks is None else dataclasses.replace(MODELS[self.model], tasks=self.tasks)
        return row if self.measured is None else dataclasses.replace(row, weights_gb=self.measured.weights_gb)

    @property
    def each(self) -> list[Hosted]:
        """The entry, or its copies under names of their own."""
        names = [f"{self.name or self.model}-{number}" for number in range(1, self.copies + 1)]
        return [self.model_copy(update={"copies": 1, "name": name}) for name in names] if self.copies > 1 else [self]

    @property
    def in_host_ram(self) -> bool:
        """Whether the entry itself puts the weights there."""
        return self.cached or self.asleep_on is not None

    @property
    def is_anywhere(self) -> bool:
        """Whether the entry names its accelerator, awake or asleep."""
        return any(place is not None for place in (self.pinned_on, self.resident_on, self.asleep_on))

    def check_places(self, num_accelerators: int) -> None:
        """Check that the fleet has the entry's accelerators.

        Raises:
            ConfigError: it does not; the message names the key and the accelerators of the fleet.
        """
        for key in ("pinned_on", "resident_on", "asleep_on"):
            place = getattr(self, key)
            if place is not None and place >= num_accelerators:
                last = num_accelerators - 1
                raise ConfigError(f"model {self.model!r}: {key} is {place}; the fleet has accelerators 0 to {last}")


class Scenario(Frozen):
    """A fleet, its models, its workload and the cost of waiting. Made by `load_scenario`, or in Python."""

    # The key is `workload`, but the method that draws a workload has that name.
    model_config = ConfigDict(serialize_by_alias=True)

    name: Name = Field(description="name, of letters, digits, spaces and . _ + - ( ); files are called by it")
    version: int = Field(default=1, ge=1, description="raised whenever results change")
    description: str = Field(default="", description="what is special about it")
    question: str = Field(default="", description="a question of someone who deploys such a fleet")
    fleet: tuple[Accelerators, ...] = Field(min_length=1, max_length=64, description="GPUs, in order of their indices")
    pressure: float | None = Field(
        default=None,
        ge=1e-3,
        description="needs of all unpinned models over the memory left for them; scales the memory of all GPUs",
    )
    engine: Annotated[str, _known(ENGINES, "engine")] = Field(default="safetensors", description="load regime")
    host_ram_gb: float = Field(default=0.0, ge=0, le=MOST_GB, description="host cache for weights [GB]; 0 = none")
    runtime_gb: float = Field(
        default=RUNTIME_GB.value, ge=0, le=MOST_GB, description="part of each reserve that is not KV cache [GB]"
    )
    start: Literal["empty", "cached", "asleep"] = Field(
        default="empty",
        description="at time 0: only what the models say; or also weights in host RAM, in catalogue order where they "
        "fit; or also every other model asleep, accelerator by accelerator in turn (sleep-mode)",
    )
    catalogue: tuple[
        Annotated[Annotated[ModelName, Tag("name")] | Annotated[Hosted, Tag("model")], _by_type("name", "model")], ...
    ] = Field(min_length=1, max_length=MOST_MODELS, description="models, in the order of their indices")
    workload_config: WorkloadConfig = Field(
        default=WorkloadConfig(), alias="workload", description="who asks for what, and when"
    )
    trace: TraceConfig | None = Field(
        default=None,
        description="a log that takes the workload's place; the seed draws data that the log lacks",
    )
    reward: Annotated[
        Annotated[RewardName, Tag("preset")] | Annotated[Reward, Tag("weights")], _by_type("preset", "weights")
    ] = Field(default="balanced", description="a preset (ttft, e2e, balanced) or explicit weights")
    rules: Rules = Field(default=Rules(), description="rules of the simulator")
    sessions: Line | None = Field(default=None, description="file of `experiments.sessions`; default: that which ships")

    @model_validator(mode="after")
    def _can_be_simulated(self) -> Self:
        if len(self.entries) > MOST_MODELS:
            raise ValueError(f"the catalogue has {len(self.entries)} models with all copies; at most {MOST_MODELS}")
        if self.start == "asleep" and ENGINES[self.engine].residual_gb.value == 0:
            raise ValueError(f"start is asleep, but nothing sleeps under engine {self.engine!r}; use sleep-mode")
        try:
            self.tables()
        except TableError as error:
            if self.pressure is None:
                raise
            raise ValueError(f"at pressure {self.pressure}: {error}; or lower the pressure") from error
        return self

    def tables(self) -> FleetTables:
        """Make the integer tables of the fleet, validated. It takes a few milliseconds, so keep the result.

        Raises:
            TableError: the fleet cannot be simulated; existing scenarios have been checked.
        """
        models = self._hosted_models()
        return tabulate(
            self._accelerators(models),
            models,
            ENGINES[self.engine],
            self.costs().table(),
            host_ram_bytes=round(self.host_ram_gb * GB),
            placement=self.rules.placement,
            drain_after_us=math.ceil(self.rules.drain_after_s * 1e6),
            prefetch_limit=self.rules.prefetch_limit,
            prefetch_max_wait_us=math.ceil(self.rules.prefetch_max_wait_s * 1e6),
            whole_rounds=self.rules.whole_rounds,
            max_slots=self.rules.max_slots,
            max_decisions=FOREVER if self.rules.max_decisions is None else self.rules.max_decisions,
            again=None if self.sessions is None else again_of(load_survival(self.sessions)),
            label=self.name,
        )

    def workload_models(self) -> tuple[ServedModel, ...]:
        """The catalogue in the form that the generator reads; speeds are those of the first accelerator."""
        return self.served_models

    def model_copy(self, **how: Any) -> Self:
        """A copy, as pydantic makes it; what is made on demand is made anew."""
        copied = super().model_copy(**how)
        copied.__dict__.pop("served_models", None)
        return copied

    @cached_property  # every episode asks for it
    def served_models(self) -> tuple[ServedModel, ...]:
        """`workload_models`."""
        gpu = GPUS[self.fleet[0].gpu]
        return tuple(
            ServedModel(
                name=hosted.name,
                tasks=hosted.model.tasks,
                kv_tokens=hosted.kv_tokens,
                context_window=hosted.model.context_window,
                weights_gb=hosted.model.weights_gb.value,
                languages=entry.languages,
                popularity=entry.popularity,
                prefill_us_per_token=prefill_ns / 1e3,
                decode_us_per_token=token_ns / 1e3,
            )
            for entry, hosted in zip(self.entries, self._hosted_models(), strict=True)
            for prefill_ns, token_ns in (paces_ns(hosted, gpu),)
        )

    def workload(self, seed: int) -> Workload:
        """Draw the requests of one episode; equal seeds give equal requests for every policy.

        Every seed of a log is the whole log, or its part: the seed draws what is attached to it.

        Raises:
            TraceError: the scenario's log cannot be read.
            WorkloadError: the log is too short for its part or its windows.
        """
        if self.trace is not None:
            return load_config(self.trace, self.workload_models(), seed)
        return generate(self.workload_config, self.workload_models(), seed)

    @property
    def entries(self) -> tuple[Hosted, ...]:
        """The catalogue, with plain names and copies expanded."""
        listed = (Hosted(model=entry) if isinstance(entry, str) else entry for entry in self.catalogue)
        return tuple(one for entry in listed for one in entry.each)

    def costs(self) -> Reward:
        """The cost weights, with presets resolved."""
        return REWARDS[self.reward] if isinstance(self.reward, str) else self.reward

    def replace(self, **changes: Any) -> Scenario:
        """Copy with some keys changed, checked like a new scenario: `scenario.replace(pressure=3.0)`.

        Raises:
            ConfigError: as for `load_scenario`.
        """
        return parse(Scenario, {**self.model_dump(mode="json"), **changes}, f"scenario {self.name!r}")

    def _accelerators(self, models: list[HostedModel]) -> list[Accelerator]:
        """The fleet, with its memory scaled to the pressure."""
        gpus = [(group, GPUS[group.gpu]) for group in self.fleet for _ in range(group.count)]
        memory_gb = [gpu.memory_gb.value if group.memory_gb is None else group.memory_gb for group, gpu in gpus]
        scale = 1.0
        if self.pressure is not None:
            needs = {True: 0, False: 0}  # by pinned
            for hosted in models:
                needs[hosted.pinned_on is not None] += weights_bytes(hosted.model) + hosted.reserve_bytes
            scale = (needs[False] / self.pressure + needs[True]) / (math.fsum(memory_gb) * GB)
        return [
            Accelerator(
                f"{group.gpu}-{index}",
                gpu,
                math.ceil(size_gb * GB * scale),
                load_slowdown=group.load_slowdown,
            )
            for index, ((group, gpu), size_gb) in enumerate(zip(gpus, memory_gb, strict=True))
        ]

    def _hosted_models(self) -> list[HostedModel]:
        """The catalogue with reserves and places at time 0."""
        gpus = sum(group.count for group in self.fleet)
        room_bytes = round(self.host_ram_gb * GB) - sum(weights_bytes(e.row) for e in self.entries if e.in_host_ram)
        sleepers = 0
        models = []
        for entry in self.entries:
            entry.check_places(gpus)
            model = entry.row
            reserve_bytes, kv_tokens = reserve(
                model, kv_tokens=entry.kv_tokens, reserve_gb=entry.reserve_gb, runtime_gb=self.runtime_gb
            )
            if entry.measured is not None:
                reserve_bytes = entry.measured.need_bytes - entry.measured.weights_bytes
            asleep_on, cached = entry.asleep_on, entry.in_host_ram
            if self.start != "empty" and not cached and entry.pinned_on is None and weights_bytes(model) <= room_bytes:
                cached, room_bytes = True, room_bytes - weights_bytes(model)
            if self.start == "asleep" and not entry.is_anywhere:
                asleep_on, sleepers = sleepers % gpus, sleepers + 1
            models.append(
                HostedModel(
                    name=entry.name or entry.model,
                    model=model,
                    reserve_bytes=reserve_bytes,
                    kv_tokens=kv_tokens,
                    max_num_seqs=entry.max_num_seqs,
                    chunk_tokens=entry.chunk_tokens,
                    pinned_on=entry.pinned_on,
                    resident_on=entry.resident_on,
                    asleep_on=asleep_on,
                    cached=cached,
                    measured=entry.measured,
                )
            )
        return models


def scenario_names() -> tuple[str, ...]:
    """Names of the scenarios that ship with the package, sorted."""
    return tuple(sorted(_shipped()))


def compared_scenarios() -> tuple[str, ...]:
    """Names of the scenarios of comparisons by default: all except `FOR_DEBUGGING` and `LARGE`."""
    return tuple(name for name in scenario_names() if name not in (*FOR_DEBUGGING, *LARGE))


def load_scenario(what: str | Path | Mapping[str, Any] | Scenario) -> Scenario:
    """Load a scenario by shipped name, from a YAML file or from a mapping; a `Scenario` is returned as it is.

    Args:
        what: a shipped name, a YAML file, a mapping with the keys of `Scenario`, or a `Scenario`. A string that is
            neither a shipped name nor an existing file nor ends in `.yaml` or `.yml` counts as a misspelt name.

    Raises:
        ConfigError: the name is unknown (the error lists the known ones), or the scenario is not valid, one line per
            problem.
    """
    if isinstance(what, Scenario):
        return what
    if isinstance(what, Mapping):
        return parse(Scenario, dict(what), "scenario")
    shipped = _shipped()
    if isinstance(what, str) and what in shipped:
        with resources.as_file(shipped[what]) as path:
            return parse(Scenario, read_yaml(path), f"scenario {what!r}")
    if isinstance(what, str) and not what.endswith((".yaml", ".yml")) and not os.path.isfile(what):
        known = f"known are {', '.join(shipped)}, or give a YAML file"
        raise ConfigError(f"no scenario called {shown(what)}{did_you_mean(what, shipped)}; {known}")
    return parse(Scenario, read_yaml(what), str(what))


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("cace_env") / "data" / "scenarios"
    files = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    return dict(sorted(files.items()))
