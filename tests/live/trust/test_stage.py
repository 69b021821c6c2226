"""Who decides can be seen and switched, and a pilot takes turns by the clock."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from cace_env.config import ConfigError
from cace_env.decision_log import Decision
from cace_env.live.decider import PolicyThread
from cace_env.live.proxy import ignoring, listening
from cace_env.live.stage import Stage, Turns
from cace_env.live.tickets import Serving
from cace_env.policies import Guarded
from tests.live.serving import Live, serving
from tests.live.test_router import in_loop, raises, storm

ALWAYS_FULL = {"a": 4.0, "b": 4.0, "c": 4.0}


async def standing(live: Live) -> dict[str, Any]:
    status = await (await live.client.get(live.url + "/status.json")).json()
    found: dict[str, Any] = status["standing"]
    return found


def test_a_pilot_gives_the_policy_its_share_of_every_twenty_blocks():
    turns = Turns(0.35, 60.0)
    policy = turns.policy_decides(np.arange(0, 200 * 60, 30) + 1_760_000_400)
    blocks = policy.reshape(-1, 2)
    assert (blocks[:, 0] == blocks[:, 1]).all()  # of one block
    assert (blocks[:, 0].reshape(-1, 20).sum(axis=1) == 7).all()
    assert len({tuple(cycle) for cycle in blocks[:, 0].reshape(-1, 20)}) > 5  # not the same hours each time
    assert Turns(1.0).policy_decides([0.0, 1e9]).all()


@pytest.mark.parametrize("turns", [Turns(0.0), Turns(0.33), Turns(1.5), Turns(0.5, 0.0), Turns(float("nan"))])
def test_turns_that_cannot_be_divided_are_refused(turns: Turns):
    with pytest.raises(ConfigError, match="has to"):
        Stage(turns)


def test_it_is_known_since_when_and_why_lru_decides():
    now = [1000.0]
    stage = Stage(now=lambda: now[0])
    assert stage.standing() == ("", "", 1000.0)
    now[0] = 1010.0
    stage.decided("forecast", "the forecast errs")
    now[0] = 1020.0
    stage.decided("forecast", "the forecast errs more")
    assert stage.standing() == ("forecast", "the forecast errs more", 1010.0)
    stage.hand_over(True)
    assert stage.standing().reason == "by hand" and stage.standing().since_s == 1020.0
    stage.hand_over(False)  # the guard has the last word again
    assert stage.standing().reason == "forecast"
    stage.decided("", "")
    assert stage.standing().reason == "" and stage.handovers == {"forecast": 2, "by hand": 1}


@in_loop
async def test_signals_hand_over_to_lru_and_back():
    async with serving(ALWAYS_FULL, policy="cace") as live:
        await storm(live, 15, models="abc")
        assert (await standing(live))["by"] == "policy"
        os.kill(os.getpid(), signal.SIGUSR1)
        await live.until(lambda: live.router.decider.stage.by_hand)
        before = len(live.router.decisions)
        await storm(live, 15, models="abc")
        said = await standing(live)
        assert said["by"] == "lru" and said["reason"] == "by hand" and "20" in said["since"]
        # With two models in the queue one may be the only that can leave: then nobody is asked.
        asked = [one for one in list(live.router.decisions)[before:] if one.kind == "evict"]
        assert all(one.fallback == "by hand" and one.decided_by == "lru" for one in asked)
        text = await (await live.client.get(live.url + "/metrics")).text()
        assert "cace_policy_decides 0.0" in text and 'cace_handovers{reason="by hand"} 1.0' in text
        os.kill(os.getpid(), signal.SIGUSR2)
        await live.until(lambda: not live.router.decider.stage.by_hand)
        assert (await standing(live))["by"] == "policy"


@in_loop
async def test_in_a_pilot_each_decision_is_marked_by_whose_turn_it_was():
    async with serving(policy="cace", drain_after_s=0.05) as live:
        stage = Stage(Turns(0.5, 1.0))
        live.router.decider.stage = stage
        asked: list[Decision] = []
        turn = np.zeros(0, bool)
        while len(asked) <= 10 or not 0 < turn.sum() < len(turn):  # at most ten seconds, half of the twenty blocks
            await storm(live, 15, seed=len(asked))
            await asyncio.sleep(0.05)
            asked = [one for one in live.router.decisions if one.kind == "evict"]
            turn = stage.turns.policy_decides([one.time_us * 1e-6 for one in asked])
        wrong = [one for one, policy in zip(asked, turn, strict=True) if (one.fallback == "") != policy]
        assert len(wrong) <= 1  # between the event and the look at the clock a block may end


@in_loop
async def test_a_policy_that_fails_is_seen_to_be_replaced():
    async with serving(policy=raises, drain_after_s=0.05) as live:
        await storm(live, 60)
        assert live.router.decider.stage.handovers["error"] >= 1


@in_loop
async def test_a_guard_goes_on_watching_while_lru_decides():
    async with serving(policy="guarded:cace", drain_after_s=0.05) as live:
        guard = live.router.decider.who
        assert isinstance(guard, Guarded)
        seen: list[int] = []
        guard.watch = lambda simulator: seen.append(simulator.question.decision)  # type: ignore[method-assign]
        live.router.decider.stage.hand_over(True)
        await storm(live, 60)
        asked = [one for one in live.router.decisions if one.kind == "evict"]
        assert seen and {one.fallback for one in asked} == {"by hand"} and guard.decisions == 1  # to be warm
        seen.clear()
        live.router.decider._thread = PolicyThread()
        live.router.decider._thread.busy = True  # with an earlier question, over the same objects
        await storm(live, 30)
        assert not seen


@in_loop
async def test_a_signal_to_hand_over_that_comes_early_or_late_does_not_end_the_process():
    before, heard = signal.getsignal(signal.SIGUSR1), list[int]()
    with ignoring(signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)
        async with listening(web.Application(), Serving(port=0), {signal.SIGUSR1: lambda: heard.append(1)}):
            os.kill(os.getpid(), signal.SIGUSR1)
            async with asyncio.timeout(5.0):
                while not heard:
                    await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)
    assert heard == [1] and signal.getsignal(signal.SIGUSR1) == before
