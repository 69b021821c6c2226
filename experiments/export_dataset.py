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

from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from experiments.running.command_line import Session, run_command
from experiments.running.datasets import Options, export


def export_dataset(options: Options, session: Session) -> None:
    """Writes the dataset, and says what is in it and how to load it."""
    console = session.console
    try:
        dataset_id, folder = export(options, console)
    except (PolicyError, SimulationError):
        print("nothing is kept", file=sys.stderr)
        raise
    facts = json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))
    episodes, steps, mean_cost = facts["total_episodes"], facts["total_steps"], facts["cace_env"]["mean_cost"]
    console.print(f"{episodes} episodes, {steps} decisions, mean cost {mean_cost:.1f}, {facts['dataset_size']} MB")
    console.print(f"in {folder}", soft_wrap=True)
    where = "" if options.out is None else f"with MINARI_DATASETS_PATH={os.environ['MINARI_DATASETS_PATH']}: "
    console.print(f'{where}minari.load_dataset("{dataset_id}")', soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "export_dataset", Options, export_dataset, arguments, __doc__, interrupted="interrupted; nothing is kept"
    )


if __name__ == "__main__":
    sys.exit(main())
