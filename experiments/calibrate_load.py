"""Finds how many users keep the swap channels busy for a share of the time: `python -m experiments.calibrate_load`.

Pressure says how much more is deployed than fits (`pressure` in the scenario). Load says how hard that hurts: the share
of the time in which a swap channel loads or unloads under LRU. There is no closed form for it, so this command searches
for the number of users on training seeds and prints the lines to put into the scenario.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.config import ConfigError, Frozen
from cace_env.evaluation import evaluate
from cace_env.scenarios import Scenario, load_scenario, seeds
from experiments.running.command_line import Session, run_command


class Options(Frozen):
    """Search the number of users at which LRU keeps the swap channels busy for a share of the time."""

    scenario: tyro.conf.Positional[str] = Field(default="default", description="shipped scenario, or a YAML file")
    busy: float = Field(default=0.25, description="wanted busy share of the swap channels, above 0 and below 1")
    seeds: int = Field(default=8, ge=1, description="training seeds to average over")
    most_users: int = Field(default=2000, ge=1, le=100_000, description="where the search ends")


def busy_share(scenario: Scenario, users: int, num_seeds: int) -> float:
    """Mean busy share of the swap channels under LRU with that many users."""
    workload = {**scenario.workload_config.model_dump(mode="json"), "users": users}
    return evaluate("lru", scenario.replace(workload=workload), seeds("train", num_seeds)).summary()["channel_share"]


def search(scenario: Scenario, options: Options, console: Console) -> tuple[int, float]:
    """The least number of users whose busy share reaches the target, and that share; found by bisection.

    Raises:
        ConfigError: the target is out of reach, or the requests come from a log.
    """
    if scenario.trace is not None:
        raise ConfigError(
            f"scenario {scenario.name!r} takes its requests from a log, whose users are given; set time_compression"
        )
    if not 0 < options.busy < 1:
        raise ConfigError(f"busy is {options.busy}; it must be above 0 and below 1")
    low, high = 0, scenario.workload_config.users
    share = busy_share(scenario, high, options.seeds)
    console.print(f"{high:6d} users: {share:.3f}")
    while share < options.busy:
        if high >= options.most_users:
            raise ConfigError(
                f"{high} users reach a busy share of {share:.3f}, not {options.busy}; raise --most-users or pressure"
            )
        low, high = high, min(2 * high, options.most_users)
        share = busy_share(scenario, high, options.seeds)
        console.print(f"{high:6d} users: {share:.3f}")
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        found = busy_share(scenario, middle, options.seeds)
        console.print(f"{middle:6d} users: {found:.3f}")
        low, high, share = (low, middle, found) if found >= options.busy else (middle, high, share)
    return high, share


def calibrate(options: Options, session: Session) -> None:
    """Prints the search and the lines for the scenario."""
    console = session.console
    scenario = load_scenario(options.scenario)
    users, share = search(scenario, options, console)
    measured = f"busy share of the swap channels under LRU: {share:.3f} ({options.seeds} training seeds)"
    console.print(f"\nworkload:\n  users: {users}  # {measured}", soft_wrap=True)
    if np.isclose(users, options.most_users):
        console.print("The search ended at --most-users.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("calibrate_load", Options, calibrate, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
