"""Writes a run folder (`experiments/running/run_folder.py` says what is in one), and goes on with one."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.evaluation import SeedResult
from cace_env.evaluation.scores import REFERENCE
from cace_env.files import append_file, csv_text, json_text, replace_file
from cace_env.tables import TASKS
from experiments.running.run_files import damaged, read_about
from experiments.running.run_folder import BY_NAME, ROWS_HEADER, SEARCH_HEADER, TTFT_HEADER, WINDOWS_HEADER, Key

BESIDE_ROWS: Final = {"ttft.csv": TTFT_HEADER, "windows.csv": WINDOWS_HEADER, "searches.csv": SEARCH_HEADER}


class RunFolder:
    """Writes a run folder, or goes on with one.

    Args:
        path: a folder that does not exist, is empty, or holds a run whose rows belong to those that are to come.
        about: for run.json; has `command`, and by name `policies`, `scenarios`, `agents` and `fingerprints`.
        agree: the keys of run.json that have to be equal for rows to belong together.
        by_task: keep the metrics of each task and the histograms, too.

    Raises:
        ConfigError: the folder holds something else.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], agree: Sequence[str] = (), *, by_task: bool = True
    ) -> None:
        self.path, self.by_task = path, by_task
        self.header = tuple(name for name in ROWS_HEADER if by_task or not name.startswith(TASKS))
        self.done: set[Key] = set()
        before = self._before(about, agree)
        self._made, self._new = not path.exists(), not before
        self.spent_s = float(before.get("wall_s", 0.0))
        self.about: dict[str, Any] = {**before, **about}
        for key in BY_NAME:  # of all commands that ran in this folder
            self.about[key] = {**before.get(key, {}), **about.get(key, {})}
        self.about["commands"] = list(dict.fromkeys([*before.get("commands", []), about["command"]]))
        path.mkdir(parents=True, exist_ok=True)
        self.describe()

    def describe(self, **more: Any) -> None:
        """Adds to run.json."""
        self.about |= more
        replace_file(self.path / "run.json", json_text(self.about))

    def write(self, name: str, text: str) -> None:
        """A text file in the folder."""
        replace_file(self.path / name, text)

    def append(self, results: Iterable[SeedResult], searches: Iterable[Mapping[str, Any]] = ()) -> None:
        """Adds finished episodes, and how references were found; they are on disk when this returns."""
        results = list(results)
        if self.by_task:
            self._add("ttft.csv", TTFT_HEADER, [row for result in results for row in _histogram(result)])
        self._add("windows.csv", WINDOWS_HEADER, [row for result in results for row in _by_window(result)])
        self._add("searches.csv", SEARCH_HEADER, searches)
        self._add("rows.csv", self.header, [result.row for result in results])
        self.done.update((result.row["scenario"], result.row["policy"], int(result.row["seed"])) for result in results)

    def sort(self) -> None:
        """Puts rows in the order of scenarios, seeds and policies, in which threads do not finish."""
        order = {key: {name: at for at, name in enumerate(self.about[key])} for key in ("scenarios", "policies")}
        for name, header in (("rows.csv", self.header), *BESIDE_ROWS.items()):
            rows = self._taken_over(name, header)
            with damaged(self.path / name):
                keys = [
                    (
                        order["scenarios"][row["scenario"]],
                        int(row["seed"]),
                        order["policies"][row.get("policy", REFERENCE)],
                    )
                    for row in rows
                ]
            if keys != sorted(keys):
                ranked = sorted(range(len(rows)), key=keys.__getitem__)
                self._replace(name, header, [rows[at] for at in ranked])

    def discard(self) -> None:
        """Removes what was written to a new folder: nothing finished that is worth keeping."""
        if not self._new:
            return
        shutil.rmtree(self.path / "scenarios", ignore_errors=True)
        for path in self.path.iterdir():
            path.unlink()
        if self._made:
            self.path.rmdir()

    def _replace(self, name: str, header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a file anew."""
        replace_file(self.path / name, csv_text(header, _cells(header, rows)))

    def _add(self, name: str, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows to a file, which begins with its header."""
        rows, path = list(rows), self.path / name
        if not rows:
            return
        append_file(path, csv_text(() if path.exists() else header, _cells(header, rows)))

    def _before(self, about: Mapping[str, Any], agree: Sequence[str]) -> dict[str, Any]:
        """run.json of an earlier run in this folder, whose rows are taken over."""
        if not check_goes_on(self.path):
            return {}
        before = read_about(self.path / "run.json")
        both = [key for key in agree if key in before and key in about]
        other = [f"{key} {before[key]}, this is {about[key]}" for key in both if before[key] != about[key]]
        for key, what in (("fingerprints", "scenario"), ("policies", "policy")):
            mine, theirs = about.get(key, {}), before.get(key, {})
            other += [f"another {what} called {name!r}" for name in mine if theirs.get(name, mine[name]) != mine[name]]
        if other:
            raise ConfigError(
                f"{self.path} holds a run of {other[0]}: its rows do not belong to these; give another --out, or "
                "remove the folder"
            )
        rows = self._taken_over("rows.csv", self.header)
        with damaged(self.path / "rows.csv"):
            self.done = {(row["scenario"], row["policy"], int(row["seed"])) for row in rows}
        for name, header in BESIDE_ROWS.items():
            self._keep_done(name, header)
        return before

    def _keep_done(self, name: str, header: Sequence[str]) -> None:
        """Drops what belongs to episodes whose row is not there: they are played again."""
        rows = self._taken_over(name, header)
        with damaged(self.path / name):
            kept = [r for r in rows if (r["scenario"], r.get("policy", REFERENCE), int(r["seed"])) in self.done]
        if len(kept) < len(rows):
            self._replace(name, header, kept)

    def _taken_over(self, name: str, header: Sequence[str]) -> list[dict[str, str]]:
        """Rows of a file; one that was cut off while it was written is dropped."""
        path = self.path / name
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if not whole:  # not even the header
            path.unlink()
            return []
        if whole < len(content):
            replace_file(path, content[:whole])
        with damaged(path), path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != tuple(header):
                other = sorted(set(rows.fieldnames or ()) ^ set(header)) or ["their order"]
                raise ConfigError(
                    f"{path} has other columns than this version writes (differing in {', '.join(other)}); give "
                    "another --out, or remove the folder"
                )
            return list(rows)


def _cells(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    return ([row.get(name, "nan") for name in header] for row in rows)


def _histogram(result: SeedResult) -> Iterator[dict[str, Any]]:
    """The times to first token of an episode, a row for each task that was asked."""
    counts = result.whole_ttft_counts
    for task, bins in zip(TASKS, counts, strict=True):
        if bins.any():
            shown = " ".join(f"{bin_}:{bins[bin_]}" for bin_ in np.flatnonzero(bins))
            yield {**{key: result.row[key] for key in ("scenario", "policy", "seed")}, "task": task, "requests": shown}


def _by_window(result: SeedResult) -> Iterator[dict[str, Any]]:
    """What each window of a log had, a row for each; none of generated requests."""
    if result.windows is None:
        return
    for window, values in enumerate(zip(*result.windows.values(), strict=True)):
        kept = {key: result.row[key] for key in ("scenario", "policy", "seed")}
        yield {**kept, "window": window, **dict(zip(result.windows, values, strict=True))}


def check_goes_on(path: Path) -> bool:
    """Whether there is a run to go on with; refuses a place where something else is.

    Raises:
        ConfigError: a file, or a folder that holds no run.
    """
    if os.path.isfile(path / "run.json"):
        return True
    if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            f"{path} exists and holds no run to go on with; results are never overwritten: give another --out"
        )
    return False
