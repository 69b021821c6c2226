"""Limits on what is read of a log, and opening one within them: no devices, no gzip bombs, no endless rows or hours."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

import pydantic

from cace_env.config import Frozen

GZIP_MAGIC: Final = b"\x1f\x8b"
UNCHECKED_BYTES: Final = 64 << 20  # of unpacked data, before its size is compared with that of the packed file


class TraceError(ValueError):
    """A trace cannot be used; the message names file, row, column and remedy, and never the value of a cell.

    Rows are counted from 1, without the header of a CSV file.
    """


class Limits(Frozen):
    """How much of a log is read before it is refused."""

    row_mb: float = pydantic.Field(default=16.0, gt=0.0)
    """Megabytes of one row; a longer one is a bad row in an import and an error elsewhere."""
    unpacked_ratio: float = pydantic.Field(default=250.0, ge=1.0)
    """Unpacked over packed bytes of a gzip file, beyond the first 64 MiB. Logs reach 5 to 50, a gzip bomb 1,000."""
    seconds: float = pydantic.Field(default=3600.0, gt=0.0)
    """Time for the whole file."""

    @property
    def row_bytes(self) -> int:
        """`row_mb` in bytes."""
        return int(self.row_mb * 1e6)


DEFAULT_LIMITS: Final = Limits.model_construct(row_mb=16.0, unpacked_ratio=250.0, seconds=3600.0)


class Deadline:
    """Refuses to go on after some seconds."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.end = time.monotonic() + seconds

    def check(self) -> None:
        """Compare with the clock.

        Raises:
            TraceError: the time is over.
        """
        if time.monotonic() > self.end:
            raise TraceError(
                f"{self.path}: reading took longer than {self.seconds:,.0f} s; read a part of it, or allow more seconds"
            )


class _Counted(io.RawIOBase):
    """A file that ends where it ended when it was opened, unpacked if it is gzipped, and gives up at a gzip bomb."""

    def __init__(self, file: IO[bytes], path: Path, size: int, limits: Limits) -> None:
        self.path, self.limits, self.size = path, limits, size
        self.packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        self.file = file
        self.source: Any = gzip.GzipFile(fileobj=file, mode="rb") if self.packed else file
        self.deadline = Deadline(path, limits.seconds)
        self.done = 0  # unpacked bytes so far

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.deadline.check()
        wanted = len(buffer) if self.packed else min(len(buffer), self.size - self.done)
        chunk = self.source.read(wanted)
        buffer[: len(chunk)] = chunk
        self.done += len(chunk)
        if self.packed and self.done > max(UNCHECKED_BYTES, self.size * self.limits.unpacked_ratio):
            raise TraceError(
                f"{self.path}: unpacks to more than {self.limits.unpacked_ratio:g} times its size, as a gzip bomb "
                "does; if you trust it, unpack it yourself (gunzip -k) and name the unpacked file"
            )
        return len(chunk)

    def close(self) -> None:
        if not self.closed and self.packed:
            self.source.close()
        super().close()


@contextlib.contextmanager
def opened(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[io.BufferedReader]:
    """A log, opened for reading; bytes of a gzipped one come unpacked. What is appended meanwhile is not read.

    Raises:
        TraceError: no such file, not a regular file, empty, damaged, not readable, or beyond the limits.
    """
    with said(path):
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise TraceError(f"{path}: is a directory; name one log file in it")
        if not stat.S_ISREG(kind):  # opening a FIFO would wait, /dev/zero never ends
            raise TraceError(f"{path}: is not a regular file; write the log into one and name that")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise TraceError(f"{path}: is empty; was the download or export cut short?")
            with io.BufferedReader(_Counted(file, path, size, limits), 1 << 20) as buffered:
                yield cast(io.BufferedReader, buffered)


@contextlib.contextmanager
def said(path: Path) -> Iterator[None]:
    """What goes wrong with the file `path` as a `TraceError`, without a word of its content."""
    try:
        yield
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(
            f"{path}: the gzip stream is cut short or damaged ({error}); download the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: is not UTF-8 text (at byte {error.start} of what was read); convert it, for example with iconv "
            "-t utf-8"
        ) from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    except ValueError as error:  # os.stat of a path with NUL
        if isinstance(error, TraceError) or "null byte" not in str(error):
            raise
        raise TraceError(f"{str(path)!r}: is no path; it contains NUL") from None


def whole_rows(text: io.TextIOBase, path: Path, limits: Limits) -> Iterator[str]:
    """The lines of a text, none of them longer than a row may be.

    Raises:
        TraceError: a line is longer.
    """
    number = 0
    while line := text.readline(limits.row_bytes):
        number += 1
        if len(line) >= limits.row_bytes:
            raise TraceError(f"{path}: line {number} is longer than {limits.row_mb:g} MB; is it a log of requests?")
        yield line
