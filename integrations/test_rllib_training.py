"""Claims about training by RLlib, and about what is lost with a process; collected by `make test-rllib` only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import register_env

from agents.rllib import modules, playing, trainer
from agents.rllib.trainer import RLlibDQNConfig, RLlibPPOConfig, RLlibTrainer
from cace_env import evaluate
from cace_env.config import MOST_SEED, ConfigError
from cace_env.networks import ILLEGAL
from cace_env.policies import Agent
from experiments import compare, train
from experiments.running.executors import on_ray
from experiments.running.executors.execution import Execution
from experiments.training.folder import read_metrics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

ROOT = Path(__file__).resolve().parents[1]
ENVS = 4
SIZES = {"hidden": 6, "value_hidden": 6}
SMALL = {
    "rllib-ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
    "rllib-dqn": {"learning_starts": 40, "batch_size": 16, "buffer_size": 400, "exploration_steps": 300},
}


def config(algorithm: str, short: Path, **changes: Any) -> RLlibPPOConfig | RLlibDQNConfig:
    kind: Any = RLlibPPOConfig if algorithm == "rllib-ppo" else RLlibDQNConfig
    common = {"train_on": (str(short),), "envs_per_runner": ENVS, "runners": 0, **SIZES}
    return kind(**common | SMALL[algorithm] | changes)


def ignore(_: int) -> None:
    """A progress bar that shows nothing."""


@pytest.fixture
def cluster() -> Iterator[None]:
    with Execution("ray", 2).opened():
        yield


@contextlib.contextmanager
def made(asked: RLlibPPOConfig | RLlibDQNConfig) -> Iterator[RLlibTrainer]:
    trained = RLlibTrainer(asked)
    try:
        yield trained
    finally:
        trained.algorithm.stop()


def weights(agent: Agent) -> dict[str, np.ndarray]:
    return dict(agent.network.weights)


def states(short: Path, count: int = 40) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Environments, observations and masks of a random policy."""
    envs = playing.make_env(env_config(short) | {"num_envs": ENVS})
    observation, infos = envs.reset(seed=0)
    seen, masks = [observation], [infos["action_mask"]]
    rng = np.random.default_rng(0)
    for _ in range(count):
        actions = [rng.choice(np.flatnonzero(mask)) for mask in masks[-1]]
        observation, _, _, _, infos = envs.step(actions)
        seen.append(observation)
        masks.append(infos["action_mask"])
    return envs, torch.from_numpy(np.concatenate(seen)), torch.from_numpy(np.concatenate(masks) == 1)


def env_config(short: Path) -> dict[str, Any]:
    asked = config("rllib-ppo", short)
    return dict(trainer.configured(asked, RLlibTrainer(asked).scenarios, 0, None).env_config)


# ---------------------------------------------------------------------------------------------------------------------
# Masks


def test_values_of_illegal_actions_are_in_no_target_and_no_exploration(short: Path) -> None:
    envs, seen, legal = states(short)
    model = {**SIZES, "first": None, "exploration": 1.0}
    spec = RLModuleSpec(
        module_class=modules.SlotActionValues,
        observation_space=envs.single_observation_space,
        action_space=envs.single_action_space,
        model_config=model,
    )
    module = spec.build()
    module.make_target_networks()
    for weight in [*module.net.parameters(), *module.target.parameters()]:
        torch.nn.init.normal_(weight)
    out = module.forward_train({Columns.OBS: seen, Columns.NEXT_OBS: seen.flip(0)})
    for name, there in {
        "qf_preds": legal,
        "qf_next_preds": legal.flip(0),
        "qf_target_next_preds": legal.flip(0),
    }.items():
        assert (out[name][~there] == ILLEGAL).all() and (out[name][there] > ILLEGAL / 2).all()
        assert there.gather(1, out[name].argmax(dim=1, keepdim=True)).all()
    assert (out["qf_next_preds"] != out["qf_target_next_preds"]).any(), "the target network is another one"
    explored = torch.zeros_like(legal)
    for _ in range(60):
        chosen = module.forward_exploration({Columns.OBS: seen}, t=0)[Columns.ACTIONS]
        explored[torch.arange(len(seen)), chosen] = True
    assert (explored <= legal).all() and (explored[legal.sum(dim=1) == 2] == legal[legal.sum(dim=1) == 2]).all()


# ---------------------------------------------------------------------------------------------------------------------
# What env runners play, and say


def test_env_runners_play_requests_of_their_own(short: Path) -> None:
    def met(runner: int, training: int) -> set[int]:
        envs = playing.make_env(env_config(short) | {"num_envs": 60, "seed": (training, 0)})
        return set(envs.reset(seed=training + runner)[1]["workload_seed"].tolist())  # as RLlib seeds them

    assert met(1, 0) == met(1, 0)
    assert not met(1, 0) & met(2, 0)
    assert not met(1, 1) & met(2, 0), "another training plays others"


def test_what_was_simulated_is_counted_to_the_request(short: Path) -> None:
    asked = config("rllib-ppo", short)
    register_env(trainer.ENV, playing.make_env)
    runner = SingleAgentEnvRunner(config=trainer.configured(asked, RLlibTrainer(asked).scenarios, 0, None))
    envs, said, ended = runner.env.unwrapped, 0, 0
    for _ in range(12):
        ended += sum(episode.is_done for episode in runner.sample(num_timesteps=200, explore=True))
        said += int(runner.metrics.peek(playing.REQUESTS))
        runner.metrics.reduce()
    over = envs._over
    running = sum(envs.simulators.view(env).summary().shares[:, 0].sum() for env in np.flatnonzero(~over))
    scale = 8 * 400  # LRU on eight seeds
    begun = ended + int((~over).sum())  # the baseline has played each from its first to its last request
    assert ended >= ENVS
    assert said == scale + 400 * begun + 400 * ended + running
    runner.stop()


