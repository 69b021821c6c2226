"""Blocks made of records one by one: objects of JSON, rows of a database, lines that pyarrow cannot read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cace_env.traces.gateways.cutting import DECODER
from cace_env.traces.gateways.rows import Block, Problem

AT_ONCE: Final = 5_000  # rows of a block

Wanted = Mapping[str, bool]  # column, or path into JSON -> whether it holds numbers where the log does not say
Explode = Callable[[dict[str, Any]], Iterable[Any]]  # the rows that one element of a log holds


def record_blocks(values: Iterable[Any], wanted: Wanted, base: int, explode: Explode | None = None) -> Iterator[Block]:
    """Blocks from values one by one: objects, or the `Problem` that stands in their place."""
    records: list[tuple[int, dict[str, Any]]] = []
    broken: list[Problem] = []
    for value in values:
        for row in explode(value) if explode is not None and isinstance(value, dict) else (value,):
            if isinstance(row, dict):
                records.append((base, row))
            else:
                broken.append(row._replace(row=base) if isinstance(row, Problem) else Problem(base, "", "is no object"))
            base += 1
        if len(records) + len(broken) >= AT_ONCE:
            yield block_of(records, wanted, broken)
            records, broken = [], []
    if records or broken:
        yield block_of(records, wanted, broken)


def block_of(records: Sequence[tuple[int, dict[str, Any]]], wanted: Wanted, broken: list[Problem]) -> Block:
    """A block of text columns from objects; a wanted value that is a list or an object breaks its row."""
    kept: list[tuple[int, list[str | None]]] = []
    for row, record in records:
        try:
            kept.append((row, [cell_of(found_in(record, path)) for path in wanted]))
        except NoCellError as error:
            path = next(path for path in wanted if found_in(record, path) is error.value)
            broken.append(Problem(row, path, error.reason, error.kind))
    rows = np.array([row for row, _ in kept], np.int64)
    by_column = list(zip(*(cells for _, cells in kept), strict=True)) or [()] * len(wanted)
    columns = {
        name: pa.array(cells, pa.string())
        for name, cells in zip(wanted, by_column, strict=True)
        if any(cell is not None for cell in cells)
    }
    return Block(columns, rows, broken)


class NoCellError(ValueError):
    """A value that is none of a cell."""

    def __init__(self, value: Any, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.value, self.reason, self.kind = value, reason, kind


def cell_of(value: Any) -> str | None:
    """A value as text."""
    if value is None:
        return None
    if isinstance(value, str):
        if value.isascii() or is_unicode(value):
            return value
        raise NoCellError(value, "is not UTF-8 text", "text")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise NoCellError(value, "is a list or an object", type(value).__name__)


def found_in(record: Mapping[str, Any], path: str) -> Any:
    """A value by its name, or by the names that lead to it, through texts of JSON too."""
    if path in record:
        return record[path]
    value: Any = record
    for step in path.split("."):
        if isinstance(value, str):
            try:
                value = DECODER.decode(value)
            except (ValueError, RecursionError):
                return None
        value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON knows halves of characters, and bytes that are none come as such."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lost(row: int, reason: str) -> Block:
    """A row of which nothing was read."""
    return Block({}, np.zeros(0, np.int64), [Problem(row, "", reason)])
