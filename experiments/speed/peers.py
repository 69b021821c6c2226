"""Others in the same run: CartPole in Gymnasium's batches and in EnvPool, and libCacheSim on the same requests.

EnvPool and libCacheSim are optional. CartPole needs nothing of this package, so it can be measured by an interpreter
that has EnvPool.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.speed.common import Effort, Episodes, Rows, Stepped

CARTPOLE: Final = "CartPole-v1"
SIZES: Final = (64, 1_024)
SECONDS: Final = 0.2  # of a turn
TURNS: Final = 3
IN_GYMNASIUM: Final = {"SyncVectorEnv": "sync", "CartPoleVectorEnv (NumPy)": "vector_entry_point"}
SLOTS: Final = 4  # models that fit into the cache of libCacheSim


class Cartpoles:
    """A batch of CartPoles under random actions; it goes on from turn to turn."""

    def __init__(self, envs: Any, num_envs: int) -> None:
        self._envs, self._num_envs = envs, num_envs
        self._actions = np.random.default_rng(0).integers(0, 2, (16, num_envs), dtype=np.int32)
        self._envs.reset()

    def run(self, seconds: float) -> float:
        """Steps per second."""
        steps, began = 0, time.perf_counter()
        while True:
            for actions in self._actions:
                self._envs.step(actions)
            steps += len(self._actions)
            elapsed_s = time.perf_counter() - began
            if elapsed_s >= seconds:
                return steps * self._num_envs / elapsed_s


def cartpole(effort: Effort) -> Rows:
    """Steps per second of CartPole in batches, and as multiples of those of one `gymnasium.make("CartPole-v1")`."""
    import gymnasium

    has_envpool = importlib.util.find_spec("envpool") is not None
    single = Stepped(gymnasium.make(CARTPOLE))
    some: dict[str, Cartpoles] = {}
    for num_envs in (4,) if effort.quick else SIZES:
        for name, mode in IN_GYMNASIUM.items():
            envs: Any = gymnasium.make_vec(CARTPOLE, num_envs=num_envs, vectorization_mode=mode)
            some[f"CartPole, {num_envs:,} in {name}"] = Cartpoles(envs, num_envs)
        for threads in (1, 2) if has_envpool else ():
            thread = "one thread" if threads == 1 else "two threads"
            some[f"CartPole, {num_envs:,} in EnvPool, {thread}"] = Cartpoles(_envpool(num_envs, threads), num_envs)
    turns = []
    for _ in range(TURNS):
        one = single.run(effort(5_000, 100))
        rates = [batch.run(effort(1, 0) * SECONDS) for batch in some.values()]
        turns.append([*rates, *(rate / one for rate in rates)])
    rates = np.median(turns, axis=0).tolist()
    for place, name in enumerate(some):
        yield name, rates[place], "steps/s"
        yield f"{name}, over one", rates[len(some) + place], "x"
    if not has_envpool:
        yield "CartPole in EnvPool: not installed, see make bench-peers", None, "steps/s"


def _envpool(num_envs: int, threads: int) -> Any:
    import envpool

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first reset makes spaces, and casts their bounds
        envs = envpool.make_gymnasium(CARTPOLE, num_envs=num_envs, num_threads=threads, seed=0)
        envs.reset()
    return envs


def libcachesim(effort: Effort) -> Rows:
    """Requests per second of libCacheSim's LRU on the models of the same requests, one unit each, beside ours."""
    if importlib.util.find_spec("libcachesim") is None:
        yield "libCacheSim, LRU: not installed, see pip install libcachesim", None, "requests/s"
        return
    import libcachesim

    lru = Episodes(effort.scenario(), "lru")
    models = np.concatenate([workload.model for _, workload, _ in lru.played])
    # One record of libCacheSim's oracleGeneral format per request; -2 = no next use is given.
    records = np.zeros(len(models), dtype=[("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next_use", "<i8")])
    records["time"], records["object"], records["size"], records["next_use"] = np.arange(len(models)), models, 1, -2
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.oracleGeneral"
        records.tofile(path)
        for _ in range(effort(10, 2)):
            reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
            cache = libcachesim.LRU(SLOTS, hashpower=10)
            began = time.perf_counter()
            cache.process_trace(reader)
            rate = len(models) / (time.perf_counter() - began)
            turns.append((rate, rate / lru.run()))
    rate, over = np.median(turns, axis=0).tolist()
    yield "libCacheSim, LRU", rate, "requests/s"
    yield "libCacheSim, LRU, over ours", over, "x"
