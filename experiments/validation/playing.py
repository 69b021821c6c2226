"""A workload against the real server, through the real router: clients in closed loop, and notes of what happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

import aiohttp

from cace_env.config import ConfigError
from cace_env.live.answers import Answer
from cace_env.live.backends import Backend, BackendModel
from cace_env.live.decider import Decider
from cace_env.live.fleet import resident_now
from cace_env.live.proxy import SESSION, TASK, Proxy
from cace_env.live.router import Router
from cace_env.live.tickets import Options, Serving
from cace_env.policies import contestant_of
from cace_env.tables import TASKS, FleetTables
from cace_env.workload import Workload
from experiments.validation.records import Asked, Move, Run
from experiments.validation.workloads import prompts

PATH: Final = "/v1/completions"  # takes prompts as tokens, so that their lengths are exact
REQUEST_S: Final = 3600.0
CACHED: Final = re.compile(rb'"cached_tokens": ?(\d+)')
LAST_WORDS: Final = 4096  # bytes at the end of an answer in which its usage stands


class Noted:
    """A backend that notes when models move and when tokens come, between the router and the real one."""

    def __init__(self, backend: Backend, now: Callable[[], float]) -> None:
        self.kind, self.verified = backend.kind, backend.verified
        self.moves: list[tuple[str, str, float, float]] = []
        self.served: dict[int, tuple[float, list[float], int, int]] = {}  # admitted, tokens, cached, written
        self._backend, self._now = backend, now

    async def models(self) -> list[BackendModel]:
        return await self._backend.models()

    async def load(self, name: str) -> None:
        begin = self._now()
        await self._backend.load(name)
        self.moves.append(("load", name, begin, self._now()))

    async def unload(self, name: str) -> None:
        begin = self._now()
        await self._backend.unload(name)
        self.moves.append(("unload", name, begin, self._now()))

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        number, body = body["metadata"]["request"], {key: body[key] for key in body if key != "metadata"}
        begin, answer, times, tail = self._now(), Answer(streams=True), [], b""
        async with aclosing(self._backend.generate(name, path, body)) as pieces:
            async for piece in pieces:
                times += [self._now()] * answer.feed(piece)
                tail = (tail + piece)[-LAST_WORDS:]
                yield piece
        cached = CACHED.findall(tail)
        self.served[number] = (begin, times, int(cached[-1]) if cached else 0, answer.total)

    async def close(self) -> None:
        """The backend stays for the next run."""


async def play(
    workload: Workload,
    tables: FleetTables,
    backend: Backend,
    policy: str,
    repeat: int,
    *,
    seed: int = 0,
    answered: Callable[[], None] = lambda: None,
) -> Run:
    """Serves a workload under a policy. Nothing is loaded at the beginning, and nothing in the end.

    Args:
        workload: its requests; models are numbers of the tables.
        tables: the fleet, of one accelerator; the names of its models are those of the server.
        backend: of the server.
        policy: name.
        repeat: number of this run.
        seed: of the prompts.
        answered: is called at the end of each request.

    Raises:
        ConfigError: an answer was not whole, or has not the length that was asked for.
        BackendError: the server is gone.
        KeyboardInterrupt: the router was told to stop.
    """
    await _empty(backend)
    now = asyncio.get_running_loop().time
    noted = Noted(backend, now)
    fleet = await resident_now(tables, [noted])
    router = Router(fleet, [noted], Decider(contestant_of(policy), fleet), Options(scenario=workload.label), clock=now)
    proxy = Proxy(router, Serving(port=0, drain_s=0.0))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(proxy.run(address.set_result))
    told = asyncio.create_task(proxy.stopping.wait())
    asking: asyncio.Task[list[tuple[float, float, float]]] | None = None
    try:
        either: list[asyncio.Future[Any]] = [address, serving]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # why it could not start
        asking = asyncio.create_task(_ask_all(await address, workload, tables, seed, answered))
        began = now()
        either = [asking, told]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise KeyboardInterrupt
        seen = [(sent - began, first - began, finish - began) for sent, first, finish in asking.result()]
    finally:
        for task in (asking, told):
            if task is not None and not task.done():
                task.cancel()
        proxy.stopping.set()
        with suppress(asyncio.CancelledError):
            await serving
    await _empty(backend)
    return _run(workload, tables, policy, repeat, seen, noted, began)


def _run(
    workload: Workload,
    tables: FleetTables,
    policy: str,
    repeat: int,
    seen: list[tuple[float, float, float]],
    noted: Noted,
    began: float,
) -> Run:
    asked = []
    for number, (sent, first, finish) in enumerate(seen):
        admitted, tokens, cached, written = noted.served[number]
        asked.append(Asked(sent, admitted - began, first, finish, cached, written, [t - began for t in tokens]))
    wrong = sum(one.written != output for one, output in zip(asked, workload.output_tokens.tolist(), strict=True))
    if wrong:
        raise ConfigError(
            f"{wrong} of {len(asked)} answers have another length than was asked for; the server has to obey "
            "max_tokens and ignore_eos"
        )
    moves = [
        Move(what, tables.model_names.index(name), begin - began, end - began) for what, name, begin, end in noted.moves
    ]
    return Run(workload.label, policy, repeat, asked, moves)


async def _empty(backend: Backend) -> None:
    for model in await backend.models():
        if model.state != "absent":
            await backend.unload(model.name)


async def _ask_all(
    url: str, workload: Workload, tables: FleetTables, seed: int, answered: Callable[[], None]
) -> list[tuple[float, float, float]]:
    """Sent, first token and finish of every request. One that fails ends all."""
    loop = asyncio.get_running_loop()
    began, texts = loop.time(), prompts(workload, seed)
    over = [asyncio.Event() for _ in texts]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(REQUEST_S)
    ) as client:

        async def one(number: int) -> tuple[float, float, float]:
            before = int(workload.after[number])
            if before >= 0:
                await over[before].wait()
                await asyncio.sleep(int(workload.think_us[number]) * 1e-6)
            else:
                await asyncio.sleep(began + int(workload.arrival_us[number]) * 1e-6 - loop.time())
            times = await _ask(client, url, workload, tables, number, texts[number])
            over[number].set()
            answered()
            return times

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number)) for number in range(len(texts))]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]


async def _ask(
    client: aiohttp.ClientSession, url: str, workload: Workload, tables: FleetTables, number: int, prompt: list[int]
) -> tuple[float, float, float]:
    now = asyncio.get_running_loop().time
    body = {
        "model": tables.model_names[workload.model[number]],
        "prompt": prompt,
        "max_tokens": int(workload.output_tokens[number]),
        "user": f"client {workload.user[number]}",
        "metadata": {"request": number},
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "temperature": 0,
    }
    headers = {SESSION: f"{workload.session[number]}", TASK: TASKS[workload.task[number]]}
    sent, first, answer, tail = now(), None, Answer(streams=True), b""
    try:
        async with client.post(url + PATH, json=body, headers=headers) as response:
            async for piece in response.content.iter_any():
                if answer.feed(piece) and first is None:
                    first = now()
                tail = (tail + piece)[-32:]
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConfigError(f"request {number}: the answer is not whole ({type(error).__name__})") from error
    if response.status != 200 or first is None or not tail.rstrip().endswith(b"data: [DONE]"):
        raise ConfigError(f"request {number}: the answer is not whole (status {response.status})")
    return sent, first, now()
