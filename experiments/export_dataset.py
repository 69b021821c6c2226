"""Writes episodes of any policy as a Minari dataset, for offline reinforcement learning and imitation.

    python -m experiments.export_dataset                                    ten training episodes of lru on default
    python -m experiments.export_dataset --policy cace --scenario agents --episodes 100
    python -m experiments.export_dataset --policy my_module:my_policy --dataset cace_env/default/mine-v0 --out datasets
    python -m experiments.export_dataset --policy belady-cost --split validation --force

`docs/datasets.md` says what is in one and how to read it. Nothing is sent or fetched.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from experiments.running.command_line import exit_status
from experiments.running.datasets import Options, export


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    console = Console(highlight=False)
    sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first
    options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.export_dataset",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return exit_status(lambda: write(options, console), "interrupted; nothing is kept")


def write(options: Options, console: Console) -> int:
    """Writes the dataset and says how to load it; the exit status."""
    dataset_id, folder = export(options, console)
    facts = json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))
    episodes, steps, mean_cost = facts["total_episodes"], facts["total_steps"], facts["cace_env"]["mean_cost"]
    console.print(f"{episodes} episodes, {steps} decisions, mean cost {mean_cost:.1f}, {facts['dataset_size']} MB")
    console.print(f"in {folder}", soft_wrap=True)
    where = "" if options.out is None else f"with MINARI_DATASETS_PATH={os.environ['MINARI_DATASETS_PATH']}: "
    console.print(f'{where}minari.load_dataset("{dataset_id}")', soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
