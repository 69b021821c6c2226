"""This policy, this many GPUs, this much saved: the answer that a log of your own gives, and what a pilot changed.

    python -m experiments.recommend LOG --gpu h100 --gpus 2 --deployed ollama   another GPU, another policy, or nothing
    python -m experiments.recommend LOG --fleets h100:1..4,l40s:2..4            other fleets than five around today's
    python -m experiments.recommend LOG --slo completion:0.95@2s --price h100=2.10 --developer-hour 120
    python -m experiments.recommend --before BEFORE --after AFTER               what a pilot changed, by measured times
    python -m experiments.recommend --pilot LOG --share 0.5 --block-min 30      the same of one in which two took turns

LOG is a folder of experiments.import_logs or any log that the package reads. `docs/recommend.md` says how the answer is
reached, and what it does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.logs.advice.options import Options, ask, pilot
from experiments.running.command_line import Session, run_command


def recommend(options: Options, session: Session) -> int:
    """Answers what was asked; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed; what had finished is in the run folder.
    """
    return pilot(options, session) if options.before or options.after or options.pilot else ask(options, session)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    nothing = "interrupted before today's policy had been played on today's fleet: there is no answer"
    return run_command("recommend", Options, recommend, arguments, __doc__, interrupted=nothing, private=True)


if __name__ == "__main__":
    sys.exit(main())
