"""Searches the numbers of an agent's training, or tunes CACE to a workload.

    python -m experiments.tune configs/sweep.yaml --trials 30 --steps 200000 --jobs 2     an agent's numbers, by Optuna
    python -m experiments.tune configs/tune/linear.yaml --search asha --jobs 8            by ASHA, on a Ray cluster
    python -m experiments.tune cace --requests 50000000                                   the weights of CACE, by CMA-ES
    python -m experiments.tune cace --env swap --order very-patient-wsjf                  behind an order, in Swap-v0
    python -m experiments.tune cace --scenarios my_fleet.yaml                             for a fleet of your own
    python -m experiments.tune cace --scenarios my_fleet.yaml --trace log.csv --format cace     and its log

Weights change by training seeds, and choices are made by validation seeds; test seeds are for
`experiments.compare`. The same command in the same folder goes on where it was killed. `docs/tuning.md` explains it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.running.command_line import Session, run_command
from experiments.tuning.run import TUNED_CACE, Options, search_numbers, tune_weights


def tune(options: Options, session: Session) -> int:
    """Runs the search that was asked for; returns the exit status."""
    return (tune_weights if options.what == TUNED_CACE else search_numbers)(options, session)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    kept = "interrupted: what has finished is kept, the same command goes on"
    return run_command("tune", Options, tune, arguments, __doc__, interrupted=kept)


if __name__ == "__main__":
    sys.exit(main())
