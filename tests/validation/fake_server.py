"""A server with known delays that takes prompts as tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from tests.calibration.virtual_server import Delays, VirtualServer

TEMPLATE = 10  # tokens that the other server adds to every prompt
SMALL = Delays(
    load=0.03, unload=0.005, first=0.0, constant=0.001, round=0.002, decode=0.0005, kv=0.0, prefill=0.0001,
    attention=0.0, beside=1.0, two_busy=2.0,
)  # fmt: skip
LARGE = Delays(
    load=0.06, unload=0.005, first=0.0, constant=0.001, round=0.004, decode=0.001, kv=0.0, prefill=0.0002,
    attention=0.0, beside=1.0, two_busy=2.0,
)  # fmt: skip


DELAYS = {"small": SMALL, "middle": SMALL, "large": LARGE}


class PromptServer(VirtualServer):
    """Three models, of a GB each; `short` writes one token less than it is asked for."""

    def __init__(self, short: bool = False) -> None:
        super().__init__(DELAYS)
        self.short, self.closed = short, False

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        asked = dict(body)
        if "prompt" in body:
            words = " ".join(str(token) for token in body["prompt"][TEMPLATE:])
            asked["messages"] = [{"role": "user", "content": words}]
        asked["max_tokens"] -= self.short and body["max_tokens"] > 1
        async with aclosing(super().generate(name, path, asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        self.closed = True
