"""Rules of the simulator that a scenario may set."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from cace_env.config import Frozen
from cace_env.tables import DRAIN_AFTER_US, FOREVER, MAX_PREFETCHES, PREFETCH_MAX_WAIT_US

MOST_SLOTS: Final = 1 << 16


class Rules(Frozen):
    """Rules of the simulator that a scenario may set."""

    placement: Literal["spread", "pack"] = Field(
        default="spread", description="which accelerator that fits: most or least memory left over"
    )
    drain_after_s: float = Field(
        default=DRAIN_AFTER_US / 1e6,
        ge=0,
        le=1e9,
        description="pending time after which busy models may be evicted [s]; Eviction-v0 only",
    )
    prefetch_limit: int = Field(
        default=0,
        ge=0,
        le=MAX_PREFETCHES,
        description="Swap-v0: most loads per episode of models without waiting requests; 0 = no prefetch",
    )
    prefetch_max_wait_s: float = Field(
        default=PREFETCH_MAX_WAIT_US / 1e6,
        ge=0,
        le=1e9,
        description="Swap-v0: no prefetch while a request for a pending model has waited this long [s]",
    )
    whole_rounds: bool = Field(
        default=False, description="a prompt that arrives during a round joins at the next one, as in real engines"
    )
    max_slots: int = Field(
        default=0, ge=0, le=MOST_SLOTS, description="slots of the observation; 0 = as many as can be used"
    )
    max_decisions: int | None = Field(default=None, ge=1, le=FOREVER, description="truncates the episode; none = never")
