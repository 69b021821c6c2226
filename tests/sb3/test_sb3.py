"""Claims about the SB3 adapter: it says, step by step, what SB3's own DummyVecEnv says of single environments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformReward
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from sb3_contrib import QRDQN, MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecMonitor, VecNormalize

from cace_env.envs import EvictionEnv
from cace_env.sb3 import EvictionVecEnv
from cace_env.sb3.vec_env import NUM_ENVS
from cace_env.scenarios import Scenario, seeds
from cace_env.wrappers import DictObservation, VectorDictObservation
from tests.kinds import Kind
from tests.support.vec_envs import (
    CUT,
    ENVS,
    FINISHES,
    FIRST_SEED,
    Make,
    assert_same,
    assert_same_info,
    both,
    dummy,
    masks_of,
    native,
    num_actions,
    singles,
    wild,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

# ---------------------------------------------------------------------------------------------------------------------
# Equal to DummyVecEnv


@both
@pytest.mark.parametrize("scenario", [FINISHES, CUT], ids=["terminated", "truncated"])
def test_every_step_equals_dummy_vec_env(make: Make, scenario: Scenario, kind: Kind):
    ours, theirs = make(scenario, kind=kind), dummy(scenario, kind=kind)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(FIRST_SEED) == theirs.seed(FIRST_SEED)
    assert_same(ours.reset(), theirs.reset())
    random = np.random.default_rng(0)
    ends, cuts = np.zeros(ENVS, dtype=int), 0
    for _ in range(200):
        assert_same(masks_of(ours), masks_of(theirs))
        for ours_began, theirs_began in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            assert_same_info(ours_began, theirs_began)
        actions = wild(theirs, random)
        (observations, rewards, dones, infos), expected = ours.step(actions), theirs.step(actions)
        assert_same(observations, expected[0])
        assert_same(rewards, expected[1])
        assert_same(dones, expected[2])
        metrics = theirs.get_attr("unwrapped")
        for env, (info, expected_info, done) in enumerate(zip(infos, expected[3], dones.tolist(), strict=True)):
            if done:
                assert_same_info(info, expected_info)
                assert_same(info["episode_metrics"], metrics[env].episode_metrics)
                cuts += info["TimeLimit.truncated"]
            else:
                assert info == {"TimeLimit.truncated": expected_info["TimeLimit.truncated"]}
        ends += dones
    assert ends.min() >= 3, "too few episodes have ended to claim anything"
    assert (0 < cuts < ends.sum()) == (scenario is CUT), "episodes of both kinds where decisions are limited"


@both
def test_what_the_infos_leave_out_is_in_step_infos(make: Make):
    ours, theirs = make(), dummy()
    for venv in (ours, theirs):
        venv.seed(FIRST_SEED)
        venv.reset()
    dones = np.zeros(ENVS, dtype=bool)
    while not dones.any():
        actions = masks_of(ours).argmax(axis=1)
        ours.step(actions)
        *_, dones, infos = theirs.step(actions)
        for env in np.flatnonzero(~dones):
            for key in ("elapsed_s", "time_s", "invalid_action", "workload_seed", "reward_terms"):
                np.testing.assert_array_equal(ours.step_infos[key][env], infos[env][key])


@both
def test_nothing_returned_is_changed_later(make: Make):
    venv = make()
    venv.seed(FIRST_SEED)
    returned: list[Any] = [venv.reset()]
    then = deepcopy(returned)
    random = np.random.default_rng(1)
    for _ in range(60):
        latest = [venv.env_method("action_masks"), *venv.step(wild(venv, random))]
        returned += latest
        then += deepcopy(latest)
    assert sum(int(dones.sum()) for dones in returned[4::5]) > ENVS  # terminal observations are among it
    np.testing.assert_equal(returned, then)


def test_a_finished_episode_has_an_info_of_its_own_and_the_others_share_one():
    venv = native()
    venv.seed(FIRST_SEED)
    venv.reset()
    dones, earlier = np.zeros(ENVS, dtype=bool), []
    while dones.sum() != 1:
        _, _, dones, infos = venv.step(masks_of(venv).argmax(axis=1))
        earlier.append(infos)
    finished = infos[int(dones.argmax())]
    others = [info for info in infos if info is not finished]
    assert len(others) == ENVS - 1
    assert others[0] is others[1]
    assert all(info is not others[0] for infos in earlier[:-1] for info in infos)


# ---------------------------------------------------------------------------------------------------------------------
# Seeds, options, attributes, methods


@both
def test_seeds_and_options_count_for_the_next_reset_only(make: Make):
    ours, theirs = make(), dummy()
    for venv in (ours, theirs):
        venv.seed(FIRST_SEED)
        venv.set_options({"workload_seed": 11})
    assert_same(ours.reset(), theirs.reset())
    assert [info["workload_seed"] for info in ours.reset_infos] == [11] * ENVS
    assert_same(ours.reset(), theirs.reset())
    assert [info["workload_seed"] for info in ours.reset_infos] == [
        info["workload_seed"] for info in theirs.reset_infos
    ]
    assert [info["workload_seed"] for info in ours.reset_infos] != [11] * ENVS


def test_a_workload_may_be_handed_to_single_environments():
    venv = singles()
    venv.set_options({"workload": FINISHES.workload(3)})
    ours = venv.reset()
    venv.set_options({"workload_seed": 3})
    assert_same(ours, venv.reset())


def test_each_environment_of_a_native_vector_environment_may_get_a_workload_of_its_own():
    venv = native()
    venv.set_options([{"workload_seed": seed} for seed in (4, 9, 2)])
    observations = np.asarray(venv.reset())
    assert [info["workload_seed"] for info in venv.reset_infos] == [4, 9, 2]
    assert_same(observations[1], EvictionEnv(FINISHES).reset(options={"workload_seed": 9})[0])


def test_different_options_are_refused_where_they_cannot_be_passed_on():
    venv = singles()
    venv.set_options([{"workload_seed": 1}, {}, {}])
    with pytest.raises(ValueError, match="different reset options"):
        venv.reset()


@both
def test_masks_are_what_sb3_contrib_asks_for(make: Make):
    venv = make()
    assert is_masking_supported(venv)
    with pytest.raises(ResetNeeded, match="before the first reset"):
        venv.env_method("action_masks")
    venv.reset()
    masks = get_action_masks(venv)
    assert masks.shape == (ENVS, num_actions(venv))
    assert masks.dtype == np.bool_
    assert_same(np.stack(venv.env_method("action_masks", indices=[2, 0])), masks[[2, 0]])
    assert_same(venv.env_method("action_masks", indices=-1)[0], masks[-1])
    assert_same(np.stack([mask() for mask in venv.get_attr("action_masks")]), masks)


@both
def test_attributes_are_those_of_the_environments(make: Make):
    venv = make()
    assert venv.get_attr("strict") == [False] * ENVS
    assert venv.get_attr("layout", indices=1) == [venv.get_attr("layout")[0]]
    assert venv.render_mode is None
    assert venv.has_attr("layout")
    assert not venv.has_attr("no_such_thing")
    venv.set_attr("strict", True)
    assert venv.get_attr("strict", indices=range(2)) == [True, True]
    venv.reset()
    with pytest.raises(InvalidAction):
        venv.step(masks_of(venv).argmin(axis=1))


def test_one_environment_of_a_native_vector_environment_cannot_be_changed():
    venv = native()
    with pytest.raises(ValueError, match="strict is one for all 3 environments"):
        venv.set_attr("strict", True, indices=[0])
    with pytest.raises(AttributeError, match="no_such_thing"):
        venv.set_attr("no_such_thing", 1)
    with pytest.raises(AttributeError, match="for reset use seed, set_options"):
        venv.env_method("reset", indices=[0])


def test_single_environments_answer_for_themselves():
    venv = singles(render_mode="ansi")
    venv.set_attr("invalid_penalty", 7.0, indices=[1])
    assert venv.get_attr("invalid_penalty") == [1.0, 7.0, 1.0]
    venv.seed(FIRST_SEED)
    venv.reset()
    (text,) = venv.env_method("render", indices=2)
    assert "workstation" in text


def test_pictures_are_tiled():
    pytest.importorskip("PIL")
    venv = singles(num_envs=2, render_mode="rgb_array")
    venv.reset()
    assert [np.shape(image) for image in venv.get_images()] == [(540, 960, 3)] * 2
    assert np.shape(venv.render()) == (2 * 540, 960, 3)


def test_no_pictures_without_a_render_mode():
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert singles().get_images() == [None] * ENVS


@both
def test_it_is_monitored_unless_told_otherwise(make: Make):
    assert make().env_is_wrapped(Monitor) == [True] * ENVS
    assert make().env_is_wrapped(TransformReward, indices=[0]) == [False]
    assert EvictionVecEnv(vector_env=make().vector_env, monitor=False).env_is_wrapped(Monitor) == [False] * ENVS


def test_wrappers_of_single_environments_are_found():
    envs = SyncVectorEnv([lambda: TransformReward(EvictionEnv(FINISHES), np.tanh)], autoreset_mode="SameStep")
    assert EvictionVecEnv(vector_env=envs).env_is_wrapped(TransformReward) == [True]


def test_a_wrapped_vector_environment_will_do():
    plain = native()
    wrapped = EvictionVecEnv(vector_env=RecordEpisodeStatistics(native().vector_env))
    for venv in (plain, wrapped):
        venv.seed(FIRST_SEED)
        venv.reset()
    assert wrapped.get_attr("layout") == plain.get_attr("layout")
    dones = np.zeros(ENVS, dtype=bool)
    while not dones.any():
        actions = masks_of(plain).argmax(axis=1)
        _, rewards, dones, infos = plain.step(actions)
        _, wrapped_rewards, wrapped_dones, wrapped_infos = wrapped.step(actions)
        assert_same(wrapped_rewards, rewards)
        assert_same(wrapped_dones, dones)
    for info, wrapped_info in zip(infos, wrapped_infos, strict=True):
        assert_same_info(wrapped_info, info)


def test_dict_observations_come_through():
    """As SB3's `MultiInputPolicy` takes them, terminal observations too."""
    ours = EvictionVecEnv(vector_env=VectorDictObservation(native(CUT).vector_env))
    theirs = DummyVecEnv([lambda: Monitor(DictObservation(EvictionEnv(CUT)))] * ENVS)
    assert ours.observation_space == theirs.observation_space
    for venv in (ours, theirs):
        venv.seed(FIRST_SEED)
    np.testing.assert_equal(ours.reset(), dict(theirs.reset()))
    for _ in range(20):
        actions = masks_of(ours).argmax(axis=1)
        (observations, _, dones, infos), expected = ours.step(actions), theirs.step(actions)
        np.testing.assert_equal(observations, dict(expected[0]))
        for env in np.flatnonzero(dones):
            assert_same_info(infos[env], expected[3][env])


