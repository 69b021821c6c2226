"""llama.cpp's `llama-server` in router mode: one process that starts and ends another one for each model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import pydantic

from cace_env.live.backends.base import BackendError, BackendModel, Moves, State, unknown, until
from cace_env.live.backends.http import Http
from cace_env.live.backends.memory import gguf_bytes
from cace_env.live.backends.processes import Server

_STATES: Final[dict[str, State]] = {
    "unloaded": "absent",
    "downloading": "absent",
    "loading": "loading",
    "loaded": "resident",
    "sleeping": "asleep",
}


class _Status(pydantic.BaseModel):
    value: str
    args: list[str] = []
    failed: bool = False
    exit_code: int | None = None


class _Meta(pydantic.BaseModel):
    size: int | None = None  # bytes of the tensors, known while it is loaded


class _Model(pydantic.BaseModel):
    id: str
    status: _Status  # a server of one model has none
    meta: _Meta | None = None


class _Models(pydantic.BaseModel):
    data: list[_Model]


class LlamaCpp:
    """Drives `llama-server --models-dir D --models-max 0 --no-models-autoload` (llama.cpp, tools/server/README.md).

    Started otherwise, the router unloads the least recently used model by itself, also one that is just writing.

    Args:
        http: where the router listens.
        memory: bytes by model; other models have the size of their file, where it lies on this machine.
        load_s: a load may take so long.
        server: the process, where it shall end with this backend.
    """

    kind = "llama.cpp"
    verified = True

    def __init__(
        self, http: Http, memory: Mapping[str, int], load_s: float = 600.0, server: Server | None = None
    ) -> None:
        self._http, self._memory, self._load_s, self._server = http, memory, load_s, server
        self._moves = Moves()

    async def models(self) -> list[BackendModel]:
        return [
            BackendModel(model.id, self._moves.state(model.id, _state(model)), self._bytes(model))
            for model in (await self._http.ask("/models", _Models)).data
        ]

    async def load(self, name: str) -> None:
        async with self._moves.turn(name, "loading"):
            state = _state(await self._model(name))
            if state == "asleep":  # a sleeping process wakes for a request only: start a new one
                await self._unload(name)
            if state in ("absent", "asleep"):
                await self._http.call("POST", "/models/load", {"model": name})

            async def loaded() -> bool:
                model = await self._model(name)
                if _state(model) == "absent":
                    raise BackendError(
                        500, f"llama.cpp: the model did not load (exit status {model.status.exit_code}): see its log"
                    )
                return _state(model) == "resident"

            await until(loaded, self._load_s, "llama.cpp: loading")
            if self._server is not None:
                self._server.loaded(name)

    async def unload(self, name: str) -> None:
        async with self._moves.turn(name, "leaving"):
            if _state(await self._model(name)) != "absent":
                await self._unload(name)

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._http.stream(path, {**body, "model": name})

    async def close(self) -> None:
        await self._http.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def _unload(self, name: str) -> None:
        await self._http.call("POST", "/models/unload", {"model": name})

        async def gone() -> bool:
            return _state(await self._model(name)) == "absent"

        # The router kills a process that does not end by itself within `stop-timeout`, 10 s.
        await until(gone, 60.0, "llama.cpp: unloading")

    async def _model(self, name: str) -> _Model:
        for model in (await self._http.ask("/models", _Models)).data:
            if model.id == name:
                return model
        raise unknown(self.kind)

    def _bytes(self, model: _Model) -> int | None:
        """The size of the file comes first: it is the same before and after the load."""
        if model.id in self._memory:
            return self._memory[model.id]
        arguments = model.status.args
        at = arguments.index("--model") + 1 if "--model" in arguments else len(arguments)
        on_disk = gguf_bytes(arguments[at]) if at < len(arguments) else None
        return on_disk if on_disk is not None else model.meta.size if model.meta is not None else None


def _state(model: _Model) -> State:
    if model.status.value not in _STATES:
        raise BackendError(502, "llama.cpp: GET /models: data.status.value is none of those known")
    return _STATES[model.status.value]
