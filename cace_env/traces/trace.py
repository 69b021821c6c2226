"""The data of a log file in columns of whole numbers, before anything is attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.tables import NONE
from cace_env.traces.config import setting
from cace_env.traces.limits import TraceError
from cace_env.traces.reading import Table

Int64Array = npt.NDArray[np.int64]

EARLIEST_US: Final = 946_684_800_000_000  # 2000; times before it are from another origin than 1970

# Named streams: a draw added to one does not change the others. New names go to the end.
STREAMS = ("arrivals", "placement", "users", "tasks", "models", "tokens")


@dataclass
class Trace:
    """`R` requests of one log. None if the log does not say; `attach` fills these in."""

    time_us: Int64Array  # (R,) from the first request; never decreasing
    context_tokens: Int64Array | None  # (R,) >= 1
    new_tokens: Int64Array | None  # (R,) 1..context; None: all of them
    output_tokens: Int64Array | None  # (R,) >= 1
    model: Int64Array | None = None  # (R,) index into model_ids
    model_ids: tuple[str, ...] = ()  # as the log calls them
    task: Int64Array | None = None  # (R,) index into TASKS, or NONE if the log does not say
    user: Int64Array | None = None  # (R,)
    session: Int64Array | None = None  # (R,)
    after: Int64Array | None = None  # (R,) an earlier row, or NONE: open loop
    think_us: Int64Array | None = None  # (R,)
    began_us: int | None = None  # time of the first request since 1970, UTC; None: the log's clock is not absolute
    ttft_us: Int64Array | None = None  # (R,) measured by the gateway; NONE where it is not known
    e2e_us: Int64Array | None = None  # (R,) measured by the gateway; NONE where it is not known
    load_us: Int64Array | None = None  # (R,) time that this request waited for a load; NONE where it is not known
    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # rows left out, by reason
    altered: tuple[str, ...] = ()  # what the loader had to make up: "arrivals drawn", "sessions placed", ...
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.time_us)


def stream(seed: int, name: str, *more: int) -> np.random.Generator:
    """The random stream `name` of `seed`; further integers open streams below it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(name), *more)))


def codes(texts: Sequence[str]) -> tuple[Int64Array, tuple[str, ...]]:
    """Text ids as integers in order of first appearance, and the ids."""
    index: dict[str, int] = {}
    column = np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(texts))
    return column, tuple(index)


