"""Claims about wrappers: they rearrange what the environment says, and say nothing else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

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
from tests.kinds import Kind
from tests.support.wrapped import DECISIONS, NUM_ENVS, SCENARIO, VECTORS, make, make_vector, played

TABLES = ("slots", "pending", "context")

SINGLE: dict[str, Callable[[gymnasium.Env], gymnasium.Env]] = {
    **{form: partial(DictObservation, form=form) for form in FORMS},
    "tables": SlotTableObservation,
}
VECTOR: dict[str, Callable[[VectorEnv], VectorEnv]] = {
    **{form: partial(VectorDictObservation, form=form) for form in FORMS},
    "tables": VectorSlotTableObservation,
}


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
    """Nothing is asked at the end: the mask is that of the no-op, not that of the next episode."""
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


def test_forms_are_those_of_the_annotation() -> None:
    assert set(FORMS) == set(Form.__args__)  # type: ignore[attr-defined]
