"""Reading of log files into tables, and checked conversion of their text to numbers.

CSV, JSON lines and Parquet are recognised by content, not by suffix, and the first two may be gzipped. No value is
repaired silently: a value that cannot be used stops the reading with file, row, column and remedy. The value itself is
never shown: it may be a prompt or a key that has slipped into the wrong column.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from cace_env.traces.config import REQUIRED_COLUMNS
from cace_env.traces.gateways.columns import PER_SECOND, Unit
from cace_env.traces.limits import DEFAULT_LIMITS, TraceError, opened, whole_rows

PARQUET_MAGIC: Final = b"PAR1"
MAX_TOKENS: Final = int(np.iinfo(np.int32).max)
EARLIEST: Final = "1700"
LATEST: Final = "2100"  # times have to lie before this year
LATEST_S: Final = 4_102_444_800  # the same in seconds since 1970; as an origin of its own, 130 years
OUTSIDE: Final = "is before 1700 or after 2099; correct or remove the row, or check the unit of the column"
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?)?$")
_ZONE: Final = re.compile(r"([+-]\d\d):?(\d\d)?$")


@dataclass(frozen=True)
class Table:
    """Some columns of a log file with unchanged values (text in CSV, typed values in JSON lines and Parquet)."""

    path: Path
    columns: dict[str, Sequence[Any]]
    rows: int
    first_row: int = 1  # number of the first row read

    def error(self, row: int, column: str, problem: str) -> TraceError:
        """A `TraceError` about the entry at index `row` of what was read; it tells the kind of value, not the value."""
        value = self.columns[column][row]
        value = value.as_py() if hasattr(value, "as_py") else value
        kind = f"text of {len(value)} characters" if isinstance(value, str) else type(value).__name__
        return TraceError(f"{self.path}: row {self.first_row + row}, column {column!r} ({kind}) {problem}")

    def floats(self, column: str, empty: float | None = None) -> npt.NDArray[np.float64]:
        """The column as numbers; `empty` replaces empty fields, which are an error without it.

        Raises:
            TraceError: text, NaN, infinity or an empty field.
        """
        raw = self.columns[column]
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "f":  # of Parquet, where NaN is null
            raw = raw if empty is None else np.where(np.isnan(raw), empty, raw)
        elif empty is not None and not isinstance(raw, np.ndarray):
            raw = [empty if value in ("", None) else value for value in raw]
        try:
            if isinstance(raw, list | tuple) and any(value is None or isinstance(value, bool) for value in raw):
                raise ValueError("not a number")
            numbers = np.asarray(raw, dtype=np.float64)
        except (ValueError, TypeError):
            row = next(i for i, value in enumerate(raw) if not _is_number(value))
            raise self.error(row, column, "is not a number; correct or remove the row") from None
        self._check(column, np.isfinite(numbers), "is not a finite number; correct or remove the row")
        return numbers

    def integers(self, column: str, least: int = 0, empty: int | None = None) -> npt.NDArray[np.int64]:
        """The column as whole numbers of at least `least` that fit 32 bits ("38.0" is whole).

        Raises:
            TraceError: also for fractions and for values out of range.
        """
        numbers = self.floats(column, empty)
        self._check(column, numbers == np.floor(numbers), "is not a whole number; correct or remove the row")
        self._check(column, numbers >= least, f"is below {least}; correct or remove the row")
        self._check(column, numbers <= MAX_TOKENS, f"is above {MAX_TOKENS}; correct or remove the row")
        return numbers.astype(np.int64)

    def texts(self, column: str) -> list[str]:
        """The column as text without surrounding blanks; null becomes ""."""
        codes, names = self.coded(column)
        return [names[code] for code in codes.tolist()]

    def coded(self, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
        """`texts` as indices into the different ones of them, in order of first appearance."""
        values: Any = self.columns[column]
        codes = None
        if hasattr(values, "dictionary"):  # of Parquet: equal texts have been found already
            codes, values = values.indices.to_numpy(zero_copy_only=False), values.dictionary.to_pylist()
        elif isinstance(values, np.ndarray) and values.dtype.kind == "f":  # with nulls
            values = [None if np.isnan(value) else f"{value:.15g}" for value in values]
        if isinstance(values, list) and (
            nested := [i for i, value in enumerate(values) if isinstance(value, list | dict)]
        ):
            raise self.error(nested[0], column, "is a list or an object; correct or remove the row")
        index: dict[str, int] = {}
        texts = ("" if value is None else str(value).strip() for value in values)
        column_codes = np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(values))
        return (column_codes if codes is None else column_codes[codes]), list(index)

    def seconds(self, column: str, least: float = 0.0) -> npt.NDArray[np.float64]:
        """The column as seconds of at least `least`."""
        numbers = self.floats(column)
        self._check(column, numbers >= least, f"is below {least:g} s; correct or remove the row")
        return numbers

    def times_us(self, column: str, unit: Unit = "s") -> npt.NDArray[np.int64]:
        """Time stamps in microseconds, from any origin: numbers in `unit`, or ISO 8601 with or without a zone.

        Raises:
            TraceError: an unreadable time, one after 2099, or stamps of different zones in one file.
        """
        raw = self.columns[column]
        if len(raw) == 0:
            return np.zeros(0, np.int64)
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            return self._from_datetimes(column, raw)
        if _is_number(raw[0]):
            numbers = self.floats(column)
            far = np.abs(numbers) >= LATEST_S * PER_SECOND[unit]
            if far.any():
                row = int(np.argmax(far))
                raise self.error(row, column, _too_far(float(abs(numbers[row])), unit))
            return np.rint(numbers * (1e6 / PER_SECOND[unit])).astype(np.int64)
        texts = self.texts(column)
        stamps, zones = zip(*map(_split_zone, texts), strict=True)
        if len(set(zones)) > 1:
            row = next(i for i, zone in enumerate(zones) if zone != zones[0])
            raise self.error(row, column, "has another zone than the rows before it; convert all times to UTC")
        try:
            if not all(map(_STAMP.match, stamps)):  # NumPy also takes "now" and "today"
                raise ValueError("not a time")
            times = np.array(stamps, dtype="datetime64[ns]") - _offset(zones[0])
        except ValueError:
            row = next(i for i, stamp in enumerate(stamps) if not (_STAMP.match(stamp) and _is_time(stamp)))
            raise self.error(row, column, "is not a time; use seconds or ISO 8601 (2023-11-16 18:17:03.98)") from None
        self._check(column, np.array([EARLIEST <= stamp < LATEST for stamp in stamps]), OUTSIDE)  # ns would wrap around
        return self._from_datetimes(column, times)

    def _from_datetimes(self, column: str, times: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        self._check(column, ~np.isnat(times), "is not a time; correct or remove the row")
        self._check(column, (times >= np.datetime64(EARLIEST)) & (times < np.datetime64(LATEST)), OUTSIDE)
        return times.astype("datetime64[us]").astype(np.int64)

    def _check(self, column: str, holds: npt.NDArray[np.bool_], problem: str) -> None:
        if not holds.all():
            raise self.error(int(np.flatnonzero(~holds)[0]), column, problem)


def read_table(
    path: str | Path, required: Sequence[str], optional: Sequence[str] = (), skip: int = 0, limit: int | None = None
) -> Table:
    """Read the named columns of a log file (CSV, JSON lines or Parquet; gzipped or not).

    Args:
        path: the file; its format is recognised by content.
        required: required columns.
        optional: columns that are read if they exist.
        skip: rows skipped at the start.
        limit: at most this many rows are read after them; the rest of the file is not touched.

    Raises:
        TraceError: no such file, a directory, empty, truncated, not UTF-8, not the format, or a column is missing.
    """
    path = Path(path)
    with opened(path) as file:
        if file.peek(4)[:4] == PARQUET_MAGIC:
            table = _read_parquet(path, required, optional, skip, limit)
        else:
            table = _read_text(path, file, required, optional, skip, limit)
    if table.rows == 0:
        beyond = f" after the first {skip}" if skip else ""
        raise TraceError(f"{path}: has no rows{beyond}; was the export empty, or skip too large?")
    return table


def _read_text(
    path: Path, file: BinaryIO, required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    """CSV or JSON lines: a file whose first character opens an object is JSON."""
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = whole_rows(text, path, DEFAULT_LIMITS)
        first = next(rows, "")
        lines = itertools.chain([first], rows)
        reader = _read_json_lines if first.lstrip().startswith("{") else _read_csv
        return reader(path, lines, required, optional, skip, limit)


def _read_csv(
    path: Path, lines: Iterator[str], required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    reader = csv.reader(lines, strict=True)
    try:
        header = checked_header(path, next(reader, []))
        names = _present(path, header, required, optional)
        body = (row for row in reader if row)
        rows = list(itertools.islice(body, skip, None if limit is None else skip + limit))
    except csv.Error as error:
        raise TraceError(f"{path}: line {reader.line_num} is not CSV ({error}); correct or remove it") from None
    width = len(header)
    for index, row in enumerate(rows):
        if len(row) != width:
            problem = f"has {len(row)} fields, the header has {width}; correct or remove it (a cut download ends so)"
            raise TraceError(f"{path}: row {skip + index + 1} {problem}")
    by_column = list(zip(*rows, strict=True)) if rows else [()] * width
    return Table(path, {name: by_column[header.index(name)] for name in names}, len(rows), skip + 1)


def checked_header(path: Path, header: Sequence[str]) -> list[str]:
    """The names of a CSV file without blanks around them.

    Raises:
        TraceError: it is separated by something else than commas, or has a name twice.
    """
    names = [name.strip() for name in header]
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), None)):
        raise TraceError(f"{path}: its fields are separated by {mark!r}, not by commas; export it with commas")
    if len(set(names)) < len(names):
        twice = next(place for place, name in enumerate(names) if name in names[:place])
        first = names.index(names[twice])
        raise TraceError(f"{path}: columns {first + 1} and {twice + 1} have the same name in the header; rename one")
    return names


def _read_json_lines(
    path: Path, lines: Iterator[str], required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    records: list[dict[str, Any]] = []
    body = (line for line in lines if not line.isspace())
    for index, line in enumerate(itertools.islice(body, skip, None if limit is None else skip + limit)):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"is not JSON ({error.msg} at character {error.pos})"
            raise TraceError(f"{path}: row {skip + index + 1} {problem}; correct or remove it") from None
        except (ValueError, RecursionError):  # a number of 5,000 digits, or objects in objects in objects ...
            problem = "has a number too long or is nested too deep"
            raise TraceError(f"{path}: row {skip + index + 1} {problem}; correct or remove it") from None
        if not isinstance(record, dict):
            raise TraceError(f"{path}: row {skip + index + 1} is not an object; every line needs {{...}}")
        if index == 0:
            names = _present(path, list(record), required, optional)
        for name in required:
            if name not in record:
                raise TraceError(f"{path}: row {skip + index + 1} has no {name!r}; correct or remove it")
        records.append(record)
    if not records:
        return Table(path, {}, 0)
    names += [name for name in optional if name not in names and any(name in record for record in records)]
    return Table(path, {name: [record.get(name) for record in records] for name in names}, len(records), skip + 1)


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None) -> Table:
    pyarrow, parquet = import_parquet(path)
    try:
        file = parquet.ParquetFile(path)
        names = _present(path, file.schema_arrow.names, required, optional)
        content = file.read(columns=names)
    except (pyarrow.ArrowException, OSError):
        raise TraceError(f"{path}: not a whole Parquet file; write or download it again") from None
    content = content.slice(skip, limit)
    return Table(path, {name: _values(content.column(name)) for name in names}, content.num_rows, skip + 1)


def _values(column: Any) -> Any:
    """A column of Parquet in the fastest form that `Table` knows; null becomes NaN in numbers, None elsewhere."""
    from pyarrow import types

    kind = column.type
    if types.is_timestamp(kind) and column.null_count == 0:
        return column.to_numpy()
    if types.is_floating(kind) or types.is_integer(kind):
        return column.to_numpy()
    if types.is_string(kind) or types.is_large_string(kind):
        coded = column.dictionary_encode(null_encoding="encode").combine_chunks()
        return coded.chunk(0) if hasattr(coded, "chunks") else coded
    return column.to_pylist()


def import_parquet(path: Path) -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        TraceError: pyarrow is missing; the message names the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise TraceError(f"{path}: Parquet needs pyarrow; run: pip install 'cace-env[traces]', or use CSV") from None
    return pyarrow, parquet


def _present(path: Path, there: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The wanted columns that exist."""
    for name in required:
        if name not in there:
            raise missing_column(path, name, there)
    return [*required, *(name for name in optional if name in there)]