def compact(column: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Codes as integers from 0 in order of first appearance, and the codes in that order."""
    found, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first, kind="stable")
    rank = np.empty(len(found), np.int64)
    rank[by_appearance] = np.arange(len(found))
    return rank[inverse], found[by_appearance]


def absolute(time_us: np.int64) -> int | None:
    """A time since 1970, or None where it is too early for one: the clock of the log has another origin."""
    return int(time_us) if time_us >= EARLIEST_US else None


def in_order(
    table: Table, column: str, time_us: Int64Array, sort: bool, groups: Int64Array | None = None
) -> Int64Array:
    """Row numbers in order of time (stable); with `groups`, each group has a clock of its own.

    Raises:
        TraceError: a time is before that of the row above (of its group), and `sort` is off.
    """
    clock = np.zeros(len(time_us), np.int64) if groups is None else groups
    order = np.argsort(clock, kind="stable")  # groups together, rows as they stand in the file
    backwards = (np.diff(time_us[order]) < 0) & (np.diff(clock[order]) == 0)
    if backwards.any() and not sort:
        row = int(order[1:][backwards].min())
        above = int(order[np.flatnonzero(order == row)[0] - 1])
        problem = f"is before that of row {table.first_row + above}; sort the file, or set {setting('sort', 'true')}"
        raise table.error(row, column, problem)
    return np.lexsort((time_us, clock)) if groups is not None else np.argsort(time_us, kind="stable")


def keep_positive(
    table: Table,
    counts: Mapping[str, Int64Array],
    dropped: dict[str, int],
    among: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """The rows (`among` some) whose token counts are all at least 1; `dropped` counts the others by column.

    Raises:
        TraceError: no row is left.
    """
    keep = np.ones(table.rows, bool) if among is None else among.copy()
    for column, values in counts.items():
        zero = keep & (values < 1)
        if zero.any():
            dropped[f"{column} is 0"] = int(zero.sum())
        keep &= ~zero
    if not keep.any():
        raise TraceError(f"{table.path}: every row has a token count of 0; nothing is left to load")
    return keep


def place(time_us: Int64Array, group: Int64Array, gap_s: float, rng: np.random.Generator) -> Int64Array:
    """Place groups that have their own clocks on one clock: they start one after another, with exponential gaps.

    The gaps have mean `gap_s`. The order is drawn, too, so that a limit does not always keep the same sessions.
    """
    _, group = np.unique(group, return_inverse=True)
    count = int(group.max()) + 1
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, group, time_us)
    starts = np.empty(count, np.int64)
    starts[rng.permutation(count)] = np.rint(np.cumsum(rng.exponential(gap_s, count)) * 1e6).astype(np.int64)
    placed: Int64Array = starts[group] + time_us - first[group]
    return placed


def chain(group: Int64Array) -> Int64Array:
    """For every row, the previous row of its group, or NONE; rows are in order of time."""
    order = np.argsort(group, kind="stable")
    after = np.full(len(group), NONE, np.int64)
    same = group[order][1:] == group[order][:-1]
    after[order[1:][same]] = order[:-1][same]
    return after


def without_models(trace: Trace, ignored: Sequence[str]) -> Trace:
    """The trace without the requests of some models, which are counted in `dropped`.

    A request that followed one of them arrives at its recorded time.

    Args:
        trace: data of a log.
        ignored: models as the log calls them.

    Raises:
        TraceError: the log has no such model, or no request is left.
    """
    unknown = [name for name in ignored if name not in trace.model_ids]
    if unknown or trace.model is None:
        has = f"{len(trace.model_ids)} others" if trace.model_ids else "none at all"
        raise TraceError(f"ignore: {unknown[0]!a} is no model of the log, which names {has}; correct or remove it")
    kept = ~np.isin(trace.model, [trace.model_ids.index(name) for name in ignored])
    if not kept.any():
        raise TraceError("ignore: every request of the log is for a model that is ignored; ignore fewer")
    left = some_requests(trace, kept)
    left.dropped = {**trace.dropped, "model ignored": int((~kept).sum())}
    return left


def some_requests(trace: Trace, kept: npt.NDArray[np.bool_]) -> Trace:
    """The trace of some of its requests, on a clock that starts with the first of them.

    A request that followed one that is not there arrives at its recorded time.

    Args:
        trace: data of a log.
        kept: (R,) at least one True.
    """
    rows = np.flatnonzero(kept)
    columns: dict[str, Any] = {
        item.name: value[rows] for item in fields(trace) if isinstance(value := getattr(trace, item.name), np.ndarray)
    }
    first_us = int(columns["time_us"][0])
    columns["time_us"] = columns["time_us"] - first_us
    if trace.model is not None:
        there, columns["model"] = np.unique(columns["model"], return_inverse=True)
        columns["model_ids"] = tuple(trace.model_ids[code] for code in there)
    if trace.began_us is not None:
        columns["began_us"] = trace.began_us + first_us
    if trace.after is not None:
        place = np.where(kept, np.cumsum(kept) - 1, NONE)
        columns["after"] = after = np.where(columns["after"] == NONE, NONE, place[columns["after"]])
        if trace.think_us is not None:
            columns["think_us"] = np.where(after == NONE, 0, columns["think_us"])
    return replace(trace, **columns)


def draw_quantiles(levels: Sequence[float], values: npt.ArrayLike, uniform: npt.NDArray[np.float64]) -> Int64Array:
    """Draw token counts whose quantiles at `levels` are `values`: log-linear between them, constant outside.

    Args:
        levels: K increasing probabilities.
        values: (K,) token counts for all draws, or (R, K), one row per draw.
        uniform: (R,) in [0, 1).
    """
    logs = np.log(np.maximum(np.asarray(values, np.float64), 1.0))
    logs = np.broadcast_to(logs, (len(uniform), len(levels)))
    points = np.asarray(levels)
    u = np.clip(uniform, points[0], points[-1])
    right = np.clip(np.searchsorted(points, u), 1, len(points) - 1)
    rows = np.arange(len(u))
    share = (u - points[right - 1]) / (points[right] - points[right - 1])
    drawn = np.exp(logs[rows, right - 1] * (1.0 - share) + logs[rows, right] * share)
    tokens: Int64Array = np.maximum(np.rint(drawn), 1.0).astype(np.int64)
    return tokens


def prefix_groups(
    blocks: Sequence[Sequence[int]], context: Int64Array, block_tokens: int, session: Int64Array | None
) -> tuple[Int64Array, Int64Array]:
    """Sessions and new tokens from the ids of prompt blocks; equal ids mean equal text up to the end of that block.

    With `session` given, a request shares what its session has sent before. Without, it joins the session of the latest
    request that holds its deepest known block, if more than half of its own blocks are known; otherwise it opens a
    session and all of it is new. (One common first block, a system prompt, must not make all requests one session.)

    Returns:
        session (R,) and new_tokens (R,).
    """
    holder: dict[tuple[int, int], int] = {}  # (session or 0, block) -> session of the latest request that holds it
    sessions = np.empty(len(blocks), np.int64) if session is None else session
    new_tokens = context.copy()
    opened = 0
    for row, ids in enumerate(blocks):
        scope = 0 if session is None else int(session[row])
        shared, joined = 0, NONE
        for block in ids:
            found = holder.get((scope, block))
            if found is None:
                break
            shared, joined = shared + 1, found
        if session is None:
            if 2 * shared <= len(ids):
                shared, joined, opened = 0, opened, opened + 1
            sessions[row] = joined
        new_tokens[row] = max(1, int(context[row]) - shared * block_tokens)
        owner = int(sessions[row])
        for block in ids:
            holder[scope, block] = owner
    return sessions, new_tokens
