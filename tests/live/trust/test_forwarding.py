"""The pass-through of shadow mode: everything goes through as it is, and the server is asked for its list alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cace_env.config import ConfigError
from cace_env.decision_log import DecisionLog, read_decisions
from cace_env.kernel.state import MODEL
from cace_env.live.backends.base import BackendModel
from cace_env.live.mirror import live_tables
from cace_env.live.proxy import listening
from cace_env.live.shadow import forwarding
from cace_env.live.shadow.forwarding import Forwarder, problem_of
from cace_env.live.shadow.report import summary
from cace_env.live.tickets import Serving
from cace_env.observation import SLOT
from tests.live.serving import CHAT, event, fleet_of
from tests.live.test_router import hangs, in_loop, raises
from tests.live.trust.test_shadow import NEEDS, watcher


@dataclass
class Swapping:
    """An endpoint that evicts the least recently used model by itself, two fit; and its list of models.

    As a backend it raises where anything but its list is asked for.
    """

    held: list[str] = field(default_factory=list)  # the least recently used first
    got: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    broken: bool = False
    kind: str = "fake"
    verified: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.got.append((request.method, request.raw_path, dict(request.headers), body))
        if request.path != CHAT:
            headers = {"Content-Encoding": "gzip", "X-Its": "own", "Set-Cookie": "who=first"}
            return web.Response(body=gzip.compress(b"whatever"), headers=headers)
        asked = json.loads(body)
        if asked["model"] in self.held:
            self.held.remove(asked["model"])
        self.held = [*self.held[-1:], asked["model"]]
        if "status" in asked:
            return web.Response(status=asked["status"])
        if not asked.get("stream"):
            return web.json_response({"choices": [], "usage": {"completion_tokens": 7}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for k in range(asked.get("max_tokens", 3)):
            await response.write(event({"choices": [{"delta": {"content": f"t{k}"}}]}))
            await asyncio.sleep(0.002)
            if self.broken:
                assert request.transport is not None
                request.transport.abort()
                return response
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self) -> list[BackendModel]:
        return [BackendModel(name, "resident" if name in self.held else "absent", None) for name in NEEDS]

    async def load(self, name: str) -> None:
        raise AssertionError("shadow mode loads nothing")

    async def unload(self, name: str) -> None:
        raise AssertionError("shadow mode unloads nothing")

    def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        raise AssertionError("shadow mode asks no model anything")

    async def close(self) -> None:
        pass


@dataclass
class Passing:
    """A pass-through before `Swapping`, and a client of it."""

    url: str
    client: aiohttp.ClientSession
    forwarder: Forwarder
    server: Swapping

    async def say(self, model: str, **body: Any) -> tuple[int, str]:
        asked = {"model": model, "messages": [{"role": "user", "content": "zebra"}], "stream": True, **body}
        async with self.client.post(self.url + CHAT, json=asked) as response:
            return response.status, await response.text()

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = await (await self.client.get(self.url + "/shadow/status.json")).json()
        return found

    async def until_told(self, requests: int) -> dict[str, Any]:
        async with asyncio.timeout(5.0):
            while (status := await self.status()).get("counts", {}).get("requests") != requests:
                await asyncio.sleep(0.02)
        return status


@asynccontextmanager
async def passing(
    policy: Any = "lfu", *, behind_s: float = 0.2, patience_s: float = 10.0, **how: Any
) -> AsyncIterator[Passing]:
    server = Swapping()
    upstream = web.Application()
    upstream.router.add_route("*", "/{path:.*}", server.answer)
    tables = live_tables(fleet_of(NEEDS, [4.5]).tables())
    watched = watcher(tables, policy, began_us=round(time.time() * 1e6), log=how.pop("log", None))
    async with listening(upstream, Serving(port=0), {}, unpacks=False) as at:
        serving = Serving(port=0, drain_s=5.0, **how)
        forwarder = Forwarder(watched, at, [server], {}, serving, look_s=0.02, behind_s=behind_s, patience_s=patience_s)
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(forwarder.run(address.set_result))
        async with aiohttp.ClientSession() as client:
            yield Passing(await address, client, forwarder, server)
            forwarder.stopping.set()
            await asyncio.wait_for(task, 10.0)


@in_loop
async def test_requests_and_answers_go_through_as_they_are():
    async with passing() as live:
        body = b'{"anything": [1, 2'
        headers = {"Authorization": "Bearer theirs", "X-Mine": "yes", "Accept-Encoding": "gzip"}
        url = type((await live.client.get(live.url)).url)(live.url + "/api/x?y=%2F1&z", encoded=True)
        async with live.client.put(url, data=body, headers=headers) as response:
            assert response.status == 200 and await response.read() == b"whatever"  # unpacked by the client
            assert response.headers["X-Its"] == "own" and response.headers["Content-Encoding"] == "gzip"
        method, path, got, sent = live.server.got[1]
        assert (method, path, sent) == ("PUT", "/api/x?y=%2F1&z", body)
        assert got["Authorization"] == "Bearer theirs" and got["X-Mine"] == "yes" and got["Host"] in live.forwarder._url
        status, text = await live.say("a")
        assert status == 200 and text.endswith("data: [DONE]\n\n") and text.count("content") == 3
        async with live.client.get(live.url + "/metrics") as response:
            assert response.headers["X-Its"] == "own"  # the server's metrics, not ours


@in_loop
async def test_a_cookie_of_one_client_is_not_sent_for_another():
    async with passing() as live:
        live.forwarder._url = live.forwarder._url.replace("127.0.0.1", "localhost")  # of numbers no cookies are kept
        async with live.client.get(live.url + "/login") as response:
            assert response.headers["Set-Cookie"] == "who=first"
        async with aiohttp.ClientSession() as other:
            await other.get(live.url + "/inbox")
            await other.get(live.url + "/inbox", headers={"Cookie": "who=second"})
        assert [headers.get("Cookie") for _, _, headers, _ in live.server.got] == [None, None, "who=second"]


@in_loop
async def test_a_compressed_request_goes_through_as_it_is_and_is_counted():
    async with passing() as live:
        body = gzip.compress(json.dumps({"model": "a", "prompt": "zebra" * 100}).encode())
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with live.client.post(live.url + "/v1/completions", data=body, headers=headers) as response:
            assert response.status == 200
        _, _, got, sent = live.server.got[0]
        assert sent == body and got["Content-Encoding"] == "gzip" and got["Content-Length"] == str(len(body))
        assert live.forwarder.watcher.tally.unread == 1


@in_loop
async def test_findings_are_only_drawn_up_for_who_asks(monkeypatch: pytest.MonkeyPatch):
    drawn: list[Any] = []

    def summary(watched: Any) -> list[str]:
        drawn.append(watched)
        return ["found"]

    monkeypatch.setattr(forwarding, "summary", summary)
    async with passing() as live:
        assert (await live.say("a"))[0] == 200
        async with asyncio.timeout(5.0):
            while not live.forwarder.watcher.tally.requests:
                await asyncio.sleep(0.02)
        assert not drawn
        assert (await live.status())["said"] == ["found"] and len(drawn) == 1


@in_loop
async def test_what_happened_last_is_told_before_the_end():
    async with passing(behind_s=60.0) as live:
        for model in "abc":
            assert (await live.say(model))[0] == 200
        tally = live.forwarder.watcher.tally
        assert tally.requests == 0
    assert tally.requests == 3 and not live.forwarder.problem


@in_loop
async def test_the_policy_is_asked_beside_the_server_and_nothing_is_changed(tmp_path: Path):
    log = DecisionLog(tmp_path, clock="utc")
    async with passing(log=log) as live:
        for model in "aaaabca":
            assert (await live.say(model))[0] == 200
            await asyncio.sleep(0.1)
        status = await live.until_told(7)
        counts = status["counts"]
        # The server evicts a, LFU would have evicted b; then the server has b evicted, and so would LFU.
        assert (counts["asked"], counts["agreed"], counts["seen"]) == (2, 1, 2)
        assert (counts["sooner"], counts["later"]) == (1, 0)
        assert "would have evicted b" in status["differing"][0]["why"] and not status["problem"]
        assert counts["looks"] > 10
        metrics = await (await live.client.get(live.url + "/shadow/metrics")).text()
        assert 'cace_shadow{what="agreed"} 1.0' in metrics and "cace_shadow_watching 1.0" in metrics
        page = await (await live.client.get(live.url + "/shadow/")).text()
        assert "http://" not in page and "https://" not in page  # no assets of others
        assert "zebra" not in json.dumps(status) + metrics
    log.close()
    assert [one.done == one.choice for one in read_decisions(tmp_path, kinds=["evict"])] == [False, True]


@in_loop
async def test_what_goes_wrong_is_passed_on_and_given_up():
    async with passing() as live:
        live.server.broken = True
        with pytest.raises(aiohttp.ClientError):
            await live.say("a")
        live.server.broken = False
        response = await live.client.post(live.url + CHAT, json={"model": "b", "stream": True, "max_tokens": 1000})
        await response.content.readany()
        response.close()  # a client that goes
        assert (await live.say("c", stream=False))[0] == 200
        assert (await live.say("b", status=503))[0] == 503
        await live.until_told(4)
        tally = live.forwarder.watcher.tally
        assert (tally.failed, tally.given_up) == (2, 1)
        assert any(
            "2 requests were refused or broken off by the server, and 1 given up" in each
            for each in summary(live.forwarder.watcher)
        )
        async with asyncio.timeout(5.0):
            while live.forwarder.watcher.server.mirror.state.models[:, [MODEL.running, MODEL.waiting]].any():
                await asyncio.sleep(0.02)
        assert not live.forwarder.problem


@in_loop
async def test_a_server_that_is_gone_is_said():
    async with passing() as live:
        assert await problem_of(live.forwarder._url) == ""
        live.forwarder._url = "http://127.0.0.1:9"
        assert (await live.say("a"))[0] == 502
        assert live.forwarder.watcher.tally.failed == 1
        assert await problem_of(live.forwarder._url) == "does not answer (ClientConnectorError)"


@in_loop
async def test_a_server_of_something_else_is_said():
    async def missing(_: web.Request) -> web.Response:
        return web.Response(status=404)

    upstream = web.Application()
    upstream.router.add_get("/{path:.*}", missing)
    async with listening(upstream, Serving(port=0), {}) as at:
        assert await problem_of(at) == "answers /v1/models and /health with 404"


@in_loop
async def test_what_is_posted_to_other_paths_is_counted():
    async with passing() as live:
        await live.client.post(live.url + "/v1/embeddings", json={"model": "a", "input": "zebra"})
        await live.client.get(live.url + "/v1/models")
        assert live.forwarder.watcher.tally.elsewhere == 1
        assert "1 requests more were posted to other paths" in " ".join((await live.status())["said"])


def exits(features: Any, legal: Any) -> Any:
    if features[:, SLOT.uses].max() > 1:  # not when it is asked to be warm
        raise SystemExit("no idea")
    return features[:, 0]


@pytest.mark.parametrize("policy", [raises, exits, hangs])
@in_loop
async def test_a_policy_that_fails_or_hangs_holds_up_no_request(policy: Any):
    async with passing(policy) as live:
        for model in "abcabcabc":
            began = time.perf_counter()
            assert (await live.say(model))[0] == 200
            assert time.perf_counter() - began < 0.5
            await asyncio.sleep(0.1)
        async with asyncio.timeout(10.0):
            while not (policy is exits and live.forwarder.problem) and live.forwarder.watcher.tally.asked < 4:
                await asyncio.sleep(0.02)


@in_loop
async def test_a_policy_that_hangs_ends_the_watching_and_the_first_problem_stays():
    async with passing(hangs, patience_s=0.2) as live:
        async with asyncio.timeout(10.0):
            while not live.forwarder.problem:
                assert (await live.say("abc"[len(live.server.got) % 3]))[0] == 200
        live.forwarder._stop_watching("another one")
        assert (await live.say("a"))[0] == 200
        assert (await live.status())["problem"] == "the policy has not come to an end for 0.2 s"


@in_loop
async def test_its_own_pages_ask_for_the_key_and_a_foreign_host_is_refused():
    async with passing(key="correct horse") as live:
        assert (await live.client.get(live.url + "/shadow/status.json")).status == 401
        headers = {"Authorization": "Bearer correct horse"}
        assert (await live.client.get(live.url + "/shadow/status.json", headers=headers)).status == 200
        assert (await live.say("a"))[0] == 200  # the server's keys are the server's
    async with passing() as live:
        for path in ("/v1/models", "/shadow/status.json"):
            assert (await live.client.get(live.url + path, headers={"Host": "evil.example"})).status == 403
    with pytest.raises(ConfigError, match="give a key"):
        async with passing(host="0.0.0.0"):
            pass
