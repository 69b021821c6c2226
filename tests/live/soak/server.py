"""A model server of lies in a process of its own, which can be killed and started again.

It speaks LocalAI's API, so that the router drives it by a backend of the package. It refuses what is not loaded, some
loads are slow and some never end, and it says at once where it is treated as no router may.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

from aiohttp import web

FIRST_S: Final = 0.005
TOKEN_S: Final = 0.01
LOAD_S, SLOW_S = 0.03, 1.0
UNLOAD_S: Final = 0.005
SLOW, ENDLESS = 0.04, 0.01  # shares of the loads


class Server:
    """Models that exist in name only.

    Args:
        needs_gb: memory by model.
        memory_gb: that there is.
        pipe: gets a line for everything that is wrong.
        seed: of the faults.
    """

    def __init__(self, needs_gb: Mapping[str, float], memory_gb: float, pipe: Connection, seed: int) -> None:
        self._needs, self._memory, self._pipe = needs_gb, memory_gb, pipe
        self._rng = random.Random(seed)
        self._states: dict[str, str] = {}
        self._running: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/system", self.system)
        app.router.add_post("/backend/load", self.load)
        app.router.add_post("/backend/shutdown", self.shutdown)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self._needs]})

    async def system(self, request: web.Request) -> web.Response:
        there = [{"id": name} for name, state in self._states.items() if state != "loading"]
        return web.json_response({"loaded_models": there})

    async def load(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        if {"loading", "leaving"} & {*self._states.values()}:
            self._pipe.send(f"{name} is loaded while another model is on its way")
        self._states[name] = "loading"
        taken = sum(self._needs[each] for each in self._states)
        if taken > self._memory + 1e-9:
            self._pipe.send(f"{taken:g} of {self._memory:g} GB are taken at the load of {name}")
        chance = self._rng.random()
        try:
            await asyncio.sleep(1e6 if chance < ENDLESS else SLOW_S if chance < ENDLESS + SLOW else LOAD_S)
        except asyncio.CancelledError:  # given up
            del self._states[name]
            raise
        self._states[name] = "resident"
        return web.json_response({})

    async def shutdown(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        if self._running[name]:
            self._pipe.send(f"{name} is unloaded under {self._running[name]} requests")
        self._states[name] = "leaving"
        await asyncio.sleep(UNLOAD_S)
        del self._states[name]
        return web.json_response({})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, tokens = body["model"], body["max_tokens"]
        if self._states.get(name) != "resident":  # after a new start
            return web.json_response({"error": {"message": "not loaded", "type": "not_found"}}, status=404)
        self._running[name] += 1
        try:
            await asyncio.sleep(FIRST_S)
            if not body.get("stream"):
                await asyncio.sleep(TOKEN_S * tokens)
                return web.json_response({"choices": [], "usage": {"completion_tokens": tokens}})
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            word = b"data: " + json.dumps({"choices": [{"delta": {"content": "word "}}]}).encode() + b"\n\n"
            for _ in range(tokens):
                await response.write(word)
                await asyncio.sleep(TOKEN_S)
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            self._running[name] -= 1


async def serve(pipe: Connection, port: int, needs_gb: Mapping[str, float], memory_gb: float, seed: int) -> None:
    """Serves until the process is killed; the first line in the pipe is the address."""
    app: Any = Server(needs_gb, memory_gb, pipe, seed).app()
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    pipe.send(f"http://127.0.0.1:{port}")
    await asyncio.Event().wait()
