"""A fleet of four models, of which three fit, and episodes of built-in policies on it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cace_env.policies import Future, policy
from cace_env.policies.built_in import Policy, rule_of
from cace_env.simulation import Episode, run_rule
from cace_env.tables import CostTable, FleetTables
from cace_env.workload import Workload
from tests.specification.examples import MS, fleet, requests

SECOND = 1000 * MS
LAST = 3  # the model that room is made for in most examples


def ask(*rows: tuple[float, int] | dict[str, int]) -> Workload:
    """Requests as (second, model), or with all columns."""
    full = [{"arrival_us": round(r[0] * SECOND), "model": r[1]} if isinstance(r, tuple) else r for r in rows]
    return requests(*full)


def equal_fleet(**changes: Any) -> FleetTables:
    """Four models of equal size; three fit."""
    return fleet(**{"need": (10, 10, 10, 10), "memory": (30,)} | changes)


def run(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> Episode:
    """A compiled episode with its event trace."""
    chosen = policy(what)
    if chosen.clairvoyant:
        given.setdefault("future", Future.of(tables, workload))
    return run_rule(tables, workload, rule_of(chosen, tables, workload=workload, **given), trace=True)


def evicted(what: str | Policy, tables: FleetTables, workload: Workload, **given: Any) -> list[int]:
    """Models in the order in which they left, by choice or because their keep-alive ran out."""
    return [row.subject for row in run(what, tables, workload, **given).trace if row.kind == "UNLOAD_START"]


# Models 0, 1 and 2 are loaded in this order, then 0 is used again; 1 is the least recently used, 0 was loaded first.
HISTORY = ((0.0, 0), (1.0, 1), (2.0, 2), (3.0, 0))


def cace_tables(**changes: Any) -> FleetTables:
    """Model 0 loads in 1, 1 in 2, 2 in 3 seconds; completion hurts most."""
    load_us = np.array([SECOND, 2 * SECOND, 3 * SECOND, SECOND])[None, :, None]
    cost = CostTable(
        w_ttft=np.array([1.0, 0.3, 0.0, 0.0]),
        w_e2e=np.array([0.0, 0.1, 0.1, 0.2]),
        slo_us=np.full(4, SECOND),
        slo_on_e2e=np.zeros(4, dtype=bool),
    )
    return equal_fleet(load_us=np.broadcast_to(load_us, (1, 4, 2)), cost=cost, **changes)


def cace_workload() -> Workload:
    """Outputs 0: 1, 1: 9, 2: 5; tasks chat, reasoning, completion; uses 2, 1, 1; last used 1, 2, 0."""
    rows: list[dict[str, int]] = [
        {"arrival_us": 10 * SECOND, "model": 0, "task": 1, "output_tokens": 1},
        {"arrival_us": 20 * SECOND, "model": 1, "task": 2, "output_tokens": 9},
        {"arrival_us": 30 * SECOND, "model": 2, "task": 0, "output_tokens": 5},
        {"arrival_us": 40 * SECOND, "model": 0, "task": 1, "output_tokens": 1},
        {"arrival_us": 50 * SECOND, "model": LAST, "task": 0, "output_tokens": 1},
    ]
    return requests(*rows)


def assert_same_episode(first: Episode, second: Episode) -> None:
    for field in dataclasses.fields(Episode):
        mine, theirs = getattr(first, field.name), getattr(second, field.name)
        assert np.array_equal(mine, theirs), field.name
