"""Claims about training with RLlib that hold without Ray; `make test-rllib` has those about training itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from agents.rllib.config import RLlibConfig, RLlibDQNConfig, RLlibPPOConfig
from experiments import train


def test_what_depends_on_the_step_goes_on_where_it_was():
    config = RLlibPPOConfig(learning_rate=1e-3, final_learning_rate=1e-4, decay_steps=100)
    whole = RLlibConfig.schedule(config.learning_rate_at, config.decay_steps, 0)
    np.testing.assert_allclose(whole, [[0, 1e-3], [100, 1e-4]])
    np.testing.assert_allclose(RLlibConfig.schedule(config.learning_rate_at, 100, 40), [[0, 6.4e-4], [60, 1e-4]])
    assert RLlibConfig.schedule(config.learning_rate_at, 100, 100) == pytest.approx(1e-4)
    dqn = RLlibDQNConfig(exploration_steps=100, final_exploration=0.1)
    assert [dqn.exploration_at(step) for step in (0, 50, 100, 999)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_a_cluster_needs_a_core_for_each_process_but_the_command():
    assert RLlibPPOConfig(runners=0).cores == 0 and RLlibPPOConfig(runners=0).players == 1
    assert RLlibPPOConfig(runners=6, learners=2).cores == 8 and RLlibPPOConfig(runners=6, learners=2).players == 6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["rllib-dqn", "--train-every", "2"], "train_every is 2 and n_steps 5"),
        (["rllib-dqn", "--batch-size", "2", "--learners", "3"], "batch_size is 2 and learners 3"),
        (["rllib-ppo", "--n-steps", "8"], "batch_size is 768, and a learner gets 480 decisions"),
        (["rllib-ppo", "--learners", "11"], "batch_size is 768, and a learner gets 698 decisions"),
    ],
)
def test_numbers_that_rllib_cannot_use_are_refused(
    asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main(["--algorithm", *asked, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_ray_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "experiments.running.executors.on_ray", raising=False)
    assert train.main(["--algorithm", "rllib-ppo", "--wandb", "off", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'cace-env[rllib]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
