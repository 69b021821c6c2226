"""Requests in order of time with bounded memory: sorted runs on disk, merged a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

RUN_ROWS: Final = 250_000  # at most, of a run: about 30 MB
PIECE_ROWS: Final = 1 << 13  # of a run that are in memory while runs are merged


class Runs:
    """Tables of requests, put into order of `time`; rows of the same time stay as they came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.files: list[Path] = []

    def add(self, table: pa.Table) -> None:
        """Take in some requests."""
        if table.num_rows:
            self.waiting.append(table)
            self.rows += table.num_rows
        if self.rows >= RUN_ROWS:
            self._write()

    def _write(self) -> None:
        run = _sorted(pa.concat_tables(self.waiting, promote_options="default"))
        path = self.folder / f"run-{len(self.files)}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, run.schema) as writer:
            writer.write_table(run, max_chunksize=PIECE_ROWS)
        self.files.append(path)
        self.waiting, self.rows = [], 0

    def merged(self) -> Iterator[pa.Table]:
        """All requests in order of time, in pieces."""
        if not self.files:
            if self.waiting:
                yield _sorted(pa.concat_tables(self.waiting, promote_options="default"))
            return
        if self.waiting:
            self._write()
        runs = [_Run(path) for path in self.files]
        while runs := [run for run in runs if run.piece is not None]:
            # Nothing before the earliest end of a piece can still come from any run.
            bound = min(run.piece["time"][-1].as_py() for run in runs)
            yield _sorted(pa.concat_tables([run.up_to(bound) for run in runs], promote_options="default"))


class _Run:
    """A sorted run on disk, a piece of it in memory."""

    def __init__(self, path: Path) -> None:
        self.file = pa.ipc.open_file(pa.OSFile(str(path), "rb"))
        self.next = 0
        self.piece: Any = None
        self._read()

    def _read(self) -> None:
        self.piece = None
        if self.next < self.file.num_record_batches:
            self.piece = pa.Table.from_batches([self.file.get_batch(self.next)])
            self.next += 1

    def up_to(self, bound: int) -> pa.Table:
        """The rows of the piece whose time is at most `bound`; they leave it."""
        count = pc.sum(pc.less_equal(self.piece["time"], bound)).as_py()
        taken = self.piece.slice(0, count)
        if count == self.piece.num_rows:
            self._read()
        else:
            self.piece = self.piece.slice(count)
        return taken


def _sorted(table: pa.Table) -> pa.Table:
    time = table["time"].to_numpy()
    if (time[1:] >= time[:-1]).all():
        return table
    return table.take(pc.sort_indices(table["time"]))
