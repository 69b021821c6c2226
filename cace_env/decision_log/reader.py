"""Reads decisions back, and finds the one that evicted a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError, did_you_mean
from cace_env.decision_log.record import EVICTIONS, Decision, decision_of
from cace_env.decision_log.writer import Clock, files_of, import_parquet, read_header

FOLDER: Final = "decisions"  # in the folder of a run
EPISODE: Final = ("scenario", "policy", "seed")
UNITS_S: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


class LoggedEpisode(NamedTuple):
    """An episode of a log; of a live system what it decided under one name and policy."""

    scenario: str
    policy: str
    seed: int
    rows: int  # decisions, and evictions in which nobody chose
    evictions: int
    first_us: int
    last_us: int


class Log:
    """A decision log on disk, for reading.

    Args:
        path: its folder, the folder of a run that has one (`decisions/`), or a single file.

    Attributes:
        files: the oldest first.
        clock: of the times: "episode" (since its beginning) or "utc" (since 1970).

    Raises:
        ConfigError: there is no log, pyarrow is missing, or a file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        folder = self.path / FOLDER if (self.path / FOLDER).is_dir() else self.path
        self.files = files_of(folder) if folder.is_dir() else [folder] if folder.is_file() else []
        if not self.files:
            raise ConfigError(f"{path}: no decisions-00001.parquet or the like; name the folder of a decision log")
        self.clock: Clock = "episode"
        for file in self.files:
            header = read_header(file)
            if header is None:
                raise ConfigError(f"{file}: is no whole file of a decision log; remove it, or restore a copy")
            self.clock = header.clock

    def decisions(
        self,
        *,
        scenario: str | None = None,
        policy: str | None = None,
        seed: int | None = None,
        model: str | None = None,
        kinds: Sequence[str] = (),
    ) -> Iterator[Decision]:
        """Decisions in the order in which they were written.

        Args:
            scenario: only of this one; so for `policy` and `seed`.
            policy: see `scenario`.
            seed: see `scenario`.
            model: only those that chose this model.
            kinds: only these, see `Decision.kind`; none = all.
        """
        wanted = {"scenario": scenario, "policy": policy, "seed": seed, "model": model}
        for row in self._rows(wanted, kinds):
            yield decision_of(row)

    def episodes(self) -> list[LoggedEpisode]:
        """What the log holds, sorted by scenario, policy and seed."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for row in self._rows({}, (), (*EPISODE, "time_us", "kind")):
            key, time_us = tuple(row[name] for name in EPISODE), row["time_us"]
            counts = found.setdefault(key, [0, 0, time_us, time_us])
            counts[0] += 1
            counts[1] += row["kind"] in EVICTIONS
            counts[2], counts[3] = min(counts[2], time_us), max(counts[3], time_us)
        return [LoggedEpisode(*key, *counts) for key, counts in sorted(found.items())]

    def models(self) -> list[str]:
        """Every model that could have been chosen."""
        names = (one["model"] for row in self._rows({}, (), ("candidates",)) for one in row["candidates"])
        return sorted(set(names) - {""})

    def why(
        self,
        model: str,
        at: float | str | None = None,
        *,
        scenario: str | None = None,
        policy: str | None = None,
        seed: int | None = None,
    ) -> Decision:
        """The last eviction of a model at or before a time.

        Args:
            model: its name.
            at: seconds by the clock of the log, text as for `seconds_of`, or None: the end of the log.
            scenario: which episode, where the log has several; so for `policy` and `seed`.
            policy: see `scenario`.
            seed: see `scenario`.

        Raises:
            ConfigError: no such model or episode, several episodes fit, or the model was not evicted until then.
        """
        at_us = None if at is None else round((seconds_of(at, self.clock) if isinstance(at, str) else at) * 1e6)
        wanted = self._episode({"scenario": scenario, "policy": policy, "seed": seed})
        times = [row["time_us"] for row in self._rows({**wanted, "model": model}, EVICTIONS, ("time_us",))]
        before = [time_us for time_us in times if at_us is None or time_us <= at_us]
        if not before:
            raise ConfigError(self._never(model, times))
        last = list(self._rows({**wanted, "model": model, "time_us": max(before)}, EVICTIONS))[-1]
        return decision_of(last)

    def _episode(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The one episode that is meant.

        Raises:
            ConfigError: none, or several.
        """
        fitting = episodes = self.episodes()
        for name, value in wanted.items():
            if value is None:
                continue
            known = sorted({getattr(one, name) for one in fitting})
            if value not in known:
                raise ConfigError(f"{self.path}: no decision of {name} {value!r}{_instead(value, known)}")
            fitting = [one for one in fitting if getattr(one, name) == value]
        for name in EPISODE:
            known = sorted({getattr(one, name) for one in fitting})
            if len(known) > 1:
                raise ConfigError(
                    f"{self.path}: {len(fitting)} of {len(episodes)} episodes fit; name one {name} of {_list(known)}"
                )
        return {name: getattr(fitting[0], name) for name in EPISODE}

    def _never(self, model: str, later: list[int]) -> str:
        known = self.models()
        if model not in known:
            return f"{self.path}: no decision about a model {model!r}{_instead(model, known)}"
        if not later:
            return f"{self.path}: model {model!r} was never evicted in this episode"
        first = moment(min(later), self.clock)
        return f"{self.path}: model {model!r} was not evicted until then; the first time was {first}"

    def _rows(
        self, wanted: dict[str, Any], kinds: Sequence[str], columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows in the order in which they were written, file by file."""
        pyarrow, parquet = import_parquet()
        filters: Any = [(name, "=", value) for name, value in wanted.items() if value is not None]
        filters += [("kind", "in", list(kinds))] if kinds else []
        for file in self.files:
            try:
                table = parquet.read_table(file, filters=filters or None, columns=columns and list(columns))
            except (OSError, pyarrow.ArrowException) as error:
                raise ConfigError(f"{file}: cannot be read ({type(error).__name__}); restore a copy") from error
            for batch in table.to_batches(max_chunksize=4096):
                yield from batch.to_pylist()


def read_decisions(path: str | Path, **which: Any) -> list[Decision]:
    """All decisions of a log; arguments and errors as for `Log` and `Log.decisions`."""
    return list(Log(path).decisions(**which))


def why(path: str | Path, model: str, at: float | str | None = None, **which: Any) -> Decision:
    """Why a model was evicted; arguments and errors as for `Log` and `Log.why`. `in_words` says it."""
    return Log(path).why(model, at, **which)


def seconds_of(text: str, clock: Clock) -> float:
    """Seconds of a time that somebody typed: `754.2`, `12.5min`, `1.5h`, or ISO 8601 where the clock is "utc".

    Raises:
        ConfigError: it is none of these, or a date in a log without dates.
    """
    given = text.strip()
    number = re.fullmatch(r"(-?[\d.]+) ?(s|min|h)?", given)
    if number and number[1].count(".") <= 1 and number[1].strip("-."):
        return float(number[1]) * UNITS_S[number[2] or "s"]
    try:
        date = datetime.fromisoformat(given)
    except ValueError:
        raise ConfigError(
            f"time {text!r} is not understood; give seconds, 12.5min, 1.5h, or 2026-03-01T12:30:00"
        ) from None
    if clock != "utc":
        raise ConfigError(
            f"time {text!r} is a date, and this log counts from the beginning of an episode, of a log from its first "
            "request; give the seconds, minutes or hours since then, such as 12.5min"
        )
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def moment(time_us: int, clock: Clock) -> str:
    """A time for readers: `12.6 min (754.213 s)`, or a date and time in UTC."""
    if clock == "utc":
        return f"{np.datetime64(time_us // 1000, 'ms')} UTC".replace("T", " ", 1)  # datetime knows no year 10000
    return f"{time_us / 6e7:.1f} min ({time_us / 1e6:.3f} s)"


def _instead(value: Any, known: Sequence[Any]) -> str:
    """What may have been meant, or else what there is."""
    return (did_you_mean(value, known) if isinstance(value, str) else "") or f"; there are {_list(known)}"


def _list(known: Sequence[Any], most: int = 12) -> str:
    shown = ", ".join(repr(one) for one in known[:most])
    return f"{shown} and {len(known) - most} more" if len(known) > most else shown
