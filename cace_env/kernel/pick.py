"""One question to a built-in rule, about a simulation that Python steps."""

from __future__ import annotations

from typing import Any

from cace_env.compilation import compiled
from cace_env.held import held
from cace_env.kernel.orders import decide, victims
from cace_env.kernel.rules import Rule, Scratch
from cace_env.kernel.state import Requests, fleet_views, state_views

Array = Any


@compiled
def pick(row: Array, at: Array, fleet: Array, fleet_at: Array, w: Requests, rule: Rule, scratch: Scratch) -> int:
    """The rule's answer to the open question; there must be one."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    return decide(s, f, held(w), held(rule), held(scratch))


@compiled
def read_victims(row: Array, at: Array, fleet: Array, fleet_at: Array, rule: Rule, candidates: Array) -> None:
    """Of the legal victims those that the rule's order leaves to choose from, `candidates` (S,): 0 or 1."""
    s = held(state_views(row, at))
    f = held(fleet_views(fleet, fleet_at))
    victims(s, f, held(rule), candidates)
