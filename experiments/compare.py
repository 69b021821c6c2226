"""Compares policies on scenarios or on a log of real requests; writes tables, plots and a report.

    python -m experiments.compare                                     every policy on every scenario
    python -m experiments.compare --list                              what there is
    python -m experiments.compare --policies lru,cace --scenarios default,agents --seeds 100
    python -m experiments.compare --env swap --scenarios default      which model to load next is decided, too
    python -m experiments.compare --policy my_module:my_policy        anybody's Python policy, on the same requests
    python -m experiments.compare --agent runs/ppo/best --policies cace,gdsf      a trained agent, on the same requests
    python -m experiments.compare --trace requests.csv --format azure --scenarios default
    python -m experiments.compare --config configs/experiment/claims.yaml

Every policy meets the same requests for the same seed. `docs/compare.md` explains the options and the report.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
import yaml
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cace_env.config import ConfigError, Frozen, dump, load
from cace_env.contestants import NO_SWAPPING
from cace_env.evaluation import PolicyError, SeedResult, in_order, run_seed, seed_list
from cace_env.orders import ORDERS
from cace_env.policies import POLICIES, READINGS
from cace_env.python_policies import Illegal
from cace_env.scenarios import FOR_DEBUGGING, Split, compared_scenarios, load_scenario, scenario_names, seeds
from cace_env.scores import REFERENCE
from cace_env.simulator import SimulationError
from experiments.cases import PreparedCase, prepare
from experiments.command_line import exit_status, split_names
from experiments.decisions import FILE as DECISIONS
from experiments.decisions import csv_of, decisions_of
from experiments.lineup import (
    EVICTION,
    SWAP,
    WITHOUT_SWAPPING,
    about_agents,
    about_policy,
    agent_names,
    check_names,
    contestants_of,
)
from experiments.reference_rows import about_reference, reference_options, reference_result
from experiments.report import write_report
from experiments.report_terminal import print_tables
from experiments.run_folder import BASELINE, Run, RunFolder, check_new, surroundings
from experiments.timelines import timelines

DEFAULT_SEEDS: Final = 20
DEMO_SEEDS: Final = 15
DEMO_SCENARIOS: Final = ("default", "completion-heavy", "sleep-mode", "agents")
DEMO_SWAP: Final = ("fast-loader",)  # in Swap-v0
DEMO_REFERENCE: Final = 3  # seeds with the clairvoyant reference


def _said(metavar: str) -> Any:
    """An option whose description says what its default means."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


class Comparison(Frozen):
    """What is compared; a file given with --config has the same keys."""

    policies: Annotated[tuple[str, ...], _said("A,B")] = Field(
        default=(),
        description="built-in policies, by default all but the readings of the quoted formula ('cace-quoted*'); "
        "cace:FILE.yaml is CACE with other weights; wsjf+cace loads by the order wsjf (--env swap); lru always runs",
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy f(features, legal) -> keep-scores, besides; may be given several times"
    )
    illegal: Annotated[Illegal, _said("error|replace")] = Field(
        default="error",
        description="what becomes of an action of a Python policy that is not legal: error (default) stops; replace "
        "takes the legal one of lowest index, as the environments do, and counts: for policies that know no masks",
    )
    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder; the same as agent:... among the policies"
    )
    scenarios: Annotated[tuple[str, ...], _said("A,B")] = Field(
        default=(),
        description="scenarios by name or YAML file; by default all shipped ones, without those for debugging "
        f"({', '.join(FOR_DEBUGGING)})",
    )
    seeds: Annotated[int | None, _said("N")] = Field(
        default=None, description=f"episodes of each policy on each scenario; {DEFAULT_SEEDS} by default"
    )
    split: Split = Field(default="test", description="where the seeds come from")
    env: Annotated[Literal["eviction", "swap", "both"] | None, _said("eviction|swap|both")] = Field(
        default=None,
        description="eviction (default): which model makes room (Eviction-v0); swap: which model is loaded next, too "
        "(Swap-v0)",
    )
    reference: Annotated[int | None, _said("N")] = Field(
        default=None,
        ge=0,
        description="on the first N seeds of each scenario look for the clairvoyant reference, too: seconds to half a "
        "minute each; scores are measured by it",
    )
    reference_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(), description="how hard it is looked for, such as starts=2; keys of cace_env.planner.find_reference"
    )
    trace: Annotated[str | None, _said("FILE")] = Field(
        default=None, description="a log of real requests, which takes the place of the scenarios' workloads"
    )
    format: Annotated[str | None, _said("NAME")] = Field(default=None, description="its format, see docs/traces.md")
    trace_options: Annotated[dict[str, Any], tyro.conf.Suppress] = Field(
        default={}, description="other keys of cace_env.traces.TraceConfig"
    )
    trace_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(),
        description="how the log is read and what is attached to it, such as users=200 or time_compression=10; may be "
        "given several times, see cace_env.traces.TraceConfig",
    )
    out: Annotated[str | None, _said("FOLDER")] = Field(
        default=None, description="run folder, new or empty; runs/<time>-compare by default"
    )
    workers: Annotated[int | None, _said("N")] = Field(
        default=None, description="threads; as many as there are cores by default"
    )
    demo: bool = Field(
        default=False,
        description=f"a tour: all policies, {DEMO_SEEDS} seeds, {DEMO_REFERENCE} with the reference, "
        f"scenarios {', '.join(DEMO_SCENARIOS)}; and in Swap-v0 "
        f"{', '.join(DEMO_SWAP)}",
    )
    show: Annotated[bool, tyro.conf.arg(name="list")] = Field(
        default=False, description="show policies and scenarios, and run nothing"
    )


