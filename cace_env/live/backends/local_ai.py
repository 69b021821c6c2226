"""LocalAI: many engines behind one API; the calls that manage it want an administrator's key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pydantic

from cace_env.live.backends.base import BackendModel, Moves, state_of, until
from cace_env.live.backends.http import Http


class _Model(pydantic.BaseModel):
    id: str


class _Models(pydantic.BaseModel):
    data: list[_Model]


class _System(pydantic.BaseModel):
    loaded_models: list[_Model]


class LocalAI:
    """Drives a LocalAI whose watchdogs and limit of loaded backends are off.

    **Unverified against the real server**: written from its source at 82c191af, tested against a fake.

    Args:
        http: where it listens.
        memory: bytes by model; LocalAI tells that of whole accelerators only.
        load_s: a load may take so long.
    """

    kind = "localai"
    verified = False

    def __init__(self, http: Http, memory: Mapping[str, int], load_s: float = 600.0) -> None:
        self._http, self._memory, self._load_s = http, memory, load_s
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        loaded = await self._loaded()
        return [
            BackendModel(
                model.id,
                self._moves.state(model.id, "resident" if model.id in loaded else "absent"),
                self._memory.get(model.id),
            )
            for model in (await self._http.ask("/v1/models", _Models)).data
        ]

    async def load(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "loading"):
            if name not in await self._loaded():
                await self._http.call("POST", "/backend/load", {"model": name}, limit_s=self._load_s)

    async def unload(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "leaving"):
            if name not in await self._loaded():
                return
            await self._http.call("POST", "/backend/shutdown", {"model": name}, limit_s=60.0)

            async def gone() -> bool:
                return name not in await self._loaded()

            await until(gone, 60.0, "localai: unloading")

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._http.stream(path, {**body, "model": name})

    async def close(self) -> None:
        await self._http.close()

    async def _loaded(self) -> set[str]:
        return {model.id for model in (await self._http.ask("/system", _System)).loaded_models}
