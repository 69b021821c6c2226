"""Claims about rewards against a baseline: they add up to what is saved, and change nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from stable_baselines3.common.env_util import make_vec_env

import cace_env
from cace_env import evaluate
from cace_env.config import ConfigError
from cace_env.envs import Actor
from cace_env.envs.baselines import CURVE_POINTS, cost_curve, scale_of
from cace_env.fleets import TERM
from cace_env.policies import policy
from cace_env.sb3 import EvictionVecEnv
from cace_env.scenarios import SEEDS, load_scenario
from cace_env.simulation import Simulator
from tests.kinds import EVICTION, Kind
from tests.support.envs import EVERYTHING_COSTS, roomy, short
from tests.support.logs import own
from tests.support.vector_runs import MODES, alone, assert_equal_runs, legal_actions, scenarios

SMALL = {name: scenario for name, scenario in scenarios().items() if name != "roomy"}


def played(env: Any, seed: int | None = None, **options: Any) -> tuple[list[float], list[dict[str, Any]]]:
    """Rewards and infos of an episode in which the first legal action is taken each time."""
    _, info = env.reset(seed=seed, options=options or None)
    rewards, infos, over = [], [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(int(info["action_mask"].argmax()))
        rewards.append(reward)
        infos.append(info)
        over = terminated or truncated
    return rewards, infos


def saved_of(env: Any) -> float:
    """Against the baseline, in the episode that has just ended."""
    saved: float = env.episode_metrics["baseline_cost"] - env.episode_metrics["cost"]
    return saved


# ---------------------------------------------------------------------------------------------------------------------
# What rewards add up to


@pytest.mark.parametrize("name", ["lru", "gdsf", "ollama", "random", "static-best", "belady-cost", "agent:eviction"])
def test_rewards_add_up_to_what_was_saved_against_any_built_in_policy(name: str):
    scenario = short("default", 120)
    env: Any = EVICTION.single(scenario, baseline=name, scale_rewards=False)
    rewards, _ = played(env, seed=7)
    paid = evaluate(name, scenario, [7]).column("cost")[0]
    assert env.episode_metrics["baseline_cost"] == pytest.approx(paid, rel=1e-12)
    assert sum(rewards) == pytest.approx(paid - env.episode_metrics["cost"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"cut"}))
def test_scaled_rewards_add_up_to_what_was_saved_in_decisions_of_lru(name: str, kind: Kind):
    env = kind.single(SMALL[name], baseline="lru")
    scale = scale_of(SMALL[name], kind.single.PROTOCOL).cost
    assert env.reward_scale == scale != 1
    for seed in (0, 1):
        rewards, _ = played(env, seed)
        saved = saved_of(env)
        assert sum(rewards) * scale == pytest.approx(saved, rel=1e-9, abs=1e-9)


def test_the_scale_is_what_lru_pays_per_decision_on_training_seeds():
    scenario = short("default", 120)
    run = evaluate("lru", scenario, SEEDS["train"][:8])
    expected = run.column("cost").sum() / run.column("decisions").sum()
    assert scale_of(scenario, "eviction").cost == pytest.approx(expected, rel=1e-12)


def test_whoever_does_what_the_baseline_does_saves_nothing_at_any_moment():
    """The curve is exact at its points; between them the costs of a decision may be off by a thousandth."""
    scenario = short("default", 300)
    env = EVICTION.single(scenario, baseline="lru", scale_rewards=False)
    actor = Actor("lru", env)
    env.reset(seed=3)
    actor.reset(3)
    saved, over = 0.0, False
    while not over:
        _, reward, over, _, _ = env.step(actor.act())
        saved += reward
        assert abs(saved) < 0.4  # of some 190 in all
    assert saved == pytest.approx(0.0, abs=1e-6)


def test_a_cost_curve_is_what_is_paid_at_each_of_its_points():
    """Recomputed request by request, as the cost is defined."""
    scenario = short("default", 80)
    tables, workload = scenario.tables(), scenario.workload(3)
    simulator = Simulator(tables)
    curve = cost_curve(simulator, policy("lru"), workload, 3)
    episode = simulator.episode()
    for point in (1, 100, 500, CURVE_POINTS - 2):
        now = curve.end_s * point / (CURVE_POINTS - 1)
        due = 0.0
        for r, task in enumerate(episode.task):
            arrival, first, finish = (
                column[r] * 1e-6 for column in (episode.arrival_us, episode.first_token_us, episode.finish_us)
            )
            due += tables.cost.w_ttft[task] * max(min(now, first) - arrival, 0)
            due += tables.cost.w_e2e[task] * max(min(now, finish) - arrival, 0)
        assert curve.costs[point] == pytest.approx(due, rel=1e-9, abs=1e-9)


def test_an_episode_that_is_cut_short_is_held_against_what_the_baseline_had_paid_by_then(kind: Kind):
    whole: Any = kind.single(short(requests=60), baseline="lru", scale_rewards=False)
    cut: Any = kind.single(scenarios()["cut"], baseline="lru", scale_rewards=False)
    rewards, infos = played(cut, seed=2)
    whole_rewards, _ = played(whole, seed=2)
    assert len(rewards) == 4 < len(whole_rewards)
    assert rewards[:3] == whole_rewards[:3]
    assert cut.episode_metrics["baseline_cost"] == whole.episode_metrics["baseline_cost"]
    assert cut.episode_metrics["baseline_cost"] > sum(info["reward_terms"][TERM.baseline] for info in infos)


# ---------------------------------------------------------------------------------------------------------------------
# Terms and penalties


@pytest.mark.parametrize("baseline", [None, "lru"])
def test_terms_are_costs_and_add_up_to_the_reward_times_its_scale(baseline: str | None, kind: Kind):
    scenario = short("workstation", 60, reward=EVERYTHING_COSTS.model_dump(mode="json"))
    env = kind.single(scenario, baseline=baseline, scale_rewards=True, invalid_penalty=3.0)
    plain = kind.single(scenario)
    rewards, infos = played(env, seed=1)
    plain_rewards, _ = played(plain, seed=1)
    for reward, info, cost in zip(rewards, infos, plain_rewards, strict=True):
        terms = info["reward_terms"]
        assert terms.sum() == pytest.approx(reward * env.reward_scale, rel=1e-9, abs=1e-9)
        assert terms.sum() - terms[TERM.baseline] == pytest.approx(cost, rel=1e-9, abs=1e-9)
    assert any(info["reward_terms"][TERM.baseline] > 0 for info in infos) == (baseline is not None)


def test_a_penalty_is_taken_from_the_scaled_reward():
    env, other = (EVICTION.single(short(), baseline="lru", invalid_penalty=penalty) for penalty in (0.0, 2.5))
    for each in (env, other):
        each.reset(seed=0)
    illegal = int((~env.action_masks()).argmax())
    rewards, infos = zip(*((step[1], step[4]) for step in (each.step(illegal) for each in (env, other))), strict=True)
    assert rewards[1] == pytest.approx(rewards[0] - 2.5)
    assert infos[1]["reward_terms"][TERM.invalid_action] == pytest.approx(-2.5 * other.reward_scale)


def test_by_default_rewards_are_costs():
    env: Any = EVICTION.single(short())
    rewards, infos = played(env, seed=0)
    assert env.reward_scale == 1.0
    assert sum(rewards) == pytest.approx(-env.episode_metrics["cost"])
    assert "baseline_cost" not in env.episode_metrics
    assert all(info["reward_terms"][TERM.baseline] == 0 for info in infos)


# ---------------------------------------------------------------------------------------------------------------------
# Many at once, and other people's ways to make an environment


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_workloads", [None, 3])
def test_many_against_a_baseline_equal_as_many_alone(mode: str, num_workloads: int | None, kind: Kind):
    several = list(SMALL.values())
    arguments: dict[str, Any] = {"baseline": "lru", "num_workloads": num_workloads, "invalid_penalty": 2.0}
    together = kind.many(5, several, autoreset_mode=mode, **arguments)
    assert assert_equal_runs(alone(together, several, **arguments), together, 60) >= 5
    assert set(together.reward_scales) == {scale_of(each, kind.single.PROTOCOL).cost for each in several}


def test_every_way_to_make_an_environment_takes_a_baseline():
    settings: dict[str, Any] = {"scenario": short(), "baseline": "gdsf"}
    single: Any = gymnasium.make(cace_env.EVICTION_ID, **settings).unwrapped
    many: Any = gymnasium.make_vec(cace_env.EVICTION_ID, num_envs=2, **settings)
    ours: Any = EvictionVecEnv(2, **settings).vector_env
    theirs = make_vec_env(cace_env.EVICTION_ID, n_envs=2, env_kwargs=settings)
    for env in (single, many.unwrapped, ours.unwrapped, theirs.get_attr("unwrapped")[0]):
        assert env.rewards.baseline.policy.name == "gdsf"


def test_a_workload_that_is_kept_is_played_by_the_baseline_once():
    env: Any = EVICTION.many(4, short(), baseline="lru", num_workloads=2, autoreset_mode="SameStep")
    env.reset(seed=0)
    for _ in range(60):
        env.step(legal_actions(env))
    assert env.rewards.baseline.requests == 2 * len(short().workload(0))


def test_a_log_has_a_baseline_like_anything_else(tmp_path: Path):
    names = [model.name for model in load_scenario("default").workload_models()]
    rows = "".join(f"{4 * row},900,80,{names[row * 7 % len(names)]},,u{row % 9},,\n" for row in range(120))
    scenario = load_scenario("default").replace(trace={"path": str(own(tmp_path, rows)), "format": "cace"})
    env = EVICTION.single(scenario, baseline="lru", scale_rewards=False)
    rewards, _ = played(env, seed=0)
    assert sum(rewards) == pytest.approx(saved_of(env), abs=1e-6)


def test_a_workload_that_is_handed_in_has_its_own_baseline():
    scenario = short()
    env: Any = EVICTION.single(scenario, baseline="lru", scale_rewards=False)
    by_seed, _ = played(env, workload_seed=5)
    paid = env.episode_metrics["baseline_cost"]
    played(env, workload_seed=6)
    rewards, _ = played(env, workload=scenario.workload(5))
    assert rewards == by_seed and env.episode_metrics["baseline_cost"] == paid


# ---------------------------------------------------------------------------------------------------------------------
# States


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("num_workloads", [None, 2])
def test_a_state_goes_on_with_the_same_rewards(num_workloads: int | None, steps: int, kind: Kind):
    """In the environment it is of, in a fresh one, and in a batch."""
    settings: dict[str, Any] = {"scenario": short(requests=80), "baseline": "lru", "num_workloads": num_workloads}
    env, fresh, batch = kind.single(**settings), kind.single(**settings), kind.many(3, **settings)
    _, info = env.reset(seed=4)
    batch.reset(seed=9)
    for _ in range(steps):
        info = env.step(int(info["action_mask"].argmax()))[4]
    state = env.get_state()

    def going_on(single: Any) -> list[float]:
        rewards, over = [], False
        while not over:
            _, reward, over, _, _ = single.step(int(single.action_masks().argmax()))
            rewards.append(reward)
        return rewards

    expected = going_on(env)
    for other in (env, fresh):
        other.reset(seed=11)
        other.set_state(state)
        assert going_on(other) == expected
    batch.set_state(1, state)
    assert [batch.step(legal_actions(batch))[1][1] for _ in expected] == expected


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be


def test_what_cannot_be_a_baseline_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"no policy called 'lruu'.*lru"):
        EVICTION.single(short(), baseline="lruu")
    with pytest.raises(ConfigError, match="order"):
        EVICTION.single(short(), baseline="wsjf+lru")
    with pytest.raises(ConfigError, match="nothing to learn; raise the pressure"):
        EVICTION.single(roomy(), baseline="lru")
