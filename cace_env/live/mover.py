"""Loads and unloads of one backend: one at a time, and whatever goes wrong in them is a `BackendError`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable
from typing import Final, TypeVar

from cace_env.live.backends.base import Backend, BackendError, state_of

logger = logging.getLogger(__name__)
TOO_LATE: Final = 504
T = TypeVar("T")


class Mover:
    """Moves the models of one backend.

    Args:
        backend: it.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()
        self._restored: dict[str, float] = {}  # when

    async def load(self, name: str) -> None:
        """As `Backend.load`."""
        async with self._turn:
            await self._tried(self._backend.load(name))

    async def unload(self, name: str) -> None:
        """As `Backend.unload`."""
        async with self._turn:
            await self._tried(self._backend.unload(name))

    async def restore(self, name: str, error: BackendError, began: float) -> bool:
        """Load a model again that the server has lost, as after a crash; its memory still counts as taken.

        Args:
            name: of the model, which a request has been sent to.
            error: what that request got.
            began: when it was sent, by `time.monotonic`.

        Returns:
            Whether to send it again.

        Raises:
            BackendError: the server is gone, or the model does not load.
        """
        if error.status == TOO_LATE:
            return False
        async with self._turn:
            if self._restored.get(name, -math.inf) >= began:
                return True
            if await self._tried(state_of(self._backend, name)) != "absent":
                return False
            logger.error("the server has lost model %r, which is loaded again", name)
            await self._tried(self._backend.load(name))
            self._restored[name] = time.monotonic()
            return True

    async def _tried(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except BackendError:
            raise
        except Exception as error:  # of any kind, or the accelerator would wait for this move for ever
            logger.error("the backend %s has a bug", self._backend.kind, exc_info=error)
            raise bug(self._backend, error) from error


def bug(backend: Backend, error: Exception) -> BackendError:
    """What clients are told of an error that no backend should raise."""
    return BackendError(502, f"{backend.kind}: the backend has a bug ({type(error).__name__})")
