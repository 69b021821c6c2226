"""Fits how pauses of sessions end: what is behind `again_1m`, `_5m` and `_15m` and behind the forecaster `survival`.

    python -m experiments.sessions                                    the curves that ship, fitted again and judged
    python -m experiments.sessions --out cace_env/data/sessions.json               the same, in their place
    python -m experiments.sessions --trace requests.csv --scenarios default --out mine.json     some of your own log

A scenario takes such a file with its key `sessions`, CACE as `cace:demand=survival@mine.json`. Judging says how well a
linear regression foretells the next use of a resident model, with those features and without, on other seeds than it
was fitted on; of a log, on its second half, because the first is what is fitted by default.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, parse
from cace_env.forecasting import fit_survival
from cace_env.observation import GROUPS
from cace_env.scenarios import seeds
from cace_env.sessions import AGAIN_WITHIN_S, again_of, write_survival
from cace_env.tables import FloatArray, Protocol
from cace_env.traces import Part, TraceConfig
from experiments.reading.markdown import table
from experiments.running.cases import chosen
from experiments.running.command_line import Session, metavar, run_command, split_names
from experiments.running.options import Logged, Names
from experiments.running.progress import progress_bar
from experiments.yardsticks.sessions import POLICY, Uses, foretold, seen_under, uses_of

GROUP: Final = "sessions"
SUITE: Final = "v1"
SETS: Final[Mapping[str, Sequence[str]]] = {
    "all features but those of sessions": [group for group in GROUPS if group != GROUP],
    "all features": GROUPS,
    "those of sessions alone": [GROUP],
    "recency alone": ["recency"],
}
Episodes = list[tuple[Case, int]]


class Options(Logged):
    """What it is fitted on, and where the curves go."""

    scenarios: Names = Field(
        default=(),
        description=f"whose training seeds; all entries of suite {SUITE} in Eviction-v0 by default; with --trace the "
        "one whose fleet serves the log",
    )
    seeds: int = Field(default=8, ge=1, le=1000, description="training seeds; as many more to judge by")
    part: Annotated[Part | None, metavar("train|test|all")] = Field(
        default=None, description="part of the log to fit: train (the first half, by default), test, or all of it"
    )
    out: Annotated[str | None, metavar("FILE")] = Field(
        default=None, description="file for the curves; without it, they are only judged"
    )


def fit(options: Options, session: Session) -> None:
    """Fits, writes, and judges where there are other episodes to judge by.

    Raises:
        ConfigError: no such scenario or log, several fleets for one log, --out is a folder, or no session ever pauses.
    """
    if options.out is not None and Path(options.out).is_dir():
        raise ConfigError(f"{options.out} is a folder; --out names a file, such as sessions.json")
    learn, judge, source = logged(options) if options.trace else generated(options)
    survival = fit_survival((seen_under(case, seed) for case, seed in shown(learn, "pauses")), source)
    if not np.diff(np.array(survival.lasts)).any():
        raise ConfigError("no session asks a model twice here, so there is nothing to fit; does the log name sessions?")
    session.console.print(f"{survival.pauses:,} pauses of {len(learn)} episodes: {source}", soft_wrap=True)
    if options.out is not None:
        write_survival(survival, options.out)
        session.console.print(f"wrote {options.out}", soft_wrap=True)
    if judge:
        session.console.print(judged(learn, judge, again_of(survival)), soft_wrap=True)


def generated(options: Options) -> tuple[Episodes, Episodes, str]:
    """Episodes to fit and to judge by, and their source in words.

    Raises:
        ConfigError: no such scenario, or an option of a log without one.
    """
    options.section()
    names = split_names(options.scenarios)
    cases = [case_of(each.scenario, each.protocol) for each in chosen(names, [Protocol.EVICTION], SUITE)]
    numbers = seeds("train", 2 * options.seeds)
    learn, judge = (
        [(case, seed) for case in cases for seed in some]
        for some in (numbers[: options.seeds], numbers[options.seeds :])
    )
    where = ", ".join(names) or f"all entries of suite {SUITE}"
    return learn, judge, f"training seeds 0 to {options.seeds - 1} of {where}, in Eviction-v0 under {POLICY}"


def logged(options: Options) -> tuple[Episodes, Episodes, str]:
    """As `generated`, of a log, which is not named.

    Raises:
        ConfigError: not one fleet, no such scenario, or no such log.
    """
    names = split_names(options.scenarios)
    if len(names) != 1:
        raise ConfigError(
            f"a log is served by one fleet, and --scenarios names {len(names)}: add one, such as --scenarios default"
        )
    (fleet,) = chosen(names, [Protocol.EVICTION], SUITE)
    part = options.part or "train"

    def case(part: Part) -> Case:
        log = parse(TraceConfig, {**(options.section() or {}), "part": part}, "--trace")
        return case_of(fleet.scenario.model_copy(update={"trace": log}), fleet.protocol)

    judge: Episodes = [(case("test"), 0)] if part == "train" else []
    return [(case(part), 0)], judge, f"a log (part: {part}) on the fleet of {names[0]}, in Eviction-v0 under {POLICY}"


def judged(learn: Episodes, judge: Episodes, again: FloatArray) -> str:
    """How well the next use is foretold, as Markdown; a regression is fitted to some episodes and judged by others."""
    known, unknown = (
        together(uses_of(case_with(case, again), [seed]) for case, seed in shown(episodes, "uses"))
        for episodes in (learn, judge)
    )
    rows = []
    for name, groups in SETS.items():
        found = foretold(known, unknown, groups)
        rows.append((name, f"{found.r2:.3f}", *(f"{area:.3f}" for area in found.auc)))
    header = ("linear regression over", "R2", *(f"AUC, {within_s} s" for within_s in AGAIN_WITHIN_S))
    return table(header, rows, numbers="right")


def shown(episodes: Episodes, what: str) -> Iterator[tuple[Case, int]]:
    """The same, with a bar of progress."""
    with progress_bar(Console(stderr=True)) as progress:
        yield from progress.track(episodes, description=what)


def case_with(case: Case, again: FloatArray) -> Case:
    """The case with this table in its observations."""
    return replace(case, tables=case.tables.replace(again=again))


def together(some: Iterable[Uses]) -> Uses:
    """All of them."""
    return Uses(*(np.concatenate(columns) for columns in zip(*some, strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("sessions", Options, fit, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
