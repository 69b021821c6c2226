"""A model server of lies, which notices when it is treated badly, and a router before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cace_env.config import ConfigError
from cace_env.live.backends.base import BackendError, BackendModel
from cace_env.live.decider import Decider
from cace_env.live.fleet import LiveFleet, resident_now
from cace_env.live.proxy import Proxy
from cace_env.live.router import Router
from cace_env.live.tickets import Options, Serving
from cace_env.policies import contestant_of
from cace_env.tables import Protocol

CHAT = "/v1/chat/completions"


@dataclass
class FakeBackend:
    """Models that exist in name only; `wrongs` holds what no router may do."""

    needs: dict[str, float]  # GB
    memory_gb: float
    load_s: float = 0.02
    unload_s: float = 0.005
    first_s: float = 0.005
    token_s: float = 0.002
    kind: str = "fake"
    verified: bool = False
    states: dict[str, Any] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    started: list[tuple[str, str]] = field(default_factory=list)  # (model, content of the request)
    wrongs: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # "load", "unload", "generate", "stream"
    ended: int = 0  # streams that were closed before their end
    closed: bool = False

    def _gb(self) -> float:
        return sum(self.needs[name] for name, state in self.states.items() if state != "absent")

    async def models(self) -> list[BackendModel]:
        return [BackendModel(name, self.states.get(name, "absent"), None) for name in self.needs]

    async def load(self, name: str) -> None:
        if self.states.get(name, "absent") == "resident":
            return
        if "loading" in self.states.values() or "leaving" in self.states.values():
            self.wrongs.append(f"{name} is loaded while another model is on its way")
        self.states[name] = "loading"
        if self._gb() > self.memory_gb + 1e-9:
            self.wrongs.append(f"{self._gb()} GB at the load of {name}")
        await asyncio.sleep(self.load_s)
        if "load" in self.broken:
            self.states[name] = "absent"
            raise BackendError(500, "fake: the load failed")
        self.states[name] = "resident"

    async def unload(self, name: str) -> None:
        if self.running.get(name):
            self.wrongs.append(f"{name} is unloaded under {self.running[name]} requests")
        if "unload" in self.broken:
            raise BackendError(500, "fake: the unload failed")
        self.states[name] = "leaving"
        await asyncio.sleep(self.unload_s)
        self.states[name] = "absent"

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        if self.states.get(name) != "resident":
            self.wrongs.append(f"{name} is asked, and it is {self.states.get(name)}")
            raise BackendError(409, "fake: not loaded")
        self.started.append((name, body["messages"][0]["content"]))
        if "generate" in self.broken:
            raise BackendError(500, "fake: refused")
        self.running[name] = self.running.get(name, 0) + 1
        whole = False
        try:
            await asyncio.sleep(self.first_s)
            tokens = body.get("max_tokens", 5)
            if not body.get("stream"):
                await asyncio.sleep(self.token_s * tokens)
                yield json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).encode()
            else:
                yield event({"choices": [{"delta": {"role": "assistant"}}]})
                for k in range(tokens):
                    if "stream" in self.broken and k == 2:
                        raise BackendError(502, "fake: gone")
                    yield event({"choices": [{"delta": {"content": f"t{k} "}}]})
                    await asyncio.sleep(self.token_s)
                yield b"data: [DONE]\n\n"
            whole = True
        finally:
            self.running[name] -= 1
            self.ended += not whole

    async def close(self) -> None:
        self.closed = True


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@dataclass
class Live:
    """A router that serves, and a client of it."""

    url: str
    client: aiohttp.ClientSession
    router: Router
    proxy: Proxy
    backends: list[FakeBackend]
    task: asyncio.Task[None]

    def post(self, model: str, content: str = "hello", path: str = CHAT, **body: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **body}
        return self.client.post(self.url + path, json=body)

    async def say(self, model: str, content: str = "hello", **body: Any) -> tuple[int, str]:
        """Status and text of an answer, as a stream by default."""
        async with self.post(model, content, **{"stream": True} | body) as response:
            return response.status, await response.text()

    async def until(self, holds: Any, limit_s: float = 5.0) -> None:
        async with asyncio.timeout(limit_s):
            while not holds():
                await asyncio.sleep(0.005)


def fleet_of(needs: dict[str, float], memory_gb: list[float], **changes: Any) -> LiveFleet:
    return LiveFleet.model_validate(
        {
            "accelerators": [
                {"name": f"gpu-{a}", "memory_gb": gb, "backend": "fake:"} for a, gb in enumerate(memory_gb)
            ],
            "models": [{"name": name, "need_gb": gb, "load_s": 0.02, "seats": 2} for name, gb in needs.items()],
        }
        | changes
    )


@asynccontextmanager
async def serving(
    needs: dict[str, float] | None = None,
    memory_gb: list[float] | None = None,
    policy: Any = "lru",
    *,
    backend: dict[str, Any] | None = None,
    **how: Any,
) -> AsyncIterator[Live]:
    """A router before fakes, by default five models of 1 to 3 GB on one accelerator of 5 GB."""
    needs = needs or {"a": 1.0, "b": 2.0, "c": 3.0, "d": 2.0, "e": 1.0}
    memory_gb = memory_gb or [5.0]
    backends = [FakeBackend(needs, gb, **backend or {}) for gb in memory_gb]
    async with serving_backends(backends, needs, memory_gb, policy, **how) as live:
        yield live
    assert not [wrong for each in backends for wrong in each.wrongs]


@asynccontextmanager
async def serving_backends(
    backends: list[Any],
    needs: dict[str, float],
    memory_gb: list[float],
    policy: Any,
    *,
    protocol: Protocol = Protocol.EVICTION,
    serve: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    log: Any = None,
    **changes: Any,
) -> AsyncIterator[Live]:
    """A router before any backends; `changes` are keys of `LiveFleet`."""
    try:
        tables = await resident_now(fleet_of(needs, memory_gb, **changes).tables(protocol), backends)
    except ConfigError:
        for each in backends:
            await each.close()
        raise
    router = Router(tables, backends, Decider(contestant_of(policy), tables), Options(**options or {}), log=log)
    proxy = Proxy(router, Serving(port=0, drain_s=5.0) if serve is None else Serving(port=0, **serve))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(proxy.run(address.set_result))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        waiting: list[asyncio.Future[Any]] = [address, task]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        live = Live(address.result(), client, router, proxy, backends, task)
        try:
            yield live
        finally:
            proxy.stopping.set()
            await asyncio.wait_for(task, 10.0)
