"""llama-swap: a proxy that starts and ends one server process per model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import quote

import pydantic

from cace_env.live.backends.base import BackendError, BackendModel, Moves, State, state_of, until
from cace_env.live.backends.http import Http

_STATES: Final[dict[str, State]] = {
    "stopped": "absent",
    "starting": "loading",
    "ready": "resident",
    "stopping": "leaving",
    "shutdown": "absent",
}


class _Model(pydantic.BaseModel):
    id: str


class _Models(pydantic.BaseModel):
    data: list[_Model]


class _Running(pydantic.BaseModel):
    model: str
    state: str


class _AllRunning(pydantic.BaseModel):
    running: list[_Running]


class LlamaSwap:
    """Drives llama-swap, whose groups must not swap by themselves: `swap: false`, `exclusive: false`, no `ttl`.

    **Unverified against the real server**: written from its source at 0bdb3720, tested against a fake. It has no call
    that loads; a GET through `/upstream/MODEL/` does.

    Args:
        http: where it listens.
        memory: bytes by model; llama-swap does not know.
        load_s: a load may take so long.
    """

    kind = "llama-swap"
    verified = False

    def __init__(self, http: Http, memory: Mapping[str, int], load_s: float = 600.0) -> None:
        self._http, self._memory, self._load_s = http, memory, load_s
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        states = await self._states()
        return [
            BackendModel(
                model.id, self._moves.state(model.id, states.get(model.id, "absent")), self._memory.get(model.id)
            )
            for model in (await self._http.ask("/v1/models", _Models)).data
        ]

    async def load(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "loading"):
            if (await self._states()).get(name) == "resident":
                return
            try:
                await self._http.call("GET", f"/upstream/{quote(name, safe='')}/", limit_s=self._load_s)
            except BackendError as error:  # the model's own server may have no page of its own at this path
                if error.status not in (404, 405):
                    raise
            await until(lambda: self._is(name, "resident"), self._load_s, "llama-swap: loading")

    async def unload(self, name: str) -> None:
        await state_of(self, name)
        async with self._moves.turn(name, "leaving"):
            if await self._is(name, "absent"):
                return
            await self._http.call("POST", f"/api/models/unload/{quote(name, safe='')}", limit_s=60.0)
            await until(lambda: self._is(name, "absent"), 60.0, "llama-swap: unloading")

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._http.stream(path, {**body, "model": name})

    async def close(self) -> None:
        await self._http.close()

    async def _is(self, name: str, state: State) -> bool:
        return (await self._states()).get(name, "absent") == state

    async def _states(self) -> dict[str, State]:
        running = (await self._http.ask("/running", _AllRunning)).running
        if any(one.state not in _STATES for one in running):
            raise BackendError(502, "llama-swap: GET /running: running.state is none of those known")
        return {one.model: _STATES[one.state] for one in running}
