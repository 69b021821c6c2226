"""The run folder of a suite: rows are on disk as soon as an episode has finished, so a killed run goes on where it was.

run.json       which suite, versions, policies, entries with their fingerprints, seconds so far, whether it finished
suite.yaml     the suite in full
rows.csv       one row per entry (column `scenario`), policy and seed: the metrics of all tasks together
searches.csv   how the reference was found: one row per entry and seed
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cace_env.config import ConfigError
from cace_env.metrics import METRICS
from cace_env.tables import TASKS
from experiments.run_folder import KEYS

# A suite has many rows: numbers by task are left to comparisons.
SUITE_HEADER: Final = (*KEYS, *(name for name in METRICS if not name.startswith(TASKS)))
Key = tuple[str, str, int]  # entry, policy, seed
SEARCH_HEADER: Final = ("scenario", "seed", "base", "base_cost", "cost", "rounds", "replays", "wall_s")
MUST_AGREE: Final = (
    "suite",
    "split",
    "fingerprints",
    "code",
    "reference_options",
)  # of run.json, for rows to belong together


class SuiteFolder:
    """Writes the run folder of a suite, or goes on with one.

    Args:
        path: a folder that does not exist, is empty, or holds a run of the same suite by the same code.
        about: for run.json; has the keys of `MUST_AGREE`.

    Raises:
        ConfigError: the folder holds something else, or a run whose rows would not belong to these.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[Key] = set()
        before = self._before(about)
        self.spent_s = float(before.get("wall_s", 0.0))
        policies = {**before.get("policies", {}), **about["policies"]}
        self.about: dict[str, Any] = {**before, **about, "policies": policies}
        path.mkdir(parents=True, exist_ok=True)
        self.describe()

    def describe(self, **more: Any) -> None:
        """Adds to run.json."""
        self.about |= more
        unfinished = self.path / "run.json.part"
        unfinished.write_text(json.dumps(self.about, indent=2, allow_nan=False) + "\n", "utf-8")
        unfinished.replace(self.path / "run.json")  # whoever is killed here leaves the one before

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds finished episodes; they are on disk when this returns."""
        path = self.path / "rows.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, SUITE_HEADER, restval="nan", extrasaction="ignore", lineterminator="\n")
            if fresh:
                writer.writeheader()
            for row in rows:
                writer.writerow(row)
                self.done.add((row["scenario"], row["policy"], row["seed"]))

    def note_search(self, **search: Any) -> None:
        """Adds how the reference of an episode was found; has the keys of `SEARCH_HEADER`."""
        path = self.path / "searches.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, SEARCH_HEADER, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(search)

    def _before(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """run.json of an earlier run in this folder, whose rows are taken over."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return {}
        if not (self.path / "run.json").is_file():
            raise ConfigError(f"{self.path} exists and holds no run of a suite; give another --out")
        before: dict[str, Any] = json.loads((self.path / "run.json").read_text("utf-8"))
        for key in MUST_AGREE:
            if before.get(key) != about[key]:
                what = "other entries" if key == "fingerprints" else f"{key} {before.get(key)}, this is {about[key]}"
                raise ConfigError(
                    f"{self.path} holds a run of {what}: its rows do not belong to these; give another --out, or "
                    "remove the folder"
                )
        self._take_over()
        return before

    def _take_over(self) -> None:
        """Finds out what is done; a row that was cut off while it was written is dropped."""
        path = self.path / "rows.csv"
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            path.write_bytes(content[:whole])
        with path.open(newline="", encoding="utf-8") as file:
            self.done = {(row["scenario"], row["policy"], int(row["seed"])) for row in csv.DictReader(file)}
        if not whole:
            path.unlink()
