"""Claims about vector rewards: amounts of the world, exact, in the form that MO-Gymnasium reads."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import check_env

import cace_env
from cace_env.envs.objectives import (
    DEFAULT_OBJECTIVES,
    OBJECTIVES,
    MOEvictionEnv,
    MOEvictionVectorEnv,
    MOFleetEnv,
    MOFleetVectorEnv,
    MOSwapEnv,
    MOSwapVectorEnv,
)
from cace_env.fleets import Reward, TaskCost
from cace_env.simulation import METRICS
from tests.kinds import EVICTION, SWAP, Kind
from tests.support.envs import EVERYTHING_COSTS, last_legal, metrics_of, rollout, roomy, short
from tests.support.small import EVERYDAY
from tests.support.vector_runs import MODES, assert_same, scenarios, some_actions

ROOT = Path(__file__).resolve().parents[2]


class MOKind(NamedTuple):
    """An environment with several rewards, and the one behind it."""

    single: type[MOFleetEnv]
    many: type[MOFleetVectorEnv]
    id: str
    plain: Kind


MO_EVICTION = MOKind(MOEvictionEnv, MOEvictionVectorEnv, cace_env.MO_EVICTION_ID, EVICTION)
MO_SWAP = MOKind(MOSwapEnv, MOSwapVectorEnv, cace_env.MO_SWAP_ID, SWAP)
ALL = tuple(OBJECTIVES)


@pytest.fixture(params=[MO_EVICTION, MO_SWAP], ids=["eviction", "swap"], scope="session")
def vector(request: pytest.FixtureRequest) -> MOKind:
    """Both environments with vector rewards."""
    return request.param  # type: ignore[no-any-return]


class Linear(gymnasium.Wrapper, RecordConstructorArgs):
    """Scalarises as MO-Gymnasium's `LinearReward` does, without it."""

    def __init__(self, env: Any, weight: Any = None) -> None:
        RecordConstructorArgs.__init__(self, weight=weight)
        super().__init__(env)
        self.weight = np.ones(env.unwrapped.reward_space.shape) if weight is None else np.asarray(weight)

    def step(self, action: Any) -> tuple[Any, ...]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, np.dot(np.asarray(reward), self.weight), terminated, truncated, info


def returns(rows: list[tuple[Any, ...]]) -> np.ndarray:
    return np.sum([row[1] for row in rows[1:]], axis=0)


# ---------------------------------------------------------------------------------------------------------------------
# What the numbers mean


@pytest.mark.parametrize("name", [*EVERYDAY, "priced", "cut", "roomy"])
def test_an_episode_sums_to_minus_its_metrics(name: str, vector: MOKind) -> None:
    scenario = scenarios()[name] if name in scenarios() else short(name)
    env = vector.single(scenario, objectives=ALL)
    rows = rollout(env, last_legal, seed=4)
    metrics = metrics_of(env)
    np.testing.assert_allclose(-returns(rows), [metrics[name] for name in ALL], rtol=1e-12)
    assert metrics["system_s"] > 0


def test_a_whole_scenario_sums_over_thousands_of_requests(vector: MOKind) -> None:
    env = vector.single("workstation")
    rows = rollout(env, last_legal, seed=1)
    metrics = metrics_of(env)
    assert metrics["evictions"] > 100
    expected = [metrics[name] for name in ("completion_waiting_s", "system_s", "load_s", "evictions")]
    np.testing.assert_allclose(-returns(rows), expected, rtol=1e-12)


def test_every_objective_is_a_metric_of_its_name(vector: MOKind) -> None:
    assert set(OBJECTIVES) <= set(METRICS)
    assert all(METRICS[name].better == "less" for name in OBJECTIVES)
    assert vector.single(short()).objectives == DEFAULT_OBJECTIVES


def test_the_weights_of_the_scenario_change_no_amount(vector: MOKind) -> None:
    plain = rollout(vector.single(short()), seed=2)
    dear = rollout(vector.single(short(reward=EVERYTHING_COSTS.model_dump(mode="json"))), seed=2)
    for one, other in zip(plain[1:], dear[1:], strict=True):
        np.testing.assert_array_equal(one[1], other[1])


