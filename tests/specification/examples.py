"""Fleets and requests with round numbers, small enough to work out by hand.

Unless an example says otherwise: rounds of 1 ms, a prompt token costs 10 us of work, 100 of them go into a round,
decoding adds nothing; a load takes 100 ms from disk and 10 ms from the host, an unload no time; there is no host cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cace_env.tables import FOREVER, NONE, TASKS, CostTable, FleetTables
from cace_env.workload import Workload
from tests.specification.invariants import check_run
from tests.specification.reference import Policy, Question, ReferenceRun, simulate

MS = 1000  # [us]
MODEL_EVENTS = ("VICTIM", "UNLOAD_START", "UNLOAD_DONE", "LOAD_START", "LOAD_DONE")


def fleet(need: tuple[int, ...] = (6, 6), memory: tuple[int, ...] = (10,), **changes: Any) -> FleetTables:
    """A fleet with round numbers; `changes` may be scalars, which then hold for all."""
    num_a, num_m = len(memory), len(need)
    shapes = {
        "weights_bytes": (num_m,),
        "residual_bytes": (num_m,),
        "kv_tokens": (num_m,),
        "max_num_seqs": (num_m,),
        "chunk_tokens": (num_m,),
        "load_us": (num_a, num_m, 2),
        "unload_us": (num_a, num_m),
        "round_ns": (num_a, num_m),
        "decode_ns": (num_a, num_m),
        "kv_ps": (num_a, num_m),
        "prefill_ns": (num_a, num_m),
        "attention_ps": (num_a, num_m),
        "pinned_on": (num_m,),
        "resident_on": (num_m,),
        "asleep_on": (num_m,),
    }
    values: dict[str, Any] = {
        "weights_bytes": need,
        "residual_bytes": 0,
        "kv_tokens": 1000,
        "max_num_seqs": 4,
        "chunk_tokens": 100,
        "load_us": (10 * MS, 100 * MS),
        "unload_us": 0,
        "round_ns": 1_000_000,
        "decode_ns": 0,
        "kv_ps": 0,
        "prefill_ns": 10_000,
        "attention_ps": 0,
        "pinned_on": NONE,
        "resident_on": NONE,
        "asleep_on": NONE,
    }
    values |= {name: changes.pop(name) for name in list(changes) if name in shapes}
    columns: dict[str, Any] = {
        name: np.array(np.broadcast_to(value, shapes[name]), dtype=np.int64) for name, value in values.items()
    }
    tables = FleetTables(
        accelerator_names=tuple(f"gpu-{a}" for a in range(num_a)),
        model_names=tuple(f"model-{m}" for m in range(num_m)),
        memory_bytes=np.array(memory, dtype=np.int64),
        need_bytes=np.array(need, dtype=np.int64),
        host_cached=np.array(changes.pop("host_cached", [False] * num_m)),
        cost=changes.pop("cost", slo(FOREVER)),
        **columns,
    ).replace(**changes)
    tables.validate()
    return tables


def slo(limit_us: int, on_e2e: bool = False) -> CostTable:
    count = len(TASKS)
    return CostTable(np.ones(count), np.ones(count), np.full(count, limit_us), np.full(count, on_e2e))


def requests(*rows: dict[str, int]) -> Workload:
    """Rows of 100 prompt tokens and one output token for model 0 at time 0, unless they say otherwise."""
    default = {"arrival_us": 0, "after": NONE, "think_us": 0, "model": 0, "context_tokens": 100, "output_tokens": 1}
    full = [{"new_tokens": row.get("context_tokens", 100), "session": r} | default | row for r, row in enumerate(rows)]
    return Workload.from_columns(**{name: [row[name] for row in full] for name in full[0]})


def lowest(question: Question) -> int:
    return question.legal.index(True)


def least_recent(question: Question) -> int:
    slots = [slot for slot, legal in enumerate(question.legal) if legal]
    return min(slots, key=lambda slot: question.last_use_us[question.slot_models[slot]])


def swaps(run: ReferenceRun) -> list[tuple[int, str, int]]:
    """The rows of the trace that are about models: (time_us, kind, model)."""
    return [(time_us, kind, model) for time_us, kind, model, _ in run.trace if kind in MODEL_EVENTS]


def checked(tables: FleetTables, workload: Workload, policy: Policy = lowest, **rules: Any) -> ReferenceRun:
    """A run whose invariants hold."""
    run = simulate(tables, workload, policy, **rules)
    check_run(tables, workload, run, max_resident=rules.get("max_resident"))
    return run
