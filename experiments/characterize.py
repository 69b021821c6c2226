"""What a workload looks like: by task, model, tokens, gaps; and the generator against the published figures.

`python -m experiments.characterize` prints the comparison with the published figures, `--write docs/workloads.md`
fills the tables of the page; `--workload default --seed 3` describes the requests of a scenario, `--plot FILE.png`
draws them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cace_env.generator import WorkloadConfig, generate
from cace_env.scenarios import load_scenario
from cace_env.workload import Workload
from experiments.pages.regions import fill
from experiments.yardsticks.workload_statistics import all_checks
from experiments.yardsticks.workloads import check_table, describe, plot


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.characterize", description=__doc__)
    parser.add_argument("--workload", metavar="SCENARIO", help="describe the requests of this scenario (name or file)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the workload")
    parser.add_argument("--requests", type=int, help="other length than the scenario's")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the workload (needs matplotlib)")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="fill the tables of docs/workloads.md")
    arguments = parser.parse_args()
    if arguments.plot and not arguments.workload:
        parser.error("--plot needs --workload SCENARIO")
    if arguments.workload:
        workload, names = scenario_workload(arguments.workload, arguments.seed, arguments.requests)
        print(describe(workload, names))
        if arguments.plot:
            plot(workload, names, arguments.plot)
        return
    checks = check_table(all_checks())
    print(checks)
    if arguments.write:
        fill(arguments.write, {"checks": checks, "default": describe(*scenario_workload("default", 0))})


def scenario_workload(name: str, seed: int, requests: int | None = None) -> tuple[Workload, list[str]]:
    """Requests of a scenario and the names of its models."""
    scenario = load_scenario(name)
    models = scenario.workload_models()
    config = scenario.workload_config
    if requests is not None:
        config = WorkloadConfig.model_validate({**config.model_dump(), "requests": requests})
    return generate(config, models, seed), [model.name for model in models]


if __name__ == "__main__":
    main()
