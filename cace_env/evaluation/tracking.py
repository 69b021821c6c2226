"""Tracking of training numbers: rows of a CSV file, and Weights & Biases (W&B) if a run is active.

Nothing here imports W&B: a script that starts a run has imported it. Without a run, nothing is sent anywhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.files import csv_text

Row = dict[str, int | float]  # of a CSV file

STEP: Final = "global_step"  # x axis of every curve


class RunLog:
    """A W&B run, with every curve over the global step.

    Args:
        run: return value of `wandb.init`.
        prefixes: prefixes of the numbers logged here, such as "eval/"; other numbers keep their own axis. Empty = all
            numbers of the run.
    """

    def __init__(self, run: Any, prefixes: Sequence[str] = ()) -> None:
        self.run = run
        self._wandb = sys.modules["wandb"]
        run.define_metric(STEP)
        for prefix in prefixes or ("",):
            run.define_metric(f"{prefix}*", step_metric=STEP)

    def keep_best(self, name: str, goal: str) -> None:
        """Use the best value of a number as its summary, not its last: `goal` is "min" or "max"."""
        self.run.define_metric(name, step_metric=STEP, summary=goal)

    def summarize(self, numbers: Mapping[str, float]) -> None:
        """Log numbers about the whole run, for the table of runs."""
        self.run.summary.update(dict(numbers))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers at a global step; those that are not finite are left out."""
        self.run.log({STEP: step, **{name: value for name, value in numbers.items() if math.isfinite(value)}})

    def log_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table, such as the cost of every case."""
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        self.run.log({STEP: step, name: table})

    def log_picture(self, step: int, name: str, rgb: npt.NDArray[np.uint8], caption: str) -> None:
        """Log a picture, `(height, width, 3)`."""
        self.run.log({STEP: step, name: self._wandb.Image(rgb, caption=caption)})

    def log_agent(self, folder: Path, aliases: Sequence[str], about: Mapping[str, Any]) -> None:
        """Log an agent folder as a new version of this run's artifact; `latest` is the newest version."""
        artifact = self._wandb.Artifact(f"agent-{self.run.id}", type="agent", metadata=dict(about))
        for path in sorted(folder.iterdir()):
            artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=list(aliases))


def active_run() -> Any | None:
    """The active run that `wandb.init` started in this process; None without one."""
    wandb = sys.modules.get("wandb")
    return getattr(wandb, "run", None)


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV, with every column that any of them has."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text(header, ([row.get(name, "") for name in header] for row in rows))
