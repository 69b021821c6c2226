"""JSON in blocks of rows: a line each, read at once where all are alike, else one by one; or a list."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from cace_env.traces.gateways.cutting import DECODER, cut, elements
from cace_env.traces.gateways.records import Explode, Wanted, lost, record_blocks
from cace_env.traces.gateways.rows import Block, Problem
from cace_env.traces.limits import Limits

SAMPLE: Final = 200  # rows that say which type a column has


def json_line_blocks(file: BinaryIO, wanted: Wanted, limits: Limits, explode: Explode | None = None) -> Iterator[Block]:
    """JSON lines; where each holds several rows, `explode` makes them."""
    base = 1
    schema: pa.Schema | None = None
    started = False
    for body in cut(file, limits, quoted=False):
        if body is None:
            yield lost(base, f"is longer than {limits.row_mb:g} MB")
            base += 1
            continue
        if not started:
            body = body.removeprefix(codecs.BOM_UTF8)
            schema, started = (None if explode else _schema(body, wanted)), True
        block = _json_block(body, wanted, schema, base) if schema is not None else None
        if block is None:
            for made in _json_rows(body, wanted, base, explode):
                base += len(made.rows) + len(made.broken)
                yield made
        else:
            base += len(block.rows)
            yield block


def _schema(body: bytes, wanted: Wanted) -> pa.Schema | None:
    """Types of the wanted columns by the first rows; None where they do not agree."""
    records = []
    for line in body[: 1 << 20].split(b"\n")[:SAMPLE]:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # broken, or the last one, cut
    records = [record for record in records if isinstance(record, dict)]
    tree: dict[str, Any] = {}
    for path, is_number in wanted.items():
        steps = (path,) if any(path in record for record in records) else tuple(path.split("."))
        kinds = set()
        for record in records:
            value: Any = record
            for step in steps:
                value = value.get(step) if isinstance(value, dict) else value if isinstance(value, str) else None
            if value is not None:
                kinds.add("text" if isinstance(value, str) else "number" if type(value) in (int, float) else "else")
        if len(kinds) > 1 or "else" in kinds:
            return None
        if kinds == {"text"} and len(steps) > 1 and any(_is_json_text(record, steps) for record in records):
            return None
        leaf = pa.float64() if kinds == {"number"} or (not kinds and is_number) else pa.string()
        branch = tree
        for step in steps[:-1]:
            branch = branch.setdefault(step, {})
            if not isinstance(branch, dict):
                return None
        if isinstance(branch.setdefault(steps[-1], leaf), dict):
            return None
    return pa.schema(_fields(tree))


def _is_json_text(record: dict[str, Any], steps: Sequence[str]) -> bool:
    value: Any = record
    for step in steps[:-1]:
        value = value.get(step) if isinstance(value, dict) else value
    return isinstance(value, str)


def _fields(tree: Mapping[str, Any]) -> list[Any]:
    return [pa.field(name, pa.struct(_fields(kind)) if isinstance(kind, dict) else kind) for name, kind in tree.items()]


def _json_block(body: bytes, wanted: Wanted, schema: pa.Schema, base: int) -> Block | None:
    """A block at once; None where a row of it is not as expected."""
    try:
        table = pa_json.read_json(
            pa.BufferReader(body),
            pa_json.ReadOptions(use_threads=False, block_size=len(body) + 1),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != body.count(b"\n"):
        return None
    columns = {}
    for path in wanted:
        name, *steps = (path,) if path in table.column_names else path.split(".")
        column = table[name].combine_chunks()
        columns[path] = pc.struct_field(column, steps) if steps else column
    present = {name: column for name, column in columns.items() if column.null_count < len(column)}
    return Block(present, np.arange(base, base + table.num_rows))


def _json_rows(body: bytes, wanted: Wanted, base: int, explode: Explode | None) -> Iterator[Block]:
    """The rows of a block one by one."""
    values = (_json_value(line) for line in body.split(b"\n") if line.strip())
    yield from record_blocks(values, wanted, base, explode)


def _json_value(line: bytes) -> Any:
    """A line of JSON, or what is wrong with it."""
    try:
        return DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return Problem(0, "", "is not UTF-8 text")
    except RecursionError:
        return Problem(0, "", "is nested too deep")
    except ValueError:
        return Problem(0, "", "is not JSON")


def json_list_blocks(
    file: BinaryIO, path: Path, wanted: Wanted, limits: Limits, explode: Explode | None = None
) -> Iterator[Block]:
    """A JSON list of objects, or the one in an object.

    Raises:
        TraceError: it is no such list, or damaged.
    """
    yield from record_blocks(elements(file, path, limits), wanted, 1, explode)
