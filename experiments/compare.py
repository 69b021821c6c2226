"""Compares policies on scenarios or on a log of real requests; writes tables and a report to open in a browser.

    python -m experiments.compare                                     every policy on every scenario
    python -m experiments.compare --list                              what there is
    python -m experiments.compare --policies lru,cace --scenarios default,agents --seeds 100
    python -m experiments.compare --env swap --scenarios default      which model to load next is decided, too
    python -m experiments.compare --policy my_module:my_policy        your own Python policy, on the same requests
    python -m experiments.compare --agent runs/ppo/best --policies cace,gdsf      a trained agent, on the same requests
    python -m experiments.compare --trace requests.csv --format azure --scenarios default
    python -m experiments.compare --config configs/experiment/claims.yaml

Every policy meets the same requests for the same seed. `docs/compare.md` explains the options and the report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import tyro
from pydantic import Field

from cace_env.config import ConfigError
from cace_env.evaluation.episodes import in_order, seed_list
from cace_env.files import csv_text, replace_file
from cace_env.policies import ORDERS, POLICIES, READINGS
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.scenarios import FOR_DEBUGGING, LARGE, compared_scenarios, load_scenario, scenario_names, seeds
from cace_env.tables import Protocol
from experiments.reading.verdicts import looked_at
from experiments.reports.comparison import write_report
from experiments.reports.decisions import FACTORS_FILE, REASONS_FILE, Factor, Reason, closer_look
from experiments.reports.leaderboard import print_leaderboard
from experiments.reports.terminal import print_tables
from experiments.reports.timelines import timelines
from experiments.running.cases import REDRAWS, Chosen, PreparedCase, chosen, prepared
from experiments.running.command_line import Session, run_command, screen_table, split_names
from experiments.running.contestants import WITHOUT_SWAPPING, default_names, protocols_of
from experiments.running.decision_logs import DecisionLogged, log_decisions
from experiments.running.options import ENV, Env, Logged, Names, Referenced, Running, TakingPart
from experiments.running.progress import progress_bar
from experiments.running.run_files import rows_of
from experiments.running.run_folder import Run
from experiments.running.runner import FINISHED, Plan, play, referenced, workers_of
from experiments.running.timeline_rows import FILE_OF_SPANS, FILE_OF_WAITING, read_spans, read_waiting

DEFAULT_SEEDS: Final = 20
DEMO_SEEDS: Final = 15
# Entries of the suite, so that the reference need not be looked for.
DEMO: Final = {
    Protocol.EVICTION: ("eviction-default", "eviction-completion-heavy", "eviction-sleep-mode", "eviction-agents"),
    Protocol.SWAP: ("swap-fast-loader",),
}
DEMO_BESIDE: Final = {  # the policies of every comparison
    Protocol.EVICTION: ("cace:tuned-eviction",),
    Protocol.SWAP: ("very-patient-wsjf+cace:tuned-swap",),
}


class Comparison(TakingPart, Logged, Referenced, DecisionLogged, Running):
    """What is compared; a file given with --config has the same keys."""

    scenarios: Names = Field(
        default=(),
        description="scenarios by name or YAML file, entries of the suite, or suites; by default all shipped "
        f"scenarios without {', '.join((*FOR_DEBUGGING, *LARGE))}",
    )
    env: Annotated[Env | None, ENV] = Field(
        default=None,
        description="eviction (default): which model makes room (Eviction-v0); swap: which model is loaded next, too "
        "(Swap-v0)",
    )
    all: bool = Field(default=False, description="print the tables of all policies, too, which the report has anyway")
    demo: bool = Field(
        default=False,
        description=f"a tour: all policies and the reference, {DEMO_SEEDS} seeds, of the suite "
        + ", ".join(name for names in DEMO.values() for name in names),
    )
    show: Annotated[bool, tyro.conf.arg(name="list")] = Field(
        default=False, description="show policies and scenarios, and run nothing"
    )


def compare(options: Comparison, session: Session) -> int:
    """Runs what `options` ask for; returns the exit status.

    Raises:
        ConfigError, TraceError: options, a scenario or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed; what had finished is in the run folder.
    """
    console = session.console
    if options.show:
        show(session)
        return 0
    count = options.seeds if options.seeds is not None else DEMO_SEEDS if options.demo else DEFAULT_SEEDS
    numbers = seed_list(seeds(options.split, count))
    execution, workers, section = options.execution(), workers_of(options.workers), options.section()
    if section is not None and options.split != "test":
        raise ConfigError(f"--split {options.split} is for generated requests; --part train or test is a part of a log")
    scenarios = scenarios_of(options)
    protocols = list(dict.fromkeys(one.protocol for one in scenarios))
    beside = [name for protocol in protocols for name in DEMO_BESIDE[protocol]] if options.demo else []
    contestants = options.contestants(protocols, [*default_names(protocols), *beside])
    choice = options.reference if options.reference is not None else "shipped" if options.demo else "none"
    with console.status("preparing: scenarios, requests, compiled code"):
        cases = prepared(scenarios, contestants, numbers, section, options.seeds or REDRAWS)
    options.check_decision_log(cases)
    plan = Plan(
        options.folder("demo" if options.demo else "compare"),
        cases,
        options,
        options.split,
        execution,
        referenced(choice, options.reference_option, cases, numbers),
        contestants,
    )
    outcome = play(plan, session, "comparing")
    if not outcome.done:
        return 130
    if outcome.status == FINISHED:
        look_closer(cases, outcome.run, workers, session)
        if options.decision_log:
            log_decisions(cases, options, plan.path, workers, session)
    run = outcome.run
    if options.all:
        print_tables(run, console)
    print_leaderboard(run, console)
    with console.status("writing the report"):
        report = write_report(run)
    rest = "" if options.all else " The report has all policies with all numbers; --all prints them here, too."
    console.print(f"{run.about['wall_s']:.0f} s of playing.{rest} Report, to open in a browser:")
    console.print(str(report), style="bold", soft_wrap=True)
    return 0 if outcome.status == FINISHED else 130


def scenarios_of(options: Comparison) -> list[Chosen]:
    """The scenarios that are compared, each in an environment.

    Raises:
        ConfigError: no such scenario, or two of one name.
    """
    named = split_names(options.scenarios)
    if options.demo and not named:
        asked = protocols_of(options.env) if options.env else tuple(Protocol)
        return chosen([name for protocol in asked for name in DEMO[protocol]], asked)
    return chosen(named or compared_scenarios(), protocols_of(options.env or Protocol.EVICTION))


def look_closer(cases: Sequence[PreparedCase], run: Run, workers: int, session: Session) -> None:
    """Keeps which model sat where, and why policies decided as they did, on the first seed of each case.

    What is known of other scenarios in the folder stays.
    """
    names = {case.name for case in cases}
    spans = [span for span in read_spans(run) if span.scenario not in names]
    waiting = [change for change in read_waiting(run) if change.scenario not in names]
    reasons = [reason for reason in rows_of(run.path / REASONS_FILE, Reason) if reason.scenario not in names]
    factors = [factor for factor in rows_of(run.path / FACTORS_FILE, Factor) if factor.scenario not in names]
    wanted = {case.name: looked_at(run, case.name) for case in cases}
    with progress_bar(session.console) as progress:
        bar = progress.add_task("a closer look at the first seed", total=2 * len(cases))
        for seen in in_order(lambda case: timelines(case, wanted[case.name]), cases, workers):
            spans += seen.spans
            waiting += seen.waiting
            progress.update(bar, advance=1)
        for found in in_order(lambda case: closer_look(case, wanted[case.name]), cases, workers):
            reasons += found.reasons
            factors += found.factors
            progress.update(bar, advance=1)
    kept: tuple[tuple[str, Sequence[Any]], ...]
    kept = (FILE_OF_SPANS, spans), (FILE_OF_WAITING, waiting), (REASONS_FILE, reasons), (FACTORS_FILE, factors)
    for name, rows in kept:
        if rows:
            replace_file(run.path / name, csv_text(rows[0]._fields, rows))


def show(session: Session) -> None:
    """Policies, orders and scenarios with a line on each."""
    quoted = READINGS["cace-quoted"]
    others = f"{len(READINGS)} readings in all, 'cace-quoted*': docs/policies.md; run where they are named"
    policies = [(policy.name, policy.group, policy.description) for policy in POLICIES.values()]
    policies.append((quoted.name, quoted.group, f"{quoted.description}; {others}"))
    policies.append((NO_SWAPPING, "No swapping", f"{WITHOUT_SWAPPING}; stands beside the policies in every run"))
    orders = [(order.name, order.description) for order in ORDERS.values()]
    scenarios = [(name, one.question or one.description) for name in scenario_names() for one in [load_scenario(name)]]
    for header, rows, title in (
        (("policy", "kind", "which model is evicted"), policies, "Policies (--policies)"),
        (("order", "which model is loaded first"), orders, "Orders (ORDER+POLICY, --env swap)"),
        (("scenario", "question"), scenarios, "Scenarios (--scenarios)"),
    ):
        session.console.print(screen_table(header, rows, title, left=len(header)))
        session.console.print()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    nothing = "interrupted before anything had finished; nothing is kept"
    return run_command("compare", Comparison, compare, arguments, __doc__, interrupted=nothing)


if __name__ == "__main__":
    sys.exit(main())
