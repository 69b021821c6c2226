"""Claims about the examples that need nothing but the extras: they run, and say how they are called.

Those of other libraries run in environments of their own, see `make test-integrations`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import cace_env
from cace_env.env import EvictionEnv
from cace_env.observation import ObservationLayout
from cace_env.scenarios import load_scenario, seeds

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCENARIO = "workstation"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, which other test processes need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    """An example as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "arguments", "masked"),
    [
        ("sb3_ppo", ["--steps", "1"], False),  # one round of all environments
        ("sb3_ppo", ["--algorithm", "dqn", "--steps", "1200"], False),
        ("sb3_contrib_maskable_ppo", ["--steps", "1"], True),
        ("sb3_contrib_maskable_ppo", ["--algorithm", "qr-dqn", "--steps", "1200"], False),
    ],
    ids=lambda value: value[1].strip("-") if isinstance(value, list) and len(value) > 2 else None,
)
def test_an_example_learns_and_is_compared_with_lru(
    name: str, arguments: list[str], masked: bool, capsys: pytest.CaptureFixture[str]
):
    example = load(name)
    result = example.main([*arguments, "--scenario", SCENARIO])
    split = seeds("validation", example.VALIDATION_EPISODES)
    assert result.lru_cost == cace_env.evaluate("lru", SCENARIO, split).column("cost").mean()
    assert 0 < result.cost < 10 * result.lru_cost
    if masked:
        assert result.invalid_actions == 0
    assert f"LRU {result.lru_cost:.0f}" in capsys.readouterr().out


def test_a_pareto_front_is_drawn_of_agents_and_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example = load("pareto_front")
    picture = tmp_path / "pictures" / "front.png"
    arguments = ["--scenario", SCENARIO, "--steps", "1", "--seeds", "2", "--weights", "0.5"]
    points = example.main([*arguments, "--picture", str(picture)])
    assert [point.name for point in points] == [*example.RULES, "weight 0.5"]
    assert picture.stat().st_size > 10_000
    lru = points[0]
    found = cace_env.evaluate("lru", SCENARIO, seeds("test", 2))
    assert lru.amounts[:, 1].tolist() == found.column("system_s").tolist()
    for point in points:
        assert (point.amounts > 0.3 * lru.amounts).all() and (point.amounts < 3 * lru.amounts).all()
    assert "| weight 0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_limit_raises_its_multiplier_while_it_is_broken(capsys: pytest.CaptureFixture[str]):
    example = load("ppo_lagrangian")
    arguments = ["--scenario", SCENARIO, "--threshold", "0.5", "--share", "0.001", "--steps", "1", "--seeds", "2"]
    free, limited = example.main(arguments)
    assert free == limited  # both have learned from one rollout, before the multiplier was raised
    assert 0.001 < free.late_share < 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("multiplier 0.00") and not lines[2].endswith("multiplier 0.00")


def test_a_point_is_dominated_by_one_that_is_better_and_nowhere_worse():
    means = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 2.5], [3.0, 3.0], [1.0, 3.0]])
    assert load("pareto_front").not_dominated(means).tolist() == [True, True, False, False, True]


def test_a_model_that_sb3_saved_is_a_contestant(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trained = load("sb3_contrib_maskable_ppo").make_agent("maskable-ppo", SCENARIO, seed=0)
    trained.save(tmp_path / "agent.zip")
    example = load("sb3_contestant")
    split = seeds("validation", 2)
    gain = example.main(["--model", str(tmp_path / "agent.zip"), "--scenario", SCENARIO, "--seeds", "2"])
    assert "cost saved against LRU" in capsys.readouterr().out
    # The environment, stepped by the same model, comes to the same cost.
    env, costs = EvictionEnv(SCENARIO, split="validation", strict=True), []
    for seed in split:
        observation, info = env.reset(seed=seed)
        over = False
        while not over:
            action, _ = trained.predict(observation, action_masks=info["action_mask"].astype(bool), deterministic=True)
            observation, _, terminated, truncated, info = env.step(int(action))
            over = terminated or truncated
        assert env.episode_metrics is not None
        costs.append(env.episode_metrics["cost"])
    lru = cace_env.evaluate("lru", SCENARIO, split).column("cost").sum()
    assert gain.percent == pytest.approx(100 * (1 - sum(costs) / lru))


def test_cleanrl_ppo_bootstraps_where_episodes_are_cut(monkeypatch: pytest.MonkeyPatch):
    example = load("cleanrl_ppo")
    seen: list[int] = []
    plain = example.Agent.forward

    def forward(self, observation, legal):
        seen.append(len(observation))
        return plain(self, observation, legal)

    monkeypatch.setattr(example.Agent, "forward", forward)
    settings = ["--scenario", SCENARIO, "--num-envs", "8", "--num-steps", "32", "--steps", "512", "--minibatches", "2"]
    result = example.main([*settings, "--max-episode-steps", "20", "--validation-episodes", "2"])
    assert 0 < result.cost < 10 * result.lru_cost
    # All 8 are cut together, after 20, 40 and 60 of the 64 steps: 64 + 3 calls, 1 more per update, validation with 2.
    assert seen.count(8) == 64 + 3 + 2


def test_cleanrl_s_network_gives_illegal_slots_nothing_and_does_not_care_how_slots_are_numbered():
    layout = ObservationLayout(max_slots=5, max_pending=3)
    agent = load("cleanrl_ppo").Agent(layout)
    torch.nn.init.normal_(agent.score.weight)
    observation, legal = torch.rand(4, layout.size), torch.rand(4, 5) < 0.5
    legal[:, 0] = True
    order = torch.tensor([3, 0, 4, 2, 1])
    moved = observation.clone()
    slots = observation[:, : layout.slots_end].reshape(4, 5, -1)
    moved[:, : layout.slots_end] = slots[:, order].flatten(1)
    with torch.no_grad():
        (policy, value), (moved_policy, moved_value) = agent(observation, legal), agent(moved, legal[:, order])
    assert (policy.probs[~legal] == 0).all()
    assert policy.entropy().isfinite().all()
    torch.testing.assert_close(moved_policy.probs, policy.probs[:, order])
    torch.testing.assert_close(moved_value, value)


def test_beam_search_finds_a_plan_that_costs_less_than_lru_and_can_be_played(capsys: pytest.CaptureFixture[str]):
    example = load("beam_search")
    result = example.main(["--requests", "300", "--width", "3"])
    assert result.cost < 0.98 * result.lru_cost
    assert "clairvoyant plan" in capsys.readouterr().out
    scenario = load_scenario(SCENARIO)
    env = EvictionEnv(scenario.replace(workload={**scenario.workload_config.model_dump(mode="json"), "requests": 300}))
    observation, _ = env.reset(seed=0)
    cost, over = 0.0, False
    for action in result.plan:
        assert env.action_masks()[action]
        observation, reward, over, *_ = env.step(action)
        cost -= reward
    cost += 0.0 if over else example.let_lru_finish(env, observation)
    assert cost == pytest.approx(result.cost)
    assert cost == pytest.approx(env.simulator.cost())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it_and_is_listed(path: Path):
    command = f"python examples/{path.name} --"
    assert command in path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
    assert f"]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
