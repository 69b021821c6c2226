"""Results on a suite as a file that others can read, check and compare: a header in YAML, then a table in CSV.

    # suite: v1
    # policy: my-policy
    # ...
    entry,policy,seed,cost,ttft_mean_s,e2e_mean_s,longest_wait_s,evictions
    eviction-default,lru,2000000,5480.1234,...

Lines of the header begin with `# `, so `pandas.read_csv(file, comment="#")` reads the table. Next to the policy's rows
are those of LRU on the same machine: they tell whether the policy ran on the same requests in the same simulator. The
reference costs that ship with a suite are also such a file. `docs/suite.md` describes the format,
`python -m experiments.submission` writes and checks it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import yaml
from pydantic import Field

import cace_env
from cace_env.config import (
    MOST_JSON_BYTES,
    SHOWN,
    ConfigError,
    Frozen,
    Line,
    parse,
    parse_yaml,
    printable,
    read_text,
    shown,
)
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.evaluation.suite import Entry, Suite
from cace_env.files import csv_text, replace_file
from cace_env.tables import FloatArray

MARK: Final = "# "  # start of each line of the header
KINDS: Final[dict[str, type]] = {"entry": str, "policy": str, "seed": int, "evictions": int}  # other columns: float
SIGNIFICANT: Final = 7  # digits of all columns except the cost, which is exact


class Row(NamedTuple):
    """One episode in the table."""

    entry: str
    policy: str
    seed: int
    cost: float  # exact: the same episode gives the same bits on every machine
    ttft_mean_s: float
    e2e_mean_s: float
    longest_wait_s: float
    evictions: int


class Header(Frozen):
    """The header of a results file: what was run."""

    suite: str = Field(description="version of the suite")
    policy: Line = Field(min_length=1, description="name of the policy, as in the column `policy`")
    description: str = Field(min_length=1, description="what the policy does, in one line")
    clairvoyant: bool = Field(description="whether it knows the future: then it is not ranked")
    trained_on: str = Field(
        min_length=1, description='what its parameters were fitted on: seeds, scenarios, logs; "nothing" if it has none'
    )
    simulated_requests: int = Field(ge=0, description="requests simulated to fit it, over all trials; 0 if none")
    code: str = Field(min_length=1, description="location of its code: a release, a commit or an address")
    cace_env: str = Field(description="version of cace-env that made the results")
    fingerprints: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{16}$")]] = Field(
        description="fingerprint of each entry, see cace_env.evaluation.suite.Entry.fingerprint"
    )
    settings: dict[str, Any] = Field(default={}, description="anything else that readers may want to know")


@dataclass(frozen=True)
class Results:
    """A results file."""

    header: Header
    rows: tuple[Row, ...]
    source: str = "results"  # starts error messages

    def column(self, entry: str, policy: str, seeds: Sequence[int], name: str = "cost") -> FloatArray:
        """A column of one policy on one entry, in the order of `seeds`.

        Raises:
            ConfigError: a seed has no row.
        """
        by_seed = self._by_seed.get((entry, policy), {})
        missing = [seed for seed in seeds if seed not in by_seed]
        if missing:
            raise ConfigError(
                f"{self.source}: {policy} on {entry}: {len(missing)} of {len(seeds)} seeds have no row (the first is "
                f"{missing[0]})"
            )
        return np.array([getattr(by_seed[seed], name) for seed in seeds], dtype=np.float64)

    def check_fingerprint(self, entry: Entry) -> None:
        """Check that an entry has not changed since the results were made.

        Raises:
            ConfigError: it has changed; the message names both fingerprints.
        """
        theirs, ours = self.header.fingerprints.get(entry.id), entry.fingerprint()
        if theirs is None:
            raise ConfigError(f"{self.source}: the header has no fingerprint for entry {entry.id!r}; it is {ours} here")
        if theirs != ours:
            raise ConfigError(
                f"{self.source}: entry {entry.id!r} has the fingerprint {theirs}, but {ours} here: its fleet, "
                f"workload or rules differ between cace-env {self.header.cace_env} (the file) and "
                f"{cace_env.__version__} (this one); use the same version and suite, or run the policy again"
            )

    @cached_property
    def _by_seed(self) -> dict[tuple[str, str], dict[int, Row]]:
        """Rows by (entry, policy), then by seed."""
        rows: dict[tuple[str, str], dict[int, Row]] = {}
        for row in self.rows:
            rows.setdefault((row.entry, row.policy), {})[row.seed] = row
        return rows


def row_of(entry: str, result: Mapping[str, Any]) -> Row:
    """Make a row from the metrics of an episode (`cace_env.evaluation.SeedResult.row`)."""
    ttft_s, e2e_s, wait_s = (
        float(f"{result[name]:.{SIGNIFICANT}g}") for name in ("ttft_mean_s", "e2e_mean_s", "longest_wait_s")
    )
    seed, cost, evictions = int(result["seed"]), float(result["cost"]), int(result["evictions"])
    return Row(entry, result["policy"], seed, cost, ttft_s, e2e_s, wait_s, evictions)


def write_results(path: str | Path, results: Results) -> None:
    """Write a results file; an existing one is replaced."""
    header = yaml.safe_dump(results.header.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    marked = "".join(f"{MARK}{line}\n" for line in header.splitlines())
    replace_file(Path(path), marked + csv_text(Row._fields, results.rows))


def read_results(path: str | Path) -> Results:
    """Read a results file; its form is checked, but not its numbers (`experiments.submission` does that).

    Raises:
        ConfigError: there is no such file, or it is not valid; the message names line, column and problem.
    """
    lines = read_text(path, MOST_JSON_BYTES).splitlines()
    top = next((at for at, line in enumerate(lines) if not line.startswith(MARK.strip())), len(lines))
    text = "\n".join(line.removeprefix(MARK) for line in lines[:top])
    header = parse_yaml(text, f"{path}: the header (lines that begin with {MARK!r})")
    if not isinstance(header, dict):
        raise ConfigError(f"{path}: the file has to begin with a header: lines `{MARK}key: value`, see docs/suite.md")
    table = csv.reader(lines[top:])
    try:
        columns, *cells_of = list(table) or [[]]
    except csv.Error as error:
        raise ConfigError(f"{path}: line {top + table.line_num} is not CSV ({error})") from error
    if tuple(columns) != Row._fields:
        raise ConfigError(
            f"{path}: line {top + 1}: the columns are {shown(','.join(columns))}; "
            f"they have to be {','.join(Row._fields)}"
        )
    rows = tuple(_row(f"{path}: line {top + 1 + number}", cells) for number, cells in enumerate(cells_of, start=1))
    seen: set[tuple[str, str, int]] = set()
    for number, row in enumerate(rows, start=1):
        if row[:3] in seen:
            raise ConfigError(
                f"{path}: line {top + 1 + number}: {row.policy} on {row.entry}, seed {row.seed} appears twice; keep one"
            )
        seen.add(row[:3])
    return Results(parse(Header, header, str(path)), rows, str(path))


def _row(where: str, cells: Sequence[str]) -> Row:
    """Parse a row, cell by cell."""
    if len(cells) != len(Row._fields):
        raise ConfigError(f"{where}: {len(cells)} cells; there have to be {len(Row._fields)}, one per column")
    values: list[Any] = []
    for name, cell in zip(Row._fields, cells, strict=True):
        kind = KINDS.get(name, float)
        try:
            value = kind(cell)
        except ValueError:
            number = "whole number" if kind is int else "number"
            raise ConfigError(f"{where}: {name} is {shown(cell)}; it has to be a {number}") from None
        if not isinstance(value, str) and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{where}: {name} is {printable(cell, SHOWN)}; it has to be finite and at least 0")
        values.append(value)
    return Row(*values)


@lru_cache(maxsize=4)
def published(version: str) -> Results | None:
    """Load the costs of LRU and of the reference that ship with a suite; None if none ship.

    Raises:
        ConfigError: the file is damaged.
    """
    file = resources.files("cace_env") / "data" / "suites" / f"{version}-costs.csv"
    if not file.is_file():
        return None
    with resources.as_file(file) as path:
        return read_results(path)


def reference_costs(suite: Suite, entry: Entry, seeds: Sequence[int]) -> FloatArray:
    """Load the costs of the clairvoyant reference on an entry from the table that ships with the suite, `(seeds,)`.

    Raises:
        ConfigError: none ship with it, the entry has changed since they were computed, or a seed is missing.
    """
    results = published(suite.version)
    again = f"python -m experiments.suite --suite {suite.version} computes them"
    if results is None:
        raise ConfigError(f"no reference costs ship with suite {suite.version}; {again}")
    results.check_fingerprint(entry)
    try:
        return results.column(entry.id, REFERENCE, seeds)
    except ConfigError as error:
        raise ConfigError(f"{error}; {again}") from error


def policies_of(header: Header) -> tuple[str, ...]:
    """Policies whose rows a file with this header has to hold."""
    return tuple(dict.fromkeys((BASELINE, header.policy)))
