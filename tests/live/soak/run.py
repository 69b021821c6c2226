"""One soak: starts server, router and clients, makes things go wrong, and holds what it sees against the claims."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from cace_env.decision_log import read_decisions
from cace_env.live.backends.memory import gguf_bytes
from cace_env.live.backends.processes import free_port
from cace_env.live.tiny_models import write_tiny_models
from tests.live import bench
from tests.live.real_servers import children_of
from tests.live.soak import server
from tests.live.soak.clients import CLOSED, DROPPED, LOST, TOLD, WHOLE, Clients
from tests.live.soak.router import ENDED, route

MB: Final = 1e6
MORE_MB: Final = (
    48.0  # that the router's process may have grown by since it was warm: five minutes of requests are kept
)
FALL_BACK_S: Final = 0.05  # the limit of the policy, within which LRU has to have decided ...
LAG_S: Final = 0.025  # ... but for the time that the event loop is behind
LONG_S: Final = 30.0  # in less not every fault is met
STILL_S: Final = 20.0  # a server that is down, an unload tried again after 5 s, a load that never ends
MODELS: Final = dict.fromkeys("abcdefgh", 1.0)  # GB
DESCRIPTORS_OF_A_CHILD: Final = 4  # of the process of a model that is loaded
BROKEN: Final = "broken"  # a model whose file is half as long as it should be
Scene = Callable[["Soak"], AbstractAsyncContextManager[dict[str, Any]]]


@dataclass
class Seen:
    """The router's process at a moment."""

    memory_mb: float
    files: int
    tasks: int
    children: int
    cpu_s: float
    told: dict[str, Any]


