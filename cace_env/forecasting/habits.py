"""Habits: how people use models, task by task, counted in episodes of the past; saved without pickle.

A folder holds `habits.npz`, arrays without pickle, and `habits.json`, a card that says where they come from. Loading it
executes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from cace_env.config import ConfigError, Frozen, Line, parse, read_json, shown
from cace_env.files import read_arrays, replace_file
from cace_env.forecasting.history import MOST_STEPS, NUM_PAUSES
from cace_env.kernel.state import NUM_TASKS

POINTS: Final = 512  # values of each distribution, in ascending order: one for each 1 / POINTS of the cases
PACE_ENDS_S: Final = (15.0, 60.0, math.inf)  # ends of the stretches of a future in which sessions begin at one rate
CARD_FILE, ARRAYS_FILE = "habits.json", "habits.npz"
MOST_BYTES: Final = 1 << 22
SHIPPED: Final = "habits"  # a folder of the package's data

Array = Any


class Habits(NamedTuple):
    """What the sampler draws from; `T` tasks. Float64."""

    gaps_s: Array  # (T, NUM_PAUSES, POINTS) from a finish to the next request of the session, by the gap before
    proceed: Array  # (T, MOST_STEPS + 1) chance that a session with so many requests has another one
    same_model: Array  # (T,) chance that it is for the same model
    loyal: Array  # (T,) chance that a user's next session begins with the same model as his last one of that task
    rate: Array  # (T, 2) gamma law over users of the sessions that they begin: shape, and rate [s]
    first_tokens: Array  # (T, POINTS) prompt of a session's first request
    grown_tokens: Array  # (T, POINTS, 2) prompt of a later one less that before it, and its new tokens; in any order
    output_tokens: Array  # (T, POINTS)
    pace: Array  # (stretches, 3) new sessions in each: of the usual rate, and of those of the last moments and minutes
    fresh: Array  # (1,) chance that a new session has task and model of one of the last minutes, whoever begins it


SHAPES: Final = Habits(
    (NUM_TASKS, NUM_PAUSES, POINTS), (NUM_TASKS, MOST_STEPS + 1), (NUM_TASKS,), (NUM_TASKS,), (NUM_TASKS, 2),
    (NUM_TASKS, POINTS), (NUM_TASKS, POINTS, 2), (NUM_TASKS, POINTS), (len(PACE_ENDS_S), 3), (1,),
)  # fmt: skip


class HabitsCard(Frozen):
    """Where habits come from; the file `habits.json`."""

    format: Literal["cace-env habits 2"] = "cace-env habits 2"
    fitted_on: tuple[Line, ...] = Field(description="scenarios, or logs")
    train_seeds: Line = Field(default="", description="of the episodes that were counted, such as 0-7; none of logs")
    part: Line = Field(default="", description="of each log that was counted; empty where requests were generated")
    requests: int = Field(ge=0, description="requests that were counted")
    command: str = Field(default="", description="the command that fits them again")
    arrays_sha256: str = Field(default="", description="hash of the file of arrays")


def save_habits(habits: Habits, card: HabitsCard, folder: Path) -> None:
    """Write both files, the card last; what is in the folder is replaced."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict[str, Any](habits._asdict()))
    content = packed.getvalue()
    card = card.model_copy(update={"arrays_sha256": hashlib.sha256(content).hexdigest()})
    replace_file(folder / ARRAYS_FILE, content)
    replace_file(folder / CARD_FILE, json.dumps(card.model_dump(mode="json"), indent=2) + "\n")


def load_habits(folder: str | Path | None = None) -> tuple[Habits, HabitsCard]:
    """Load habits from a folder; without one, those that ship.

    Raises:
        ConfigError: the files are missing or are not what was saved.
    """
    if folder is None:
        with resources.as_file(resources.files("cace_env") / "data" / SHIPPED) as shipped:
            return load_habits(shipped)
    where = shown(str(folder))
    try:
        content = (Path(folder) / ARRAYS_FILE).read_bytes()
        card = parse(HabitsCard, read_json(Path(folder) / CARD_FILE), str(folder))
    except OSError as error:
        problem = f"the second cannot be read ({error.strerror})"
        raise ConfigError(f"{where}: habits need {CARD_FILE} and {ARRAYS_FILE}; {problem}") from error
    if hashlib.sha256(content).hexdigest() != card.arrays_sha256:
        raise ConfigError(f"{where}: {ARRAYS_FILE} was not saved with this card; copy both files again")
    try:
        arrays = read_arrays(content, MOST_BYTES)
    except ValueError as error:
        raise ConfigError(f"{where}: {ARRAYS_FILE} is damaged ({error})") from error
    for name, shape in SHAPES._asdict().items():
        array = arrays.get(name)
        if array is None or array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ConfigError(f"{where}: {name} has to be {shape} finite float64; fit the habits again")
    return Habits(**{name: np.ascontiguousarray(arrays[name]) for name in Habits._fields}), card
