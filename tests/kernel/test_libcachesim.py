"""An independent oracle: with equal sizes, no queue and no waiting, our hit counts are libcachesim's.

Every model needs 1 GB and takes 1 s to load, requests are one token long and 10 s apart: each is finished before the
next arrives, so a request hits if its model is resident, and the simulator is a cache of `size` objects. Costs of 1
s/GB keep GDSF's priorities whole numbers on both sides: no rounding decides a tie.

Ties. LRU and Belady have none that matter (one request at a time; which of the objects that are never asked for again
leaves changes no hit). LFU: libcachesim evicts the object that has been longest at the lowest frequency; it came there
with its last request, so that is the least recently used one, as here. GDSF: libcachesim orders equal priorities by
the last request, as here.

One difference is bridged. In GDSF a missed object is ranked together with those in the cache and may be its own victim:
it bypasses the cache. A model with waiting requests cannot; room is made before it is loaded. So for GDSF libcachesim
is driven by its parts in that order - find, evict, insert -, which is what `get` of its other three policies does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.policies import Future, policy
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import run_rule
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from tests.specification.examples import fleet

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim, the oracle of these tests, is not installed")

GB = 10**9
SECOND = 1_000_000
ROOT = Path(__file__).resolve().parents[2]
CACHES = {"lru": "LRU", "lfu": "LFU", "gdsf": "GDSF", "belady": "Belady"}


def zipf() -> np.ndarray:
    """Independent draws, a few models asked for most of the time."""
    popularity = 1 / np.arange(1, 25) ** 0.9
    return np.random.default_rng(1).choice(24, size=4000, p=popularity / popularity.sum())


def generated() -> np.ndarray:
    """The order in which a team asks for twelve models: sticky, bursty, drifting."""
    return load_scenario("default").workload(0).model[:4000]


def loop_and_scan() -> np.ndarray:
    """Loops one longer than the cache, the worst case of LRU, cut by scans of models used once and by a hot pair."""
    loop = np.tile(np.arange(7), 40)
    scan = np.arange(7, 24)
    hot = np.tile([0, 1, 1, 2], 60)
    return np.concatenate([np.concatenate([loop, scan, hot, scan[::-1]]) for _ in range(4)])


TRACES = {"zipf": zipf, "generated": generated, "loop and scan": loop_and_scan}


def cache_fleet(models: int, size: int) -> FleetTables:
    """A fleet that is a cache of `size` equal objects."""
    return fleet(need=(GB,) * models, memory=(size * GB,), load_us=SECOND)


def our_hits(name: str, trace: np.ndarray, size: int) -> int:
    """Requests whose model was resident when they arrived."""
    tables = cache_fleet(int(trace.max()) + 1, size)
    workload = Workload.from_columns(
        model=trace,
        arrival_us=np.arange(len(trace)) * 10 * SECOND,
        context_tokens=np.ones(len(trace), dtype=int),
        output_tokens=np.ones(len(trace), dtype=int),
    )
    chosen = policy(name)
    future = Future.of(tables, workload) if chosen.clairvoyant else None
    episode = run_rule(tables, workload, rule_of(chosen, tables, workload=workload, future=future))
    assert (episode.finish_us[:-1] < episode.arrival_us[1:]).all()  # no request ever queues
    assert episode.loads == episode.cold_requests
    return len(trace) - episode.cold_requests


def oracle_hits(name: str, trace: np.ndarray, size: int) -> int:
    """Hits of libcachesim, which is told each object's next use (virtual time of the request, 1-based)."""
    cache = getattr(libcachesim, CACHES[name])(size)
    next_use: dict[int, int] = {}
    upcoming = np.empty(len(trace), dtype=np.int64)
    for i in range(len(trace) - 1, -1, -1):
        upcoming[i] = next_use.get(int(trace[i]), np.iinfo(np.int64).max)
        next_use[int(trace[i])] = i + 1
    hits = 0
    for i, model in enumerate(trace.tolist()):
        request = libcachesim.Request(obj_id=model, obj_size=1, clock_time=i, next_access_vtime=int(upcoming[i]))
        if name != "gdsf":
            hits += cache.get(request)
        elif cache.find(request) is not None:
            hits += 1
        else:
            if cache.get_occupied_byte() == size:
                cache.evict(request)
            cache.insert(request)
    return hits


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("name", CACHES)
def test_hit_counts_equal_libcachesims(name: str, trace: str, size: int) -> None:
    models = TRACES[trace]()
    assert our_hits(name, models, size) == oracle_hits(name, models, size)


@pytest.mark.parametrize("trace", TRACES)
def test_the_traces_tell_the_policies_apart(trace: str) -> None:
    models = TRACES[trace]()
    hits = {name: our_hits(name, models, 6) for name in CACHES}
    assert len(set(hits.values())) == len(hits), hits
    assert max(hits, key=lambda name: hits[name]) == "belady"
