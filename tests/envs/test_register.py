"""Claims about environments of one's own: one line registers them, for one and for many at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

import cace_env
from tests.support.envs import short

MINE = "MyCompany/Eviction-v0"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    known = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(short(requests=50).model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return path


@pytest.mark.parametrize("base", [cace_env.EVICTION_ID, cace_env.SWAP_ID])
def test_one_line_registers_the_single_and_the_native_vector_environment(base: str, scenario: Path) -> None:
    cace_env.register(MINE, base, scenario=scenario, baseline="lru")
    single: Any = gymnasium.make(MINE).unwrapped
    many: Any = gymnasium.make_vec(MINE, num_envs=3, autoreset_mode="SameStep").unwrapped
    assert (type(many).SINGLE, many.num_envs, many.autoreset_mode.value) == (type(single), 3, "SameStep")
    assert single.scenario.workload_models() == many.scenarios[0].workload_models()
    assert single.rewards.baseline.policy.name == many.rewards.baseline.policy.name == "lru"
    assert single.spec.id == many.spec.id == MINE
    assert len(single.scenario.workload(0)) == 50


def test_arguments_of_make_come_before_those_registered() -> None:
    cace_env.register(MINE, scenario="workstation", baseline="lru")
    env: Any = gymnasium.make(MINE, baseline=None, split="test").unwrapped
    assert (env.scenario.name, env.rewards.baseline, env.split) == ("workstation", None, "test")


def test_a_relative_file_is_meant_from_where_it_was_registered(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenario.parent)
    cace_env.register(MINE, scenario=scenario.name)
    monkeypatch.chdir("/")
    assert gymnasium.make(MINE).spec is not None
    spec = gymnasium.spec(MINE)
    assert spec.kwargs["scenario"] == str(scenario.resolve()) and "my" in spec.to_json().lower()


def test_a_limit_of_steps_holds_for_one_and_for_many() -> None:
    cace_env.register(MINE, scenario="workstation", max_episode_steps=3)
    single, many = gymnasium.make(MINE), gymnasium.make_vec(MINE, num_envs=2)
    _, info = single.reset(seed=0)
    _, infos = many.reset(seed=0)
    for step in range(3):
        *_, truncated, info = single.step(info["action_mask"].argmax())
        *_, truncations, infos = many.step(infos["action_mask"].argmax(axis=1))
        assert truncated == truncations.all() == (step == 2)


def test_registering_the_same_again_says_nothing_and_something_else_replaces_it() -> None:
    cace_env.register(MINE, scenario="workstation")
    cace_env.register(MINE, scenario="workstation")
    with pytest.warns(UserWarning, match="Overriding environment MyCompany/Eviction-v0"):
        cace_env.register(MINE, scenario="agents")
    assert gymnasium.spec(MINE).kwargs["scenario"] == "agents"


def test_what_is_registered_can_be_registered_upon() -> None:
    cace_env.register(MINE, scenario="workstation", baseline="lru")
    cace_env.register("MyCompany/Strict-v0", MINE, strict=True)
    assert gymnasium.spec("MyCompany/Strict-v0").kwargs == {
        "scenario": "workstation",
        "baseline": "lru",
        "strict": True,
    }


def test_what_cannot_be_registered_is_refused() -> None:
    with pytest.raises(gymnasium.error.Error, match="Malformed environment ID"):
        cace_env.register("my env")
    with pytest.raises(gymnasium.error.NamespaceNotFound):
        cace_env.register(MINE, "nobody/Nothing-v0")
