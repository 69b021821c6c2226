"""Claims about the backends that no test has driven against the real server: they fit what its documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cace_env.live.backends import BACKENDS, Backend, BackendError, make_backend, state_of
from cace_env.live.check import check_backend
from tests.live import fake_servers
from tests.live.fake_servers import GB, Fake, Sleeper

FAKES: dict[str, Callable[[Fake], web.Application]] = {
    "llama-swap": fake_servers.fake_llama_swap,
    "ollama": fake_servers.fake_ollama,
    "lm-studio": fake_servers.fake_lm_studio,
    "localai": fake_servers.fake_local_ai,
}


@asynccontextmanager
async def serving(kind: str, *fakes: Fake, memory: dict[str, int] | None = None) -> AsyncIterator[Backend]:
    """A backend in front of a fake; vLLM has one for each model."""
    app = FAKES.get(kind, fake_servers.fake_vllm)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(TestServer(app(fake))) for fake in fakes]
        backend = make_backend(f"{kind}:{','.join(str(server.make_url('')) for server in servers)}", memory=memory)
        stack.push_async_callback(backend.close)
        yield backend


def fakes_of(kind: str) -> list[Fake]:
    return [Sleeper("coder-1b"), Sleeper("org/chat-3b")] if kind.startswith("vllm") else [Fake()]


def with_fake(kind: str, body: Callable[[Backend, Fake], Awaitable[None]]) -> None:
    async def run() -> None:
        fakes = fakes_of(kind)
        async with serving(kind, *fakes) as backend:
            await body(backend, fakes[0])

    asyncio.run(run())


UNVERIFIED = sorted(set(BACKENDS) - {"llama.cpp", "xllamacpp"})


@pytest.mark.parametrize("kind", UNVERIFIED)
def test_every_claim_of_the_check_holds_against_the_fake_and_it_says_unverified(kind: str):
    async def claims(backend: Backend, fake: Fake) -> None:
        outcomes = [outcome async for outcome in check_backend(backend)]
        assert [outcome for outcome in outcomes if outcome.holds is False] == []
        assert len(outcomes) == 18
        assert not backend.verified
        assert "Unverified against the real server" in str(type(backend).__doc__)

    with_fake(kind, claims)


@pytest.mark.parametrize("kind", UNVERIFIED)
def test_states_follow_loads_and_unloads(kind: str):
    async def claims(backend: Backend, fake: Fake) -> None:
        await backend.unload("coder-1b")
        assert await state_of(backend, "coder-1b") == ("asleep" if kind.startswith("vllm") else "absent")
        await backend.load("coder-1b")
        assert await state_of(backend, "coder-1b") == "resident"

    with_fake(kind, claims)


@pytest.mark.parametrize("kind", UNVERIFIED)
def test_what_the_user_says_of_memory_comes_first(kind: str):
    async def run() -> None:
        async with serving(kind, *fakes_of(kind), memory={"coder-1b": 7}) as backend:
            memory = {model.name: model.memory_bytes for model in await backend.models()}
            assert memory["coder-1b"] == 7
            assert memory["org/chat-3b"] == (GB if kind in ("ollama", "lm-studio") else None)

    asyncio.run(run())


def test_vllm_waits_for_running_requests_before_it_sleeps():
    async def claims(backend: Backend, fake: Fake) -> None:
        await backend.unload("coder-1b")
        await backend.unload("coder-1b")
        await backend.load("coder-1b")
        assert fake.calls == ["/sleep?level=1&mode=wait", "/wake_up"]

    with_fake("vllm", claims)


def test_vllm_reads_weights_again_after_level_two():
    async def claims(backend: Backend, fake: Fake) -> None:
        await backend.unload("coder-1b")
        await backend.load("coder-1b")
        assert fake.calls == [
            "/sleep?level=2&mode=wait",
            "/wake_up?tags=weights",
            '/collective_rpc {"method": "reload_weights"}',
            "/wake_up?tags=kv_cache",
            "/reset_prefix_cache",
        ]

    with_fake("vllm-level2", claims)


def test_lm_studio_never_makes_a_second_instance():
    async def claims(backend: Backend, fake: Fake) -> None:
        await asyncio.gather(*(backend.load("coder-1b") for _ in range(3)))
        assert fake.calls == ['/api/v1/models/load {"model": "coder-1b"}']
        assert "embedder" not in {model.name for model in await backend.models()}

    with_fake("lm-studio", claims)


def test_ollama_unloads_nothing_that_it_would_have_to_load_first():
    async def claims(backend: Backend, fake: Fake) -> None:
        await backend.unload("coder-1b")
        assert fake.calls == []
        await backend.load("coder-1b")
        assert fake.calls == ['/api/generate {"model": "coder-1b", "keep_alive": -1, "stream": false}']
        assert {model.name: model.memory_bytes for model in await backend.models()}["coder-1b"] == 2 * GB

    with_fake("ollama", claims)


def test_llama_swap_takes_names_with_a_slash():
    async def claims(backend: Backend, fake: Fake) -> None:
        await backend.load("org/chat-3b")
        await backend.unload("org/chat-3b")
        assert fake.calls == ["/upstream/org%2Fchat-3b/", "/api/models/unload/org%2Fchat-3b"]

    with_fake("llama-swap", claims)


def test_a_model_on_its_way_is_seen_so():
    async def claims(backend: Backend, fake: Fake) -> None:
        loading = asyncio.create_task(backend.load("coder-1b"))
        seen = set()
        while not loading.done():
            seen.add(await state_of(backend, "coder-1b"))
        assert "loading" in seen
        await loading

    with_fake("localai", claims)


def test_a_cancelled_stream_reaches_the_server():
    async def claims(backend: Backend, fake: Fake) -> None:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5000, "stream": True}
        stream = backend.generate("coder-1b", "/v1/chat/completions", body)
        await anext(stream)
        assert fake.writing == 1
        await stream.aclose()
        async with asyncio.timeout(2.0):
            while fake.writing:
                await asyncio.sleep(0.01)
        assert fake.cut == 1

    with_fake("ollama", claims)


def test_no_error_repeats_what_was_asked():
    async def claims(backend: Backend, fake: Fake) -> None:
        secret = {"messages": "the secret"}  # the fake quotes it
        with pytest.raises(BackendError) as caught:
            await anext(backend.generate("coder-1b", "/v1/chat/completions", secret))
        assert caught.value.status == 400
        assert caught.value.message == "ollama: POST /v1/chat/completions: status 400 (invalid_request_error)"

    with_fake("ollama", claims)


def test_a_server_that_is_gone_or_another_one_is_said_to_be():
    async def claims(backend: Backend, fake: Fake) -> None:
        gone = make_backend("ollama:http://127.0.0.1:9")
        with pytest.raises(BackendError, match=r"the server at http://127\.0\.0\.1:9 cannot be reached"):
            await gone.models()
        await gone.close()
        url = backend._http.url  # type: ignore[attr-defined]
        other = make_backend(f"localai:{url}")  # LM Studio's models are asked for at another path
        with pytest.raises(BackendError, match="status 404"):
            await other.models()
        await other.close()

    with_fake("lm-studio", claims)


def test_an_answer_of_another_shape_names_the_field():
    async def run() -> None:
        async def models(request: web.Request) -> web.Response:
            return web.json_response({"data": [{"id": "coder-1b"}]})  # a llama-server of one model

        app = web.Application()
        app.router.add_get("/models", models)
        async with TestServer(app) as server:
            backend = make_backend(f"llama.cpp:{server.make_url('')}")
            with pytest.raises(BackendError, match=r"GET /models: data\.0\.status: Field required"):
                await backend.models()
            await backend.close()

    asyncio.run(run())


def test_a_server_that_breaks_off_is_an_error_after_the_pieces():
    async def run() -> None:
        async def half(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: {}\n\n")
            assert request.transport is not None
            request.transport.close()
            return response

        app = web.Application()
        app.router.add_post("/v1/completions", half)
        async with TestServer(app) as server:
            backend = make_backend(f"ollama:{server.make_url('')}")
            got = []
            with pytest.raises(BackendError) as caught:
                async for piece in backend.generate("coder-1b", "/v1/completions", {}):
                    got.append(piece)
            assert (got, caught.value.status) == ([b"data: {}\n\n"], 502)
            await backend.close()

    asyncio.run(run())
