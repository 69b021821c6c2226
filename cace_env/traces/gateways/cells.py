"""Columns of a log as numbers and times: whole columns at once, and which cells cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cace_env.tables import NONE
from cace_env.traces.gateways.columns import PER_SECOND, Unit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FIRST_S: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
LAST_S: Final = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
RELATIVE_S: Final = 4e8  # below this, 12 years, a number is no date
LONGEST_NUMBER: Final = 40  # characters
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_ZONED: Final = re.compile(r"[Tt ]\d\d:.*(?:[Zz]|[+-]\d\d(?::?\d\d)?)$")


def empty_cells(column: pa.Array) -> Mask:
    """Which cells hold nothing: null, or blanks."""
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type):
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(column), ""))
    found: Mask = missing.to_numpy(zero_copy_only=False)
    return found


def numbers(column: pa.Array) -> tuple[Floats, Mask]:
    """A column as numbers, NaN where there is none, and which cells hold something else."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # nanoseconds lose a few
        return values, np.isinf(values)
    if not pa.types.is_string(kind):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        return np.full(len(column), np.nan), ~missing
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), None, text)
    given = text.is_valid().to_numpy(zero_copy_only=False)
    try:
        values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        is_one = pc.and_(pc.match_substring_regex(text, _NUMBER), pc.less_equal(pc.utf8_length(text), LONGEST_NUMBER))
        values = pc.cast(pc.if_else(is_one, text, None), pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(values), values, np.nan), given & ~np.isfinite(values)


@dataclass
class Clock:
    """What a column of times turned out to hold; found with its first times, and the same for all of them."""

    unit: Unit | None = None  # of numbers; None: not known yet, or no numbers
    fits: Unit | None = None  # in which the first numbers would be dates, where the unit that was given makes none
    relative: bool = False  # from any origin
    without_zone: int = 0  # times that were read as UTC
    kinds: set[str] = field(default_factory=set)  # "numbers", "ISO 8601", "time stamps"

    def told(self) -> str:
        """In words, for the audit."""
        origin = "from an origin of its own" if self.relative else "since 1970"
        words = [f"numbers, {self.unit} {origin}" if kind == "numbers" else kind for kind in sorted(self.kinds)]
        return " and ".join(words) or "empty"


def times_us(column: pa.Array, clock: Clock, unit: Unit | None, may_be_relative: bool) -> tuple[Ints, Mask, Mask]:
    """A column as microseconds since 1970, UTC, or since any origin.

    Args:
        column: numbers, text or time stamps.
        clock: what is known of the column; completed here.
        unit: of numbers, if the user says.
        may_be_relative: numbers too small for a date are times from any origin.

    Returns:
        The times, NONE where there is none; which cells hold something else; which hold a time out of the range.
    """
    none = np.zeros(len(column), bool)
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None:
            clock.without_zone += len(column) - column.null_count
        stamps = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False)
        return _ranged(_of_stamps(stamps), none, clock, "time stamps")
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        text = pc.if_else(pc.equal(text, ""), None, text)
        first = next((value.as_py() for value in text if value.is_valid), None)
        if first is None:
            return np.full(len(column), NONE, np.int64), none, none
        if not re.match(_NUMBER, first) or len(first) == 8:  # 20240501
            return _of_texts(text, clock)
    values, wrong = numbers(column)
    return _of_numbers(values, wrong, clock, unit, may_be_relative)


def _of_numbers(
    values: Floats, wrong: Mask, clock: Clock, unit: Unit | None, may_be_relative: bool
) -> tuple[Ints, Mask, Mask]:
    known = values[~np.isnan(values)]
    if clock.unit is None and len(known):
        found = _unit(known)
        clock.relative = may_be_relative and found is None and float(np.median(known)) < RELATIVE_S
        clock.unit = unit or found or ("s" if clock.relative else None)
        clock.fits = found if found != clock.unit else None
    if clock.unit is None:  # none of them is a date
        given = ~np.isnan(values)
        return np.full(len(values), NONE, np.int64), wrong, given
    seconds = values / PER_SECOND[clock.unit]
    far = np.isnan(seconds) | (np.abs(seconds) > 1e10)
    result = np.where(far, NONE, np.rint(np.where(far, 0.0, seconds) * 1e6)).astype(np.int64)
    clock.kinds.add("numbers")
    if clock.relative:
        return result, wrong, far & ~np.isnan(seconds) | (seconds < 0)
    return result, wrong, ~np.isnan(seconds) & ((seconds < FIRST_S) | (seconds >= LAST_S))


def _unit(known: Floats) -> Unit | None:
    """The unit in which most of the numbers are dates that can be."""
    share = {unit: np.mean((known >= FIRST_S * per) & (known < LAST_S * per)) for unit, per in PER_SECOND.items()}
    best = max(share, key=lambda unit: share[unit])
    units: dict[str, Unit] = {"s": "s", "ms": "ms", "us": "us", "ns": "ns"}
    return units[best] if share[best] > 0.5 else None


def _of_texts(text: pa.Array, clock: Clock) -> tuple[Ints, Mask, Mask]:
    """ISO 8601; all at once where they are alike, else one by one."""
    none = np.zeros(len(text), bool)
    first = next(value.as_py() for value in text if value.is_valid)
    zone = "UTC" if _ZONED.search(first) else None
    try:
        stamps = pc.cast(pc.cast(text, pa.timestamp("ns", zone)), pa.timestamp("us", zone), safe=False)
    except pa.ArrowInvalid:
        return _one_by_one(text, clock)
    clock.without_zone += 0 if zone else len(text) - text.null_count
    return _ranged(_of_stamps(stamps), none, clock, "ISO 8601")


def _one_by_one(text: pa.Array, clock: Clock) -> tuple[Ints, Mask, Mask]:
    result, wrong = np.full(len(text), NONE, np.int64), np.zeros(len(text), bool)
    for index, value in enumerate(text.to_pylist()):
        if value is None:
            continue
        try:
            found = datetime.fromisoformat(re.sub(r"\s*UTC$", "Z", value).replace(" +", "+"))
            clock.without_zone += found.tzinfo is None
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
            since = found - datetime(1970, 1, 1, tzinfo=UTC)
            result[index] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        except (ValueError, OverflowError):
            wrong[index] = True
    return _ranged(result, wrong, clock, "ISO 8601")


def _of_stamps(stamps: pa.Array) -> Ints:
    missing = stamps.is_null().to_numpy(zero_copy_only=False)
    values = pc.fill_null(pc.cast(stamps, pa.int64()), 0).to_numpy(zero_copy_only=False)
    return np.where(missing, NONE, values)


def _ranged(times: Ints, wrong: Mask, clock: Clock, kind: str) -> tuple[Ints, Mask, Mask]:
    clock.kinds.add(kind)
    given = (times != NONE) & ~wrong
    return times, wrong, given & ((times < FIRST_S * 1e6) | (times >= LAST_S * 1e6))