# ---------------------------------------------------------------------------------------------------------------------
# Learning, and going on


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_training_that_was_put_away_goes_on_from_its_weights_and_step(
    algorithm: str, short: Path, tmp_path: Path, cluster: None
) -> None:
    asked = config(algorithm, short, decay_steps=1000)
    with made(asked) as one:
        start = weights(one.agent())
        metrics = one.learn(300, ignore)
        assert one.step >= 300 and one.requests > 400 * ENVS
        assert any((start[name] != weight).any() for name, weight in weights(one.agent()).items())
        assert np.isfinite(list(metrics.values())).all() and 0 < metrics["sampling_share"] < 1
        one.save(tmp_path)
        kept, there = one.agent(), one.algorithm.learner_group.get_state()["learner"]
        first = metrics["learning_rate"]
    with made(asked) as other:
        other.load(tmp_path)
        assert (other.step, other.requests) == (one.step, one.requests)
        np.testing.assert_equal(weights(other.agent()), weights(kept))
        back = other.algorithm.learner_group.get_state()["learner"]
        for part in trainer.KEPT:
            np.testing.assert_equal(back[part], there[part])
        assert other.learn(100, ignore)["learning_rate"] < first
        assert any((weights(kept)[name] != weight).any() for name, weight in weights(other.agent()).items())
    with pytest.raises(ConfigError, match="does not hold a training by"):
        RLlibTrainer(config(next(name for name in SMALL if name != algorithm), short)).load(tmp_path)


def test_a_training_begins_from_an_agent(short: Path, cluster: None) -> None:
    with made(config("rllib-ppo", short, init="eviction", hidden=64)) as begun:
        shipped = evaluate("agent:eviction", short, [1_000_000])
        assert evaluate(begun.agent().policy(), short, [1_000_000]).column("cost") == shipped.column("cost")
    with pytest.raises(ConfigError, match="set env and hidden"):
        RLlibTrainer(config("rllib-ppo", short, init="eviction"))


def test_what_no_env_runner_could_play_is_refused_before_one_is_started(short: Path) -> None:
    for changes, said in (({"baseline": "nobody"}, "no policy called 'nobody'"), ({"num_workloads": 1 << 40}, "1 to ")):
        with pytest.raises(ConfigError, match=said):
            RLlibTrainer(config("rllib-ppo", short, runners=1, **changes))


def test_a_training_with_the_largest_seed_goes_on(short: Path) -> None:
    asked = config("rllib-ppo", short, seed=MOST_SEED)
    assert 0 <= trainer.configured(asked, RLlibTrainer(asked).scenarios, 1_000, None).seed < 1 << 31


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_killed_env_runner_is_started_again_and_training_goes_on(algorithm: str, short: Path, cluster: None) -> None:
    with made(config(algorithm, short, runners=2)) as trained:
        trained.learn(200, ignore)
        group, before = trained.algorithm.env_runner_group, weights(trained.agent())
        first, second = group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        os.kill(first, signal.SIGKILL)
        reached = trained.step
        trained.learn(200, ignore)
        assert trained.step >= reached + 200
        assert any((before[name] != weight).any() for name, weight in weights(trained.agent()).items())
        deadline = time.monotonic() + 120
        while len(now := group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)) < 2:
            assert time.monotonic() < deadline, "it did not come back"
            trained.learn(1, ignore)
        assert second in now and first not in now
        learned = trained.agent().network.weights["slot_in"]
        played = group.foreach_env_runner(lambda runner: runner.module.net.to_network(), local_env_runner=False)
        for network in played:
            np.testing.assert_array_equal(network.weights["slot_in"], learned)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def arguments(short: Path, out: Path, *more: str) -> list[str]:
    asked = ["--algorithm", "rllib-dqn", "--train-on", str(short), "--envs-per-runner", "4", "--runners", "1"]
    asked += ["--validation-seeds", "2", "--steps", "900", "--interval", "300", "--out", str(out)]
    return [*asked, *more]


def test_a_killed_training_goes_on_and_its_agent_is_compared(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    learning = ["--learning-starts", "40", "--batch-size", "16", "--gradient-steps", "2", "--train-every", "25"]
    command = [sys.executable, "-m", "experiments.train", *arguments(short, out, *learning)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while len(read_metrics(out)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    said, _ = process.communicate()
    before = read_metrics(out)
    assert 2 <= len(before) < 4, said
    assert train.main(["--out", str(out), "--resume"]) == 0
    rows = read_metrics(out)
    assert rows[: len(before)] == before and [row["interval"] for row in rows] == list(range(len(rows)))
    assert rows[-1]["global_step"] >= 900 and np.all(np.diff([row["requests"] for row in rows]) > 0)
    assert list((out / "wandb").glob("offline-run-*")) and list((out / "tensorboard").iterdir())
    assert not ray.is_initialized()
    compared = ["--scenarios", str(short), "--policies", f"lru,agent:{out / 'best'}", "--seeds", "2"]
    assert compare.main([*compared, "--out", str(tmp_path / "compared")]) == 0


def test_a_cluster_with_too_few_cores_is_refused(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "node_ip_address": on_ray.LOOPBACK}
    small = Cluster(initialize_head=True, head_node_args=node)
    try:
        asked = arguments(short, tmp_path / "run", "--ray-address", str(small.address), "--learners", "1")
        assert train.main(asked) == 2
    finally:
        small.shutdown()
    assert "1 runners and 1 learners need a core each, and the cluster has 1" in capsys.readouterr().err
