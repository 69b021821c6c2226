"""What a log of real requests looks like, and whether eviction matters on a fleet that serves it.

    python -m experiments.characterize LOG                            any log that cace_env.traces reads
    python -m experiments.characterize LOG --models models.yaml --gpu h100 --gpus 4 --engine fast-loader
    python -m experiments.characterize LOG --scenario my.yaml         on the fleet of a scenario
    python -m experiments.characterize --workload default --seed 3    the requests of a scenario, as tables
    python -m experiments.characterize --published                    the generator against the published figures

A log gets a folder with report.html, characteristics.json and scenario.yaml, whose generated requests look like it.
`docs/characterize.md` explains every number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field
from rich.console import Console
from rich.progress import Progress, TaskID

import cace_env
from cace_env.config import ConfigError, Frozen, dump
from cace_env.files import json_text, replace_file
from cace_env.fleets import ENGINES, GPUS
from cace_env.generator import WorkloadConfig
from cace_env.scenarios import Scenario, load_scenario
from cace_env.workload import Workload
from experiments.logs.characterize_page import page_of
from experiments.logs.characterize_summary import print_summary
from experiments.logs.characterized import STEPS, as_json, characterized, on_assumed_fleet
from experiments.logs.eviction import with_engine
from experiments.logs.model_names import read_models
from experiments.logs.own_log import Match, OwnLog, match_models, on_scenario, open_log, scenario_for, served
from experiments.pages.regions import fill
from experiments.reports.page import write_page
from experiments.running.command_line import Session, key_value, metavar, run_command
from experiments.running.options import KeyValues, Running
from experiments.running.progress import progress_bar
from experiments.running.runner import workers_of
from experiments.yardsticks.workload_statistics import all_checks
from experiments.yardsticks.workloads import check_table, describe, plot

FILES = {"page": "report.html", "numbers": "characteristics.json", "scenario": "scenario.yaml"}


class Options(Frozen):
    """A log and the fleet that serves it; or a scenario whose requests are described."""

    log: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="LOG")]] = Field(
        default=None, description="a log, or the folder of an imported one"
    )
    format: Annotated[str | None, metavar("NAME")] = Field(default=None, description="its format; told by its columns")
    models: Annotated[Path | None, metavar("FILE.yaml")] = Field(
        default=None, description="what the models of the log are: name, or pattern with * -> catalogue, or ignore"
    )
    trace_option: KeyValues = Field(
        default=(),
        description="how the log is read and what is attached to it, such as users=200 or attach=client-as-model; may "
        "be given several times, see cace_env.traces.TraceConfig",
    )
    gpu: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description=f"GPUs that serve it ({', '.join(GPUS)}); by default about the fewest that serve it"
    )
    gpus: Annotated[int | None, metavar("N")] = Field(default=None, ge=1, description="how many; 1 by default")
    engine: Annotated[str | None, metavar("NAME")] = Field(
        default=None,
        description=f"load regime that the verdict is about ({', '.join(ENGINES)}); safetensors by default",
    )
    host_ram_gb: Annotated[float | None, metavar("GB")] = Field(
        default=None, ge=0, description="host cache for weights; 128 GB per GPU by default"
    )
    scenario: Annotated[str | None, metavar("NAME|FILE.yaml")] = Field(
        default=None, description="a scenario whose fleet and models serve the log, in place of --gpu"
    )
    zone: str = Field(default="UTC", description="time zone of the day curve, such as Europe/Berlin")
    out: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="new or empty; runs/TIME-characterize by default"
    )
    workers: Annotated[int | None, metavar("N")] = Field(default=None, description="threads; as many as cores")
    workload: Annotated[str | None, metavar("SCENARIO")] = Field(
        default=None, description="describe the requests of this scenario (name or file), its log's if it has one"
    )
    seed: int = Field(default=0, ge=0, description="seed of what is drawn")
    requests: Annotated[int | None, metavar("N")] = Field(
        default=None, ge=1, description="with --workload: other length than the scenario's"
    )
    plot: Annotated[Path | None, metavar("FILE.png")] = Field(default=None, description="with --workload: draw it")
    published: bool = Field(default=False, description="hold the generator against the published figures")
    write: Annotated[Path | None, metavar("FILE.md")] = Field(
        default=None, description="the same, and fill the tables of docs/workloads.md"
    )


def characterize(options: Options, session: Session) -> None:
    """Does what was asked for.

    Raises:
        ConfigError, TraceError: options that do not go together, or a log or scenario that cannot be used.
    """
    asked = [options.log is not None, options.workload is not None, options.published or options.write is not None]
    if sum(asked) != 1:
        raise ConfigError("name one of LOG, --workload SCENARIO and --published; see --help")
    for name in ("plot", "requests"):
        if getattr(options, name) is not None and options.workload is None:
            raise ConfigError(f"--{name} needs --workload SCENARIO")
    if options.log is not None:
        of_log(options, options.log, session)
    elif options.workload is not None:
        workload, names = scenario_workload(options.workload, options.seed, options.requests)
        session.console.print(describe(workload, names), soft_wrap=True)
        if options.plot:
            plot(workload, names, options.plot)
    else:
        checks = check_table(all_checks())
        session.console.print(checks, soft_wrap=True)
        if options.write:
            fill(options.write, {"checks": checks, "default": describe(*scenario_workload("default", 0))})


def of_log(options: Options, path: Path, session: Session) -> None:
    """Characterizes a log: prints the main numbers, and writes a folder.

    Raises:
        ConfigError, TraceError: as `characterize`.
    """
    folder = Running(out=None if options.out is None else str(options.out)).folder("characterize")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--out {folder} is not empty; name another folder, or remove it")
    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("reading", total=STEPS)
        log = open_log(path, options.format, **trace_options(options.trace_option))
        step = partial(forward, progress, bar)
        scenario, matches = on_fleet(log, options, step)
        engines = {engine: partial(under, engine, scenario, log, matches, options) for engine in ENGINES}
        found = characterized(
            served(log, matches),
            scenario,
            matches,
            engines,
            assumed=options.gpu is None and options.scenario is None,
            zone=options.zone,
            seed=options.seed,
            workers=workers_of(options.workers),
            step=step,
        )
        progress.update(bar, completed=STEPS, description="done")
    folder.mkdir(parents=True, exist_ok=True)
    content = as_json(found, session.command, cace_env.__version__)
    replace_file(folder / FILES["numbers"], json_text(content))
    if found.imitation is not None:
        replace_file(folder / FILES["scenario"], dump(found.imitation))
    scenario_file = str(folder / FILES["scenario"])
    write_page(page_of(found, session.command, scenario_file, cace_env.__version__), folder / FILES["page"])
    print_summary(found, session.console)
    session.console.print(f"Report: {folder / FILES['page']}", soft_wrap=True)


def trace_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of the form KEY=VALUE, values as YAML.

    Raises:
        ConfigError: one has no `=`, or its value is not YAML.
    """
    options = {}
    for one in given:
        key, value = key_value("--trace-option", one, "users=200")
        options[key] = value
    return options


