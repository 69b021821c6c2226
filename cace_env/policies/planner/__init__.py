"""A planner around any policy: it plays every choice on in sampled futures, and keeps the policy's own if in doubt.

    cace_env.evaluate("planner:eviction", "default")             # around the shipped agent
    cace_env.evaluate("planner:cace@futures=64@horizons=60+300", "default")

At a question it samples futures from what has happened so far (`cace_env.forecasting`): nothing is known of the true
one. In each of them it tries every legal action in a copy of the simulation, which the policy plays on, and reads the
cost at several horizons. All actions meet the same futures, so their differences vary little. The policy's choice is
changed only if another one is cheaper, in the mean of the horizons and futures, by more than `sure` standard errors of
the differences. Loads that nobody waits for have a rule of their own (`cace_env.policies.planner.prefetch`).
"""

from cace_env.policies.planner.budget import Budget
from cace_env.policies.planner.planner import CHANGED, PLANNER, Planner, planner_of
from cace_env.policies.planner.sampled import SampledRollouts

__all__ = ["CHANGED", "PLANNER", "Budget", "Planner", "SampledRollouts", "planner_of"]
