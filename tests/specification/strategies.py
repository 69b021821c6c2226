"""Hypothesis strategies for small random fleets, workloads and rules that exercise every rule of the simulator.

A case is drawn around a time scale: rounds, loads, gaps and timers are small multiples of each other, so that loads,
drains and queues overlap at any scale. Memory is drawn around what the models need, so that most cases evict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from cace_env.tables import FOREVER, NONE, TASKS, CostTable, FleetTables
from cace_env.workload import Workload

TIME_SCALES_US = (3, 400, 50_000, 2_000_000)  # what a typical request takes


@dataclass(frozen=True)
class Rules:
    """What a deployed rule may carry beside its policy."""

    keep_alive_us: tuple[int | None, ...] | None  # (M,)
    max_resident: int | None
    feasible: bool  # False: some model fits nowhere under `max_resident`, so its requests would wait for ever
    patience_us: int | None = None  # of Swap-v0: asks again when a model has been pending for so long


@st.composite
def fleets(draw: st.DrawFn, *, scale_us: int | None = None) -> FleetTables:
    """One to three accelerators, two to six models; on one accelerator at least every unpinned model fits."""
    models = draw(st.sampled_from([2, 3, 4, 5, 5, 6, 6, 6]))
    accelerators = draw(st.sampled_from([1, 1, 2, 3]))
    scale_us = scale_us or draw(st.sampled_from(TIME_SCALES_US))

    def per_model(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=models, max_size=models))

    def per_pair(values: st.SearchStrategy[int]) -> np.ndarray:
        return np.array([per_model(values) for _ in range(accelerators)], dtype=np.int64)

    # Memory.
    sizes = draw(st.sampled_from([st.just(12), st.integers(4, 30), st.sampled_from([4, 5, 6, 24])]))
    need = per_model(sizes)
    if draw(st.booleans()):
        need.sort()  # the small ones are placed first, the large ones come later and need many victims
    weights = [max(1, size - draw(st.integers(1, 3))) for size in need]
    sleeps = draw(st.sampled_from([False, False, True]))
    residual = per_model(st.integers(1, 3)) if sleeps else [0] * models
    pinned_on = per_model(st.sampled_from([NONE] * 9 + list(range(accelerators))))
    if all(place != NONE for place in pinned_on[:2]):
        pinned_on[:2] = [NONE, NONE]  # two models at least compete
    unpinned = [m for m in range(models) if pinned_on[m] == NONE]
    largest = max(need[m] + sum(residual[other] for other in unpinned if other != m) for m in unpinned)
    big = draw(st.integers(0, accelerators - 1))
    memory = []
    for accelerator in range(accelerators):
        pins = sum(need[m] for m in range(models) if pinned_on[m] == accelerator)
        small = accelerator != big and draw(st.booleans())
        room = (
            draw(st.integers(1, largest))
            if small
            else largest + draw(st.sampled_from([0, 1, max(need) // 2, max(need), 2 * max(need)]))
        )
        memory.append(pins + room)
    # Who is where at time 0, as long as it fits: a full fleet asks its policy soon.
    full = draw(st.integers(0, 3)) > 0
    resident_on, asleep_on = [NONE] * models, [NONE] * models
    free = [memory[a] - sum(need[m] for m in range(models) if pinned_on[m] == a) for a in range(accelerators)]
    for m in unpinned:
        first_fit = next((a for a in range(accelerators) if free[a] >= need[m]), NONE)
        place = first_fit if full and first_fit != NONE else draw(st.integers(NONE, accelerators - 1))
        if place != NONE and free[place] >= need[m]:
            resident_on[m] = place
            free[place] -= need[m]
        elif place != NONE and sleeps and free[place] >= residual[m]:
            asleep_on[m] = place
            free[place] -= residual[m]
    # Speed: a request of a few dozen rounds takes about the scale.
    round_ns = max(1, scale_us * 1000 // 32)
    copies = draw(st.booleans())
    slow_unload = copies or draw(st.booleans())
    unload_us = per_pair(st.sampled_from([0, 1, scale_us // 2, scale_us]) if slow_unload else st.just(0))
    load_us = [[[draw(_near(scale_us)), draw(_near(3 * scale_us))] for _ in range(models)] for _ in range(accelerators)]
    host_cache = draw(st.sampled_from([0, max(weights), sum(weights) // 2, sum(weights)]))
    cached = np.zeros(models, dtype=bool)
    for m in range(models):
        cached[m] = draw(st.booleans()) and sum(weights[q] for q in range(m) if cached[q]) + weights[m] <= host_cache
    cost = CostTable(
        w_ttft=np.array([1.0, 0.3, 0.0, 0.0]),
        w_e2e=np.array([0.0, 0.1, 0.1, 0.2]),
        slo_us=np.array([draw(st.sampled_from([1, scale_us, 5 * scale_us, FOREVER])) for _ in TASKS], dtype=np.int64),
        slo_on_e2e=np.array([draw(st.booleans()) for _ in TASKS]),
        w_load=0.05,
        w_slo=0.5,
        w_refused=2.0,
    )

    def column(values: Sequence[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    measured = draw(st.integers(0, 9_999))
    tables = FleetTables(
        accelerator_names=tuple(f"gpu-{a}" for a in range(accelerators)),
        model_names=tuple(f"model-{m}" for m in range(models)),
        memory_bytes=column(memory),
        need_bytes=column(need),
        weights_bytes=column(weights),
        residual_bytes=column(residual),
        kv_tokens=column(per_model(st.sampled_from([40, 60, 100, 400]))),
        max_num_seqs=column(per_model(st.sampled_from([1, 2, 8]))),
        chunk_tokens=column(per_model(st.sampled_from([1, 5, 16, 64]))),
        load_us=np.array(load_us, dtype=np.int64),
        unload_us=unload_us,
        round_ns=per_pair(_near(round_ns)),
        decode_ns=per_pair(st.sampled_from([0, 1, round_ns // 10, round_ns])),
        kv_ps=per_pair(st.sampled_from([0, 1, 999, 10 * round_ns])),
        prefill_ns=per_pair(st.sampled_from([0, 1, round_ns // 20, round_ns // 3])),
        attention_ps=per_pair(st.sampled_from([0, 1, 777, 10 * round_ns])),
        cost=cost,
        pinned_on=column(pinned_on),
        resident_on=column(resident_on),
        asleep_on=column(asleep_on),
        host_cached=cached,
        host_cache_bytes=host_cache,
        unload_copies=copies,
        placement=draw(st.sampled_from(["spread", "pack"])),
        drain_after_us=draw(st.sampled_from([0, 1, scale_us // 2, 2 * scale_us, 20 * scale_us])),
        max_slots=draw(st.sampled_from([0, 0, 20])),
        max_decisions=draw(st.sampled_from([FOREVER] * 12 + [1, 2, 4])),
        unlimited_memory=draw(st.sampled_from([False] * 19 + [True])),
        **(_measured(measured, accelerators, models, round_ns) if measured % 8 else {}),
        label=f"scale {scale_us} us",
    )
    tables.validate()
    return tables


@st.composite
def workloads(draw: st.DrawFn, tables: FleetTables) -> Workload:
    """1 to 40 requests, open and closed loop mixed; some follow one request, some share sessions, some are too long."""
    scale_us = typical_us(tables)
    count = draw(st.one_of(st.integers(1, 12), st.integers(12, 40), st.integers(24, 40)))
    pattern = st.sampled_from(
        [(0,), (0, 1, scale_us), (scale_us, 4 * scale_us), (0, 2 * scale_us, 8 * scale_us), (0, 20 * scale_us)]
    )
    gaps_us = st.sampled_from(draw(pattern))
    sessions = draw(st.integers(1, 6))
    closed = draw(st.sampled_from([0, 1, 3]))  # how many requests in four follow another
    everyone = range(tables.num_models)
    absent = [m for m in everyone if tables.pinned_on[m] == tables.resident_on[m] == NONE]
    now_us = 0
    rows = []
    for r in range(count):
        now_us += draw(gaps_us)
        model = draw(st.sampled_from(absent if r == 0 and absent else everyone))  # begins with a swap, if it can
        follows = r > 0 and draw(st.integers(0, 3)) < closed
        too_long = draw(st.integers(0, 19)) == 13
        context = int(tables.kv_tokens[model]) if too_long else draw(st.integers(1, 36))
        rows.append(
            {
                "arrival_us": now_us,
                "after": draw(st.integers(max(0, r - 5), r - 1)) if follows else NONE,
                "think_us": draw(st.sampled_from([0, 0, 1, scale_us])) if follows else 0,
                "model": model,
                "task": draw(st.integers(0, len(TASKS) - 1)),
                "context_tokens": context,
                "new_tokens": draw(st.integers(1, context)),
                "output_tokens": draw(st.sampled_from([1, 1, 2, 4, 9, 30])),
                "session": draw(st.integers(0, sessions - 1)),
            }
        )
    return Workload.from_columns(**{name: [row[name] for row in rows] for name in rows[0]})


@st.composite
def rules(draw: st.DrawFn, tables: FleetTables) -> Rules:
    """Keep-alives (0 included) and a limit on resident models, and whether the limit leaves every model a place."""
    if tables.unlimited_memory:  # no rule evicts there
        return Rules(None, None, True)
    scale_us = typical_us(tables)
    keep_alive_us = None
    if draw(st.integers(0, 2)) == 2:
        one = st.sampled_from([None, None, 0, 1, scale_us, 5 * scale_us, 50 * scale_us])
        keep_alive_us = tuple(draw(st.lists(one, min_size=tables.num_models, max_size=tables.num_models)))
    max_resident = draw(st.sampled_from([None] * 6 + [1, 2, 3, 3]))
    return Rules(keep_alive_us, max_resident, leaves_every_model_a_place(tables, max_resident))


@st.composite
def cases(draw: st.DrawFn) -> tuple[FleetTables, Workload, Rules]:
    """Fleet, workload and rules that can be simulated to the end."""
    tables = draw(fleets())
    workload = draw(workloads(tables))
    chosen = draw(rules(tables))
    return tables, workload, chosen if chosen.feasible else Rules(chosen.keep_alive_us, None, True)


@st.composite
def swap_cases(draw: st.DrawFn, *, prefetch: bool = True) -> tuple[FleetTables, Workload, Rules]:
    """The same in Swap-v0: with a patience or none, and in half of all cases with prefetch if that is wanted."""
    tables, workload, rules = draw(cases())
    scale_us = typical_us(tables)
    limit = draw(st.sampled_from([0, 0, 1, 2, 5, 100])) if prefetch else 0
    tables = tables.replace(
        protocol="swap",
        unlimited_memory=False,
        prefetch_limit=limit,
        prefetch_max_wait_us=draw(st.sampled_from([0, 1, scale_us, 5 * scale_us, FOREVER])),
        max_decisions=draw(st.sampled_from([FOREVER] * 12 + [1, 2, 4, 9])),
    )
    tables.validate()
    patience_us = draw(st.sampled_from([None, 0, 1, scale_us // 2, 2 * scale_us, 20 * scale_us]))
    return tables, workload, dataclasses.replace(rules, patience_us=patience_us)


def typical_us(tables: FleetTables) -> int:
    """The time scale of the tables: what 32 rounds of their median engine take."""
    return max(1, int(np.median(tables.round_ns)) * 32 // 1000)


def leaves_every_model_a_place(tables: FleetTables, max_resident: int | None) -> bool:
    """Configuration check: each unpinned model fits somewhere when all others sleep, by memory and by limit."""
    unpinned = np.flatnonzero(tables.pinned_on == NONE)
    for m in unpinned:
        residuals = sum(int(tables.residual_bytes[other]) for other in unpinned if other != m)
        places = 0
        for accelerator in range(tables.num_accelerators):
            pins = np.flatnonzero(tables.pinned_on == accelerator)
            room = int(tables.memory_bytes[accelerator] - tables.need_bytes[pins].sum()) - residuals
            places += room >= tables.need_bytes[m] and (max_resident is None or len(pins) + 1 <= max_resident)
        if places == 0:
            return False
    return True


def _measured(seed: int, accelerators: int, models: int, round_ns: int) -> dict[str, np.ndarray | bool]:
    """What only measurements fill, some of it: latency by batch, work per request, a slowdown, whole rounds.

    From a seed: so many draws would leave Hypothesis with small workloads, in which hardly anything is evicted.
    """
    rng = np.random.default_rng(seed)
    pairs = (accelerators, models)
    steps = rng.choice([0, 0, 1, round_ns // 10, round_ns], (*pairs, rng.choice([1, 2, 3, 5])))
    columns: dict[str, np.ndarray | bool] = {
        "batch_ns": np.cumsum(steps, axis=-1),
        "request_ns": rng.choice([0, 1, round_ns // 3, 7 * round_ns], pairs),
        "load_slowdown": rng.choice([1000, 1001, 1500, 2000], accelerators),
        "whole_rounds": True,
    }
    return {name: column for name, column in columns.items() if rng.random() < 0.6}


def _near(value: int) -> st.SearchStrategy[int]:
    """Around a value: half to double, at least 1."""
    return st.sampled_from([max(1, value // 2), max(1, value), max(1, value) + 1, max(1, 2 * value)])
