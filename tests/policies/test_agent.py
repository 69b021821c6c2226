"""A saved agent: what comes back is what was saved, or it is refused with the reason; nothing in a file is executed."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import cace_env
from cace_env.config import ConfigError
from cace_env.evaluation.agent_folders import agent_of as with_card
from cace_env.policies import load_agent, write_agent
from cace_env.policies.agent import CARD_FILE, WEIGHTS_FILE
from cace_env.policies.network import Urgency
from cace_env.tables import Protocol
from tests.support.agents import agent_of, random_network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write_agent(agent_of(random_network()), tmp_path / "some")
    return tmp_path / "some"


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    urgency = Urgency(grace_s=3.0, price=2.0)
    known = {"requests": 12, "limits": {"slot.running": (0.0, 7.0)}, "urgency": urgency}
    original = agent_of(random_network(Protocol.SWAP), **known)
    card = write_agent(original, tmp_path)
    loaded = load_agent(tmp_path)
    assert loaded.card == card == original.card.model_copy(update={"weights_sha256": card.weights_sha256})
    assert all(np.array_equal(loaded.network.weights[k], w) for k, w in original.network.weights.items())
    assert loaded.network.urgency == original.network.urgency == urgency


def test_the_card_decides_whether_long_waits_count() -> None:
    network = replace(random_network(Protocol.SWAP), urgency=Urgency(grace_s=3.0, price=2.0))
    assert agent_of(network).network.urgency is None
    assert with_card(network).card.urgency == network.urgency


def test_the_same_agent_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_agent(agent_of(random_network()), tmp_path / name)
    for file in (CARD_FILE, WEIGHTS_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_agent_is_a_policy_by_its_folder(saved: Path) -> None:
    by_folder = cace_env.evaluate(f"agent:{saved}", "fast-loader", seeds=[1])
    by_object = cace_env.evaluate(load_agent(saved).policy(), "fast-loader", seeds=[1])
    assert np.array_equal(by_folder.column("cost"), by_object.column("cost"))


@pytest.mark.parametrize("protocol", Protocol)
def test_step_by_step_it_costs_what_it_costs_compiled(protocol: Protocol) -> None:
    # A large part in double precision would differ in a tie; the weights are drawn, so there is none.
    urgency = Urgency(grace_s=3.0, loads=1.0, ages=1.0, price=2.0) if protocol == Protocol.SWAP else None
    player = agent_of(random_network(protocol), urgency=urgency)
    env = gymnasium.make(protocol.env_id, scenario="fast-loader")
    layout = env.get_wrapper_attr("layout")
    observation, info = env.reset(seed=3)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, step = env.step(player.act(observation, layout))
        assert not step["invalid_action"]
        total -= float(reward)
        ended = terminated or truncated
    compiled = cace_env.evaluate(player.policy(), "fast-loader", seeds=[info["workload_seed"]], protocol=protocol)
    assert total == pytest.approx(compiled.column("cost")[0], rel=1e-6)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-4]), "its hash is"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "an agent needs agent.json and weights.npz"),
        (lambda folder: (folder / CARD_FILE).write_text("no json"), "not the card of an agent"),
        (lambda folder: (folder / CARD_FILE).write_text('{"name": "x"}'), "not the card of an agent"),
        (lambda folder: change_card(folder, features="0123"), "trained on other features"),
        (lambda folder: change_card(folder, hidden=4), "misses weight|has to be float32"),
        (lambda folder: change_card(folder, env="swap"), "misses weight"),
        (lambda folder: change_card(folder, surprise=1), "surprise"),
    ],
)
def test_a_foreign_or_changed_agent_is_refused(saved: Path, damage: Any, said: str) -> None:
    damage(saved)
    with pytest.raises(ConfigError, match=said):
        load_agent(saved)


def change_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | changes))


def pickled() -> bytes:
    """A file of weights that would run code if it were read as a pickle."""
    file = io.BytesIO()
    np.savez(file, slot_linear=np.array([print], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no weights", pickled()])
def test_a_file_of_something_else_is_refused_even_with_its_hash_on_the_card(saved: Path, content: bytes) -> None:
    (saved / WEIGHTS_FILE).write_bytes(content)
    change_card(saved, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ConfigError, match="this is not a file of weights"):
        load_agent(saved)


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no agent called 'nobody'"):
        load_agent("nobody")


def test_an_agent_of_the_other_environment_is_refused(tmp_path: Path) -> None:
    write_agent(agent_of(random_network(Protocol.SWAP)), tmp_path)
    with pytest.raises(ConfigError, match=r"trained for Swap-v0; this is Eviction-v0"):
        cace_env.evaluate(f"agent:{tmp_path}", "fast-loader", seeds=[1])
    with pytest.raises(ConfigError, match="has its own order"):
        cace_env.evaluate(f"wsjf+agent:{tmp_path}", "fast-loader", seeds=[1], protocol="swap")


def test_an_eviction_agent_plays_swap_v0_with_an_order(saved: Path) -> None:
    evaluation = cace_env.evaluate(f"wsjf+agent:{saved}", "fast-loader", seeds=[1], protocol="swap")
    assert evaluation.column("cost")[0] > 0