@dataclass
class Soak:
    """A soak, its measurements and claims.

    Attributes:
        rows: (what, value), for the table.
        failed: claims that do not hold.
        late: claims about times that do not hold, which may be the machine's fault.
        wrongs: what the server says was done to it.
        faults: made from outside, by kind.
    """

    folder: Path
    clients: int
    seconds: float
    seed: int
    title: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    pid: int = 0
    url: str = ""

    def count(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1

    async def pause(self) -> None:
        """Between two faults of a kind, the first of them once the router serves."""
        while not self.url:
            await asyncio.sleep(0.1)
        await asyncio.sleep(max(4.0, min(20.0, self.seconds / 5)))

    async def run(self, scene: Scene) -> None:
        """Everything, in order; `rows` and `failed` have what came of it."""
        async with scene(self) as fleet:
            process, self.url = await asyncio.to_thread(bench.started, route, fleet, self.folder, self.seed)
            self.pid = process.pid
            try:
                await self._serve(process, [model["name"] for model in fleet["models"]])
            finally:
                process.kill()
                process.join()

    async def _serve(self, process: Any, models: list[str]) -> None:
        begun = await self._look()
        await self._load(self._clients(models, -1), 1.0, 5)
        before = await self._idle(begun, begun)
        clients, faults = self._clients(models, 0), asyncio.create_task(self._full_disk())
        began = time.monotonic()
        loading = asyncio.create_task(self._load(clients, self.seconds, self.clients))
        await asyncio.sleep(self.seconds / 5)
        warm = await self._look()
        await loading
        took = time.monotonic() - began
        faults.cancel()
        await asyncio.wait([faults])
        after = await self._idle(before, begun)
        last = self._clients(models, 1)
        code = await self._stopped(process, last)
        self._judge(clients, took, begun, before, warm, after)
        self._judge_stop(last, code)
        self.judge_log()

    def _clients(self, models: Sequence[str], part: int) -> Clients:
        usual = [name for name in models if name != BROKEN]
        return Clients(self.url, usual, 3 * self.seed + part, BROKEN if BROKEN in models else "")

    async def _load(self, clients: Clients, seconds: float, how_many: int) -> None:
        end = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, end.set)
        await clients.ask_until(end, how_many)

    async def _full_disk(self) -> None:
        """From time to time no file can be written by the router: its limit is 0 bytes."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        while True:
            await self.pause()
            try:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, hard))
                self.count("full disk")
                await asyncio.sleep(2.5)
            finally:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard, hard))

    async def _stopped(self, process: Any, clients: Clients) -> int | None:
        """SIGTERM under load; the exit status."""
        end = asyncio.Event()
        asking = asyncio.create_task(clients.ask_until(end, self.clients))
        await asyncio.sleep(min(5.0, self.seconds / 5))
        clients.closed_at = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        await asyncio.to_thread(process.join, 60.0)
        end.set()
        await asking
        code: int | None = process.exitcode
        return code

    # -----------------------------------------------------------------------------------------------------------------

    async def _look(self) -> Seen:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/soak") as response:
            told = await response.json()
        statistics = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return Seen(
            pages * os.sysconf("SC_PAGE_SIZE") / MB,
            len(os.listdir(f"/proc/{self.pid}/fd")),
            told["tasks"],
            len(children_of(self.pid)),
            (int(statistics[11]) + int(statistics[12])) / os.sysconf("SC_CLK_TCK"),
            told,
        )

    async def _idle(self, before: Seen, begun: Seen) -> Seen:
        """Once nothing is on its way; what takes longer to go than 20 s has leaked."""
        end = time.monotonic() + 20.0
        while True:
            seen = await self._look()
            if time.monotonic() > end or (
                seen.told["open"] == 0 and seen.tasks <= before.tasks and self._files(seen, begun) <= 0
            ):
                return seen
            await asyncio.sleep(0.2)

    @staticmethod
    def _files(seen: Seen, begun: Seen) -> int:
        """Descriptors too many: what there was at the start is there still, and each loaded model may have its own."""
        return seen.files - begun.files - DESCRIPTORS_OF_A_CHILD * (seen.children - begun.children)

    def _claim(self, claim: str, holds: bool) -> None:
        if not holds:
            self.failed.append(claim)

    def _judge(self, clients: Clients, took: float, begun: Seen, before: Seen, warm: Seen, after: Seen) -> None:
        count, told = clients.count, after.told
        outcomes = {name: number - before.told["outcomes"].get(name, 0) for name, number in told["outcomes"].items()}
        self.rows += [
            ("requests sent", f"{clients.sent:,} in {took:.0f} s"),
            *((what, f"{count[what]:,}") for what in (WHOLE, TOLD, DROPPED, LOST)),
            ("answers by status", ", ".join(f"{n:,} of {status}" for status, n in sorted(clients.statuses.items()))),
            ("by the router's count", ", ".join(f"{n:,} {name}" for name, n in sorted(outcomes.items()))),
            ("loads, unloads, failures of both", ", ".join(f"{n:,.0f}" for n in told["moves"])),
        ]  # fmt: skip
        self.rows.append(("longest time without a move", f"{told['longest_still_s']:.1f} s while requests wait"))
        self._claim("models move while requests wait", told["longest_still_s"] < STILL_S)
        self.rows.append(("faults from outside", ", ".join(f"{n} {what}" for what, n in sorted(self.faults.items()))))
        self.rows.append(("faults of the policy", ", ".join(f"{n:,} {x}" for x, n in sorted(told["faults"].items()))))
        self._claim("every request is whole, refused, or dropped", clients.sent == sum(count.values()))
        self._claim(f"no request is lost: {clients.lost}", count[LOST] == 0)
        self._claim("requests are answered at all", count[WHOLE] > clients.sent / 10)  # most, on idle cores
        known = sum(outcomes.values())
        self._claim("the router counts the same requests", clients.sent - count[DROPPED] <= known <= clients.sent)
        self._claim("nothing is on its way in the end", told["open"] == told["waiting"] == 0)
        for name, times in sorted(told["times"].items()):
            p50, p99, most = 1e3 * np.quantile(times, (0.5, 0.99, 1.0))
            what = {"policy": "decided by the policy", "late": "by LRU, policy late", "error": "by LRU, policy failed"}
            self.rows.append((what[name], f"{len(times):,}; p50 {p50:.1f}, p99 {p99:.1f}, longest {most:.1f} ms"))
            if p50 > 1e3 * FALL_BACK_S or p99 > 1e3 * (FALL_BACK_S + LAG_S):
                self.late.append(f"{what[name]} within the limit, and 99 of 100 within it and some lag")
        self._claim("every kind of fault of the policy was met", len(told["faults"]) == 4 or self.seconds < LONG_S)
        self._claim("the budget is kept", told["least_free"] >= 0)
        self._claim(f"the server was treated well: {self.wrongs[:3]}", not self.wrongs)
        looks = (begun, before, warm, after)
        self.rows += [
            ("memory: start, idle, warm, end [MB]", ", ".join(f"{x.memory_mb:.0f}" for x in looks)),
            ("descriptors: start, idle, warm, end", ", ".join(f"{x.files}" for x in looks)),
            ("tasks: start, idle, warm, end", ", ".join(f"{x.tasks}" for x in looks)),
            ("router's CPU", f"{100 * (after.cpu_s - before.cpu_s) / took:.0f} % of a core, "
             f"{1e3 * (after.cpu_s - before.cpu_s) / clients.sent:.1f} ms a request"),
        ]  # fmt: skip
        self._claim("memory is back", after.memory_mb <= warm.memory_mb + MORE_MB)
        self._claim("no descriptor is leaked", self._files(after, begun) <= 0)
        self._claim("no task is leaked", after.tasks <= before.tasks)

    def _judge_stop(self, last: Clients, code: int | None) -> None:
        parts = ", ".join(f"{last.count[what]:,} {what}" for what in (WHOLE, TOLD, DROPPED, CLOSED, LOST))
        self.rows.append(("SIGTERM under load", f"{last.sent:,} sent: {parts}; exit status {code}"))
        self._claim("SIGTERM drains: the router ends in order", code == 0)
        self._claim("SIGTERM drains: requests are whole", last.count[WHOLE] > 0)
        self._claim(f"SIGTERM drains: nothing is lost: {last.lost}", last.count[LOST] == 0)
        self._claim("SIGTERM drains: the sums agree", last.sent == sum(last.count.values()))

    def judge_log(self) -> None:
        """Holds the decisions in the log against those that the router says it has made."""
        kept = sum(each.decision >= 0 for each in read_decisions(self.folder / "decisions"))
        ended, told = self.folder / ENDED, {"made": -1, "failed": 0, "lost": 0}  # it says nothing if it was killed
        told |= json.loads(ended.read_text()) if ended.exists() else {}
        self.rows.append(
            ("decision log", f"{kept:,} of {told['made']:,} decisions; {told['failed']} attempts to write failed")
        )
        bugs = [line for line in (self.folder / "router.log").read_text().splitlines() if "has a bug" in line]
        self._claim(f"the router and the backend have no bug: {bugs[:3]}", not bugs)
        self._claim("the full disk was met", told["failed"] > 0 or self.seconds < LONG_S)
        self._claim("no decision is missing in the log", kept == told["made"] and told["lost"] == 0)

    def table(self) -> str:
        """What was measured, in Markdown, and the claims that failed."""
        lines = [f"| {self.title}: {self.clients} clients, {self.seconds:.0f} s, seed {self.seed} | |", "|---|---|"]
        lines += [f"| {what} | {value} |" for what, value in self.rows]
        lines += ["", *([f"FAILS: {claim}" for claim in (*self.failed, *self.late)] or ["every claim holds"]), ""]
        return "\n".join(lines)


def fleet_of(backend: str, needs: dict[str, float], memory_gb: float, seats: int) -> dict[str, Any]:
    return {
        "accelerators": [{"name": "one", "memory_gb": memory_gb, "backend": backend}],
        "models": [{"name": name, "need_gb": gb, "load_s": 0.05, "seats": seats} for name, gb in needs.items()],
        "drain_after_s": 0.5,
    }


@asynccontextmanager
async def fake_server(soak: Soak) -> AsyncIterator[dict[str, Any]]:
    """Five of eight models fit; the server is killed and started again from time to time."""
    soak.title, port = "fake server", free_port()
    memory = 5.0

    async def start() -> tuple[Any, Any]:
        return await asyncio.to_thread(_server, port, memory, 1000 * soak.seed + len(running))

    running: list[tuple[Any, Any]] = []
    running.append(await start())

    def hear() -> None:
        pipe = running[-1][1]
        with suppress(EOFError):
            while pipe.poll():
                soak.wrongs.append(pipe.recv())

    async def kill() -> None:
        while True:
            await soak.pause()
            hear()
            process, _ = running[-1]
            process.kill()
            await asyncio.to_thread(process.join)
            hear()
            soak.count("server killed")
            running.append(await start())

    killing = asyncio.create_task(kill())
    try:
        yield fleet_of(f"localai:http://127.0.0.1:{port}", MODELS, memory, 32)
        hear()
    finally:
        killing.cancel()
        await asyncio.wait([killing])
        running[-1][0].kill()


def _server(port: int, memory_gb: float, seed: int) -> tuple[Any, Any]:
    """The process, and the pipe that tells what is wrong."""
    ours, theirs = multiprocessing.Pipe()
    arguments = (server.serve, theirs, port, MODELS, memory_gb, seed)
    process = multiprocessing.get_context("spawn").Process(target=bench.run, args=arguments, daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    return process, ours


@asynccontextmanager
async def real_server(soak: Soak) -> AsyncIterator[dict[str, Any]]:
    """xllamacpp over the tiny models: a process for each, which is killed or stands still from time to time."""
    soak.title, folder, memory_gb = "xllamacpp", soak.folder / "models", 0.02
    paths = write_tiny_models(folder)
    whole = (folder / "tiny-2m.gguf").read_bytes()
    (folder / f"{BROKEN}.gguf").write_bytes(whole[: len(whole) // 2])
    sizes = {str(path): gguf_bytes(path) or 0 for path in paths.values()}
    rng = random.Random(soak.seed)

    async def harm() -> None:
        while True:
            await soak.pause()
            children = [child for child, _ in _children(soak.pid)]
            if not children:
                continue
            child, kills = rng.choice(children), rng.random() < 0.5
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL if kills else signal.SIGSTOP)
                soak.count("model killed" if kills else "model stood still")
                await asyncio.sleep(1.0)
                os.kill(child, signal.SIGCONT)

    async def watch() -> None:
        while True:
            taken = sum(sizes.get(path, 0) for _, path in _children(soak.pid)) if soak.pid else 0
            if taken > 1e9 * memory_gb:
                soak.wrongs.append(f"models of {taken} bytes are loaded")
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(harm()), asyncio.create_task(watch())]
    try:
        yield fleet_of(f"xllamacpp:{folder}", dict.fromkeys([*paths, BROKEN], 0.001), memory_gb, 4)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _children(pid: int) -> list[tuple[int, str]]:
    """Processes of models, and the file of each."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in children_of(pid):
            command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            found += [(child, word) for word in command if word.endswith(".gguf")]
    return found
