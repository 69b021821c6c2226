"""Claims about states: what is put back goes on exactly as if nothing had happened."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env.envs import Actor, EnvState, EvictionEnv, EvictionVectorEnv, SwapEnv, SwapVectorEnv
from cace_env.kernel.state import REQUEST
from tests.envs.test_env_seeds import assert_same as assert_same_rows
from tests.kinds import EVICTION, Kind
from tests.support.envs import first_legal, last_legal, rollout, short
from tests.support.states import Path, and_again, began, finish, walked
from tests.support.vector_runs import MODES, assert_same, go_on, legal_actions, make, play, scenarios, some_actions

# ---------------------------------------------------------------------------------------------------------------------
# Exactly


@pytest.mark.parametrize("scenario", sorted(scenarios()))
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_restored_environment_goes_on_as_if_nothing_had_happened(scenario: str, steps: int, kind: Kind) -> None:
    steps = min(steps, 0 if scenario == "roomy" else 3)
    env, other = (began(steps, scenario, kind=kind) for _ in range(2))
    state = env.get_state()
    finish(env, last_legal)
    rollout(env, last_legal, seed=99)
    rollout(env)
    env.set_state(state)
    assert_same_rows(and_again(env), and_again(other))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
@pytest.mark.parametrize("reset", [True, False])
def test_a_pickled_state_goes_on_in_an_environment_that_was_just_made(
    duplicate: Callable[[EnvState], EnvState], reset: bool, kind: Kind
) -> None:
    env = began(4, kind=kind)
    state = duplicate(env.get_state())
    fresh = kind.single(scenarios()["default"])
    if reset:
        fresh.reset(seed=5)
    fresh.set_state(state)
    assert fresh.np_random_seed == env.np_random_seed == 4
    np.testing.assert_array_equal(fresh.action_masks(), env.action_masks())
    assert_same_rows(and_again(fresh), and_again(env))


def test_a_restored_environment_shows_what_was_seen_when_its_state_was_taken(kind: Kind) -> None:
    env = kind.single(scenarios()["default"])
    seen, _ = env.reset(seed=4)
    state = env.get_state()
    env.step(int(np.flatnonzero(env.action_masks())[-1]))
    env.set_state(state)
    np.testing.assert_array_equal(env.simulator.observation(env.layout), seen)


def test_what_happens_later_does_not_change_a_state(kind: Kind) -> None:
    env = began(3, kind=kind, render_mode="ansi")
    batch = make(kind=kind)
    batch.reset(seed=1)
    states = [env.get_state(), *(batch.get_state(i) for i in range(3))]
    before = pickle.dumps(states)
    and_again(env)
    play(batch, 30)
    env.set_state(states[0])
    for i in range(3):
        batch.set_state(i, states[1 + i])
    finish(env)
    play(batch, 30)
    assert pickle.dumps(states) == before


def test_taking_a_state_changes_nothing() -> None:
    env, other = began(3), began(3)
    env.get_state()
    assert_same_rows(and_again(env), and_again(other))


@settings(max_examples=30)
@given(
    name=st.sampled_from(["default", "priced", "asleep", "cut"]),
    steps=st.integers(0, 12),
    others=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=3),
)
def test_a_state_clears_what_other_episodes_have_touched(
    name: str, steps: int, others: list[tuple[int, int]], kind: Kind
) -> None:
    env, clean = kind.single(scenarios()[name]), kind.single(scenarios()[name])
    for one in (env, clean):
        walked([("seed", 3)], one)
        for _ in range(steps):
            if one.episode_metrics is None:
                one.step(first_legal({"action_mask": one.action_masks()}))
    state = env.get_state()
    for seed, more in others:  # further on, or not so far
        rows = rollout(env, last_legal, seed=seed)
        env.reset(seed=seed)
        for row in rows[: min(more, len(rows) - 1)]:
            env.step(last_legal(row[-1]))
        env.set_state(state)
        mine, other = env.simulator.state, clean.simulator.state
        known = [REQUEST.arrival_us, REQUEST.first_us, REQUEST.finish_us]
        np.testing.assert_array_equal(mine.requests[:, known], other.requests[:, known])
        np.testing.assert_array_equal(mine.pairs, other.pairs)
        np.testing.assert_array_equal(mine.users, other.users)
        assert env.get_state().simulation.size_bytes == state.simulation.size_bytes
    if not state.over:
        assert_same_rows(finish(env), finish(clean))


def test_a_state_is_as_large_as_what_the_episode_has_touched(kind: Kind) -> None:
    env = kind.single(short(requests=2_000))
    _, info = env.reset(seed=1)
    sizes, over = [env.get_state().simulation.size_bytes], False
    while not over:
        *_, terminated, truncated, info = env.step(first_legal(info))
        over = terminated or truncated
        sizes.append(env.get_state().simulation.size_bytes)
    assert sizes[0] < sizes[len(sizes) // 2] < sizes[-1]
    assert sizes[0] < sizes[-1] / 4


@settings(max_examples=40)
@given(data=st.data())
def test_any_order_of_steps_resets_and_restores_leads_where_the_steps_alone_lead(
    data: st.DataObject, kind: Kind
) -> None:
    name = data.draw(st.sampled_from(["default", "priced", "asleep", "cut"]))
    num_workloads = data.draw(st.sampled_from([None, 2]))
    env, path, over = kind.single(scenarios()[name], num_workloads=num_workloads), [("seed", 3)], False
    walked(path, env)
    kept: list[tuple[EnvState, Path, bool]] = []
    for what in data.draw(st.lists(st.sampled_from(["step", "step", "save", "restore", "reset", "seed"]), max_size=25)):
        if what == "save":
            kept.append((env.get_state(), list(path), over))
        elif what == "restore" and kept:
            state, saved, over = data.draw(st.sampled_from(kept))
            env.set_state(state)
            path = list(saved)
        elif what == "step" and not over:
            path.append(("step", data.draw(st.sampled_from(np.flatnonzero(env.action_masks()).tolist()))))
            over = any(walked(path[-1:], env)[2:4])
        elif what in ("reset", "seed"):
            path.append((what, data.draw(st.integers(0, 5))))
            walked(path[-1:], env)
            over = False
    fresh = kind.single(scenarios()[name], num_workloads=num_workloads)
    walked(path, fresh)
    if not over:
        assert_same_rows(finish(env), finish(fresh))
    assert_same_rows(rollout(env), rollout(fresh))


@settings(max_examples=40)
@given(data=st.data(), mode=st.sampled_from(MODES), num_workloads=st.sampled_from([None, 2]))
def test_states_wander_through_a_batch(data: st.DataObject, mode: str, num_workloads: int | None, kind: Kind) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    batch = make(3, kind, autoreset_mode=mode, num_workloads=num_workloads, threads=2)
    batch.reset(seed=1)
    paths: list[Path] = [[("seed", 1 + i)] for i in range(3)]
    kept: list[tuple[EnvState, Path]] = []
    again = np.zeros(3, dtype=bool)

    def step() -> None:
        nonlocal again
        actions = some_actions(rng, batch.action_masks())
        returned = go_on(batch, actions)
        over = returned[0][2] | returned[0][3]
        for i in range(3):
            paths[i].append(("reset", 0) if again[i] else ("step", int(actions[i])))
            if over[i] and mode != "NextStep":
                paths[i].append(("reset", 0))
        again = over if mode == "NextStep" else again

    for what in data.draw(st.lists(st.sampled_from(["step", "steps", "save", "restore"]), max_size=20)):
        i = data.draw(st.integers(0, 2))
        if what == "save":
            kept.append((batch.get_state(i), list(paths[i])))
        elif what == "restore" and kept:
            state, saved = data.draw(st.sampled_from(kept))
            batch.set_state(i, state)
            paths[i] = list(saved)
            again = again.copy()
            again[i] = state.over
        elif what in ("step", "steps"):
            for _ in range(1 if what == "step" else 6):
                step()
    singles = [kind.single(scenarios()["default"], num_workloads=num_workloads) for _ in range(3)]
    for single, path in zip(singles, paths, strict=True):
        walked(path, single)
    for _ in range(8):
        actions = some_actions(rng, batch.action_masks())
        observations, rewards, terminated, truncated, infos = go_on(batch, actions)[0]
        for i, single in enumerate(singles):
            if again[i]:
                observation, info = single.reset()
                assert infos["workload_seed"][i] == info["workload_seed"]
            else:
                observation, reward, *ends, _ = single.step(actions[i])
                assert (rewards[i], terminated[i], truncated[i]) == (reward, *ends)
                if any(ends) and mode != "NextStep":
                    observation = infos["final_obs"][i] if mode == "SameStep" else observation
                    single.reset()
            if not (mode == "SameStep" and (terminated[i] or truncated[i])):
                np.testing.assert_array_equal(observations[i], observation)
            np.testing.assert_array_equal(batch.action_masks()[i], single.action_masks())
        again = (terminated | truncated) if mode == "NextStep" else again


# ---------------------------------------------------------------------------------------------------------------------
# Ends, and what else belongs to a state


@pytest.mark.parametrize("scenario", ["default", "cut", "roomy"])
def test_a_state_of_an_episode_that_is_over_is_over(scenario: str, kind: Kind) -> None:
    env = began(0, scenario, kind=kind)
    finish(env)
    state = env.get_state()
    env.reset(seed=3)
    env.set_state(state)
    with pytest.raises(ResetNeeded):
        env.step(0)
    batch = kind.many(2, scenarios()[scenario])
    batch.reset(seed=1)
    batch.set_state(0, state)
    infos = batch.step(legal_actions(batch))[-1]
    assert not infos["reward_terms"][0].any() and infos["reward_terms"][1].any()  # the first was reset
    assert infos["workload_seed"][0] == env.reset()[1]["workload_seed"]
    same_step = kind.many(2, scenarios()[scenario], autoreset_mode="SameStep")
    same_step.reset(seed=1)
    same_step.set_state(0, state)
    with pytest.raises(ResetNeeded, match=r"environments \[0\] are over"):
        same_step.step([0, 0])


def test_without_a_generator_there_is_none_afterwards() -> None:
    env = EvictionEnv(scenarios()["default"])
    env.reset(options={"workload_seed": 5})
    state = env.get_state()
    assert state.generator is None
    env.reset(seed=1)
    env.set_state(state)
    assert env._np_random is None
    batch = make(2)
    batch.reset(options={"workload_seed": 5})
    batch.set_state(0, batch.get_state(1))
    batch.set_state(1, began(1).get_state())
    assert batch.np_random_seed[1] == 4


def test_illegal_actions_are_counted_on() -> None:
    env = began(1)
    worst = int(np.flatnonzero(~env.action_masks())[0])
    assert env.step(worst)[-1]["invalid_action"] == 1
    state = env.get_state()
    env.reset(seed=1)
    env.set_state(state)
    assert env.step(first_legal({"action_mask": state.mask}))[-1]["invalid_action"] == 1


def test_returns_and_lengths_are_those_of_the_path() -> None:
    one, other = (make(2, autoreset_mode="SameStep", episode_statistics=True) for _ in range(2))
    for env in (one, other):
        env.reset(seed=1)
        play(env, 4)
    states = [one.get_state(0), one.get_state(1)]
    play(one, 25, choose=9)
    for i in range(2):
        one.set_state(i, states[i])
    told = []
    for env in (one, other):
        rows = play(env, 40)
        told.append([infos["episode"] for [(*_, infos)] in rows if "episode" in infos])
        assert told[-1]
        for episode in told[-1]:
            del episode["t"]
    assert_same(*told)


def test_the_picture_is_that_of_the_state(kind: Kind) -> None:
    env, other = began(4, kind=kind, render_mode="ansi"), began(4, kind=kind, render_mode="ansi")
    text, state = env.render(), env.get_state()
    rollout(env, last_legal, options={"workload": short(requests=30).workload(1)})
    assert env.render() != text
    env.set_state(state)
    assert env.render() == text
    assert_same_rows(finish(env), finish(other))
    assert env.render() == other.render()


def test_a_state_with_history_goes_everywhere_and_one_without_not_where_it_is_rendered() -> None:
    told, plain = began(3, render_mode="ansi"), began(3)
    with pytest.raises(ValueError, match="lacks the history that rendering needs"):
        told.set_state(plain.get_state())
    plain.set_state(told.get_state())
    assert plain.get_state().simulation.trace is None
    assert_same_rows(and_again(plain), and_again(told))


def test_an_actor_that_is_reset_acts_on_from_a_state() -> None:
    env = began(1)
    actor = Actor("belady-cost", env)
    state = env.get_state()
    actions = []
    for _ in range(2):
        env.set_state(state)
        actor.reset(4)
        taken = [actor.act()]
        while not any(env.step(taken[-1])[2:4]):
            taken.append(actor.act())
        actions.append(taken)
    assert actions[0] == actions[1]


# ---------------------------------------------------------------------------------------------------------------------
# Refused


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"scenario": "workstation"}, "comes from scenario 'default', this environment plays 'workstation'"),
        ({"scenario": short(requests=61)}, "another scenario with the name 'default'"),
        ({"split": "test"}, "comes from split 'train', this environment plays 'test'"),
        ({"env": SwapEnv}, "comes from cace_env/Eviction-v0, this is cace_env/Swap-v0"),
        ({"max_slots": 20}, r"has \d+ slots, this environment 20; make it with max_slots="),
    ],
    ids=str,
)
def test_a_state_from_elsewhere_is_refused_and_nothing_has_changed(other: dict[str, Any], message: str) -> None:
    state = began(2).get_state()
    arguments = {"scenario": scenarios()["default"], **other}
    make_env = arguments.pop("env", EvictionEnv)
    env, twin = make_env(**arguments), make_env(**arguments)
    for each in (env, twin):
        each.reset(seed=2)
    with pytest.raises(ValueError, match=message):
        env.set_state(state)
    assert_same_rows(finish(env), finish(twin))
    batch = next(many for many in (EvictionVectorEnv, SwapVectorEnv) if many.SINGLE is make_env)(2, **arguments)
    batch.reset(seed=2)
    with pytest.raises(ValueError, match=message):
        batch.set_state(0, state)


def test_a_state_with_other_actions_is_refused_and_one_with_another_observation_is_not(kind: Kind) -> None:
    state, twin = began(2, kind=kind).get_state(), began(2, kind=kind)
    wide, untouched = (began(1, kind=kind, max_pending=30) for _ in range(2))
    if kind is EVICTION:
        wide.set_state(state)
        assert [row[1] for row in finish(wide)] == [row[1] for row in finish(twin)]
        return
    with pytest.raises(ValueError, match=r"has \d+ rows of models, this environment 30; make it with max_pending="):
        wide.set_state(state)
    assert_same_rows(finish(wide), finish(untouched))


def test_a_state_of_another_version_is_refused() -> None:
    env = began(1)
    state = env.get_state()
    with pytest.raises(ValueError, match=r"comes from cace-env 0\.0\.1 .*, this is .*do not work across versions"):
        env.set_state(state._replace(origin=state.origin._replace(version="0.0.1 (0123)")))
    with pytest.raises(TypeError, match=r"expected a state from get_state\(\), got dict"):
        env.set_state({})  # type: ignore[arg-type]


def test_another_limit_on_decisions_is_another_game() -> None:
    batch = make(2, max_episode_steps=50)
    batch.reset(seed=1)
    with pytest.raises(ValueError, match="another limit on decisions; give both the same max_episode_steps"):
        batch.set_state(0, began(1).get_state())


def test_there_is_no_state_before_a_reset_and_none_of_an_environment_that_is_none() -> None:
    with pytest.raises(ResetNeeded):
        EvictionEnv(scenarios()["default"]).get_state()
    batch = make(2)
    for refused in (lambda: batch.get_state(0), lambda: batch.set_state(0, began(1).get_state())):
        with pytest.raises(ResetNeeded):
            refused()
    batch.reset(seed=1)
    for env in (-1, 2):
        with pytest.raises(IndexError, match=f"there is no environment {env}; use 0 to 1"):
            batch.get_state(env)


def test_statistics_are_not_made_up() -> None:
    batch = make(2, episode_statistics=True)
    batch.reset(seed=1)
    with pytest.raises(ValueError, match="lacks the return of its episode"):
        batch.set_state(0, began(1).get_state())
