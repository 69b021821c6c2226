"""What the router costs: time to the first token beside going straight to the server, decisions, many streams at once.

    python -m tests.live.bench

The server is a process that sends tokens at a fixed pace, the router is another, and the client is this one; all share
this machine's cores over loopback, so idle ones give better numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from cace_env.decision_log import DecisionLog, read_decisions
from cace_env.live.backends.base import BackendModel
from cace_env.live.backends.http import Http
from cace_env.live.decider import Decider
from cace_env.live.fleet import resident_now
from cace_env.live.proxy import Proxy
from cace_env.live.router import Router
from cace_env.live.tickets import Serving
from cace_env.policies import contestant_of
from tests.live.serving import CHAT, event, fleet_of

TOKENS, TOKEN_S = 20, 0.01
LOG_S = 2.0  # decisions are written far more often than `serve` does, once in a minute
FITS = {"a": 1.0, "b": 1.0, "c": 1.0}  # all at once: no request waits for a load


async def fake_server(pipe: Connection) -> None:
    """A server that streams tokens."""

    async def generate(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(TOKENS):
            await response.write(event({"choices": [{"delta": {"content": "word "}}]}))
            await asyncio.sleep(TOKEN_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    await listen(generate, pipe)


async def listen(generate: Any, pipe: Connection) -> None:
    """Serves until the process ends."""
    app = web.Application()
    app.router.add_post(CHAT, generate)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await asyncio.Event().wait()


class Remote:
    """That server as a backend, over HTTP like the real ones; loads take no time."""

    kind, verified = "fake", False

    def __init__(self, url: str, names: Mapping[str, float]) -> None:
        self._http, self._names = Http("fake", url), names

    async def models(self) -> list[BackendModel]:
        return [BackendModel(name, "absent", None) for name in self._names]

    async def load(self, name: str) -> None:
        await asyncio.sleep(0.05)

    async def unload(self, name: str) -> None:
        await asyncio.sleep(0.01)

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._http.stream(path, {**body, "model": name})) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        await self._http.close()


async def bare_proxy(pipe: Connection, url: str) -> None:
    """A proxy that passes everything through, and does nothing else: what any proxy in Python costs."""
    http = Http("fake", url)

    async def generate(request: web.Request) -> web.StreamResponse:
        body, response = await request.json(), web.StreamResponse()
        async with aclosing(http.stream(CHAT, body)) as pieces:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(piece)
        await response.write_eof()
        return response

    await listen(generate, pipe)


async def router(
    pipe: Connection, url: str, policy: str, needs: dict[str, float], memory_gb: float = 3.0, pinned: str = "",
    folder: str = "",
) -> None:  # fmt: skip
    """The router before it, with a decision log if there is a folder for one."""
    backends = [Remote(url, needs)]
    models = [
        {"name": name, "need_gb": gb, "load_s": 0.05, "seats": 256, "pinned_on": "gpu-0" if name in pinned else None}
        for name, gb in needs.items()
    ]
    fleet = fleet_of(needs, [memory_gb], models=models, drain_after_s=0.1)
    tables = await resident_now(fleet.tables(), backends)
    log = DecisionLog(folder, clock="utc", flush_s=LOG_S, background=True) if folder else None
    driven = Router(tables, backends, Decider(contestant_of(policy), tables), log=log)
    await Proxy(driven, Serving(port=0)).run(pipe.send)


def started(target: Any, *arguments: Any) -> tuple[Any, str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run, args=(target, theirs, *arguments), daemon=True)
    process.start()
    return process, ours.recv()


def run(target: Any, *arguments: Any) -> None:
    asyncio.run(target(*arguments))


async def ask(client: aiohttp.ClientSession, url: str, model: str) -> tuple[float, bool]:
    """Time to the first token [s], and whether the stream was whole."""
    began = time.perf_counter()
    first, last = 0.0, b""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x" * 2000}]}
    async with client.post(url + CHAT, json=body) as response:
        async for line in response.content:
            first = first or time.perf_counter() - began
            last = line.strip() or last
    return first, last == b"data: [DONE]"


async def at_rate(url: str, models: str, rate: float, seconds: float) -> list[float]:
    """Times to the first token of Poisson arrivals."""
    rng = random.Random(1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        asked = []
        for _ in range(int(rate * seconds)):
            asked.append(asyncio.create_task(ask(client, url, rng.choice(models))))
            await asyncio.sleep(rng.expovariate(rate))
        return [first for first, whole in await asyncio.gather(*asked) if whole]


async def at_once(url: str, models: str, clients: int, seconds: float) -> tuple[int, int]:
    """Whole and broken streams of clients that ask again and again."""
    until, whole = time.perf_counter() + seconds, [0, 0]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def again(seed: int) -> None:
            rng = random.Random(seed)
            while time.perf_counter() < until:
                whole[(await ask(client, url, rng.choice(models)))[1]] += 1

        await asyncio.gather(*[again(seed) for seed in range(clients)])
    return whole[1], whole[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    options.add_argument("--rate", type=float, default=50.0, help="requests per second")
    options.add_argument("--seconds", type=float, default=10.0, help="of each part")
    options.add_argument("--clients", type=int, default=200, help="streams at once")
    given = options.parse_args()
    server, straight = started(fake_server)
    process, routed = started(router, straight, "agent:eviction", FITS)
    bare_process, bare = started(bare_proxy, straight)
    asyncio.run(at_rate(routed, "abc", 20.0, 1.0))  # loads the models
    places = {"straight": straight, "through a bare proxy": bare, "through the router": routed}
    firsts: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(3):
        for name, url in places.items():
            firsts[name] += asyncio.run(at_rate(url, "abc", given.rate, given.seconds))
    print(f"time to first token at {given.rate:g} requests/s, {len(firsts['straight'])} each [ms]: mean, p50, p99")
    for name, times in firsts.items():
        ms = np.array(times) * 1e3
        print(f"  {name:20} {ms.mean():6.2f} {np.median(ms):6.2f} {np.quantile(ms, 0.99):6.2f}")
    bare_process.terminate()
    whole, broken = asyncio.run(at_once(routed, "abc", given.clients, given.seconds))
    print(f"{given.clients} clients at once: {whole} whole streams, {broken} broken")
    process.terminate()
    process.join()
    process, routed = started(router, straight, "agent:eviction", dict.fromkeys("abcdefgh", 1.0))
    asyncio.run(at_rate(routed, "abcdefgh", given.rate / 2, given.seconds))
    print("decisions of agent:eviction under load, by the router's own histogram:")
    for line in asyncio.run(metrics(routed)):
        print(f"  {line}")
    process.terminate()
    process.join()
    print(f"time to first token of loaded models while others are loaded and evicted, written every {LOG_S:g} s [ms]:")
    with_log(straight, given.rate, given.seconds)
    server.terminate()


def with_log(straight: str, rate: float, seconds: float) -> None:
    """With and without a decision log, in turn: three models are always there, five others make the decisions."""
    needs = dict.fromkeys("abcdefgh", 1.0)
    firsts: dict[str, list[float]] = {"without a log": [], "with a log": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            for name, where in zip(firsts, ("", folder), strict=True):
                process, routed = started(router, straight, "cace", needs, 5.0, "abc", where)
                firsts[name] += asyncio.run(beside_evictions(routed, rate, seconds))
                process.terminate()
                process.join()
        made = len(read_decisions(folder))
    for name, times in firsts.items():
        ms = np.array(times) * 1e3
        print(f"  {name:20} {ms.mean():6.2f} {np.median(ms):6.2f} {np.quantile(ms, 0.99):6.2f}  longest {ms.max():.1f}")
    print(f"  {made:,} decisions were logged")


async def beside_evictions(url: str, rate: float, seconds: float) -> list[float]:
    """Times to the first token of models that are there, while requests for others make a load each."""
    others = asyncio.create_task(at_rate(url, "defgh", rate / 5, seconds))
    firsts = await at_rate(url, "abc", rate, seconds)
    await others
    return firsts


async def metrics(url: str) -> list[str]:
    async with aiohttp.ClientSession() as client, client.get(url + "/metrics") as response:
        text = await response.text()
    wanted = ("cace_decision_seconds_", "cace_evictions_total")
    return [line for line in text.splitlines() if line.startswith(wanted) and "created" not in line]


if __name__ == "__main__":
    main()
