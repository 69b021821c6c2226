"""What intervals on a log would be, if only what was attached were drawn again, or only windows; and what is shown.

    python -m experiments.yardsticks.log_intervals RUN_FOLDER

The folder is one of `experiments.compare --trace LOG --seeds N`: N draws of what is attached to the same log. Each draw
is one replicate of the first interval, each window, averaged over draws, one of the second. The third is over both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.evaluation import Gain, paired_gain
from cace_env.policies.contestants import NO_SWAPPING
from experiments.reading.markdown import table
from experiments.running.command_line import Session, run_command
from experiments.running.run_folder import BASELINE, Run


class Options(Frozen):
    """Whose intervals are compared."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_FOLDER")]] = Field(
        description="a comparison on a log to which something is attached"
    )


def over_redraws(run: Run, scenario: str, policy: str) -> Gain:
    """The gain with an interval over draws of what was attached: each draw's cost of the whole log is one value."""
    return paired_gain(*(run.episodes[scenario, name]["cost"] for name in (BASELINE, policy)))


def over_windows(run: Run, scenario: str, policy: str) -> Gain:
    """The gain with an interval over windows of the log, with what is attached averaged in each."""
    lru, mine = (run.replicates(scenario, name).mean(axis=0) for name in (BASELINE, policy))
    return paired_gain(lru, mine, block=run.blocks[scenario])


def compared(run: Run) -> list[list[str]]:
    """By scenario and policy: the gain, its three intervals, and how much wider the last is than the first.

    Raises:
        ConfigError: nothing of the run is a log, or what was attached was drawn once.
    """
    logs = [name for name in run.blocks if run.about["scenarios"][name]["log"]["redraws"] > 1]
    if not logs:
        raise ConfigError(
            f"{run.path} has no log to which something was attached several times; use compare --seeds 20"
        )
    rows = []
    for scenario in logs:
        log, ratios = run.about["scenarios"][scenario]["log"], []
        for policy in run.policies(scenario):
            if policy in (BASELINE, NO_SWAPPING):
                continue
            gains = [over(run, scenario, policy) for over in (over_redraws, over_windows, Run.gain)]
            widths = [gain.high - gain.low for gain in gains]
            if not widths[0]:  # the same in every draw
                continue
            ratios.append(widths[2] / widths[0])
            intervals = [f"{gain.low:+.1f} to {gain.high:+.1f}" for gain in gains]
            rows.append([scenario, f"`{policy}`", f"{gains[2].percent:+.1f}", *intervals, f"{ratios[-1]:.1f}"])
        counts = f"{log['redraws']} draws, {log['windows']} windows"
        rows.append([scenario, f"*median; {counts}*", "", "", "", "", f"{np.median(ratios):.1f}"])
    return rows


def show(options: Options, session: Session) -> None:
    """Prints the table."""
    header = ("scenario", "policy", "cost saved [%]", "over draws", "over windows", "shown", "shown / over draws")
    session.console.print(table(header, compared(Run(options.folder)), numbers="right"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("log_intervals", Options, show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
