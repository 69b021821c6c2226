"""A log of one's own as requests that hold nothing but metadata, and an audit record of what became of it.

Nothing is written under its final name until all of it is there; if anything fails, nothing is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

import cace_env
from cace_env.tables import NONE, TASKS
from cace_env.traces.gateways.columns import ColumnMap
from cace_env.traces.gateways.durations import durations_in, unlikely_times
from cace_env.traces.gateways.known import GATEWAYS, Gateway
from cace_env.traces.gateways.privacy import count_users, hashed, rounded, without_rare
from cace_env.traces.gateways.reader import blocks_of, check_rejects, check_span, first_rows
from cace_env.traces.gateways.rows import MEASURED, Tally, requests_of
from cace_env.traces.gateways.runs import Runs
from cace_env.traces.guess import IMPORTED, look
from cace_env.traces.limits import Limits, TraceError, said
from cace_env.traces.trace import Trace

AUDIT: Final = "audit.json"
PRIVATE: Final = 0o600
ROWS_TOGETHER: Final = 1 << 16  # of a row group of the Parquet file
MOST_MODELS: Final = 10_000  # names; more is some other column
HASHED: Final = ("user", "session")


@dataclass(frozen=True)
class Privacy:
    """What is done so that requests are those of nobody."""

    key: bytes | None = None  # of the hashes of users and sessions
    round_times_s: float = 0.0  # times are cut to whole multiples; 0: not
    min_requests_per_user: int = 1  # the requests of users with fewer are left out
    retention_days: int | None = None  # after these the files have to be deleted


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    folder: Path
    audit: dict[str, Any]


def import_gateway(
    path: Path,
    format: str,
    columns: ColumnMap,
    out: Path,
    privacy: Privacy,
    limits: Limits,
    *,
    max_rejects: float,
    max_span_days: float,
    options: Mapping[str, Any],
    limit: int | None = None,
    watch: Callable[[int], None] = lambda rows: None,
) -> Imported:
    """Import a log row by row in constant memory.

    Args:
        path: the log.
        format: its name, for the audit.
        columns: where its columns stand.
        out: new folder, or an empty one.
        privacy: what is done for it.
        limits: how much is read.
        max_rejects: the highest share of rows that may be bad.
        max_span_days: the longest span.
        options: as given by the user, for the audit.
        limit: at most this many rows are read.
        watch: told how many rows have been read so far.

    Raises:
        TraceError: the log cannot be used, or the folder exists or cannot be written; nothing is left then.
    """
    gateway = GATEWAYS.get(format)
    with _new_folder(out) as draft, tempfile.TemporaryDirectory(dir=draft, prefix=".runs-") as temporary:
        tally, users, models = Tally(), Counter[str](), set[str]()
        runs = Runs(Path(temporary))
        for block in first_rows(blocks_of(path, columns, gateway, limits), limit):
            table = _private(requests_of(block, columns, tally), privacy, path)
            if "model" in table.column_names:
                models.update(table["model"].unique().to_pylist())
                _check_models(path, models)
            if privacy.min_requests_per_user > 1 and "user" in table.column_names:
                count_users(users, table["user"])
            runs.add(table)
            watch(tally.rows_in)
        check_rejects(path, tally, max_rejects)
        pieces = runs.merged()
        if users:
            pieces = _frequent(pieces, users, tally, privacy)
        names = [name for name, count in tally.found.items() if count]
        relative = any(clock.relative for clock in tally.clocks.values())
        span = _write(draft / IMPORTED, pieces, names, relative, format)
        if span is None:
            raise TraceError(f"{path}: no user has {privacy.min_requests_per_user} requests; nothing would be left")
        check_span(path, *span, max_span_days)
        audit = _audit(path, format, options, privacy) | _of_columns(path, columns, gateway, tally, names, limits)
        audit["warnings"] = unlikely_times(durations_in(draft / IMPORTED), (span[1] - span[0]) / 1e6)
        _write_audit(draft / AUDIT, audit | _of_rows(tally))
    return Imported(out, audit | _of_rows(tally))


def import_trace(
    trace: Trace, path: Path, format: str, out: Path, privacy: Privacy, options: Mapping[str, Any]
) -> Imported:
    """Import what a loader of `FORMATS` has read; users and sessions become hashes of the numbers they have there.

    Raises:
        TraceError: the folder exists or cannot be written; nothing is left then.
    """
    drawn = "arrivals drawn" in trace.altered  # then a row of the log is no request
    tally = Tally(rows_in=len(trace) if drawn else trace.rows_read, rows_out=len(trace))
    tally.left_out.update(trace.dropped)
    if others := tally.rows_in - tally.rows_out - sum(trace.dropped.values()):
        tally.left_out["rows of other kinds"] = others
    table = _private(_table_of(trace), privacy, path)
    with _new_folder(out) as draft:
        origin = "; ".join([format, *trace.altered])
        _write(draft / IMPORTED, iter([table]), table.column_names, trace.began_us is None, origin)
        audit = _audit(path, format, options, privacy) | _of_rows(tally)
        audit["columns"] = {"read": "those of the format", "written": table.column_names, "hashed": list(HASHED)}
        _write_audit(draft / AUDIT, audit)
    return Imported(out, audit)


def _table_of(trace: Trace) -> pa.Table:
    """A trace as a table; what is not known is left out, but for tokens, which are empty then."""
    unknown = pa.nulls(len(trace), pa.int64())
    columns: dict[str, Any] = {
        "time": trace.time_us + (trace.began_us or 0),
        "context_tokens": unknown if trace.context_tokens is None else trace.context_tokens,
        "output_tokens": unknown if trace.output_tokens is None else trace.output_tokens,
    }
    if trace.new_tokens is not None:
        columns["new_tokens"] = trace.new_tokens
    if trace.model is not None:
        columns["model"] = pa.array(trace.model_ids, pa.string()).take(pa.array(trace.model))
    if trace.task is not None:
        columns["task"] = pa.array(TASKS, pa.string()).take(pa.array(trace.task, mask=trace.task == NONE))
    for name in HASHED:
        if (codes := getattr(trace, name)) is not None:
            columns[name] = pa.array(codes.astype(str).tolist(), pa.string())
    if trace.after is not None and trace.think_us is not None:
        columns |= {"after": trace.after, "think_s": trace.think_us / 1e6}
    for name in ("ttft", "e2e", "load"):
        if (times := getattr(trace, f"{name}_us")) is not None:
            columns[f"{name}_s"] = pa.array(times / 1e6, mask=times == NONE)
    return pa.table(columns)


def _private(table: pa.Table, privacy: Privacy, path: Path) -> pa.Table:
    """The table with hashes in place of users and sessions, and times as coarse as asked for."""
    for name in HASHED:
        if name in table.column_names and table[name].null_count < table.num_rows:
            if privacy.key is None:
                raise TraceError(
                    f"{path}: has {name}s, which leave it as keyed hashes only; give --key-file FILE (or --key-env "
                    "NAME) with a key of yours, such as one of `openssl rand -hex 32`"
                )
            place = table.column_names.index(name)
            table = table.set_column(place, name, hashed(table[name], privacy.key, name))
    if privacy.round_times_s > 0:
        table = table.set_column(0, "time", rounded(table["time"], privacy.round_times_s))
    return table


def _check_models(path: Path, models: set[str]) -> None:
    if len(models) > MOST_MODELS:
        raise TraceError(f"{path}: names more than {MOST_MODELS:,} models; is it the column of something else?")


def _frequent(pieces: Iterator[pa.Table], users: Counter[str], tally: Tally, privacy: Privacy) -> Iterator[pa.Table]:
    """The requests of users who have made enough of them; the others are counted."""
    least = privacy.min_requests_per_user
    frequent = pa.array([user for user, count in users.items() if count >= least], pa.string())
    for piece in pieces:
        kept = without_rare(piece, frequent)
        if lost := piece.num_rows - kept.num_rows:
            tally.left_out[f"user with fewer than {least} requests"] += lost
            tally.rows_out -= lost
        yield kept


def _write(
    path: Path, pieces: Iterator[pa.Table], names: list[str], relative: bool, origin: str
) -> tuple[int, int] | None:
    """Write requests; returns the first and the last time, None if there are none."""
    path.touch(PRIVATE)
    span: tuple[int, int] | None = None
    writer: Any = None
    try:
        for piece in _large(pieces):
            span = (span[0] if span else piece["time"][0].as_py(), piece["time"][-1].as_py())
            piece = _as_written(piece.select(names), relative, origin)
            writer = writer or parquet.ParquetWriter(path, piece.schema, compression="zstd")
            writer.write_table(piece)
    finally:
        if writer is not None:
            writer.close()
    return span


def _large(pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Pieces of at least `ROWS_TOGETHER` rows, but for the last one."""
    waiting: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += piece.num_rows
        if rows >= ROWS_TOGETHER:
            yield pa.concat_tables(waiting, promote_options="default").combine_chunks()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting, promote_options="default").combine_chunks()