def test_a_linear_scalarisation_is_the_reward_of_a_scenario_with_these_weights(vector: MOKind) -> None:
    costs = {"completion": TaskCost(w_ttft=0.7, w_e2e=0.3), "w_load": 0.2}
    costs |= {task: TaskCost(w_e2e=0.3) for task in ("chat", "reasoning", "agent")}
    scenario = short(reward=Reward(**costs).model_dump(mode="json"))
    plain = rollout(vector.plain.single(scenario), last_legal, seed=7)
    linear = rollout(Linear(vector.single(short()), [0.7, 0.3, 0.2, 0.0]), last_legal, seed=7)
    np.testing.assert_allclose([row[1] for row in linear[1:]], [row[1] for row in plain[1:]], rtol=1e-9, atol=1e-9)


def test_everything_but_the_reward_is_as_with_one_reward(vector: MOKind) -> None:
    for one, other in zip(
        rollout(vector.plain.single(short()), seed=5), rollout(vector.single(short()), seed=5), strict=True
    ):
        np.testing.assert_equal([other[0], *other[2:]], [one[0], *one[2:]])


def test_an_illegal_action_costs_nothing_by_itself(vector: MOKind) -> None:
    env = vector.single(short())
    _, info = env.reset(seed=3)
    illegal = int((info["action_mask"] == 0).argmax())
    assert not info["action_mask"][illegal]
    reward, said = env.step(illegal)[1::3]
    env.reset(seed=3)
    np.testing.assert_array_equal(reward, env.step(int(info["action_mask"].argmax()))[1])
    assert said["invalid_action"] == 1


def test_where_nobody_is_asked_the_only_step_pays_for_all(vector: MOKind) -> None:
    env = vector.single(roomy(), objectives=("waiting_s", "load_s"))
    rows = rollout(env, seed=0)
    assert len(rows) == 2
    metrics = metrics_of(env)
    np.testing.assert_allclose(-rows[1][1], [metrics["waiting_s"], metrics["load_s"]])


# ---------------------------------------------------------------------------------------------------------------------
# Many at once


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 4])
def test_many_at_once_are_rewarded_as_many_alone(num_envs: int, mode: str, vector: MOKind) -> None:
    played = [scenarios()["default"], scenarios()["priced"], scenarios()["cut"]]
    together = vector.many(num_envs, played, autoreset_mode=mode, objectives=ALL)
    assert isinstance(together, MOFleetVectorEnv)
    sizes = {"max_slots": together.layout.max_slots, "max_pending": together.layout.max_pending}
    alone = [vector.single(played[i % 3], objectives=ALL, **sizes) for i in range(num_envs)]
    rng = np.random.default_rng(0)
    together.reset(seed=9)
    masks = np.array([env.reset(seed=9 + i)[1]["action_mask"] for i, env in enumerate(alone)])
    over = np.zeros(num_envs, dtype=np.bool_)
    ended = 0
    for _ in range(60):
        actions = some_actions(rng, masks)
        _, rewards, terminated, truncated, _ = together.step(actions)
        assert rewards.dtype == np.float64 and rewards.shape == (num_envs, len(ALL))
        for i, env in enumerate(alone):
            if over[i] and mode == "NextStep":
                _, info = env.reset()
                expected, done = np.zeros(len(ALL)), False
            else:
                _, expected, terminates, cut, info = env.step(actions[i])
                done = terminates or cut
                if done and mode != "NextStep":
                    _, info = env.reset()
            np.testing.assert_array_equal(rewards[i], expected)
            assert done == (terminated[i] or truncated[i])
            over[i], masks[i] = done, info["action_mask"]
        ended += int(over.sum())
        if mode == "Disabled" and over.any():
            together.reset(options={"reset_mask": over})
        if mode != "NextStep":
            over[:] = False
    assert ended >= 2 * num_envs


def test_returned_rewards_never_change(vector: MOKind) -> None:
    env = vector.many(2, short())
    _, infos = env.reset(seed=1)
    first = env.step(infos["action_mask"].argmax(axis=1))
    kept = first[1].copy()
    env.step(first[4]["action_mask"].argmax(axis=1))
    np.testing.assert_array_equal(first[1], kept)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"]
)
def test_a_copy_is_rewarded_for_its_own_steps(duplicate: Any, vector: MOKind) -> None:
    env = vector.many(2, short())
    env.reset(seed=1)
    env.step(env.action_masks().argmax(axis=1))
    other = duplicate(env)
    expected = [env.step(env.action_masks().argmax(axis=1))[1] for _ in range(5)]
    actual = [other.step(other.action_masks().argmax(axis=1))[1] for _ in range(5)]
    np.testing.assert_array_equal(actual, expected)


# ---------------------------------------------------------------------------------------------------------------------
# States


