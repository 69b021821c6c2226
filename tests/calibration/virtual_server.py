"""A server that is none, in a loop whose time jumps: every delay is known, and nothing is waited for."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cace_env.live.backends.base import BackendModel, State, unknown

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps wakes at once, and the time is as if it had slept."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 0.0

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual_s = max(self._virtual_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(body: Callable[[], Awaitable[T]]) -> T:
    """What a coroutine returns."""

    async def run() -> T:
        return await body()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


@dataclass
class Delays:
    """Of one model, in seconds, by the rules and beyond them."""

    load: float = 0.8
    unload: float = 0.1
    first: float = 0.3  # more of the first request after a load
    constant: float = 0.006
    round: float = 0.020
    decode: float = 0.004
    kv: float = 2e-6
    prefill: float = 0.001
    attention: float = 1e-6
    batch_two: float = 1.0  # times as long where two or more decode: no straight line
    beside: float = 1.15
    two_busy: float = 2.3
    bunch: int = 1  # tokens that come together
    silent: int = 1  # one of so many tokens brings text


WORD = b'data: {"choices": [{"delta": {"content": "word "}}]}\n\n'


class VirtualServer:
    """A backend with known delays, one token for each word; every prompt has ten tokens of a template."""

    kind = "virtual"
    verified = False
    chunk = 2048

    def __init__(self, delays: dict[str, Delays], slower_after: float = math.inf, slower: float = 1.0) -> None:
        self._delays = delays
        self._states: dict[str, State] = dict.fromkeys(delays, "absent")
        self._fresh: set[str] = set()
        self._writing = dict.fromkeys(delays, 0)
        self._known: dict[str, list[str]] = {}
        self._slower_after, self._slower = slower_after, slower

    async def models(self) -> list[BackendModel]:
        return [BackendModel(name, state, 10**9) for name, state in self._states.items()]

    async def load(self, name: str) -> None:
        if name not in self._states:
            raise unknown(self.kind)
        if self._states[name] != "resident":
            self._states[name] = "loading"
            await self._sleep(self._delays[name].load)
            self._states[name] = "resident"
            self._fresh.add(name)

    async def unload(self, name: str) -> None:
        if self._states[name] == "resident":
            await self._sleep(self._delays[name].unload)
            self._states[name] = "absent"

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        own, words = self._delays[name], body["messages"][0]["content"].split()
        context, known = 10 + len(words), self._known.get(name, [])
        cached = len(known) + 9 if known and words[: len(known)] == known else 0
        self._known[name] = words
        new = context - cached
        work = own.prefill * new + own.attention * (context**2 - cached**2) / 2
        late = own.first if name in self._fresh else 0.0
        self._fresh.discard(name)
        await self._sleep(late + own.constant + math.ceil(new / self.chunk) * own.round + work)
        self._writing[name] += 1
        tokens = body["max_tokens"]
        yield WORD
        for begin in range(1, tokens, own.bunch):
            count = min(own.bunch, tokens - begin)
            await self._sleep(count * self._gap(name, context + tokens / 2))
            for _ in range(
                count if begin % own.silent == 0 else 0
            ):  # each a piece of its own, as if the client had been too slow for them
                yield WORD
        self._writing[name] -= 1
        usage = {
            "prompt_tokens": context,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        yield _event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"

    async def close(self) -> None:
        """Nothing is open."""

    def _gap(self, name: str, context: float) -> float:
        own, batch = self._delays[name], self._writing[name]
        gap = own.round + batch * own.decode + own.kv * batch * context
        gap *= own.batch_two if batch > 1 else 1.0
        gap *= own.beside if "loading" in self._states.values() else 1.0
        return gap * (own.two_busy if sum(count > 0 for count in self._writing.values()) > 1 else 1.0)

    async def _sleep(self, seconds: float) -> None:
        slow = asyncio.get_running_loop().time() > self._slower_after
        await asyncio.sleep(seconds * (self._slower if slow else 1.0))


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
