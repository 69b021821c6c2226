"""A pass-through before an endpoint that swaps models by itself: everything goes through untouched, and is watched.

The watching cannot hold up the requests: they only note down what happened when. A thread looks at that some seconds
later, when the server's list of models has shown what it did. Where that fails, or the policy hangs, watching ends, and
requests go through as before. The server is asked for its list of models and for nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cace_env.config import one_line
from cace_env.live.answers import Answer, most_tokens, prompt_tokens
from cace_env.live.backends.base import Backend, BackendError
from cace_env.live.decider import Failed, PolicyThread
from cace_env.live.mirror import Alone
from cace_env.live.proxy import LONGEST_ID, PATHS, SESSION, TASK, has_key, is_foreign, listening
from cace_env.live.shadow.deciding import Watcher
from cace_env.live.shadow.report import summary
from cace_env.live.status import said_of
from cace_env.live.tickets import Serving
from cace_env.tables import TASKS

logger = logging.getLogger(__name__)

OWN: Final = "/shadow"  # paths of this program; all others are the server's
HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "host")
)  # fmt: skip
MOST_EVENTS: Final = 200_000  # that wait to be looked at
SILENCE_S: Final = 3600.0  # between two pieces of an answer
LAST_S: Final = 10.0  # for what happened last before the end
PAGE_S: Final = 5.0  # a page waits so long for what the thread says; then it shows what there was before
UNTOUCHED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # not to be added by the client

Event = tuple[int, str, tuple[Any, ...]]


class Forwarder:
    """Passes requests on to one server, and tells a watcher of them.

    Args:
        watcher: is told.
        url: of the server, such as http://127.0.0.1:8080.
        backends: are asked for their lists of models, if any; nothing else is called.
        names: what the servers call each model.
        serving: how.
        look_s: pause between two looks.
        behind_s: what happened is looked at so much later; what a server evicts later than that is not seen.
        patience_s: the thread may take so long for what happened between two looks; then watching ends.
    """

    def __init__(
        self,
        watcher: Watcher,
        url: str,
        backends: Sequence[Backend],
        names: Mapping[str, str],
        serving: Serving,
        *,
        look_s: float = 1.0,
        behind_s: float = 10.0,
        patience_s: float = 60.0,
    ) -> None:
        serving.check()
        self.watcher, self.serving = watcher, serving
        self.stopping = asyncio.Event()
        self.problem = ""  # why nothing is watched any more
        self._url, self._backends = url.rstrip("/"), backends
        self._look_s, self._behind_us, self._patience_s = look_s, round(behind_s * 1e6), patience_s
        called = [names.get(name, name) for name in watcher.tables.model_names]
        self._models = {name: m for m, name in enumerate(called)}
        self._events: deque[Event] = deque()
        self._status: dict[str, Any] = {}
        self._said: list[str] = []
        self._session: aiohttp.ClientSession | None = None
        self._open = 0  # requests on their way
        self._thread = PolicyThread()
        self.app = web.Application(client_max_size=serving.most_bytes)
        self.app.router.add_get(f"{OWN}/{{what:.*}}", self._own)
        self.app.router.add_route("*", "/{path:.*}", self._pass)

    async def run(self, started: Callable[[str], None] = lambda _: None) -> None:
        """Serves until SIGTERM, SIGINT or `stopping`; then lets requests end, and tells the watcher of the last ones.

        Args:
            started: is told the address.
        """
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=UNTOUCHED,
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies are between each client and the server
        ) as self._session:
            watching = asyncio.get_running_loop().create_task(self._watch())
            stop = self.stopping.set
            signals: dict[int, Callable[[], None]] = {signal.SIGTERM: stop, signal.SIGINT: stop}
            try:
                async with listening(self.app, self.serving, signals, unpacks=False) as address:
                    started(address)
                    await self.stopping.wait()
                    end = time.monotonic() + self.serving.drain_s
                    while self._open and time.monotonic() < end:
                        await asyncio.sleep(0.02)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
                if not self.problem:
                    await self._in_thread(partial(self._tell, self._now_us()), min(LAST_S, self._patience_s))

    # -----------------------------------------------------------------------------------------------------------------
    # Requests

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        """Sends a request on and its answer back, as they are."""
        assert self._session is not None
        if is_foreign(request, self.serving):
            return web.Response(status=403)
        if self.stopping.is_set():
            return web.Response(status=503, headers={"Retry-After": "5"})
        self._open += 1
        try:
            return await self._passed(request, self._session)
        finally:
            self._open -= 1

    async def _passed(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        body = await request.read()
        seen = self._seen(request, body)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        response: web.StreamResponse | None = None
        url = type(request.url)(self._url + request.raw_path, encoded=True)  # as text it would be quoted anew
        try:
            async with session.request(
                request.method,
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                    seen.piece(piece, answer.status)
                seen.whole(answer.status)
                await response.write_eof()
        except ConnectionResetError:
            return response or web.Response(status=499)  # the client has gone; nobody reads this
        except (aiohttp.ClientError, TimeoutError):
            seen.failed = True
            if response is None:
                return web.json_response({"error": {"message": "the server is gone", "code": 502}}, status=502)
            if request.transport is not None:
                request.transport.abort()  # the client has to see that the answer is broken
        finally:
            if seen.gone():
                tally = self.watcher.tally
                tally.failed, tally.given_up = tally.failed + seen.failed, tally.given_up + (not seen.failed)
        return response

    def _seen(self, request: web.Request, body: bytes) -> _Seen:
        """Notes down the arrival, if it is a request to a model."""
        if request.method != "POST" or request.path not in PATHS:
            self.watcher.tally.elsewhere += request.method == "POST"
            return _Seen(None, False)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            self.watcher.tally.unread += 1
            return _Seen(None, False)
        name = asked.get("model") if isinstance(asked, dict) else None
        model = self._models.get(name) if isinstance(name, str) else None
        if model is None:
            self.watcher.tally.unknown += 1
            return _Seen(None, False)
        task = request.headers.get(TASK, PATHS[request.path])
        task = task if task in TASKS else PATHS[request.path]
        session, user = request.headers.get(SESSION), asked.get("user")
        seen = _Seen(self._note, asked.get("stream") is True)
        self._note(
            "arrive", seen, model, TASKS.index(task), prompt_tokens(asked), most_tokens(asked),
            session[:LONGEST_ID] if session else Alone(), user[:LONGEST_ID] if isinstance(user, str) else "",
        )  # fmt: skip
        return seen

    def _note(self, what: str, *about: Any) -> None:
        """Something has happened now: the name of a method of `Watcher`, and what it takes after the time."""
        if not self.problem and len(self._events) >= MOST_EVENTS:
            self._stop_watching("more happened than could be looked at")
        if not self.problem:
            self._events.append((self._now_us(), what, about))

    # -----------------------------------------------------------------------------------------------------------------
    # Watching

    def _now_us(self) -> int:
        return round(time.time() * 1e6) - self.watcher.began_us

    async def _watch(self) -> None:
        """Looks at the server, and in a thread at what happened some seconds ago."""
        while not self.problem:
            began_us = self._now_us()
            try:
                held = await self._look()
            except Exception as error:  # a bug of a backend: requests go through all the same
                self._stop_watching(f"{type(error).__name__}: {one_line(str(error))}")
                return
            if held is not None:
                self.watcher.looks.add(began_us, held)
            await self._in_thread(partial(self._tell, began_us - self._behind_us), self._patience_s)
            await asyncio.sleep(self._look_s)

    async def _in_thread(self, do: Callable[[], None], limit_s: float) -> None:
        """Looks at what happened, in the thread; where that fails or hangs, watching ends."""
        try:
            await asyncio.wait_for(self._thread.call(do), limit_s)
        except TimeoutError:
            self._stop_watching(f"the policy has not come to an end for {limit_s:g} s")
        except Failed as failure:
            self._stop_watching(one_line(str(failure)))

    async def _look(self) -> frozenset[int] | None:
        """The models that the servers list as loaded or loading; None where one does not answer."""
        if not self._backends:
            return None
        try:
            lists = await asyncio.gather(*(backend.models() for backend in self._backends))
        except BackendError as error:
            logger.warning("the server's models cannot be listed: %s", error.message)
            return None
        there = [each.name for models in lists for each in models if each.state in ("resident", "loading")]
        return frozenset(self._models[name] for name in there if name in self._models)

    def _tell(self, until_us: int) -> None:
        """Tells the watcher what happened until then."""
        events = self._events
        while events and events[0][0] <= until_us and not self.problem:
            at_us, what, about = events.popleft()
            getattr(self.watcher, what)(at_us, *about)
        if until_us > 0 and not self.problem:
            self.watcher.advance(until_us)
        watcher, tally = self.watcher, self.watcher.tally
        held, own = watcher.server.held(), watcher.own.held()
        self._status = {
            "policy": watcher.policy.name,
            "system": watcher.deployed.name,
            "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "behind_s": self._behind_us * 1e-6,
            "counts": {name: value for name, value in vars(tally).items() if isinstance(value, int)},
            "evictions": {"server": watcher.server.evicted, "policy": watcher.own.evicted},
            "models": [
                {"name": name, "server": m in held, "policy": m in own}
                for m, name in enumerate(watcher.tables.model_names)
            ],
            "differing": [said_of(each) for each in list(watcher.differing)[:-21:-1]],
        }  # fmt: skip

    def _stop_watching(self, problem: str) -> None:
        """The first problem stays. Events are left to the thread, which may still read them."""
        if not self.problem:
            logger.error("nothing is watched any more: %s", problem)
            self.problem, self._events = problem, deque()

    async def _summary(self) -> list[str]:
        """The findings now. Their interval takes a while to draw: that is done in the thread, and only if asked for."""
        if not self.problem:
            with suppress(TimeoutError, Failed):  # `_watch` says what is wrong with the thread
                self._said = await asyncio.wait_for(self._thread.call(partial(summary, self.watcher)), PAGE_S)
        return self._said

    # -----------------------------------------------------------------------------------------------------------------
    # Pages

    async def _own(self, request: web.Request) -> web.StreamResponse:
        """The page, its numbers, and metrics."""
        what = request.match_info["what"]
        if what == "":
            policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
            page = (files("cace_env.live.shadow") / "page.html").read_text(encoding="utf-8")
            return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": policy})
        if is_foreign(request, self.serving):
            return web.Response(status=403)
        if not has_key(request, self.serving):
            return web.Response(status=401)
        if what == "status.json":
            said = await self._summary()
            status = {**self._status, "said": said, "problem": self.problem}
            return web.json_response(status, headers={"Cache-Control": "no-store"})
        if what == "metrics":
            text = _metrics(self._status, not self.problem)
            return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})
        return web.Response(status=404)


async def problem_of(url: str) -> str:
    """Why nothing can be passed on to a server as it is now; empty where it answers."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PAGE_S)) as session:
        for path in ("/v1/models", "/health"):
            try:
                async with session.get(url.rstrip("/") + path, allow_redirects=False) as answer:
                    if answer.status < 500 and answer.status != 404:  # 401 where it asks for a key
                        return ""
            except (aiohttp.ClientError, TimeoutError) as error:
                return f"does not answer ({type(error).__name__})"
    return f"answers /v1/models and /health with {answer.status}"


