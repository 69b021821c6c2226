"""References kept on disk by content: what was looked for once, on the same requests in the same way, is not again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cace_env.cases import Case
from cace_env.config import ConfigError, read_json
from cace_env.files import replace_file
from cace_env.planning import Reference, find_reference
from cace_env.policies import Future
from cace_env.policies.base import TRAINING_EPISODES
from cace_env.scenarios import seeds
from cace_env.tables import FleetTables
from cace_env.workload import COLUMNS, Workload


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/cace_env/reference`, else `~/.cache/cace_env/reference`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cace_env" / "reference"


@lru_cache
def code_digest(package: str = "cace_env") -> str:
    """Of a whole package: rules, their shipped weights, orders and simulator have a say in what a reference costs."""
    folder = Path(str(files(package)))
    digest = hashlib.sha256()
    for path in sorted(path for ending in ("*.py", "*.yaml") for path in folder.rglob(ending)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def key_of(case: Case, workload: Workload, seed: int, options: Mapping[str, Any]) -> str:
    """Equal where `find_reference` would find the same.

    Args:
        case: the fleet, and the training requests of `static-best`.
        workload: the requests.
        seed: of the episode.
        options: of `find_reference`; the number of threads does not matter.
    """
    settings = {name: options[name] for name in sorted(options) if name != "threads"}
    digest = hashlib.sha256(f"{code_digest()} {seed} {json.dumps(settings)} ".encode())
    _add_tables(digest, case.tables)
    _add_workload(digest, workload)
    if case.training is not None:
        for training_seed in seeds("train", TRAINING_EPISODES):
            _add_workload(digest, case.training(training_seed))
    return digest.hexdigest()


def _add_tables(digest: Any, tables: FleetTables) -> None:
    """Every field of the fleet."""
    for name, value in asdict(tables).items():
        digest.update(f"{name}=".encode())
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, content in parts:
            plain = content.tobytes() if isinstance(content, np.ndarray) else repr(content).encode()
            digest.update(part.encode() + plain)


def _add_workload(digest: Any, workload: Workload) -> None:
    """Every column of the requests."""
    for name in COLUMNS:
        column = np.asarray(getattr(workload, name))
        digest.update(f"{name} {column.dtype} {len(column)}".encode() + column.tobytes())


def cached_reference(
    folder: Path, case: Case, workload: Workload, seed: int, options: Mapping[str, Any]
) -> tuple[Reference, bool]:
    """The reference of an episode, and whether it was there already.

    Args:
        folder: of the cache; made where it is missing.
        case: the fleet.
        workload: the requests.
        seed: of the episode.
        options: of `find_reference`.

    Raises:
        ConfigError: options out of range.
    """
    path = folder / f"{key_of(case, workload, seed, options)}.json"
    kept = kept_reference(path)
    if kept is not None:
        return kept, True
    found = find_reference(case, workload, Future.of(case.tables, workload), seed, **options)
    keep_reference(path, found)
    return found, False


def keep_reference(path: Path, found: Reference) -> None:
    """Writes a reference."""
    replace_file(path, json.dumps(asdict(found) | {"plan": found.plan.tolist()}))


def kept_reference(path: Path) -> Reference | None:
    """A reference as it was written; floats come back to the bit. None where there is none.

    Raises:
        ConfigError: the file is no reference.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        content["plan"] = np.array(content["plan"], dtype=np.int64)
        content["rounds"] = tuple(content["rounds"])
        return Reference(**content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: is no reference ({error}); remove it, and it is looked for again") from error
