"""Claims about the check of a server, and its command: what does not hold is found, and said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cace_env.live.backends.processes import HOST, free_port
from experiments import live
from tests.live.fake_servers import Fake, fake_ollama
from tests.live.real_servers import need


class Evicts(Fake):
    """Holds one model at a time, as a server does that evicts by itself."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, _One(value) if name == "serves" and isinstance(value, dict) else value)


class _One(dict[str, bool]):
    def __setitem__(self, name: str, serves: bool) -> None:
        if serves:
            self.update(dict.fromkeys(self, False))
        super().__setitem__(name, serves)


class Unfinished(Fake):
    """Streams that end without their last event."""

    last_event = b""


class Deaf(Fake):
    """Answers whatever it is asked."""

    def refuses(self, name: str, messages: object) -> bool:
        return False


@contextmanager
def served(app: web.Application) -> Iterator[str]:
    """The address of a fake that runs in a thread of its own, beside a command."""
    loop, port = asyncio.new_event_loop(), free_port()
    runner = web.AppRunner(app)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_where_everything_holds_the_exit_status_is_0_and_unverified_is_said(capsys: pytest.CaptureFixture[str]):
    with served(fake_ollama(Fake())) as url:
        assert live.main(["check", f"ollama:{url}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("The backend ollama is unverified against the real server")
    assert "note   a request to an absent model: it answers, and the model is resident" in said
    assert said.endswith("everything holds\n")


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (Evicts, "FAILS  a second one is loaded beside it: the first model has left: the server evicts by itself"),
        (Unfinished, "FAILS  a stream comes piece by piece and ends with [DONE]: ollama: POST /v1/chat/completions: "),
        (Deaf, "FAILS  a model that does not exist is an error: generate of a model that does not exist is no error"),
    ],
)
def test_what_does_not_hold_is_said_and_the_exit_status_is_1(
    fake: Callable[[], Fake], said: str, capsys: pytest.CaptureFixture[str]
):
    one = fake()
    with served(fake_ollama(one)) as url:
        assert live.main(["check", f"ollama:{url}"]) == 1
    assert said in capsys.readouterr().out
    assert not any(one.serves.values())  # left as it was


@pytest.mark.parametrize(
    ("fake", "models", "said"),
    [
        (Fake("only"), [], "FAILS  two models can be tried: the server has fewer than two"),
        (Fake(), ["--models", "coder-1b", "nobody"], "FAILS  two models can be tried: name two models of the server"),
    ],
)
def test_without_two_models_there_is_nothing_to_try(
    fake: Fake, models: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with served(fake_ollama(fake)) as url:
        assert live.main(["check", f"ollama:{url}", *models]) == 1
    assert said in capsys.readouterr().out
    assert fake.calls == []


def test_a_server_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]):
    assert live.main(["check", f"ollama:http://{HOST}:9"]) == 1
    assert (
        f"FAILS  it lists its models: ollama: the server at http://{HOST}:9 cannot be reached"
        in capsys.readouterr().out
    )


def test_a_wrong_key_is_said_without_the_servers_words(capsys: pytest.CaptureFixture[str]):
    async def refusing(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Invalid API Key"}}, status=401)

    app = web.Application()
    app.router.add_get("/api/ps", refusing)
    with served(app) as url:
        assert live.main(["check", f"ollama:{url}"]) == 1
    said = capsys.readouterr().out
    assert "status 401: the server wants an API key, or another one than it was given" in said
    assert "Invalid" not in said


@pytest.mark.parametrize("kind", ["llama.cpp", "xllamacpp"])
def test_a_folder_without_models_is_said(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    need(kind)
    assert live.main(["check", f"{kind}:{tmp_path}"]) == 2
    assert f"{tmp_path}: there is no GGUF file in this folder" in capsys.readouterr().err


def test_names_of_models_are_escaped(capsys: pytest.CaptureFixture[str]):
    async def failing(request: web.Request) -> web.Response:
        return web.Response(status=500, text="\x1b[31mred\nline")

    app = web.Application()
    app.router.add_get("/api/ps", failing)
    with served(app) as url:
        assert live.main(["check", f"ollama:{url}"]) == 1
    assert r"status 500: \x1b[31mred\nline" in capsys.readouterr().out


def test_what_cannot_be_used_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert live.main(["check", "nothing"]) == 2
    assert "backend 'nothing' has to be KIND:WHERE" in capsys.readouterr().err
    assert live.main(["check", f"xllamacpp:{tmp_path}", "--memory", str(tmp_path / "nowhere.yaml")]) == 2


@pytest.mark.integration
def test_tiny_models_and_a_server_that_is_started_over_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    need("llama.cpp")
    assert live.main(["tiny", str(tmp_path / "models")]) == 0
    assert "5 models of 33 MB" in capsys.readouterr().out
    assert live.main(["check", f"llama.cpp:{tmp_path / 'models'}", "--log", str(tmp_path / "log")]) == 0
    said = capsys.readouterr().out
    assert "unverified" not in said
    assert said.endswith("everything holds\n")
