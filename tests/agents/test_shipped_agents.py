"""The agents that ship: they load without torch, say what they are, and cost less than CACE on what they never saw."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from agents.objective import Objective
from cace_env import evaluate
from cace_env.config import ConfigError
from cace_env.evaluation.held_out import problems_of, training_cases, validation_seeds
from cace_env.evaluation.scores import relative_cost
from cace_env.evaluation.suite import load_suite
from cace_env.observation import PENDING, SLOT, ObservationLayout
from cace_env.policies import load_agent, policy, write_agent
from cace_env.policies.agent import shipped_agents
from cace_env.scenarios import seeds
from cace_env.tables import Protocol
from experiments import ship_agent
from experiments.running.contestants import default_names
from experiments.ship_agent import ship

AGENTS = shipped_agents()
LARGEST_BYTES = 3_000_000


def test_there_is_one_for_each_environment() -> None:
    assert {agent.card.env for agent in AGENTS.values()} == set(Protocol)


@pytest.mark.parametrize("name", AGENTS)
def test_the_card_says_how_it_was_made_and_where_it_fails(name: str) -> None:
    card = AGENTS[name].card
    assert card.name == name
    assert card.requests > 1_000_000
    assert card.trained_on and card.works and card.fails and card.command and card.limits
    assert problems_of(card, [*seeds("validation"), *seeds("test")]) == []


def test_they_are_small() -> None:
    folder = Path(str(resources.files("cace_env") / "data" / "agents"))
    assert sum(file.stat().st_size for file in folder.rglob("*")) < LARGEST_BYTES


@pytest.mark.parametrize(("name", "trained"), [("swap", "1c7a6a0743e80618")])
def test_they_ignore_features_that_came_after_their_training(name: str, trained: str) -> None:
    """Without the columns of those features, which are 0, the weights are those that were trained, to the bit."""
    agent = AGENTS[name]
    newer = {
        block: [features.index(key.partition(".")[2]) for key in agent.card.newer_features if key.startswith(block)]
        for block, features in (("slot", SLOT._fields), ("pending", PENDING._fields))
    }
    beside_slots = [*newer["slot"], *(len(SLOT) + column for column in newer["pending"])]
    columns = {"slot_linear": newer["slot"], "slot_in": beside_slots}
    columns |= {"pending_linear": newer["pending"], "pending_in": newer["pending"]}
    digest = hashlib.sha256()
    for key, weight in sorted(agent.network.weights.items()):
        added = columns.get(key, [])
        assert not weight[..., added].any()
        digest.update(np.ascontiguousarray(np.delete(weight, added, axis=-1)).tobytes())
    assert digest.hexdigest()[:16] == trained


@pytest.mark.parametrize("name", [name for name, agent in AGENTS.items() if agent.card.newer_features])
def test_features_that_came_after_their_training_change_no_score(name: str) -> None:
    agent = AGENTS[name]
    layout = ObservationLayout(6, 5)
    seen = np.random.default_rng(0).random((20, layout.size)).astype(np.float32)
    changed = seen.copy()
    blocks = layout.split(changed)
    for rows, names in ((blocks.slots, SLOT), (blocks.pending, PENDING)):
        rows[..., [names.again_1m, names.again_5m, names.again_15m]] = 0
    assert not np.array_equal(seen, changed)
    assert np.array_equal(agent.network.logits(seen, layout), agent.network.logits(changed, layout))


@pytest.mark.integration
def test_they_run_without_torch() -> None:
    program = (
        "import sys, cace_env\n"
        "from cace_env.policies.agent import shipped_agents\n"
        "for name, agent in shipped_agents().items():\n"
        "    cace_env.evaluate(f'agent:{name}', 'workstation', [1], protocol=agent.card.env)\n"
        "print('torch' in sys.modules, 'stable_baselines3' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", AGENTS)
def test_they_cost_less_than_cace_on_workloads_they_never_saw(name: str) -> None:
    env = AGENTS[name].card.env
    prefix = env.partition("-")[0].lower()
    cases = training_cases([f"{prefix}-{entry}" for entry in ("fast-loader", "workstation", "default")], env)
    objective = Objective(cases, validation_seeds(6))
    mine, cace = objective.costs([policy(f"agent:{name}"), policy("cace")])
    share = relative_cost(dict(zip(cases, mine, strict=True)), dict(zip(cases, cace, strict=True)))
    assert share.high < 1.0


def test_no_request_of_swap_v0_waits_half_longer_than_under_patient_fifo() -> None:
    case = load_suite("v1").entry("swap-cold-crowded").case()  # without its urgency: three times as long
    agent, fifo = (
        evaluate(name, case, seeds("validation", 12)).column("longest_wait_s").mean()
        for name in ("agent:swap", "patient-fifo+lru")
    )
    assert agent < 1.5 * fifo


def test_they_take_part_by_default_where_they_can() -> None:
    for protocol in Protocol:
        wanted = {f"agent:{name}" for name, agent in AGENTS.items() if agent.card.env == protocol}
        assert wanted == {name for name in default_names([protocol]) if name.startswith("agent:")}


def test_what_ships_is_the_best_checkpoint_under_its_new_name(tmp_path: Path) -> None:
    name, agent = next(iter(AGENTS.items()))
    write_agent(agent, tmp_path / "run" / "best")
    folder = ship(tmp_path / "run", "other", {"fails": "everywhere"}, tmp_path / "shipped")
    shipped = load_agent(folder)
    assert (shipped.card.name, shipped.card.fails, shipped.card.works) == ("other", "everywhere", agent.card.works)
    for key, weight in agent.network.weights.items():
        assert np.array_equal(shipped.network.weights[key], weight)
    with pytest.raises(ConfigError, match="not 'requests'"):
        ship(tmp_path / "run", name, {"requests": "0"}, tmp_path / "shipped")


def test_the_command_copies_the_urgency_of_an_agent_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = AGENTS["swap"]
    assert swap.card.urgency is not None
    write_agent(replace(swap, card=swap.card.model_copy(update={"urgency": None})), tmp_path / "run" / "best")
    monkeypatch.setattr(ship_agent, "ship", partial(ship, shipped=tmp_path / "shipped"))
    for other, status in (("eviction", 2), ("swap", 0)):
        assert ship_agent.main([str(tmp_path / "run"), "--name", "other", "--urgency-of", other]) == status
        assert (tmp_path / "shipped").exists() == (status == 0)
    assert "--urgency-of eviction: this agent has none" in capsys.readouterr().err
    assert load_agent(tmp_path / "shipped" / "other").network.urgency == swap.card.urgency