def test_an_environment_with_one_reward_goes_on_from_its_state_and_back(vector: MOKind) -> None:
    env, again, plain = vector.single(short()), vector.single(short()), vector.plain.single(short())
    _, info = env.reset(seed=6)
    for steps in range(8):
        state = pickle.loads(pickle.dumps(env.get_state()))
        plain.set_state(state)
        again.set_state(plain.get_state())
        action = last_legal(info)
        expected = env.step(action)
        np.testing.assert_equal(again.step(action), expected)
        if steps == 0:  # the first step pays for all since time 0, also where it was taken up from a state
            assert expected[1].sum() < 0
        info = expected[4]


def test_a_batch_goes_on_from_states(vector: MOKind) -> None:
    env, many = vector.single(short()), vector.many(3, short())
    many.reset(seed=1)
    _, info = env.reset(seed=6)
    for _ in range(8):
        many.set_state(1, env.get_state())
        actions = many.action_masks().argmax(axis=1)
        actions[1] = last_legal(info)
        _, expected, *_, info = env.step(actions[1])
        np.testing.assert_array_equal(many.step(actions)[1][1], expected)


# ---------------------------------------------------------------------------------------------------------------------
# Conventions


def test_it_has_what_mo_gymnasium_reads(vector: MOKind) -> None:
    env: Any = gymnasium.make(vector.id, scenario=short())
    space = env.unwrapped.reward_space
    assert isinstance(space, gymnasium.spaces.Box)
    assert space.shape == (4,) == (env.unwrapped.reward_dim,)
    for _, reward, *_ in rollout(env, seed=1)[1:]:
        assert isinstance(reward, np.ndarray)
        assert reward in space
    many: Any = gymnasium.make_vec(vector.id, num_envs=2, scenario=short(), objectives=("evictions",))
    assert many.unwrapped.reward_space.shape == (1,)


def test_gymnasium_finds_nothing_to_say_when_it_is_scalarised(vector: MOKind) -> None:
    with pytest.warns(UserWarning) as said:
        check_env(Linear(gymnasium.make(vector.id, scenario=short()).unwrapped))
    assert len(said) == 1 and "different from the unwrapped version" in str(said[0].message)


def test_gymnasium_says_of_the_vector_only_that_it_is_no_number(vector: MOKind) -> None:
    with pytest.warns(UserWarning) as said:
        check_env(gymnasium.make(vector.id, scenario=short()).unwrapped, skip_render_check=True)
    assert said and all("The reward returned by `step()` must be a float" in str(each.message) for each in said)


def test_the_spec_makes_the_same_environment_again(vector: MOKind) -> None:
    env = gymnasium.make(vector.id, scenario="workstation", objectives=("waiting_s", "evictions"))
    assert env.spec is not None
    again: Any = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert tuple(again.unwrapped.objectives) == ("waiting_s", "evictions")
    np.testing.assert_equal(again.reset(seed=3), env.reset(seed=3))


@pytest.mark.integration
def test_a_fresh_interpreter_makes_it_without_import() -> None:
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('cace_env:cace_env/MO-Eviction-v0')\n"
        "observation, info = env.reset(seed=1)\n"
        "reward = env.step(int(info['action_mask'].argmax()))[1]\n"
        "assert reward.shape == (4,)\n"
        "import sys; assert 'mo_gymnasium' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "named",
    [{"invalid_penalty": 2.0}, {"baseline": "lru"}, {"scale_rewards": True}, {"episode_statistics": True}],
    ids=lambda named: next(iter(named)),
)
def test_what_is_about_one_reward_is_refused(named: dict[str, Any], vector: MOKind) -> None:
    for make in (vector.single, vector.many):
        with pytest.raises(ValueError, match=f"{next(iter(named))} applies to a single reward"):
            make(scenario=short(), **named)


def test_wrong_objectives_are_refused(vector: MOKind) -> None:
    with pytest.raises(ValueError, match="no objective 'ttft'; the objectives are waiting_s"):
        vector.single(short(), objectives=("ttft",))
    with pytest.raises(ValueError, match="name at least one, and none twice"):
        vector.single(short(), objectives=())
    with pytest.raises(ValueError, match="name at least one, and none twice"):
        vector.many(2, short(), objectives=("load_s", "load_s"))


def test_a_step_before_the_first_reset_is_refused(vector: MOKind) -> None:
    with pytest.raises(ResetNeeded):
        vector.single(short()).step(0)
    with pytest.raises(ResetNeeded):
        vector.many(2, short()).step([0, 0])


def test_the_same_seed_is_rewarded_the_same(vector: MOKind) -> None:
    env = vector.single(short())
    assert_same(rollout(env, seed=8), rollout(env, seed=8))
