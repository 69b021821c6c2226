"""Requests on their way through the router, and how it treats them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cace_env.tables import NONE


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
