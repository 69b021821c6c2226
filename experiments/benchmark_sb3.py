"""How much of the time that SB3's PPO takes is the environment's: `python -m experiments.benchmark_sb3`.

PPO is stopped by the clock at each border: the vector environment, `EvictionVecEnv` around it, the network that chooses
actions, the gradient steps; what remains is SB3's own bookkeeping (rollout buffer, advantages, log).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from experiments.benchmarks.sb3 import SETTINGS, SHARES, sb3_share
from experiments.reading.markdown import table


@dataclass(frozen=True)
class Options:
    """How much of the time that SB3's PPO takes is the environment's, beside other settings of PPO."""

    num_envs: tuple[int, ...] = (64, 256)
    """environments"""
    steps_per_env: int = 1_536
    """decisions of each environment"""
    scenario: str = "default"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmark_sb3")
    rows = []
    for num_envs in options.num_envs:
        for name, settings in SETTINGS.items():
            found = sb3_share(num_envs, num_envs * options.steps_per_env, scenario=options.scenario, **settings)
            shares = [f"{100 * found[f'{part}_share']:.1f}" for part in SHARES]
            rows.append([name, f"{num_envs}", *shares, f"{found['us_per_decision']:.1f}"])
    header = ["", "environments", *(f"{part.replace('_', ' ')} %" for part in SHARES), "us per decision"]
    print(table(header, rows, numbers="right"))


if __name__ == "__main__":
    main()
