"""Policies on fleets that they were not made for: one table, policies by regimes, cost as a share of LRU's.

    python -m experiments.shifted                                       rules of each kind, both environments
    python -m experiments.shifted --agent NAME_OR_FOLDER --policies cace,cace:tuned.yaml
    python -m experiments.shifted --trace requests.csv --format azure --trace-option users=200
    python -m experiments.shifted --logs traces                         agents on public logs, with and without guard

The regimes are the entries of suite `shifted-v1`: other pressure, engine, size and generation of the fleet, strong
drift, and several at once; a log of real requests is one more. Nothing is trained, tuned or chosen on them. With
`--logs` public logs take their place (`experiments/logs/public.py` says on which fleets); some of them the numbers of
the guard were set on, and the report says which.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import matplotlib
from pydantic import Field

from cace_env.evaluation.episodes import seed_list
from cace_env.policies import Contestant, contestant_of
from cace_env.scenarios import load_scenario, seeds
from cace_env.tables import Protocol
from experiments.logs import public
from experiments.pages import real_logs
from experiments.pages.shifted import LOG, draw, page
from experiments.running.cases import REDRAWS, Chosen, PreparedCase, chosen, prepared
from experiments.running.command_line import Session, metavar, run_command
from experiments.running.contestants import able, protocols_of
from experiments.running.options import ENV, Env, Logged, Running, TakingPart
from experiments.running.run_folder import BASELINE
from experiments.running.runner import FINISHED, Plan, play

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


# On logs: the agent with and without guard, the rules that it is held against, and LRU that waits for idle victims.
ON_LOGS: Final = {
    Protocol.EVICTION: ("agent:eviction", "guarded:agent:eviction", "omlx", "gdsf", "cace:tuned-eviction"),
    Protocol.SWAP: (
        "patient-fifo+lru",
        "agent:swap",
        "guarded:agent:swap",
        "very-patient-wsjf+omlx",
        "very-patient-wsjf+gdsf",
        "very-patient-wsjf+cace:tuned-swap",
    ),
}


class Options(TakingPart, Logged, Running):
    """Who is judged, and on what; some policies of each kind by default, on 100 seeds; a log is one more regime."""

    env: Annotated[Env, ENV] = Field(default="both", description="Eviction-v0, Swap-v0 or both (default)")
    suite: Annotated[str, metavar("VERSION")] = Field(
        default=SUITE, description=f"the regimes: a suite that ships ({SUITE} by default), its entries, or scenarios"
    )
    trace_fleet: Annotated[str, metavar("SCENARIO")] = Field(
        default="default", description="whose fleet and models serve the log"
    )
    logs: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="folder with the public logs of docs/traces.md, which take the place of the regimes"
    )


def judge(options: Options, session: Session) -> int:
    """Runs every policy on every regime and writes the report; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed.
    """
    if options.logs is not None:
        return judge_on_logs(options, options.logs, session)
    protocols, log = protocols_of(options.env), options.section()
    numbers = seed_list(seeds(options.split, options.seeds if options.seeds is not None else DEFAULT_SEEDS))
    cases: list[PreparedCase] = []
    with session.console.status("preparing: scenarios, requests, compiled code"):
        for protocol in protocols:
            contestants = contestants_of_regime(options, protocols, protocol)
            cases += prepared(chosen([options.suite], [protocol]), contestants, numbers)
            if log is not None:
                served = Chosen(f"{protocol}-{LOG}", load_scenario(options.trace_fleet), protocol)
                cases += prepared([served], contestants, numbers, log, options.seeds or REDRAWS)
    plan = Plan(options.folder("shifted"), cases, options, options.split, options.execution())
    outcome = play(plan, session, "shifted")
    if outcome.status != FINISHED:
        return 130
    draw(outcome.run, plan.path / "shifted.png")
    outcome.folder.write("report.md", page(outcome.run))
    session.console.print(f"Report: {plan.path / 'report.md'}", soft_wrap=True)
    return 0


def judge_on_logs(options: Options, folder: Path, session: Session) -> int:
    """Runs agents, guarded and not, and rules on public logs; as `judge`."""
    protocols = protocols_of(options.env)
    cases: list[PreparedCase] = []
    with session.console.status("preparing: logs, compiled code"):
        for protocol in protocols:
            windows = options.windows or public.WINDOWS
            served = [
                Chosen(f"{protocol}-{name}", scenario, protocol)
                for name, scenario in public.scenarios(folder, protocol, windows).items()
            ]
            names = options.named or ON_LOGS[protocol]
            contestants = [contestant_of(name) for name in dict.fromkeys((BASELINE, *names))]
            cases += prepared(served, able(contestants, protocol), (), redraws=options.seeds or REDRAWS)
    plan = Plan(options.folder("logs"), cases, options, options.split, options.execution())
    outcome = play(plan, session, "shifted")
    if outcome.status != FINISHED:
        return 130
    roles = {name: log.role for name, log in public.LOGS.items()}
    outcome.folder.write("report.md", real_logs.page(outcome.run, roles))
    session.console.print(f"Report: {plan.path / 'report.md'}", soft_wrap=True)
    return 0


def contestants_of_regime(options: Options, protocols: Sequence[Protocol], protocol: Protocol) -> list[Contestant]:
    """Who takes part in an environment: LRU, those that were named and can answer there, or some of each kind."""
    named = options.contestants(protocols) if options.named or options.policy else []
    own = [one for one in able(named, protocol) if one.swaps]
    rules = [] if options.policies else [contestant_of(name) for name in POLICIES[protocol]]
    both = [contestant_of(BASELINE), *own, *rules]
    return list({contestant.name: contestant for contestant in both}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("shifted", Options, judge, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
