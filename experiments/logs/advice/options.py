"""The options of `experiments.recommend`, and the questions that they are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field

from cace_env.config import ConfigError, did_you_mean, dump
from cace_env.evaluation.intervals import FEWEST_WINDOWS
from cace_env.files import replace_file
from cace_env.live.stage import Turns
from cace_env.scenarios import Scenario
from cace_env.tables import TASKS, Protocol
from cace_env.traces import load_config
from cace_env.workload import Workload
from experiments.logs.advice.answering import WINDOWS_FILE, Question, results_of
from experiments.logs.advice.contenders import contender_names, contestants, deployed_name
from experiments.logs.advice.decision import Economy
from experiments.logs.advice.measured import Measured, measured_of
from experiments.logs.advice.outputs import Told, show
from experiments.logs.advice.page import write_all
from experiments.logs.advice.parts import parts_of
from experiments.logs.advice.pilot import change_between, turns_apart
from experiments.logs.advice.pilot_outputs import show_pilot, write_pilot
from experiments.logs.advice.playing import Promise
from experiments.logs.advice.prices import (
    HOURS_PER_MONTH,
    Fleet,
    Price,
    fleet_of,
    fleets_around,
    fleets_named,
    known,
    price_table,
)
from experiments.logs.options import LogOnFleet
from experiments.logs.own_log import OwnLog, served
from experiments.running.command_line import Session, metavar, split_names
from experiments.running.options import Executed, Names, folder_of
from experiments.running.run_folder import check_new

# Mean wage of software developers in the US, 132,930 USD a year in May 2022 (Bureau of Labor Statistics, OEWS), over
# 2,080 hours, and 40 % on top for benefits and taxes [the 40 % are assumed].
DEVELOPER_USD: Final = 90.0
WORKING_DAY_H, WORKING_DAYS = 8.0, 21.0  # a month of a log that has no night
MONTH_DAYS: Final = 30.4  # 365 / 12
WHOLE_DAY_H: Final = 20.0  # a log that spans this much has its own nights
SLO_SHARE: Final = 0.95  # of the requests, where the reward has an SLO
TUNING_REQUESTS: Final = 20_000_000  # some 80 generations of 12 candidates on a log of 100,000 requests
MOST_REQUESTS: Final = 1_000_000  # of a log, each played by every policy on every fleet: the last of more
Value = Annotated[float | None, metavar("X")]
Texts = tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=USD_PER_HOUR")]]
Slos = tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK:SHARE@SECONDS")]]


class Options(LogOnFleet, Executed):
    """A log, today's fleet and policy, and what hours are worth; or two logs of a pilot."""

    fleets: Names = Field(
        default=(), description="fleets to try, such as h100:1..4,l40s:2; five around today's by default"
    )
    max_gpus: Annotated[int | None, metavar("N")] = Field(
        default=None, ge=1, le=24, description="try 1 to N GPUs of today's kind, instead"
    )
    reward: Annotated[str | None, metavar("PRESET")] = Field(
        default=None, description="what waiting costs by task: balanced (default), ttft or e2e"
    )
    deployed: Annotated[str, metavar("SYSTEM|POLICY")] = Field(
        default="lru", description="what decides today: ollama, llama-swap, llama-cpp, lru (default), any policy"
    )
    policies: Names = Field(
        default=(), description="policies that may take its place; rules, CACE and agents by default"
    )
    env: Annotated[Protocol, metavar("eviction|swap")] = Field(
        default=Protocol.EVICTION, description="eviction (default): which model makes room; swap: what is loaded, too"
    )
    slo: Slos = Field(
        default=(),
        description="a promise such as completion:0.95@2s or agent:0.9@60s:e2e; may be given several times; those of "
        "the reward at 95 % by default",
    )
    price: Texts = Field(default=(), description="price of a GPU; list prices by default; may be given several times")
    hours_per_month: float = Field(default=HOURS_PER_MONTH, ge=0, description="hours a month that GPUs are paid for")
    developer_hour: Annotated[float, tyro.conf.arg(metavar="USD")] = Field(
        default=DEVELOPER_USD, ge=0, description="what an hour of a developer is worth [USD]"
    )
    hours_per_day: Value = Field(
        default=None,
        gt=0,
        le=24,
        description="hours of such load in a day; 8, or 24 if the log has a night, by default",
    )
    days_per_month: Value = Field(default=None, gt=0, le=31, description="days; 21, or 30.4 if the log has a night")
    windows: Annotated[int | None, metavar("N")] = Field(
        default=None, ge=FEWEST_WINDOWS, le=1000, description="windows of the log that judge; at most 20 by default"
    )
    tuning: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=TUNING_REQUESTS, ge=0, description="requests simulated to tune CACE to the log; 0: it is not tuned"
    )
    most_requests: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=MOST_REQUESTS, ge=1, description="of a longer log, only so many at its end are taken"
    )
    before: Annotated[str | None, metavar("LOG")] = Field(default=None, description="pilot: a log before the change")
    after: Annotated[str | None, metavar("LOG")] = Field(default=None, description="pilot: a log after the change")
    pilot: Annotated[str | None, metavar("LOG")] = Field(
        default=None, description="pilot: one log of `live serve --share`, in which policy and LRU took turns"
    )
    share: float = Field(default=0.5, description="of the blocks that were the policy's (--pilot)")
    block_min: float = Field(default=30.0, gt=0, description="length of a block of --pilot [min]")

    def folder(self, kind: str) -> Path:
        """The run folder, made.

        Raises:
            ConfigError: it holds something.
        """
        path = folder_of(self.out, kind)
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / "config.yaml", dump(self))
        return path

    def served(self, log: OwnLog) -> tuple[OwnLog, Callable[[Fleet | None], Scenario]]:
        """A log without ignored models, and its scenario by fleet; None: the one that it comes with.

        Raises:
            ConfigError: as `LogOnFleet.serving`.
        """
        on, matches = self.serving(log, ("engine", "host_ram_gb", "reward"), self.reward or "balanced")
        return served(log, matches), lambda fleet: on(None if fleet is None else fleet.groups, None)


