"""Groups of features: each feature in one, and a policy without a group is the one that sees the group's means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import evaluate
from cace_env.observation import BLOCKS, CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.policies import load_agent
from cace_env.scenarios import load_scenario
from experiments.ablate import main
from experiments.reading.feature_groups import FEATURE_GROUPS, Means, columns, feature_means, neutralised
from experiments.running.run_folder import Run
from tests.support.agents import agent_of, lru_network, random_network, saved
from tests.support.small import SMALL, small

__all__ = ["small"]  # a fixture

LAYOUT = ObservationLayout(5, 4)


def test_every_feature_is_in_exactly_one_group():
    listed = [name for names in FEATURE_GROUPS.values() for name in names]
    known = [f"{block}.{feature.name}" for block, features in BLOCKS.items() for feature in features]
    assert sorted(listed) == sorted(known)


def observations(ordering: bool, seed: int) -> np.ndarray:
    """Observations at random, but for flags: slots are occupied and two pending models are there."""
    draws = np.random.default_rng(seed)
    found = draws.random((20, LAYOUT.size)).astype(np.float32)
    blocks = LAYOUT.split(found)
    blocks.slots[..., SLOT.occupied] = 1
    blocks.slots[..., SLOT.legal] = not ordering
    blocks.pending[..., PENDING.target] = 0
    blocks.pending[:, 0, PENDING.target] = not ordering
    blocks.pending[..., PENDING.present] = 1
    blocks.pending[:, 2:] = 0
    blocks.pending[..., PENDING.legal] = ordering * blocks.pending[..., PENDING.present]
    blocks.context[..., CONTEXT.wait_legal] = ordering
    return found


def fixed(found: np.ndarray, means: Means, group: str) -> np.ndarray:
    """The observations with a group's features at their means, flags of what is there and legal apart."""
    changed = found.copy()
    blocks = LAYOUT.split(changed)
    for block, rows, values in (
        ("slot", blocks.slots, means.slots),
        ("context", blocks.context[:, None], means.context),
    ):
        at = columns(group, block)
        rows[..., at] = values[at]
    at = columns(group, "pending")
    there = blocks.pending[..., PENDING.present] == 1
    target = blocks.pending[..., PENDING.target] == 1
    blocks.pending[..., at] = np.where(there[..., None], means.pending[at], 0)
    assert np.array_equal(means.target, means.pending) or not target.any()
    return changed


@pytest.mark.parametrize("group", [name for name in FEATURE_GROUPS if name != "states and legality"])
@pytest.mark.parametrize(("protocol", "hidden"), [("eviction", 0), ("eviction", 6), ("swap", 0), ("swap", 6)])
@pytest.mark.parametrize("ordering", [False, True])
def test_a_policy_without_a_group_is_the_one_that_sees_its_means(
    group: str, protocol: Any, hidden: int, ordering: bool
):
    if ordering and protocol == "eviction":
        return  # no order is asked for
    network = random_network(protocol, hidden, seed=3)
    draws = np.random.default_rng(1)
    pending = draws.random(len(BLOCKS["pending"]))
    target = np.zeros_like(pending) if ordering else pending  # where an order is asked for, there is no target
    means = Means(draws.random(len(BLOCKS["slot"])), target, pending, draws.random(len(BLOCKS["context"])), 1)
    found = observations(ordering, seed=2)
    expected = network.logits(fixed(found, means, group), LAYOUT)
    scores = neutralised(network, means, group).logits(found, LAYOUT)
    legal = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(scores), legal)
    for mine, theirs, there in zip(scores, expected, legal, strict=True):
        # Equal but for a number that all legal actions share: differences are what decides.
        np.testing.assert_allclose(mine[there] - mine[there][0], theirs[there] - theirs[there][0], atol=2e-5)


def test_a_group_that_a_policy_does_not_look_at_is_worth_nothing(small: Path, tmp_path: Path):
    out = tmp_path / "features"
    folder = saved(agent_of(lru_network()), tmp_path / "agent")
    asked = ["features", "--agent", str(folder), "--scenarios", str(small), "--seeds", "3", "--out", str(out)]
    assert main(asked) == 0
    run = Run(out)
    lru, full = (run.columns["small", name]["cost"] for name in ("lru", "mine (full)"))
    np.testing.assert_array_equal(lru, full)
    for group in FEATURE_GROUPS:
        same = np.array_equal(run.columns["small", f"without {group}"]["cost"], full)
        assert same == (group != "recency"), group
    assert "validation seeds of each scenario" in (out / "report.md").read_text()


def test_means_are_taken_over_the_agents_own_decisions_on_validation_seeds():
    agent = agent_of(lru_network())
    means = feature_means(agent, [load_scenario(SMALL)], [1_000_000, 1_000_001])
    asked = evaluate(agent.policy(), SMALL, [1_000_000, 1_000_001]).column("decisions").sum()
    assert means.decisions == asked
    assert means.slots[SLOT.occupied] == 1.0 and means.pending[PENDING.present] == 1.0
    assert means.target[PENDING.target] == 1.0 and means.context[CONTEXT.pending] > 0


def test_features_need_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["features", "--out", str(tmp_path / "x")]) == 2
    assert "needs --agent" in capsys.readouterr().err


def test_a_linear_agent_can_be_trained_without_each_group(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("cmaes", reason="needs the extra train")
    for module in ("ablate", "training.feature_ablation"):
        monkeypatch.setattr(f"experiments.{module}.FEATURE_GROUPS", {"recency": FEATURE_GROUPS["recency"]})
    out = tmp_path / "features"
    folder = saved(agent_of(lru_network()), tmp_path / "agent")
    asked = ["features", "--agent", str(folder), "--scenarios", str(small), "--seeds", "1", "--out", str(out)]
    assert main([*asked, "--retrain", "1"]) == 0
    report = (out / "retrained.md").read_text()
    assert "| without recency |" in report and "![What each part is worth](retrained.png)" in report
    blind = load_agent(out / "retrained" / "without-recency").network.weights["slot_linear"]
    assert blind[SLOT.since_use_s] == 0 and blind[SLOT.suffices] != 0
    assert load_agent(out / "retrained" / "with-all").network.weights["slot_linear"][SLOT.since_use_s] != 0


def test_networks_are_not_trained_anew_here(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved(agent_of(random_network("eviction", 2)), tmp_path / "agent")
    asked = ["features", "--agent", str(folder), "--scenarios", str(small), "--seeds", "1", "--retrain", "1"]
    assert main([*asked, "--out", str(tmp_path / "x")]) == 2
    assert "--retrain is for linear agents" in capsys.readouterr().err
