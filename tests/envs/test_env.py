"""Claims about Eviction-v0: an ordinary Gymnasium environment whose return is minus what people waited."""

from __future__ import annotations

import copy
import functools
import operator
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

from cace_env.envs import EvictionEnv
from cace_env.fleets import REWARD_TERMS, TERM
from cace_env.kernel.state import MODEL, RESIDENT
from cace_env.observation import CONTEXT, SLOT
from cace_env.simulation import METRICS
from cace_env.tables import NONE
from cace_env.workload import Workload
from tests.kinds import Kind
from tests.support.envs import EVERYTHING_COSTS, first_legal, last_legal, metrics_of, rollout, roomy, short
from tests.support.small import EVERYDAY

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------------------------------
# Gymnasium's contract


def test_gymnasium_finds_nothing_to_say(kind: Kind) -> None:
    check_env(gymnasium.make(kind.id, disable_env_checker=True).unwrapped)


@pytest.mark.integration
def test_gymnasium_finds_nothing_to_say_where_nothing_can_be_drawn() -> None:
    code = """
import sys
sys.modules["PIL"] = None  # as if not installed
import gymnasium, cace_env
from gymnasium.utils.env_checker import check_env
env = gymnasium.make(cace_env.EVICTION_ID, scenario="workstation", disable_env_checker=True).unwrapped
check_env(env)
print(*env.metadata["render_modes"])
try:
    type(env)(render_mode="human")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modes, refusal = done.stdout.splitlines()
    assert modes == "ansi"
    assert refusal.endswith('needs Pillow; pip install "cace-env[human]"')


@pytest.mark.parametrize("baseline", [None, "lru"])
def test_infos_have_the_same_keys_types_and_shapes_at_every_reset_and_step(baseline: str | None, kind: Kind) -> None:
    env = kind.single(short(requests=60), baseline=baseline)

    def form(info: dict[str, Any]) -> dict[str, Any]:
        return {
            name: (type(value), getattr(value, "dtype", None), getattr(value, "shape", None))
            for name, value in info.items()
        }

    forms = [form(row[-1]) for seed in (0, 1) for row in rollout(env, seed=seed)]
    forms.append(form(env.reset(options={"workload": short(requests=20).workload(3)})[1]))
    assert all(each == forms[0] for each in forms)
    assert list(forms[0]) == ["action_mask", "elapsed_s", "time_s", "invalid_action", "workload_seed", "reward_terms"]
    assert all(kind_of in (int, float, np.ndarray) for kind_of, _, _ in forms[0].values())


def test_metrics_are_there_from_the_end_of_an_episode_to_the_first_step_of_the_next(kind: Kind) -> None:
    env = kind.single(short(requests=60))
    env.reset(seed=0)
    assert env.episode_metrics is None
    rollout(env, seed=0)
    metrics = metrics_of(env)
    assert list(metrics) == list(METRICS) and metrics["requests"] == 60
    _, info = env.reset(seed=1)
    assert env.episode_metrics is metrics  # so that it can be read after an autoreset
    env.step(first_legal(info))
    assert env.episode_metrics is None


@pytest.mark.integration
def test_stable_baselines_finds_nothing_to_say(kind: Kind) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="needs the extra sb3")
    checker.check_env(kind.single(short()), warn=True)


@pytest.mark.integration
def test_a_fresh_interpreter_makes_it_without_import() -> None:
    code = (
        "import gymnasium as gym\n"
        "env = gym.make('cace_env:cace_env/Eviction-v0')\n"
        "observation, info = env.reset(seed=1)\n"
        "observation, *_ = env.step(int(info['action_mask'].argmax()))\n"
        "assert observation in env.observation_space\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_spec_makes_the_same_environment_again(kind: Kind) -> None:
    env = gymnasium.make(kind.id, scenario="workstation", split="validation", strict=True, max_pending=12)
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert again.observation_space == env.observation_space and again.action_space == env.action_space
    np.testing.assert_equal(again.reset(seed=3), env.reset(seed=3))


def test_works_in_a_vector(kind: Kind) -> None:
    envs = gymnasium.make_vec(kind.id, num_envs=2, vectorization_mode="sync", scenario=short())
    observations, info = envs.reset(seed=5)
    assert observations in envs.observation_space
    assert info["action_mask"].shape == (2, kind.single(short()).simulators.num_actions)
    envs.step(info["action_mask"].argmax(axis=1))
    envs.close()


@pytest.mark.parametrize("name", EVERYDAY)
def test_the_space_holds_every_observation(name: str, kind: Kind) -> None:
    env = kind.single(short(name))
    for observation, *_ in rollout(env, last_legal, seed=2):
        assert observation.dtype == np.float32 and np.isfinite(observation).all()
        assert np.abs(observation).max() < 100  # what is no number comes out of the kernel's logarithm as 710
        assert env.observation_space.contains(observation)


def test_what_was_returned_never_changes(kind: Kind) -> None:
    env = kind.single(short())
    rows, copies = [], []
    observation, info = env.reset(seed=1)
    rows.append((observation, info))
    copies.append(copy.deepcopy(rows[-1]))
    for _ in range(20):
        observation, _, _, _, info = env.step(first_legal(info))
        rows.append((observation, info))
        copies.append(copy.deepcopy(rows[-1]))
    env.reset(seed=2)
    np.testing.assert_equal(rows, copies)


# ---------------------------------------------------------------------------------------------------------------------
# Reward


def costs_of_requests(env: EvictionEnv) -> float:
    """The cost of the finished episode, request by request."""
    episode, cost, workload = env.simulator.episode(), env.tables.cost, env.workload
    assert workload is not None
    total = cost.w_load * episode.load_us_total * 1e-6
    for r in range(len(workload)):
        if episode.refused[r]:
            total += cost.w_refused
            continue
        task = workload.task[r]
        ttft_us = int(episode.first_token_us[r] - episode.arrival_us[r])
        e2e_us = int(episode.finish_us[r] - episode.arrival_us[r])
        total += float(cost.w_ttft[task] * ttft_us + cost.w_e2e[task] * e2e_us) * 1e-6
        judged_us = e2e_us if cost.slo_on_e2e[task] else ttft_us
        total += cost.w_slo * bool(judged_us > cost.slo_us[task])
    return total


@pytest.mark.parametrize("name", EVERYDAY)
def test_return_is_minus_the_sum_of_request_costs(name: str, kind: Kind) -> None:
    env = kind.single(short(name))
    rows = rollout(env, last_legal, seed=3)
    assert sum(row[1] for row in rows[1:]) == pytest.approx(-costs_of_requests(env), rel=1e-12)
    assert metrics_of(env)["cost"] == pytest.approx(costs_of_requests(env), rel=1e-12)


def test_every_source_of_cost_has_a_term(kind: Kind) -> None:
    workload = Workload.from_columns(
        model=np.arange(60) % 16,
        task=np.arange(60) % 4,
        arrival_us=np.arange(60) * 1_000_000,
        context_tokens=np.where(np.arange(60) == 30, 10_000_000, 500),
        output_tokens=np.full(60, 50),
    )
    env = kind.single(short(reward=EVERYTHING_COSTS.model_dump(mode="json")))
    rows = rollout(env, options={"workload": workload})
    total: dict[str, float] = dict.fromkeys(REWARD_TERMS, 0.0)
    for _, reward, _, _, info in rows[1:]:
        # As the kernel adds, one by one: sum() compensates for rounding from Python 3.12 on.
        assert reward == functools.reduce(operator.add, info["reward_terms"].tolist())
        for name, value in zip(REWARD_TERMS, info["reward_terms"].tolist(), strict=True):
            assert value <= 0
            total[name] += value
    episode = env.simulator.episode()
    assert total["completion_waiting"] == pytest.approx(-1.0 * episode.waiting_us[0] * 1e-6)
    assert total["reasoning_system"] == pytest.approx(-0.2 * episode.system_us[2] * 1e-6)
    assert total["agent_slo"] == pytest.approx(-2.0 * episode.slo_missed[3])
    assert total["loading"] == pytest.approx(-0.5 * episode.load_us_total * 1e-6)
    assert total["refused"] == -7.0
    assert sum(total.values()) == pytest.approx(-costs_of_requests(env), rel=1e-12)


def test_elapsed_times_add_up_to_the_clock(kind: Kind) -> None:
    rows = rollout(kind.single(short()), seed=3)
    assert sum(row[-1]["elapsed_s"] for row in rows) == pytest.approx(rows[-1][-1]["time_s"])
    assert all(row[-1]["elapsed_s"] >= 0 for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Masks and illegal actions


@pytest.mark.parametrize("name", ["default", "sleep-mode", "agents"])
def test_the_mask_allows_what_may_be_evicted(name: str) -> None:
    env = EvictionEnv(short(name))
    observation, info = env.reset(seed=4)
    over = False
    while not over:
        mask = info["action_mask"]
        assert mask.dtype == np.int8 and mask.sum() >= 2
        np.testing.assert_array_equal(mask == 1, env.action_masks())
        blocks = env.layout.split(observation)
        np.testing.assert_array_equal(mask, blocks.slots[:, SLOT.legal])
        state = env.simulator.state
        for slot in np.flatnonzero(mask):
            model = state.models[state.slots[slot]]
            assert model[MODEL.phase] == RESIDENT
            assert env.tables.pinned_on[state.slots[slot]] == NONE
            assert env.tables.model_names[state.slots[slot]] in env.describe()
        observation, _, terminated, truncated, info = env.step(last_legal(info))
        over = terminated or truncated
    np.testing.assert_array_equal(info["action_mask"], [1] + [0] * (env.layout.max_slots - 1))
    assert env.describe() == "nothing is asked"
    assert env.layout.split(observation).context[CONTEXT.legal] == 0


def test_an_illegal_action_is_replaced_counted_and_penalised_apart_from_cost(kind: Kind) -> None:
    def worst(info: dict[str, Any]) -> int:
        return int(np.flatnonzero(info["action_mask"] == 0)[-1])

    good, bad = kind.single(short()), kind.single(short(), invalid_penalty=2.5)
    legal, illegal = rollout(good, first_legal, seed=6), rollout(bad, worst, seed=6)
    assert len(legal) == len(illegal)
    for n, (a, b) in enumerate(zip(legal[1:], illegal[1:], strict=True), start=1):
        np.testing.assert_array_equal(a[0], b[0])
        assert b[1] == pytest.approx(a[1] - 2.5)
        assert a[-1]["invalid_action"] == 0 and b[-1]["invalid_action"] == n
        assert b[-1]["reward_terms"][TERM.invalid_action] == -2.5
    np.testing.assert_equal(metrics_of(good), metrics_of(bad))


def test_strict_refuses_an_illegal_action_and_loses_nothing(kind: Kind) -> None:
    strict, lax = kind.single(short(), strict=True), kind.single(short())
    _, info = strict.reset(seed=6)
    lax.reset(seed=6)
    illegal = int(np.flatnonzero(info["action_mask"] == 0)[0])
    with pytest.raises(InvalidAction, match=f"action {illegal} is not legal now; legal are"):
        strict.step(illegal)
    np.testing.assert_equal(strict.step(first_legal(info)), lax.step(first_legal(info)))


@pytest.mark.parametrize("action", [-1, 10_000])
def test_an_action_outside_the_space_is_refused(action: int, kind: Kind) -> None:
    env = kind.single(short())
    env.reset(seed=6)
    with pytest.raises(InvalidAction, match=r"there is no action .*; use 0 to"):
        env.step(action)


# ---------------------------------------------------------------------------------------------------------------------
# Ends


def test_where_nothing_is_asked_one_step_returns_the_whole_cost(kind: Kind) -> None:
    env = kind.single(roomy())
    _, info = env.reset(seed=1)
    np.testing.assert_array_equal(info["action_mask"], [1] + [0] * (env.simulators.num_actions - 1))
    assert env.episode_metrics is None
    observation, reward, terminated, truncated, info = env.step(0)
    assert terminated and not truncated and observation in env.observation_space
    assert reward == pytest.approx(-costs_of_requests(env), rel=1e-12) and reward < 0
    assert metrics_of(env)["evictions"] == 0


def test_the_decision_limit_truncates_and_keeps_the_account(kind: Kind) -> None:
    env = kind.single(short(rules={"max_decisions": 5}))
    rows = rollout(env, seed=1)
    assert len(rows) == 1 + 5
    assert rows[-1][3] and not rows[-1][2]
    assert rows[-1][-1]["action_mask"].sum() >= 2  # there would have been a sixth
    assert sum(row[1] for row in rows[1:]) == pytest.approx(-env.simulator.cost(), rel=1e-12)


@pytest.mark.parametrize("action", [1.5, "0", np.array([0]), None])
def test_an_action_that_is_no_number_is_refused(action: Any) -> None:
    env = EvictionEnv(short())
    env.reset(seed=1)
    with pytest.raises(InvalidAction, match="give one whole number"):
        env.step(action)


def test_a_finished_episode_takes_no_step(kind: Kind) -> None:
    env = kind.single(roomy())
    with pytest.raises(ResetNeeded):
        env.step(0)
    with pytest.raises(ResetNeeded):
        env.action_masks()
    rollout(env, seed=1)
    with pytest.raises(ResetNeeded):
        env.step(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "defualt"}, "did you mean 'default'"),
        ({"split": "training"}, "the splits are train, validation, test"),
        ({"render_mode": "rgb"}, "None or one of ansi, rgb_array"),
        ({"invalid_penalty": -1.0}, "at least 0"),
        ({"max_pending": -1}, "pending rows"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvictionEnv(**arguments)


def test_a_refused_reset_leaves_seeds_and_episode_where_they_are(kind: Kind) -> None:
    env, other = kind.single(short()), kind.single(short())
    for each in (env, other):
        each.reset(seed=4)
    with pytest.raises(ValueError, match="workload_sede"):
        env.reset(seed=77, options={"workload_sede": 1})
    with pytest.raises(TypeError, match=r"workload_seed is 1\.5; it has to be a whole number"):
        env.reset(seed=77, options={"workload_seed": 1.5})
    action = first_legal({"action_mask": other.action_masks()})
    np.testing.assert_equal(env.step(action), other.step(action))
    np.testing.assert_equal(env.reset(), other.reset())
