"""The run folder of a training: one that is killed at any moment loses the last interval, and nothing else.

run.json       commands, versions, git revision, how far it is
config.yaml    every option as resolved; `python -m experiments.train config.yaml` trains the same again
metrics.csv    one row per evaluation
tensorboard/   the same numbers as event files; wandb/ offline runs of W&B
report.html    what came of it (`python -m experiments.report FOLDER` writes it again)
best/, last/   the agent with the least validation cost, and the newest: `agent:FOLDER` wherever a policy is named
checkpoint/    one folder, named after its step: all that a resumed training needs. No pickle: JSON, CSV, npz
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from agents.algorithms import Trainer
from cace_env.config import ConfigError, Frozen, parse, read_json, read_yaml
from cace_env.evaluation.tracking import Row, table_text
from cace_env.files import json_text, replace_file
from cace_env.policies import Agent, write_agent
from experiments.running.run_folder import check_new

COUNTS: Final = ("interval", "global_step", "requests", "is_best")  # columns of whole numbers
MANIFEST: Final = "manifest.json"
DATA: Final = (".json", ".csv", ".npz")  # what a checkpoint may hold: nothing that could run


class Progress(Frozen):
    """How far a training is, at a checkpoint."""

    step: int
    requests: int
    wall_s: float  # of all its beginnings
    best_step: int
    best_cost: float  # on the validation seeds, as a share of LRU's


class TrainingFolder:
    """A run folder that one process writes at a time; a context manager that locks it.

    Args:
        path: the folder; `create` makes it, everything else needs one that holds a training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._about: dict[str, Any] = {}
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = (self.path / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"{self.path} is being trained in by another process; wait for it, or end it") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        assert self._lock is not None
        self._lock.close()

    @property
    def exists(self) -> bool:
        """Whether a training has begun here."""
        return (self.path / "run.json").is_file()

    @property
    def about(self) -> dict[str, Any]:
        """run.json.

        Raises:
            ConfigError: the folder holds no training.
        """
        if not self._about:
            try:
                found = read_json(self.path / "run.json")
            except ConfigError:
                found = {}
            if "algorithm" not in found or not (self.path / "config.yaml").is_file():
                raise ConfigError(f"{self.path} holds no training to go on with; give the --out of one")
            self._about = found
        return self._about

    def describe(self, **more: Any) -> None:
        """Adds to run.json."""
        self._about = {**self._about, **more}
        replace_file(self.path / "run.json", json_text(self._about))

    def create(self, config: str, **about: Any) -> None:
        """Begins a run folder.

        Raises:
            ConfigError: there is something already.
        """
        check_new(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / "config.yaml", config)
        self.describe(**about)

    def config(self) -> dict[str, Any]:
        """config.yaml.

        Raises:
            ConfigError: the folder holds no training.
        """
        assert self.about  # refuses a folder that holds no training
        return read_yaml(self.path / "config.yaml")

    def commit(self, trainer: Trainer, agent: Agent, progress: Progress, row: Row) -> None:
        """A checkpoint, a row of metrics.csv, and the agents `last` and, if it is, `best`.

        The checkpoint holds all of it, under a name that it gets when everything is on disk; the files beside it are
        written after that, from it, and once more by `restore`.
        """
        home = self.path / "checkpoint"
        part = home / ".part"
        shutil.rmtree(part, ignore_errors=True)
        target = home / f"{progress.step:012}"
        self.rows = [*self.rows, row]
        try:
            (part / "trainer").mkdir(parents=True)
            trainer.save(part / "trainer")
            write_agent(agent, part / "agent")
            replace_file(part / "metrics.csv", table_text(self.rows))
            replace_file(part / "progress.json", progress.model_dump_json(indent=2) + "\n")
            replace_file(part / MANIFEST, json_text(_hashes(part)))
            _to_disk(part)
            shutil.rmtree(target, ignore_errors=True)  # of a training that was taken back to an earlier step
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # nothing half-written is left on a full disk
        _to_disk(home, below=False)
        for older in self._checkpoints()[:-1]:
            shutil.rmtree(older)
        self._publish(target, progress)

    def restore(self, trainer: Trainer) -> Progress | None:
        """Puts a trainer where the checkpoint left it; None where there is none yet.

        Raises:
            ConfigError: the checkpoint was changed after it was written, or is of another configuration.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        newest = checkpoints[-1]
        _check(newest)
        progress = parse(Progress, read_json(newest / "progress.json"), str(newest))
        self.rows = _rows((newest / "metrics.csv").read_text("utf-8"))
        trainer.load(newest / "trainer")
        for older in checkpoints[:-1]:
            shutil.rmtree(older)
        self._publish(newest, progress)
        return progress

    def _checkpoints(self) -> list[Path]:
        """Whole ones, the newest last."""
        home = self.path / "checkpoint"
        return sorted(path for path in home.iterdir() if path.name.isdigit()) if home.is_dir() else []

    def _publish(self, checkpoint: Path, progress: Progress) -> None:
        """What stands beside a checkpoint, from it."""
        replace_file(self.path / "metrics.csv", (checkpoint / "metrics.csv").read_text("utf-8"))
        for name in ("last", "best") if progress.best_step == progress.step else ("last",):
            part, old = self.path / f".{name}.part", self.path / f".{name}.old"
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
            shutil.copytree(checkpoint / "agent", part)
            _to_disk(part)
            if (self.path / name).exists():
                (self.path / name).rename(old)
            part.rename(self.path / name)
            shutil.rmtree(old, ignore_errors=True)


def holds_training(path: Path) -> bool:
    """Whether a folder is that of a training, and not of a comparison."""
    try:
        found = json.loads((path / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "algorithm" in found


def _to_disk(folder: Path, below: bool = True) -> None:
    """Waits until a folder, and all that is below it, would survive a power cut."""
    for path in [*(folder.rglob("*") if below else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _check(checkpoint: Path) -> None:
    """Refuses a checkpoint that is not what was written.

    It finds accidents, and files that were put there later; who can write the manifest can change it, too. Safe is a
    checkpoint because nothing in it is run.
    """
    advice = "train anew with another --out, or restore the folder from a copy"
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except ConfigError as error:
        raise ConfigError(f"{error}; {advice}") from error
    found = _hashes(checkpoint)
    differing = sorted(name for name in {*found, *manifest} if found.get(name) != manifest.get(name))
    if differing:
        raise ConfigError(f"{checkpoint}: {', '.join(differing)} changed after the checkpoint was written; {advice}")
    foreign = [name for name in found if not name.endswith(DATA)]
    if foreign:
        raise ConfigError(f"{checkpoint}: {foreign[0]} is none of {', '.join(DATA)}; {advice}")


def _rows(text: str) -> list[Row]:
    """Rows of a CSV that `_table` wrote."""
    return [
        {name: int(cell) if name in COUNTS else float(cell) for name, cell in row.items() if cell}
        for row in csv.DictReader(io.StringIO(text))
    ]


def read_metrics(folder: Path) -> list[Row]:
    """The rows of metrics.csv in a run folder; none where nothing has been evaluated."""
    with contextlib.suppress(FileNotFoundError):
        return _rows((folder / "metrics.csv").read_text("utf-8"))
    return []
