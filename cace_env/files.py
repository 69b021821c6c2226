"""Files: replaced whole, so that readers find the old or the new one even if the writer is killed; CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def replace_file(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write a file beside the old one, wait until it is on disk, and replace the old one; missing folders are made.

    Args:
        path: of the file.
        content: text is written as UTF-8.
        mode: who may read and write it, less what the umask of the process forbids; 0o600: its owner alone.

    Raises:
        OSError: a full disk, no permission, a path that cannot be; the old file stands, and nothing half-written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.unlink(missing_ok=True)
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(_encoded(content) if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _encoded(text: str) -> bytes:
    """UTF-8; lone surrogates, of which names of files that are no UTF-8 consist, as escapes."""
    return text.encode("utf-8", "backslashreplace")


def append_file(path: Path, text: str) -> None:
    """Add text to the end of a file; all of it or nothing.

    Raises:
        OSError: a full disk, no permission; the file is as it was.
    """
    content = _encoded(text)
    with path.open("ab", buffering=0) as file:  # a buffer would be written once more as the file is closed
        before = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(before)
            raise


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV; without a header its rows alone, to be appended."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header] if header else [])
    writer.writerows(rows)
    return text.getvalue()


def json_text(content: Any) -> str:
    """Plain data as JSON over several lines; numbers that it has no word for (NaN, infinity) become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_arrays(content: bytes, most_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file by name; no pickle in it is opened.

    Args:
        content: of the file.
        most_bytes: of all arrays together, unpacked.

    Raises:
        ValueError: it is no such file, is damaged, or holds more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(part.file_size for part in packed.infolist())
            if size > most_bytes:
                raise ValueError(f"its arrays take {size} bytes, at most {most_bytes} are read")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
    except ValueError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for files that somebody damaged
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # NumPy gives what it does not know as bytes
            raise ValueError(f"{name!r} is no array")
    return found


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """A figure of Matplotlib as a file, by `replace_file`; the ending of the path says which format.

    Args:
        figure: of Matplotlib.
        path: of the picture.
        **options: of `Figure.savefig`.
    """
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    replace_file(path, content.getvalue())
