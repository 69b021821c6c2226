"""Reading of a run's files so that reports can rely on them: what was cut short or changed is refused by its place."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt
import pydantic

from cace_env.config import ConfigError, Name, one_line, read_json, shown
from cace_env.tables import TASKS, Protocol

Row = TypeVar("Row")
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class _Open(pydantic.BaseModel):
    """A part of it; what else stands there is for those who read it."""

    model_config = pydantic.ConfigDict(extra="allow", strict=False)


class _Policy(_Open):
    group: str
    description: str


class _Weights(_Open):
    w_ttft: Finite
    w_e2e: Finite
    slo_s: Finite | None
    slo_on: str


class _Scenario(_Open):
    question: str
    description: str
    label: str
    engine: str
    env: Protocol
    requests: int
    accelerators: dict[str, Finite] = pydantic.Field(min_length=1)
    models: dict[str, Finite] = pydantic.Field(min_length=1)
    weights: dict[str, _Weights]
    extra_weights: dict[str, Finite]
    tasks: dict[str, int]
    notes: list[str]
    log: dict[str, Any]

    @pydantic.model_validator(mode="after")
    def _has_every_task(self) -> _Scenario:
        if set(TASKS) - set(self.weights) or set(TASKS) - set(self.tasks):
            raise ValueError(f"weights and tasks have to name {', '.join(TASKS)}")
        windows = self.log.get("windows")
        if windows is not None and not (isinstance(windows, int) and 1 <= windows <= 1_000_000):
            raise ValueError("log.windows has to be a whole number of at least 1")
        return self


class _Agent(_Open):
    card: dict[str, Any]
    problems: list[str]


class _Git(_Open):
    commit: str
    changed_files: int


class _About(_Open):
    command: str
    started: str
    versions: dict[str, str]
    platform: str
    git: _Git | None
    status: str
    split: str
    policies: dict[str, _Policy]
    scenarios: dict[Name, _Scenario]  # files are called by them
    agents: dict[str, _Agent] = {}
    wall_s: Finite = 0.0  # with the next two, only said at its end
    finished: int = 0
    asked_for: int = 0

    @pydantic.model_validator(mode="after")
    def _knows_its_own_version(self) -> _About:
        if "cace-env" not in self.versions:
            raise ValueError("versions has to name cace-env")
        return self


def read_about(path: Path) -> dict[str, Any]:
    """run.json of a comparison; one that was killed did not come to say all of it.

    Raises:
        ConfigError: it cannot be read, or a key is missing or of another kind.
    """
    about = read_json(path)
    try:
        _About.model_validate(about)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = one_line(".".join(str(part) for part in first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}; this is not what a comparison has "
            "written, or it was changed: run it again"
        ) from error
    return about


Rows = dict[tuple[str, str], list[npt.NDArray[np.float64]]]


def read_rows(path: Path, wanted: Sequence[str], needed: Set[str]) -> tuple[list[str], Rows]:
    """rows.csv: the wanted columns that are there, and by (scenario, policy) a row of their numbers for each episode.

    Raises:
        ConfigError: a needed column is missing, or a row is damaged, or there is none.
    """
    rows = csv.reader(whole_lines(path))
    gathered: Rows = {}
    with damaged(path):
        header = next(rows, [])
        lacking = sorted(needed - set(header))
        if lacking:
            raise ConfigError(f"{path} has no column {lacking[0]!r}: nothing finished there; run it again")
        scenario, policy = header.index("scenario"), header.index("policy")
        names = [name for name in wanted if name in header]
        places = [header.index(name) for name in names]
        for cells in rows:
            if len(cells) != len(header):
                raise ValueError(f"line {rows.line_num} has {len(cells)} cells, not {len(header)}")
            numbers = np.array([cells[place] for place in places], dtype=np.float64)
            seed = float(cells[header.index("seed")])
            if not (0 <= seed < 2**63 and seed == int(seed)):
                raise ValueError(f"line {rows.line_num}: seed {seed}")
            gathered.setdefault((cells[scenario], cells[policy]), []).append(numbers)
    if not gathered:
        raise ConfigError(f"{path} has no whole row: nothing finished there; run it again")
    return names, gathered


def rows_of(path: Path, kind: type[Row]) -> list[Row]:
    """Whole rows of a file that `csv_text` made of named tuples of texts and numbers; none where there is no file.

    Raises:
        ConfigError: a row is damaged.
    """
    rows, casts = csv.reader(whole_lines(path)), get_type_hints(kind)
    with damaged(path):
        header = next(rows, [])
        return [kind(**{name: casts[name](cell) for name, cell in zip(header, row, strict=True)}) for row in rows]


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Rows of a file are read; one that is none stops it.

    Raises:
        ConfigError: a row was cut short, or changed by hand.
    """
    try:
        yield
    except ConfigError:
        raise
    except (csv.Error, AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: a row is none of a run ({shown(error)}), so the file was damaged or changed by hand; delete the "
            "row and give the command of run.json again with --out, which plays what is missing"
        ) from error


def whole_lines(path: Path) -> Iterable[str]:
    """The lines of a file without one that was being written when its writer was killed; none where there is no file.

    Raises:
        ConfigError: it is no text in UTF-8.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    try:
        return io.StringIO(content[: content.rfind(b"\n") + 1].decode(), newline="")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 (byte {error.start}): it was damaged; run it again") from error