def ask(options: Options, session: Session) -> int:
    """Answers which policy and how many GPUs; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed.
        TaskLostError: what played an episode was lost again and again.
    """
    if options.log is None:
        raise ConfigError("name a log: python -m experiments.recommend LOG, or --before LOG --after LOG for a pilot")
    deployed = deployed_name(options.deployed, options.env)
    named = split_names(options.policies) or contender_names(options.env)
    players, execution = contestants([deployed, *named], options.env), options.execution()
    with session.console.status("reading the log"):
        prices = price_table(options.price)
        log, scenario = options.served(options.read(options.log))
        current, fleets = fleets_of(options, scenario, prices)
        first = scenario(current)
        assert first.trace is not None
        workload = load_config(first.trace, first.workload_models())
        parts = parts_of(workload, options.windows, options.most_requests)
    question = Question(
        scenario=scenario,
        parts=parts,
        fleets=fleets,
        current=current,
        deployed=deployed,
        players=players,
        env=options.env,
        economy=economy_of(options, workload),
        promises=promises_of(options.slo, first, workload),
        tuning=options.tuning,
        execution=execution,
        folder=options.folder("recommend"),
    )
    told = Told(question, prices, session.command, assumed_fleet=options.gpu is None, measured=None)
    session.console.print(told.introduction(), soft_wrap=True)
    try:
        results = results_of(question, session)
        if results.answer is None:
            raise KeyboardInterrupt
    except (ConfigError, KeyboardInterrupt):
        if not (question.folder / WINDOWS_FILE).exists():
            shutil.rmtree(question.folder)  # nothing had finished
        raise
    measured = _held_against(log, question, workload) if not results.interrupted else None
    told = told._replace(measured=measured)
    report = write_all(told, results)
    show(told, results, session.console)
    session.console.print(f"Report: {report}", soft_wrap=True)
    return 130 if results.interrupted else 0


def _held_against(log: OwnLog, question: Question, workload: Workload) -> Measured | None:
    """Simulated times of today's fleet and policy against those that the log has; None where it has none."""
    if log.trace.ttft_us is None and log.trace.e2e_us is None:
        return None
    return measured_of(log.trace, question.scenario(question.current), workload, question.deployed, question.env)


