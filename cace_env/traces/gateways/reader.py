"""A log, whatever file it is, as blocks of rows, and as a `Trace` in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cace_env.tables import NONE, TASKS
from cace_env.traces.config import TraceConfig, setting
from cace_env.traces.gateways.columns import ColumnMap
from cace_env.traces.gateways.flat_blocks import csv_blocks, parquet_blocks
from cace_env.traces.gateways.json_blocks import json_line_blocks, json_list_blocks
from cace_env.traces.gateways.known import GATEWAYS, PLAIN, Gateway
from cace_env.traces.gateways.records import AT_ONCE, record_blocks
from cace_env.traces.gateways.rows import Block, Tally, requests_of
from cace_env.traces.guess import MAPPED, look, open_sqlite
from cace_env.traces.limits import DEFAULT_LIMITS, Deadline, Limits, TraceError, opened
from cace_env.traces.reading import checked_header, missing_column
from cace_env.traces.trace import Int64Array, Trace

LONGEST_CELL: Final = 1_000_000  # characters of a text in SQLite
PROGRESS_STEPS: Final = 100_000  # of SQLite's machine between two looks at the clock
DAY_US: Final = 86_400_000_000


def blocks_of(path: Path, columns: ColumnMap, gateway: Gateway | None, limits: Limits) -> Iterator[Block]:
    """The wanted columns of a log, a block at a time.

    Raises:
        TraceError: the log cannot be read, or what a map needs is not in it.
    """
    kind, names = look(path, limits)
    wanted = columns.columns()
    explode = gateway.explode if gateway is not None else None
    if kind == "sqlite":
        yield from _sqlite_blocks(path, wanted, gateway, limits)
        return
    if kind in ("csv", "parquet"):  # JSON may name a column later than in its first row
        _check_present(path, columns, gateway, names)
    if kind == "parquet":
        yield from parquet_blocks(path, wanted, limits)
        return
    with opened(path, limits) as file:
        if kind == "csv":
            yield from csv_blocks(file, path, wanted, limits)
        elif kind == "json list":
            yield from json_list_blocks(file, path, wanted, limits, explode)
        else:
            yield from json_line_blocks(file, wanted, limits, explode)


def first_rows(blocks: Iterator[Block], limit: int | None) -> Iterator[Block]:
    """The blocks up to a number of rows."""
    left = limit
    for block in blocks:
        rows = len(block.rows) + len(block.broken)
        if left is not None and rows > left:
            last = np.sort([*block.rows, *(problem.row for problem in block.broken)])[left - 1] if left else -1
            keep = block.rows <= last
            columns = {name: column.filter(pa.array(keep)) for name, column in block.columns.items()}
            yield Block(columns, block.rows[keep], [problem for problem in block.broken if problem.row <= last])
            return
        yield block
        left = None if left is None else left - rows


def _check_present(path: Path, columns: ColumnMap, gateway: Gateway | None, names: frozenset[str]) -> None:
    """Every source that has to be there is, by at least one of its columns.

    Raises:
        TraceError: one is not, or other separators than commas make one column of all.
    """
    if len(names) == 1:
        checked_header(path, list(names))
    needed = ["context_tokens", "output_tokens", *(name for name in ("time", "model") if getattr(columns, name))]
    needed += [] if columns.time is not None else ["end", "e2e"]
    for name in needed:
        source = getattr(columns, name)
        if not any(column in names or column.partition(".")[0] in names for column in source.columns):
            if gateway is None and columns not in PLAIN.values():
                raise TraceError(
                    f"{path}: has no column {' or '.join(map(repr, source.columns))}, which the map of columns names "
                    f"for {name!r}; mend the map. The log has {len(names)} columns"
                )
            raise TraceError(f"{missing_column(path, source.columns[0], names)}. {MAPPED}")


def _sqlite_blocks(path: Path, wanted: dict[str, bool], gateway: Gateway | None, limits: Limits) -> Iterator[Block]:
    """Rows of the gateway's table; made columns are computed by SQLite, so that texts stay in the file."""
    if gateway is None or not gateway.table:
        raise TraceError(
            f"{path}: is SQLite; export the table with the requests to CSV, or name a format that is SQLite"
        )
    deadline = Deadline(path, limits.seconds)
    late: list[TraceError] = []

    def watch() -> int:
        try:
            deadline.check()
        except TraceError as error:
            late.append(error)
        return len(late)

    try:
        with closing(open_sqlite(path)) as connection:
            connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            connection.set_progress_handler(watch, PROGRESS_STEPS)
            there = {row[1] for row in connection.execute(f'PRAGMA table_info("{gateway.table}")')}
            if not there:
                raise TraceError(f"{path}: has no table {gateway.table}")
            select = {
                name: f'CASE WHEN length("{name}") <= {LONGEST_CELL} THEN "{name}" END'
                for name in {path_.partition(".")[0] for path_ in wanted} & there
            }
            select |= {name: sql for name, (sql, needs) in gateway.select.items() if there >= set(needs)}
            cursor = connection.execute(f'SELECT {", ".join(select.values())} FROM "{gateway.table}"')
            base = 1
            while rows := cursor.fetchmany(AT_ONCE):
                records = [dict(zip(select, row, strict=True)) for row in rows]
                yield from record_blocks(records, wanted, base)
                base += len(rows)
    except sqlite3.Error:
        if late:
            raise late[0] from None
        raise TraceError(f"{path}: is no SQLite database that can be read; copy it with its -wal file") from None