def missing_column(path: Path, name: str, there: Collection[str]) -> TraceError:
    """The error for a column that is not there. A header may hold anything, so no name of the file is shown."""
    others = [known for known, columns in REQUIRED_COLUMNS.items() if set(columns) <= set(there)]
    nearly = [place for place, other in enumerate(there, 1) if _plain_name(other) == _plain_name(name)]
    guess = "; is it another format?"
    if others:  # if two formats match, one has all columns of the other and more
        known = max(others, key=lambda known: len(REQUIRED_COLUMNS[known]))
        guess = f"; it looks like format {known} (--format {known})."
    elif nearly and not isinstance(there, frozenset):
        guess = f"; column {nearly[0]} is called nearly so: rename it to {name!r}."
    return TraceError(f"{path}: column {name!r} is missing{guess} It has {len(there)} columns")


def _plain_name(name: str) -> str:
    """A name without case, separators and plural."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s").replace("tokens", "token")


def _too_far(number: float, unit: Unit) -> str:
    """What is wrong with a time after 2099, and which unit it may have instead."""
    limit = LATEST_S * PER_SECOND[unit]
    times = {finer: per // PER_SECOND[unit] for finer, per in PER_SECOND.items() if per > PER_SECOND[unit]}
    finer = next((finer for finer, factor in times.items() if number < limit * factor), None)
    remedy = f"is it in {finer}? Divide the column by {times[finer]:,}" if finer else "correct or remove the row"
    return f"is after 2099 as {unit} (below {limit:,} are allowed); {remedy}"


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    try:
        float(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_time(stamp: str) -> bool:
    try:
        np.datetime64(stamp, "ns")
    except ValueError:
        return False
    return True


def _split_zone(text: str) -> tuple[str, str]:
    """An ISO stamp as (stamp without zone, zone as in "+02:00"); "Z" is +00:00, no zone is ""."""
    if text[-1:] in ("Z", "z"):
        return text[:-1].rstrip(), "+00:00"
    if len(text) > 16 and (found := _ZONE.search(text, 16)):
        return text[: found.start()].rstrip(), f"{found[1]}:{found[2] or '00'}"
    return text, ""


def _offset(zone: str) -> np.timedelta64:
    """How far a zone is ahead of UTC."""
    if not zone:
        return np.timedelta64(0, "m")
    return np.timedelta64((int(zone[1:3]) * 60 + int(zone[4:6])) * (-1 if zone[0] == "-" else 1), "m")
