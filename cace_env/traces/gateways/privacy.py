"""What makes requests those of nobody: keyed hashes of users and sessions, rounded times, no rare users."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cace_env.traces.limits import TraceError, opened

SHORTEST_KEY: Final = 16  # bytes
LONGEST_KEY: Final = 4_096
MAKE_ONE: Final = "make one, once, with `(umask 077; openssl rand -hex 32 > {})`"
DIGITS: Final = 16  # of a hash: two of 10 million users are alike with a chance of 1 in 400,000


def read_key(file: str | Path | None, variable: str | None) -> bytes | None:
    """The key of the hashes, from a file or from a variable of the environment; None if neither is named.

    Raises:
        TraceError: both are named, the named one is missing, or the key is too short or too long.
    """
    if file is not None and variable is not None:
        raise TraceError("a key comes from --key-file or from --key-env; give one of them")
    if variable is not None:
        if variable not in os.environ:
            raise TraceError(f"--key-env {variable}: there is no such variable; export it first")
        key, where = os.environb[variable.encode()].strip(), f"--key-env {variable}"
    elif file is not None:
        key, where = _content(Path(file)), f"--key-file {file}"
    else:
        return None
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise TraceError(
            f"{where}: holds {len(key)} bytes, a key has {SHORTEST_KEY} to {LONGEST_KEY}; "
            + MAKE_ONE.format(file or "import.key")
        )
    return key


def _content(file: Path) -> bytes:
    """The first bytes of a file; none of an empty one."""
    if not file.exists():
        raise TraceError(f"--key-file {file}: no such file; {MAKE_ONE.format(file)}")
    if file.is_file() and file.stat().st_size == 0:
        return b""
    with opened(file) as content:
        return content.read(LONGEST_KEY + 1).strip()


def hashed(column: pa.ChunkedArray, key: bytes, what: str) -> pa.Array:
    """Texts as HMAC-SHA256 under `key`, cut to 16 hexadecimal digits; null stays null.

    `what` ("user", "session") goes into the hash, so that a name used for both becomes two.
    """
    coded = column.combine_chunks()
    coded = (coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
    prefix = what.encode() + b"\x00"
    digests = [
        hmac.digest(key, prefix + name.encode(), hashlib.sha256).hex()[:DIGITS] for name in coded.dictionary.to_pylist()
    ]
    return pa.array(digests, pa.string()).take(coded.indices)


def rounded(time: pa.ChunkedArray, seconds: float) -> pa.Array:
    """Times [us] cut down to whole multiples of some seconds."""
    step = max(1, round(seconds * 1e6))
    return pa.array(time.to_numpy() // step * step)


def count_users(users: Counter[str], column: pa.ChunkedArray) -> None:
    """Add the requests of each user of a table."""
    for entry in pc.value_counts(column.combine_chunks()).to_pylist():
        if entry["values"] is not None:
            users[entry["values"]] += entry["counts"]


def without_rare(table: pa.Table, frequent: pa.Array) -> pa.Table:
    """The requests of frequent users, and those without a user."""
    keep = pc.or_(pc.is_in(table["user"], frequent), pc.is_null(table["user"]))
    return table.filter(keep)
