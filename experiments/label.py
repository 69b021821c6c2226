"""Prices decisions once, for trainings that learn from the same labels: what each action would have cost, in a folder.

    python -m experiments.label configs/agent/distilled.yaml --threads 2
    python -m experiments.train configs/agent/distilled.yaml --out runs/a --seed 0
    python -m experiments.train configs/agent/distilled.yaml --out runs/b --seed 1 --hidden 64 --horizons-s 60 300

It takes the options of a training by imitation and prices the episodes that its folder `labels` lacks, so it goes on
where it was stopped. `docs/training.md` explains the options. Those of the training itself are not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import classrooms
from agents.imitation.labels import KeptLabels
from agents.imitation.pricing import pricing_of
from cace_env.config import ConfigError
from experiments.running.command_line import Session, run_command
from experiments.running.progress import progress_bar
from experiments.training.options import Options, read_options, resolved


def label(options: Options, session: Session) -> None:
    """Prices the episodes that are missing.

    Raises:
        ConfigError: options that cannot be used, a folder with labels that were priced otherwise, or no such cluster;
            nothing has been priced.
        SimulationError, TaskLostError: an episode failed, or was lost; those before are in the folder.
    """
    asked = resolved(options)
    config = asked.agent
    if not isinstance(config, ImitationConfig) or not config.labels:
        raise ConfigError(
            "labels are priced for imitation: name a file that has `algorithm: imitation` and `labels: FOLDER`"
        )
    console = session.console
    with console.status("preparing: scenarios, compiled code"):
        kept = KeptLabels(config, list(classrooms(config).values()), pricing_of(config))
        kept.check()
    missing, decisions = kept.missing(), 0
    execution = asked.options.placed(config.threads)
    with execution.opened() as executor, progress_bar(console) as progress:
        bar = progress.add_task("pricing episodes", total=len(kept.jobs), completed=len(kept.jobs) - len(missing))
        with closing(kept.price(missing, executor)) as priced:
            for count in priced:
                decisions += count
                progress.advance(bar)
    console.print(f"priced {decisions:,} decisions of {len(missing)} episodes; {config.labels} has {len(kept.jobs)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "label",
        Options,
        label,
        arguments,
        interrupted="interrupted; what was priced is kept, and the same command goes on",
        read=lambda given: read_options(given, str(__doc__), "label"),
    )


if __name__ == "__main__":
    sys.exit(main())