def read_options(arguments: Sequence[str]) -> Comparison:
    """Options from the command line, over those of the file named by --config, over the defaults.

    Raises:
        ConfigError: the file is refused.
        SystemExit: the command line is refused (2), or asked for help (0).
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    found, rest = before.parse_known_args(arguments)
    base = load(Comparison, found.config) if found.config else Comparison()
    options: Comparison = tyro.cli(
        Comparison,
        args=rest,
        default=base,
        prog="python -m experiments.compare",
        description=f"{__doc__}\n--config FILE.yaml sets any of the options below; the command line wins.",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
    )
    return options


def pairs_of(options: Comparison) -> list[tuple[str, str]]:
    """Scenarios by name, each with what is asked there: "eviction" or "swap"."""
    named = split_names(options.scenarios)
    protocols = {None: [EVICTION], "both": [EVICTION, SWAP]}.get(options.env) or [str(options.env)]
    if options.demo and not named:
        demo = {EVICTION: DEMO_SCENARIOS, SWAP: DEMO_SWAP}
        return [(name, protocol) for protocol in (protocols if options.env else demo) for name in demo[protocol]]
    return [(name, protocol) for protocol in protocols for name in named or compared_scenarios()]


def run_folder_path(options: Comparison) -> Path:
    """--out, or a new folder under runs/ named after the time."""
    if options.out is not None:
        return Path(options.out)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / (f"demo-{stamp}" if options.demo else f"{stamp}-compare")
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")


def compare(options: Comparison, command: str, console: Console) -> int:
    """Runs what `options` ask for; returns the exit status.

    Raises:
        ConfigError, TraceError: options, a scenario or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed; what had finished is in the run folder.
    """
    began = time.perf_counter()
    count = options.seeds if options.seeds is not None else DEMO_SEEDS if options.demo else DEFAULT_SEEDS
    numbers = seed_list(seeds(options.split, count))
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"{workers} workers were asked for; it has to be 1 at least")
    pairs = pairs_of(options)
    protocols = list(dict.fromkeys(protocol for _, protocol in pairs))
    named = [*split_names(options.policies), *agent_names(options.agent)]
    contestants = contestants_of(named, options.policy, protocols, options.illegal)
    search = reference_options(options.reference_option)
    referenced = options.reference if options.reference is not None else DEMO_REFERENCE if options.demo else 0
    path = run_folder_path(options)
    check_new(path)
    with console.status("preparing: scenarios, requests, compiled code"):
        by_name = {name: load_scenario(name) for name, _ in pairs}
        scenarios = list(by_name.values())
        check_names(scenario.name for scenario in scenarios)
        section = trace_section(options)
        cases = [prepare(by_name[name], contestants, numbers, section, protocol) for name, protocol in pairs]
    for case in cases:
        if len(case.seeds) < len(numbers):
            why = "nothing is drawn from this log, so every seed is the same"
            console.print(f"{case.name}: 1 seed instead of {len(numbers)}: {why}", style="yellow", highlight=False)
    agents = about_agents(contestants, numbers)
    for name, problem in ((name, problem) for name, about in agents.items() for problem in about["problems"]):
        console.print(f"{name}: {problem}: its results are not held out", style="yellow", highlight=False)
    folder = RunFolder(path)
    folder.write("config.yaml", dump(options))
    for scenario in scenarios:
        folder.write(f"scenarios/{scenario.name}.yaml", dump(scenario))
    folder.describe(
        command=command,
        **surroundings(),
        status="running",
        split=options.split,
        baseline=BASELINE,
        policies={contestant.name: about_policy(contestant) for contestant in contestants}
        | ({REFERENCE: about_reference(search)} if referenced else {}),
        scenarios={case.name: case.about for case in cases},
        agents=agents,
    )
    jobs = [(case, seed) for case in cases for seed in case.seeds]

    def run_job(job: tuple[PreparedCase, int]) -> list[SeedResult]:
        case, seed = job
        results = run_seed(case.case, case.contestants, seed)
        looked_for = seed in case.seeds[:referenced]
        return results + ([reference_result(case.case, seed, search)[0]] if looked_for else [])

    spans, status, done = [], "finished", 0
    try:
        with progress_bar(console) as progress:
            bar = progress.add_task("comparing", total=len(jobs))
            for results in in_order(run_job, jobs, workers):
                folder.append(results)
                done += 1
                progress.update(bar, advance=1, description=results[0].row["scenario"])
            progress.update(bar, description="timelines")
            spans = [span for case in cases for span in timelines(case)]
            progress.update(bar, description="explanations")
            if reasons := [reason for case in cases for reason in decisions_of(case)]:
                folder.write(DECISIONS, csv_of(reasons))
    except KeyboardInterrupt:
        status = "interrupted"
        console.print(f"interrupted: {kept(done, len(jobs), path)}")
    except (PolicyError, SimulationError):
        status = "failed"
        console.print(kept(done, len(jobs), path))
        raise
    finally:
        folder.finish(spans, status=status, finished=done, asked_for=len(jobs), wall_s=time.perf_counter() - began)
        if not done:
            folder.discard()
    if not done:
        return 130
    run = Run(path)
    print_tables(run, console)
    try:
        with console.status("drawing and writing the report"):
            report = write_report(run)
    except KeyboardInterrupt:
        again = f"python -m experiments.report {shlex.quote(str(path))}"
        console.print(f"interrupted: {path / 'report.md'} lacks plots; {again} draws all of them", highlight=False)
        return 130
    console.print(f"{time.perf_counter() - began:.0f} s in all. Report: [bold]{report}[/bold]", highlight=False)
    return 130 if status == "interrupted" else 0


def kept(done: int, asked_for: int, path: Path) -> str:
    """What is left of a run that did not finish."""
    if not done:
        return "nothing had finished, so nothing is kept"
    return f"{done} of {asked_for} pairs of scenario and seed are kept in {path}"


def trace_section(options: Comparison) -> dict[str, Any] | None:
    """The log as a section of `cace_env.traces.TraceConfig`, or None.

    Raises:
        ConfigError: half of what a log needs, or an option that is no KEY=VALUE.
    """
    if options.trace is None:
        for key in ("format", "trace_options", "trace_option"):
            if getattr(options, key):
                raise ConfigError(f"{key} is for a log; name the log with --trace FILE")
        return None
    if options.format is None:
        raise ConfigError(f"--trace {options.trace} needs --format; docs/traces.md lists the formats")
    section: dict[str, Any] = {"path": options.trace, "format": options.format, **options.trace_options}
    for option in options.trace_option:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--trace-option {option!r} has to be KEY=VALUE, such as users=200")
        section[key.strip()] = yaml.safe_load(value)
    return section


def progress_bar(console: Console) -> Progress:
    """Bar, count, time gone and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
    )


