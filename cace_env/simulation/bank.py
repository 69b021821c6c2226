"""Workloads as rows of arrays for the kernel: environments share them, and resets reuse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel.state import COLUMN, TIME, Requests, requests_of
from cace_env.workload import Workload

Laid = tuple[Requests, int, int]  # what `requests_of` makes of a workload


class Shelf(NamedTuple):
    """A workload in the bank, and the memory that its simulation needs."""

    row: int
    requests: int
    open_requests: int
    session_pairs: int
    user_pairs: int


class Bank:
    """Rows for workloads: one for each environment, and one for each workload that is kept.

    Args:
        num_envs: rows of one environment each; a new workload replaces the old one.
        kept: number of workloads that are kept under a key.
    """

    def __init__(self, num_envs: int, kept: int) -> None:
        self._rows = num_envs + kept
        self._first_kept = self._next = num_envs
        self._kept: dict[tuple[int, int], Shelf] = {}
        self._held: dict[int, Requests] = {}  # by row: workloads that snapshots share
        self._home: dict[int, int] = {}  # row of a held copy of a kept workload, by its id
        self.times: npt.NDArray[Any] = np.zeros((self._rows, 0, len(TIME)), dtype=np.int64)
        self.columns: npt.NDArray[Any] = np.zeros((self._rows, 0, len(COLUMN)), dtype=np.int32)
        self.open_order: npt.NDArray[Any] = np.zeros((self._rows, 0), dtype=np.int32)

    def holds(self, key: tuple[int, int]) -> bool:
        """Whether a workload is kept under a key."""
        return key in self._kept

    def kept(self, key: tuple[int, int], workload: Callable[[], Workload | Laid]) -> Shelf:
        """The row of a kept workload; `workload` generates it the first time."""
        shelf = self._kept.get(key)
        if shelf is None:
            shelf = self._kept[key] = self.put(self._next, workload())
            self._next += 1
        return shelf

    def put(self, row: int, workload: Workload | Laid) -> Shelf:
        """Write a workload to a row; an environment's own row has the environment's number."""
        requests, session_pairs, user_pairs = requests_of(workload) if isinstance(workload, Workload) else workload
        self._write(row, requests)
        return Shelf(row, len(requests.times), len(requests.open_order), session_pairs, user_pairs)

    def hold(self, row: int, requests: int, opened: int) -> Requests:
        """A lasting copy of the workload of a row: the same object until the row gets another one."""
        held = self._held.get(row)
        if held is None:
            held = Requests(self.times[row, :requests], self.columns[row, :requests], self.open_order[row, :opened])
            if row < self._first_kept:
                held = Requests(*(column.copy() for column in held))  # the next workload overwrites the row
            else:
                self._home[id(held)] = row
            self._held[row] = held
        return held

    def put_back(self, env: int, held: Requests) -> int:
        """The row where an environment finds a held workload; if none has it, it is copied to the environment's own."""
        if self._held.get(env) is held:
            return env
        home = self._home.get(id(held))
        if home is not None:
            return home
        self._write(env, held)
        self._held[env] = held
        return env

    def _write(self, row: int, requests: Requests) -> None:
        """Write a workload to a row; the row's held copy is dropped."""
        self._held.pop(row, None)
        count, opened = len(requests.times), len(requests.open_order)
        if count > self.times.shape[1]:
            self._make_room(count)
        self.times[row, :count] = requests.times
        self.columns[row, :count] = requests.columns
        self.open_order[row, :opened] = requests.open_order

    def _make_room(self, requests: int) -> None:
        """Grow rows to at least `requests`; their content is kept."""
        self.times = self._wider(self.times, requests)
        self.columns = self._wider(self.columns, requests)
        self.open_order = self._wider(self.open_order, requests)

    def _wider(self, old: npt.NDArray[Any], requests: int) -> npt.NDArray[Any]:
        """A wider copy; unused rows take no memory, because the system provides only pages that are written."""
        new = np.zeros((self._rows, requests, *old.shape[2:]), dtype=old.dtype)
        new[: self._next, : old.shape[1]] = old[: self._next]
        return new

    def __getstate__(self) -> dict[str, Any]:
        used = {name: getattr(self, name)[: self._next] for name in ("times", "columns", "open_order")}
        return {**self.__dict__, **used, "_held": {}, "_home": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_room(self.times.shape[1])
