"""Where the numbers of a training go: TensorBoard event files, and Weights & Biases (W&B).

W&B is off, offline (files in the run folder, nothing leaves the machine; the default) or online. Nothing here needs a
key but `online`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from agents.algorithms import EXTRA
from cace_env.config import ConfigError
from cace_env.evaluation.tracking import RunLog

Mode = Literal["off", "offline", "online"]

VALIDATION: Final = "validation/"  # before the names of cases
COST: Final = f"{VALIDATION}cost_vs_lru"


class TensorBoard:
    """Numbers as an event file, without torch.

    Args:
        folder: gets one more event file.
        step: what an earlier file says of this step and later ones is void: the training goes on from here.

    Raises:
        ConfigError: tensorboard is missing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ConfigError(f"event files need tensorboard; {EXTRA}") from error
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, session_log=start))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers at a global step; they are on disk when this returns."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def check_wandb(mode: Mode) -> None:
    """Refuses what could not be tracked before anything has run.

    Raises:
        ConfigError: wandb is missing, or `online` has no key or one that W&B refuses.
    """
    if mode == "off":
        return
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(f"--wandb {mode} needs wandb; {EXTRA}, or train with --wandb off") from error
    if mode == "offline":
        return
    instead = "keep the run here with --wandb offline, and send it later with `wandb sync`"
    try:
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise ConfigError(f"--wandb online: {error}; {instead}") from error
    if not known:
        raise ConfigError(f"--wandb online needs a key: `wandb login` or WANDB_API_KEY; or {instead}")


def start_wandb(
    folder: Path,
    mode: Literal["offline", "online"],
    *,
    run_id: str,
    project: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
) -> RunLog:
    """A run of W&B; with the same `run_id` it goes on with one.

    Args:
        folder: of the training; the files of W&B go to its folder `wandb`.
        mode: "offline" or "online".
        run_id: of the run.
        project: of W&B.
        group: runs that belong together, such as seeds of one configuration.
        tags: to find it by.
        config: every option, as plain numbers and text.
    """
    import wandb

    # It takes our package `agents` for one that calls LLMs, and would recommend a product for that.
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
    # Without this it sends statistics of its own use even for offline runs, of which only `init` would know.
    wandb.setup(wandb.Settings(mode=mode))
    run = wandb.init(
        mode=mode,
        id=run_id,
        resume="allow",
        project=project,
        group=group,
        tags=list(tags),
        job_type="train",
        name=folder.name,
        dir=str(folder),
        config=dict(config),
        settings=wandb.Settings(console="off", silent=True),  # the terminal is the progress bar's
    )
    log = RunLog(run)
    log.keep_best(COST, "min")
    return log


class Tracking:
    """TensorBoard always, W&B if it is wanted.

    Args:
        folder: of the event files.
        step: from which the training goes on.
        wandb: its run, or None.

    Raises:
        ConfigError: as `TensorBoard`.
    """

    def __init__(self, folder: Path, step: int, wandb: RunLog | None) -> None:
        self.wandb = wandb
        self._board = TensorBoard(folder, step)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers at a global step."""
        self._board.log(step, numbers)
        if self.wandb is not None:
            self.wandb.log(step, numbers)

    def close(self, *, completed: bool) -> None:
        """Closes everything."""
        self._board.close()
        if self.wandb is not None:
            # One that was interrupted counts as failed until it has gone on.
            self.wandb.run.finish(exit_code=0 if completed else 1)


def new_run_id() -> str:
    """An id for a run of W&B; that of the sweep, where an agent of W&B has started this."""
    return os.environ.get("WANDB_RUN_ID") or os.urandom(4).hex()
