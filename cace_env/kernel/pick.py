"""One question to a built-in rule, about a simulation that Python steps."""

from __future__ import annotations

from typing import Any

from cace_env.compilation import compiled
from cace_env.kernel.rules import Rule, Scratch, pick_slot
from cace_env.kernel.state import Requests, fleet_views, state_views

Array = Any


@compiled
def pick(row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, rule: Rule, scratch: Scratch) -> int:
    """The legal slot with the lowest keep-score; a question must be open."""
    s = state_views(row, at)
    f = fleet_views(fleet, fleet_at)
    return pick_slot(s, f, w, rule, scratch)
