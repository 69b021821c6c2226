"""Claims about training with Stable-Baselines3: rewards, legality, export, and going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.sb3.trainer import DQNConfig, PPOConfig, SB3Trainer
from agents.sb3.training_env import TrainingVecEnv
from agents.state_files import load_state, save_state
from cace_env import evaluate
from cace_env.config import ConfigError, dump
from cace_env.evaluation.held_out import training_scenarios
from cace_env.networks import ScoreNetwork
from cace_env.policies import Agent, write_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.network import weight_shapes
from cace_env.policies.ranges import bounds_of, out_of_range
from cace_env.scenarios import SEEDS, Scenario
from cace_env.tables import Protocol
from tests.kinds import EVICTION, SWAP
from tests.support.envs import EVERYTHING_COSTS, short

ENVS = tuple(Protocol)
ALGORITHMS = ("maskable-ppo", "ppo", "dqn", "qrdqn")
NUM_ENVS = 4


def fleets() -> dict[str, Scenario]:
    """Two fleets of different size; short episodes, so that many end."""
    small = short("workstation", 150).replace(name="small")
    large = short("default", 150, reward=EVERYTHING_COSTS.model_dump(mode="json")).replace(name="large")
    return {"small": small, "large": large}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """The same as files, to be named in a configuration."""
    paths = []
    for name, scenario in fleets().items():
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(dump(scenario))
    return tuple(map(str, paths))


def config(
    algorithm: str, files: tuple[str, ...], env: Protocol = Protocol.EVICTION, **changes: Any
) -> PPOConfig | DQNConfig:
    """A training that takes a second."""
    common: dict[str, Any] = {"env": env, "train_on": files, "num_envs": NUM_ENVS, "hidden": 6, "value_hidden": 6}
    common["algorithm"] = algorithm
    if algorithm.endswith("ppo"):
        return PPOConfig(**{**common, "n_steps": 16, "batch_size": 32, "n_epochs": 2, **changes})
    learning = {"learning_starts": 40, "batch_size": 16, "buffer_size": 400, "exploration_steps": 300, "quantiles": 3}
    return DQNConfig(**{**common, **learning, "target_every": 40, **changes})


def ignore(_: int) -> None:
    """A progress bar that shows nothing."""


def masks_of(venv: TrainingVecEnv) -> np.ndarray:
    return np.array(venv.env_method("action_masks"))


def weights_of(trainer: SB3Trainer) -> list[np.ndarray]:
    return [weight.detach().numpy().copy() for weight in trainer.algorithm.policy.parameters()]


def observations_of(trainer: SB3Trainer) -> Any:
    return trainer.algorithm._last_obs


# ---------------------------------------------------------------------------------------------------------------------
# The environment


@pytest.mark.parametrize("env", ENVS)
def test_scenarios_side_by_side_play_as_each_does_alone(env: Protocol):
    """Observations are those of a fleet alone with room for more; actions and masks as well."""
    kind = EVICTION if env == Protocol.EVICTION else SWAP
    venv = TrainingVecEnv(fleets(), env, NUM_ENVS, baseline=None, strict=True)
    venv.seed(5)
    observations: Any = venv.reset()
    layout = venv.layout
    alone = [
        kind.many(1, each, max_slots=layout.max_slots, max_pending=layout.max_pending) for each in fleets().values()
    ]
    expected = [each.reset(seed=5 + number)[0] for number, each in enumerate(alone)]
    for step in range(15):
        np.testing.assert_array_equal(observations[:2], np.concatenate(expected))
        actions = np.array([np.flatnonzero(mask)[step % mask.sum()] for mask in masks_of(venv)])
        observations, rewards, *_ = venv.step(actions)
        for number, each in enumerate(alone):
            expected[number], reward, *_ = each.step(actions[number : number + 1])
            np.testing.assert_allclose(rewards[number] * venv.envs.reward_scales[number], reward, rtol=1e-5)


@pytest.mark.parametrize("baseline", [None, "lru", "gdsf"])
def test_rewards_of_an_episode_add_up_to_what_was_saved_against_the_baseline(baseline: str | None):
    venv = TrainingVecEnv(fleets(), Protocol.EVICTION, NUM_ENVS, baseline=baseline)
    venv.seed(0)
    venv.reset()
    returns, seeds = np.zeros(NUM_ENVS), venv.base.step_infos["workload_seed"]
    finished: list[tuple[int, int, float]] = []
    while len(finished) < 6:
        _, rewards, dones, _ = venv.step(masks_of(venv).argmax(axis=1))
        returns += rewards
        for env in np.flatnonzero(dones):
            finished.append((env % 2, int(seeds[env]), float(returns[env])))
            returns[env] = 0.0
            seeds[env] = venv.base.step_infos["workload_seed"][env]
    for (number, seed, gained), episode in zip(finished, venv.finished, strict=True):
        name = venv.names[number]
        paid = 0.0 if baseline is None else evaluate(baseline, fleets()[name], [seed]).column("cost")[0]
        assert episode.scenario == number
        assert gained * venv.envs.reward_scales[number] == pytest.approx(paid - episode.cost, rel=1e-4, abs=1e-3)
        assert seed in SEEDS["train"]


@pytest.mark.parametrize("workloads", [None, 3])
def test_requests_are_counted_as_they_are_simulated(workloads: int | None):
    venv = TrainingVecEnv(fleets(), Protocol.EVICTION, NUM_ENVS, num_workloads=workloads)
    scale = 2 * 8 * 150  # LRU on eight seeds of each
    assert venv.requests == scale
    venv.seed(0)
    venv.reset()
    played = venv.base.step_infos["workload_seed"]
    begun = [(env % 2, played[env]) for env in range(NUM_ENVS)]
    while len(venv.finished) < 20:
        _, _, dones, _ = venv.step(masks_of(venv).argmax(axis=1))
        begun += [(int(env) % 2, venv.base.step_infos["workload_seed"][env]) for env in np.flatnonzero(dones)]
    curves = len(begun) if workloads is None else len(set(begun))  # the baseline plays a workload that is kept once
    least = scale + 150 * (curves + len(venv.finished))
    assert least < venv.requests <= least + 150 * NUM_ENVS


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="entry for Swap-v0"):
        training_scenarios("swap-default", Protocol.EVICTION)
    with pytest.raises(ConfigError, match="is given twice"):
        training_scenarios(("default", "default"), Protocol.EVICTION)
    with pytest.raises(ConfigError, match="multiple"):
        TrainingVecEnv(fleets(), Protocol.EVICTION, 3)
    assert len(training_scenarios("suite", Protocol.SWAP)) == 10


# ---------------------------------------------------------------------------------------------------------------------
# The algorithms


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_learns_and_its_export_acts_as_it_does(
    algorithm: str, env: Protocol, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    """Illegal actions raise while it explores and learns; what is exported takes the very actions of the SB3 policy."""
    trainer = SB3Trainer(config(algorithm, files, env))
    monkeypatch.setattr(trainer.venv.envs, "strict", True)
    before = weights_of(trainer)
    ticks: list[int] = []
    metrics = trainer.learn(300, ticks.append)
    assert trainer.step >= 300 and ticks[-1] == trainer.step
    assert any((old != new).any() for old, new in zip(before, weights_of(trainer), strict=True))
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["episodes"] >= 1 and metrics["cost_over_baseline"] > 0

    agent = trainer.agent()
    assert agent.card.trained_on == trainer.config.train_on  # what was typed, so that it can be typed again
    assert agent.card.requests == trainer.requests
    assert out_of_range(observations_of(trainer)[0], trainer.venv.layout, bounds_of(agent.card.limits, 0.5)) is None
    observations = observations_of(trainer)
    for _ in range(10):
        masks = masks_of(trainer.venv)
        masked = {"action_masks": masks} if algorithm == "maskable-ppo" else {}
        actions, _ = trainer.algorithm.predict(observations, deterministic=True, **masked)
        assert masks[np.arange(NUM_ENVS), actions].all()
        assert [agent.act(each, trainer.venv.layout) for each in observations] == actions.tolist()
        observations, *_ = trainer.venv.step(actions)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_training_that_was_put_away_goes_on_as_if_nothing_had_happened(
    algorithm: str, files: tuple[str, ...], tmp_path: Path
):
    keep = {} if algorithm.endswith("ppo") else {"keep_buffer": True}
    one = SB3Trainer(config(algorithm, files, **keep))
    one.learn(100, ignore)
    one.save(tmp_path)
    first, requests = one.learn(100, ignore), one.requests
    other = SB3Trainer(config(algorithm, files, **keep))
    other.load(tmp_path)
    assert other.learn(100, ignore) == first
    assert (other.step, other.requests) == (one.step, requests)
    np.testing.assert_equal(weights_of(other), weights_of(one))


def test_a_training_without_its_buffer_collects_anew_before_it_learns(files: tuple[str, ...], tmp_path: Path):
    one = SB3Trainer(config("dqn", files))
    one.learn(200, ignore)
    one.save(tmp_path)
    other = SB3Trainer(config("dqn", files))
    other.load(tmp_path)
    before = weights_of(other)
    other.learn(36, ignore)
    np.testing.assert_equal(weights_of(other), before)
    other.learn(40, ignore)
    assert any((old != new).any() for old, new in zip(before, weights_of(other), strict=True))


def test_a_training_begins_from_an_agent(files: tuple[str, ...], tmp_path: Path):
    network = ScoreNetwork("eviction", 6).to_network()
    card = AgentCard(name="first", env=Protocol.EVICTION, algorithm="none", hidden=6)
    write_agent(Agent(card, network), tmp_path / "first")
    for algorithm in ALGORITHMS:
        trainer = SB3Trainer(config(algorithm, files, init=str(tmp_path / "first")))
        for name, weight in trainer.agent().network.weights.items():
            np.testing.assert_allclose(weight, network.weights[name], rtol=1e-6)
    with pytest.raises(ConfigError, match="set env and hidden"):
        SB3Trainer(config("ppo", files, init=str(tmp_path / "first"), hidden=7))


def test_values_are_learned_before_the_policy_where_that_is_asked_for(files: tuple[str, ...]):
    trainer = SB3Trainer(config("maskable-ppo", files, value_warmup=64))
    scores = trainer.agent().network.weights
    trainer.learn(64, ignore)
    np.testing.assert_equal(trainer.agent().network.weights, scores)
    trainer.learn(64, ignore)
    assert (trainer.agent().network.weights["slot_in"] != scores["slot_in"]).any()


def test_schedules_depend_on_the_step_alone(files: tuple[str, ...]):
    ppo = PPOConfig(learning_rate=1e-3, final_learning_rate=1e-4, decay_steps=100)
    assert [ppo.learning_rate_at(step) for step in (0, 50, 100, 999)] == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])
    dqn = DQNConfig(exploration_steps=100, final_exploration=0.1)
    assert [dqn.exploration_at(step) for step in (0, 50, 100, 999)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    trainer = SB3Trainer(config("maskable-ppo", files, decay_steps=100))
    trainer.learn(64, ignore)
    trainer.learn(64, ignore)
    (group,) = trainer.algorithm.policy.optimizer.param_groups
    assert group["lr"] == pytest.approx(trainer.config.learning_rate_at(128))


def test_exploration_is_of_each_environment_and_legal(files: tuple[str, ...]):
    trainer = SB3Trainer(config("dqn", files, Protocol.SWAP))
    trainer.learn(60, ignore)
    algorithm, observations = trainer.algorithm, trainer.algorithm._last_obs
    algorithm.exploration_rate = 0.5
    greedy, _ = algorithm.predict(observations, deterministic=True)
    differs = np.zeros(NUM_ENVS, dtype=np.int64)
    for _ in range(100):
        actions, _ = algorithm.predict(observations)
        assert masks_of(trainer.venv)[np.arange(NUM_ENVS), actions].all()
        differs += actions != greedy
    several = masks_of(trainer.venv).sum(axis=1) > 1
    assert (differs[several] > 0).all() and (differs < 80).all()


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    state = {0: {"a": (1, 2.5, None), "b": [True, "text"]}, "t": torch.arange(3), "n": np.array([[1.0, 2.0]])}
    save_state(state, tmp_path)
    back = load_state(tmp_path)
    assert back[0] == state[0]
    assert torch.equal(back["t"], state["t"])
    np.testing.assert_equal(back["n"], state["n"])


def test_what_is_no_state_is_refused(files: tuple[str, ...], tmp_path: Path):
    trainer = SB3Trainer(config("ppo", files))
    with pytest.raises(ConfigError, match="cannot read the state of a training"):
        trainer.load(tmp_path)
    trainer.save(tmp_path)
    with pytest.raises(ConfigError, match="does not hold a training by dqn"):
        SB3Trainer(config("dqn", files)).load(tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        SB3Trainer(config("ppo", files, hidden=7)).load(tmp_path)
    (tmp_path / "training.json").write_text('{"list": [{"what": 1}]}')
    with pytest.raises(ConfigError, match="cannot read the state of a training"):
        trainer.load(tmp_path)
    assert weight_shapes("eviction", 6) == {name: tuple(w.shape) for name, w in trainer.scores.weights.items()}
