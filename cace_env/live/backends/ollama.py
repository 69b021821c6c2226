"""Ollama, through its own API; what generates goes through its OpenAI-compatible one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pydantic

from cace_env.live.backends.base import BackendModel, Moves, state_of, until
from cace_env.live.backends.http import Http


class _Model(pydantic.BaseModel):
    name: str
    size: int  # bytes of the files; in /api/ps of all that it takes


class _Models(pydantic.BaseModel):
    models: list[_Model]


class Ollama:
    """Drives an Ollama started with `OLLAMA_KEEP_ALIVE=-1 OLLAMA_MAX_LOADED_MODELS=1000`.

    Otherwise it unloads models by itself: after five idle minutes, and where it thinks that memory is short.

    **Unverified against the real server**: written from its documentation at fb30760, tested against a fake.

    Args:
        http: where it listens.
        memory: bytes by model; other models have what `/api/ps` says (weights and cache) while they are loaded, else
            the size of their files.
        load_s: a load may take so long.
    """

    kind = "ollama"
    verified = False

    def __init__(self, http: Http, memory: Mapping[str, int], load_s: float = 600.0) -> None:
        self._http, self._memory, self._load_s = http, memory, load_s
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        loaded = await self._loaded()
        return [
            BackendModel(
                model.name,
                self._moves.state(model.name, "resident" if model.name in loaded else "absent"),
                self._memory.get(model.name, loaded.get(model.name, model.size)),
            )
            for model in (await self._http.ask("/api/tags", _Models)).models
        ]

    async def load(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "loading"):
            # Without a prompt it loads and answers when the model is there.
            body = {"model": name, "keep_alive": -1, "stream": False}
            await self._http.call("POST", "/api/generate", body, limit_s=self._load_s)

    async def unload(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "leaving"):
            if name not in await self._loaded():  # the call would load it first
                return
            await self._http.call("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})

            async def gone() -> bool:
                return name not in await self._loaded()

            await until(gone, 60.0, "ollama: unloading")

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._http.stream(path, {**body, "model": name})

    async def close(self) -> None:
        await self._http.close()

    async def _loaded(self) -> dict[str, int]:
        return {model.name: model.size for model in (await self._http.ask("/api/ps", _Models)).models}
