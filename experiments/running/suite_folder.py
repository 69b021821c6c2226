"""The run folder of a suite: rows are on disk as soon as an episode has finished, so a killed run goes on where it was.

run.json       which suite, versions, policies, entries with their fingerprints, commands, seconds, whether it finished
suite.yaml     the suite in full
rows.csv       one row per entry (column `scenario`), policy and seed: the metrics of all tasks together
searches.csv   how the reference was found: one row per entry and seed
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cace_env.compilation import PACKAGE
from cace_env.config import ConfigError
from cace_env.simulation import METRICS
from cace_env.tables import TASKS
from experiments.running.run_folder import KEYS

# A suite has many rows: numbers by task are left to comparisons.
SUITE_HEADER: Final = (*KEYS, *(name for name in METRICS if not name.startswith(TASKS)))
Key = tuple[str, str, int]  # entry, policy, seed
SEARCH_HEADER: Final = ("scenario", "seed", "base", "base_cost", "cost", "rounds", "replays", "wall_s")
# Keys of run.json that have to be equal for rows to belong together; a run without the reference has not the last.
MUST_AGREE: Final = ("suite", "split", "fingerprints", "code", "reference_options")


class SuiteFolder:
    """Writes the run folder of a suite, or goes on with one.

    Args:
        path: a folder that does not exist, is empty, or holds a run of the same suite by the same code.
        about: for run.json; has the keys of `MUST_AGREE`, `command`, `policies` and `scenarios`.

    Raises:
        ConfigError: the folder holds something else, or a run whose rows would not belong to these.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[Key] = set()
        before = self._before(about)
        self.spent_s = float(before.get("wall_s", 0.0))
        self.about: dict[str, Any] = {**before, **about}
        for key in ("policies", "scenarios", "agents"):  # of all commands that ran in this folder
            self.about[key] = {**before.get(key, {}), **about.get(key, {})}
        self.about["commands"] = list(dict.fromkeys([*before.get("commands", []), about["command"]]))
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
        rows = list(rows)
        self._write("rows.csv", SUITE_HEADER, rows)
        self.done.update((row["scenario"], row["policy"], row["seed"]) for row in rows)

    def note_search(self, **search: Any) -> None:
        """Adds how the reference of an episode was found; has the keys of `SEARCH_HEADER`."""
        self._write("searches.csv", SEARCH_HEADER, [search])

    def _write(self, name: str, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows to a file, which begins with its header."""
        path = self.path / name
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, restval="nan", extrasaction="ignore", lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows(rows)

    def _before(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """run.json of an earlier run in this folder, whose rows are taken over."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return {}
        if not (self.path / "run.json").is_file():
            raise ConfigError(f"{self.path} exists and holds no run of a suite; give another --out")
        before: dict[str, Any] = json.loads((self.path / "run.json").read_text("utf-8"))
        for key in MUST_AGREE:
            if key in before and key in about and before[key] != about[key]:
                what = "other entries" if key == "fingerprints" else f"{key} {before[key]}, this is {about[key]}"
                raise ConfigError(
                    f"{self.path} holds a run of {what}: its rows do not belong to these; give another --out, or "
                    "remove the folder"
                )
        rows = self._taken_over("rows.csv", SUITE_HEADER)
        self.done = {(row["scenario"], row["policy"], int(row["seed"])) for row in rows}
        self._taken_over("searches.csv", SEARCH_HEADER)
        return before

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
            path.write_bytes(content[:whole])
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != tuple(header):
                other = sorted(set(rows.fieldnames or ()) ^ set(header)) or ["their order"]
                raise ConfigError(
                    f"{path} has other columns than this version writes (differing in {', '.join(other)}); give "
                    "another --out, or remove the folder"
                )
            return list(rows)


def package_hash(package: Path = PACKAGE) -> str:
    """Hash of every module of a package, in 16 hexadecimal digits: results may depend on any of them."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0{path.read_text('utf-8')}\0".encode())
    return digest.hexdigest()[:16]
