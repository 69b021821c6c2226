"""Beam search with `get_state` and `set_state`: what could have been saved, had one known what was to come?

    python examples/beam_search.py --requests 500 --width 4

What to take from it:

- A state is taken in microseconds and put back as often as you like: the search tries every legal victim from the same
  moment, and lets LRU play each attempt to its end to see what the whole episode would have cost.
- The search is clairvoyant. An attempt meets the very requests that are still to come, which no operator of a
  fleet can know. What it finds is a plan for this one episode: so much could have been saved with that knowledge. It
  is no policy, and its cost is not to stand beside theirs. To plan without the future, try the victims on requests
  that you expect instead of those that will come, or let a network imitate the plans and validate it on other seeds.
- What LRU makes of an attempt is a whole plan already, so the search never ends above LRU's cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cace_env.envs import EnvState, EvictionEnv
from cace_env.observation import SLOT
from cace_env.scenarios import load_scenario


class Node(NamedTuple):
    """A moment at which a victim has to be chosen."""

    state: EnvState
    observation: np.ndarray
    cost: float  # so far
    plan: tuple[int, ...]  # actions so far
    final_cost: float  # if LRU goes on from here
    over: bool


class Result(NamedTuple):
    """Of one episode."""

    cost: float
    lru_cost: float
    plan: tuple[int, ...]  # LRU's choices from where it ends
    attempts: int


def least_recently_used(env: EvictionEnv, observation: np.ndarray) -> int:
    """The legal slot whose model has not been used for longest."""
    since_use = env.layout.split(observation).slots[:, SLOT.since_use_s]
    return int(np.where(env.action_masks(), since_use, -1.0).argmax())


def let_lru_finish(env: EvictionEnv, observation: np.ndarray) -> float:
    """What the rest of the episode costs under LRU."""
    cost, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(least_recently_used(env, observation))
        cost -= reward
        over = terminated or truncated
    return cost


def attempt(env: EvictionEnv, node: Node, action: int) -> Node:
    """What comes of an action."""
    env.set_state(node.state)
    observation, reward, terminated, truncated, _ = env.step(action)
    state, cost, over = env.get_state(), node.cost - reward, terminated or truncated
    rest = 0.0 if over else let_lru_finish(env, observation)
    return Node(state, observation, cost, (*node.plan, action), cost + rest, over)


def search(env: EvictionEnv, seed: int, width: int) -> Result:
    """Keeps the `width` most promising moments after each decision; the best whole plan that it has met."""
    observation, _ = env.reset(seed=seed)
    root = env.get_state()
    lru_cost = let_lru_finish(env, observation)
    beam, attempts = [Node(root, observation, 0.0, (), lru_cost, over=False)], 0
    best = beam[0]
    while beam:
        found = [attempt(env, node, action) for node in beam for action in np.flatnonzero(node.state.mask).tolist()]
        found.sort(key=lambda node: node.final_cost)
        attempts += len(found)
        best = min(best, found[0], key=lambda node: node.final_cost)
        beam = [node for node in found if not node.over][:width]
    return Result(best.final_cost, lru_cost, best.plan, attempts)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Searches and prints."""
    parser = argparse.ArgumentParser(description="Beam search over victims, with the true future.")
    parser.add_argument("--scenario", default="workstation")
    parser.add_argument("--requests", type=int, default=500, help="length of the episode")
    parser.add_argument("--width", type=int, default=4, help="moments kept after each decision")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    scenario = load_scenario(options.scenario)
    workload = {**scenario.workload_config.model_dump(mode="json"), "requests": options.requests}
    env = EvictionEnv(scenario.replace(workload=workload))
    began = time.perf_counter()
    result = search(env, options.seed, options.width)
    print(
        f"{options.scenario}, {options.requests} requests: LRU {result.lru_cost:.0f}; clairvoyant plan "
        f"{result.cost:.0f} ({100 * (1 - result.cost / result.lru_cost):+.1f} %), found among {result.attempts:,} in "
        f"{time.perf_counter() - began:.1f} s"
    )
    return result


if __name__ == "__main__":
    main()
