"""A Pareto front: completions that start soon, or everything done soon?

    python examples/pareto_front.py --picture pareto_front.png
    python examples/pareto_front.py --weights 0 0.5 1 --steps 20000 --seeds 20

What to take from it:

- One agent is trained for each weight of a linear scalarisation: `weight` x TTFT of completions + (1 - `weight`) x E2E
  of all requests, each relative to what LRU pays. That is the same as a scenario with these weights in its reward, so
  the ordinary environment trains it, with rewards against LRU, in seconds.
- The points of the front are played in `cace_env/MO-Eviction-v0`, whose rewards are the objectives themselves. What
  they add up to does not depend on the weights by which an agent was trained.
- Other policies are points, too: LRU, both readings of CACE, CACE tuned, and the agent that ships. Below and left of
  another point is better in both objectives.
- Linear scalarisation finds only points on the convex hull of what is possible (Das and Dennis, Structural Optimization
  14, 1997); a multi-objective algorithm, say of morl-baselines, takes the environment as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO

import cace_env
from cace_env.evaluation import Gain, paired_gain
from cace_env.fleets import Reward, TaskCost
from cace_env.sb3 import EvictionVecEnv, hyperparameters
from cace_env.scenarios import Scenario, load_scenario, seeds
from cace_env.tables import TASKS

OBJECTIVES = ("completion_waiting_s", "system_s")  # TTFT of completions, E2E of all requests; sums of an episode
REQUESTS = ("completion_requests", "requests")  # of which these are sums
RULES = ("lru", "cace", "cace-output-kept", "cace:tuned-eviction", "agent:eviction")
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)


class Point(NamedTuple):
    """A policy by both objectives."""

    name: str
    amounts: np.ndarray  # (seeds, 2) what the episodes had of `OBJECTIVES` [request s]
    trained: bool  # by this program

    def means(self, requests: np.ndarray) -> np.ndarray:
        """Seconds a request, `(2,)`."""
        means: np.ndarray = self.amounts.sum(axis=0) / requests
        return means

    def gains(self, lru: Point) -> list[Gain]:
        """What is saved against LRU by each objective [%], with 95 % paired intervals."""
        return [paired_gain(lru.amounts[:, k], self.amounts[:, k]) for k in range(2)]


def scalarised(scenario: Scenario, weight: float, lru: Point) -> Scenario:
    """The scenario with the weighted sum of both objectives as its cost, each in units of LRU's."""
    ttft, e2e = lru.amounts.mean(axis=0)
    costs: dict[str, Any] = {task: TaskCost(w_e2e=1 - weight) for task in TASKS}
    costs["completion"] = TaskCost(w_ttft=weight * e2e / ttft, w_e2e=1 - weight)
    return scenario.replace(reward=Reward(**costs).model_dump(mode="json"))


def train(scenario: Scenario, steps: int, seed: int) -> MaskablePPO:
    """An agent for one scenario."""
    venv = EvictionVecEnv(scenario=scenario, baseline="lru")
    agent = MaskablePPO("SlotPolicy", venv, **hyperparameters("maskable-ppo"), seed=seed, device="cpu")
    return agent.learn(steps)


def play(agent: MaskablePPO, scenario: Scenario, episodes: Sequence[int]) -> np.ndarray:
    """What episodes of an agent's best actions had of `OBJECTIVES`, `(seeds, 2)`."""
    env = gym.make_vec(
        f"cace_env:{cace_env.MO_EVICTION_ID}",
        num_envs=len(episodes),
        scenario=scenario,
        split="test",
        objectives=OBJECTIVES,
    )
    observations, infos = env.reset(seed=episodes[0])  # environment i plays the i-th of consecutive seeds
    amounts = np.zeros((len(episodes), len(OBJECTIVES)))
    running = np.ones(len(episodes), dtype=bool)
    while running.any():
        masks = infos["action_mask"].astype(bool)
        actions, _ = agent.predict(observations, action_masks=masks, deterministic=True)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        amounts -= np.where(running[:, None], rewards, 0.0)
        running &= ~(terminated | truncated)
    env.close()
    return amounts


def not_dominated(means: np.ndarray) -> np.ndarray:
    """Which of some points no other one beats in both objectives, `(points,)`; fewer seconds are better."""
    no_worse = (means[:, None] <= means[None]).all(axis=2)
    better = (means[:, None] < means[None]).any(axis=2)
    free: np.ndarray = np.logical_not((no_worse & better).any(axis=0))
    return free


def draw(points: Sequence[Point], requests: np.ndarray, title: str, path: Path) -> None:
    """The front and all points, in seconds a request."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    means = np.array([point.means(requests) for point in points])
    trained = np.array([point.trained for point in points])
    front = means[trained][not_dominated(means[trained])]
    front = front[front[:, 0].argsort()]
    axes.plot(*front.T, color="tab:blue", linewidth=1, zorder=1)
    for (x, y), point in zip(means, points, strict=True):
        if point.trained:
            axes.scatter(x, y, color="tab:blue", zorder=2)
            label, colour = point.name.removeprefix("weight "), "tab:blue"
        else:
            axes.scatter(x, y, color="tab:red", marker="s", zorder=2)
            label, colour = point.name, "tab:red"
        axes.annotate(label, (x, y), (6, 4), textcoords="offset points", color=colour, fontsize=9)
    axes.set_xlabel("TTFT of completions, mean [s]")
    axes.set_ylabel("E2E of all requests, mean [s]")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(x=0.25)  # room for names
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> list[Point]:
    """Trains an agent for each weight, plays all policies on the same requests, prints and draws."""
    parser = argparse.ArgumentParser(description="A Pareto front by linear scalarisation.")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--weights", type=float, nargs="+", default=list(WEIGHTS), help="of the TTFT of completions")
    parser.add_argument("--steps", type=int, default=120_000, help="decisions to train each agent on")
    parser.add_argument("--seeds", type=int, default=50, help="test seeds that all are played on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="where to draw the front (PNG)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # networks this small gain nothing from more
    scenario, episodes = load_scenario(options.scenario), seeds("test", options.seeds)
    points, requests = [], np.zeros(2)
    for name in RULES:
        found = cace_env.evaluate(name, scenario, episodes)
        points.append(Point(name, np.stack([found.column(each) for each in OBJECTIVES], axis=1), trained=False))
        requests = np.array([found.column(each).sum() for each in REQUESTS])  # the same for all policies
    lru = points[0]
    for weight in options.weights:
        its_scenario = scalarised(scenario, weight, lru)
        agent = train(its_scenario, options.steps, options.seed)
        points.append(Point(f"weight {weight:g}", play(agent, its_scenario, episodes), trained=True))
    means = np.array([point.means(requests) for point in points])
    print(f"| {scenario.name}, {options.seeds} seeds | TTFT of completions [s] | saved [%] | E2E [s] | saved [%] |")
    print("|---|---|---|---|---|")
    for point, (ttft, e2e), best in zip(points, means, not_dominated(means), strict=True):
        ours, theirs = (f"{gain.percent:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})" for gain in point.gains(lru))
        print(f"| {point.name}{' *' if best else ''} | {ttft:.2f} | {ours} | {e2e:.2f} | {theirs} |")
    print("* no other policy of the table is better in one objective and no worse in the other")
    if options.picture is not None:
        title = f"{scenario.name}: PPO by the weight of completions' TTFT, {options.steps:,} decisions each"
        draw(points, requests, title, options.picture)
    return points


if __name__ == "__main__":
    main()
