"""Suites: versioned lists of scenarios on which policies are scored, so that scores are comparable.

`load_suite("v1")` is the suite that ships; `docs/suite.md` shows every policy on it. An entry is a shipped scenario, or
one with some keys changed, in one environment. A suite never changes once it is published: its results would not be
comparable. A better choice of scenarios is a new version beside the old one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import Field, model_validator

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, Frozen, did_you_mean, load, parse, shown
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import NONE, CostTable, FleetTables, Protocol, unmeasured

PROSE: Final = ("name", "description", "question")  # keys of a scenario that change no result
TINY: Final = "tiny-v1"  # the suite of the scenario for debugging, whose reference is the optimum
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
# A shipped scenario by name, or {base: NAME, ...}: that one with keys of `Scenario` changed.
ScenarioChoice = str | dict[str, Any]


class Entry(Frozen):
    """One scenario of a suite."""

    id: Name = Field(description="its name in results")
    env: Protocol = Field(description="environment: " + " or ".join(Protocol))
    scenario: ScenarioChoice = Field(description="a shipped scenario by name, or {base: NAME, key: value, ...}")
    question: str = Field(min_length=1, description="a question of someone who deploys such a fleet")

    @property
    def short(self) -> str:
        """Its id without the environment, where it begins with that."""
        return self.id.removeprefix(f"{self.env}-")

    def load(self) -> Scenario:
        """Load the scenario, named after the entry.

        Raises:
            ConfigError: there is no such scenario, or its changes are not valid.
        """
        return _changed(self.scenario, {"name": self.id, "question": self.question}, f"entry {self.id!r}")

    def case(self) -> Case:
        """The entry as a case (`cace_env.evaluate(policy, entry.case())`).

        Raises:
            ConfigError: as for `load`.
        """
        return case_of(self.load(), self.env)

    def fingerprint(self) -> str:
        """Hash of everything that results depend on, in 16 hexadecimal digits: fleet, workload and rules.

        Text and code are not part of it. Costs from another machine hold for this one if the fingerprints are equal and
        the simulator does the same, which `python -m experiments.submission check` tests.
        """
        return fingerprint_of(self.load(), self.env)


def fingerprint_of(scenario: Scenario, env: Protocol) -> str:
    """The fingerprint of an entry that has this scenario in this environment (`Entry.fingerprint`)."""
    settings = scenario.model_dump(mode="json", exclude_defaults=True, exclude=set(PROSE))
    content = {"env": env.env_name, "scenario": settings, "tables": _numbers(case_of(scenario, env).tables)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class MemorySweep(Frozen):
    """One scenario with increasing memory.

    A fraction is the memory left for unpinned models, summed over accelerators, over the weights of all unpinned
    models. A model needs its weights and a reserve (KV cache and runtime), so at a fraction of 1 not all fit yet.
    """

    id: Name = Field(description="its name in results; its entries are ID-25 and so on")
    env: Protocol = Field(description="as in an entry")
    scenario: ScenarioChoice = Field(description="as in an entry; its pressure is replaced")
    fractions: tuple[Annotated[float, Field(ge=0.01, le=10.0)], ...] = Field(
        min_length=1, description="memory over the weights of all unpinned models"
    )
    question: str = Field(min_length=1, description="as in an entry")

    def entries(self) -> tuple[Entry, ...]:
        """An entry for each fraction.

        Raises:
            ConfigError: there is no such scenario, or at some fraction a model would not fit.
        """
        base = _changed(self.scenario, {}, f"memory sweep {self.id!r}")
        name, changes = _split(self.scenario)
        return tuple(
            Entry(
                id=f"{self.id}-{round(100 * fraction)}",
                env=self.env,
                scenario={"base": name, **changes, "pressure": pressure_at(base, fraction)},
                question=self.question,
            )
            for fraction in self.fractions
        )


class Dropped(Frozen):
    """A scenario that was considered and left out."""

    scenario: str = Field(min_length=1, description="its name and changes")
    env: Protocol = Field(description="as in an entry")
    why: str = Field(min_length=1, description="in one line")


class Suite(Frozen):
    """A version of the suite."""

    version: Name = Field(description="version that results name")
    description: str = Field(min_length=1, description="how the entries were chosen")
    entries: tuple[Entry, ...] = Field(min_length=1, description="the scenarios that scores are means over")
    memory_sweeps: tuple[MemorySweep, ...] = Field(default=(), description="additional sweeps, not part of means")
    dropped: tuple[Dropped, ...] = Field(default=(), description="scenarios that were considered and left out")

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [entry.id for entry in self.entries]
        for sweep in self.memory_sweeps:
            ids += [f"{sweep.id}-{round(100 * fraction)}" for fraction in sweep.fractions]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"id {twice[0]!r} is used twice; give each entry its own")
        return self

    def entry(self, name: str) -> Entry:
        """Find an entry by its id, including those of memory sweeps.

        Raises:
            ConfigError: there is no such entry.
        """
        known = {entry.id: entry for entry in self.all_entries()}
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {', '.join(entry.id for entry in self.entries)}"
            raise ConfigError(f"suite {self.version} has no entry {name!r}{hint}")
        return known[name]

    def named(self, names: Sequence[str], env: Protocol | None = None) -> list[Entry]:
        """Find entries by id or by a short one, without the environment: "drift" is "eviction-drift" and "swap-drift".

        Args:
            names: in any order; none = all entries without memory sweeps.
            env: only of this environment; None = of both.

        Raises:
            ConfigError: there is no such entry in the environment.
        """
        there = [entry for entry in self.all_entries() if env in (None, entry.env)]
        found: dict[str, Entry] = {}
        for name in names:
            fitting = [entry for entry in there if name in (entry.id, entry.short)]
            if not fitting:
                known = [*(entry.id for entry in there), *(entry.short for entry in there)]
                hint = did_you_mean(name, known) or f"; known are {', '.join(entry.id for entry in there)}"
                where = f" in {env.env_name}" if env is not None else ""
                raise ConfigError(f"suite {self.version} has no entry {name!r}{where}{hint}")
            found |= {entry.id: entry for entry in fitting}
        return list(found.values()) if names else [entry for entry in self.entries if env in (None, entry.env)]

    def all_entries(self) -> tuple[Entry, ...]:
        """The entries, then those of the memory sweeps."""
        return (*self.entries, *(entry for sweep in self.memory_sweeps for entry in sweep.entries()))

    def cases(self, env: Protocol | None = None) -> dict[str, Case]:
        """The entries as cases by id, without memory sweeps.

        Args:
            env: only entries of this environment; None = all.

        Raises:
            ConfigError: the scenario of an entry is not valid.
        """
        return {entry.id: entry.case() for entry in self.entries if env in (None, entry.env)}


def load_suite(what: str | Path | Suite = "v1") -> Suite:
    """Load a suite by shipped version or from a YAML file; a `Suite` is returned as it is.

    Raises:
        ConfigError: there is no such version (the error lists the known ones), or the file is not valid, one line per
            problem.
    """
    if isinstance(what, Suite):
        return what
    shipped = _shipped()
    if isinstance(what, str) and what in shipped:
        with resources.as_file(shipped[what]) as path:
            return load(Suite, path)
    if isinstance(what, str) and not what.endswith((".yaml", ".yml")) and not os.path.isfile(what):
        known = ", ".join(shipped)
        raise ConfigError(
            f"no suite called {shown(what)}{did_you_mean(what, shipped)}; known are {known}, or give a YAML file"
        )
    return load(Suite, what)


def suite_versions() -> tuple[str, ...]:
    """Versions of the suites that ship."""
    return tuple(_shipped())


def pressure_at(scenario: Scenario, fraction: float) -> float:
    """Compute the pressure at which the memory for unpinned models is `fraction` of their weights.

    `pressure = needs / memory = needs / (fraction * weights)`, sums over unpinned models.
    """
    tables = scenario.tables()
    unpinned = tables.pinned_on == NONE
    return float(tables.need_bytes[unpinned].sum() / (fraction * tables.weights_bytes[unpinned].sum()))


def _changed(choice: ScenarioChoice, prose: Mapping[str, str], source: str) -> Scenario:
    """The chosen scenario, checked for what a suite allows.

    Changes are merged into sections: `{workload: {users: 9}}` keeps the rest of the workload.
    """
    name, changes = _split(choice)
    try:
        base = load_scenario(name)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    scenario = parse(Scenario, _merged(base.model_dump(mode="json"), {**changes, **prose}), source)
    if scenario.trace is not None:
        raise ConfigError(f"{source}: its requests come from a log, which others may not have; use generated requests")
    if scenario.rules.max_decisions is not None:
        limit = scenario.rules.max_decisions
        raise ConfigError(
            f"{source}: max_decisions is {limit}; episodes that are cut short have no score, so leave it out"
        )
    return scenario


def _split(choice: ScenarioChoice) -> tuple[str, dict[str, Any]]:
    """Name of the base scenario, and the changes."""
    if isinstance(choice, str):
        return choice, {}
    changes = dict(choice)
    if not isinstance(base := changes.pop("base", None), str):
        raise ConfigError(f"a scenario is a name, or {{base: NAME, key: value, ...}}; base is {base!r}")
    return base, changes


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def _numbers(tables: FleetTables | CostTable) -> dict[str, Any]:
    """Values that the kernel reads, as plain numbers; without defaults, so that new fields change nothing."""
    numbers: dict[str, Any] = {}
    filled = unmeasured(tables.num_accelerators, tables.num_models) if isinstance(tables, FleetTables) else {}
    for column in dataclasses.fields(tables):
        value, default = getattr(tables, column.name), filled.get(column.name, column.default)
        if column.name == "label" or (default is not dataclasses.MISSING and np.array_equal(value, default)):
            continue
        if isinstance(value, CostTable):
            value = _numbers(value)
        numbers[column.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return numbers


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("cace_env") / "data" / "suites"
    files = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    return dict(sorted(files.items()))
