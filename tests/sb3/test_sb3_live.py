"""A model of Stable-Baselines3 decides about real servers: asked through `act`, or as an agent, compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError
from cace_env.tables import Protocol

pytest.importorskip("sb3_contrib", reason="needs the extra: pip install 'cace-env[sb3]'")
pytest.importorskip("aiohttp", reason="needs the extra: pip install 'cace-env[live]'")

from sb3_contrib import MaskablePPO

from cace_env.sb3 import EvictionVecEnv, SwapVecEnv, contestant, save_agent
from tests.live.serving import serving
from tests.live.test_router import in_loop, storm


def untrained(policy: str, protocol: Protocol = Protocol.EVICTION) -> MaskablePPO:
    made = {Protocol.EVICTION: EvictionVecEnv, Protocol.SWAP: SwapVecEnv}[protocol]
    return MaskablePPO(policy, made(2, scenario="workstation"), seed=0, device="cpu", n_steps=8, batch_size=8)


async def all_by_the_policy(policy: Any, protocol: Protocol) -> None:
    async with serving(policy=policy, protocol=protocol, drain_after_s=0.1) as live:
        assert {status for status, _ in await storm(live, 40)} == {200}
        decided = live.router.metrics.registry.get_sample_value("cace_decisions_total", {"by": "policy"})
        assert decided and decided > live.router.metrics.total("cace_decisions_total") / 2  # late where cores are busy
        assert not live.router.metrics.registry.get_sample_value("cace_decisions_total", {"by": "error"})


@pytest.mark.parametrize("protocol", [Protocol.EVICTION, Protocol.SWAP])
@in_loop
async def test_a_model_of_fixed_size_is_asked_on_a_smaller_fleet(protocol: Protocol):
    await all_by_the_policy(contestant(untrained("MlpPolicy", protocol)), protocol)


@in_loop
async def test_a_model_with_shared_weights_serves_as_an_agent(tmp_path: Path):
    save_agent(untrained("SlotPolicy"), tmp_path / "mine")
    await all_by_the_policy(f"agent:{tmp_path / 'mine'}", Protocol.EVICTION)


@in_loop
async def test_a_model_of_the_other_environment_is_refused_by_name():
    player = contestant(untrained("MlpPolicy"))
    with pytest.raises(ConfigError, match=r"trained for .*Eviction-v0, and is asked what .*Swap-v0 asks"):
        async with serving(policy=player, protocol=Protocol.SWAP):
            pass


@in_loop
async def test_a_model_that_is_too_small_for_the_fleet_is_refused():
    player = contestant(untrained("MlpPolicy"))  # of four places
    with pytest.raises(ConfigError, match="slots"):
        async with serving(dict.fromkeys("abcdefgh", 0.5), [3.5], policy=player):
            pass
