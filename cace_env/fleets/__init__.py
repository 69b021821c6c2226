"""Fleets: rows of figures (models, GPUs, engines, prices), tabulated to the integer tables of a fleet."""

from cace_env.fleets.catalogue import MODELS
from cace_env.fleets.hardware import ENGINES, GPUS, Engine
from cace_env.fleets.rewards import COST_TERMS, REWARD_TERMS, REWARDS, TERM, Reward, TaskCost
from cace_env.fleets.tabulation import tabulate

__all__ = [
    "COST_TERMS",
    "ENGINES",
    "GPUS",
    "MODELS",
    "REWARDS",
    "REWARD_TERMS",
    "TERM",
    "Engine",
    "Reward",
    "TaskCost",
    "tabulate",
]
