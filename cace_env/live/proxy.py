"""The router's HTTP side: the OpenAI API for clients, metrics for Prometheus, a status page for people.

Prompts and answers pass through; no line of a log, no metric and no error message of this side holds a part of them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from cace_env.kernel.state import MODEL
from cace_env.live.answers import Answer, most_tokens, prompt_tokens
from cace_env.live.backends.base import BackendError
from cace_env.live.mirror import Alone
from cace_env.live.mover import bug
from cace_env.live.router import Router
from cace_env.live.status import PHASES, count, status_of
from cace_env.live.tickets import LOOPBACK, QueueFull, Serving, Ticket
from cace_env.tables import TASKS

logger = logging.getLogger(__name__)

PATHS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}  # and the task of their requests
OPEN: Final = ("/", "/health")  # need no key: they tell nothing
SESSION, TASK = "X-Session-Id", "X-Cace-Task"  # headers that a client may send
LONGEST_ID: Final = 256
RETRY_S: Final = 5  # after a refusal because the router stops

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Proxy:
    """Serves one router over HTTP.

    Args:
        router: to serve.
        serving: how.
    """

    def __init__(self, router: Router, serving: Serving) -> None:
        serving.check()
        self.router, self.serving = router, serving
        self.stopping = asyncio.Event()
        self._page = (files("cace_env.live") / "page.html").read_text(encoding="utf-8")
        self.app = web.Application(client_max_size=serving.most_bytes, middlewares=[self._checked])
        self.app.router.add_get("/", self._show)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/status.json", self._status)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/v1/models", self._models)
        for path in PATHS:
            self.app.router.add_post(path, self._generate)

    async def run(self, started: Callable[[str], None] = lambda _: None) -> None:
        """Serves until SIGTERM, SIGINT or `stopping`; then lets requests end, and closes the router.

        SIGUSR1 hands over from the policy to LRU, SIGUSR2 back.

        Args:
            started: is told the address.
        """
        stage = self.router.decider.stage
        signals: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self.stopping.set,
            signal.SIGINT: self.stopping.set,
            signal.SIGUSR1: partial(stage.hand_over, True),
            signal.SIGUSR2: partial(stage.hand_over, False),
        }
        try:
            async with listening(self.app, self.serving, signals) as address:
                self.router.start()
                started(address)
                await self.stopping.wait()
                await self.router.drain(self.serving.drain_s)
        finally:
            await self.router.close()

    # -----------------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Asks for the key, and says in the API's form what is wrong."""
        if is_foreign(request, self.serving):
            return _error(403, "this server is for its own machine only")
        if request.path not in OPEN and not has_key(request, self.serving):
            return _error(401, "the API key is missing or wrong; send Authorization: Bearer KEY")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            self.router.metrics.refused.labels("too large").inc()
            return _error(413, f"the request is larger than {self.serving.most_bytes} bytes")
        except web.HTTPException as error:
            return _error(error.status, error.reason)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        """A request to a model: waits for its turn, then passes the server's answer through."""
        if self.stopping.is_set():
            return _error(503, "the router is stopping", RETRY_S)
        body = await _body(request)
        if isinstance(body, web.Response):
            return body
        name = body.get("model")
        model = self.router.number(name) if isinstance(name, str) else None
        if model is None:
            return _error(404, "there is no model of that name; GET /v1/models lists them")
        task = request.headers.get(TASK, PATHS[request.path])
        if task not in TASKS:
            return _error(400, f"the header {TASK} has to be one of {', '.join(TASKS)}")
        session, user = request.headers.get(SESSION), body.get("user")
        try:
            ticket = self.router.enter(
                model,
                TASKS.index(task),
                prompt_tokens(body),
                most_tokens(body),
                session[:LONGEST_ID] if session else Alone(),
                user[:LONGEST_ID] if isinstance(user, str) else "",
            )
        except QueueFull as full:
            return _error(429, str(full), full.retry_s)
        try:
            return await self._answer(request, body, ticket)
        except ConnectionResetError:
            return web.Response(status=499)  # the client has gone; nobody reads this
        finally:
            self.router.give_up(ticket, "cancelled")

    async def _answer(self, request: web.Request, body: Mapping[str, Any], ticket: Ticket) -> web.StreamResponse:
        router, streams = self.router, body.get("stream") is True
        answer = Answer(streams)
        response: web.StreamResponse | None = None
        try:
            await ticket.ready
            async with aclosing(self._pieces(request.path, body, ticket)) as pieces:
                async for piece in pieces:
                    if response is None:
                        response = _begun(streams)
                        await response.prepare(request)
                    await response.write(piece)  # first, because somebody waits for it
                    router.received(ticket, answer.feed(piece))
            router.finish(ticket, answer.total)
        except BackendError as error:
            router.give_up(ticket, "failed")
            if response is None:
                return _error(error.status if 400 <= error.status <= 599 else 502, error.message)
            if not streams:  # half a document: the client has to see that it is broken
                if request.transport is not None:
                    request.transport.abort()
                return response
            await response.write(b"data: " + json.dumps(_problem(error.status, error.message)).encode() + b"\n\n")
        if response is None:
            response = _begun(streams)
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _pieces(self, path: str, body: Mapping[str, Any], ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The server's answer. A model that it has lost is loaded again, and asked once more."""
        backend, name = self.router.backends[ticket.accelerator], self.router.server_name(ticket.model)
        mover, last = self.router.movers[ticket.accelerator], False
        while True:
            began, empty = time.monotonic(), True
            try:
                async with aclosing(backend.generate(name, path, body)) as pieces:
                    async for piece in pieces:
                        empty = False
                        yield piece
                return
            except BackendError as error:
                if last or not empty or not await mover.restore(name, error, began):
                    raise
                last = True
            except Exception as error:  # a bug of a backend; its words may quote a prompt
                logger.error("the backend %s has a bug: %s in an answer", backend.kind, type(error).__name__)
                raise bug(backend, error) from None

    async def _models(self, request: web.Request) -> web.StreamResponse:
        del request
        phases = self.router.mirror.state.models[:, MODEL.phase].tolist()
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "cace-env", "state": PHASES[phase]}
            for name, phase in zip(self.router.tables.model_names, phases, strict=True)
        ]
        return web.json_response({"object": "list", "data": rows})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        del request
        count(self.router)
        return web.Response(body=self.router.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response(status_of(self.router), headers={"Cache-Control": "no-store"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response({"status": "stopping" if self.stopping.is_set() else "ok"})

    async def _show(self, request: web.Request) -> web.StreamResponse:
        del request
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)


@asynccontextmanager
async def listening(
    app: web.Application, serving: Serving, signals: Mapping[int, Callable[[], None]], *, unpacks: bool = True
) -> AsyncGenerator[str, None]:
    """Serves an application, and gives its address.

    Args:
        app: is served.
        serving: how.
        signals: call these functions meanwhile, and do afterwards what they did before.
        unpacks: bodies of requests that are compressed.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in signals}
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0, auto_decompress=unpacks
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, serving.host, serving.port).start()
        for number, do in signals.items():
            loop.add_signal_handler(number, do)
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # else a second SIGTERM would leave started servers behind
        await runner.cleanup()


def host_of(request: web.Request) -> str:
    """The name that a request calls this server by, without its port."""
    host = request.headers.get("Host", "")
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def is_foreign(request: web.Request, serving: Serving) -> bool:
    """Whether a page has bent its own name here, where no key is asked for (DNS rebinding)."""
    return serving.key is None and serving.host in LOOPBACK and host_of(request) not in LOOPBACK


def has_key(request: web.Request, serving: Serving) -> bool:
    """Whether a request carries the key, if one is asked for."""
    if serving.key is None:
        return True
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "replace")
    return hmac.compare_digest(given, serving.key.encode())


@contextmanager
def ignoring(*numbers: int) -> Generator[None, None, None]:
    """Signals that would end the process do nothing, but where `listening` gives them something to do."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _body(request: web.Request) -> dict[str, Any] | web.Response:
    """The request as an object, or what is wrong with it; nothing of its content is repeated."""
    if request.content_type != "application/json":
        return _error(415, "the content type has to be application/json")
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        return _error(400, "the body is not JSON")
    return body if isinstance(body, dict) else _error(400, "the body has to be a JSON object")


def _begun(streams: bool) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/event-stream" if streams else "application/json"
    response.headers["Cache-Control"] = "no-store"
    return response


def _problem(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status, "param": None}}


def _error(status: int, message: str, retry_s: int | None = None) -> web.Response:
    headers = None if retry_s is None else {"Retry-After": str(retry_s)}
    return web.json_response(_problem(status, message), status=status, headers=headers)
