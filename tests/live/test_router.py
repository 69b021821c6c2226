"""The router before servers of lies: the rules hold, nobody is cut off, and whatever fails is said to its client."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.decision_log import DecisionLog, read_decisions
from cace_env.live.decider import LIMIT_S
from cace_env.live.fleet import resident_now
from cace_env.observation import SLOT
from cace_env.tables import Protocol
from tests.live.serving import CHAT, FakeBackend, Live, fleet_of, serving


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60.0))

    return run


def lru_by_hand(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    return -features[:, SLOT.since_use_s]


def raises(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    if features[0, SLOT.uses] > 1:  # not when it is asked to be warm
        raise RuntimeError("no idea")
    return np.zeros(len(legal))


def hangs(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    if features[:, SLOT.uses].max() > 1:
        time.sleep(0.6)
    return np.zeros(len(legal))


class Nonsense:
    """Answers well once, when it is asked to be warm, and then anything."""

    def __init__(self) -> None:
        self._answers = itertools.chain([None], itertools.cycle([10**6, "zebra", -1, None, float("nan"), ()]))

    def act(self, observation: np.ndarray, mask: np.ndarray) -> Any:
        answer = next(self._answers)
        return int(mask.argmax()) if answer is None else answer


async def storm(live: Live, requests: int, seed: int = 0, models: str = "abcde") -> list[tuple[int, str]]:
    """Many requests within a third of a second."""
    rng = random.Random(seed)

    async def one() -> tuple[int, str]:
        await asyncio.sleep(rng.random() / 3)
        return await live.say(rng.choice(models), max_tokens=rng.randint(1, 8))

    return await asyncio.gather(*[one() for _ in range(requests)])


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("policy", ["lru", "cace", lru_by_hand])
@in_loop
async def test_every_stream_is_whole_and_memory_is_never_exceeded(policy: Any, protocol: Protocol):
    async with serving(policy=policy, protocol=protocol, drain_after_s=0.1) as live:
        answers = await storm(live, 120)
        assert {status for status, _ in answers} == {200}
        assert all(text.endswith("data: [DONE]\n\n") for _, text in answers)
        assert live.router.open == 0
        assert not any(live.backends[0].running.values()) and live.backends[0].ended == 0
        counts = live.router.metrics.registry.get_sample_value
        assert counts("cace_evictions_total", {"model": "c"}) and counts("cace_decision_seconds_count")
        assert not counts("cace_decisions_total", {"by": "error"})


@pytest.mark.parametrize(
    ("policy", "protocol"),
    [("agent:eviction", Protocol.EVICTION), ("guarded:agent:swap", Protocol.SWAP), ("ollama", Protocol.EVICTION)],
)
@in_loop
async def test_two_accelerators_serve_one_fleet(policy: str, protocol: Protocol):
    async with serving(memory_gb=[4.0, 3.0], policy=policy, protocol=protocol, drain_after_s=0.1) as live:
        assert {status for status, _ in await storm(live, 100, seed=2)} == {200}
        assert all(backend.started for backend in live.backends)


@in_loop
async def test_requests_of_a_model_are_served_first_come_first_served_within_its_seats():
    async with serving(backend={"load_s": 0.1}) as live:
        asked = []
        for k in range(8):
            asked.append(asyncio.create_task(live.say("a", f"{k}")))
            await live.until(lambda k=k: live.router.open == k + 1)
        await live.until(lambda: live.backends[0].started)
        assert max(live.backends[0].running.values()) <= 2
        await asyncio.gather(*asked)
        assert [content for _, content in live.backends[0].started] == [f"{k}" for k in range(8)]


@in_loop
async def test_models_are_loaded_in_the_order_of_their_oldest_requests():
    async with serving({"a": 4.0, "b": 4.0, "c": 4.0}) as live:
        asked = []
        for model in "abcab":
            asked.append(asyncio.create_task(live.say(model, max_tokens=20)))
            await live.until(lambda: live.router.open == len(asked))
        await asyncio.gather(*asked)
        assert "".join(dict.fromkeys(model for model, _ in live.backends[0].started)) == "abc"


@in_loop
async def test_a_busy_victim_ends_its_requests_before_it_leaves():
    async with serving({"a": 4.0, "b": 4.0}, drain_after_s=0.05, backend={"token_s": 0.01}) as live:
        long = asyncio.create_task(live.say("a", max_tokens=40))
        await live.until(lambda: live.backends[0].running.get("a"))
        other = asyncio.create_task(live.say("b"))
        await live.until(lambda: live.router.mirror.state.models[0, 0] == 4)  # draining
        late = asyncio.create_task(live.say("a"))  # waits for the next load
        assert (await long)[1].endswith("data: [DONE]\n\n")
        assert (await other)[0] == (await late)[0] == 200
        assert [model for model, _ in live.backends[0].started] == ["a", "b", "a"]


@in_loop
async def test_a_stream_comes_through_as_it_is_and_at_once():
    async with serving(backend={"token_s": 0.05}) as live:
        seen = []
        async with live.post("a", stream=True, max_tokens=4) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            async for line in response.content:
                seen.append((time.perf_counter(), line))
        lines = [line for _, line in seen if line.strip()]
        assert len(lines) == 6 and lines[-1] == b"data: [DONE]\n"
        assert json.loads(lines[2][6:])["choices"][0]["delta"]["content"] == "t1 "
        assert seen[-1][0] - seen[0][0] > 0.15


@in_loop
async def test_an_answer_in_one_piece_and_its_tokens():
    async with serving() as live:
        status, text = await live.say("a", stream=False, max_tokens=7)
        assert status == 200 and json.loads(text)["usage"]["completion_tokens"] == 7
        assert live.router.mirror.simulator.features()[0, SLOT.expected_output_tokens] == 7


@in_loop
async def test_a_client_that_goes_frees_its_seat_and_the_server():
    async with serving(backend={"token_s": 0.02}) as live:
        response = await live.post("a", stream=True, max_tokens=500)
        await response.content.readany()
        response.close()
        await live.until(lambda: live.router.open == 0)
        assert live.backends[0].ended == 1 and live.backends[0].running["a"] == 0
        assert (await live.say("a"))[0] == 200


@in_loop
async def test_a_client_that_goes_while_it_waits_leaves_the_queue():
    async with serving(backend={"load_s": 0.3}) as live:
        asked = [asyncio.create_task(live.say("a", f"{k}")) for k in range(3)]
        await live.until(lambda: live.router.open == 3)
        asked[1].cancel()
        await live.until(lambda: live.router.open == 2)
        assert (await asked[0])[0] == (await asked[2])[0] == 200
        assert sorted(content for _, content in live.backends[0].started) == ["0", "2"]


@in_loop
async def test_too_many_waiting_requests_are_told_when_to_come_again():
    async with serving(backend={"load_s": 0.3}, options={"most_waiting": 2}) as live:
        asked = [asyncio.create_task(live.say("a")) for _ in range(2)]
        await live.until(lambda: live.router.open == 2)
        async with live.post("a") as response:
            assert response.status == 429 and int(response.headers["Retry-After"]) >= 1
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}


@pytest.mark.parametrize(("policy", "reason"), [(raises, "error"), (Nonsense(), "error"), (hangs, "late")])
@in_loop
async def test_a_policy_that_fails_is_replaced_by_lru_in_time(policy: Any, reason: str):
    async with serving(policy=policy, drain_after_s=0.05) as live:
        assert {status for status, _ in await storm(live, 80)} == {200}
        failed = [decision for decision in live.router.decisions if decision.fallback == reason]
        assert failed and all(decision.decided_by == "lru" for decision in failed)
        slowest = live.router.metrics.registry.get_sample_value
        # The bucket of 0.1 s holds all: LIMIT_S for the policy, and a machine that is busy besides.
        assert slowest("cace_decision_seconds_bucket", {"le": "0.1"}) == slowest("cace_decision_seconds_count")
    assert LIMIT_S == 0.05


@in_loop
async def test_a_load_that_fails_is_said_to_those_who_wait_and_others_are_served():
    async with serving({"a": 4.0, "b": 4.0}) as live:
        live.backends[0].broken.add("load")
        status, text = await live.say("a", "a secret")
        assert status == 500 and "the load failed" in text and "secret" not in text
        live.backends[0].broken.clear()
        assert (await live.say("b"))[0] == (await live.say("a"))[0] == 200


@in_loop
async def test_memory_counts_as_taken_until_the_server_has_unloaded():
    async with serving({"a": 4.0, "b": 4.0}) as live:
        await live.say("a")
        live.backends[0].broken.add("unload")
        waiting = asyncio.create_task(live.say("b"))
        await live.until(lambda: live.router.metrics.registry.get_sample_value(
            "cace_move_failures_total", {"model": "a", "what": "unload"}
        ))  # fmt: skip
        live.backends[0].broken.clear()
        assert (await waiting)[0] == 200  # and the fake has seen no 8 GB


@in_loop
async def test_a_server_that_breaks_off_is_said_in_the_stream():
    async with serving() as live:
        live.backends[0].broken.add("stream")
        status, text = await live.say("a", max_tokens=9)
        assert status == 200 and "[DONE]" not in text
        assert json.loads(text.strip().splitlines()[-1][6:])["error"]["code"] == 502
        live.backends[0].broken = {"generate"}
        assert (await live.say("a"))[0] == 500
        live.backends[0].broken.clear()
        assert (await live.say("a"))[0] == 200
        assert live.router.open == 0


@in_loop
async def test_sigterm_lets_requests_end_and_takes_no_more():
    async with serving(backend={"token_s": 0.02}) as live:
        running = asyncio.create_task(live.say("a", max_tokens=30))
        waiting = asyncio.create_task(live.say("c", max_tokens=2))
        await live.until(lambda: live.backends[0].running.get("a"))
        os.kill(os.getpid(), signal.SIGTERM)
        await live.until(live.proxy.stopping.is_set)
        async with live.post("a") as response:
            assert response.status == 503 and "Retry-After" in response.headers
        assert (await running)[1].endswith("data: [DONE]\n\n") and (await waiting)[1].endswith("data: [DONE]\n\n")
        await asyncio.wait_for(live.task, 5.0)
        assert live.backends[0].closed


@in_loop
async def test_a_request_that_does_not_end_does_not_keep_the_router_alive():
    async with serving(backend={"token_s": 0.1}, serve={"drain_s": 0.2}) as live:
        endless = asyncio.create_task(live.say("a", max_tokens=1000))
        await live.until(lambda: live.backends[0].running.get("a"))
        live.proxy.stopping.set()
        await asyncio.wait_for(live.task, 5.0)
        with pytest.raises(aiohttp.ClientError):
            await endless
        assert live.backends[0].ended == 1


@in_loop
async def test_what_is_wrong_with_a_request_is_said_without_repeating_it():
    async with serving(serve={"most_bytes": 1000}) as live:
        said = {}
        for name, content, kind in [
            ("model", json.dumps({"model": "zebra", "messages": []}), "application/json"),
            ("json", "{zebra", "application/json"),
            ("list", '["zebra"]', "application/json"),
            ("type", '{"model": "a", "zebra": 1}', "text/plain"),
            ("size", json.dumps({"model": "a", "messages": "zebra" * 1000}), "application/json"),
        ]:
            async with live.client.post(live.url + CHAT, data=content, headers={"Content-Type": kind}) as response:
                said[name] = response.status
                assert "zebra" not in await response.text()
        assert said == {"model": 404, "json": 400, "list": 400, "type": 415, "size": 413}
        async with live.client.get(live.url + "/nothing") as response:
            assert response.status == 404 and (await response.json())["error"]["code"] == 404


@in_loop
async def test_a_key_is_asked_for_and_a_foreign_host_refused():
    async with serving(serve={"key": "correct horse"}) as live:
        assert (await live.say("a"))[0] == 401
        for path in ("/metrics", "/status.json", "/v1/models"):
            assert (await live.client.get(live.url + path)).status == 401
        assert (await live.client.get(live.url + "/")).status == 200
        headers = {"Authorization": "Bearer correct horse"}
        async with live.client.get(live.url + "/v1/models", headers=headers) as response:
            assert [row["id"] for row in (await response.json())["data"]] == list("abcde")
    async with serving() as live:
        assert (await live.client.get(live.url + "/", headers={"Host": "evil.example"})).status == 403
    with pytest.raises(ConfigError, match="give a key"):
        async with serving(serve={"host": "0.0.0.0"}):
            pass


@in_loop
async def test_metrics_status_and_the_decision_log_say_what_happened(tmp_path: Path):
    log = DecisionLog(tmp_path, clock="utc")
    before = time.time()
    async with serving(policy="cace", log=log, drain_after_s=0.1, options={"scenario": "test"}) as live:
        await storm(live, 60)
        text = await (await live.client.get(live.url + "/metrics")).text()
        for name in ("cace_ttft_seconds_bucket", "cace_e2e_seconds_sum", "cace_evictions_total", "cace_waiting"):
            assert name in text
        status = await (await live.client.get(live.url + "/status.json")).json()
        assert {model["name"] for model in status["models"]} == set("abcde")
        assert status["decisions"][0]["why"] and status["accelerators"][0]["used_gb"] <= 5.0
        page = await (await live.client.get(live.url + "/")).text()
        assert "http://" not in page and "https://" not in page  # no assets of others
    decisions = read_decisions(tmp_path)
    assert len(decisions) > 5 and {decision.policy for decision in decisions} == {"cace"}
    assert all(before - 1 <= decision.time_us / 1e6 <= time.time() + 1 for decision in decisions)
    assert any(decision.kind == "evict" and decision.reasons for decision in decisions)


@in_loop
async def test_no_prompt_is_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    async with serving({"a": 4.0, "b": 4.0}) as live:
        live.backends[0].broken.update({"load", "generate"})
        await live.say("a", "zebra-7391")
        live.backends[0].broken.clear()
        await live.say("b", "zebra-7391")
    assert "zebra-7391" not in caplog.text


@in_loop
async def test_models_that_are_loaded_already_are_known_and_strangers_refused():
    states = {"a": "resident"}
    async with serving(backend={"states": states}) as live:
        assert live.router.mirror.state.models[0, 0] == 3
        assert (await live.say("a"))[0] == 200
        assert not live.router.metrics.registry.get_sample_value("cace_loads_total", {"model": "a"})
    with pytest.raises(ConfigError, match="'x' loaded, which is not of this fleet"):
        await resident_now(
            fleet_of({"a": 1.0}, [5.0]).tables(), [FakeBackend({"a": 1.0, "x": 1.0}, 5.0, states={"x": "resident"})]
        )
