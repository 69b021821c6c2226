"""Sessions that pause: how likely one asks again soon, by its task, its length so far and how long it has been silent.

A session at a model *pauses* from the moment when its last request there has finished until it asks the model again.
`AgainTable` says how likely that is within the next 1, 5 and 15 minutes. One that was fitted on training workloads
ships; `python -m experiments.sessions` fits another, on a log of one's own for example, and a scenario's key `sessions`
names its file. Observations sum the table up for each model (`cace_env.kernel.features`).
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from cace_env.config import Frozen, Line, parse, read_json
from cace_env.files import replace_file
from cace_env.tables import TASKS, FloatArray, TableError

AGAIN_WITHIN_S: Final = (60, 300, 900)
AGAIN_STEPS: Final = 4  # the first request of a session at a model, its second, its third, and all later ones
AGAIN_AGES_S: Final = (0, *(1 << age for age in range(10)))  # ages of a pause begin at each but the last
AGAIN_SHAPE: Final = (len(TASKS), AGAIN_STEPS, len(AGAIN_AGES_S) - 1, len(AGAIN_WITHIN_S))
ROWS: Final = AGAIN_SHAPE[0] * AGAIN_SHAPE[1] * AGAIN_SHAPE[2]
DIGITS: Final = 4  # of a probability in a file
SHIPPED: Final = "sessions.json"  # in the folder `data` of the package

Chance = Annotated[float, Field(ge=0, le=1)]


class AgainTable(Frozen):
    """Probability that a pause ends within each of `AGAIN_WITHIN_S`; a file in JSON."""

    format: Literal["cace-env sessions 1"] = "cace-env sessions 1"
    source: Line = Field(min_length=1, description="what it was fitted on")
    pauses: int = Field(ge=0, description="how many pauses it was fitted on")
    again: tuple[tuple[Chance, Chance, Chance], ...] = Field(
        min_length=ROWS,
        max_length=ROWS,
        description="a row for each task, then number of the last request (`AGAIN_STEPS`), "
        "then range of ages (`AGAIN_AGES_S`)",
    )

    @property
    def array(self) -> FloatArray:
        """The table as `FleetTables.again` has it, `AGAIN_SHAPE`."""
        return np.array(self.again, dtype=np.float64).reshape(AGAIN_SHAPE)


def read_table(path: str | Path) -> FloatArray:
    """The table in a file that `python -m experiments.sessions` wrote, `AGAIN_SHAPE`.

    Raises:
        ConfigError: there is no such file, or it is not such a table.
    """
    return parse(AgainTable, read_json(path), str(path)).array


def write_table(table: AgainTable, path: str | Path) -> None:
    """Write a table, a row to a line.

    Raises:
        OSError: it cannot be written; an old file stands.
    """
    head = json.dumps(table.model_dump(mode="json", exclude={"again"}), indent=1)[:-2]
    rows = ",\n".join(f"  {json.dumps([round(chance, DIGITS) for chance in row])}" for row in table.again)
    replace_file(Path(path), f'{head},\n "again": [\n{rows}\n ]\n}}\n')


def checked_table(again: FloatArray | None) -> FloatArray:
    """`FleetTables.again`; None stands for the table that ships.

    Raises:
        TableError: it has another shape or type, or an entry is no probability.
    """
    if again is None:
        return shipped_table()
    if again.shape != AGAIN_SHAPE or again.dtype != np.float64:
        raise TableError(
            f"again is {again.dtype} {again.shape}; it has to be an array of float64 of shape {AGAIN_SHAPE}"
        )
    if not ((again >= 0) & (again <= 1)).all():
        raise TableError("again: every entry is a probability; it has to be 0 to 1")
    return again


@cache
def shipped_table() -> FloatArray:
    """The table that ships, `AGAIN_SHAPE`; it cannot be written to."""
    with resources.as_file(resources.files("cace_env") / "data" / SHIPPED) as path:
        table = read_table(path)
    table.setflags(write=False)
    return table