def test_closing_twice_is_harmless():
    venv = native()
    venv.close()
    venv.close()
    assert venv.vector_env.closed


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_another_autoreset_mode_is_refused(mode: AutoresetMode):
    envs = SyncVectorEnv([lambda: EvictionEnv(FINISHES)], autoreset_mode=mode)
    with pytest.raises(ValueError, match=f"'{mode.value}'.*SameStep"):
        EvictionVecEnv(vector_env=envs)


def test_an_autoreset_mode_is_not_asked_for():
    with pytest.raises(TypeError, match="SAME_STEP only"):
        EvictionVecEnv(2, autoreset_mode="NextStep")


def test_an_environment_that_overwrites_what_it_returned_is_refused():
    envs = SyncVectorEnv([lambda: EvictionEnv(FINISHES)], autoreset_mode="SameStep", copy=False)
    with pytest.raises(ValueError, match="copy=True"):
        EvictionVecEnv(vector_env=envs)


def test_settings_are_refused_beside_an_environment_that_is_made():
    with pytest.raises(TypeError, match="num_envs, split cannot be given"):
        EvictionVecEnv(2, vector_env=native().vector_env, split="test")


def test_environments_without_masks_have_none():
    cartpole = gymnasium.make_vec("CartPole-v1", 2, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
    assert not is_masking_supported(EvictionVecEnv(vector_env=cartpole))


def test_a_misspelt_argument_is_refused_with_the_right_name():
    with pytest.raises(TypeError, match="EvictionVecEnv has no argument 'scenaro', did you mean 'scenario'"):
        EvictionVecEnv(scenaro="default")


def test_without_sb3_the_error_names_the_extra():
    code = "import sys; sys.modules['stable_baselines3'] = None; import cace_env.sb3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError")
    assert "cace-env[sb3]" in done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The algorithms


