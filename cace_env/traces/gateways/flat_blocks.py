"""Flat files in blocks of rows, only the wanted columns of them: CSV and Parquet.

A block of CSV is read at once by pyarrow. Where that fails, its rows are read one by one, so that only bad ones are
lost.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as parquet

from cace_env.traces.gateways.cutting import cut
from cace_env.traces.gateways.records import NoCellError, Wanted, block_of, cell_of, found_in, is_unicode, lost
from cace_env.traces.gateways.rows import Block, Problem
from cace_env.traces.limits import Deadline, Limits, TraceError
from cace_env.traces.reading import checked_header


def csv_blocks(file: BinaryIO, path: Path, wanted: Wanted, limits: Limits) -> Iterator[Block]:
    """A CSV file; only its wanted columns leave the parser.

    Raises:
        TraceError: the header cannot be used.
    """
    header: list[str] = []
    base = 1
    for body in cut(file, limits, quoted=True):
        if body is None:
            if not header:
                raise TraceError(f"{path}: its header never ends; is a quote too many in it?")
            yield lost(base, f"is longer than {limits.row_mb:g} MB, or has a quote that is never closed")
            base += 1
            continue
        if not header:
            first, body = _first_row(body.removeprefix(codecs.BOM_UTF8))
            header = _header(path, first)
        block = _csv_block(body, header, [name for name in _tops(wanted) if name in header], base)
        base += len(block.rows) + len(block.broken)
        yield _into_json(block, wanted)


def _header(path: Path, first: bytes) -> list[str]:
    try:
        return checked_header(path, next(csv.reader(io.StringIO(first.decode(), newline="")), []))
    except (csv.Error, UnicodeDecodeError):
        raise TraceError(f"{path}: its header is no CSV in UTF-8; convert it, for example with iconv") from None


def _first_row(body: bytes) -> tuple[bytes, bytes]:
    """The header and the rest: up to the first line end outside quotes."""
    at = -1
    while (at := body.find(b"\n", at + 1)) >= 0:
        if body.count(b'"', 0, at) % 2 == 0:
            return body[:at], body[at + 1 :]
    return body, b""


def _csv_block(body: bytes, header: list[str], include: list[str], base: int) -> Block:
    try:
        body.decode()
    except UnicodeDecodeError:  # pyarrow would tell about such rows on the terminal
        return _csv_rows(body, header, include, base)
    bad: list[tuple[int, int]] = []

    def skip(row: Any) -> str:
        bad.append((row.number, row.actual_columns))
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(body),
            pa_csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=header),
            pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            pa_csv.ConvertOptions(
                check_utf8=False, column_types=dict.fromkeys(include, pa.binary()), include_columns=include
            ),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return _csv_rows(body, header, include, base)
    places = np.arange(table.num_rows + len(bad), dtype=np.int64)
    kept = np.delete(places, [number - 1 for number, _ in bad])
    broken = [
        Problem(base + number - 1, "", f"has {_amount(fields, header)} fields than the header")
        for number, fields in bad
    ]
    columns = {name: _first_chunk(table[name]) for name in include}
    return _decoded(Block(columns, kept + base, broken))


def _csv_rows(body: bytes, header: list[str], include: list[str], base: int) -> Block:
    """The rows of a block that pyarrow cannot read, one by one."""
    places = {name: header.index(name) for name in include}
    reader = csv.reader(io.StringIO(body.decode("utf-8", "surrogateescape"), newline=""))
    records: list[tuple[int, dict[str, Any]]] = []
    broken: list[Problem] = []
    number = base
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            broken.append(Problem(number, "", "is not CSV"))
            number += 1
            continue
        if row is None:
            break
        if row:
            if len(row) == len(header):
                records.append((number, {name: row[place] for name, place in places.items()}))
            else:
                broken.append(Problem(number, "", f"has {_amount(len(row), header)} fields than the header"))
            number += 1
    return block_of(records, dict.fromkeys(include, False), broken)


def _amount(fields: int, header: list[str]) -> str:
    return "fewer" if fields < len(header) else "more"


def _first_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column of one block as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _decoded(block: Block) -> Block:
    """Bytes as text; rows with other bytes in a wanted column are broken."""
    for name, column in block.columns.items():
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            try:
                block.columns[name] = pc.cast(column, pa.string())
            except pa.ArrowInvalid:
                texts = [
                    None if value is None else value.decode("utf-8", "surrogateescape") for value in column.to_pylist()
                ]
                return _without_bad_text(block, name, texts)
    return block


def _without_bad_text(block: Block, name: str, texts: Sequence[str | None]) -> Block:
    """The block without the rows whose text in a column is not Unicode."""
    good = np.array([text is None or is_unicode(text) for text in texts], bool)
    for row in block.rows[~good].tolist():
        block.broken.append(Problem(int(row), name, "is not UTF-8 text", "text"))
    columns = {other: column.filter(pa.array(good)) for other, column in block.columns.items()}
    columns[name] = pa.array([text for text, fine in zip(texts, good, strict=True) if fine], pa.string())
    return _decoded(Block(columns, block.rows[good], block.broken))


def _tops(wanted: Wanted) -> list[str]:
    """The columns of a flat file that hold what is wanted."""
    return list(dict.fromkeys([*wanted, *(path.partition(".")[0] for path in wanted if "." in path)]))


def _into_json(block: Block, wanted: Wanted) -> Block:
    """A block of a flat file with the paths into its texts of JSON as columns of their own."""
    columns = {name: column for name, column in block.columns.items() if name in wanted}
    for path in wanted:
        name, _, inner = path.partition(".")
        if path not in block.columns and inner and name in block.columns:
            column = block.columns[name]
            if pa.types.is_struct(column.type):
                values = _struct_field(column, inner)
            elif pa.types.is_string(column.type) or pa.types.is_map(column.type):
                values = _from_texts(column, inner)
            else:
                continue
            if values is not None and values.null_count < len(values):
                columns[path] = values
    for name, column in columns.items():
        if pa.types.is_nested(column.type):
            raise TraceError(f"column {name!r} holds lists or objects; name what is in them, such as '{name}.tokens'")
    return Block(columns, block.rows, block.broken)


def _struct_field(column: pa.Array, inner: str) -> pa.Array | None:
    for step in inner.split("."):
        if not pa.types.is_struct(column.type) or column.type.get_field_index(step) < 0:
            return None
        column = pc.struct_field(column, [step])
    return _plain(column)


def _from_texts(column: pa.Array, inner: str) -> pa.Array:
    """A path into each text of JSON, or each map; null where it leads nowhere."""
    found = []
    for value in column.to_pylist():
        try:
            found.append(cell_of(found_in({"": dict(value) if isinstance(value, list) else value}, f".{inner}")))
        except (NoCellError, ValueError, TypeError):
            found.append(None)
    return pa.array(found, pa.string())


# --- Parquet


def parquet_blocks(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Block]:
    """A Parquet file; only its wanted columns are read.

    Raises:
        TraceError: it is damaged, or a wanted column has a type that no cell has.
    """
    deadline = Deadline(path, limits.seconds)
    base = 1
    try:
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            there = set(file.schema_arrow.names)
            include = [name for name in _tops(wanted) if name in there]
            for batch in file.iter_batches(batch_size=1 << 16, columns=include):
                deadline.check()
                columns = {name: _plain(batch.column(name)) for name in include}
                rows = np.arange(base, base + batch.num_rows)
                base += batch.num_rows
                yield _into_json(_decoded(Block(columns, rows)), wanted)
    except (pa.ArrowException, OSError):
        raise TraceError(f"{path}: not a whole Parquet file; write or download it again") from None


def _plain(column: pa.Array) -> pa.Array:
    """A column in one of few types: text, bytes, numbers, time stamps, or nested; anything else as text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_date(kind):
        return pc.cast(column, pa.timestamp("us"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column
    if pa.types.is_timestamp(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return column
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # bytes that are no text in a large or a view type
        return pa.array([None if value is None else bytes(value) for value in column.to_pylist()], pa.binary())
