"""What goes wrong around the router: no request is lost without a word, and nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cace_env.decision_log import DecisionLog, read_decisions, writer
from cace_env.kernel.state import ACCELERATOR
from cace_env.live.backends.base import BackendError
from tests.live.serving import CHAT, Live, serving
from tests.live.test_router import in_loop, storm


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """As many tasks and open descriptors after as before."""
    tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    yield
    for _ in range(100):
        if len(asyncio.all_tasks()) == tasks and len(os.listdir("/proc/self/fd")) <= files:
            return
        await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == tasks
    assert len(os.listdir("/proc/self/fd")) <= files


def used(live: Live) -> list[int]:
    """Bytes that the router thinks are taken, by accelerator."""
    mirror = live.router.mirror
    return list((mirror.tables.memory_bytes - mirror.state.accelerators[:, ACCELERATOR.free]).tolist())


def told(status: int, text: str) -> bool:
    """Whether a client knows how its request has ended."""
    return text.rstrip().endswith("data: [DONE]") if status == 200 and "error" not in text else "error" in text


@in_loop
async def test_a_server_that_dies_under_load_is_said_to_everybody_and_can_come_back():
    async with nothing_left(), serving(drain_after_s=0.1, backend={"token_s": 0.005}) as live:
        (backend,) = live.backends
        asked = asyncio.create_task(storm(live, 80))
        await live.until(lambda: sum(backend.running.values()) > 2)
        backend.broken.update({"load", "unload", "generate", "stream"})
        await asyncio.sleep(0.1)
        backend.states.clear()  # started anew, it has nothing loaded
        backend.broken.clear()
        answers = await asked
        assert all(told(*answer) for answer in answers)
        assert any(status != 200 or "error" in text for status, text in answers)
        await live.until(lambda: live.router.open == 0)
        backend.wrongs.clear()  # it was asked for models that it had lost
        again = await storm(live, 40, seed=1)
        assert any(status == 200 for status, _ in again) and all(told(*answer) for answer in again)
        backend.wrongs.clear()


@in_loop
async def test_a_slow_loader_delays_its_own_accelerator_only():
    async with nothing_left(), serving({"a": 4.0, "b": 4.0, "c": 1.0}, [4.0, 5.0]) as live:
        await live.say("c")
        slow = next(backend for backend in live.backends if backend.states.get("c") != "resident")
        slow.load_s = 0.5
        waiting = [asyncio.create_task(live.say("a")) for _ in range(3)]
        await live.until(lambda: "loading" in slow.states.values())
        for _ in range(5):
            assert (await asyncio.wait_for(live.say("c"), 0.4))[0] == 200
        assert "loading" in slow.states.values()
        assert {status for status, _ in await asyncio.gather(*waiting)} == {200}


@in_loop
async def test_clients_that_drop_at_any_moment_leave_nothing_behind():
    async with nothing_left(), serving(drain_after_s=0.1, backend={"token_s": 0.005}) as live:
        rng = random.Random(3)

        async def fickle() -> None:
            await asyncio.sleep(rng.random() / 3)
            asked = asyncio.create_task(live.say(rng.choice("abcde"), max_tokens=20))
            await asyncio.wait([asked], timeout=rng.random() / 4)
            asked.cancel()
            await asyncio.wait([asked])

        await asyncio.gather(*[fickle() for _ in range(100)])
        await live.until(lambda: live.router.open == 0)
        assert live.router.queued == 0 and not any(live.backends[0].running.values())
        assert {status for status, _ in await storm(live, 30)} == {200}
        await live.until(lambda: "loading" not in live.backends[0].states.values())
        assert sum(used(live)) == round(1e9 * live.backends[0]._gb())


@in_loop
async def test_two_models_asked_for_at_once_are_loaded_one_after_the_other():
    async with nothing_left(), serving({"a": 2.0, "b": 2.0}, backend={"load_s": 0.1}) as live:
        both = asyncio.gather(live.say("a"), live.say("b"), live.say("a"), live.say("b"))
        await live.until(lambda: "loading" in live.backends[0].states.values())
        assert {status for status, _ in await both} == {200}  # and the fake has seen no two loads at once
        assert live.router.metrics.total("cace_loads_total") == 2


@in_loop
async def test_a_model_that_never_becomes_ready_is_given_up_and_its_memory_comes_back():
    async with nothing_left(), serving({"a": 4.0, "b": 4.0}) as live:
        (backend,) = live.backends
        load = backend.load

        async def late(name: str) -> None:
            if name == "a":
                backend.states[name] = "loading"
                await asyncio.sleep(0.2)
                raise BackendError(504, "fake: loading took longer than 0.2 s")
            await load(name)

        backend.load = late  # type: ignore[method-assign]
        first, second = await asyncio.gather(live.say("a"), live.say("b"))
        assert first[0] == 504 and "took longer" in first[1]
        assert second[0] == 200 and used(live) == [4_000_000_000]


@in_loop
async def test_a_server_that_raises_what_it_should_not_does_not_stop_the_router(caplog: pytest.LogCaptureFixture):
    async with nothing_left(), serving({"a": 4.0, "b": 4.0}) as live:
        (backend,) = live.backends
        load = backend.load

        async def odd(name: str) -> None:
            if name == "a":
                raise RuntimeError("zebra")
            await load(name)

        backend.load = odd  # type: ignore[method-assign]
        first, second = await asyncio.wait_for(asyncio.gather(live.say("a"), live.say("b")), 10.0)
        assert first[0] == 502 and "zebra" not in first[1]
        assert second[0] == 200

        async def breaks(*_: Any) -> AsyncIterator[bytes]:
            yield b"data: {}\n\n"
            raise RuntimeError("zebra")

        backend.generate = breaks  # type: ignore[method-assign,assignment]
        status, text = await live.say("b")
        assert status == 200 and "RuntimeError" in text and "zebra" not in text
        assert live.router.open == 0
    assert "zebra" not in "".join(record.getMessage() for record in caplog.records)


@in_loop
async def test_a_model_that_the_server_has_lost_is_loaded_again():
    async with nothing_left(), serving({"a": 2.0, "b": 2.0}) as live:
        await asyncio.gather(live.say("a"), live.say("b"))
        live.backends[0].states.clear()  # as after a crash; both fit, and nothing is ever evicted
        answers = await asyncio.gather(*[live.say(model) for model in "abababab"])
        assert {status for status, _ in answers} == {200} and all(told(*answer) for answer in answers)
        assert used(live) == [4_000_000_000]
        assert all(" is asked" in wrong for wrong in live.backends[0].wrongs)  # before the loss was known; no more
        live.backends[0].wrongs.clear()


@in_loop
async def test_with_a_full_disk_the_router_goes_on_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = DecisionLog(tmp_path, clock="utc", rows=1)
    async with nothing_left(), serving(policy="cace", log=log, drain_after_s=0.1) as live:
        with monkeypatch.context() as patched:
            patched.setattr(writer, "replace_file", full)
            assert {status for status, _ in await storm(live, 60)} == {200}
        made = len(live.router.decisions)
        text = await (await live.client.get(live.url + "/metrics")).text()
        assert live.router.metrics.total("cace_decision_log_errors") >= made > 0
        assert "cace_decision_log_errors" in text and "cace_decision_log_lost 0.0" in text
    assert len(read_decisions(tmp_path)) >= made  # there is room again: what had to wait is written


@in_loop
async def test_sigterm_under_load_loses_no_request_without_a_word():
    async with nothing_left(), serving(drain_after_s=0.1, backend={"token_s": 0.005}) as live:
        asked: list[asyncio.Task[tuple[int, str]]] = []

        async def keep_asking() -> None:
            rng = random.Random(5)
            while True:
                asked.append(asyncio.create_task(live.say(rng.choice("abcde"), max_tokens=8)))
                await asyncio.sleep(0.005)

        asking = asyncio.create_task(keep_asking())
        await live.until(lambda: live.router.open > 10)
        before = len(asked)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(live.task, 8.0)
        asking.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for k, answer in enumerate(answers):
            if isinstance(answer, BaseException):  # the door is closed
                assert isinstance(answer, aiohttp.ClientError) and k >= before
            else:
                assert answer[0] in (200, 503) and told(*answer)
        whole = sum(not isinstance(answer, BaseException) and answer[0] == 200 for answer in answers)
        assert whole >= 10 and live.router.open == 0
        assert sum(used(live)) == round(1e9 * live.backends[0]._gb()) <= 5_000_000_000


@in_loop
async def test_drops_refusals_and_broken_bodies_under_load_leave_the_counts_right():
    async with nothing_left(), serving(options={"most_waiting": 5}, drain_after_s=0.1) as live:
        answers = await storm(live, 60)
        async with live.client.post(live.url + CHAT, data=b"{", headers={"Content-Type": "application/json"}) as broken:
            assert broken.status == 400
        assert {status for status, _ in answers} == {200, 429} and all(told(*answer) for answer in answers)
        total = live.router.metrics.total
        assert total("cace_requests_total") == sum(status == 200 for status, _ in answers)
        assert total("cace_refused_total") == sum(status == 429 for status, _ in answers)
        assert live.router.open == live.router.queued == 0
