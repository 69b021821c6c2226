"""What a backend is: the few things that a router asks of a model server, whatever its API looks like."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

State = Literal["absent", "loading", "resident", "asleep", "leaving"]


class BackendError(Exception):
    """A server refuses, fails or is gone. The message never holds a part of a request's body.

    Args:
        status: what a proxy may answer: 404 unknown model, 409 not loaded, 502 gone or not understood, 504 too late,
            else the server's own HTTP status.
        message: one line, for people.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class BackendModel:
    """A model that a server could serve.

    Attributes:
        name: as requests call it.
        state: `resident` serves; `asleep` is known to the server but off the accelerator; `leaving` is being unloaded.
        memory_bytes: of its weights, or as the user says; the same before and after a load where the server allows it.
            None: nobody says.
    """

    name: str
    state: State
    memory_bytes: int | None


class Backend(Protocol):
    """A model server. All methods may run at the same time; one model moves once at a time.

    Attributes:
        kind: as in `make_backend`.
        verified: whether the tests of this package drive the real program, not only a fake written from its
            documentation.
    """

    kind: str
    verified: bool

    async def models(self) -> list[BackendModel]:
        """Every model, in the server's order.

        Raises:
            BackendError: the server is gone, or its answer is not understood.
        """

    async def load(self, name: str) -> None:
        """Load a model, or wake it, and return when it serves; at once where it does already.

        Where it took too long, or the caller was cancelled, the server may go on loading: unload the model then.

        Raises:
            BackendError: unknown (404), it did not load, or took too long (504).
        """

    async def unload(self, name: str) -> None:
        """Unload a model, or put it to sleep, and return when it is gone; at once where it is already.

        The caller sees to it that the model serves nobody: most servers cut the running requests.

        Raises:
            BackendError: unknown (404), or it took too long (504).
        """

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The server's answer to a request, piece by piece as it comes and untouched: events, or a JSON document.

        Closing the generator early drops the connection, upon which servers stop writing: use
        `contextlib.aclosing`.

        Args:
            name: of the model; replaces `model` in the body.
            path: of the API, such as `/v1/chat/completions`.
            body: of the request, as parsed JSON.

        Raises:
            BackendError: before the first piece: refused; after it: the server broke off.
        """

    async def close(self) -> None:
        """Closes connections, and ends processes that this backend has started."""


class Moves:
    """Models on their way, by name: no model moves twice at once, and states that a server does not tell are known."""

    def __init__(self) -> None:
        self._now: dict[str, State] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def turn(self, name: str, state: State) -> AsyncIterator[None]:
        """The one move of a model at this time, which is in this state meanwhile."""
        async with self._turns[name]:
            self._now[name] = state
            try:
                yield
            finally:
                del self._now[name]

    def state(self, name: str, told: State) -> State:
        """What the server tells, unless the model is on its way."""
        return self._now.get(name, told)


async def state_of(backend: Backend, name: str) -> State:
    """The state of one model.

    Raises:
        BackendError: there is no such model (404), or the server is gone.
    """
    for model in await backend.models():
        if model.name == name:
            return model.state
    raise unknown(backend.kind)


def unknown(kind: str) -> BackendError:
    """The error for a name that no model has; the name is the caller's, and stays out of it."""
    return BackendError(404, f"{kind}: there is no model of that name")


async def until(done: Callable[[], Awaitable[bool]], limit_s: float, what: str) -> None:
    """Ask again and again; the steps grow with the time waited, to some 2 % of it and at most 0.25 s.

    Raises:
        BackendError: it took longer than `limit_s` (504).
    """
    began = time.monotonic()
    while not await done():
        waited = time.monotonic() - began
        if waited > limit_s:
            raise BackendError(504, f"{what} took longer than {limit_s:g} s")
        await asyncio.sleep(min(0.25, max(0.005, waited / 50)))
