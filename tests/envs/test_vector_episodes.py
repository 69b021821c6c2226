"""Claims about episodes of the vector environment: how they begin, what is refused, what is told at their end."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from cace_env.envs import EvictionVectorEnv
from cace_env.scenarios import SEEDS
from cace_env.simulation import METRICS
from tests.kinds import Kind
from tests.support.envs import roomy, short
from tests.support.vector_runs import (
    MODES,
    alone,
    assert_same,
    go_on,
    legal_actions,
    make,
    play,
    scenarios,
    some_actions,
)


def played(returned: tuple[Any, ...]) -> list[int]:
    """The workload seeds that a reset of all names."""
    assert returned[-1]["_workload_seed"].all()
    seeds: list[int] = returned[-1]["workload_seed"].tolist()
    return seeds


# ---------------------------------------------------------------------------------------------------------------------
# Seeds


def test_a_seed_seeds_the_environments_one_after_the_other() -> None:
    env = make()
    assert played(env.reset(seed=7)) == [7, 8, 9]
    assert played(env.reset(seed=np.int64(7))) == [7, 8, 9]
    assert env.np_random_seed == (7, 8, 9)
    assert_same(env.reset(seed=7), env.reset(seed=[7, 8, 9]))
    assert_same(env.reset(seed=7), env.reset(seed=np.array([7, 8, 9])))


def test_seeds_may_be_given_to_some() -> None:
    env, singles = make(), alone(make(), [scenarios()["default"]])
    env.reset(seed=20)
    singles.reset(seed=20)
    for _ in range(3):
        actual = env.reset(seed=[5, None, 2**40])
        assert_same(actual, singles.reset(seed=[5, None, 2**40]))
        assert played(actual)[0] == 5
    assert env.np_random_seed == singles.np_random_seed == (5, 21, 2**40)


def test_resets_without_seed_differ_and_are_reproducible_after_one_with() -> None:
    runs = []
    for _ in range(2):
        env = make()
        env.reset(seed=1)
        runs.append([env.reset() for _ in range(4)])
    assert_same(*runs)
    assert len({seed for returned in runs[0] for seed in played(returned)}) == 12
    assert played(make().reset()) != played(make().reset())  # without seeds


def test_named_workloads_are_played_exactly() -> None:
    env = make()
    assert played(env.reset(options={"workload_seed": 11})) == [11, 11, 11]
    assert played(env.reset(seed=3, options={"workload_seed": np.array([4, 2, 4])})) == [4, 2, 4]
    by_name = env.reset(options={"workload_seed": np.arange(30, 33)})
    assert_same(by_name, make().reset(seed=30))
    test = make(split="test")
    assert played(test.reset(options={"workload_seed": SEEDS["test"][3]})) == [SEEDS["test"][3]] * 3
    assert all(seed in SEEDS["test"] for seed in played(test.reset(seed=0)) + played(test.reset()))


def test_a_partial_reset_leaves_the_others_in_the_middle(kind: Kind) -> None:
    for mode in MODES:
        env = make(kind=kind, autoreset_mode=mode)
        singles = alone(env, [scenarios()["default"]])
        mask = np.array([False, True, False])
        env.reset(seed=1), singles.reset(seed=1)
        for seed in (None, 40, None):
            for _ in range(5):
                actions = legal_actions(env)
                assert_same(go_on(env, actions), go_on(singles, actions))
            assert_same(
                env.reset(seed=seed, options={"reset_mask": mask}),
                singles.reset(seed=seed, options={"reset_mask": mask.copy()}),
            )


def test_only_what_is_reset_has_to_name_a_workload_of_the_split() -> None:
    env = make()
    env.reset(seed=1)
    mask = np.array([True, False, True])
    _, infos = env.reset(options={"reset_mask": mask, "workload_seed": np.array([6, SEEDS["test"][0], 7])})
    assert infos["workload_seed"].tolist() == [6, 0, 7] and infos["_workload_seed"].tolist() == mask.tolist()


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, and that nothing is lost by it


def mask_of(*values: int) -> dict[str, Any]:
    return {"options": {"reset_mask": np.array(values, dtype=np.bool_)}}


REFUSED_RESETS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too few seeds": ({"seed": [1, 2]}, ValueError, "2 seeds for 3 environments"),
    "negative seed": ({"seed": -1}, ValueError, "seed -1 is negative"),
    "negative seeds": ({"seed": [1, -7, None]}, ValueError, "seed -7 is negative"),
    "half a seed": ({"seed": [1, 2.5, 3]}, TypeError, "float"),
    "seed of text": ({"seed": ["1", "2", "3"]}, TypeError, "str"),
    "mask of integers": ({"options": {"reset_mask": np.ones(3, dtype=np.int8)}}, TypeError, "bool array of shape"),
    "mask as a list": ({"options": {"reset_mask": [True] * 3}}, TypeError, "bool array of shape"),
    "mask too short": (mask_of(1, 1), TypeError, "bool array of shape"),
    "mask of two axes": ({"options": {"reset_mask": np.ones((3, 1), dtype=np.bool_)}}, TypeError, "bool array of"),
    "empty mask": (mask_of(0, 0, 0), ValueError, "at least one entry has to be True"),
    "test workload": ({"options": {"workload_seed": SEEDS["test"][0]}}, ValueError, "split='test'"),
    "one test workload": ({"options": {"workload_seed": np.array([1, SEEDS["test"][0], 2])}}, ValueError, "='test'"),
    "no such workload": ({"options": {"workload_seed": -1}}, ValueError, "is not one of split 'train'"),
    "workload of text": ({"options": {"workload_seed": "3"}}, ValueError, "give one integer, or 3"),
    "half a workload": ({"options": {"workload_seed": 1.5}}, ValueError, "give one integer, or 3"),
    "too few workloads": ({"options": {"workload_seed": [1, 2]}}, ValueError, "give one integer, or 3"),
    "unknown option": ({"options": {"workload_sede": 1}}, ValueError, "unknown reset option 'workload_sede'"),
    "good seed, bad mask": ({"seed": 99, **mask_of(0, 0, 0)}, ValueError, "at least one entry has to be True"),
    "good mask, bad seed": ({"seed": [9, 9, -9], **mask_of(1, 0, 0)}, ValueError, "seed -9 is negative"),
}


@pytest.mark.parametrize("name", REFUSED_RESETS)
def test_a_refused_reset_changes_nothing(name: str) -> None:
    arguments, error, message = REFUSED_RESETS[name]
    env, untouched = make(), make()
    with pytest.raises(error, match=message):
        env.reset(**arguments)
    for each in (env, untouched):
        each.reset(seed=1)
        play(each, 3)
    with pytest.raises(error, match=message):
        env.reset(**arguments)
    assert_same(play(env, 4), play(untouched, 4))
    assert_same(env.reset(), untouched.reset())  # nor have the generators been used


def test_the_first_reset_is_of_all() -> None:
    env = make(autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="reset all first"):
        env.reset(**mask_of(1, 1, 0))
    assert_same(env.reset(seed=1, **mask_of(1, 1, 1)), make().reset(seed=1))


@pytest.mark.parametrize("mode", MODES)
def test_a_workload_that_fails_half_way_leaves_no_mixture_to_step_on(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, untouched = make(autoreset_mode=mode), make(autoreset_mode=mode)
    env.reset(seed=1)
    play(env, 3)
    plain, asked = env.draws.shelf, []

    def second_fails(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 2:
            raise OSError("the log has gone")
        return plain(*arguments)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="gone"):
        patched.setattr(env.draws, "shelf", second_fails)
        env.reset()
    for call in (lambda: env.step([0, 0, 0]), env.action_masks, lambda: env.reset(**mask_of(0, 0, 1))):
        with pytest.raises(ResetNeeded):
            call()
    assert_same(env.reset(seed=2), untouched.reset(seed=2))
    assert_same(play(env, 30), play(untouched, 30))


REFUSED_STEPS: dict[str, tuple[Any, str]] = {
    "too large": ([0, 12, 0], "environment 1: there is no action 12; use 0 to 11"),
    "negative": ([0, 0, -1], "environment 2: there is no action -1"),
    "beyond 64 bits": (np.array([2**63, 0, 0], dtype=np.uint64), "there is no action"),
    "too few": ([0, 0], r"shape \(2,\); give an integer for each of 3"),
    "a column": (np.zeros((3, 1), dtype=np.int64), r"shape \(3, 1\)"),
    "one number": (0, r"shape \(\)"),
    "real numbers": (np.zeros(3), "float64"),
    "truth values": (np.zeros(3, dtype=np.bool_), "bool"),
    "nothing": (None, "object"),
}


@pytest.mark.parametrize("name", REFUSED_STEPS)
def test_a_refused_step_changes_nothing(name: str) -> None:
    actions, message = REFUSED_STEPS[name]
    env, untouched = make(), make()
    for each in (env, untouched):
        each.reset(seed=1)
        play(each, 3)
    with pytest.raises(InvalidAction, match=message):
        env.step(actions)
    assert_same(play(env, 4), play(untouched, 4))


def test_strict_refuses_illegal_actions_and_loses_nothing(kind: Kind) -> None:
    strict, lax = make(kind=kind, strict=True, threads=2), make(kind=kind)
    strict.reset(seed=6), lax.reset(seed=6)
    for _ in range(40):
        illegal = legal_actions(lax)
        illegal[1] = strict.action_masks()[1].argmin()
        with pytest.raises(InvalidAction, match=f"environment 1: action {illegal[1]} is not legal now; legal"):
            strict.step(illegal)
        returned = strict.step(legal_actions(lax))
        assert_same(returned, lax.step(legal_actions(lax)))
        if (returned[2] | returned[3])[1]:
            break
    else:
        raise AssertionError("environment 1 never ended")
    illegal = legal_actions(lax)
    illegal[1] = -1  # ignored: this step resets
    assert_same(strict.step(illegal), lax.step(legal_actions(lax)))


def test_the_step_that_resets_refuses_nothing(kind: Kind) -> None:
    env = make(6, kind, strict=True, max_episode_steps=1)
    env.reset(seed=1)
    truncated = env.step(legal_actions(env))[3]
    assert truncated.all() and not env.action_masks()[:, 0].all()  # a second question stands there, unanswered
    for ignored in (np.zeros(6, dtype=np.int64), np.full(6, 99)):
        twin = copy.deepcopy(env)
        assert_same(twin.step(ignored), copy.deepcopy(env).step(legal_actions(env)))


def test_nothing_goes_before_the_first_reset() -> None:
    env = make()
    for call in (lambda: env.step([0, 0, 0]), env.action_masks, lambda: env.describe(0)):
        with pytest.raises(ResetNeeded):
            call()
    assert_same(env.reset(seed=1), make().reset(seed=1))


def test_a_finished_episode_takes_no_step_where_nobody_resets() -> None:
    env, untouched = (EvictionVectorEnv(3, [short(requests=60), roomy()], autoreset_mode="Disabled") for _ in range(2))
    over = np.zeros(3, dtype=np.bool_)
    for each in (env, untouched):
        each.reset(seed=1)
        over = each.step(legal_actions(each))[2]
    assert over.tolist() == [False, True, False]
    with pytest.raises(ResetNeeded, match=r"environments \[1\] are over; call reset\(options=\{\"reset_mask\""):
        env.step(legal_actions(env))
    for each in (env, untouched):
        each.reset(options={"reset_mask": over})
    assert_same(play(env, 3), play(untouched, 3))


# ---------------------------------------------------------------------------------------------------------------------
# What is told


@pytest.mark.parametrize("mode", MODES)
def test_infos_say_what_the_environment_would(mode: str, kind: Kind) -> None:
    env = kind.many(3, [scenarios()["default"], roomy()], autoreset_mode=mode)
    observations, infos = env.reset(seed=3)
    ended = 0
    for _ in range(40):
        told = infos["_action_mask"]  # a partial reset tells only of those it has reset
        np.testing.assert_array_equal(env.action_masks()[told], infos["action_mask"][told] == 1)
        assert told.any() and env.action_masks().any(axis=1).all()
        assert observations in env.observation_space
        assert all(env.single_observation_space.contains(each) for each in observations)
        actions = legal_actions(env)
        assert actions in env.action_space
        observations, rewards, terminated, truncated, infos = env.step(actions)
        assert [each.dtype.kind for each in (rewards, terminated, truncated)] == ["f", "b", "b"]
        over = terminated | truncated
        ended += int(over.sum())
        assert ("final_obs" in infos) == ("final_info" in infos) == (mode == "SameStep" and bool(over.any()))
        metrics = env.episode_metrics
        assert list(metrics) == list(METRICS)
        np.testing.assert_array_equal(metrics["cost"] > 0, over)
        assert all(np.isnan(values[~over]).all() for values in metrics.values())
        if "final_obs" in infos:
            assert [each is not None for each in infos["final_obs"]] == over.tolist()
            assert all(each in env.single_observation_space for each in infos["final_obs"][over])
        if mode == "Disabled" and over.any():
            observations, infos = env.reset(options={"reset_mask": over})
    assert ended >= 10


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_are_gymnasiums(mode: str, kind: Kind) -> None:
    if mode == "SameStep" and tuple(map(int, gymnasium.__version__.split(".")[:2])) < (1, 4):
        pytest.skip("before Gymnasium 1.4 its wrapper leaves out the first step of each episode but the first")
    names = ["default", "roomy", "cut"]
    ours = kind.many(3, [scenarios()[n] for n in names], autoreset_mode=mode, episode_statistics=True)
    theirs = RecordEpisodeStatistics(kind.many(3, [scenarios()[n] for n in names], autoreset_mode=mode))
    ours.reset(seed=2), theirs.reset(seed=2)
    rng = np.random.default_rng(0)
    returns, lengths, costs = [], [], []
    for _ in range(60):
        actions = legal_actions(ours) if rng.random() < 0.9 else some_actions(rng, ours.action_masks())
        actual, expected = ours.step(actions), theirs.step(actions)
        times = [each[-1].get("episode", {}).pop("t", np.zeros(3)) for each in (actual, expected)]
        assert_same(actual, expected)
        _, _, terminated, truncated, infos = actual
        over = terminated | truncated
        assert ("episode" in infos) == bool(over.any())
        if over.any():
            assert (times[0][over] >= 0).all() and (times[0][~over] == 0).all() and times[0].dtype == times[1].dtype
            last = infos.get("final_info", infos)
            returns += infos["episode"]["r"][over].tolist()
            lengths += infos["episode"]["l"][over].tolist()
            penalties = last["invalid_action"][over]
            costs += (ours.episode_metrics["cost"][over] + penalties).tolist()
            if mode == "Disabled":
                for each in (ours, theirs):
                    each.reset(options={"reset_mask": over.copy()})
    assert len(returns) >= 30 and min(lengths) == 1 and max(lengths) > 4
    np.testing.assert_allclose(returns, -np.array(costs), rtol=1e-12)
    assert list(theirs.return_queue) == returns and list(theirs.length_queue) == lengths


def test_gymnasiums_statistics_survive_partial_resets() -> None:
    ours = make(autoreset_mode="Disabled", episode_statistics=True)
    theirs = RecordEpisodeStatistics(make(autoreset_mode="Disabled"))
    ours.reset(seed=2), theirs.reset(seed=2)
    for step in range(30):
        actions = legal_actions(ours)
        actual, expected = ours.step(actions), theirs.step(actions)
        for each in (actual, expected):
            each[-1].get("episode", {}).pop("t", None)
        assert_same(actual, expected)
        mask = actual[2].copy()
        mask[0] |= step % 4 == 3  # given up in the middle
        if mask.any():
            assert_same(*(each.reset(options={"reset_mask": mask.copy()}) for each in (ours, theirs)))
