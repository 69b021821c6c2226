"""Large fleets: many fine-tunes of few bases, on which the choice of the victim matters as it does on small ones."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from cace_env import evaluate
from cace_env.config import ConfigError
from cace_env.scenarios import LARGE, Hosted, Scenario, load_scenario
from cace_env.simulation import simulate
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import COLUMNS, Workload
from tests.specification import reference
from tests.specification.comparing import as_reference, pick
from tests.specification.invariants import assert_same_run, check_run
from tests.specification.swap_strategies import pick_action

SIZES = {"fleet-64": (64, 250), "fleet-256": (256, 1_000)}
REQUESTS = 500


def short(name: str, requests: int) -> Scenario:
    scenario = load_scenario(name)
    return scenario.replace(workload=scenario.workload_config.model_dump(mode="json") | {"requests": requests})


@pytest.mark.parametrize("name", LARGE)
def test_it_has_as_many_accelerators_and_models_as_its_description_says(name: str) -> None:
    scenario = load_scenario(name)
    tables = scenario.tables()
    accelerators, models = SIZES[name]
    assert (tables.num_accelerators, tables.num_models) == (accelerators, models)
    assert f"{accelerators} accelerators" in scenario.description and f"{models:,} fine-tunes" in scenario.description
    assert tables.need_bytes.sum() / tables.memory_bytes.sum() == pytest.approx(2.0)
    assert len({entry.model for entry in scenario.entries}) == 13


def test_copies_are_models_of_their_own_that_differ_in_name_alone() -> None:
    entry = Hosted(model="mellum-4b", copies=3)
    assert [each.name for each in entry.each] == ["mellum-4b-1", "mellum-4b-2", "mellum-4b-3"]
    assert {each.copies for each in entry.each} == {1}
    assert Hosted(model="mellum-4b").each == [Hosted(model="mellum-4b")]
    assert [each.name for each in Hosted(model="mellum-4b", name="ours", copies=2).each] == ["ours-1", "ours-2"]
    with pytest.raises(ConfigError, match="8192 models with all copies; at most 4096"):
        load_scenario("default").replace(catalogue=[{"model": "mellum-4b", "copies": 4096}] * 2)


def crowded(name: str) -> tuple[FleetTables, Workload]:
    """The first minutes of an episode: by its first question memory is full, so that fewer requests suffice."""
    scenario = short(name, 20_000)
    tables = scenario.tables()
    filled = np.full(tables.num_models, -1)
    free = tables.memory_bytes.copy()
    for m in range(tables.num_models):  # where there is room
        a = int(free.argmax())
        if free[a] >= tables.need_bytes[m]:
            filled[m] = a
            free[a] -= tables.need_bytes[m]
    whole = scenario.workload(1)
    rows = Workload.from_columns(**{column: getattr(whole, column)[:REQUESTS] for column in COLUMNS})
    return dataclasses.replace(tables, resident_on=filled), rows


@pytest.mark.slow
@pytest.mark.parametrize("protocol", list(Protocol))
def test_the_reference_plays_a_large_fleet_event_by_event_as_the_kernel_does(protocol: Protocol) -> None:
    tables, workload = crowded("fleet-64")
    tables = tables.replace(protocol=protocol)
    answer = partial(pick_action if protocol == Protocol.SWAP else pick, "hashed")
    expected = reference.simulate(tables, workload, answer)
    actual = simulate(tables, workload, answer, trace=True)
    assert_same_run(expected, as_reference(actual))
    check_run(tables, workload, as_reference(actual))
    assert actual.decisions > 20


def test_policies_come_apart_on_a_large_fleet() -> None:
    scenario = short("fleet-64", 30_000)
    lru = evaluate("lru", scenario, [1])
    assert lru.column("evictions")[0] > 1_000
    assert lru.column("cold_share")[0] > 0.05
    others = {name: evaluate(name, scenario, [1]).gain_over(lru).percent for name in ("cace", "rate-load-size")}
    assert others["cace"] < -5 < 5 < others["rate-load-size"]
