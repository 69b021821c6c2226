"""Made-up clients before a real server: the same requests under each policy, to see all parts at work.

The models are tiny and their weights random, so that a load takes milliseconds: what comes out says that everything
works together, and nothing of what a policy gains.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from cace_env.config import ConfigError, one_line
from cace_env.live.answers import Answer
from cace_env.live.backends import Backend, BackendError, make_backend
from cace_env.live.decider import Decider
from cace_env.live.fleet import LiveFleet, resident_now
from cace_env.live.proxy import Proxy
from cace_env.live.router import Router
from cace_env.live.tickets import Options, Serving
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models
from cace_env.policies import contestant_of

CLIENTS: Final = 6
THINK_S: Final = 0.25  # mean pause of a client between an answer and its next request
NEEDS_GB: Final = dict(zip(TINY_MODELS, (0.003, 0.005, 0.008, 0.012, 0.016), strict=True))
MEMORY_GB: Final = 0.03  # of 0.044 for all
LOAD_S: Final = 30.0
DRAIN_S: Final = 2.0
PATH: Final = "/v1/chat/completions"


class Asked(NamedTuple):
    """One request of a client."""

    model: str
    tokens: int
    think_s: float  # before it


class Outcome(NamedTuple):
    """What came of all requests under one policy."""

    policy: str
    whole: int  # answers
    broken: int  # answers that were refused, or not whole
    first_s: list[float]  # time to the first token of each whole answer, as its client saw it
    evictions: int
    loads: int
    decisions: int
    decision_s: float  # of all together


async def try_policies(
    policies: Sequence[str],
    folder: Path,
    *,
    requests: int,
    seed: int,
    port: int = 0,
    started: Callable[[str, str], None] = lambda policy, url: None,
) -> list[Outcome]:
    """Serve the same requests under each policy, by a llama.cpp server of its own.

    Args:
        policies: names, as `cace_env.policies.contestant_of` takes them.
        folder: gets the models and the server's log.
        requests: of each client.
        seed: of the clients.
        port: of the router; 0 = any that is free.
        started: is told the policy, and the router's address.

    Raises:
        ConfigError: no such policy, or the server is missing or does not run here; the message says what it said.
        KeyboardInterrupt: the router was told to stop.
    """
    models = folder / "models"
    write_tiny_models(models)
    plans = [_plan(seed, client, requests) for client in range(CLIENTS)]
    outcomes = []
    for policy in policies:
        backend = await _server(models, folder / "llama-server.log")
        try:
            outcomes.append(await _serve(policy, backend, plans, port, started))
        finally:
            await backend.close()
    return outcomes


def _plan(seed: int, client: int, requests: int) -> list[Asked]:
    """Requests of a client, half of them for its favourite model."""
    rng, names = random.Random(f"{seed}/{client}"), list(TINY_MODELS)
    favourite = rng.choice(names)
    return [
        Asked(
            favourite if rng.random() < 0.5 else rng.choice(names), rng.randint(8, 24), rng.expovariate(1.0 / THINK_S)
        )
        for _ in range(requests)
    ]


async def _server(models: Path, log: Path) -> Backend:
    """A server that has proved that it runs here: some builds start on every processor, and abort at the first load."""
    backend: Backend | None = None
    try:
        backend = make_backend(f"llama.cpp:{models}", load_s=LOAD_S, log=log)
        smallest = next(iter(TINY_MODELS))
        await backend.load(smallest)
        await backend.unload(smallest)
    except BackendError as error:
        if backend is not None:
            await backend.close()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        last = f"; its last words: {one_line(said[-1])}" if said else ""
        problem = error.message.partition(": see ")[0]
        raise ConfigError(
            f"llama-server does not run here: {problem}{last}; docs/live.md says which builds do"
        ) from error
    except BaseException:
        if backend is not None:
            await backend.close()
        raise
    return backend


async def _serve(
    policy: str, backend: Backend, plans: Sequence[Sequence[Asked]], port: int, started: Callable[[str, str], None]
) -> Outcome:
    fleet = LiveFleet.model_validate(
        {
            "accelerators": [{"name": "cpu", "memory_gb": MEMORY_GB, "backend": "llama.cpp:"}],
            "models": [{"name": name, "need_gb": gb, "load_s": 0.05, "decode_ms": 5} for name, gb in NEEDS_GB.items()],
            "drain_after_s": 2.0,
        }
    )
    tables = await resident_now(fleet.tables(), [backend])
    router = Router(tables, [backend], Decider(contestant_of(policy), tables), Options(scenario="demo"))
    proxy = Proxy(router, Serving(port=port, drain_s=DRAIN_S))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(proxy.run(address.set_result))
    try:
        either: list[asyncio.Future[Any]] = [address, serving]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # why it could not start
        else:
            started(policy, address.result())
            answers = await _ask_all(address.result(), plans, proxy)
    finally:
        told = proxy.stopping.is_set()
        proxy.stopping.set()
        with suppress(asyncio.CancelledError):
            await serving
    if told:
        raise KeyboardInterrupt
    first_s = [first for first in answers if first is not None]
    return Outcome(
        policy,
        len(first_s),
        len(answers) - len(first_s),
        first_s,
        round(router.metrics.total("cace_evictions_total")),
        round(router.metrics.total("cace_loads_total")),
        round(router.metrics.total("cace_decision_seconds_count")),
        router.metrics.total("cace_decision_seconds_sum"),
    )


async def _ask_all(url: str, plans: Sequence[Sequence[Asked]], proxy: Proxy) -> list[float | None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def follow(plan: Sequence[Asked]) -> list[float | None]:
            answers = []
            for asked in plan:
                await asyncio.sleep(asked.think_s)
                if proxy.stopping.is_set():
                    break
                answers.append(await _ask(client, url, asked))
            return answers

        return [answer for answers in await asyncio.gather(*map(follow, plans)) for answer in answers]


async def _ask(client: aiohttp.ClientSession, url: str, asked: Asked) -> float | None:
    """Time to the first token [s]; None if the answer was not whole."""
    body = {"model": asked.model, "stream": True, "max_tokens": asked.tokens}
    body |= {"messages": [{"role": "user", "content": "def add(a, b):"}]}
    began, first, answer, tail = time.perf_counter(), None, Answer(streams=True), b""
    try:
        async with client.post(url + PATH, json=body, timeout=aiohttp.ClientTimeout(LOAD_S)) as response:
            async for piece in response.content.iter_any():
                if answer.feed(piece) and first is None:
                    first = time.perf_counter() - began
                tail = (tail + piece)[-32:]
            return first if response.status == 200 and tail.rstrip().endswith(b"data: [DONE]") else None
    except (aiohttp.ClientError, TimeoutError):
        return None
