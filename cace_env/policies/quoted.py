"""The formula that a review quotes for CACE, with an option for everything that the quotation leaves open.

    EvictionScore = 1 / (1 + ln t) + 1 / (1 + l / 100) + i / w + w_1 o

Source: a machine-written review of the paper (arXiv 2506.18796). **We could not check it against the paper**, so these
policies are additional baselines, and `cace` stays our reconstruction. The quotation says: t the timestamp of the last
use, l the load time in seconds, i the index in the window of upcoming requests, w the size of that window, o the
expected output length. It does not say which direction evicts, and each direction makes sense for some terms only:

| term | evict the highest | keep the highest |
|---|---|---|
| 1 / (1 + ln t), t a timestamp | the longest unused leaves | the longest unused stays |
| 1 / (1 + ln t), t an age | what was just used leaves | what was just used stays |
| 1 / (1 + l / 100) | what loads fast leaves | what loads fast stays |
| i / w | what is needed last leaves | what is needed last stays |
| w_1 o, w_1 > 0 | long answers leave | long answers stay |

Terms are added as they are, not scaled over the candidates: each of the first three lies in [0, 1].
"""

from __future__ import annotations

import os
from itertools import product
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from cace_env.config import (
    LONGEST_LINE,
    ConfigError,
    Frozen,
    did_you_mean,
    parse,
    parse_yaml,
    printable,
    read_yaml,
    shown,
)
from cace_env.kernel import rules

NAME: Final = "cace-quoted"


class Quoted(Frozen):
    """One reading of the formula; the defaults are the policy `cace-quoted`."""

    description: str = Field(default="", description="where the options come from")
    evicts: Literal["highest", "lowest"] = Field(default="highest", description="which score is evicted")
    last_use: Literal["timestamp", "age"] = Field(
        default="timestamp",
        description="t: when the model was last used, or how long ago [s]; below 1 s it counts as 1 s, since the "
        "logarithm would be negative and the term unbounded",
    )
    clock_start_s: float = Field(
        default=0.0,
        ge=0,
        le=1e12,
        description="what the clock shows when an episode begins, for a timestamp; 1.75e9 is that of Unix in 2025",
    )
    upcoming: Literal["queue", "forecast", "future"] = Field(
        default="forecast",
        description="i: how many upcoming requests come before the first for the model, w if the first w "
        "have none for it. queue: the requests that wait now, by arrival. forecast: N / n - 1, where n of the N "
        "requests of the last 5 minutes were for the model: the mean if such requests continue in any order. future: "
        "the next requests (clairvoyant, by nominal arrivals as for belady)",
    )
    window: int = Field(default=100, ge=1, le=1_000_000, description="w, in requests")
    output_weight: float = Field(
        default=0.001,
        ge=-1e6,
        le=1e6,
        description="w_1, per token: with 0.001, a thousand tokens weigh as much as a whole window",
    )

    @model_validator(mode="after")
    def _no_clock_for_an_age(self) -> Self:
        if self.clock_start_s and self.last_use == "age":
            raise ValueError("clock_start_s shifts timestamps, but last_use is an age; leave one of them out")
        return self

    def row(self) -> tuple[float, ...]:
        """The options in the form that the kernel reads."""
        row = [0.0] * 6
        row[rules.Q_SIGN] = -1.0 if self.evicts == "highest" else 1.0
        row[rules.Q_AGE] = float(self.last_use == "age")
        row[rules.Q_CLOCK_START_S] = self.clock_start_s
        row[rules.Q_UPCOMING] = float(UPCOMING[self.upcoming])
        row[rules.Q_WINDOW] = float(self.window)
        row[rules.Q_OUTPUT] = self.output_weight
        return tuple(row)

    def said(self) -> str:
        """Describe the reading in words."""
        t = "timestamp" if self.last_use == "timestamp" else "age"
        clock = f" (clock begins at {self.clock_start_s:g} s)" if self.clock_start_s else ""
        first = f"{self.evicts} 1/(1 + ln t) + 1/(1 + l/100) + i/w + w_1 o"
        return (
            f"{first}: t the {t} of the last use{clock}, i from the {self.upcoming}, w = {self.window}, "
            f"w_1 = {self.output_weight:g} per token"
        )


UPCOMING: Final = {"queue": rules.FROM_QUEUE, "forecast": rules.FROM_FORECAST, "future": rules.FROM_FUTURE}

# Option -> part of a name -> value. One part of each row, in this order, makes the name of a reading:
# `cace-quoted-keep-age-future`.
PARTS: Final[dict[str, dict[str, str | float]]] = {
    "evicts": {"": "highest", "-keep": "lowest"},
    "last_use": {"": "timestamp", "-age": "age"},
    "upcoming": {"": "forecast", "-queue": "queue", "-future": "future"},
    "output_weight": {"": 0.001, "-small": 0.0001, "-no-output": 0.0, "-minus-small": -0.0001, "-minus": -0.001},
}


def _readings() -> dict[str, Quoted]:
    """Every combination of `PARTS` under its name."""
    readings = {}
    for parts in product(*PARTS.values()):
        options = {option: PARTS[option][part] for option, part in zip(PARTS, parts, strict=True)}
        readings[NAME + "".join(parts)] = Quoted.model_validate(options)
    return readings


QUOTED: Final[dict[str, Quoted]] = _readings()


def is_quoted(name: str) -> bool:
    """Whether a name stands for a reading, with or without options after a colon."""
    return name.partition(":")[0] in QUOTED


def load_quoted(name: str) -> Quoted:
    """Find a reading by its name.

    Args:
        name: of `QUOTED`; after a colon a YAML file (options that it lacks are those of the reading before the colon)
            or options, as in "cace-quoted-keep:window=20;output_weight=0.01".

    Raises:
        ConfigError: there is no such reading or file, or its options are not valid.
    """
    reading, colon, behind = name.partition(":")
    if reading not in QUOTED:
        raise ConfigError(
            f"no reading called {shown(reading)}{did_you_mean(reading, QUOTED)}; known are {', '.join(QUOTED)}"
        )
    if not colon:
        return QUOTED[reading]
    if "=" in behind and not os.path.isfile(behind):
        given = dict(_key_and_value(name, option) for option in behind.split(";"))
    elif os.path.isfile(behind):
        given = read_yaml(behind)
    else:
        raise ConfigError(
            f"{printable(name, LONGEST_LINE)}: there is no file {shown(behind)}; give a YAML file with options of "
            "cace_env.policies.quoted.Quoted, or options such as window=20;output_weight=0.01"
        )
    return parse(Quoted, QUOTED[reading].model_dump(exclude_defaults=True) | given, printable(name, LONGEST_LINE))


def _key_and_value(name: str, option: str) -> tuple[str, Any]:
    key, equals, value = option.partition("=")
    if not equals:
        raise ConfigError(f"{printable(name, LONGEST_LINE)}: {shown(option)} has to be KEY=VALUE, such as window=20")
    return key.strip(), parse_yaml(value, printable(name, LONGEST_LINE))
