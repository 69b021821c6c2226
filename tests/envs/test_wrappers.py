"""Claims about wrappers: they rearrange what the environment says, and say nothing else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import vector as vector_wrappers

import cace_env
from cace_env.observation import CONTEXT, PENDING, SLOT
from cace_env.wrappers import (
    FORMS,
    DictObservation,
    Form,
    SlotTableObservation,
    VectorDictObservation,
    VectorSlotTableObservation,
)
from tests.kinds import EVICTION, Kind
from tests.support.envs import short

SCENARIO = short(requests=150)  # some 20 decisions an episode of Eviction-v0, 40 of Swap-v0
DECISIONS = 130  # several episodes, on one environment and on each of a vector
NUM_ENVS = 3
TABLES = ("slots", "pending", "context")

SINGLE: dict[str, Callable[[gymnasium.Env], gymnasium.Env]] = {
    **{form: partial(DictObservation, form=form) for form in FORMS},
    "tables": SlotTableObservation,
}
VECTOR: dict[str, Callable[[VectorEnv], VectorEnv]] = {
    **{form: partial(VectorDictObservation, form=form) for form in FORMS},
    "tables": VectorSlotTableObservation,
}


def make(kind: Kind = EVICTION, **changes: Any) -> gymnasium.Env:
    """Illegal actions raise, so whoever plays to the end has played by the mask."""
    return gymnasium.make(kind.id, scenario=SCENARIO, strict=True, **changes)


def make_vector(vector: str, mode: AutoresetMode, num_envs: int = NUM_ENVS, kind: Kind = EVICTION) -> VectorEnv:
    """Gymnasium's vector of single environments, or our own one."""
    if vector == "native":
        return gymnasium.make_vec(kind.id, num_envs, scenario=SCENARIO, strict=True, autoreset_mode=mode.value)
    return gymnasium.make_vec(
        kind.id,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        scenario=SCENARIO,
        strict=True,
    )


VECTORS = ("sync", "native")


def mask_key(form: str) -> str:
    return "action_mask" if form == "tables" else FORMS[form].mask  # type: ignore[index]


def assert_rearranged(form: str, wrapped: dict[str, Any], flat: np.ndarray, mask: np.ndarray) -> None:
    """The very numbers of the flat observation, and the mask, of the types that were promised."""
    if form == "tables":
        assert sorted(wrapped) == sorted((*TABLES, "action_mask"))
        front = flat.shape[:-1]
        numbers = np.concatenate([wrapped[name].reshape(*front, -1) for name in TABLES], axis=-1)
        dtype: type = np.bool_
    else:
        keys = FORMS[form]  # type: ignore[index]
        assert sorted(wrapped) == sorted((keys.observation, keys.mask))
        numbers, dtype = wrapped[keys.observation], keys.dtype
    np.testing.assert_array_equal(numbers, flat, strict=True)
    np.testing.assert_array_equal(wrapped[mask_key(form)], mask.astype(dtype), strict=True)


def played(env: VectorEnv, decisions: int = DECISIONS) -> Iterator[tuple[Any, ...]]:
    """Whatever reset and steps return; actions are drawn from the mask, and ended episodes begin again."""
    rng = np.random.default_rng(5)
    observations, infos = env.reset(seed=1)
    masks = infos["action_mask"]
    yield observations, None, None, None, infos
    for _ in range(decisions):
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        observations, rewards, terminations, truncations, infos = env.step(actions)
        masks = infos["action_mask"]
        yield observations, rewards, terminations, truncations, infos
        over = terminations | truncations
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            observations, infos = env.reset(options={"reset_mask": over})
            masks = np.where(over[:, None], infos["action_mask"], masks)
            yield observations, None, None, None, {**infos, "action_mask": masks}


# ---------------------------------------------------------------------------------------------------------------------
# One environment


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*:UserWarning")  # as is meant
@pytest.mark.parametrize("form", SINGLE)
def test_gymnasium_finds_nothing_to_say(form: str, kind: Kind) -> None:
    check_env(SINGLE[form](gymnasium.make(kind.id, scenario=SCENARIO, disable_env_checker=True)))


