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

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cace_env.config import ConfigError, dump
from cace_env.evaluation import SeedResult, run_seed
from cace_env.evaluation.episodes import PolicyError, in_order, seed_list
from cace_env.evaluation.scores import REFERENCE
from cace_env.policies import ORDERS, POLICIES, READINGS
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.scenarios import load_scenario, scenario_names, seeds
from cace_env.simulation import SimulationError
from experiments.reports.comparison import write_report
from experiments.reports.decisions import FILE as DECISIONS
from experiments.reports.decisions import csv_of, decisions_of
from experiments.reports.terminal import print_tables
from experiments.reports.timelines import timelines
from experiments.running.cases import PreparedCase, prepare
from experiments.running.command_line import exit_status, split_names
from experiments.running.lineup import (
    WITHOUT_SWAPPING,
    about_agents,
    about_policy,
    agent_names,
    check_names,
    contestants_of,
)
from experiments.running.options import (
    DEFAULT_SEEDS,
    DEMO_REFERENCE,
    DEMO_SEEDS,
    Comparison,
    pairs_of,
    read_options,
    run_folder_path,
    trace_section,
)
from experiments.running.progress import progress_bar
from experiments.running.reference_rows import about_reference, reference_options, reference_result
from experiments.running.run_folder import BASELINE, Run, RunFolder, check_new, surroundings


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
