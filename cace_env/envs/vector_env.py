"""Eviction-v0 and Swap-v0, many at once, stepped by one compiled call."""

from __future__ import annotations

from cace_env.envs.eviction import EvictionEnv
from cace_env.envs.fleet_vector_env import FleetVectorEnv
from cace_env.envs.swap import SwapEnv

__all__ = ["EvictionVectorEnv", "SwapVectorEnv"]


class EvictionVectorEnv(FleetVectorEnv):
    """Many `EvictionEnv`; arguments and everything else as `FleetVectorEnv` says."""

    SINGLE = EvictionEnv


class SwapVectorEnv(FleetVectorEnv):
    """Many `SwapEnv`; arguments and everything else as `FleetVectorEnv` says."""

    SINGLE = SwapEnv
