"""vLLM in sleep mode: a process for each model, whose weights move between the accelerator and the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pydantic

from cace_env.live.backends.base import BackendModel, Moves, unknown
from cace_env.live.backends.http import Http


class _Model(pydantic.BaseModel):
    id: str


class _Models(pydantic.BaseModel):
    data: list[_Model] = pydantic.Field(min_length=1)


class _Sleeping(pydantic.BaseModel):
    is_sleeping: bool


class VLLM:
    """Wakes and puts to sleep servers started with `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-sleep-mode`.

    **Unverified against the real server**: written from vLLM's documentation, tested against a fake.

    Args:
        servers: one for each model; the model is the first of its `/v1/models`.
        memory: bytes by model; vLLM does not say.
        load_s: waking, or falling asleep behind running requests, may take so long.
        level: 1 keeps the weights in host memory, 2 drops them and reads them from disk again.
    """

    kind = "vllm"
    verified = False

    def __init__(
        self, servers: Sequence[Http], memory: Mapping[str, int], load_s: float = 600.0, *, level: int = 1
    ) -> None:
        self._servers, self._memory, self._load_s, self._level = servers, memory, load_s, level
        self._named: dict[str, Http] = {}
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        return list(await asyncio.gather(*(self._model(name, http) for name, http in (await self._names()).items())))

    async def load(self, name: str) -> None:
        http = await self._server(name)
        async with self._moves.turn(name, "loading"):
            if not (await http.ask("/is_sleeping", _Sleeping)).is_sleeping:
                return
            if self._level == 1:
                await http.call("POST", "/wake_up", limit_s=self._load_s)
                return
            await http.call("POST", "/wake_up?tags=weights", limit_s=self._load_s)
            await http.call("POST", "/collective_rpc", {"method": "reload_weights"}, limit_s=self._load_s)
            await http.call("POST", "/wake_up?tags=kv_cache", limit_s=self._load_s)
            await http.call("POST", "/reset_prefix_cache")

    async def unload(self, name: str) -> None:
        http = await self._server(name)
        async with self._moves.turn(name, "leaving"):
            if not (await http.ask("/is_sleeping", _Sleeping)).is_sleeping:
                # Its default mode, abort, would cut what is running.
                await http.call("POST", f"/sleep?level={self._level}&mode=wait", limit_s=self._load_s)

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        pieces = (await self._server(name)).stream(path, {**body, "model": name})
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def close(self) -> None:
        for http in self._servers:
            await http.close()

    async def _model(self, name: str, http: Http) -> BackendModel:
        sleeps = (await http.ask("/is_sleeping", _Sleeping)).is_sleeping
        state = self._moves.state(name, "asleep" if sleeps else "resident")
        return BackendModel(name, state, self._memory.get(name))

    async def _names(self) -> dict[str, Http]:
        """The server of each model; asked once, since a server keeps its model."""
        if not self._named:
            answers = await asyncio.gather(*(http.ask("/v1/models", _Models) for http in self._servers))
            self._named = {answer.data[0].id: http for answer, http in zip(answers, self._servers, strict=True)}
        return self._named

    async def _server(self, name: str) -> Http:
        names = await self._names()
        if name not in names:
            raise unknown(self.kind)
        return names[name]
