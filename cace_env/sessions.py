"""Sessions that pause: how many of them ask again, and when, by task, length so far and time of silence.

A session at a model *pauses* from the moment when its last request there has finished until it asks the model again.
`Survival` says how many pauses last longer than a time, and how many never end. From it follows how likely a pause ends
within the next 1, 5 and 15 minutes (`again_of`), which observations sum up for each model (`cace_env.kernel.features`),
and what the forecaster `cace_env.forecasting.Survivors` expects. One that was fitted on training seeds ships;
`python -m experiments.sessions` fits another, on a log of one's own for example, and a scenario's key `sessions` names
its file.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cace_env.config import Frozen, Line, parse, read_json
from cace_env.files import replace_file
from cace_env.tables import TASKS, FloatArray, TableError

AGAIN_WITHIN_S: Final = (60, 300, 900)
AGAIN_STEPS: Final = 4  # the first request of a session at a model, its second, its third, and all later ones
AGAIN_AGES_S: Final = (0, *(1 << age for age in range(10)))  # ages of a pause begin at each but the last
AGAIN_SHAPE: Final = (len(TASKS), AGAIN_STEPS, len(AGAIN_AGES_S) - 1, len(AGAIN_WITHIN_S))
GRID_S: Final = np.concatenate([[0.0], np.geomspace(1.0, 7200.0, 40)])  # lengths of pauses
POINTS: Final = 32  # of a range of ages, at which curves are read
AGAIN_DIGITS: Final = 4
SHIPPED: Final = "sessions.json"  # in the folder `data` of the package

Share = Annotated[float, Field(ge=0, le=1)]


class Survival(Frozen):
    """Curves of pauses; a file in JSON."""

    format: Literal["cace-env sessions 1"] = "cace-env sessions 1"
    source: Line = Field(min_length=1, description="what they were fitted on")
    pauses: int = Field(ge=0, description="how many pauses they were fitted on")
    lasts: tuple[tuple[tuple[Share, ...], ...], ...] = Field(
        description="by task, number of the last request (`AGAIN_STEPS`), `GRID_S`: share of pauses that last longer"
    )
    follow: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = Field(
        description="by task, by `GRID_S`: further requests of a session within that time after one of them"
    )

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        grid = len(GRID_S)
        for name, shape in (("lasts", (len(TASKS), AGAIN_STEPS, grid)), ("follow", (len(TASKS), grid))):
            try:
                rows = np.array(getattr(self, name), dtype=np.float64)
            except ValueError:  # rows of different lengths
                rows = np.zeros(0)
            if rows.shape != shape:
                raise ValueError(f"{name} has to have the shape {shape}; `python -m experiments.sessions` writes it")
            if name == "lasts" and np.any(np.diff(rows, axis=-1) > 0):
                raise ValueError("lasts rises somewhere; the share of pauses that last longer can only fall")
        return self


def load_survival(path: str | Path | None = None) -> Survival:
    """The curves in a file that `python -m experiments.sessions` wrote; without one, those that ship.

    Raises:
        ConfigError: there is no such file, or it holds no such curves.
    """
    return _shipped() if path is None else parse(Survival, read_json(path), str(path))


@cache
def _shipped() -> Survival:
    with resources.as_file(resources.files("cace_env") / "data" / SHIPPED) as path:
        return load_survival(path)


def write_survival(survival: Survival, path: str | Path) -> None:
    """Write curves, those of a task to a line.

    Raises:
        OSError: it cannot be written; an old file stands.
    """
    content = survival.model_dump(mode="json")
    text = ",\n".join(
        f' "{key}": [\n  ' + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        if isinstance(value, list)
        else f' "{key}": {json.dumps(value)}'
        for key, value in content.items()
    )
    replace_file(Path(path), f"{{\n{text}\n}}\n")


def again_of(survival: Survival) -> FloatArray:
    """Probability that a pause ends within each of `AGAIN_WITHIN_S`, `AGAIN_SHAPE`: `FleetTables.again`.

    A pause of an age within a range ends within h with probability `1 - sum S(a + h) / sum S(a)` over ages a of the
    range, `S` being the share of pauses that last longer: each age counts by the pauses that reach it.
    """
    # Between the points of the grid, curves are straight lines.
    middle = (np.arange(POINTS) + 0.5) / POINTS
    at_s = np.array([least_s + middle * (most_s - least_s) for least_s, most_s in pairwise(AGAIN_AGES_S)])
    again = np.zeros(AGAIN_SHAPE)
    for task, curves in enumerate(survival.lasts):
        for step, curve in enumerate(curves):
            reached = np.maximum(np.interp(at_s, GRID_S, curve).sum(axis=1), 1e-12)
            for column, within_s in enumerate(AGAIN_WITHIN_S):
                later = np.interp(at_s + within_s, GRID_S, curve).sum(axis=1)
                again[task, step, :, column] = 1.0 - later / reached
    return np.asarray(np.round(np.clip(again, 0.0, 1.0), AGAIN_DIGITS), dtype=np.float64)


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
    table = again_of(load_survival())
    table.setflags(write=False)
    return table
