"""Claims about saving networks as agents without Stable-Baselines3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from cace_env.config import ConfigError
from cace_env.evaluation.agent_folders import agent_of, save_agent
from cace_env.networks import ActionValues, ActorCritic, ScoreNetwork
from cace_env.policies import load_agent
from cace_env.tables import Protocol


@pytest.mark.parametrize("kind", [ActorCritic, ActionValues])
@pytest.mark.parametrize("env_id", ["cace_env:cace_env/Eviction-v0", "cace_env:cace_env/Swap-v0"])
def test_the_agent_that_is_saved_plays_as_the_network_does(kind: type[ActorCritic], env_id: str, tmp_path: Path):
    torch.manual_seed(0)
    env = gym.make(env_id, scenario="workstation")
    net = kind.of_spaces(env.observation_space, env.action_space)
    for weight in net.scores.weights.values():
        torch.nn.init.normal_(weight)  # untrained scores are close to one another
    agent = save_agent(net, tmp_path, algorithm="mine")
    assert load_agent(tmp_path).card == agent.card
    observation, _ = env.reset(seed=0)
    for _ in range(50):
        with torch.no_grad():
            out = net(torch.from_numpy(observation))
        best = int((out[0] if isinstance(net, ActorCritic) else out).argmax())
        assert agent.act(observation, env.get_wrapper_attr("layout")) == best
        observation, *_ = env.step(best)


def test_a_card_names_what_the_network_was_trained_on_and_the_ranges_it_saw():
    net = ScoreNetwork("eviction", 4)
    card = agent_of(net, algorithm="mine", trained_on=("workstation",), train_seeds="0-99").card
    assert (card.name, card.env, card.hidden) == ("mine-eviction", Protocol.EVICTION, 4)
    assert len(card.limits) > 50
    assert not agent_of(net, algorithm="mine").card.limits
    assert agent_of(net, limits={"slot.reload_s": (0.0, 1.0)}).card.limits == {"slot.reload_s": (0.0, 1.0)}


def test_what_cannot_be_saved_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no field 'trained'"):
        save_agent(ScoreNetwork("eviction", 4), tmp_path / "agent", trained=("workstation",))
    with pytest.raises(ConfigError, match="a Linear cannot be saved"):
        save_agent(torch.nn.Linear(1, 1), tmp_path / "agent")  # type: ignore[arg-type]
    assert not (tmp_path / "agent").exists()


@pytest.mark.integration
def test_a_network_without_torch_is_saved_without_torch(tmp_path: Path):
    saved = agent_of(ScoreNetwork("eviction", 2)).network
    np.savez(tmp_path / "weights.npz", **saved.weights)
    code = f"""
import sys, numpy as np
from cace_env.policies.network import Network
from cace_env.evaluation import save_agent
save_agent(Network("eviction", 2, dict(np.load({str(tmp_path / "weights.npz")!r}))), {str(tmp_path / "agent")!r})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
