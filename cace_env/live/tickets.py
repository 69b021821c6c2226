"""Requests on their way through the router, and how it treats and is reached by them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cace_env.config import ConfigError
from cace_env.tables import NONE

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")


class QueueFull(Exception):
    """As many requests wait as may.

    Attributes:
        retry_s: when to try again.
    """

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"too many requests wait; try again in {retry_s} s")
        self.retry_s = retry_s


@dataclass(eq=False)
class Ticket:
    """One request on its way.

    Attributes:
        model: its number.
        arrived: by the router's clock [us].
        ready: done when the server may get it; a `BackendError` if its model does not come.
    """

    model: int
    arrived: int
    ready: asyncio.Future[None]
    row: int = NONE  # of the mirror, once it is told
    tokens: int = 0
    over: bool = False
    accelerator: int = NONE
    first: int = NONE  # [us]


@dataclass
class Options:
    """How a router works.

    Attributes:
        most_waiting: requests that may wait, over all models.
        scenario: name of the deployment in the decision log.
        reasons: divide the score of a choice among its features, for the log and the status page.
        names: what the servers call a model, where that is another name.
    """

    most_waiting: int = 1000
    scenario: str = ""
    reasons: bool = True
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Serving:
    """How a router is reached.

    Attributes:
        host: address to listen on.
        port: 0 = any that is free.
        key: clients have to send it (`Authorization: Bearer KEY`); None = nobody is asked.
        most_bytes: of a request's body.
        drain_s: longest time that requests get to end after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    most_bytes: int = 8 * 1024 * 1024
    drain_s: float = 60.0

    def check(self) -> None:
        """Refuses to serve the world without a key.

        Raises:
            ConfigError: the address is not this machine's own, and there is no key.
        """
        if self.key is None and self.host not in LOOPBACK:
            raise ConfigError(f"on {self.host} everybody could ask: give a key with --key-file, or use 127.0.0.1")
        if self.key is not None and len(self.key) < 8:
            raise ConfigError("the key has to have 8 characters at least")
