"""Ranges of feature values in an agent's training, for its card and for guards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cace_env.cases import Case
from cace_env.observation import ObservationLayout
from cace_env.policies import Player
from cace_env.policies.built_in import Policy
from cace_env.policies.ranges import feature_ranges
from cace_env.simulation import Simulator

Limits = dict[str, tuple[float, float]]


def seen_limits(policy: Policy, cases: Mapping[str, Case], seed: int) -> Limits:
    """Find the least and greatest value of every feature, by name, while a policy plays one episode of each case.

    Args:
        policy: the agent.
        cases: cases that it was trained on.
        seed: a seed that it was trained on.
    """
    limits: Limits = {}
    for case in cases.values():
        workload = case.workload(seed)
        player = Player(policy.name, policy, case.tables, workload, seed)
        simulator = Simulator(case.tables, player.limits)
        asked = simulator.reset(workload)
        layout = ObservationLayout(simulator.max_slots, case.tables.num_models)
        observations = []
        while asked:
            observations.append(simulator.observation(layout))
            action, _ = player.answer(simulator)
            asked = simulator.answer(action)
        if observations:
            limits = widened(limits, feature_ranges(np.stack(observations), layout))
    return limits


def widened(limits: Limits, more: Limits) -> Limits:
    """Join ranges so that they contain both."""
    both = dict(limits)
    for name, (least, greatest) in more.items():
        low, high = limits.get(name, (least, greatest))
        both[name] = min(low, least), max(high, greatest)
    return both