def _as_written(table: pa.Table, relative: bool, origin: str) -> pa.Table:
    """Types and order of the columns on disk."""
    time = table["time"].to_numpy()
    clock = pa.array(time / 1e6) if relative else pa.array(time, pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("time"), "time", clock)
    for name in ("context_tokens", "output_tokens", "new_tokens", "after"):
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(pa.int32()))
    return table.append_column("origin", pa.array([origin], pa.string()).take(pa.array(np.zeros(len(table), np.int8))))


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if all goes well and is gone if not.

    Raises:
        TraceError: `out` exists and is no empty folder, or cannot be written.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise TraceError(f"{out}: exists; choose another folder, or remove it first")
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir(0o700)
        try:
            yield draft
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise TraceError(f"{out}: cannot be written ({error.strerror or type(error).__name__})") from error


def delete_expired(folder: Path, today: date) -> str:
    """Deletes the requests of an import whose day is past, and writes into its audit that it did.

    Args:
        folder: written by an import.
        today: by UTC, as the day in the audit is.

    Returns:
        What was done, or why nothing was.

    Raises:
        TraceError: it is no folder of an import, or cannot be written.
    """
    try:
        audit = json.loads((folder / AUDIT).read_text(encoding="utf-8"))
        until = None if audit["delete_after"] is None else date.fromisoformat(audit["delete_after"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TraceError(f"{folder}: has no {AUDIT} of an import; name folders that import_logs wrote") from None
    requests = folder / IMPORTED
    if not requests.exists():
        return "its requests are deleted already"
    if until is None:
        return "kept: it was imported without --retention"
    if today <= until:
        return f"kept until {until}"
    with said(folder):
        requests.unlink()
        _write_audit(folder / AUDIT, audit | {"deleted": today.isoformat()})
    return f"{IMPORTED} deleted, which was due after {until}; {AUDIT} stays"


def _audit(path: Path, format: str, options: Mapping[str, Any], privacy: Privacy) -> dict[str, Any]:
    """What is known of an import but for its rows."""
    now = datetime.now(UTC)
    with said(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    until = (
        None if privacy.retention_days is None else (now + timedelta(days=privacy.retention_days)).date().isoformat()
    )
    return {
        "imported": now.isoformat(timespec="seconds"),
        "versions": {"cace-env": cace_env.__version__, "pyarrow": pa.__version__, "python": platform.python_version()},
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": digest},
        "format": format,
        "options": dict(options),
        "delete_after": until,
    }


def _of_columns(
    path: Path, columns: ColumnMap, gateway: Gateway | None, tally: Tally, names: list[str], limits: Limits
) -> dict[str, Any]:
    """Which columns were read, hashed and not read; of the latter only known names, others could be anything."""
    there = look(path, limits).names
    tops = {name.partition(".")[0] for name in tally.columns_read} | tally.columns_read
    dropped = {name for name in there if name not in tops}
    known = dropped & set(gateway.never_read if gateway is not None else ())
    sources = columns.sources()
    return {
        "columns": {
            "read": sorted(tally.columns_read),
            "hashed": sorted(
                tally.columns_read & {name for what in HASHED if what in sources for name in sources[what].all}
            ),
            "not_read": sorted(known),
            "others_not_read": len(dropped) - len(known),
            "written": names,
        },
        "times": {column: clock.told() for column, clock in sorted(tally.clocks.items())},
        "times_without_zone_read_as_utc": sum(clock.without_zone for clock in tally.clocks.values()),
        "measurements_that_cannot_be": dict(tally.unusable),
        "measured": {name: tally.found[name] for name in MEASURED if tally.found[name]},
    }


def _of_rows(tally: Tally) -> dict[str, Any]:
    """What became of the rows: in = out + rejected."""
    bad, left_out = sum(tally.bad.values()), sum(tally.left_out.values())
    return {
        "rows": {"in": tally.rows_in, "out": tally.rows_out, "rejected": bad + left_out},
        "rejected": {"bad": dict(tally.bad.most_common()), "no_request": dict(tally.left_out.most_common())},
        "bad_rows": [problem._asdict() for problem in tally.listed],
        "bad_rows_not_listed": bad - len(tally.listed),
    }


def _write_audit(path: Path, audit: Mapping[str, Any]) -> None:
    path.touch(PRIVATE)
    path.write_text(json.dumps(audit, indent=1) + "\n", encoding="utf-8")
