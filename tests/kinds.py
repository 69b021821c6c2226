"""The two environments, to hold both to the same claims: the fixture `kind` runs a test with each."""

from __future__ import annotations

from typing import NamedTuple

import cace_env
from cace_env.envs import EvictionEnv, EvictionVectorEnv, FleetEnv, FleetVectorEnv, SwapEnv, SwapVectorEnv


class Kind(NamedTuple):
    """An environment."""

    single: type[FleetEnv]
    many: type[FleetVectorEnv]
    id: str


EVICTION = Kind(EvictionEnv, EvictionVectorEnv, cace_env.EVICTION_ID)
SWAP = Kind(SwapEnv, SwapVectorEnv, cace_env.SWAP_ID)
