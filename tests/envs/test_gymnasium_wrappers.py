"""Claims about Gymnasium's own wrappers around our environments, as `docs/environment.md` names them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

import cace_env
from cace_env.wrappers import (
    DictObservation,
    SlotTableObservation,
    VectorDictObservation,
)
from tests.support.wrapped import NUM_ENVS, SCENARIO, VECTORS, make, make_vector, played

# ---------------------------------------------------------------------------------------------------------------------
# Gymnasium's own wrappers, as `docs/environment.md` names them


def episode(env: gymnasium.Env) -> tuple[list[Any], list[float], dict[str, Any]]:
    """Observations, rewards and last info of an episode; always the first legal slot."""
    observation, info = env.reset(seed=6)
    observations, rewards = [observation], []
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(int(np.asarray(info["action_mask"]).argmax()))
        observations.append(observation)
        rewards.append(float(reward))
        over = terminated or truncated
    return observations, rewards, info


def test_gymnasium_counts_our_episodes() -> None:
    _, rewards, info = episode(wrappers.RecordEpisodeStatistics(SlotTableObservation(make())))
    assert info["episode"]["l"] == len(rewards)
    assert info["episode"]["r"] == pytest.approx(sum(rewards))


def test_gymnasium_changes_our_rewards() -> None:
    _, plain, _ = episode(make())
    _, scaled, _ = episode(wrappers.TransformReward(DictObservation(make()), lambda reward: float(reward) / 10))
    _, clipped, _ = episode(wrappers.ClipReward(make(), -1.0, 0.0))
    _, normalised, info = episode(wrappers.NormalizeReward(make(), gamma=0.999))
    np.testing.assert_allclose(scaled, np.array(plain) / 10)
    np.testing.assert_array_equal(clipped, np.clip(plain, -1.0, 0.0))
    np.testing.assert_array_equal(np.sign(normalised), np.sign(plain))
    assert info["reward_terms"].sum() == pytest.approx(plain[-1])  # the terms stay in cost


def test_gymnasium_cuts_our_episodes() -> None:
    env = wrappers.TimeLimit(make(), 10)
    _, rewards, _ = episode(env)
    assert len(rewards) == 10
    assert env.get_wrapper_attr("episode_metrics") is None  # for those, limit max_decisions in the scenario
    _, rewards, _ = episode(gymnasium.make(cace_env.EVICTION_ID, scenario=SCENARIO, max_episode_steps=10))
    assert len(rewards) == 10


def test_gymnasium_begins_our_episodes_again() -> None:
    env = wrappers.Autoreset(DictObservation(make()))
    length = len(episode(env)[1])
    *_, info = env.step(0)
    assert length > 1 and "workload_seed" in info


def test_gymnasium_flattens_tables_and_leaves_out_keys() -> None:
    env = wrappers.FlattenObservation(SlotTableObservation(make()))
    observations, _, _ = episode(env)
    tables, _, _ = episode(SlotTableObservation(make()))
    for flat, table in zip(observations, tables, strict=True):
        assert flat in env.observation_space
        np.testing.assert_array_equal(flat, np.concatenate([table[key].ravel() for key in sorted(table)]))
    kept = episode(wrappers.FilterObservation(SlotTableObservation(make()), ["slots", "action_mask"]))[0]
    assert all(sorted(observation) == ["action_mask", "slots"] for observation in kept)


def test_gymnasium_stacks_delays_and_transforms_our_observations() -> None:
    plain, _, _ = episode(make())
    size = plain[0].size
    frames, _, _ = episode(wrappers.FrameStackObservation(make(), 3))
    np.testing.assert_array_equal(frames[5], plain[3:6])
    late, _, _ = episode(wrappers.DelayObservation(make(), 2))
    np.testing.assert_array_equal(late[5], plain[3])
    space = gymnasium.spaces.Box(-50, 50, (size,), np.float32)
    capped, _, _ = episode(wrappers.TransformObservation(make(), lambda flat: flat.clip(-50, 50), space))
    np.testing.assert_array_equal(capped[5], plain[5].clip(-50, 50))
    normalised, _, _ = episode(wrappers.NormalizeObservation(make()))
    assert np.isfinite(normalised).all()


def test_gymnasium_films_our_episodes() -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    env = wrappers.RenderCollection(make(render_mode="rgb_array"))
    _, info = env.reset(seed=0)
    env.step(int(info["action_mask"].argmax()))
    frames = env.render()
    assert len(frames) == 2 and frames[0].shape == (540, 960, 3)  # type: ignore[arg-type,index,union-attr]
    pixels = wrappers.AddRenderObservation(make(render_mode="rgb_array"), render_only=False)
    observation, _ = pixels.reset(seed=0)
    assert observation in pixels.observation_space and observation["pixels"].shape == (540, 960, 3)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("vector", VECTORS)
def test_gymnasium_counts_the_episodes_of_a_vector(vector: str, mode: AutoresetMode) -> None:
    if vector == "sync" and mode is AutoresetMode.DISABLED:
        pytest.skip("SyncVectorEnv takes reset_mask out of the options, and the wrapper then forgets all episodes")
    if mode is AutoresetMode.SAME_STEP and tuple(map(int, gymnasium.__version__.split(".")[:2])) < (1, 4):
        pytest.skip("before Gymnasium 1.4 the wrapper leaves out the first step of each episode but the first")
    env = vector_wrappers.RecordEpisodeStatistics(VectorDictObservation(make_vector(vector, mode)))
    returns, lengths, fresh = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, dtype=int), np.zeros(NUM_ENVS, dtype=bool)
    seen = 0
    for _, rewards, terminations, truncations, infos in played(env):
        if rewards is None:
            continue
        returns, lengths = np.where(fresh, 0.0, returns + rewards), np.where(fresh, 0, lengths + 1)
        over = terminations | truncations
        for i in np.flatnonzero(over):
            assert infos["episode"]["l"][i] == lengths[i]
            assert infos["episode"]["r"][i] == pytest.approx(returns[i])
            seen += 1
        if mode is AutoresetMode.NEXT_STEP:
            fresh = over  # the next step is the reset, and counts in no episode
        else:
            returns, lengths = np.where(over, 0.0, returns), np.where(over, 0, lengths)
    assert seen >= 2 * NUM_ENVS


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("vector", VECTORS)
def test_gymnasium_changes_the_rewards_of_a_vector(vector: str, mode: AutoresetMode) -> None:
    plain = [result[1] for result in played(make_vector(vector, mode)) if result[1] is not None]
    tenth = vector_wrappers.TransformReward(
        VectorDictObservation(make_vector(vector, mode)), lambda rewards: rewards / 10
    )
    scaled = [result[1] for result in played(tenth) if result[1] is not None]
    np.testing.assert_allclose(scaled, np.array(plain) / 10)
    normalised = vector_wrappers.NormalizeReward(VectorDictObservation(make_vector(vector, mode)), gamma=0.999)
    assert all(np.isfinite(result[1]).all() for result in played(normalised) if result[1] is not None)


@pytest.mark.parametrize("vector", VECTORS)
def test_gymnasium_lists_the_infos_of_a_vector(vector: str) -> None:
    inside = VectorDictObservation(make_vector(vector, AutoresetMode.SAME_STEP))
    listed = vector_wrappers.DictInfoToList(inside)
    _, infos = listed.reset(seed=1)
    for _ in range(80):
        observations, _, terminations, _, infos = listed.step(
            np.array([info["action_mask"].argmax() for info in infos])
        )
        for mask, over, info in zip(observations["action_mask"], terminations, infos, strict=True):
            np.testing.assert_array_equal(info["action_mask"], mask)
            assert ("final_obs" in info) == over
            if over:
                assert info["final_info"]["reward_terms"].sum() < 0
                assert info["final_obs"] in inside.single_observation_space


def test_gymnasium_repeats_actions_that_are_no_longer_legal() -> None:
    with pytest.raises(InvalidAction):
        episode(wrappers.StickyAction(make(), 0.5))


def test_gymnasium_changes_no_observations_under_same_step() -> None:
    envs = make_vector("sync", AutoresetMode.SAME_STEP)
    with pytest.raises((ValueError, AssertionError)):  # which, Gymnasium's version says
        vector_wrappers.TransformObservation(envs, lambda flat: flat, envs.observation_space)
