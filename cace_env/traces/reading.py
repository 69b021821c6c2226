"""Reading of log files into tables, and checked conversion of their text to numbers.

CSV, JSON lines and Parquet are recognised by content, not by suffix, and each may be gzipped. No value is repaired
silently: a value that cannot be used stops the reading with file, row, column and remedy.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cace_env.traces.config import REQUIRED_COLUMNS

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
MAX_TOKENS = int(np.iinfo(np.int32).max)


class TraceError(ValueError):
    """A trace cannot be used; the message names file, row, column, value and remedy.

    Rows are counted from 1, without the header of a CSV file.
    """


@dataclass(frozen=True)
class Table:
    """Some columns of a log file with unchanged values (text in CSV, typed values in JSON lines and Parquet)."""

    path: Path
    columns: dict[str, Sequence[Any]]
    rows: int
    first_row: int = 1  # number of the first row read

    def error(self, row: int, column: str, problem: str) -> TraceError:
        """A `TraceError` about the entry at index `row` of what was read."""
        value = self.columns[column][row]
        return TraceError(f"{self.path}: row {self.first_row + row}, column {column!r}: {value!r} {problem}")

    def floats(self, column: str, empty: float | None = None) -> npt.NDArray[np.float64]:
        """The column as numbers; `empty` replaces empty fields, which are an error without it.

        Raises:
            TraceError: text, NaN, infinity or an empty field.
        """
        raw = self.columns[column]
        if empty is not None:
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
        return ["" if value is None else str(value).strip() for value in self.columns[column]]

    def seconds(self, column: str, least: float = 0.0) -> npt.NDArray[np.float64]:
        """The column as seconds of at least `least`."""
        numbers = self.floats(column)
        self._check(column, numbers >= least, f"is below {least:g} s; correct or remove the row")
        return numbers

    def times_us(self, column: str) -> npt.NDArray[np.int64]:
        """Time stamps in microseconds, from any origin: seconds as numbers, or ISO 8601 with or without a zone.

        Raises:
            TraceError: an unreadable time, or stamps of different zones in one file.
        """
        raw = self.columns[column]
        if len(raw) == 0:
            return np.zeros(0, np.int64)
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            return self._from_datetimes(column, raw)
        if _is_number(raw[0]):
            numbers = self.floats(column)
            self._check(column, np.abs(numbers) < 9e12, "is too large for seconds; is the column in ms or us?")
            return np.rint(numbers * 1e6).astype(np.int64)
        texts = self.texts(column)
        stamps, zones = zip(*map(_split_zone, texts), strict=True)
        if len(set(zones)) > 1:
            row = next(i for i, zone in enumerate(zones) if zone != zones[0])
            known = [repr(zone) if zone else "no zone" for zone in (zones[0], zones[row])]
            raise self.error(row, column, f"has {known[1]}, the rows before have {known[0]}; convert all times to UTC")
        try:
            times = np.array(stamps, dtype="datetime64[ns]")
        except ValueError:
            row = next(i for i, stamp in enumerate(stamps) if not _is_time(stamp))
            raise self.error(row, column, "is not a time; use seconds or ISO 8601 (2023-11-16 18:17:03.98)") from None
        return self._from_datetimes(column, times)

    def _from_datetimes(self, column: str, times: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        self._check(column, ~np.isnat(times), "is not a time; correct or remove the row")
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
    if path.is_dir():
        raise TraceError(f"{path}: is a directory; name one log file in it")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if not magic:
                raise TraceError(f"{path}: is empty; was the download or export cut short?")
            file.seek(0)
            if magic == PARQUET_MAGIC:
                table = _read_parquet(path, required, optional, skip, limit)
            elif magic[:2] == GZIP_MAGIC:
                with gzip.open(file) as unzipped:
                    table = _read_text(path, unzipped, required, optional, skip, limit)  # type: ignore[arg-type]
            else:
                table = _read_text(path, file, required, optional, skip, limit)
    except FileNotFoundError:
        raise TraceError(
            f"{path}: no such file; check the path, or see `python -m cace_env.traces.fetch --list`"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(
            f"{path}: the gzip stream is cut short or damaged ({error}); download the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: is not UTF-8 text ({error}); convert it, for example with iconv -t utf-8") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error})") from error
    if table.rows == 0:
        beyond = f" after the first {skip}" if skip else ""
        raise TraceError(f"{path}: has no rows{beyond}; was the export empty, or skip too large?")
    return table


def _read_text(
    path: Path, file: BinaryIO, required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    """CSV or JSON lines: a file whose first character opens an object is JSON."""
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        first = text.readline()
        lines = itertools.chain([first], text)
        reader = _read_json_lines if first.lstrip().startswith("{") else _read_csv
        return reader(path, lines, required, optional, skip, limit)


def _read_csv(
    path: Path, lines: Iterator[str], required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), None)):
            raise TraceError(f"{path}: its fields are separated by {mark!r}, not by commas; export it with commas")
        names = _present(path, header, required, optional)
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise TraceError(f"{path}: column {twice!r} appears twice in the header; rename one")
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


def _read_json_lines(
    path: Path, lines: Iterator[str], required: Sequence[str], optional: Sequence[str], skip: int, limit: int | None
) -> Table:
    records: list[dict[str, Any]] = []
    body = (line for line in lines if not line.isspace())
    for index, line in enumerate(itertools.islice(body, skip, None if limit is None else skip + limit)):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(f"{path}: row {skip + index + 1} is not JSON ({error}); correct or remove it") from None
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
    except (pyarrow.ArrowException, OSError) as error:
        raise TraceError(f"{path}: not a whole Parquet file ({error}); write or download it again") from None
    content = content.slice(skip, limit)
    columns: dict[str, Sequence[Any]] = {}
    for name in names:
        kind = str(content.schema.field(name).type)
        column = content.column(name)
        plain = kind.startswith("timestamp") and column.null_count == 0
        columns[name] = column.to_numpy().astype("datetime64[ns]") if plain else column.to_pylist()
    return Table(path, columns, content.num_rows, skip + 1)


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
    """The wanted columns that exist; for a missing one, the error guesses its name."""
    for name in required:
        if name not in there:
            close = difflib.get_close_matches(name.lower(), [other.lower() for other in there], n=1, cutoff=0.6)
            meant = next((other for other in there if close and other.lower() == close[0]), None)
            guess = f"; did you mean {meant!r}? Rename it." if meant else "; is it another format?"
            others = [known for known, columns in REQUIRED_COLUMNS.items() if set(columns) <= set(there)]
            if others:  # if two formats match, one has all columns of the other and more
                known = max(others, key=lambda known: len(REQUIRED_COLUMNS[known]))
                guess = f"; it looks like format {known} (--format {known})."
            raise TraceError(f"{path}: column {name!r} is missing{guess} It has: {', '.join(map(repr, there))}")
    return [*required, *(name for name in optional if name in there)]


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
    """An ISO stamp as (stamp without zone, zone); "Z" is +00:00, no zone is ""."""
    if text[-1:] in ("Z", "z"):
        return text[:-1].rstrip(), "+00:00"
    if len(text) > 16 and text[-6] in "+-" and text[-3] == ":":
        return text[:-6].rstrip(), text[-6:]
    return text, ""