def pilot(options: Options, session: Session) -> int:
    """Says what a pilot changed; returns the exit status.

    Raises:
        ConfigError, TraceError: options or logs that cannot be used; nothing has been written.
    """
    two = bool(options.before and options.after)
    if options.log is not None or two == bool(options.pilot) or (options.pilot and (options.before or options.after)):
        raise ConfigError("a pilot needs two logs and nothing else, --before LOG --after LOG, or one: --pilot LOG")
    deployed, policies = deployed_name(options.deployed, options.env), split_names(options.policies)
    if options.gpu is not None and options.pilot:
        raise ConfigError("the parts of a log are not simulated on their own: leave --gpu out with --pilot")
    if options.gpu is not None and len(policies) != 1:
        raise ConfigError("to simulate a pilot, name the policy that was tried: --gpu NAME --gpus N --policies NAME")
    with session.console.status("reading the logs"):
        if options.pilot:
            log = options.read(options.pilot)
            traces, in_turns = turns_apart(log.trace, Turns(options.share, 60 * options.block_min))
            logs = [OwnLog(trace, log.section) for trace in traces]
            change = change_between(*traces, options.windows, in_turns)
        else:
            logs = [options.read(path) for path in (options.before, options.after) if path]
            change = change_between(logs[0].trace, logs[1].trace, options.windows)
    simulated = []
    if options.gpu is not None:
        prices = price_table(options.price)
        with session.console.status("simulating the logs"):
            for log, policy in zip(logs, (deployed, policies[0]), strict=True):
                there, scenario = options.served(log)
                today = scenario(fleets_of(options, scenario, prices)[0])
                assert today.trace is not None
                workload = load_config(today.trace, today.workload_models())
                simulated.append(measured_of(there.trace, today, workload, policy, options.env))
    folder = options.folder("pilot")
    report = write_pilot(change, simulated, folder, session.command)
    show_pilot(change, simulated, session.console)
    session.console.print(f"Report: {report}", soft_wrap=True)
    return 0


def fleets_of(
    options: Options, scenario: Callable[[Fleet | None], Scenario], prices: dict[str, Price]
) -> tuple[Fleet, list[Fleet]]:
    """Today's fleet, and all that are tried.

    Raises:
        ConfigError: an unknown GPU, or one without a price.
    """
    if options.gpu is not None:
        known(options.gpu, "--gpu")
        current = fleet_of([(options.gpu, options.gpus or 1)], prices)
    else:
        groups = [(group.gpu, group.count) for group in scenario(None).fleet]
        if options.gpus is not None:
            groups = [(groups[0][0], options.gpus)]
        current = fleet_of(groups, prices)
    if options.fleets and options.max_gpus:
        raise ConfigError("--fleets and --max-gpus both say which fleets are tried; give one of them")
    gpu, gpus = current.groups[0][0], current.gpus
    named = fleets_named(split_names(options.fleets), prices)
    fleets = named or fleets_around(gpu, gpus, prices, options.max_gpus)
    return current, list(dict.fromkeys([current, *fleets]))


def economy_of(options: Options, workload: Workload) -> Economy:
    """What hours are worth, and how many of them a month has with such load."""
    whole = float(workload.arrival_us.max()) / 3.6e9 >= WHOLE_DAY_H
    hours = options.hours_per_day or (24.0 if whole else WORKING_DAY_H)
    days = options.days_per_month or (MONTH_DAYS if whole else WORKING_DAYS)
    return Economy(options.developer_hour, hours, days, options.hours_per_month)


def promises_of(texts: Sequence[str], scenario: Scenario, workload: Workload) -> list[Promise]:
    """The promises that were given, or the SLOs of the reward for the tasks that the log has.

    Raises:
        ConfigError: a text that is no promise.
    """
    if texts:
        return [_promise(text) for text in texts]
    there = {TASKS[code] for code in set(workload.task.tolist())}
    return [
        Promise(task, SLO_SHARE, cost.slo_s, cost.slo_on)
        for task, cost in scenario.costs().tasks().items()
        if cost.slo_s is not None and task in there
    ]


def _promise(text: str) -> Promise:
    """`completion:0.95@2s`, with `:e2e` behind it where the last token counts."""
    found = re.fullmatch(r"(\w+):(0?\.\d+|1|1\.0)@(\d+(?:\.\d+)?)s?(?::(ttft|e2e))?", text.strip().lower())
    if found is None or not float(found[3]):
        raise ConfigError(f"--slo {text!r}: write TASK:SHARE@SECONDS, as completion:0.95@2s, or agent:0.9@60s:e2e")
    if found[1] not in TASKS:
        raise ConfigError(
            f"--slo {text!r}: no task {found[1]!r}{did_you_mean(found[1], TASKS)}; tasks: {', '.join(TASKS)}"
        )
    return Promise(found[1], float(found[2]), float(found[3]), found[4] or "ttft")
