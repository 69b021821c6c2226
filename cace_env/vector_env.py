"""Eviction-v0 and Swap-v0, many at once: the simulations of `env.py`, stepped by one compiled call."""

from __future__ import annotations

from cace_env.env import EvictionEnv, SwapEnv
from cace_env.fleet_vector_env import FleetVectorEnv

__all__ = ["EvictionVectorEnv", "SwapVectorEnv"]


class EvictionVectorEnv(FleetVectorEnv):
    """Many `EvictionEnv`; arguments and everything else as `FleetVectorEnv` says."""

    SINGLE = EvictionEnv


class SwapVectorEnv(FleetVectorEnv):
    """Many `SwapEnv`; arguments and everything else as `FleetVectorEnv` says."""

    SINGLE = SwapEnv
