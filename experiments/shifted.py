"""Policies on fleets that they were not made for: one table, policies by regimes, cost as a share of LRU's.

    python -m experiments.shifted                                       rules of each kind, both environments
    python -m experiments.shifted --agent NAME_OR_FOLDER --policies cace,cace:tuned.yaml
    python -m experiments.shifted --trace requests.csv --format azure --trace-option users=200

The regimes are the entries of suite `shifted-v1`: other pressure, engine, size and generation of the fleet, strong
drift, and several at once; a log of real requests is one more. Nothing is trained, tuned or chosen on them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import matplotlib
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.config import Frozen
from cace_env.evaluation.episodes import seed_list
from cace_env.policies import Contestant, contestant_of
from cace_env.scenarios import Split, load_scenario, seeds
from cace_env.tables import Protocol
from experiments.pages.shifted import LOG, draw, page
from experiments.running.cases import PreparedCase
from experiments.running.command_line import STYLE, exit_status, split_names
from experiments.running.lineup import able, about_agents, agent_names, contestants_of, protocols_of
from experiments.running.options import Comparison, trace_section
from experiments.running.run_folder import BASELINE, check_new
from experiments.running.studies import Chosen, chosen, prepared, run_cases

matplotlib.use("Agg")

SUITE: Final = "shifted-v1"
DEFAULT_SEEDS: Final = 100
# By default: what is compared with in every environment; rules without an order load by `fifo` in Swap-v0.
POLICIES: Final = {
    Protocol.EVICTION: ("cace", "gdsf", "omlx", "belady-cost"),
    Protocol.SWAP: (
        "cace",
        "wsjf+cace",
        "patient-wsjf+gdsf",
        "very-patient-wsjf+cace",
        "very-patient-wsjf+belady-cost",
    ),
}


class Options(Frozen):
    """Who is judged, and on what."""

    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder; may be given several times"
    )
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B", help_behavior_hint="")] = Field(
        default=(), description="built-in policies; some of each kind by default, lru always"
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy besides; may be given several times"
    )
    env: Annotated[Protocol | Literal["both"], tyro.conf.arg(metavar="eviction|swap|both")] = Field(
        default="both", description="Eviction-v0, Swap-v0 or both"
    )
    suite: Annotated[str, tyro.conf.arg(metavar="VERSION")] = Field(
        default=SUITE, description="the regimes: a suite that ships, its entries, or scenarios"
    )
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = Field(default=DEFAULT_SEEDS, description="episodes of each")
    split: Split = Field(default="test", description="where the seeds come from")
    trace: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = Field(
        default=None, description="a log of real requests: one more regime, see docs/traces.md"
    )
    format: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = Field(
        default=None, description="its format"
    )
    trace_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(), description="how the log is read and what is attached to it; may be given several times"
    )
    trace_fleet: Annotated[str, tyro.conf.arg(metavar="SCENARIO")] = Field(
        default="default", description="whose fleet and models serve the log"
    )
    out: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = Field(
        default=None, description="run folder, new or empty; runs/<time>-shifted by default"
    )
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = Field(
        default=None, description="threads; as many as there are cores by default"
    )


def judge(options: Options, command: str, console: Console) -> int:
    """Runs every policy on every regime and writes the report; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed.
    """
    path = Path(options.out or f"runs/{datetime.now():%Y%m%d-%H%M%S}-shifted")
    check_new(path)
    protocols = protocols_of(options.env)
    numbers = seed_list(seeds(options.split, options.seeds))
    log = trace_section(Comparison(trace=options.trace, format=options.format, trace_option=options.trace_option))
    named = [*split_names(options.policies), *agent_names(options.agent)]
    cases: list[PreparedCase] = []
    regimes: list[Chosen] = []
    with console.status("preparing: scenarios, requests, compiled code"):
        for protocol in protocols:
            contestants = contestants_of_regime(options, named, protocols, protocol)
            here = chosen([options.suite], [protocol])
            regimes += here
            cases += prepared(here, contestants, numbers)
            if log is not None:
                served = Chosen(f"{protocol}-{LOG}", load_scenario(options.trace_fleet), protocol)
                regimes.append(served)
                cases += prepared([served], contestants, numbers, log)
    run = run_cases(
        path,
        regimes,
        cases,
        options,
        title="shifted",
        split=options.split,
        command=command,
        workers=options.workers or os.cpu_count() or 1,
        console=console,
        agents=about_agents({c.name: c for case in cases for c in case.contestants}.values(), numbers),
    )
    if run is None:
        return 130
    draw(run, path / "shifted.png")
    report = path / "report.md"
    report.write_text(page(run), "utf-8")
    console.print(f"Report: [bold]{report}[/bold]", highlight=False)
    return 0


def contestants_of_regime(
    options: Options, named: Sequence[str], protocols: Sequence[Protocol], protocol: Protocol
) -> list[Contestant]:
    """Who takes part in an environment: LRU, those that were named and can answer there, or some of each kind."""
    everybody = contestants_of([*named], options.policy, protocols) if named or options.policy else []
    own = [one for one in able(everybody, protocol) if one.swaps]
    rules = [] if options.policies else [contestant_of(name) for name in POLICIES[protocol]]
    both = [contestant_of(BASELINE), *own, *rules]
    return list({contestant.name: contestant for contestant in both}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first
    options: Options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.shifted",
        description=__doc__,
        config=STYLE,
    )
    return exit_status(lambda: judge(options, shlex.join(["python", "-m", "experiments.shifted", *arguments]), console))


if __name__ == "__main__":
    sys.exit(main())
