"""Searches with the true future: the clairvoyant reference, prices of actions, exact optima of tiny episodes."""

from cace_env.planning.optimum import exact_optimum, merged_optimum
from cace_env.planning.planner import Reference, find_reference, replay
from cace_env.planning.rollouts import Rollouts

__all__ = ["Reference", "Rollouts", "exact_optimum", "find_reference", "merged_optimum", "replay"]