@pytest.mark.parametrize("wrap", [VecNormalize, VecMonitor, VecCheckNan], ids=lambda wrap: wrap.__name__)
def test_sb3_s_wrappers_see_what_they_see_of_dummy_vec_env(wrap: Callable[[VecEnv], VecEnv]):
    unmonitored = EvictionVecEnv(ENVS, scenario=CUT, monitor=False)
    ours, theirs = wrap(unmonitored), wrap(DummyVecEnv([lambda: EvictionEnv(CUT)] * ENVS))
    for venv in (ours, theirs):
        venv.seed(FIRST_SEED)
    assert_same(ours.reset(), theirs.reset())
    for _ in range(20):
        actions = masks_of(theirs).argmax(axis=1)
        (*arrays, infos), (*expected, expected_infos) = ours.step(actions), theirs.step(actions)
        for array, expected_array in zip(arrays, expected, strict=True):
            assert_same(array, expected_array)
        for env in np.flatnonzero(arrays[2]):
            assert_same_info(infos[env], expected_infos[env])


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO], ids=lambda algorithm: algorithm.__name__)
def test_ppo_learns_the_same_as_with_dummy_vec_env(algorithm: type[PPO] | type[MaskablePPO]):
    weights = []
    for venv in (native(CUT), dummy(CUT)):
        agent = algorithm("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu")
        agent.learn(2 * 16 * ENVS)
        assert agent.ep_info_buffer, "no episode has reached SB3's log"
        weights.append([weight.detach().numpy() for weight in agent.policy.parameters()])
    np.testing.assert_equal(*weights)