@pytest.mark.parametrize("form", SINGLE)
def test_numbers_and_mask_are_those_of_the_environment(form: str, kind: Kind) -> None:
    plain, wrapped = make(kind), SINGLE[form](make(kind))
    rng = np.random.default_rng(3)
    ends = 0
    results: list[tuple[Any, ...]] = [env.reset(seed=7) for env in (plain, wrapped)]
    for _ in range(DECISIONS):
        flat, info = results[0][0], results[0][-1]
        observation = results[1][0]
        assert_rearranged(form, observation, flat, info["action_mask"])
        assert observation in wrapped.observation_space
        np.testing.assert_equal(results[1][1:], results[0][1:])  # reward, flags, info
        np.testing.assert_array_equal(wrapped.get_wrapper_attr("action_masks")(), observation[mask_key(form)] == 1)
        if len(results[0]) == 5 and (results[0][2] or results[0][3]):
            results = [env.reset() for env in (plain, wrapped)]
            ends += 1
        else:
            action = rng.choice(np.flatnonzero(observation[mask_key(form)]))
            results = [env.step(action) for env in (plain, wrapped)]
    assert ends >= 2


def test_a_row_of_the_table_is_a_slot() -> None:
    env = SlotTableObservation(make())
    observation, info = env.reset(seed=2)
    layout = env.get_wrapper_attr("layout")
    assert observation["slots"].shape == (layout.max_slots, len(SLOT))
    assert observation["pending"].shape == (layout.max_pending, len(PENDING))
    assert observation["context"].shape == (len(CONTEXT),)
    np.testing.assert_array_equal(observation["slots"][:, SLOT.legal], info["action_mask"])
    assert not observation["slots"][observation["slots"][:, SLOT.occupied] == 0].any()
    assert not observation["pending"][observation["pending"][:, PENDING.present] == 0].any()


def test_a_dict_may_hold_tables_and_frames() -> None:
    tables = DictObservation(SlotTableObservation(make()), "rllib")
    frames = DictObservation(wrappers.FrameStackObservation(make(), 4), "rllib")
    for env in (tables, frames):
        observation, info = env.reset(seed=0)
        assert observation in env.observation_space
        np.testing.assert_array_equal(observation["action_mask"], info["action_mask"])
    assert observation["observations"].shape == (4, env.get_wrapper_attr("layout").size)


@pytest.mark.parametrize("form", SINGLE)
def test_the_spec_makes_the_same_environment_again(form: str) -> None:
    env = SINGLE[form](gymnasium.make(cace_env.EVICTION_ID, scenario="workstation"))
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env) and again.spec == env.spec
    assert again.observation_space == env.observation_space
    np.testing.assert_equal(again.reset(seed=3), env.reset(seed=3))


@pytest.mark.parametrize("form", SINGLE)
def test_a_copy_goes_on_where_the_wrapper_stood(form: str) -> None:
    env = SINGLE[form](make())
    _, info = env.reset(seed=4)
    for _ in range(3):
        *_, info = env.step(info["action_mask"].argmax())
    pickled, copied = pickle.loads(pickle.dumps(env)), copy.deepcopy(env)
    expected = env.step(info["action_mask"].argmax())
    for twin in (pickled, copied):
        np.testing.assert_equal(twin.step(info["action_mask"].argmax()), expected)


@pytest.mark.integration
@pytest.mark.parametrize("form", SINGLE)
def test_sb3_contrib_finds_the_mask(form: str) -> None:
    masking = pytest.importorskip("sb3_contrib.common.maskable.utils", reason="needs the extra sb3")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env", reason="needs the extra sb3")
    env = SINGLE[form](make())
    assert masking.is_masking_supported(env)
    envs = vec_env.DummyVecEnv([lambda: env])
    assert masking.is_masking_supported(envs)
    observations = envs.reset()
    np.testing.assert_array_equal(masking.get_action_masks(envs), observations[mask_key(form)] == 1)


@pytest.mark.integration
def test_a_masked_agent_learns_from_tables() -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="needs the extra sb3")
    agent = contrib.MaskablePPO("MultiInputPolicy", SlotTableObservation(make()), n_steps=64, n_epochs=1, seed=0)
    agent.learn(64)  # an illegal action would raise
    assert agent.num_timesteps == 64


# ---------------------------------------------------------------------------------------------------------------------
# Many


@pytest.mark.parametrize("form", VECTOR)
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("vector", VECTORS)
def test_numbers_and_masks_are_those_of_the_vector(vector: str, mode: AutoresetMode, form: str, kind: Kind) -> None:
    plain, wrapped = make_vector(vector, mode, kind=kind), VECTOR[form](make_vector(vector, mode, kind=kind))
    ends = np.zeros(NUM_ENVS, dtype=int)
    for expected, result in zip(played(plain), played(wrapped), strict=True):
        masks = expected[-1]["action_mask"]
        assert_rearranged(form, result[0], expected[0], masks)
        assert result[0] in wrapped.observation_space
        np.testing.assert_array_equal(wrapped.action_masks(), masks == 1, strict=True)  # type: ignore[attr-defined]
        infos = dict(result[-1])
        final, final_plain = infos.pop("final_obs", None), expected[-1].pop("final_obs", None)
        np.testing.assert_equal((*result[1:-1], infos), expected[1:])
        if result[2] is not None:
            ends += result[2] | result[3]
        if final is not None:
            assert final.dtype == object
            for i in range(NUM_ENVS):
                if infos["_final_obs"][i]:
                    assert_rearranged(form, final[i], final_plain[i], infos["final_info"]["action_mask"][i])
                    assert final[i] in wrapped.single_observation_space
                else:
                    assert final[i] is None
    assert (ends >= 2).all()


