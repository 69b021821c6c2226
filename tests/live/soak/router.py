"""The router in a process of its own, with a policy that goes wrong, and with what a soak wants to know of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiohttp import web

from cace_env.decision_log import DecisionLog
from cace_env.kernel.state import ACCELERATOR
from cace_env.live.backends import make_backend
from cace_env.live.decider import Choice, Decider
from cace_env.live.fleet import LiveFleet, resident_now
from cace_env.live.mirror import Mirror
from cace_env.live.proxy import Proxy
from cace_env.live.router import Router
from cace_env.live.tickets import Options, Serving
from cace_env.observation import SLOT
from cace_env.policies import contestant_of

MOST_WAITING: Final = 150
LOAD_S: Final = 3.0  # longer than any load but those that never end
DRAIN_S: Final = 30.0
MOVES: Final = ("cace_loads_total", "cace_evictions_total", "cace_move_failures_total")
ENDED: Final = "ended.json"  # what the router says at its end: decisions, and what became of their log
FAULTS: Final = ("raises", "hangs", "wrong shape", "no number")


class Faulty:
    """LRU that fails at every third question: raises, hangs for up to 0.2 s, or answers nonsense."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._asked = 0
        self.faults: Counter[str] = Counter()

    def __call__(self, features: Any, legal: Any) -> Any:
        self._asked += 1
        scores = -features[:, SLOT.since_use_s]
        if self._asked == 1 or self._rng.random() < 2 / 3:  # the first is asked before serving
            return scores
        fault = self._rng.choice(FAULTS)
        self.faults[fault] += 1
        if fault == "raises":
            raise RuntimeError("a fault of the soak")
        if fault == "hangs":
            time.sleep(self._rng.uniform(0.06, 0.2))
            return scores
        return scores[:-1] if fault == "wrong shape" else scores * np.nan


class Timed(Decider):
    """Remembers how long each answer took, by who gave it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.times: dict[str, list[float]] = {}

    async def soon(self, mirror: Mirror) -> Choice:
        choice = await super().soon(mirror)
        self.times.setdefault(choice.fallback or "policy", []).append(choice.seconds)
        return choice


async def route(pipe: Connection, fleet: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Serves until SIGTERM; the exit status is 1 where anything is left behind then."""
    logging.basicConfig(filename=folder / "router.log")
    given = LiveFleet.model_validate(fleet)
    backends = [make_backend(each.backend, load_s=LOAD_S, log=folder / "servers.log") for each in given.accelerators]
    tables = await resident_now(given.tables(), backends, given.server_names)
    policy = Faulty(seed)
    decider = Timed(contestant_of(policy), tables)
    log = DecisionLog(folder / "decisions", clock="utc", flush_s=1.0, background=True)
    options = Options(most_waiting=MOST_WAITING, scenario="soak", names=given.server_names)
    router = Router(tables, backends, decider, options, log=log)
    proxy = Proxy(router, Serving(port=0, drain_s=DRAIN_S))
    seen = {"least_free": 0, "longest_still_s": 0.0}

    async def watch() -> None:
        """Memory, and for how long nothing moves while requests wait for models."""
        still_since, moved = time.monotonic(), 0.0
        for k in itertools.count():
            seen["least_free"] = min(
                seen["least_free"], int(router.mirror.state.accelerators[:, ACCELERATOR.free].min())
            )
            if k % 20 == 0:
                now = sum(map(router.metrics.total, MOVES))
                if now != moved or router.queued == 0:
                    still_since, moved = time.monotonic(), now
                seen["longest_still_s"] = max(seen["longest_still_s"], time.monotonic() - still_since)
            await asyncio.sleep(0.01)

    async def tell(request: web.Request) -> web.Response:
        del request
        outcomes: Counter[str] = Counter()
        for metric in (router.metrics.requests, router.metrics.refused):
            for sample in next(iter(metric.collect())).samples:
                if sample.name.endswith("_total"):
                    outcomes[sample.labels.get("outcome", "refused")] += int(sample.value)
        return web.json_response(
            {
                "tasks": len(asyncio.all_tasks()),
                "open": router.open,
                "waiting": router.queued,
                **seen,
                "times": decider.times,
                "faults": policy.faults,
                "outcomes": outcomes,
                "moves": [router.metrics.total(name) for name in MOVES],
            }
        )

    proxy.app.router.add_get("/soak", tell)
    watcher = asyncio.create_task(watch())
    await proxy.run(pipe.send)
    watcher.cancel()
    await asyncio.wait([watcher])
    made = sum(len(times) for times in decider.times.values())
    (folder / ENDED).write_text(json.dumps({"made": made, "failed": log.failed, "lost": log.lost}))
    if router.open or len(asyncio.all_tasks()) > 1:
        sys.exit(1)
