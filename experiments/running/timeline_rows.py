"""Rows of timelines.csv and waiting.csv in a run folder: which model sat where, and how many requests waited."""

from __future__ import annotations

from typing import Final, NamedTuple

from cace_env.config import one_line
from experiments.running.run_files import damaged, rows_of
from experiments.running.run_folder import Run

KEEP_ALIVE: Final = "(keep-alive)"  # where a model leaves because its keep-alive ran out
FILE_OF_SPANS: Final = "timelines.csv"
FILE_OF_WAITING: Final = "waiting.csv"


class Span(NamedTuple):
    """A model on an accelerator for a while; a row of timelines.csv."""

    scenario: str
    policy: str
    seed: int
    accelerator: str
    model: str
    state: str  # loading, resident or unloading
    from_s: float
    to_s: float
    target: str = ""  # of one that leaves after or in this span: the model that it makes room for, or KEEP_ALIVE
    unused_s: float = float("nan")  # of one that leaves: since its last request came or ended; NaN: never used
    waiting: int = 0  # of one that is loaded: requests that wait for it when that ends
    oldest_s: float = float("nan")  # how long the first of them has waited then


class Waiting(NamedTuple):
    """How many requests wait from a moment on, for whatever model; a row of waiting.csv."""

    scenario: str
    policy: str
    seed: int
    time_s: float
    waiting: int


def read_spans(run: Run) -> list[Span]:
    """timelines.csv of a run, whole rows of it; empty where there is none.

    Raises:
        ConfigError: a row is damaged, or names what the run has not.
    """
    path = run.path / FILE_OF_SPANS
    spans = rows_of(path, Span)
    with damaged(path):
        for span in spans:
            about = run.about["scenarios"][span.scenario]
            if span.accelerator not in about["accelerators"] or span.model not in about["models"]:
                raise ValueError(f"{one_line(span.model)!r} on {one_line(span.accelerator)!r}")
    return spans


def read_waiting(run: Run) -> list[Waiting]:
    """waiting.csv of a run, whole rows of it; empty where there is none.

    Raises:
        ConfigError: a row is damaged.
    """
    return rows_of(run.path / FILE_OF_WAITING, Waiting)
