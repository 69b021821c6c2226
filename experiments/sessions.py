"""Fits how likely a session that pauses asks again soon: the table behind the features `again_1m`, `_5m` and `_15m`.

    python -m experiments.sessions                                  the table that ships, fitted again and judged
    python -m experiments.sessions --out cace_env/data/sessions.json            the same, in its place
    python -m experiments.sessions --trace requests.csv --scenarios default --out mine.json       one of your own log

A scenario takes such a file with its key `sessions`. Judging says how well a linear regression foretells the next use
of a resident model, with those features and without, on other seeds than it was fitted on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from pydantic import Field

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.observation import GROUPS
from cace_env.scenarios import compared_scenarios, load_scenario, seeds
from cace_env.sessions import AGAIN_WITHIN_S, write_table
from cace_env.tables import FloatArray
from experiments.reading.markdown import table
from experiments.running.command_line import Session, run_command
from experiments.running.options import Folder, Logged, Names
from experiments.yardsticks.sessions import Uses, fitted, foretold, joined, pauses_of, uses_of

GROUP: Final = "sessions"
SETS: Final[Mapping[str, Sequence[str]]] = {
    "all features but those of sessions": [group for group in GROUPS if group != GROUP],
    "all features": GROUPS,
    "those of sessions alone": [GROUP],
    "recency alone": ["recency"],
}


class Options(Logged):
    """What it is fitted on, and where the table goes."""

    scenarios: Names = Field(default=compared_scenarios(), description="whose training seeds; with --trace their fleet")
    seeds: int = Field(default=8, ge=1, le=1000, description="training seeds; as many more to judge by")
    out: Folder = Field(default=None, description="file for the table; without it, it is only judged")


def cases_of(options: Options) -> dict[str, Case]:
    """What is played, by name.

    Raises:
        ConfigError: no such scenario, or no such log.
    """
    section = options.section()
    loaded = {name: load_scenario(name) for name in options.scenarios}
    if section is not None:
        loaded = {name: scenario.replace(trace=section) for name, scenario in loaded.items()}
    return {name: case_of(scenario) for name, scenario in loaded.items()}


def source_of(options: Options, count: int) -> str:
    """What the table says of its origin; a log is not named."""
    where = ", ".join(options.scenarios)
    return f"a log, played on {where}" if options.trace else f"training seeds 0 to {count - 1} of {where}"


def fit(options: Options, session: Session) -> None:
    """Fits, writes, and judges where there are other seeds to judge by.

    Raises:
        ConfigError: no such scenario or log, or a log without a session that ever pauses.
    """
    cases = cases_of(options)
    count = 1 if options.trace else options.seeds
    learn, judge = seeds("train", 2 * count)[:count], seeds("train", 2 * count)[count:]
    pauses = joined([pauses_of(case, learn) for case in cases.values()])
    if not pauses.ended.any():
        raise ConfigError("no session asks a model twice here, so there is nothing to fit; does the log name sessions?")
    again = fitted(pauses, source_of(options, count))
    session.console.print(f"{again.pauses:,} pauses, of which {np.mean(pauses.ended):.0%} ended: {again.source}")
    if options.out is not None:
        write_table(again, options.out)
        session.console.print(f"wrote {options.out}", soft_wrap=True)
    if options.trace is None:
        fitting = {name: case_with(case, again.array) for name, case in cases.items()}
        known, unknown = (together([uses_of(case, numbers) for case in fitting.values()]) for numbers in (learn, judge))
        rows = []
        for name, groups in SETS.items():
            found = foretold(known, unknown, groups)
            rows.append((name, f"{found.r2:.3f}", *(f"{area:.3f}" for area in found.auc)))
        header = ("linear regression over", "R2", *(f"AUC, {within_s} s" for within_s in AGAIN_WITHIN_S))
        session.console.print(table(header, rows), soft_wrap=True)


def case_with(case: Case, again: FloatArray) -> Case:
    """The case with this table in its observations."""
    return Case(case.name, case.tables.replace(again=again), case.workload, case.training)


def together(some: Sequence[Uses]) -> Uses:
    """All of them."""
    return Uses(*(np.concatenate(columns) for columns in zip(*some, strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("sessions", Options, fit, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
