"""Kernel and reference simulator on the same case, question by question."""

from __future__ import annotations

import dataclasses

import numpy as np

from cace_env.simulation import Episode, Limits, Question
from cace_env.tables import FOREVER, NONE, FleetTables
from tests.specification import reference
from tests.specification.strategies import Rules

POLICIES = ("oldest", "newest", "first", "last", "hashed")


def pick(name: str, question: Question | reference.Question) -> int:
    """A victim by a rule that depends on nothing but what both simulators show."""
    slots = [slot for slot, legal in enumerate(question.legal) if legal]
    used = {slot: int(question.last_use_us[question.slot_models[slot]]) for slot in slots}
    if name == "oldest":
        return min(slots, key=lambda slot: (used[slot], slot))
    if name == "newest":
        return max(slots, key=lambda slot: (used[slot], slot))
    if name == "hashed":
        return slots[(question.decision * 7919 + question.now_us) % len(slots)]
    return slots[0] if name == "first" else slots[-1]


def limits_of(tables: FleetTables, rules: Rules) -> Limits:
    """The rules of a random case as the simulator takes them."""
    patience_us = FOREVER if rules.patience_us is None else rules.patience_us
    if rules.keep_alive_us is None:
        return Limits(None, rules.max_resident, patience_us)
    keep_alive_us = [FOREVER if time is None else time for time in rules.keep_alive_us]
    return Limits(keep_alive_us, rules.max_resident, patience_us)


def as_reference(episode: Episode) -> Episode:
    """The episode with what has not happened written as in the reference: NONE."""
    arrival = np.where(episode.arrival_us <= episode.end_us, episode.arrival_us, NONE)
    return dataclasses.replace(episode, arrival_us=arrival)