@pytest.mark.parametrize("algorithm", [DQN, QRDQN], ids=lambda algorithm: algorithm.__name__)
def test_the_replay_buffer_holds_the_same_as_with_dummy_vec_env(algorithm: type[DQN] | type[QRDQN]):
    contents = []
    for venv in (native(CUT), dummy(CUT)):
        settings = {"buffer_size": 300, "learning_starts": 30, "batch_size": 16, "seed": 0, "device": "cpu"}
        agent = algorithm("MlpPolicy", venv, train_freq=4, **settings)
        agent.learn(40 * ENVS)
        buffer = agent.replay_buffer
        assert buffer is not None
        assert buffer.timeouts.any(), "no truncated episode is in the buffer"
        contents.append([buffer.observations, buffer.next_observations, buffer.rewards, buffer.dones, buffer.timeouts])
    np.testing.assert_equal(*contents)


def test_the_evaluations_of_both_libraries_agree_with_the_cost():
    split = seeds("validation", ENVS)
    venv = native(split="validation", invalid_penalty=0.0)
    costs = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            costs.append(local["info"]["episode_metrics"]["cost"])

    settings: dict[str, Any] = {"n_eval_episodes": ENVS, "return_episode_rewards": True, "callback": note}
    for algorithm, evaluation in ((PPO, evaluate_policy), (MaskablePPO, evaluate_masked_policy)):
        costs.clear()
        venv.seed(split[0])
        agent = algorithm("MlpPolicy", venv, n_steps=16, batch_size=16, device="cpu")
        returns, lengths = evaluation(agent, venv, **settings)
        np.testing.assert_allclose(np.negative(returns), costs)
        assert len(returns) == len(lengths) == ENVS


def test_there_are_as_many_environments_as_ppo_needs_where_nobody_says_how_many():
    assert EvictionVecEnv(scenario=CUT).num_envs == NUM_ENVS == 60
