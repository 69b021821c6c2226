"""What kind of file a log is, and whose: told apart by its first bytes and the names of its columns."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from cace_env.traces.config import REQUIRED_COLUMNS
from cace_env.traces.gateways.known import GATEWAYS
from cace_env.traces.limits import DEFAULT_LIMITS, Limits, TraceError, opened, said
from cace_env.traces.reading import import_parquet

IMPORTED: Final = "requests.parquet"  # in a folder that experiments.import_logs wrote
PARQUET_MAGIC: Final = b"PAR1"
SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_WRAPPED: Final = re.compile(r'\s*\{\s*"(\w+)"\s*:\s*\[\s*(?=\{)')
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
MAPPED: Final = (
    "Of any other log say where its columns stand: python -m experiments.import_logs FILE --columns MAP.yaml (see "
    "docs/traces.md)"
)
_KEY: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')

Kind = Literal["csv", "json lines", "json list", "parquet", "sqlite"]


class Look(NamedTuple):
    """What the beginning of a log shows."""

    kind: Kind
    names: frozenset[str]  # columns, keys of the first object, or tables


def log_file(path: str | Path) -> Path:
    """The file of a log: itself, or the one in a folder that was imported."""
    path = Path(path)
    with said(path):
        return path / IMPORTED if (path / IMPORTED).is_file() else path


def look(path: Path, limits: Limits = DEFAULT_LIMITS) -> Look:
    """The kind of a file, and the names at its top.

    Raises:
        TraceError: it cannot be read, or names cannot be found.
    """
    with opened(path, limits) as file:
        head = file.read(limits.row_bytes if limits.row_bytes < 1 << 20 else 1 << 20)
    if head.startswith(PARQUET_MAGIC):
        pyarrow, parquet = import_parquet(path)
        try:
            return Look("parquet", frozenset(parquet.read_schema(path).names))
        except (pyarrow.ArrowException, OSError):
            raise TraceError(f"{path}: not a whole Parquet file; write or download it again") from None
    if head.startswith(SQLITE_MAGIC):
        return Look("sqlite", frozenset(_tables(path)))
    if head.startswith(_UTF_16) or b"\x00" in head[:4]:
        raise TraceError(f"{path}: is UTF-16 text; convert it first: iconv -f utf-16 -t utf-8 FILE > NEW")
    text = head.decode("utf-8-sig", "replace")
    if text.lstrip().startswith("["):
        return Look("json list", _keys(text.lstrip()[1:]))
    if text.lstrip().startswith("{"):
        wrapped = _WRAPPED.match(text)
        if wrapped is None:
            return Look("json lines", _keys(text))
        inside = frozenset({"resourceSpans"}) if wrapped[1] == "resourceSpans" else _keys(text[wrapped.end() :])
        return Look("json list", inside)
    try:
        header = next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error:
        header = []
    return Look("csv", frozenset(name.strip() for name in header))


def guess_format(path: str | Path) -> str:
    """The format of a log, a key of `FORMATS`.

    Raises:
        TraceError: it cannot be read, or is that of no format, or of several.
    """
    path = log_file(path)
    names = look(path).names
    fits: dict[str, int] = {
        name: max((len(marks) for marks in gateway.marks if names >= set(marks)), default=0)
        for name, gateway in GATEWAYS.items()
    }
    fits |= {name: 1 for name, gateway in GATEWAYS.items() if gateway.table and gateway.table in names}
    fits |= {name: len(marks) for name, marks in REQUIRED_COLUMNS.items() if marks and names >= set(marks)}
    best = [name for name, marks in fits.items() if marks and marks == max(fits.values())]
    if len(best) == 1:
        return best[0]
    if best:
        raise TraceError(f"{path}: its columns fit {' and '.join(best)}; say which with --format")
    raise TraceError(f"{path}: its columns are those of no format known here; name one with --format. {MAPPED}")


def open_sqlite(path: Path) -> sqlite3.Connection:
    """A database, which is only read and whose own code is not trusted; nothing is left beside it."""
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro{alone}", uri=True)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _tables(path: Path) -> list[str]:
    try:
        with closing(open_sqlite(path)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.Error:
        raise TraceError(f"{path}: is no SQLite database that can be read; copy it with its -wal file") from None


def _keys(text: str) -> frozenset[str]:
    """The keys of the object that `text` opens, as far as it goes; values are passed over."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
    at = text.find("{") + 1
    keys: set[str] = set()
    while found := _KEY.match(text, _blanks(text, at)):
        keys.add(found[1])
        try:
            _, at = decoder.raw_decode(text, _blanks(text, found.end()))
        except (ValueError, RecursionError):
            break  # cut, or broken: what is known does
        at = _blanks(text, at)
        if text[at : at + 1] != ",":
            break
        at += 1
    return frozenset(keys)


def _blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n") and at < len(text):
        at += 1
    return at
