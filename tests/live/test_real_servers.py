"""Claims about the backends that are driven against the real programs, over models of 2 to 13 MB."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError
from cace_env.live.backends import (
    Backend,
    BackendError,
    Server,
    Start,
    find_llama_server,
    make_backend,
    start_llama_server,
    state_of,
)
from cace_env.live.check import check_backend
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models
from tests.live.real_servers import LARGEST, SECOND, SMALLEST, children_of, is_running, need

pytestmark = pytest.mark.integration
KINDS = ("llama.cpp", "xllamacpp")
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_models(folder)
    (folder / "broken.gguf").write_bytes((folder / f"{SMALLEST}.gguf").read_bytes()[:100_000])
    return folder


@pytest.fixture(scope="module")
def router(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need("llama.cpp")
    with start_llama_server(models, tmp_path_factory.mktemp("log") / "router.log") as server:
        yield server


@pytest.fixture(params=KINDS)
def use(request: pytest.FixtureRequest, models: Path) -> Callable[[Callable[[Backend], Awaitable[None]]], None]:
    """Runs claims with a backend of each kind, in which nothing is loaded."""
    need(request.param)
    where = request.getfixturevalue("router").url if request.param == "llama.cpp" else models

    def run(claims: Callable[[Backend], Awaitable[None]]) -> None:
        async def inside() -> None:
            backend = make_backend(f"{request.param}:{where}", load_s=30.0)
            try:
                await claims(backend)
                for model in await backend.models():
                    await backend.unload(model.name)
            finally:
                await backend.close()

        asyncio.run(inside())

    return run


async def whole(backend: Backend, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    async with aclosing(backend.generate(name, COMPLETIONS, body)) as pieces:
        answer: dict[str, Any] = json.loads(b"".join([piece async for piece in pieces]))
    return answer


def test_every_claim_of_the_check_holds(use: Any):
    async def claims(backend: Backend) -> None:
        names = (SMALLEST, SECOND)
        outcomes = [outcome async for outcome in check_backend(backend, names)]
        assert [outcome for outcome in outcomes if outcome.holds is False] == []
        assert len(outcomes) == 18
        assert backend.verified

    use(claims)


def test_a_model_is_loaded_writes_as_much_as_asked_and_leaves(use: Any):
    async def claims(backend: Backend) -> None:
        for name in TINY_MODELS:
            await backend.load(name)
            assert await state_of(backend, name) == "resident"
            answer = await whole(backend, name, {"prompt": "def f(x):", "max_tokens": 8, "temperature": 0})
            assert answer["usage"]["completion_tokens"] == 8
            await backend.unload(name)
            assert await state_of(backend, name) == "absent"

    use(claims)


def test_prompt_tokens_are_those_sent_and_a_prefix_is_read_once(use: Any):
    async def claims(backend: Backend) -> None:
        await backend.load(SMALLEST)
        prompt = [259 + letter for letter in range(40)]  # tokens, as the vocabulary numbers letters
        for sent, cached in ((prompt, 0), ([*prompt, *prompt], 40)):
            answer = await whole(backend, SMALLEST, {"prompt": sent, "max_tokens": 1, "temperature": 0})
            usage = answer["usage"]
            assert usage["prompt_tokens"] == len(sent)
            assert usage["prompt_tokens_details"]["cached_tokens"] == cached
            assert answer["timings"]["prompt_n"] == len(sent) - cached

    use(claims)


def test_the_memory_of_a_model_is_its_file_before_and_after_the_load(use: Any, models: Path):
    async def claims(backend: Backend) -> None:
        files = {path.stem: path.stat().st_size for path in models.glob("*.gguf")}
        assert {model.name: model.memory_bytes for model in await backend.models()} == files
        await backend.load(SMALLEST)
        assert {model.name: model.memory_bytes for model in await backend.models()} == files

    use(claims)


def test_a_file_that_is_no_model_is_an_error_and_stays_absent(use: Any):
    async def claims(backend: Backend) -> None:
        for _ in range(2):
            with pytest.raises(BackendError, match="the model did not load") as caught:
                await backend.load("broken")
            assert caught.value.status == 500
            assert await state_of(backend, "broken") == "absent"

    use(claims)


def test_loads_and_unloads_of_one_model_wait_for_each_other(use: Any):
    async def claims(backend: Backend) -> None:
        await asyncio.gather(*(backend.load(SMALLEST) for _ in range(3)))
        assert await state_of(backend, SMALLEST) == "resident"
        await asyncio.gather(backend.unload(SMALLEST), backend.load(SMALLEST), backend.load(SECOND))
        assert await state_of(backend, SMALLEST) == "resident"

    use(claims)


def test_a_load_that_is_cancelled_can_be_taken_back(use: Any):
    async def claims(backend: Backend) -> None:
        before = descendants()
        loading = asyncio.create_task(backend.load(LARGEST))
        await asyncio.sleep(0.02)
        loading.cancel()
        await asyncio.wait([loading])
        await backend.unload(LARGEST)
        assert await state_of(backend, LARGEST) == "absent"
        assert descendants() == before

    use(claims)


def test_a_model_that_dies_in_mid_stream_is_an_error_to_its_client_and_can_be_loaded_again(use: Any):
    async def claims(backend: Backend) -> None:
        before = descendants()
        await backend.load(LARGEST)
        (pid,) = descendants() - before
        body = {"prompt": "def f(x):", "max_tokens": 900, "stream": True}  # takes it some 0.5 s
        async with aclosing(backend.generate(LARGEST, COMPLETIONS, body)) as stream:
            await anext(stream)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(BackendError) as caught:
                async for _ in stream:
                    pass
        assert caught.value.status == 502
        async with asyncio.timeout(5.0):
            while await state_of(backend, LARGEST) != "absent":
                await asyncio.sleep(0.01)
        await backend.load(LARGEST)
        assert (await whole(backend, LARGEST, {"prompt": "x", "max_tokens": 1}))["usage"]["completion_tokens"] == 1

    use(claims)


def descendants() -> set[int]:
    """Processes below this one."""
    found, waiting = set(), [os.getpid()]
    while waiting:
        try:
            below = children_of(waiting.pop())
        except FileNotFoundError:
            continue
        found |= set(below)
        waiting += below
    return {pid for pid in found if is_running(pid)}


def test_a_model_of_llama_cpp_that_fell_asleep_is_woken_by_load(models: Path, tmp_path: Path):
    need("llama.cpp")

    async def claims(url: str) -> None:
        backend = make_backend(f"llama.cpp:{url}")
        await backend.load(SMALLEST)
        async with asyncio.timeout(10.0):
            while await state_of(backend, SMALLEST) != "asleep":
                await asyncio.sleep(0.05)
        await backend.load(SMALLEST)
        assert await state_of(backend, SMALLEST) == "resident"
        await backend.close()

    options = ["--threads", "1", "--ctx-size", "512", "--sleep-idle-seconds", "1"]
    with start_llama_server(models, tmp_path / "log", Start(options)) as server:
        asyncio.run(claims(server.url))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core alone")
def test_models_serve_on_the_core_that_is_named_and_everything_else_runs_on_the_other(models: Path, tmp_path: Path):
    need("llama.cpp")
    serving, loading = sorted(os.sched_getaffinity(0))[:2]
    before = descendants()
    backend = make_backend(f"llama.cpp:{models}", log=tmp_path / "log", start=Start(cores=(serving, loading)))

    async def load() -> tuple[set[int], set[int]]:
        try:
            (server,) = descendants() - before
            await backend.load(SMALLEST)
            (child,) = children_of(server)
            return os.sched_getaffinity(server), os.sched_getaffinity(child)
        finally:
            await backend.close()

    assert asyncio.run(load()) == ({loading}, {serving})


def test_a_router_takes_its_children_with_it_even_if_it_was_killed(models: Path, tmp_path: Path):
    need("llama.cpp")
    for kill in (False, True):
        server = start_llama_server(models, tmp_path / "router.log")
        backend = make_backend(f"llama.cpp:{server.url}")

        async def load(backend: Backend = backend) -> None:
            await backend.load(SMALLEST)
            await backend.close()

        asyncio.run(load())
        (child,) = children_of(server.process.pid)
        if kill:
            server.process.kill()
        server.stop()
        end = time.monotonic() + 5.0
        while is_running(child) and time.monotonic() < end:
            time.sleep(0.01)
        assert not is_running(child)
        assert server.process.returncode is not None
        assert "tiny-2m" in (tmp_path / "router.log").read_text(errors="replace")


def test_a_backend_over_a_folder_ends_the_server_that_it_has_started(models: Path, tmp_path: Path):
    need("llama.cpp")
    before = descendants()
    backend = make_backend(f"llama.cpp:{models}", log=tmp_path / "log")
    assert len(descendants() - before) == 1
    asyncio.run(backend.close())
    assert descendants() == before


def test_a_server_that_cannot_start_says_where_its_log_is(models: Path, tmp_path: Path):
    need("llama.cpp")
    with pytest.raises(BackendError, match=r"ended with status 1: see .*router\.log"):
        start_llama_server(models, tmp_path / "router.log", Start(["--no-such-option"]))
    assert "no-such-option" in (tmp_path / "router.log").read_text(errors="replace")


def test_a_missing_binary_or_folder_is_named(models: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder of GGUF files"):
        start_llama_server(tmp_path / "nowhere", tmp_path / "log")
    with pytest.raises(ConfigError, match=r"llama: cannot be started \(No such file or directory\)"):
        start_llama_server(models, tmp_path / "log", binary=tmp_path / "llama")


def test_the_binary_of_the_wheel_is_found():
    need("llama.cpp")
    assert find_llama_server().name == "llama-server"