def read_gateway(path: Path, config: TraceConfig) -> Trace:
    """A gateway's log in memory, in order of time; rows that cannot be used are left out and counted.

    Raises:
        TraceError: it cannot be read, too many of its rows cannot be used, or it spans too many days.
    """
    assert config.format is not None
    gateway = GATEWAYS[config.format]
    blocks = blocks_of(path, gateway.columns, gateway, DEFAULT_LIMITS)
    table, tally = _read(path, gateway.columns, blocks, config.max_rejects)
    table = table.slice(config.skip, config.limit)
    check_span(path, table["time"][0].as_py(), table["time"][-1].as_py(), config.max_span_days)
    return trace_of(table, tally)


def read_mapped(
    path: Path, columns: ColumnMap, limits: Limits, *, max_rejects: float, max_span_days: float, limit: int | None
) -> tuple[Trace, Tally]:
    """A log in memory by a map of columns, in order of time, and what became of its rows.

    Raises:
        TraceError: as `read_gateway`.
    """
    blocks = first_rows(blocks_of(path, columns, None, limits), limit)
    table, tally = _read(path, columns, blocks, max_rejects)
    check_span(path, table["time"][0].as_py(), table["time"][-1].as_py(), max_span_days)
    return trace_of(table, tally), tally


def _read(path: Path, columns: ColumnMap, blocks: Iterator[Block], max_rejects: float) -> tuple[pa.Table, Tally]:
    """The requests in order of time, and what became of the rows."""
    tally = Tally()
    tables = [requests_of(block, columns, tally) for block in blocks]
    check_rejects(path, tally, max_rejects)
    table = pa.concat_tables(tables, promote_options="default")
    return table.take(pc.sort_indices(table["time"])), tally


def check_rejects(path: Path, tally: Tally, most: float) -> None:
    """Too few good rows are no log.

    Raises:
        TraceError: there are no requests, or the share of bad rows is above `most`.
    """
    if tally.rows_in == 0:
        raise TraceError(f"{path}: has no rows; was the export empty?")
    bad = sum(tally.bad.values())
    if bad > most * tally.rows_in:
        (common, _), *_ = tally.bad.most_common(1)
        first = next((problem for problem in tally.listed if problem.said == common), tally.listed[0])
        where = f"row {first.row}" + (f", column {first.column!r}" if first.column else "")
        what = f" ({first.type}, {first.length} characters)" if first.length is not None else ""
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in tally.bad.most_common(5))
        raise TraceError(
            f"{path}: {bad:,} of {tally.rows_in:,} rows cannot be used, more than {most:.0%}: {reasons}. Such as "
            f"{where}{what}, which {first.reason}. {_unit_hint(tally) or 'Is it another format?'} Else allow more with "
            "max_rejects (--max-rejects)"
        )
    if tally.rows_out == 0:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in (tally.left_out + tally.bad).most_common(5))
        raise TraceError(f"{path}: none of its {tally.rows_in:,} rows is a request: {reasons}")


def _unit_hint(tally: Tally) -> str:
    """Which unit would make dates of numbers that are none in the unit that was given."""
    return " ".join(
        f"As {clock.fits} the times of column {column!r} would fit: say unit: {clock.fits}."
        for column, clock in tally.clocks.items()
        if clock.fits is not None
    )


def check_span(path: Path, first_us: int, last_us: int, most_days: float) -> None:
    """A log of years is mostly one with wrong times.

    Raises:
        TraceError: it spans more than `most_days`.
    """
    days = (last_us - first_us) / DAY_US
    if days > most_days:
        raise TraceError(
            f"{path}: spans {days:,.0f} days, more than {most_days:g}; are some times wrong? If not, allow it with "
            f"{setting('max_span_days', f'{days + 1:.0f}')} (of import_logs: --max-span-days {days + 1:.0f})"
        )


def trace_of(table: pa.Table, tally: Tally) -> Trace:
    """Requests in order of time as a `Trace`."""
    time_us = table["time"].to_numpy()
    relative = any(clock.relative for clock in tally.clocks.values())
    trace = Trace(
        time_us - time_us[0],
        table["context_tokens"].to_numpy(),
        None,
        table["output_tokens"].to_numpy(),
        began_us=None if relative else int(time_us[0]),
        rows_read=tally.rows_in,
        dropped=dict(tally.left_out + tally.bad),
    )
    if "new_tokens" in table.column_names and table["new_tokens"].null_count < len(table):
        trace.new_tokens = pc.coalesce(table["new_tokens"], table["context_tokens"]).to_numpy()
    if "model" in table.column_names:
        trace.model, names = _coded(table["model"])
        trace.model_ids = tuple(names)
    for name in ("user", "session"):
        if name in table.column_names and table[name].null_count < len(table):
            setattr(trace, name, _coded(table[name])[0])
    if trace.user is None:
        trace.user = trace.session
    if "task" in table.column_names:
        task, names = _coded(pc.coalesce(table["task"], ""))
        codes = np.array([TASKS.index(name) if name in TASKS else NONE for name in names], np.int64)
        trace.task = codes[task] if (codes != NONE).any() else None
    for name in ("ttft", "e2e", "load"):
        if f"{name}_s" in table.column_names and table[f"{name}_s"].null_count < len(table):
            seconds = table[f"{name}_s"].to_numpy()
            known = ~np.isnan(seconds)
            setattr(
                trace, f"{name}_us", np.where(known, np.rint(np.where(known, seconds, 0) * 1e6), NONE).astype(np.int64)
            )
    return trace


def _coded(column: pa.ChunkedArray) -> tuple[Int64Array, list[str]]:
    """Texts as integers in order of first appearance; every null is one of its own."""
    coded = column.combine_chunks().dictionary_encode()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    names = coded.dictionary.to_pylist()
    codes = pc.fill_null(coded.indices, NONE).to_numpy(zero_copy_only=False).astype(np.int64)
    empty = codes == NONE
    codes[empty] = len(names) + np.arange(int(empty.sum()))
    return codes, names
