"""The trace section of a scenario: a log and the documentation of its options."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final, Literal

import pydantic

from cace_env.config import MOST_SEED, Frozen, did_you_mean
from cace_env.tables import TASKS
from cace_env.traces.gateways.known import GATEWAYS

# Required columns of each format; formats are distinguished by these alone.
REQUIRED_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type"),
    "mooncake": ("timestamp", "input_length", "output_length", "hash_ids"),
    "bailian": ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids"),
    "servegen": ("client", "t", "rate", "cv", "pattern", "p1", "p2"),
    "gentd26": ("gmt_create", "groupId", "checkpoint_model_version_id"),
    "claude-code": ("session", "agent", "t_s", "model", "in_tokens", "out_tokens", "prefix_shared_tokens"),
    "cups": ("user", "t_s", "state", "prompt_chars", "completion_tokens"),
    "realhumaneval": ("programmer", "t", "model", "prompt_chars", "messages", "response_chars"),
    "cace": ("time", "context_tokens", "output_tokens"),
}
FORMAT_NAMES: Final = (*GATEWAYS, *REQUIRED_COLUMNS)
MOST_ROWS: Final = 1_000_000_000
Attach = Literal["real", "client-as-model", "drawn"]
Part = Literal["all", "train", "test"]


class TraceConfig(Frozen):
    """A log, the part of it to read, and how missing data is attached.

    Rows are read first (`skip`, `limit`), then users, tasks, models and tokens are attached in this order, then times
    are compressed. At last a part is taken (`part`), and cut into `windows`.
    """

    path: str = pydantic.Field(min_length=1)
    """The file, or the folder that `experiments.import_logs` wrote; relative to the working directory."""
    format: str | None = None
    """One of `FORMAT_NAMES`. None: guessed from the names of the columns."""
    attach: Attach | None = None
    """How a request gets its model. `real`: the log's own ids, renamed by `mapping`; they must be names of the
    catalogue. `client-as-model`: the log's model ids (clients or users where it has none) by popularity: the most used
    becomes the first model of the catalogue, and so on, again from the first when they are more. `drawn`: Zipf, sticky
    per user and task, among the models that serve the task; models rank by their `popularity` if they have one, and in
    an order that is drawn too. None: `real` where the log names models, else `drawn`."""
    mapping: dict[str, str] = pydantic.Field(default_factory=dict)
    """`real` only: id in the log -> name in the catalogue."""
    ignore: tuple[str, ...] = ()
    """Models of the log whose requests are left out."""
    tasks: str | dict[str, float] | None = None
    """One task for all requests, or shares of tasks, drawn once per user. None: the log's own; where it has none, the
    main task of the attached model."""
    users: int = pydantic.Field(0, ge=0, le=10_000_000)
    """For a log without users: as many are made up and requests drawn to them evenly, so that choices can be sticky.
    0: every request comes from a user of its own."""
    zipf_exponent: float = pydantic.Field(0.87, ge=0.0, le=20.0)
    """`drawn`: popularity of rank r is r^-exponent. Default: the slope of the Chutes invocation counts."""
    stickiness: float = pydantic.Field(0.7, ge=0.0, lt=1.0)
    """`drawn`: chance that a user keeps the model last used for this task, without a draw. [assumed; near the 72 %
    repeats of GenTD26 users]"""
    time_compression: float = pydantic.Field(1.0, ge=1e-6, le=1e6)
    """Arrival and think times are divided by this: 10 plays an hour in six minutes, 0.1 in ten hours."""
    max_rejects: float = pydantic.Field(0.05, ge=0.0, le=1.0)
    """Gateways: the highest share of rows that may be unusable; they are left out and counted."""
    max_span_days: float = pydantic.Field(100.0, gt=0.0, le=1e6)
    """Gateways: a log that spans more days probably has wrong times."""
    sort: bool = False
    """Sort rows by time instead of refusing a log that is not in order; those of gateways are always sorted."""
    skip: int = pydantic.Field(0, ge=0, le=MOST_ROWS)
    """Rows skipped at the start (ServeGen: windows of 600 s)."""
    limit: int | None = pydantic.Field(None, ge=1, le=MOST_ROWS)
    """At most this many rows are read (ServeGen: requests drawn)."""
    session_gap_s: float = pydantic.Field(300.0, gt=0.0, le=1e9)
    """Logs with a clock per session or user: mean seconds between two starts, exponential. [assumed]"""
    tokens_path: str | None = None
    """ServeGen: the table of token quantiles per client."""
    tokens_model: str | None = None
    """ServeGen: the model of that table; None: from the file name `servegen_MODEL_rates...`."""
    seed: int = pydantic.Field(0, ge=0, le=MOST_SEED)
    """Seed of all random draws here. An episode's seed replaces it for what is attached; what is drawn while reading
    (the arrivals of ServeGen, the order of sessions) stays, so that a window is the same time in every episode."""
    part: Part = "all"
    """`train`: the first requests, to tune on; `test`: the rest, to judge by. What is attached depends on no request
    of the test part then."""
    train_share: float = pydantic.Field(0.5, gt=0.0, lt=1.0)
    """Share of the requests that is the training part."""
    windows: int | None = pydantic.Field(None, ge=1, le=1_000_000)
    """Windows of equally many requests, one after the other, by which the results of an episode are told apart: what
    an interval is over. An episode plays the whole log, or its part. None: 1 window, so no interval; comparisons
    choose."""

    @pydantic.field_validator("format")
    @classmethod
    def _known_format(cls, name: str | None) -> str | None:
        if name is not None and name not in FORMAT_NAMES:
            hint = did_you_mean(name.lower(), FORMAT_NAMES) or "."
            raise ValueError(f"unknown trace format{hint} The formats are {', '.join(FORMAT_NAMES)}")
        return name

    @pydantic.field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: str | dict[str, float] | None) -> str | dict[str, float] | None:
        shares = {tasks: 1.0} if isinstance(tasks, str) else tasks or {}
        for name in shares:
            if name not in TASKS:
                hint = did_you_mean(name.lower(), TASKS) or "."
                raise ValueError(f"unknown task {name!r}{hint} The tasks are {', '.join(TASKS)}")
        if tasks is not None and (min(shares.values(), default=0.0) < 0 or sum(shares.values()) <= 0):
            raise ValueError("shares of tasks must be at least 0 and one of them above 0")
        return tasks

    @pydantic.model_validator(mode="after")
    def _mapping_is_used(self) -> TraceConfig:
        if self.mapping and self.attach not in (None, "real"):
            raise ValueError(f"mapping works only with attach: real, but attach is {self.attach!r}; remove one of them")
        return self


def setting(key: str, value: str) -> str:
    """Text for errors: how to set an option, in the words of every place that has it and of none that has not."""
    return f"the trace option {shlex.quote(f'{key}={value}')} ({key}: {value} in a scenario)"
