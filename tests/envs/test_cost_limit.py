"""Claims about limits on waiting: their cost adds up to what an episode had of it, to the request and microsecond."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

import cace_env
from cace_env.tables import TASKS
from cace_env.wrappers import CostLimit, DictObservation, VectorCostLimit, VectorDictObservation
from tests.kinds import Kind
from tests.support.envs import last_legal, metrics_of, rollout, roomy, short
from tests.support.small import EVERYDAY
from tests.support.vector_runs import MODES, alone, assert_equal_runs, scenarios

LIMITS = ("late_requests", "longest_wait")


def waits_s(env: Any, task: str | None) -> np.ndarray:
    """How long each request has waited for its first token by the end, of those that were accepted."""
    episode = env.unwrapped.simulator.episode()
    there = (episode.arrival_us <= episode.end_us) & ~episode.refused
    if task is not None:
        there &= episode.task == TASKS.index(task)
    first_us = np.where(episode.first_token_us < 0, episode.end_us, episode.first_token_us)
    return ((first_us - episode.arrival_us) / 1e6)[there]


def costs(rows: list[tuple[Any, ...]]) -> list[float]:
    return [row[4]["cost"] for row in rows]


# ---------------------------------------------------------------------------------------------------------------------
# What the numbers mean


@pytest.mark.parametrize("name", [*EVERYDAY, "priced", "cut", "roomy"])
def test_an_episode_sums_to_what_it_had(name: str, kind: Kind) -> None:
    env = kind.single(scenarios()[name] if name in scenarios() else short(name))
    for threshold_s, task in ((0.0, None), (1.5, None), (1.5, "completion"), (20.0, "agent")):
        late = costs(rollout(CostLimit(env, threshold_s=threshold_s, task=task), last_legal, seed=4))
        longest = costs(rollout(CostLimit(env, "longest_wait", threshold_s=threshold_s, task=task), last_legal, seed=4))
        waits = waits_s(env, task)
        assert sum(late) == (waits > threshold_s).sum()
        assert sum(longest) == pytest.approx(max(0.0, waits.max(initial=0.0) - threshold_s))
        assert min(late + longest) >= 0


def test_the_longest_wait_is_that_of_the_metrics(kind: Kind) -> None:
    env = kind.single("workstation")
    rows = rollout(CostLimit(env, "longest_wait", threshold_s=10.0), seed=1)
    metrics = metrics_of(env)
    assert metrics["longest_wait_s"] > 10
    assert sum(costs(rows)) == pytest.approx(metrics["longest_wait_s"] - 10)


@pytest.mark.parametrize(("level", "metric"), [(0.95, "ttft_p95_s"), (0.99, "ttft_p99_s")])
def test_a_quantile_holds_where_few_enough_are_late(level: float, metric: str, kind: Kind) -> None:
    env = kind.single(short())
    rollout(env, seed=3)
    metrics = metrics_of(env)
    last = metrics["answered"] - 1
    for share in (0.3, 0.9, 0.999, 1.001, 1.2, 3.0):
        threshold_s = share * metrics[metric]
        late = sum(costs(rollout(CostLimit(env, threshold_s=threshold_s), seed=3)))
        if late <= math.floor(round((1 - level) * last, 9)):
            assert metrics[metric] <= threshold_s
        if late > math.ceil(round((1 - level) * last, 9)):
            assert metrics[metric] > threshold_s


def test_a_request_is_late_in_the_step_in_which_it_becomes_so(kind: Kind) -> None:
    env = kind.single(short())
    limited = CostLimit(env, threshold_s=2.0)
    _, info = limited.reset(seed=3)
    assert info["cost"] == 0
    so_far, over = 0.0, False
    while not over:
        _, _, terminated, truncated, info = limited.step(last_legal(info))
        so_far += info["cost"]
        assert so_far == (waits_s(env, None) > 2.0).sum()  # waits that go on are as long as they are by now
        over = terminated or truncated


def test_rewards_and_everything_else_stay_as_they_are(kind: Kind) -> None:
    plain = rollout(kind.single(short()), seed=5)
    limited = rollout(CostLimit(kind.single(short()), threshold_s=1.0), seed=5)
    for one, other in zip(plain, limited, strict=True):
        assert type(other[4].pop("cost")) is float
        np.testing.assert_equal(other, one)


def test_a_tighter_limit_costs_more(kind: Kind) -> None:
    for limit in LIMITS:
        sums = [sum(costs(rollout(CostLimit(kind.single(short()), limit, threshold_s=t), seed=5))) for t in (0, 2, 60)]
        assert sums[0] > sums[1] > sums[2]


# ---------------------------------------------------------------------------------------------------------------------
# Many at once


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 5])
def test_many_at_once_cost_as_many_alone(num_envs: int, mode: str, limit: str, kind: Kind) -> None:
    played = [scenarios()["default"], scenarios()["priced"], scenarios()["cut"], roomy()]
    many = kind.many(num_envs, played, autoreset_mode=mode, threads=2)
    limits = {"limit": limit, "threshold_s": 1.0, "task": "completion" if num_envs == 1 else None}
    singles = alone(many, played, partial(CostLimit, **limits))
    assert assert_equal_runs(singles, VectorCostLimit(many, **limits), 60) >= num_envs
    many.close()


def test_it_can_be_wrapped_and_wrap(kind: Kind) -> None:
    single = DictObservation(CostLimit(DictObservation(kind.single(short())), threshold_s=1.0), "pettingzoo")
    many = VectorDictObservation(VectorCostLimit(kind.many(1, short()), threshold_s=1.0))
    _, info = single.reset(seed=2)
    _, infos = many.reset(seed=2)
    for _ in range(10):
        action = last_legal(info)
        *_, info = single.step(action)
        *_, infos = many.step([action])
        assert infos["cost"].tolist() == [info["cost"]]


# ---------------------------------------------------------------------------------------------------------------------
# States


@pytest.mark.parametrize("limit", LIMITS)
def test_it_goes_on_from_a_state(limit: str, kind: Kind) -> None:
    one, another, batch = kind.single(short()), kind.single(short()), kind.many(2, short())
    env, other = (CostLimit(each, limit, threshold_s=1.0) for each in (one, another))
    many = VectorCostLimit(batch, limit, threshold_s=1.0)
    many.reset(seed=1)
    other.reset(seed=9)
    _, info = env.reset(seed=6)
    seen = 0.0
    for step in range(12):
        other.step(another.action_masks().argmax())  # somewhere else in between
        state = pickle.loads(pickle.dumps(one.get_state()))
        another.set_state(state)
        batch.set_state(1, state)
        action = last_legal(info)
        *_, info = env.step(action)
        seen += info["cost"]
        assert other.step(action)[4]["cost"] == info["cost"], step
        actions = many.action_masks().argmax(axis=1)
        actions[1] = action
        assert many.step(actions)[4]["cost"][1] == info["cost"]
    assert seen > 0


# ---------------------------------------------------------------------------------------------------------------------
# Conventions


def test_a_loop_of_a_safe_rl_library_reads_it(kind: Kind) -> None:
    # Safety-Gymnasium's `Gymnasium2SafetyGymnasium` takes info["cost"] as the third of six values and insists on it;
    # FSRL's collector adds up info.get("cost", 0) of every step.
    env = TimeLimit(CostLimit(gymnasium.make(kind.id, scenario=short()), threshold_s=0.0), 20)
    _, info = env.reset(seed=1)
    episode_cost = 0.0
    for _ in range(5):
        *_, info = env.step(last_legal(info))
        episode_cost += info.get("cost", 0)
    assert episode_cost > 0


def test_gymnasium_finds_nothing_to_say(kind: Kind) -> None:
    with pytest.warns(UserWarning) as said:
        check_env(CostLimit(gymnasium.make(kind.id, scenario=short()).unwrapped, threshold_s=1.0))
    assert len(said) == 1 and "different from the unwrapped version" in str(said[0].message)


def test_the_spec_makes_the_same_limit_again(kind: Kind) -> None:
    env = CostLimit(gymnasium.make(kind.id, scenario="workstation"), "longest_wait", threshold_s=30.0, task="chat")
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, CostLimit)
    assert again.spec == env.spec


def test_wrong_arguments_are_refused(kind: Kind) -> None:
    env = kind.single(short())
    with pytest.raises(ValueError, match="limit is 'p95'; it has to be one of late_requests, longest_wait"):
        CostLimit(env, "p95", threshold_s=1.0)
    with pytest.raises(ValueError, match="threshold_s is -1; it has to be at least 0"):
        CostLimit(env, threshold_s=-1)
    with pytest.raises(ValueError, match="task is 'coding'; it has to be None or one of completion"):
        VectorCostLimit(kind.many(1, short()), threshold_s=1.0, task="coding")
    with pytest.raises(TypeError, match="CostLimit needs an environment of cace_env"):
        CostLimit(gymnasium.make("CartPole-v1"), threshold_s=1.0)
    with pytest.raises(TypeError, match="put CostLimit around each of its environments"):
        VectorCostLimit(gymnasium.make_vec(kind.id, 2, vectorization_mode="sync", scenario=short()), threshold_s=1.0)


def test_a_step_before_the_first_reset_is_refused(kind: Kind) -> None:
    with pytest.raises(ResetNeeded):
        CostLimit(kind.single(short()), threshold_s=1.0).step(0)
    with pytest.raises(ResetNeeded):
        VectorCostLimit(kind.many(2, short()), threshold_s=1.0).step([0, 0])


@pytest.mark.parametrize("env_id", [cace_env.MO_EVICTION_ID, cace_env.MO_SWAP_ID])
def test_vector_rewards_can_be_limited_too(env_id: str) -> None:
    single = CostLimit(gymnasium.make(env_id, scenario=short()), threshold_s=0.5)
    many = VectorCostLimit(gymnasium.make_vec(env_id, num_envs=2, scenario=short()), threshold_s=0.5)
    _, info = single.reset(seed=2)
    many.reset(seed=2)
    for _ in range(10):
        action = last_legal(info)
        _, reward, _, _, info = single.step(action)
        _, rewards, _, _, infos = many.step([action, 0])
        np.testing.assert_array_equal(rewards[0], reward)
        assert infos["cost"][0] == info["cost"]
