"""How much too narrow an interval on a log would be, if what was attached were drawn again and nothing else.

    python -m experiments.yardsticks.log_intervals RUN_FOLDER

The folder is one of `experiments.compare --trace LOG --seeds N`: N draws of what is attached on the same windows. Each
draw over the whole log is one replicate of the first interval, each window one of the second, which is what a report
shows.
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
from cace_env.evaluation.intervals import by_window
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
    by_draw = []
    for name in (BASELINE, policy):
        columns = run.episodes[scenario, name]
        by_draw.append(by_window(columns["seed"] // run.windows[scenario], columns["cost"]))
    return paired_gain(*by_draw)


def compared(run: Run) -> list[list[str]]:
    """By scenario and policy: the gain, both intervals, and how much wider the one over windows is.

    Raises:
        ConfigError: nothing of the run is a log, or what was attached was drawn once.
    """
    logs = [name for name in run.blocks if run.about["scenarios"][name]["log"]["redraws"] > 1]
    if not logs:
        raise ConfigError(
            f"{run.path} holds no log to which something was attached more than once; give compare --seeds 20"
        )
    rows = []
    for scenario in logs:
        log, ratios = run.about["scenarios"][scenario]["log"], []
        for policy in run.policies(scenario):
            if policy in (BASELINE, NO_SWAPPING):
                continue
            narrow, wide = over_redraws(run, scenario, policy), run.gain(scenario, policy)
            if narrow.low == narrow.high:  # the same in every draw
                continue
            ratios.append((wide.high - wide.low) / (narrow.high - narrow.low))
            intervals = (f"{gain.low:+.1f} to {gain.high:+.1f}" for gain in (narrow, wide))
            rows.append([scenario, f"`{policy}`", f"{wide.percent:+.1f}", *intervals, f"{ratios[-1]:.1f}"])
        counts = f"{log['redraws']} draws, {log['windows']} windows"
        rows.append([scenario, f"*median; {counts}*", "", "", "", f"{np.median(ratios):.1f}"])
    return rows


def show(options: Options, session: Session) -> None:
    """Prints the table."""
    header = ("scenario", "policy", "cost saved [%]", "over draws", "over windows", "times as wide")
    session.console.print(table(header, compared(Run(options.folder)), numbers="right"), soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("log_intervals", Options, show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
