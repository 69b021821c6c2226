"""Random episodes that are small enough to be solved exactly, and tight enough that something has to be decided.

Three to six models of 2 to 12 GB on one or two accelerators that hold half of them; loads take 1 to 20 s, requests some
tenths of a second to some seconds, and a request arrives every few seconds. So loads, queues and drains matter, as in
the scenarios, and it takes one of the rules a handful of decisions to get through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from cace_env.cases import Case
from cace_env.planning.planner import base_names
from cace_env.policies import policy
from cace_env.policies.built_in import rule_of
from cace_env.simulation import run_rule
from cace_env.tables import FOREVER, NONE, TASKS, CostTable, FleetTables, Protocol
from cace_env.workload import Workload

GB: Final = 1_000_000_000
STREAM: Final = 9  # spawn key of their draws
DECISIONS: Final = (6, 15)  # that LRU takes, at least and at most


def tiny_episodes(count: int, protocol: str = Protocol.EVICTION) -> Iterator[tuple[Case, Workload]]:
    """The first `count` episodes of a fixed list.

    Args:
        count: how many.
        protocol: what is asked.
    """
    number = 0
    while count > 0:
        rng = np.random.default_rng(np.random.SeedSequence(number, spawn_key=(STREAM,)))
        tables = _fleet(rng, protocol)
        workload = _requests(rng, tables)
        lru = run_rule(tables, workload, rule_of(policy("lru"), tables))
        if DECISIONS[0] <= lru.decisions <= DECISIONS[1]:
            yield Case(f"tiny-{number}", tables, lambda _, drawn=workload: drawn), workload  # type: ignore[misc]
            count -= 1
        number += 1


def _fleet(rng: np.random.Generator, protocol: str) -> FleetTables:
    """Models of different size, load time and speed; about half of them fit."""
    models, accelerators = int(rng.integers(3, 7)), int(rng.integers(1, 3))
    need = rng.integers(2, 13, models) * GB
    weights = need * 3 // 4
    share = rng.uniform(0.35, 0.65)
    memory = np.full(accelerators, max(int(need.max()), int(need.sum() * share / accelerators)))
    load_us = (rng.uniform(1.0, 8.0, models) + weights / GB * rng.uniform(0.1, 1.5)) * 1e6
    both_tiers = np.broadcast_to(load_us[None, :, None], (accelerators, models, 2)).astype(np.int64)

    def each(values: np.ndarray | int) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype=np.int64), (accelerators, models)).copy()

    def per_model(value: int) -> np.ndarray:
        return np.full(models, value, dtype=np.int64)

    tasks = len(TASKS)
    tables = FleetTables(
        accelerator_names=tuple(f"gpu-{a}" for a in range(accelerators)),
        model_names=tuple(f"model-{m}" for m in range(models)),
        memory_bytes=memory.astype(np.int64),
        need_bytes=need,
        weights_bytes=weights,
        residual_bytes=per_model(0),
        kv_tokens=per_model(20_000),
        max_num_seqs=per_model(4),
        chunk_tokens=per_model(2048),
        load_us=both_tiers.copy(),
        unload_us=each(0),
        round_ns=each(rng.integers(5_000_000, 30_000_000, models)),
        decode_ns=each(200_000),
        kv_ps=each(2_000_000),
        prefill_ns=each(rng.integers(50_000, 300_000, models)),
        attention_ps=each(0),
        pinned_on=per_model(NONE),
        resident_on=per_model(NONE),
        asleep_on=per_model(NONE),
        host_cached=np.zeros(models, dtype=bool),
        cost=CostTable(
            np.array([1.0, 0.3, 0.0, 0.0]),
            np.array([0.0, 0.1, 0.1, 0.2]),
            np.full(tasks, FOREVER),
            np.zeros(tasks, dtype=bool),
        ),
        drain_after_us=10_000_000,
        protocol=Protocol(protocol),
    )
    tables.validate()
    return tables


def _requests(rng: np.random.Generator, tables: FleetTables) -> Workload:
    """12 to 25 requests, some models asked for more often than others; a third follow another one's answer."""
    count, models = int(rng.integers(12, 26)), tables.num_models
    popularity = rng.dirichlet(np.full(models, 1.5))
    gaps_us = rng.exponential(rng.uniform(2.0, 8.0), count) * 1e6
    follows = (rng.random(count) < 1 / 3) & (np.arange(count) > 0)
    after = np.where(follows, (rng.random(count) * np.arange(count)).astype(np.int64), NONE)
    context = rng.integers(100, 4000, count)
    return Workload.from_columns(
        arrival_us=np.where(follows, 0, np.cumsum(gaps_us)).astype(np.int64),
        after=after,
        think_us=np.where(follows, rng.exponential(4.0, count) * 1e6, 0).astype(np.int64),
        model=rng.choice(models, count, p=popularity),
        task=rng.integers(0, len(TASKS), count),
        context_tokens=context,
        new_tokens=np.maximum(1, (context * rng.uniform(0.1, 1.0, count)).astype(np.int64)),
        output_tokens=rng.integers(1, 200, count),
        session=np.arange(count),
    )


def decision_bases(tables: FleetTables) -> list[str]:
    """The bases that do nothing but decide: no keep-alive, no count limit, no timer of their own, nothing learned."""
    names = []
    for name in base_names(tables):
        chosen = policy(name)
        limited = chosen.keep_alive_s is not None or chosen.max_resident is not None
        timed = chosen.order is not None and chosen.order.patience_s not in (0.0, math.inf)
        if not (limited or timed or chosen.trained):
            names.append(name)
    return names
