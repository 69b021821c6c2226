"""What the board holds: a record of every policy that was played, in one file of JSON, a line each.

Scores, ratios and waits are computed from episodes that were played here, never from what somebody claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field

from cace_env.config import ConfigError, Frozen, Line, parse, read_json
from cace_env.evaluation import Suite, suite_scores
from cace_env.evaluation.results import reference_costs
from cace_env.evaluation.scores import BASELINE, REFERENCE, Estimate, relative_cost
from cace_env.evaluation.suite import Entry
from cace_env.files import replace_file
from cace_env.tables import Protocol
from experiments.board.playing import Played
from experiments.running.run_folder import PATIENT

PATIENT_OF: Final = {
    Protocol.EVICTION: BASELINE,
    Protocol.SWAP: PATIENT,
}  # with LRU's victims
DIGITS: Final = 6  # of numbers that are shown
WHO: Final = "cace-env"  # hands in what ships; nobody else may be called so


class OnEntry(Frozen):
    """A policy on one entry."""

    score: Estimate = Field(description="0 = LRU, 100 = the clairvoyant reference")
    cost: float = Field(description="as a share of LRU's")
    wait: float = Field(description="longest wait, mean over seeds, as a share of patient FIFO's with LRU")


class Record(Frozen):
    """A policy in one environment."""

    name: Line
    env: Protocol
    kind: Line = Field(description="a group of policies, or what was handed in")
    by: Line = Field(description=f"who handed it in; {WHO} for what ships")
    link: Line = ""
    learned_from: Line = Field(description="what it was fitted to")
    clairvoyant: bool = Field(description="whether it knows the future: then it is not ranked")
    content: str = Field(pattern="^[0-9a-f]{16}$", description="hash of what plays")
    costs: str = Field(pattern="^[0-9a-f]{16}$", description="hash of every cost, to the last bit")
    version: Line = Field(description="of cace-env")
    date: Line = Field(description="on which it was played")
    seeds: int = Field(ge=1, description="test seeds of each entry")
    score: Estimate = Field(description="interquartile mean over the entries")
    cost: Estimate = Field(description="mean over the entries of cost / LRU's")
    decision_us: tuple[float, float] = Field(description="median and 99th percentile of a decision [us]")
    entries: dict[str, OnEntry]

    @property
    def worst_wait(self) -> tuple[float, str]:
        """The greatest ratio of waits, and the entry that it is of."""
        return max((on.wait, name) for name, on in self.entries.items())


class Board(Frozen):
    """Records of one version of the suite, those of an environment by score."""

    suite: str
    records: tuple[Record, ...]


def judged(suite: Suite, env: Protocol, played: Played, policies: Iterable[str]) -> dict[str, dict[str, object]]:
    """The numbers of each policy's record, by its name.

    Args:
        suite: what was played.
        env: only its entries.
        played: with LRU and patient FIFO among the policies.
        policies: by name.

    Raises:
        ConfigError: no costs of the reference ship with the suite.
    """
    entries = [entry for entry in suite.entries if entry.env == env]
    wanted = [name for name in dict.fromkeys((BASELINE, *policies)) if (entries[0].id, name) in played.rows]
    costs = {entry.id: {name: played.column(entry.id, name) for name in wanted} for entry in entries}
    with_reference = {
        entry.id: costs[entry.id] | {REFERENCE: reference_costs(suite, entry, played.seeds)} for entry in entries
    }
    scores = suite_scores(with_reference)
    found: dict[str, dict[str, object]] = {}
    for name in wanted:
        mine, lru = ({entry: by_policy[who] for entry, by_policy in costs.items()} for who in (name, BASELINE))
        found[name] = {
            "costs": hash_of(played, entries, name),
            "score": _rounded(scores.means[name]),
            "cost": _rounded(relative_cost(mine, lru)),
            "entries": {
                entry.id: {
                    "score": _rounded(scores.scores[name][entry.id]),
                    "cost": _round(mine[entry.id].sum() / lru[entry.id].sum()),
                    "wait": _round(_wait_s(played, entry, name) / _wait_s(played, entry, PATIENT_OF[env])),
                }
                for entry in entries
            },
        }
    return found


def hash_of(played: Played, entries: Sequence[Entry], policy: str) -> str:
    """Hash of every cost of a policy: policies that decide alike have the same."""
    made = hashlib.sha256()
    for entry in entries:
        made.update(f"{entry.id} {entry.fingerprint()}\n".encode())
        made.update(played.column(entry.id, policy).astype("<f8").tobytes())
    return made.hexdigest()[:16]


def _wait_s(played: Played, entry: Entry, policy: str) -> float:
    return float(played.column(entry.id, policy, "longest_wait_s").mean())


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded(estimate: Estimate) -> Estimate:
    if np.isnan(estimate).any():
        raise ConfigError("a score is missing, because the reference saves too little on some entry; play more seeds")
    return Estimate(*map(_round, estimate))


def read_board(path: Path, suite: str) -> Board:
    """The board of a file; an empty one where there is no file.

    Raises:
        ConfigError: the file is no board, or of another suite.
    """
    if not path.exists():
        return Board(suite=suite, records=())
    board = parse(Board, read_json(path), str(path))
    if board.suite != suite:
        raise ConfigError(f"{path}: is of suite {board.suite!r}, not {suite!r}")
    return board


def write_board(path: Path, board: Board) -> None:
    """A line for every record, so that versions can be compared."""
    lines = ",\n".join(json.dumps(record.model_dump(mode="json")) for record in board.records)
    replace_file(path, f'{{"suite": {json.dumps(board.suite)}, "records": [\n{lines}\n]}}\n')


def merged(board: Board, new: Iterable[Record], keep: bool) -> Board:
    """The board with new records, in place of older ones of the same name.

    Args:
        board: as it was.
        new: records.
        keep: whether older ones stay that have no new one.
    """
    by_name: Mapping[tuple[str, str], Record] = {
        **({(record.env, record.name): record for record in board.records} if keep else {}),
        **{(record.env, record.name): record for record in new},
    }
    ranked = sorted(by_name.values(), key=lambda record: (record.env, -record.score[0], record.name))
    return Board(suite=board.suite, records=tuple(ranked))


def changed_since(old: Board, new: Iterable[Record]) -> list[str]:
    """Records whose costs are not those that were on record, in words."""
    known = {(record.env, record.name, record.content): record for record in old.records}
    found = []
    for record in new:
        before = known.get((record.env, record.name, record.content))
        if before is not None and (before.seeds, before.costs) != (record.seeds, record.costs):
            found.append(
                f"{record.name} in {record.env.env_name}: the same policy has other costs than on {before.date} with "
                f"cace-env {before.version}"
            )
    return found
