"""Writes decisions to a folder of Parquet files that are small, private and temporary."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from cace_env.config import ConfigError
from cace_env.decision_log.record import FORMAT, Decision, row_of, schema, writable
from cace_env.files import replace_file

logger = logging.getLogger(__name__)

Clock = Literal["episode", "utc"]
NAME: Final = re.compile(r"decisions-(\d{5,})\.parquet")
DAY_S: Final = 86_400.0
MOST_ROWS: Final = 20_000  # that wait to be written
COMPRESSION: Final = "zstd"


class Header(NamedTuple):
    """What the metadata of a file say."""

    written_s: float  # seconds since 1970
    expires_s: float  # inf = never
    clock: Clock


class DecisionLog:
    """A folder of files `decisions-00001.parquet` and so on, each of which appears whole.

    ```python
    with DecisionLog("decisions", max_mb=100, keep_days=30) as log:
        evaluate("cace", "default", range(3), decision_log=log)
    ```

    Decisions wait in memory until there are `rows` of them, until the first has waited for `flush_s`, or until `flush`
    or `close`: so many are lost if the process is killed. Files can be read by nobody but their owner (0600). One
    process at a time writes to a folder; threads may share a log, and none waits in `add` while another one writes.

    Args:
        folder: is made if it does not exist (0700); a log that is there is continued.
        max_mb: most megabytes (10^6 bytes) of all files together; the oldest are removed.
        keep_days: files older than this are removed, at the start and whenever a file is written; each carries its day
            of expiry. None = never.
        rows: decisions in a file, at most.
        flush_s: longest time that a decision waits [s].
        clock: of `Decision.time_us`: "episode" (since its beginning) or "utc" (since 1970), for a live system.
        background: `add` never writes: a thread of the log's own does, which says errors to the logger.
        now: function that returns seconds since 1970.

    Attributes:
        written: decisions on disk.
        failed: attempts to write that the disk did not take.
        lost: decisions that were dropped, the oldest first: while the disk takes nothing, at most `rows` + 20,000 wait.

    Raises:
        ConfigError: pyarrow is missing, a number is out of range, or the folder holds decisions by another clock.
        OSError: the folder or a file cannot be written. What was to be written is kept for the next attempt.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_mb: float = 256.0,
        keep_days: float | None = 30.0,
        rows: int = MOST_ROWS,
        flush_s: float = 60.0,
        clock: Clock = "episode",
        background: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        import_parquet()
        if not (max_mb > 0 and rows >= 1 and flush_s > 0 and (keep_days is None or keep_days > 0)):
            raise ConfigError(
                f"max_mb is {max_mb}, keep_days {keep_days}, rows {rows}, flush_s {flush_s}; all have to be above 0"
            )
        if clock not in get_args(Clock):
            raise ConfigError(f"clock is {clock!r}; it has to be one of {', '.join(get_args(Clock))}")
        self.folder = Path(folder)
        self.written = self.failed = self.lost = 0
        self._most_bytes, self._keep_s = int(max_mb * 1e6), None if keep_days is None else keep_days * DAY_S
        self._rows, self._flush_s, self._clock, self._now = rows, flush_s, clock, now
        self._background = background
        self._waiting: list[Decision] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()  # of the two above: held for a moment
        self._writing = threading.Lock()  # of the files: held for as long as the disk takes
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self.folder.glob(".decisions-*.parquet.*"):  # of a process that was killed
            draft.unlink()
        self._remove_expired()
        others = {header.clock for path in files_of(self.folder) if (header := read_header(path))} - {clock}
        if others:
            raise ConfigError(
                f"{self.folder} holds decisions by the clock {others.pop()!r}, not {clock!r}; use another folder"
            )

    def add(self, decision: Decision) -> None:
        """Adds a decision; it may be written later."""
        with self._lock:
            self._waiting.append(decision)
            full = len(self._waiting) % self._rows == 0  # not at each one more while the disk takes nothing
            if full and self._background:
                self._start_timer(0.0)
            elif not full and self._timer is None:
                self._start_timer(self._flush_s)
        if full and not self._background:
            self.flush()

    def flush(self) -> None:
        """Writes what waits; when this returns it is on disk."""
        with self._writing:
            with self._lock:
                self._stop_timer()
                left = len(self._waiting)
            try:
                while left > 0:
                    with self._lock:
                        some = self._waiting[: min(left, self._rows)]
                    self._write(some)
                    with self._lock:
                        del self._waiting[: len(some)]
                    self.written += len(some)
                    left -= len(some)
            except OSError:
                with self._lock:
                    excess = max(0, len(self._waiting) - self._rows - MOST_ROWS)
                    del self._waiting[:excess]
                self.failed += 1
                self.lost += excess
                raise

    def close(self) -> None:
        """Writes what waits; the log can be used again after that."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _flush_late(self) -> None:
        """The timer's flush. Where the disk does not take it, the decisions wait, and the next `add` tries again."""
        try:
            self.flush()
        except OSError as error:
            logger.error("the decision log cannot be written: %s", error.strerror)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = threading.Timer(seconds, self._flush_late)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, decisions: Sequence[Decision]) -> None:
        """Writes a file, or two where one would be larger than all may be; removes what is too old or too much."""
        content = self._content(decisions)
        if len(content) > self._most_bytes and len(decisions) > 1:
            half = len(decisions) // 2
            self._write(decisions[:half])
            self._write(decisions[half:])
            return
        self._remove_expired()
        files = files_of(self.folder)
        sizes = {path: path.stat().st_size for path in files}
        for path in files:
            if sum(sizes.values()) + len(content) <= self._most_bytes:
                break
            path.unlink()
            del sizes[path]
        number = _number(files[-1]) + 1 if files else 1
        replace_file(self.folder / f"decisions-{number:05}.parquet", content, mode=0o600)

    def _content(self, decisions: Sequence[Decision]) -> bytes:
        pyarrow, parquet = import_parquet()
        written_s = self._now()
        expires_s = "" if self._keep_s is None else repr(written_s + self._keep_s)
        metadata = {"format": FORMAT, "written_s": repr(written_s), "expires_s": expires_s, "clock": self._clock}
        columns = schema(pyarrow).with_metadata(metadata)
        rows = [row_of(decision) for decision in decisions]
        try:
            table = pyarrow.Table.from_pylist(rows, schema=columns)
        except UnicodeEncodeError:
            table = pyarrow.Table.from_pylist(writable(rows), schema=columns)
        stream = pyarrow.BufferOutputStream()
        parquet.write_table(table, stream, compression=COMPRESSION)
        return bytes(stream.getvalue())

    def _remove_expired(self) -> None:
        """Removes files past their day, or older than `keep_days` allows now; those that cannot be read stay."""
        now_s = self._now()
        for path in files_of(self.folder):
            header = read_header(path)
            if header is None:
                continue
            limit_s = (
                header.expires_s if self._keep_s is None else min(header.expires_s, header.written_s + self._keep_s)
            )
            if now_s >= limit_s:
                path.unlink()


def import_parquet() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        ConfigError: pyarrow is missing; the message names the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError("a decision log needs pyarrow; run: pip install 'cace-env[traces]'") from None
    return pyarrow, parquet


def files_of(folder: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=_number)


def read_header(path: Path) -> Header | None:
    """The metadata of a file; None if it is no file of a decision log."""
    pyarrow, parquet = import_parquet()
    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, pyarrow.ArrowException):
        return None
    found = {key.decode(): value.decode() for key, value in metadata.items()}
    if found.get("format") != FORMAT:
        return None
    expires_s = float(found["expires_s"]) if found["expires_s"] else float("inf")
    return Header(float(found["written_s"]), expires_s, "utc" if found["clock"] == "utc" else "episode")


def _number(path: Path) -> int:
    found = NAME.fullmatch(path.name)
    assert found is not None  # only called for names that fit
    return int(found[1])