def show(console: Console) -> None:
    """Policies, orders and scenarios with a line on each."""
    policies = Table("policy", "kind", "which model is evicted", title="Policies (--policies)", title_justify="left")
    for policy in POLICIES.values():
        policies.add_row(policy.name, policy.group, policy.description)
    quoted = READINGS["cace-quoted"]
    others = f"{len(READINGS)} readings in all, 'cace-quoted*': docs/policies.md; run where they are named"
    policies.add_row(quoted.name, quoted.group, f"{quoted.description}; {others}")
    policies.add_row(NO_SWAPPING, "No swapping", f"{WITHOUT_SWAPPING}; stands beside the policies in every run")
    orders = Table(
        "order", "which model is loaded first", title="Orders (ORDER+POLICY, --env swap)", title_justify="left"
    )
    for order in ORDERS.values():
        orders.add_row(order.name, order.description)
    scenarios = Table("scenario", "question", title="Scenarios (--scenarios)", title_justify="left")
    for name in scenario_names():
        scenario = load_scenario(name)
        scenarios.add_row(name, scenario.question or scenario.description)
    console.print(policies, orders, scenarios, sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first

    def run() -> int:
        options = read_options(arguments)
        if options.show:
            show(console)
            return 0
        return compare(options, shlex.join(["python", "-m", "experiments.compare", *arguments]), console)

    return exit_status(run, "interrupted before anything had finished; nothing is kept")


if __name__ == "__main__":
    sys.exit(main())
