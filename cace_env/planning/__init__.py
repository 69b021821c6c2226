"""Searches with the true future: the clairvoyant reference, prices of actions, a look ahead, exact optima."""

from cace_env.planning.horizon import Lookahead, play_knowing
from cace_env.planning.optimum import exact_optimum, merged_optimum
from cace_env.planning.planner import Reference, find_reference, replay
from cace_env.planning.rollouts import Rollouts

__all__ = [
    "Lookahead",
    "Reference",
    "Rollouts",
    "exact_optimum",
    "find_reference",
    "merged_optimum",
    "play_knowing",
    "replay",
]