@pytest.mark.parametrize("vector", VECTORS)
def test_the_final_observation_has_the_final_mask(vector: str) -> None:
    """Nothing is asked at the end: the mask is that of the no-op, whatever is legal in the next episode."""
    env = VectorDictObservation(make_vector(vector, AutoresetMode.SAME_STEP), "tianshou")
    no_op = np.arange(env.single_action_space.n) == 0  # type: ignore[attr-defined]
    seen = 0
    for observations, _, _, _, infos in played(env):
        for i in np.flatnonzero(infos.get("_final_obs", ())):
            np.testing.assert_array_equal(infos["final_obs"][i]["mask"], no_op)
            seen += not np.array_equal(observations["mask"][i], no_op)
    assert seen


@pytest.mark.parametrize("vector", VECTORS)
def test_a_partial_reset_leaves_the_masks_of_the_others(vector: str) -> None:
    env = VectorSlotTableObservation(make_vector(vector, AutoresetMode.DISABLED))
    _, infos = env.reset(seed=3)
    for _ in range(5):
        observations, *_, infos = env.step(infos["action_mask"].argmax(axis=1))
    before = copy.deepcopy(observations)
    after, _ = env.reset(seed=[30, 31, 32], options={"reset_mask": np.array([False, True, False])})
    for i in (0, 2):
        np.testing.assert_equal({key: rows[i] for key, rows in after.items()}, {k: r[i] for k, r in before.items()})
    assert after["action_mask"][1].any() and (after["slots"][1] != before["slots"][1]).any()
    np.testing.assert_equal(observations, before)  # what was returned never changes
    for mask, legal in zip(after["action_mask"], after["slots"][..., SLOT.legal], strict=True):
        np.testing.assert_array_equal(mask, legal == 1)


def test_no_mask_before_the_first_reset() -> None:
    with pytest.raises(ResetNeeded):
        VectorDictObservation(make_vector("sync", AutoresetMode.NEXT_STEP)).action_masks()


def test_make_vec_takes_the_single_wrappers() -> None:
    envs = gymnasium.make_vec(
        cace_env.EVICTION_ID,
        NUM_ENVS,
        vectorization_mode="sync",
        wrappers=[lambda env: DictObservation(env, "tianshou")],
        scenario=SCENARIO,
    )
    observations, infos = envs.reset(seed=1)
    np.testing.assert_array_equal(observations["mask"], infos["action_mask"] == 1)


def test_the_vector_wrapper_says_how_episodes_begin_again() -> None:
    """TorchRL looks for `autoreset_mode` on the outermost wrapper, Gymnasium in its metadata."""
    for mode in AutoresetMode:
        env = VectorDictObservation(make_vector("sync", mode))
        assert env.autoreset_mode is mode and env.metadata["autoreset_mode"] is mode


# ---------------------------------------------------------------------------------------------------------------------
# What does not fit


def test_an_unknown_form_is_refused() -> None:
    for wrapper, env in (
        (DictObservation, make()),
        (VectorDictObservation, make_vector("sync", AutoresetMode.DISABLED)),
    ):
        with pytest.raises(ValueError, match=r"'rlib'.*pettingzoo, rllib, tianshou, torchrl"):
            wrapper(env, "rlib")


def test_tables_are_cut_from_the_flat_observation_only() -> None:
    with pytest.raises(ValueError, match="directly around the environment"):
        SlotTableObservation(wrappers.FrameStackObservation(make(), 2))
    with pytest.raises(ValueError, match="directly around the environment"):
        SlotTableObservation(DictObservation(make()))


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="Discrete"):
        DictObservation(gymnasium.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="for Eviction-v0"):
        DictObservation(gymnasium.make("CartPole-v1")).reset()


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
            fresh = over  # the next step is the reset, and counts for nobody
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


def test_forms_are_those_of_the_annotation() -> None:
    assert set(FORMS) == set(Form.__args__)  # type: ignore[attr-defined]
