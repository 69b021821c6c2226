"""Column maps: from which columns of a log each column of ours comes. Every gateway is one; users write their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from cace_env.config import ConfigError, Frozen, load
from cace_env.traces.limits import TraceError

Unit = Literal["s", "ms", "us", "ns"]
PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Source(Frozen):
    """Where a value stands; in YAML a column's name alone does, too."""

    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    """The first of these that is not empty in a row; `usage.prompt_tokens` goes into JSON."""
    plus: tuple[str, ...] = ()
    """Columns that are added where they are known; texts are joined."""
    unit: Unit | None = None
    """Of times since 1970 and of durations. None: times are told apart by size, durations are in seconds."""
    unknown: tuple[str, ...] = ()
    """Values that mean that nothing is known, such as "-1"."""
    values: dict[str, str] = pydantic.Field(default_factory=dict)
    """Of texts: what each value means, such as `{autocomplete: completion}`; any other value is unknown then."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"columns": (given,)}
        if isinstance(given, dict):  # Python's rules hold from here on, by which a list is no tuple
            alone = {name: (value,) for name, value in given.items() if name == "columns" and isinstance(value, str)}
            return given | {name: tuple(v) for name, v in given.items() if isinstance(v, list)} | alone
        return given

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (*self.columns, *self.plus)


class Keep(Frozen):
    """Which rows are requests that a model served; the others are left out and counted."""

    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    """As those of `Source`."""
    matches: str
    """Regular expression for the whole value, in any case; an empty or missing value is the empty text."""
    reason: str = pydantic.Field(min_length=1)
    """What the others are, such as "failed"."""

    @pydantic.field_validator("matches")
    @classmethod
    def _is_an_expression(cls, matches: str) -> str:
        try:
            re.compile(matches)
        except (re.error, RecursionError, OverflowError):
            raise ValueError("is not a regular expression") from None
        return matches


class ColumnMap(Frozen):
    """How the rows of a log become requests."""

    time: Source | None = None
    """When the request began."""
    end: Source | None = None
    """When its answer was complete; with `e2e` it gives a missing `time`."""
    first_token: Source | None = None
    """When its first token came; a time equal to `end` means that nothing was streamed."""
    e2e: Source | None = None
    """Duration of all of it."""
    ttft: Source | None = None
    """Duration up to the first token."""
    load: Source | None = None
    """How long it waited for a model to be loaded."""
    context_tokens: Source
    """All tokens of the prompt, those found in a cache too."""
    output_tokens: Source
    """Tokens of the answer."""
    cached_tokens: Source | None = None
    """Tokens of the prompt that were found in a cache: what is left of `context_tokens` is new."""
    new_tokens: Source | None = None
    """Or, in its place: tokens of the prompt that were not found in a cache."""
    model: Source | None = None
    """What was asked for."""
    task: Source | None = None
    """completion, chat, reasoning or agent; empty where it is not known."""
    user: Source | None = None
    """Who asked; leaves an import as a keyed hash."""
    session: Source | None = None
    """Conversation; leaves an import as a keyed hash."""
    keep: tuple[Keep, ...] = ()
    """Conditions that a row has to meet."""
    timing: tuple[Keep, ...] = ()
    """Conditions under which `ttft`, `e2e` and `load` are those of one request; elsewhere they stay unknown."""
    clock: Literal["absolute", "any"] = "absolute"
    """`any`: numbers too small for a date are seconds (or `unit`) from any origin."""

    @pydantic.model_validator(mode="after")
    def _has_a_time(self) -> ColumnMap:
        if self.time is None and (self.end is None or self.e2e is None):
            raise ValueError("needs time, or end and e2e, from which it follows")
        if self.cached_tokens is not None and self.new_tokens is not None:
            raise ValueError("cached_tokens and new_tokens say the same; keep one")
        return self

    def sources(self) -> dict[str, Source]:
        """The sources that are given, by the name of what they give."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: source for name, source in given.items() if isinstance(source, Source)}

    def columns(self) -> dict[str, bool]:
        """Every column that is read, and whether it holds numbers where a log does not say."""
        found = {
            column: name.endswith("_tokens") or name in ("e2e", "ttft", "load")
            for name, source in self.sources().items()
            for column in source.all
        }
        for keep in (*self.keep, *self.timing):
            found |= {column: found.get(column, False) for column in keep.columns}
        return found


def load_map(path: str | Path) -> ColumnMap:
    """A column map from YAML.

    Raises:
        TraceError: it cannot be used.
    """
    try:
        return load(ColumnMap, path)
    except ConfigError as error:
        raise TraceError(str(error)) from error
