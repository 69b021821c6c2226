"""What a workload looks like: by task, model, tokens, gaps; and the generator against the published figures.

`python -m experiments.characterize` prints the comparison with the published figures, `--write docs/workloads.md`
fills the tables of the page; `--workload default --seed 3` describes the requests of a scenario, `--plot FILE.png`
draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.generator import WorkloadConfig, generate
from cace_env.scenarios import load_scenario
from cace_env.workload import Workload
from experiments.pages.regions import fill
from experiments.running.command_line import Session, metavar, run_command
from experiments.yardsticks.workload_statistics import all_checks
from experiments.yardsticks.workloads import check_table, describe, plot


class Options(Frozen):
    """Whose requests are described; without a scenario the generator is held against the published figures."""

    workload: Annotated[str | None, metavar("SCENARIO")] = Field(
        default=None, description="describe the requests of this scenario (name or file)"
    )
    seed: int = Field(default=0, description="seed of the workload")
    requests: Annotated[int | None, metavar("N")] = Field(default=None, description="other length than the scenario's")
    plot: Annotated[Path | None, metavar("FILE.png")] = Field(default=None, description="draw the workload")
    write: Annotated[Path | None, metavar("FILE.md")] = Field(
        default=None, description="fill the tables of docs/workloads.md"
    )


def characterize(options: Options, session: Session) -> None:
    """Prints what was asked for, draws it, and fills the page.

    Raises:
        ConfigError: no such scenario, or a plot of none.
    """
    if options.plot and not options.workload:
        raise ConfigError(f"--plot {options.plot} needs --workload SCENARIO")
    if options.workload:
        workload, names = scenario_workload(options.workload, options.seed, options.requests)
        session.console.print(describe(workload, names), markup=False, soft_wrap=True)
        if options.plot:
            plot(workload, names, options.plot)
        return
    checks = check_table(all_checks())
    session.console.print(checks, markup=False, soft_wrap=True)
    if options.write:
        fill(options.write, {"checks": checks, "default": describe(*scenario_workload("default", 0))})


def scenario_workload(name: str, seed: int, requests: int | None = None) -> tuple[Workload, list[str]]:
    """Requests of a scenario and the names of its models."""
    scenario = load_scenario(name)
    models = scenario.workload_models()
    config = scenario.workload_config
    if requests is not None:
        config = WorkloadConfig.model_validate({**config.model_dump(), "requests": requests})
    return generate(config, models, seed), [model.name for model in models]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("characterize", Options, characterize, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
