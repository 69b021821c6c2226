"""Clients that ask again and again, some of which go before they have their answer, and what became of each request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.live.serving import CHAT

WHOLE, TOLD, DROPPED, CLOSED, LOST = "whole", "refused with an error", "dropped by the client", "door closed", "lost"
THINK_S: Final = 1.0  # in the mean
LIMIT_S: Final = 60.0  # an answer that takes longer is lost
DROPS, DROP_S = 0.1, 1.0  # share of requests that are dropped, within this time
UNSTREAMED, RARE = 0.1, 0.005  # shares of the requests


@dataclass
class Clients:
    """Clients of one router.

    Attributes:
        models: that they ask for, each client above all for one of them.
        rare: one that few requests ask for, if there is one.
        count: requests by what became of them; `sent` has all.
        lost: what was seen of the first few that were lost.
        closed_at: when the router was told to stop.
    """

    url: str
    models: Sequence[str]
    seed: int
    rare: str = ""
    sent: int = 0
    count: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    closed_at: float = float("inf")

    async def ask_until(self, end: asyncio.Event, clients: int) -> None:
        """So many clients ask until `end`; every request that was sent is over when this returns."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(LIMIT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*[self._follow(session, client, end) for client in range(clients)])

    async def _follow(self, session: aiohttp.ClientSession, client: int, end: asyncio.Event) -> None:
        rng = random.Random(f"{self.seed}/{client}")
        favourite = rng.choice(self.models)
        while not end.is_set():
            await asyncio.sleep(rng.expovariate(1 / THINK_S))
            if end.is_set():
                return
            model = favourite if rng.random() < 0.7 else rng.choice(self.models)
            if self.rare and rng.random() < RARE:
                model = self.rare
            body = {"model": model, "max_tokens": rng.randint(5, 30), "stream": rng.random() >= UNSTREAMED}
            body |= {"messages": [{"role": "user", "content": "def add(a, b):"}]}
            patience = rng.random() * DROP_S if rng.random() < DROPS else None
            self.sent += 1
            self.count[await self._ask(session, body, patience)] += 1

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any], patience: float | None) -> str:
        began, status = time.monotonic(), 0
        try:
            async with asyncio.timeout(patience), session.post(self.url + CHAT, json=body) as response:
                status = response.status
                text = (await response.read()).decode().rstrip()
        except TimeoutError:
            if patience is not None:
                return DROPPED
            return self._lost(f"no end within {LIMIT_S:g} s, status {status}")
        except aiohttp.ClientError as error:
            if began >= self.closed_at:
                return CLOSED
            if status == 200 and not body["stream"]:  # half a document: the connection says that it is broken
                return TOLD
            return self._lost(f"{type(error).__name__}, status {status}")
        self.statuses[status] += 1
        if '"error"' in text:
            return TOLD
        ended = text.endswith("data: [DONE]") if body["stream"] else '"usage"' in text
        return WHOLE if status == 200 and ended else self._lost(f"status {status}, the end is {text[-60:]!r}")

    def _lost(self, seen: str) -> str:
        if len(self.lost) < 5:
            self.lost.append(seen)
        return LOST