class _Seen:
    """One request, as it is noted down."""

    def __init__(self, note: Callable[..., None] | None, streams: bool) -> None:
        self._note, self._answer, self._over = note, Answer(streams), note is None
        self._first = False
        self.failed = False  # by the server, not by the client

    def piece(self, piece: bytes, status: int) -> None:
        """A piece of the answer has gone through."""
        if self._over or status != 200:
            return
        self._answer.feed(piece)
        if self._answer.tokens and not self._first:
            self._first = True
            self._tell("first_token")

    def whole(self, status: int) -> None:
        """The answer is complete; one that is none counts as a failure."""
        self.failed = status != 200
        if not self._over and status == 200:
            self._over = True
            self._tell("finish", self._answer.total)

    def gone(self) -> bool:
        """There will be no more of it; returns whether it ended before it was whole."""
        if self._over:
            return False
        self._over = True
        self._tell("give_up")
        return True

    def _tell(self, what: str, *about: Any) -> None:
        assert self._note is not None
        self._note(what, self, *about)


def _metrics(status: Mapping[str, Any], watching: bool) -> bytes:
    """The counts in the format that Prometheus reads."""
    registry = CollectorRegistry()
    Gauge("cace_shadow_watching", "1 while requests are watched", registry=registry).set(watching)
    counts = Gauge("cace_shadow", "Counts since the start (docs/shadow.md)", ("what",), registry=registry)
    for name, value in status.get("counts", {}).items():
        counts.labels(name).set(value)
    evictions = Gauge("cace_shadow_evictions", "Evictions in the mirror of", ("of",), registry=registry)
    for name, value in status.get("evictions", {}).items():
        evictions.labels(name).set(value)
    return generate_latest(registry)
