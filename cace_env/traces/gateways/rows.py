"""Rows of a log as requests, a block at a time: which ones are, which cannot be used, and what each of them says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cace_env.tables import NONE, TASKS
from cace_env.traces.gateways.cells import Clock, Floats, Ints, Mask, empty_cells, numbers, times_us
from cace_env.traces.gateways.columns import PER_SECOND, ColumnMap, Keep, Source
from cace_env.traces.limits import TraceError
from cace_env.traces.reading import MAX_TOKENS

MOST_LISTED: Final = 1_000  # bad rows that are listed one by one
LONGEST_NAME: Final = 200  # characters of the name of a model; more is some other column
LONGEST_S: Final = 7 * 86_400.0  # of a measured duration
# No quotes, braces, brackets in front, markup or control characters: those are of prompts, JSON or an attack.
_NAME: Final = r"^[\pL\pN@~_][\pL\pN\pM ._:/@+#=~()\[\],-]*$"
TEXTS: Final = ("model", "task", "user", "session")
MEASURED: Final = ("ttft_s", "e2e_s", "load_s")


class Problem(NamedTuple):
    """Why a row cannot be used: where, and what kind of value stands there, but not the value."""

    row: int  # from 1, without the header
    column: str  # empty: the row as a whole
    reason: str
    type: str = ""
    length: int | None = None  # of a text, in characters

    @property
    def said(self) -> str:
        """Column and reason, by which such rows are counted."""
        return f"{self.column}: {self.reason}" if self.column else self.reason


@dataclass
class Block:
    """Some rows of a log, as far as they could be read."""

    columns: dict[str, pa.Array]  # (n,) each, the wanted ones that the log has
    rows: Ints  # (n,) their numbers
    broken: list[Problem] = field(default_factory=list)  # further rows, which could not be read at all


@dataclass
class Tally:
    """What has become of the rows so far."""

    rows_in: int = 0
    rows_out: int = 0
    bad: Counter[str] = field(default_factory=Counter)  # cannot be used, by reason
    left_out: Counter[str] = field(default_factory=Counter)  # no requests, by reason
    listed: list[Problem] = field(default_factory=list)  # the first bad ones
    unusable: Counter[str] = field(default_factory=Counter)  # measured times that cannot be, by column of ours
    found: Counter[str] = field(default_factory=Counter)  # values of each column of ours
    clocks: dict[str, Clock] = field(default_factory=dict)  # by column of the log
    columns_read: set[str] = field(default_factory=set)

    def reject(self, problems: Sequence[Problem]) -> None:
        """Count bad rows, and list the first of them."""
        self.bad.update(problem.said for problem in problems)
        self.listed += problems[: MOST_LISTED - len(self.listed)]


class _Fates:
    """What becomes of each row of a block: the first thing that is said of it holds."""

    def __init__(self, block: Block, tally: Tally) -> None:
        self.block, self.tally = block, tally
        self.alive: Mask = np.ones(len(block.rows), bool)

    def leave_out(self, mask: Mask, reason: str) -> None:
        found = mask & self.alive
        self.alive &= ~mask
        if found.any():
            self.tally.left_out[reason] += int(found.sum())

    def reject(self, mask: Mask, source: Source, reason: str) -> None:
        found = np.flatnonzero(mask & self.alive)
        self.alive &= ~mask
        if len(found) == 0:
            return
        names = [name for name in source.all if name in self.block.columns]
        column = names[0] if names else source.columns[0]
        self.tally.bad[f"{column}: {reason}"] += len(found)
        for index in found[: MOST_LISTED - len(self.tally.listed)].tolist():
            cells = [self.block.columns[name][index] for name in names]
            cell = next((cell for cell in cells if cell.is_valid and cell.as_py() != ""), None)
            kind = "nothing" if cell is None else "text" if pa.types.is_string(cell.type) else str(cell.type)
            length = len(cell.as_py()) if cell is not None and kind == "text" else None
            self.tally.listed.append(Problem(int(self.block.rows[index]), column, reason, kind, length))


def requests_of(block: Block, columns: ColumnMap, tally: Tally) -> pa.Table:
    """The requests among the rows of a block; the others are counted in `tally`.

    Returns:
        time (us), context_tokens, output_tokens, new_tokens, model, task, user, session, ttft_s, e2e_s, load_s; the
        last eight with nulls, and only those that `columns` can give. Users and sessions are still those of the log.
    """
    tally.rows_in += len(block.rows) + len(block.broken)
    tally.columns_read.update(block.columns)
    tally.reject(block.broken)
    fates = _Fates(block, tally)
    for keep in columns.keep:
        fates.leave_out(~_meets(block, keep), keep.reason)
    counts = {name: _counts(block, getattr(columns, name), fates, name) for name in ("context_tokens", "output_tokens")}
    time_us, measured = _times(block, columns, fates)
    made: dict[str, Any] = {"time": pa.array(time_us)} | {name: pa.array(values) for name, values in counts.items()}
    if columns.cached_tokens is not None or columns.new_tokens is not None:
        made["new_tokens"] = _new_tokens(block, columns, counts["context_tokens"])
    for name in TEXTS:
        if (source := getattr(columns, name)) is not None:
            made[name] = _text(block, source)
    if columns.model is not None:
        named = _is_name(made["model"])
        fates.reject(empty_cells(made["model"]), columns.model, "is empty")
        fates.reject(
            ~named,
            columns.model,
            f"is no name of a model: longer than {LONGEST_NAME} characters, or with signs that none has",
        )
    if columns.task is not None:
        made["task"] = pc.utf8_lower(made["task"])
        known_task = pc.fill_null(pc.is_in(made["task"], pa.array(TASKS)), False).to_numpy(zero_copy_only=False)
        fates.reject(~known_task & ~empty_cells(made["task"]), columns.task, f"is not one of {', '.join(TASKS)}")
    made |= _measured(block, columns, measured, tally, fates.alive)
    table = pa.table(made).filter(pa.array(fates.alive))
    tally.rows_out += table.num_rows
    tally.found.update({name: table.num_rows - table[name].null_count for name in table.column_names})
    return table


def _is_name(column: pa.Array) -> Mask:
    """Which texts could be the name of a model."""
    names = column.unique().drop_null()
    short = names.filter(pc.less_equal(pc.utf8_length(names), LONGEST_NAME))
    good = short.filter(pc.match_substring_regex(short, _NAME))
    found: Mask = pc.is_in(column, good).to_numpy(zero_copy_only=False)
    return found


def _meets(block: Block, keep: Keep) -> Mask:
    """Which rows meet a condition."""
    text = pc.fill_null(_text(block, Source(columns=keep.columns)), "")
    try:
        found: Mask = pc.match_substring_regex(text, f"(?i)^(?:{keep.matches})$").to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        raise TraceError(
            f"matches of {', '.join(keep.columns)}: is no regular expression of RE2, which knows no look-around and no "
            "back-references"
        ) from None
    return found


def _number(block: Block, source: Source) -> tuple[Floats, Mask, Mask]:
    """A source as numbers, NaN where there is none; which cells are no numbers; which say that it is not known."""
    result, wrong, unknown = (np.full(len(block.rows), fill) for fill in (np.nan, False, False))
    missing_value = [float(text) for text in source.unknown]
    for name in source.columns:
        if name in block.columns:
            values, bad = numbers(block.columns[name])
            marked = np.isin(values, missing_value)
            unknown |= marked
            wrong |= bad & np.isnan(result)
            result = np.where(np.isnan(result) & ~marked, values, result)
    for name in source.plus:
        if name in block.columns:
            values, bad = numbers(block.columns[name])
            more = np.where(np.isnan(values) | np.isin(values, missing_value), 0.0, values)
            result, wrong = result + more, wrong | bad
    return result, wrong, unknown & np.isnan(result)


def _text(block: Block, source: Source) -> pa.Array:
    """A source as text without blanks around it, null where there is none."""
    result = pa.nulls(len(block.rows), pa.string())
    for name in source.columns:
        if name in block.columns:
            result = pc.coalesce(result, _known_text(block.columns[name], source))
    for name in source.plus:
        if name in block.columns:
            more = pc.fill_null(_known_text(block.columns[name], source), "")
            result = pc.binary_join_element_wise(result, more, "\x1f")
    if source.values:
        meant = pa.array([*source.values.values()], pa.string())
        result = meant.take(pc.index_in(result, pa.array([*source.values], pa.string())))
    return result


def _known_text(column: pa.Array, source: Source) -> pa.Array:
    text = column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
    text = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.is_in(text, pa.array(["", *source.unknown])), None, text)


def _counts(block: Block, source: Source, fates: _Fates, name: str) -> Ints:
    """Tokens of each row, 0 where they cannot be used."""
    values, wrong, unknown = _number(block, source)
    missing = np.isnan(values)
    fates.leave_out(unknown, f"{name} not known")
    fates.reject(wrong, source, "is not a number")
    fates.reject(missing, source, "is empty")
    with np.errstate(invalid="ignore"):
        fates.reject(values != np.floor(values), source, "is not a whole number")
        fates.reject(values < 0, source, "is below 0")
        fates.reject(values > MAX_TOKENS, source, f"is above {MAX_TOKENS}")
    fates.leave_out(values == 0, f"{name} is 0")
    return np.where(fates.alive, values, 0).astype(np.int64)


def _new_tokens(block: Block, columns: ColumnMap, context: Ints) -> pa.Array:
    """Tokens of the prompt that had to be computed, null where they are not known or cannot be."""
    if columns.new_tokens is not None:
        new = _number(block, columns.new_tokens)[0]
    else:
        assert columns.cached_tokens is not None
        new = context - _number(block, columns.cached_tokens)[0]
    with np.errstate(invalid="ignore"):
        known = (new >= 0) & (new <= context) & (new == np.floor(new))
    return pa.array(np.maximum(np.where(known, new, 0), 1).astype(np.int64), mask=~known)


def _moments(block: Block, source: Source, fates: _Fates, any_origin: bool) -> tuple[Ints, Mask, Mask]:
    """A source as times; as `times_us` of the first of its columns that holds something."""
    count = len(block.rows)
    result, wrong, far = np.full(count, NONE, np.int64), np.zeros(count, bool), np.zeros(count, bool)
    for name in source.columns:
        if name in block.columns:
            clock = fates.tally.clocks.setdefault(name, Clock())
            times, bad, out = times_us(block.columns[name], clock, source.unit, any_origin)
            open_ = (result == NONE) & ~wrong & ~far
            result = np.where(open_, times, result)
            wrong, far = wrong | (bad & open_), far | (out & open_)
    return result, wrong, far


def _duration_s(block: Block, source: Source | None) -> Floats:
    """A source as seconds, NaN where it is not known or cannot be."""
    if source is None:
        return np.full(len(block.rows), np.nan)
    return _number(block, source)[0] / PER_SECOND[source.unit or "s"]


def _times(block: Block, columns: ColumnMap, fates: _Fates) -> tuple[Ints, dict[str, Floats]]:
    """When each request began, and the measured durations [s]."""
    any_origin = columns.clock == "any"
    none = np.full(len(block.rows), NONE, np.int64)
    end, end_wrong, end_far = none, none != NONE, none != NONE
    if columns.end is not None:
        end, end_wrong, end_far = _moments(block, columns.end, fates, any_origin)
        end = np.where(end_wrong | end_far, NONE, end)
    e2e_s = _duration_s(block, columns.e2e)
    if columns.time is not None:
        time, wrong, far = _moments(block, columns.time, fates, any_origin)
        _refuse_times(fates, columns.time, time, wrong, far)
    else:
        assert columns.end is not None and columns.e2e is not None
        _refuse_times(fates, columns.end, end, end_wrong, end_far)
        with np.errstate(invalid="ignore"):
            fates.reject(~((e2e_s >= 0) & (e2e_s < LONGEST_S)), columns.e2e, "is no duration; the start is not known")
        time = end - np.where(fates.alive, np.rint(e2e_s * 1e6), 0).astype(np.int64)
    both = (time != NONE) & (end != NONE)
    e2e_s = np.where(np.isnan(e2e_s) & both, (end - time) / 1e6, e2e_s)
    ttft_s = _duration_s(block, columns.ttft)
    if columns.first_token is not None:
        first, wrong, far = _moments(block, columns.first_token, fates, any_origin)
        streamed = (first != NONE) & ~wrong & ~far & (first != end)
        ttft_s = np.where(np.isnan(ttft_s) & streamed, (first - time) / 1e6, ttft_s)
    return time, {"ttft_s": ttft_s, "e2e_s": e2e_s, "load_s": _duration_s(block, columns.load)}


def _refuse_times(fates: _Fates, source: Source, time: Ints, wrong: Mask, far: Mask) -> None:
    fates.reject(wrong, source, "is not a time")
    fates.reject(far, source, "is before 2015 or after 2099")
    fates.reject(time == NONE, source, "is empty")


def _measured(
    block: Block, columns: ColumnMap, measured: dict[str, Floats], tally: Tally, alive: Mask
) -> dict[str, pa.Array]:
    """The measured durations that can be, null elsewhere."""
    of_one = np.ones(len(block.rows), bool)
    for keep in columns.timing:
        of_one &= _meets(block, keep)
    given = {
        "ttft_s": columns.ttft is not None or columns.first_token is not None,
        "e2e_s": columns.e2e is not None or columns.end is not None,
        "load_s": columns.load is not None,
    }
    result = {}
    for name in MEASURED:
        if given[name]:
            values = np.where(of_one, measured[name], np.nan)
            with np.errstate(invalid="ignore"):
                wrong = (values < 0) | (values > LONGEST_S)
                if name == "ttft_s":
                    wrong |= values > measured["e2e_s"] + 1e-3
            if (wrong & alive).any():
                tally.unusable[name] += int((wrong & alive).sum())
            result[name] = pa.array(values, mask=np.isnan(values) | wrong)
    return result
