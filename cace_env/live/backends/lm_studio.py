"""LM Studio, through its own API (v1); what generates goes through its OpenAI-compatible one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pydantic

from cace_env.live.backends.base import BackendModel, Moves, unknown
from cace_env.live.backends.http import Http


class _Instance(pydantic.BaseModel):
    id: str


class _Model(pydantic.BaseModel):
    key: str
    type: str
    size_bytes: int | None = None
    loaded_instances: list[_Instance]


class _Models(pydantic.BaseModel):
    models: list[_Model]


class LMStudio:
    """Drives LM Studio's server; switch its automatic unloading (idle TTL, auto-evict) off.

    **Unverified against the real server**: written from its documentation at c6854fb, tested against a fake.

    Args:
        http: where it listens.
        memory: bytes by model; other models have the size of their files.
        load_s: a load may take so long.
    """

    kind = "lm-studio"
    verified = False

    def __init__(self, http: Http, memory: Mapping[str, int], load_s: float = 600.0) -> None:
        self._http, self._memory, self._load_s = http, memory, load_s
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        return [
            BackendModel(
                model.key,
                self._moves.state(model.key, "resident" if model.loaded_instances else "absent"),
                self._memory.get(model.key, model.size_bytes),
            )
            for model in await self._models()
        ]

    async def load(self, name: str) -> None:
        async with self._moves.turn(name, "loading"):
            if not await self._instances(name):  # a second call would load it a second time
                await self._http.call("POST", "/api/v1/models/load", {"model": name}, limit_s=self._load_s)

    async def unload(self, name: str) -> None:
        async with self._moves.turn(name, "leaving"):
            for instance in await self._instances(name):
                await self._http.call("POST", "/api/v1/models/unload", {"instance_id": instance}, limit_s=60.0)

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._http.stream(path, {**body, "model": name})

    async def close(self) -> None:
        await self._http.close()

    async def _models(self) -> list[_Model]:
        """Those that write text."""
        return [model for model in (await self._http.ask("/api/v1/models", _Models)).models if model.type == "llm"]

    async def _instances(self, name: str) -> list[str]:
        for model in await self._models():
            if model.key == name:
                return [instance.id for instance in model.loaded_instances]
        raise unknown(self.kind)
