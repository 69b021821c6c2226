"""Backends: real model servers behind one small interface.

Two are tested against the real program (`llama.cpp`, `xllamacpp`). The others were written from documentation and are
tested against fakes: they are **unverified against the real server** until `python -m experiments.live check` has met
one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cace_env.config import ConfigError, shown
from cace_env.live.backends.base import Backend, BackendError, BackendModel, State, state_of
from cace_env.live.backends.http import Http, require_aiohttp
from cace_env.live.backends.llama_cpp import LlamaCpp
from cace_env.live.backends.llama_swap import LlamaSwap
from cace_env.live.backends.lm_studio import LMStudio
from cace_env.live.backends.local_ai import LocalAI
from cace_env.live.backends.memory import read_memory
from cace_env.live.backends.ollama import Ollama
from cace_env.live.backends.processes import Server, Start, find_llama_server, start_llama_server
from cace_env.live.backends.vllm import VLLM
from cace_env.live.backends.xllamacpp import XLlamaCpp

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendError",
    "BackendModel",
    "Server",
    "Start",
    "State",
    "find_llama_server",
    "make_backend",
    "read_memory",
    "start_llama_server",
    "state_of",
]


@dataclass(frozen=True)
class _Given:
    """What a backend is made of."""

    where: str
    memory: Mapping[str, int]
    key: str | None
    load_s: float
    log: Path
    start: Start


def _llama_cpp(given: _Given) -> Backend:
    if given.where.startswith(("http://", "https://")):
        return LlamaCpp(Http("llama.cpp", given.where, given.key), given.memory, given.load_s)
    server = start_llama_server(given.where, given.log, given.start)
    return LlamaCpp(Http("llama.cpp", server.url), given.memory, given.load_s, server)


def _vllm(given: _Given, level: int) -> Backend:
    servers = [Http("vllm", url.strip(), given.key) for url in given.where.split(",")]
    return VLLM(servers, given.memory, given.load_s, level=level)


def _at(kind: type[LlamaSwap] | type[Ollama] | type[LMStudio] | type[LocalAI]) -> Callable[[_Given], Backend]:
    return lambda given: kind(Http(kind.kind, given.where, given.key), given.memory, given.load_s)


BACKENDS: Final[dict[str, Callable[[_Given], Backend]]] = {
    "llama.cpp": _llama_cpp,
    "xllamacpp": lambda given: XLlamaCpp(given.where, given.memory, given.load_s, log=given.log),
    "vllm": partial(_vllm, level=1),
    "vllm-level2": partial(_vllm, level=2),
    "llama-swap": _at(LlamaSwap),
    "ollama": _at(Ollama),
    "lm-studio": _at(LMStudio),
    "localai": _at(LocalAI),
}


def make_backend(
    spec: str,
    *,
    memory: Mapping[str, int] | None = None,
    key: str | None = None,
    load_s: float = 600.0,
    log: str | Path = os.devnull,
    start: Start | None = None,
) -> Backend:
    """A backend from a short description.

    Args:
        spec: `KIND:WHERE` with a kind of `BACKENDS`, such as `llama.cpp:http://127.0.0.1:8080`. WHERE is an address;
            for `vllm` one for each model, with commas between; for `llama.cpp` and `xllamacpp` a folder of GGUF files
            does as well, over which servers are started that end with the backend; llama.cpp's is waited for.
        memory: bytes by model, before what the server says; see `read_memory`.
        key: sent to the server as a bearer token.
        load_s: a load may take so long.
        log: file that gets what a server writes that is started here.
        start: how `llama.cpp:FOLDER` is started.

    Raises:
        ConfigError: no such kind, an address that is none, a server that cannot be started, or aiohttp is missing.
        BackendError: the server that was started does not answer.
    """
    require_aiohttp()
    kind, _, where = spec.partition(":")
    if kind not in BACKENDS or not where:
        raise ConfigError(
            f"backend {shown(spec)} has to be KIND:WHERE, such as llama.cpp:http://127.0.0.1:8080, with a kind of "
            f"{', '.join(BACKENDS)}"
        )
    return BACKENDS[kind](_Given(where, {} if memory is None else memory, key, load_s, Path(log), start or Start()))
