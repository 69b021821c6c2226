"""The fleet that a command of `experiments.live` names: a fleet file, or a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cace_env.config import load, read_yaml
from cace_env.live.fleet import LiveFleet
from cace_env.policies.built_in import Training
from cace_env.scenarios import load_scenario
from cace_env.tables import FleetTables, Protocol


class Given(NamedTuple):
    """A fleet as it was named."""

    tables: FleetTables
    names: Mapping[str, str]  # what the servers call each model
    backends: Sequence[str]  # KIND:WHERE, one for each accelerator
    training: Training | None  # for policies that learn from training requests


def read_fleet(name: str, env: Protocol, backends: Sequence[str] = ()) -> Given:
    """Reads a fleet.

    Args:
        name: a fleet file (`FLEET.yaml` with `accelerators`), or a scenario.
        env: what policies are asked.
        backends: servers of a scenario's accelerators.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    if name.endswith((".yaml", ".yml")) and "accelerators" in read_yaml(name):
        fleet = load(LiveFleet, name)
        return Given(fleet.tables(env), fleet.server_names, [place.backend for place in fleet.accelerators], None)
    scenario = load_scenario(name)
    training = None if scenario.trace is not None else scenario.workload
    return Given(scenario.tables().replace(protocol=env), {}, list(backends), training)
