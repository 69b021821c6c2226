"""Says why a model was evicted, from a log of decisions.

    python -m experiments.why runs/mine --list                             what the log holds
    python -m experiments.why runs/mine --model starcoder2-7b --at 20min --policy cace
    python -m experiments.why decisions --model my-model --at 2026-03-01T12:30:00
    python -m experiments.why runs/mine --model starcoder2-7b --at 20min --policy cace --json

It finds the last eviction of the model at or before the time. `compare --decision-log` writes such a log, and so does
`cace_env.decision_log.DecisionLog`; `docs/explanations.md` has more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field
from rich.table import Table
from rich.text import Text

from cace_env.config import ConfigError, Frozen, one_line
from cace_env.decision_log import Log, in_words, moment, seconds_of
from cace_env.files import json_text
from experiments.running.command_line import Session, metavar, run_command, screen_table
from experiments.running.run_files import read_about


class Why(Frozen):
    """What is asked."""

    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER")]] = Field(
        description="folder of a log, of a run that has one in decisions/, or one of its files"
    )
    model: Annotated[str | None, metavar("NAME")] = Field(default=None, description="the model that was evicted")
    at: Annotated[str | None, metavar("TIME")] = Field(
        default=None,
        description="the last eviction at or before this time: seconds, 12.5min, 1.5h, or of a live system and of a "
        "run on a log with dates 2026-03-01T12:30:00 (UTC without a zone); by default the last of all",
    )
    scenario: Annotated[str | None, metavar("NAME")] = Field(default=None, description="where the log has several")
    policy: Annotated[str | None, metavar("NAME")] = Field(default=None, description="where the log has several")
    seed: Annotated[int | None, metavar("N")] = Field(default=None, description="where the log has several")
    reasons: int = Field(default=5, ge=1, description="how many features are named")
    show: Annotated[bool, tyro.conf.arg(name="list")] = Field(default=False, description="show what the log holds")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(
        default=False, description="print the whole decision as JSON"
    )


def why(options: Why, session: Session) -> None:
    """Prints the answer.

    Raises:
        ConfigError: there is no such log, model or eviction, or several episodes fit.
    """
    log = Log(options.folder)
    if options.show:
        session.console.print(episodes(log))
        return
    if options.model is None:
        raise ConfigError("name the model with --model NAME, or show what the log holds with --list")
    which: dict[str, Any] = {"scenario": options.scenario, "policy": options.policy, "seed": options.seed}
    decision = log.why(options.model, when(options, log), **which)
    if options.as_json:
        print(json_text(asdict(decision)), end="")
        return
    session.console.print(Text(in_words(decision, log.clock, options.reasons)), soft_wrap=True)


def when(options: Why, log: Log) -> str | float | None:
    """The time that is asked for, by the clock of the log; a date in a run on a log of requests counts from that log.

    Raises:
        ConfigError: it is no time, or a date where there are none.
    """
    about = Path(options.folder) / "run.json"
    if options.at is None or log.clock == "utc" or not about.is_file():
        return options.at
    try:
        return seconds_of(options.at, log.clock)
    except ConfigError:
        date_s = seconds_of(options.at, "utc")  # or it is no time at all
        logs = [
            each["log"]
            for name, each in read_about(about)["scenarios"].items()
            if options.scenario in (None, name) and isinstance(each["log"].get("began_us"), int)
        ]
        if not logs or any(other != logs[0] for other in logs):
            raise
    return (date_s - logs[0]["began_us"] / 1e6) / logs[0]["time_compression"] - logs[0].get("from_s", 0.0)


def episodes(log: Log) -> Table:
    """A line on each episode of the log."""
    rows = []
    for one in log.episodes():
        times = (moment(time_us, log.clock).partition(" (")[0] for time_us in (one.first_us, one.last_us))
        names = one_line(one.scenario), one_line(one.policy)
        rows.append([*names, str(one.seed), f"{one.rows:,}", f"{one.evictions:,}", *times])
    header = ("scenario", "policy", "seed", "rows", "evictions", "from", "to")
    return screen_table(header, rows, "Decisions", left=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("why", Why, why, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
