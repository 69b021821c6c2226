"""Runs a search, and writes its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
import yaml
from pydantic import Field

from agents.algorithms import algorithm_of, check_spread
from cace_env.config import MOST_SEED, MOST_STEPS, MOST_THREADS, ConfigError, read_json, read_yaml
from cace_env.evaluation.held_out import validation_seeds
from cace_env.files import json_text, replace_file
from cace_env.policies import order
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments.running.cases import REDRAWS
from experiments.running.command_line import Session, metavar, split_names
from experiments.running.executors.execution import Execution
from experiments.running.options import Folder, Logged, Names, Placed
from experiments.running.run_folder import check_new, surroundings
from experiments.tuning import page as search_report
from experiments.tuning.cace import FILE, compiled, draw, goal_of, goal_of_log, page, tune
from experiments.tuning.search_space import read_space
from experiments.tuning.study import Search, judge_finalists, run_search, write_trials

TUNED_CACE: Final = "cace"
ALL_VALIDATION: Final = 100  # seeds that finalists are judged by
DEFAULT_ORDER: Final = "very-patient-wsjf"
MUST_AGREE: Final = ("space", "steps", "intervals", "validation_seeds", "seed")


class Options(Logged, Placed):
    """What is searched, and how much it may cost; a log is cut in parts to tune on, choose by and compare on."""

    what: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FILE.yaml|cace")]] = Field(
        description="a search space, or cace: its weights by CMA-ES"
    )
    search: Annotated[Literal["optuna", "asha"], metavar("optuna|asha")] = Field(
        default="optuna",
        description="FILE: optuna ends trials that are worse than the median; asha gives them to Ray Tune, side by "
        "side on a cluster, and lets the best third go on",
    )
    trials: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=30, ge=1, le=MOST_STEPS, description="FILE: trials in all, pruned ones too"
    )
    steps: Annotated[int | None, metavar("N")] = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="FILE: training steps per trial; a fifth of the algorithm's own by default",
    )
    intervals: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=8, ge=1, le=1_000_000, description="FILE: times that a trial is looked at, and may be pruned"
    )
    requests: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=100_000_000,
        ge=1,
        le=MOST_STEPS,
        description="cace: budget, simulated requests of all searches together",
    )
    starts: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=3, ge=1, le=1_000_000, description="cace: searches per order"
    )
    order: Names = Field(default=(), description=f"cace, in Swap-v0: orders to tune behind; {DEFAULT_ORDER} by default")
    env: Annotated[Protocol | None, metavar("eviction|swap")] = Field(
        default=None, description="Eviction-v0 or Swap-v0; what FILE says, or eviction, by default"
    )
    scenarios: Names = Field(
        default=(),
        description="scenarios, YAML files or entries of the suite; what FILE says, or the suite, by default",
    )
    train_seeds: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=64, ge=1, le=1_000_000, description="cace: training seeds that its weights are tuned on"
    )
    validation_seeds: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=10, ge=1, le=100, description="validation seeds that trials are judged by; finalists by all of them"
    )
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = Field(default=0, ge=0, le=MOST_SEED, description="of the search")
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=1, ge=1, le=MOST_THREADS, description="FILE: trials side by side"
    )
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=2,
        ge=1,
        le=MOST_THREADS,
        description="episodes side by side, in each trial; a Ray cluster plays as many as it has cores",
    )
    out: Folder = Field(default=None, description="run folder, new or of the same search; runs/tune-NAME by default")


def tune_weights(options: Options, session: Session) -> int:
    """CACE by CMA-ES; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used, or a folder of something else.
    """
    console, command = session.console, session.command
    env = options.env or Protocol.EVICTION
    orders: list[str | None] = [*split_names(options.order)] or ([DEFAULT_ORDER] if env == Protocol.SWAP else [None])
    for name in orders:
        if name is not None:
            order(name)
            if env != Protocol.SWAP:
                raise ConfigError(f"--order {name} is for Swap-v0: add --env swap")
    names = split_names(options.scenarios)
    section = options.section()
    path = Path(options.out or f"runs/tune-cace-{env}")
    execution = options.placed(options.threads)
    kept = options.model_dump(mode="json", exclude={"executor", "ray_address", "search"})
    resumed(path, kept | {"out": None, "threads": 0})
    with console.status("preparing: scenarios, requests, compiled code"):
        if section is not None:
            if len(names) != 1:
                raise ConfigError("--trace needs one scenario, whose fleet serves the log: --scenarios FLEET.yaml")
            scenario = load_scenario(names[0])
            goal, about_goal = goal_of_log(scenario, env, section, names[0], REDRAWS)
            again = goal.compare
        else:
            goal = goal_of(names, env, options.train_seeds, ALL_VALIDATION)
            about_goal, again = f"On {', '.join(goal.train)}", goal.compare
        compiled(goal)
    about = describe(path, command, goal=about_goal)
    with execution.opened() as executor:
        found, before = tune(
            goal, orders, options.starts, options.requests, path, env=env, executor=executor, seed=options.seed,
            console=console, command=command,
        )  # fmt: skip
    draw(path)
    again += " --env swap" if env == Protocol.SWAP else ""
    replace_file(path / "report.md", page(found, before, path, about, again))
    described(path, status="finished", requests=sum(start.requests for start in found))
    prefix = f"{found[0].order}+" if found[0].order else ""
    console.print(
        f"{found[0].validation:.4f} of LRU's cost on validation seeds, {before:.4f} with the weights that ship: "
        f"{prefix}cace:{path / FILE}. Report: {path / 'report.md'}",
    )
    return 0


def search_numbers(options: Options, session: Session) -> int:
    """A search space by Optuna or Ray Tune; returns the exit status.

    Raises:
        ConfigError: options or a space that cannot be used, or a folder of another search.
    """
    console, command = session.console, session.command
    if options.trace is not None or options.order:
        raise ConfigError("--trace and --order are for `tune cace`; a search space trains on scenarios")
    space = read_space(options.what)
    if options.env is not None:
        space = space.with_value("env", str(options.env))
    if options.scenarios:
        space = space.with_value("train_on", split_names(options.scenarios))
    algorithms = space.parameters["algorithm"].values or (space.parameters["algorithm"].value,)
    steps = options.steps or max(1, min(algorithm_of(str(name)).steps for name in algorithms) // 5)
    execution = execution_of(options, [str(name) for name in algorithms])
    path = Path(options.out or f"runs/tune-{Path(options.what).stem}")
    search = Search(
        folder=path,
        space=space,
        trials=options.trials,
        steps=steps,
        intervals=options.intervals,
        validation_seeds=options.validation_seeds,
        seed=options.seed,
        threads=options.threads,
    )
    kept = {name: getattr(search, name) for name in MUST_AGREE if name != "space"}
    resumed(path, {**kept, "space": space.model_dump(mode="json", exclude_defaults=True)})
    about = describe(path, command)
    with execution.opened() as executor:
        cluster = executor if executor.apart else None
        if options.search == "asha":
            from experiments.tuning.asha import run_asha  # Ray is there: it has just been started

            run_asha(search, options.jobs, executor.cores, console)
        else:
            run_search(search, options.jobs, console, cluster)
        study = search.study()
        write_trials(study, space, path / "trials.csv")
        with console.status("judging the best trials on all validation seeds"):
            finalists, spent = judge_finalists(search, validation_seeds(ALL_VALIDATION), cluster)
    best = finalists[0]
    config = yaml.safe_dump(best["config"], sort_keys=False)
    replace_file(path / "best-config.yaml", config)
    target = path / "best"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(search.kept(best["trial"]), target)
    importances = search_report.draw(study, space, path)
    about |= {
        "best_config": config, "judging_requests": spent, "finalist_seeds": ALL_VALIDATION, "importances": importances,
    }  # fmt: skip
    replace_file(path / "report.md", search_report.search_page(study, space, about, finalists))
    described(path, status="finished", finalists=finalists)
    console.print(
        f"trial {best['trial']}: {best['validation']:.4f} of LRU's cost on {ALL_VALIDATION} validation seeds, in "
        f"{target}. Report: {path / 'report.md'}",
    )
    return 0


def execution_of(options: Options, algorithms: Sequence[str]) -> Execution:
    """Where a search space is searched.

    Raises:
        ConfigError: options that do not go together, or with an algorithm.
    """
    if options.search == "asha":
        return Execution("ray", None, options.ray_address, extra="rllib")
    for name in algorithms:
        if algorithm_of(name).on_ray:
            raise ConfigError(f"algorithm {name!r} runs on a Ray cluster; search its numbers with --search asha")
        if options.executor == "ray":
            check_spread(name)
    if options.executor == "ray" and options.jobs > 1:
        raise ConfigError(
            "--jobs are processes of this machine, and on a cluster one trial is played after the other; --search asha "
            "plays trials side by side there"
        )
    return options.placed(options.threads)


def resumed(path: Path, search: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it holds the beginning of the same search.

    Raises:
        ConfigError: it holds something else.
    """
    file = path / "search.yaml"
    content = json.loads(json.dumps(search))
    if file.is_file():
        before = read_yaml(file)
        other = [key for key in {**before, **content} if before.get(key) != content.get(key)]
        if other:
            key = other[0]
            raise ConfigError(
                f"{path} holds another search ({key} was {before.get(key)!r}, now {content.get(key)!r}); give another "
                "--out, or remove the folder"
            )
        return
    check_new(path)
    path.mkdir(parents=True, exist_ok=True)
    replace_file(file, yaml.safe_dump(content, sort_keys=False))


def describe(path: Path, command: str, **more: Any) -> dict[str, Any]:
    """Writes run.json anew; returns what it says."""
    about = {"command": command, **surroundings(), "status": "running", **more}
    replace_file(path / "run.json", json_text(about))
    return about


def described(path: Path, **more: Any) -> None:
    """Adds to run.json."""
    about = read_json(path / "run.json") | more
    replace_file(path / "run.json", json_text(about))
