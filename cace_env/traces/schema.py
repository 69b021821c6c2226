"""The plain schema of this package: export your logs to it; `experiments.import_logs` writes it.

| column | required | meaning |
|---|---|---|
| time | yes | seconds from any origin, or ISO 8601; all rows of one zone, never decreasing |
| context_tokens | yes | all prompt tokens, >= 1; empty in every row, with output_tokens: the log has no counts |
| output_tokens | yes | >= 1 |
| new_tokens | | prompt tokens not shared with the session's previous request to this model, 1 to context; default all |
| model | | id of the model that served it; in every row or in none |
| task | | completion, chat, reasoning or agent; empty where unknown |
| user, session | | any text; without a session each request is its own, without a user each session |
| after | | closed loop: row (from 0) of the request it waits for; empty or -1: it arrives at `time` |
| think_s | | closed loop: seconds from the finish of `after` to the arrival |
| ttft_s, e2e_s | | measured by the gateway: seconds to the first token, and to the last; empty where unknown |
| load_s | | measured: seconds that the request waited for its model to be loaded; empty where unknown |
| origin | | written by `write_cace`: its original format, then what its loader made up, which stays in the label |
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from cace_env.tables import NONE, TASKS
from cace_env.traces.config import REQUIRED_COLUMNS, TraceConfig
from cace_env.traces.limits import TraceError
from cace_env.traces.reading import Table, import_parquet, read_table
from cace_env.traces.trace import Int64Array, Trace, absolute, compact, in_order

MEASURED: Final = ("ttft", "e2e", "load")
OPTIONAL: Final = (
    *("new_tokens", "model", "task", "user", "session", "after", "think_s", "origin"),
    *(f"{name}_s" for name in MEASURED),
)


def read_cace(path: Path, config: TraceConfig) -> Trace:
    """Read a log in the plain schema; a count of 0 is refused, because its exporter can say what it means."""
    table = read_table(path, REQUIRED_COLUMNS["cace"], OPTIONAL, config.skip, config.limit)
    time_us = table.times_us("time")
    rows = in_order(table, "time", time_us, config.sort)
    trace = Trace(time_us[rows] - time_us[rows[0]], None, None, None, rows_read=table.rows)
    trace.began_us = absolute(time_us[rows[0]])
    counted = not all(_is_empty(table, name) for name in ("context_tokens", "output_tokens"))
    if counted:
        context, output = table.integers("context_tokens", least=1), table.integers("output_tokens", least=1)
        trace.context_tokens, trace.output_tokens = context[rows], output[rows]
    if counted and "new_tokens" in table.columns:
        new = table.integers("new_tokens", empty=0)
        if not _has_empty(table, "new_tokens"):
            new = table.integers("new_tokens", least=1)
        new = np.where(new == 0, context, new)
        if (new > context).any():
            problem = "is above context_tokens, which counts all prompt tokens; correct it"
            raise table.error(int(np.argmax(new > context)), "new_tokens", problem)
        trace.new_tokens = new[rows]
    if "model" in table.columns:
        model, names = table.coded("model")
        if any(names):
            if "" in names:
                row = int(np.argmax(model == names.index("")))
                raise table.error(row, "model", "is empty while other rows name one; fill all rows or none")
            trace.model, order = compact(model[rows])
            trace.model_ids = tuple(names[code] for code in order)
    if "task" in table.columns:
        task = _tasks(table)
        trace.task = task[rows] if (task != NONE).any() else None
    for name in ("user", "session"):
        if name in table.columns:
            coded, names = table.coded(name)
            if any(names):
                if "" in names:  # each of these is one of its own
                    empty = coded == names.index("")
                    coded[empty] = len(names) + np.arange(int(empty.sum()))
                setattr(trace, name, compact(coded[rows])[0])
    if trace.user is None:
        trace.user = trace.session
    for name in MEASURED:
        if f"{name}_s" in table.columns:
            setattr(trace, f"{name}_us", _measured_us(table, f"{name}_s")[rows])
    if "after" in table.columns:
        trace.after, opened = _after(table, rows, config.skip)
        think_s = table.floats("think_s", empty=0.0) if "think_s" in table.columns else np.zeros(table.rows)
        if (think_s < 0).any():
            raise table.error(int(np.argmax(think_s < 0)), "think_s", "is below 0 s; correct it")
        trace.think_us = np.where(trace.after == NONE, 0, np.rint(think_s[rows] * 1e6)).astype(np.int64)
        if opened:
            trace.notes = (f"{opened} requests follow rows that were skipped: they arrive at their recorded time",)
    for origin in table.coded("origin")[1] if "origin" in table.columns else ():
        source, *made_up = origin.split("; ")
        trace.notes += (f"exported from {source}",) if source else ()
        trace.altered += tuple(what for what in made_up if what not in trace.altered)
    return trace


def write_cace(trace: Trace, path: str | Path, origin: str = "") -> None:
    """Write `trace` in the plain schema.

    Args:
        trace: data of a log.
        path: `.csv`, `.csv.gz`, `.jsonl`, `.jsonl.gz` or `.parquet`; must not exist.
        origin: original format or system; kept in the file, with what the loader made up.

    Raises:
        TraceError: the path exists, its suffix is unknown, or pyarrow is missing.
    """
    path = Path(path)
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if kind not in (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"):
        raise TraceError(f"{path}: unknown suffix {kind!r}; use .csv, .jsonl (either may end in .gz) or .parquet")
    if path.exists():
        raise TraceError(f"{path}: exists; choose another name or remove it first")
    columns = _columns(trace)
    if origin or trace.altered:
        columns["origin"] = ["; ".join([origin, *trace.altered])] * len(trace)
    if kind == ".parquet":
        pyarrow, parquet = import_parquet(path)
        parquet.write_table(pyarrow.table(columns), path)
        return
    text = io.StringIO(newline="")
    if kind.startswith(".csv"):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    else:
        for row in zip(*columns.values(), strict=True):
            text.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _columns(trace: Trace) -> dict[str, list[Any]]:
    unknown = [None] * len(trace)
    columns: dict[str, list[Any]] = {
        "time": [us / 1e6 for us in trace.time_us.tolist()],
        "context_tokens": unknown if trace.context_tokens is None else trace.context_tokens.tolist(),
        "output_tokens": unknown if trace.output_tokens is None else trace.output_tokens.tolist(),
    }
    for name in ("new_tokens", "user", "session", "after"):
        values = getattr(trace, name)
        if values is not None:
            columns[name] = values.tolist()
    if trace.model is not None:
        columns["model"] = [trace.model_ids[model] for model in trace.model]
    if trace.task is not None:
        columns["task"] = ["" if task == NONE else TASKS[task] for task in trace.task]
    if trace.after is not None and trace.think_us is not None:
        columns["think_s"] = [us / 1e6 for us in trace.think_us.tolist()]
    for name in MEASURED:
        if (times := getattr(trace, f"{name}_us")) is not None:
            columns[f"{name}_s"] = [None if us == NONE else us / 1e6 for us in times.tolist()]
    return columns


def _has_empty(table: Table, column: str) -> bool:
    return any(_empties(table, column))


def _is_empty(table: Table, column: str) -> bool:
    return all(_empties(table, column))


def _empties(table: Table, column: str) -> Iterable[bool]:
    """Whether each field is empty."""
    values = table.columns[column]
    if isinstance(values, np.ndarray):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    return (value in ("", None) for value in values)


def _tasks(table: Table) -> Int64Array:
    coded, names = table.coded("task")
    index = {"": NONE} | {name: code for code, name in enumerate(TASKS)}
    for place, name in enumerate(names):
        if name not in index:
            raise table.error(int(np.argmax(coded == place)), "task", f"is not one of {', '.join(TASKS)}; correct it")
    return np.array([index[name] for name in names], np.int64)[coded]


def _measured_us(table: Table, column: str) -> Int64Array:
    """A measured duration in microseconds, NONE where it is not known."""
    seconds = table.floats(column, empty=-1.0)
    return np.where(seconds < 0, NONE, np.rint(np.clip(seconds, 0, 1e9) * 1e6)).astype(np.int64)


def _after(table: Table, rows: Int64Array, skip: int) -> tuple[Int64Array, int]:
    """The column as rows of the result, and how many followed a skipped row (open loop then)."""
    after = table.integers("after", least=-1, empty=-1)
    opened = (after >= 0) & (after < skip)
    after = np.where(after >= skip, after - skip, NONE)
    place = np.empty(len(rows), np.int64)
    place[rows] = np.arange(len(rows))
    known = after < table.rows
    late = ~known | ((after != NONE) & (place[np.where(known, after, 0)] >= place))
    if late.any():
        problem = "is not the number (from 0) of a row before it; a request can only follow an earlier one"
        raise table.error(int(np.argmax(late)), "after", problem)
    placed = np.where(after == NONE, NONE, place[after])
    return placed[rows], int(opened.sum())
