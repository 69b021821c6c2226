"""The Gymnasium environments, single and batched, and an adapter that lets any policy act in them."""

from cace_env.envs.acting import Actor
from cace_env.envs.eviction import EvictionEnv
from cace_env.envs.explaining import ExplainDecisions
from cace_env.envs.fleet_env import FleetEnv
from cace_env.envs.fleet_vector_env import FleetVectorEnv
from cace_env.envs.states import EnvState
from cace_env.envs.swap import SwapEnv
from cace_env.envs.vector_env import EvictionVectorEnv, SwapVectorEnv

__all__ = [
    "Actor",
    "EnvState",
    "EvictionEnv",
    "EvictionVectorEnv",
    "ExplainDecisions",
    "FleetEnv",
    "FleetVectorEnv",
    "SwapEnv",
    "SwapVectorEnv",
]
