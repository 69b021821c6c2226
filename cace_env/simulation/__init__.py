"""The simulator: owns the arrays, calls the kernel, and returns plain Python values."""

from cace_env.simulation.bank import Bank
from cace_env.simulation.batch import Simulators
from cace_env.simulation.bounds import lower_bound
from cace_env.simulation.limits import NO_LIMITS, Limits
from cace_env.simulation.metrics import METRICS, episode_metrics, ttft_histogram
from cace_env.simulation.outcome import Episode, SimulationError, Summary, Totals
from cace_env.simulation.scratch import new_scratch
from cace_env.simulation.simulator import Question, Simulator, run_rule, simulate
from cace_env.simulation.snapshot import Snapshot

__all__ = [
    "METRICS",
    "NO_LIMITS",
    "Bank",
    "Episode",
    "Limits",
    "Question",
    "SimulationError",
    "Simulator",
    "Simulators",
    "Snapshot",
    "Summary",
    "Totals",
    "episode_metrics",
    "lower_bound",
    "new_scratch",
    "run_rule",
    "simulate",
    "ttft_histogram",
]
