"""Claims about the vector environment: N at once do exactly what N do alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

import cace_env
from cace_env.config import ConfigError
from cace_env.envs import EvictionEnv, EvictionVectorEnv
from cace_env.kernel.batch import Look
from cace_env.simulation import Simulators
from tests.kinds import Kind
from tests.support.envs import roomy, short
from tests.support.logs import servegen
from tests.support.vector_runs import (
    MODES,
    alone,
    assert_equal_runs,
    assert_same,
    go_on,
    legal_actions,
    make,
    play,
    scenarios,
)

# ---------------------------------------------------------------------------------------------------------------------
# N at once are N alone


@pytest.mark.parametrize("mode", MODES)
def test_many_at_once_equal_as_many_alone(mode: str, kind: Kind) -> None:
    scenario = scenarios()["default"]
    together = kind.many(5, scenario, autoreset_mode=mode, threads=2)
    assert assert_equal_runs(alone(together, [scenario]), together, 100) >= 10


@settings(max_examples=20)
@given(
    names=st.lists(st.sampled_from(sorted(scenarios())), min_size=1, max_size=3),
    num_envs=st.integers(1, 4),
    mode=st.sampled_from(MODES),
    threads=st.integers(1, 5),
    num_workloads=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 2**40),
)
def test_any_batch_equals_its_environments_alone(
    names: list[str], num_envs: int, mode: str, threads: int, num_workloads: int | None, seed: int, kind: Kind
) -> None:
    played = [scenarios()[name] for name in names]
    together = kind.many(
        num_envs, played, autoreset_mode=mode, threads=threads, num_workloads=num_workloads, invalid_penalty=2.5
    )
    singles = alone(together, played, num_workloads=num_workloads, invalid_penalty=2.5)
    assert_equal_runs(singles, together, 12, seed)
    together.close()


@pytest.mark.parametrize("mode", MODES)
def test_different_fleets_share_a_batch(mode: str, kind: Kind) -> None:
    played = [scenarios()["priced"], scenarios()["default"], roomy()]
    together = kind.many(5, played, autoreset_mode=mode)
    sizes = {(each.layout.max_slots, each.layout.max_pending) for each in map(kind.single, played)}
    assert len(sizes) == 3
    assert (together.layout.max_slots, together.layout.max_pending) == tuple(map(max, zip(*sizes, strict=True)))
    assert assert_equal_runs(alone(together, played), together, 60) >= 30


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_is_asked_every_step_is_an_episode(mode: str, kind: Kind) -> None:
    together = kind.many(2, roomy(), autoreset_mode=mode)
    ended = assert_equal_runs(alone(together, [roomy()]), together, 8)
    assert ended == (8 if mode == "NextStep" else 16)


@pytest.mark.parametrize("mode", MODES)
def test_the_decision_limit_truncates_as_it_does_alone(mode: str, kind: Kind) -> None:
    together = kind.many(3, scenarios()["cut"], autoreset_mode=mode)
    assert assert_equal_runs(alone(together, [scenarios()["cut"]]), together, 25) >= 12
    together.reset(seed=1)
    for _ in range(3):
        assert not together.step(legal_actions(together))[3].any()
    assert together.step(legal_actions(together))[3].all()


@pytest.mark.parametrize("mode", MODES)
def test_a_step_limit_is_a_time_limit(mode: str, kind: Kind) -> None:
    played = [scenarios()["default"], roomy()]
    together = kind.many(4, played, autoreset_mode=mode, max_episode_steps=5)
    singles = alone(together, played, lambda env: TimeLimit(env, 5))
    assert_same(together.reset(seed=2), singles.reset(seed=2))
    cut = 0
    for _ in range(30):
        actions = legal_actions(together)
        actual, expected = go_on(together, actions), go_on(singles, actions)
        _, _, terminated, truncated, _ = actual[0]
        np.testing.assert_array_equal(truncated, expected[0][3] & ~terminated)
        cut += int(truncated.sum())
        assert_same([actual[0][:3], actual[0][4:], actual[1:]], [expected[0][:3], expected[0][4:], expected[1:]])
    assert cut >= 6


@pytest.mark.parametrize(("limit", "steps"), [(3, 3), (9, 4)])
def test_the_smaller_of_two_limits_holds(limit: int, steps: int) -> None:
    env = EvictionVectorEnv(2, scenarios()["cut"], max_episode_steps=limit)
    env.reset(seed=1)
    for step in range(1, steps + 1):
        assert (env.step(legal_actions(env))[3] == (step == steps)).all()


def test_an_episode_that_ends_by_itself_in_its_last_step_is_not_truncated() -> None:
    env = EvictionVectorEnv(2, roomy(), max_episode_steps=1)
    env.reset(seed=1)
    *_, terminated, truncated, _ = env.step([0, 0])
    assert terminated.all() and not truncated.any() and not env.episode_metrics["truncated"].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_one_is_the_single_environment(mode: str, kind: Kind) -> None:
    together, single = kind.many(1, short(requests=60), autoreset_mode=mode), kind.single(short(requests=60))

    def unpacked(infos: dict[str, Any]) -> dict[str, Any]:
        values = {name: each for name, each in infos.items() if not name.startswith("_")}
        return {name: each[0] for name, each in values.items()}

    (observations, infos), (observation, info) = together.reset(seed=8), single.reset(seed=8)
    over = False
    while not over:
        assert together.describe(0) == single.describe()
        np.testing.assert_equal((observations[0], unpacked(infos)), (observation, info))
        action = int(together.action_masks()[0].argmax())
        observations, rewards, terminated, truncated, infos = together.step([action])
        observation, reward, *ends, info = single.step(action)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, *ends)
        over = any(ends)
    if mode == "SameStep":
        observations, infos = infos["final_obs"], infos["final_info"]
        assert single.describe() == "nothing is asked" != together.describe(0)
    else:
        assert together.describe(0) == single.describe() == "nothing is asked"
    np.testing.assert_equal((observations[0], unpacked(infos)), (observation, info))


def test_questions_in_words_are_those_of_the_single_environments(kind: Kind) -> None:
    played = [scenarios()["priced"], roomy(), scenarios()["cut"]]
    together = kind.many(3, played, autoreset_mode="NextStep")
    singles = alone(together, played)
    singles.reset(seed=4)
    together.reset(seed=4)
    for _ in range(12):
        assert [together.describe(env) for env in range(3)] == list(singles.call("describe"))
        actions = legal_actions(together)
        together.step(actions)
        singles.step(actions)


# ---------------------------------------------------------------------------------------------------------------------
# Workloads that are kept


@pytest.mark.parametrize("mode", MODES)
def test_kept_workloads_are_a_part_of_all_and_nothing_else_differs(mode: str, kind: Kind) -> None:
    scenario = scenarios()["default"]
    kept = kind.many(4, scenario, autoreset_mode=mode, num_workloads=3)
    fresh = kind.many(4, scenario, autoreset_mode=mode)
    seen: set[int] = set()
    for start in range(0, 40, 4):
        _, infos = kept.reset(seed=start)
        seen |= set(infos["workload_seed"].tolist())
        assert_same(kept.reset(seed=start), fresh.reset(options={"workload_seed": infos["workload_seed"]}))
        seen |= set(kept.reset()[1]["workload_seed"].tolist())
    assert seen == {0, 1, 2}
    fresh.reset(options={"workload_seed": kept.reset(seed=1)[1]["workload_seed"]})
    actions = legal_actions(kept)
    kept_steps, fresh_steps = kept.step(actions), fresh.step(actions)
    assert_same(kept_steps, fresh_steps)
    for steps in play(kept, 60):
        for *_, infos in steps:
            assert set(infos.get("workload_seed", np.zeros(1)).tolist()) <= {0, 1, 2}


def test_a_workload_outside_the_bank_can_be_named() -> None:
    kept = EvictionVectorEnv(2, scenarios()["default"], num_workloads=2)
    fresh = EvictionVectorEnv(2, scenarios()["default"])
    for named in (1, 77, 0, 78, 1):
        assert_same(*(env.reset(seed=5, options={"workload_seed": named}) for env in (kept, fresh)))
        assert_same(*(env.step(legal_actions(env)) for env in (kept, fresh)))


@pytest.mark.parametrize("num_workloads", [None, 6])
def test_workloads_of_different_length_share_a_batch(tmp_path: Path, num_workloads: int | None) -> None:
    rates = "0,0,0.0342,1.0,Gamma,1,20\n0,600,0.0458,1.0,Gamma,1,20\n1,0,0.0308,1.0,Weibull,1,20\n"
    log = {name: str(path) for name, path in servegen(tmp_path, rates).items()}
    drawn = [short().replace(trace={"format": "servegen", "seed": seed, **log}) for seed in range(3)]
    played = [*drawn, scenarios()["priced"]]
    assert len({len(scenario.workload(0)) for scenario in played}) > 1
    together = EvictionVectorEnv(5, played, autoreset_mode="SameStep", num_workloads=num_workloads)
    assert assert_equal_runs(alone(together, played, num_workloads=num_workloads), together, 60, seed=0) >= 20


def test_a_longer_workload_of_one_leaves_the_others_where_they_are() -> None:
    scenario = short(requests=60)
    rows = np.arange(2)

    def run(disturbed: bool) -> list[Look]:
        env = EvictionEnv(scenario)
        simulators = Simulators([env.tables], [0, 0], env.layout, invalid_penalty=1.0, kept=2)
        for row in rows.tolist():
            simulators.load(row, simulators.bank.put(row, scenario.workload(row)))
        looks = [simulators.new_look()]
        simulators.reset(rows, looks[0])
        for step in range(7):
            if disturbed and step == 4:
                for requests in (90, 400):
                    longer_scenario = short(requests=requests)
                    longer = longer_scenario.workload(9)
                    simulators.load(1, simulators.bank.kept((0, requests), partial(longer_scenario.workload, 9)))
                    simulators.load(1, simulators.bank.put(1, longer))
                    simulators.reset(rows[1:], simulators.new_look())
            looks.append(simulators.new_look())
            simulators.step(rows[:1], looks[-2].masks.argmax(axis=1), looks[-1])
        return looks[1:]

    for calm, disturbed in zip(run(False), run(True), strict=True):
        for name in ("observations", "masks", "rewards", "terminated", "time_s"):
            np.testing.assert_array_equal(getattr(calm, name)[0], getattr(disturbed, name)[0])


# ---------------------------------------------------------------------------------------------------------------------
# As Gymnasium makes it


@pytest.mark.parametrize("mode", [*MODES, *AutoresetMode])
def test_gymnasium_makes_the_native_environment(mode: str | AutoresetMode, kind: Kind) -> None:
    env = gymnasium.make_vec(kind.id, num_envs=4, autoreset_mode=mode, max_episode_steps=2)
    assert isinstance(env.unwrapped, kind.many) and env.num_envs == 4
    assert env.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert EvictionVectorEnv.metadata.get("autoreset_mode") is None  # an instance does not speak for the others
    env.reset(seed=1)
    assert not env.step(legal_actions(env))[3].any()
    assert env.step(legal_actions(env))[3].all()
    env.close()


def test_by_default_the_next_step_resets(kind: Kind) -> None:
    assert gymnasium.make_vec(kind.id).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_the_spec_makes_the_same_environment_again(kind: Kind) -> None:
    env = gymnasium.make_vec(kind.id, num_envs=3, scenario="workstation", split="validation", autoreset_mode="SameStep")
    assert env.spec is not None
    for spec in (EnvSpec.from_json(env.spec.to_json()), pickle.loads(pickle.dumps(env.spec))):
        again = gymnasium.make_vec(spec)
        assert again.spec == env.spec and again.num_envs == 3 and again.metadata == env.metadata
        assert again.observation_space == env.observation_space and again.action_space == env.action_space
        assert_same(again.reset(seed=3), env.reset(seed=3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_fresh_environment_can_be_copied(duplicate: Callable[[EvictionVectorEnv], EvictionVectorEnv]) -> None:
    env = make(threads=2)
    twin = duplicate(env)
    assert_same([twin.reset(seed=1), play(twin, 5)], [env.reset(seed=1), play(env, 5)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs is 0; it has to be at least 1"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps is 0"),
        ({"invalid_penalty": -1.0}, ValueError, "at least 0"),
        ({"invalid_penalty": float("nan")}, ValueError, "at least 0"),
        ({"render_mode": "rgb_array"}, ValueError, "make a single one"),
        ({"autoreset_mode": "same_step"}, ValueError, "'NextStep', 'SameStep', 'Disabled'"),
        ({"scenario": []}, ValueError, "empty sequence"),
        ({"scenario": ["default", "defualt"]}, ConfigError, "did you mean 'default'"),
        ({"split": "training"}, ConfigError, "the splits are train, validation, test"),
        ({"num_workloads": 0}, ValueError, "num_workloads is 0; it has to be 1 to"),
        ({"split": "test", "num_workloads": 101}, ValueError, "it has to be 1 to 100"),
        ({"max_slots": 3}, ValueError, "max_slots is 3"),
        ({"max_pending": -1}, ValueError, "pending rows"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_is_right(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gymnasium.make_vec(cace_env.EVICTION_ID, **{"num_envs": 2, **arguments})


def test_closing_what_could_not_be_made_says_nothing() -> None:
    half_made = EvictionVectorEnv.__new__(EvictionVectorEnv)
    half_made.close()  # as the finaliser of some Gymnasium versions does
