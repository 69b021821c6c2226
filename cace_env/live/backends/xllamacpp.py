"""xllamacpp: llama.cpp as a Python package, which serves one model in one process. The processes are ours."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cace_env.config import ConfigError
from cace_env.live.backends.base import BackendError, BackendModel, Moves, unknown
from cace_env.live.backends.http import Http
from cace_env.live.backends.memory import gguf_bytes
from cace_env.live.backends.processes import how_it_ended

CHILD = Path(__file__).with_name("xllamacpp_child.py")
END_S = 10.0


@dataclass
class _Child:
    """The process of one model, and the connection to it."""

    process: asyncio.subprocess.Process
    http: Http


class XLlamaCpp:
    """Starts a process for each model that is loaded, and ends it to unload.

    Args:
        folder: of GGUF files; the models are called by their names without `.gguf`.
        memory: bytes by model; other models have the size of their file.
        load_s: a load may take so long.
        context: tokens of all seats together.
        seats: requests at the same time.
        threads: of each process.
        log: file that gets what the processes write; by default nobody.
    """

    kind = "xllamacpp"
    verified = True

    def __init__(
        self,
        folder: str | Path,
        memory: Mapping[str, int],
        load_s: float = 600.0,
        *,
        context: int = 4096,
        seats: int = 4,
        threads: int = 1,
        log: str | Path = os.devnull,
    ) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ConfigError("xllamacpp is not installed; run: pip install 'cace-env[servers]'")
        self._files = {path.stem: path for path in sorted(Path(folder).glob("*.gguf"))}
        if not self._files:
            raise ConfigError(f"{folder}: there is no GGUF file in this folder")
        self._memory, self._load_s, self._log = memory, load_s, Path(log)
        self._settings = {"n_ctx": context, "n_parallel": seats, "threads": threads}
        self._moves = Moves()
        self._children: dict[str, _Child] = {}

    async def models(self) -> list[BackendModel]:
        return [
            BackendModel(
                name,
                self._moves.state(name, "resident" if self._running(name) is not None else "absent"),
                self._memory.get(name, gguf_bytes(path)),
            )
            for name, path in self._files.items()
        ]

    async def load(self, name: str) -> None:
        self._file(name)
        async with self._moves.turn(name, "loading"):
            if self._running(name) is None:
                await self._end(name)  # one that died by itself
                self._children[name] = await self._started(name)

    async def unload(self, name: str) -> None:
        self._file(name)
        async with self._moves.turn(name, "leaving"):
            await self._end(name)

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        self._file(name)
        child = self._running(name)
        if child is None:
            raise BackendError(409, "xllamacpp: the model is not loaded")
        pieces = child.http.stream(path, {**body, "model": name})
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def close(self) -> None:
        await asyncio.gather(*(self._end(name) for name in list(self._children)))

    def _file(self, name: str) -> Path:
        if name not in self._files:
            raise unknown(self.kind)
        return self._files[name]

    def _running(self, name: str) -> _Child | None:
        child = self._children.get(name)
        return child if child is not None and child.process.returncode is None else None

    async def _started(self, name: str) -> _Child:
        """A process whose first line says where it listens: the model is loaded then."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                # -P: what lies beside the file does not hide packages.
                *(sys.executable, "-P", str(CHILD), str(self._file(name)), json.dumps(self._settings)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), self._load_s)
            if not line:
                status = await process.wait()
                raise BackendError(500, f"xllamacpp: the model did not load (its process {how_it_ended(status)})")
        except TimeoutError as error:
            await _killed(process)
            raise BackendError(504, f"xllamacpp: loading took longer than {self._load_s:g} s") from error
        except BaseException:
            await _killed(process)
            raise
        return _Child(process, Http(self.kind, json.loads(line)["url"]))

    async def _end(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is None:
            return
        await child.http.close()
        assert child.process.stdin is not None
        child.process.stdin.close()  # which it takes as the end
        try:
            await asyncio.wait_for(child.process.wait(), END_S)
        except TimeoutError:
            await _killed(child.process)


async def _killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
