"""The router before a real llama.cpp server, over models of 2 to 13 MB."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import aiohttp
import pytest

from cace_env.live.backends import make_backend, state_of
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models
from tests.live.real_servers import children_of, is_running, need
from tests.live.serving import CHAT, serving_backends
from tests.live.test_router import in_loop

pytestmark = pytest.mark.integration
NEEDS = dict.fromkeys(TINY_MODELS, 0.001)  # GB; the files are larger, and that counts
MEMORY_GB = 0.02  # of 33 MB of models


@in_loop
async def test_a_real_server_stays_within_its_memory_and_every_stream_is_whole(tmp_path: Path):
    need("llama.cpp")
    write_tiny_models(tmp_path / "models")
    backend = make_backend(f"llama.cpp:{tmp_path / 'models'}", load_s=30.0, log=tmp_path / "log")
    async with serving_backends([backend], NEEDS, [MEMORY_GB], "cace", drain_after_s=0.5) as live:
        rng = random.Random(0)
        taken = []

        async def watch() -> None:
            while True:
                models = await backend.models()
                there = [model.memory_bytes or 0 for model in models if model.state not in ("absent", "asleep")]
                taken.append(sum(there))
                await asyncio.sleep(0.05)

        async def one() -> str:
            await asyncio.sleep(3 * rng.random())
            body = {"model": rng.choice(list(NEEDS)), "stream": True, "max_tokens": 12}
            body |= {"messages": [{"role": "user", "content": "hello"}]}
            async with live.client.post(live.url + CHAT, json=body, timeout=aiohttp.ClientTimeout(30)) as response:
                assert response.status == 200
                return await response.text()

        watcher = asyncio.create_task(watch())
        answers = await asyncio.gather(*[one() for _ in range(30)])
        watcher.cancel()
        assert all(answer.strip().endswith("data: [DONE]") for answer in answers)
        assert 0 < max(taken) <= MEMORY_GB * 1e9
        assert live.router.decisions


@in_loop
async def test_a_model_whose_process_was_killed_is_loaded_again(tmp_path: Path):
    need("llama.cpp")
    write_tiny_models(tmp_path / "models")
    before = children_of(os.getpid())  # of other tests in this process
    backend = make_backend(f"llama.cpp:{tmp_path / 'models'}", load_s=30.0, log=tmp_path / "log")
    async with serving_backends([backend], NEEDS, [MEMORY_GB], "lru") as live:
        name = next(iter(NEEDS))
        assert (await live.say(name, max_tokens=4))[0] == 200
        (server,) = {*children_of(os.getpid())} - {*before}
        (model,) = children_of(server)
        os.kill(model, signal.SIGKILL)
        async with asyncio.timeout(10.0):
            while is_running(model) or (await state_of(backend, name)) != "absent":
                await asyncio.sleep(0.02)
        status, text = await live.say(name, max_tokens=4)
        assert status == 200 and text.rstrip().endswith("data: [DONE]")
