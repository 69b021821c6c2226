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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.config import ConfigError, dump
from cace_env.files import json_text, replace_file
from cace_env.fleets import ENGINES
from cace_env.generator import WorkloadConfig
from cace_env.scenarios import load_scenario
from cace_env.workload import Workload
from experiments.logs.characterize_page import page_of
from experiments.logs.characterize_summary import print_summary
from experiments.logs.characterized import STEPS, as_json, characterized, on_assumed_fleet
from experiments.logs.options import ENGINE, LogOnFleet
from experiments.logs.own_log import served
from experiments.pages.regions import fill
from experiments.reports.page import write_page
from experiments.running.command_line import Session, metavar, run_command
from experiments.running.options import folder_of
from experiments.running.progress import progress_bar
from experiments.running.run_folder import check_new
from experiments.running.runner import workers_of
from experiments.yardsticks.workload_statistics import all_checks
from experiments.yardsticks.workloads import check_table, describe, plot

FILES = {"page": "report.html", "numbers": "characteristics.json", "scenario": "scenario.yaml"}


class Options(LogOnFleet):
    """A log and the fleet that serves it; or a scenario whose requests are described."""

    zone: str = Field(default="UTC", description="time zone of the day curve, such as Europe/Berlin")
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


def of_log(options: Options, path: str, session: Session) -> None:
    """Characterizes a log: prints the main numbers, and writes a folder.

    Raises:
        ConfigError, TraceError: as `characterize`.
    """
    folder = folder_of(options.out, "characterize")
    check_new(folder)
    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("reading", total=STEPS)
        log = options.read(path)

        def step(what: str) -> None:
            progress.update(bar, advance=1, description=what)

        on, matches = options.serving(log, ("gpu", "gpus", "engine", "host_ram_gb"))
        if options.gpus is not None and options.gpu is None:
            raise ConfigError("--gpus needs --gpu NAME")
        assumed = options.gpu is None and options.scenario is None
        if assumed:
            scenario = on_assumed_fleet(log, matches, options.engine or ENGINE, options.host_ram_gb, step)
        else:
            scenario = on(None if options.gpu is None else [(options.gpu, options.gpus or 1)], None)
        # On a fleet of ours KV caches take what an engine leaves.
        gpus = None if options.scenario is not None else [(group.gpu, group.count) for group in scenario.fleet]
        engines = {engine: partial(on, gpus, engine) for engine in ENGINES}
        found = characterized(
            served(log, matches),
            scenario,
            matches,
            engines,
            assumed=assumed,
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
