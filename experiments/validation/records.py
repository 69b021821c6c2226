"""What was measured, as it lies in the folder of a validation: one file for each run, written when that is over."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from cace_env.config import ConfigError, read_text
from cace_env.files import csv_text, json_text, replace_file
from cace_env.live.calibration import Sample
from cace_env.workload import COLUMNS, Workload, WorkloadError

PLAN: Final = "plan.json"
RUNS: Final = "runs"
WORDS: Final[dict[type, str]] = {int: "whole number", float: "number"}  # for types of cells


class Asked(NamedTuple):
    """One request of a real run; times in seconds since its beginning.

    Attributes:
        sent: by its client.
        admitted: the server got it.
        first: token, as the client saw it.
        finish: of the answer, as the client saw it.
        cached: tokens of the prompt that the server says it had.
        written: tokens of the answer, as the server counts them.
        tokens: when they came out of the server.
    """

    sent: float
    admitted: float
    first: float
    finish: float
    cached: int
    written: int
    tokens: list[float]


class Move(NamedTuple):
    """A load or unload of a real run."""

    what: str  # "load" or "unload"
    model: int
    begin: float
    end: float


@dataclass(frozen=True)
class Run:
    """One policy over one workload, on the real server."""

    workload: str
    policy: str
    repeat: int
    asked: list[Asked]
    moves: list[Move]

    def ttft_s(self) -> list[float]:
        """Of each request."""
        return [one.first - one.sent for one in self.asked]

    def e2e_s(self) -> list[float]:
        """Of each request."""
        return [one.finish - one.sent for one in self.asked]

    @property
    def end_s(self) -> float:
        """When the last answer was over."""
        return max(one.finish for one in self.asked)

    def count(self, what: str) -> int:
        """Loads, or unloads."""
        return sum(move.what == what for move in self.moves)

    def late_s(self, workload: Workload) -> list[float]:
        """By how much clients asked later than their think time after an answer."""
        return [
            self.asked[r].sent - self.asked[before].finish - think * 1e-6
            for r, (before, think) in enumerate(
                zip(workload.after.tolist(), workload.think_us.tolist(), strict=True)
            )
            if before >= 0
        ]  # fmt: skip


def write_run(run: Run, folder: Path) -> None:
    """One file for each."""
    replace_file(
        folder / RUNS / f"{run.workload}-{run.repeat}-{run.policy.replace('/', '_')}.json", json_text(asdict(run))
    )


def read_runs(folder: Path) -> list[Run]:
    """All that are there, in the order of their workloads and repeats."""
    found = []
    for path in sorted((folder / RUNS).glob("*.json")):
        content = _json(path)
        try:
            asked = [Asked(*row) for row in content.pop("asked")]
            moves = [Move(*row) for row in content.pop("moves")]
            found.append(Run(**content, asked=asked, moves=moves))
        except (AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: no run of a validation of this version") from error
    return found


def write_plan(plan: dict[str, Any], folder: Path) -> None:
    """What is validated, before anything is measured."""
    replace_file(folder / PLAN, json_text(plan))


def read_plan(folder: Path) -> dict[str, Any]:
    """What `write_plan` wrote.

    Raises:
        ConfigError: there is none: the folder is no validation's.
    """
    if not (folder / PLAN).is_file():
        raise ConfigError(f"{folder}: no validation lies here ({PLAN} is missing); name the folder that --out got")
    return _json(folder / PLAN)


def read_samples(path: Path) -> list[Sample]:
    """What `write_samples` of the calibration wrote; empty where there is no such file.

    Raises:
        ConfigError: it is damaged; the message names row and column.
    """
    if not path.exists():
        return []
    columns: dict[str, type] = dict.fromkeys(Sample._fields, int)
    columns |= {"at_s": float, "model": str, "what": str, "seconds": float}
    return [Sample(*row) for row in _rows(path, columns)]


def write_workload(workload: Workload, path: Path) -> None:
    """Its columns."""
    columns = [getattr(workload, name).tolist() for name in COLUMNS]
    replace_file(path, csv_text(tuple(COLUMNS), zip(*columns, strict=True)))


def read_workload(path: Path, label: str) -> Workload:
    """What `write_workload` wrote.

    Raises:
        ConfigError: it is damaged; the message names row and column.
    """
    rows = _rows(path, dict.fromkeys(COLUMNS, int))
    columns: dict[str, Any] = {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)}
    try:
        return Workload.from_columns(label=label, **columns)
    except WorkloadError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows with numbers to the microsecond."""
    shown = ([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    replace_file(path, csv_text(header, shown))


def _rows(path: Path, columns: Mapping[str, type]) -> list[list[Any]]:
    """The rows of a CSV file below its header, each cell of the type of its column."""
    try:
        header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    except csv.Error as error:
        raise ConfigError(f"{path}: no CSV ({error})") from error
    if header != list(columns):
        raise ConfigError(f"{path}: other columns than those of a validation of this version")
    found: list[list[Any]] = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(row)} cells, the header {len(header)}")
        found.append([])
        for (name, kind), cell in zip(columns.items(), row, strict=True):
            try:
                found[-1].append(kind(cell))
            except ValueError as error:
                raise ConfigError(f"{path}: row {number}, column {name!r} is no {WORDS[kind]}") from error
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: no JSON ({error})") from error