def forward(progress: Progress, bar: TaskID, what: str) -> None:
    """A step of the progress bar."""
    progress.update(bar, advance=1, description=what)


def on_fleet(log: OwnLog, options: Options, step: Callable[[str], None]) -> tuple[Scenario, list[Match]]:
    """The scenario that serves the log, and what its models are.

    Raises:
        ConfigError: options that do not go together, or models that are not known or do not fit.
    """
    given = read_models(options.models) if options.models is not None else {}
    if given and not log.names:
        raise ConfigError(f"--models {options.models}: the log names no models, or others are attached to it")
    if options.scenario is not None:
        for name in ("gpu", "gpus", "engine", "host_ram_gb"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is what --scenario says; leave one of them out")
        return on_scenario(log, load_scenario(options.scenario), given)
    if options.gpus is not None and options.gpu is None:
        raise ConfigError("--gpus needs --gpu NAME")
    matches, engine = match_models(log.names, given), options.engine or "safetensors"
    if options.gpu is None:
        return on_assumed_fleet(log, matches, engine, options.host_ram_gb, step), matches
    fleet = [(options.gpu, options.gpus or 1)]
    return scenario_for(log, matches, fleet, engine, host_ram_gb=options.host_ram_gb), matches


def under(engine: str, scenario: Scenario, log: OwnLog, matches: Sequence[Match], options: Options) -> Scenario:
    """The same fleet under another engine; on a fleet of ours KV caches take what that leaves.

    Raises:
        ConfigError: the models do not fit.
    """
    if options.scenario is not None:
        return with_engine(scenario, engine)
    gpus = [(group.gpu, group.count) for group in scenario.fleet]
    return scenario_for(log, matches, gpus, engine, host_ram_gb=options.host_ram_gb)


def scenario_workload(name: str, seed: int, requests: int | None = None) -> tuple[Workload, list[str]]:
    """Requests of a scenario, those of its log if it has one, and the names of its models.

    Raises:
        ConfigError: the number of requests of a log cannot be chosen here.
    """
    scenario = load_scenario(name)
    if requests is not None:
        if scenario.trace is not None:
            raise ConfigError(f"--requests {requests}: scenario {name!r} plays a log; set `limit` in its trace section")
        content = {**scenario.workload_config.model_dump(), "requests": requests}
        scenario = scenario.replace(workload=WorkloadConfig.model_validate(content).model_dump(mode="json"))
    return scenario.workload(seed), [model.name for model in scenario.workload_models()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(
        "characterize", Options, characterize, arguments, __doc__, interrupted="interrupted; nothing kept", private=True
    )


if __name__ == "__main__":
    sys.exit(main())
