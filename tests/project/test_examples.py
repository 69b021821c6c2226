"""Claims about the examples that need nothing but the extras: they run, and say how they are called.

Those of other libraries run in environments of their own, see `make test-integrations`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cace_env import evaluate
from cace_env.envs import EvictionEnv
from cace_env.evaluation import Gain
from cace_env.networks import ActorCritic
from cace_env.scenarios import load_scenario, seeds

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCENARIO = "workstation"


def load(name: str) -> ModuleType:
    """An example as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def saved(folder: Path, episodes: int) -> Gain:
    """What the agent in a folder saves against LRU."""
    split = seeds("validation", episodes)
    return evaluate(f"agent:{folder}", SCENARIO, split).gain_over(evaluate("lru", SCENARIO, split))


@pytest.mark.parametrize(
    ("algorithm", "policy", "steps"),
    [
        ("maskable-ppo", "SlotPolicy", 1),  # one round of all environments
        ("ppo", "SlotPolicy", 1),
        ("dqn", "SlotPolicy", 3_600),
        ("qrdqn", "SlotPolicy", 3_600),
        ("maskable-ppo", "MlpPolicy", 1),
        ("qrdqn", "MlpPolicy", 3_600),
    ],
)
def test_an_algorithm_of_sb3_learns_and_is_compared_with_lru(
    algorithm: str,
    policy: str,
    steps: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    example = load("sb3_algorithms")
    monkeypatch.setattr(example, "VALIDATION", seeds("validation", 3))
    arguments = ["--algorithm", algorithm, "--policy", policy, "--steps", str(steps), "--scenario", SCENARIO]
    gain = example.main([*arguments, "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    assert -100 < gain.percent < 50
    assert f"saves {gain} of the cost" in said and "cace:tuned-eviction: " in said
    if policy == "SlotPolicy":
        assert saved(tmp_path, 3) == gain
    elif algorithm == "maskable-ppo":
        assert "  0 illegal actions" in said


def test_a_pareto_front_is_drawn_of_agents_and_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example = load("pareto_front")
    picture = tmp_path / "pictures" / "front.png"
    arguments = ["--scenario", SCENARIO, "--steps", "1", "--seeds", "2", "--weights", "0.5"]
    points = example.main([*arguments, "--picture", str(picture)])
    assert [point.name for point in points] == [*example.RULES, "weight 0.5"]
    assert picture.stat().st_size > 10_000
    lru = points[0]
    found = evaluate("lru", SCENARIO, seeds("test", 2))
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


def test_cleanrl_ppo_bootstraps_where_episodes_are_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    example = load("cleanrl_ppo")
    critic, asked = ActorCritic.forward_critic, []

    def forward_critic(self: ActorCritic, observations: torch.Tensor) -> torch.Tensor:
        asked.append(len(observations))
        return critic(self, observations)

    monkeypatch.setattr(ActorCritic, "forward_critic", forward_critic)
    settings = ["--scenario", SCENARIO, "--num-envs", "8", "--num-steps", "32", "--steps", "512", "--minibatches", "2"]
    more = ["--max-episode-steps", "20", "--validation-episodes", "2", "--folder", str(tmp_path)]
    gain = example.main([*settings, *more])
    assert saved(tmp_path, 2) == gain
    # All 8 are cut together, after 20, 40 and 60 of the 64 steps: 64 + 3 calls, and 1 more per update.
    assert asked.count(8) == 64 + 3 + 2


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
    command = f"python examples/{path.name}"
    assert command in path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
    assert f"]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
