"""Runs every policy on every entry of a suite."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.config import ConfigError, Frozen, dump
from cace_env.evaluation import Suite, load_suite, run_seed
from cace_env.evaluation.episodes import PolicyError, in_order, seed_list
from cace_env.evaluation.results import Results, published
from cace_env.evaluation.scores import REFERENCE
from cace_env.evaluation.suite import Entry
from cace_env.policies import Contestant
from cace_env.scenarios import Split, seeds
from cace_env.simulation import SimulationError
from cace_env.tables import Protocol
from experiments.running.cases import describe, unable
from experiments.running.command_line import split_names
from experiments.running.lineup import about_agents, about_policy, agent_names, contestants_of, default_names
from experiments.running.progress import progress_bar
from experiments.running.reference_rows import about_reference, reference_options, reference_result
from experiments.running.run_folder import BASELINE, surroundings
from experiments.running.suite_folder import SuiteFolder, package_hash

ALL_SEEDS: Final = 100
QUICK_SEEDS: Final = 10
PARTNERS: Final = (BASELINE, "cace", "gdsf", "belady-cost")  # whose victims every order of Swap-v0 goes with
SHIPPED: Final = ("cost", "ttft_mean_s", "e2e_mean_s", "longest_wait_s", "evictions")  # what costs that ship say
NOTED_S: Final = 10.0  # how often run.json says how long it has taken


class Options(Frozen):
    """What is run."""

    suite: Annotated[str, tyro.conf.arg(metavar="VERSION")] = Field(default="v1", description="version, or a YAML file")
    env: Protocol | None = Field(default=None, description="only the entries of one environment")
    quick: bool = Field(default=False, description=f"{QUICK_SEEDS} seeds")
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = Field(
        default=None, description=f"episodes of each policy on each entry; {ALL_SEEDS} by default"
    )
    split: Split = Field(default="test", description="where the seeds come from")
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B", help_behavior_hint="")] = Field(
        default=(),
        description="built-in policies, with an order in Swap-v0 (wsjf+cace); all by default; lru always runs",
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy besides; may be given several times"
    )
    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder, on the entries of its environment"
    )
    reference: Literal["shipped", "compute", "none"] = Field(
        default="shipped",
        description="costs of the clairvoyant reference: those that ship with the suite, and computed where none do; "
        "computed everywhere; or none, and no scores",
    )
    reference_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(),
        description="how hard it is looked for, such as starts=2; keys of cace_env.planning.find_reference",
    )
    out: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = Field(
        default=None, description="run folder, new or of the same suite; runs/suite-VERSION by default"
    )
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = Field(
        default=None, description="threads; as many as there are cores by default"
    )


def run_suite(options: Options, command: str, console: Console) -> int:
    """Runs what is missing; returns the exit status.

    Raises:
        ConfigError: options or a suite that cannot be used, or a folder that holds something else.
        PolicyError, SimulationError: an episode failed; what had finished is in the folder.
    """
    suite = load_suite(options.suite)
    count = options.seeds if options.seeds is not None else QUICK_SEEDS if options.quick else ALL_SEEDS
    numbers = seed_list(seeds(options.split, count))
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"{workers} workers were asked for; it has to be 1 at least")
    entries = [entry for entry in suite.all_entries() if options.env in (None, entry.env)]
    protocols = list(dict.fromkeys(entry.env for entry in entries))
    agents = agent_names(options.agent)
    names = split_names(options.policies) or ([] if options.policy or agents else default_names(protocols, PARTNERS))
    names += agents
    contestants = contestants_of(names, options.policy, protocols)
    shipped = shipped_costs(options, suite, entries, numbers)
    search = reference_options(options.reference_option) | (shipped.header.settings if shipped is not None else {})
    folder = Path(options.out) if options.out is not None else Path("runs") / f"suite-{suite.version}"
    with console.status("preparing: scenarios, requests, compiled code"):
        cases = {entry.id: entry.case() for entry in entries}
        about = about_run(options, suite, entries, cases, contestants, numbers, search, command)
    for name, problem in ((name, problem) for name, row in about["agents"].items() for problem in row["problems"]):
        console.print(f"{name}: {problem}: its results are not held out", style="yellow", highlight=False)
    rows = SuiteFolder(folder, about)
    (folder / "suite.yaml").write_text(dump(suite), "utf-8")
    status = "interrupted"
    clock = Clock(rows)
    try:
        run_policies(rows, cases, contestants, numbers, workers, console, clock)
        if options.reference != "none":
            if shipped is not None:
                take_shipped(rows, shipped, entries, numbers, console)
            find_references(rows, cases, numbers, search, workers, console, clock)
        status = "finished"
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on: {command}", highlight=False)
    except (PolicyError, SimulationError):
        status = "failed"
        raise
    finally:
        clock.note(status=status)
    if status == "interrupted":
        return 130
    console.print(
        f"{rows.about['wall_s']:.0f} s in all, kept in {folder}. "
        f"Now: python -m experiments.docs suite --run {folder} --show",
        highlight=False,
    )
    return 0


class Clock:
    """Seconds that a run has taken, over all its beginnings; kept in run.json."""

    def __init__(self, folder: SuiteFolder) -> None:
        self._folder = folder
        self._began = self._noted = time.perf_counter()

    def tick(self) -> None:
        """Notes the seconds now and then: whoever is killed loses no more than `NOTED_S`."""
        if time.perf_counter() - self._noted > NOTED_S:
            self.note()

    def note(self, **more: Any) -> None:
        """Notes the seconds, and what else is to be said."""
        self._noted = time.perf_counter()
        self._folder.describe(wall_s=self._folder.spent_s + self._noted - self._began, **more)


def about_run(
    options: Options,
    suite: Suite,
    entries: Sequence[Entry],
    cases: dict[str, Case],
    contestants: Sequence[Contestant],
    numbers: Sequence[int],
    search: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """run.json."""
    without, scenarios = options.reference == "none", {}
    for entry in entries:
        case = cases[entry.id]
        scenarios[entry.id] = describe(entry.load(), case.tables, case.workload(numbers[0]))
    return {
        "command": command,
        **surroundings(),
        "status": "running",
        "suite": suite.version,
        "split": options.split,
        "code": package_hash(),
        "baseline": BASELINE,
        "cores": os.cpu_count(),
        "fingerprints": {entry.id: entry.fingerprint() for entry in suite.all_entries()},
        **({} if without else {"reference_options": search}),
        "policies": {contestant.name: about_policy(contestant) for contestant in contestants}
        | ({} if without else {REFERENCE: about_reference(search)}),
        "scenarios": scenarios,
        "agents": about_agents(contestants, numbers),
    }


def run_policies(
    rows: SuiteFolder,
    cases: dict[str, Case],
    contestants: Sequence[Contestant],
    numbers: Sequence[int],
    workers: int,
    console: Console,
    clock: Clock,
) -> None:
    """Every episode that is not there yet."""
    jobs = []
    for name, case in cases.items():
        able = [contestant for contestant in contestants if unable(contestant, case) is None]
        for seed in numbers:
            missing = [contestant for contestant in able if (name, contestant.name, seed) not in rows.done]
            if missing:
                jobs.append((case, missing, seed))
    with progress_bar(console) as progress:
        bar = progress.add_task(
            "policies", total=len(cases) * len(numbers), completed=len(cases) * len(numbers) - len(jobs)
        )
        for (case, _, _), results in zip(jobs, in_order(lambda job: run_seed(*job), jobs, workers), strict=True):
            rows.append(result.row for result in results)
            progress.update(bar, advance=1, description=case.name)
            clock.tick()


def shipped_costs(options: Options, suite: Suite, entries: Sequence[Entry], numbers: Sequence[int]) -> Results | None:
    """The costs that ship with the suite, where those of the reference on some of these entries and seeds do.

    Raises:
        ConfigError: it was said how hard the reference is to be looked for, and nothing would be looked for.
    """
    shipped = published(suite.version) if options.reference == "shipped" else None
    if shipped is None or not any(shipped.has(entry, REFERENCE, numbers) for entry in entries):
        return None
    if options.reference_option:
        raise ConfigError(
            f"--reference-option {options.reference_option[0]}: costs of the reference ship with suite "
            f"{suite.version}, so it is not looked for; --reference compute looks for it"
        )
    return shipped


def take_shipped(
    rows: SuiteFolder, results: Results, entries: Sequence[Entry], numbers: Sequence[int], console: Console
) -> None:
    """Costs of the reference that ship with the suite, where they are of these entries and seeds."""
    taken = 0
    for entry in entries:
        missing = [seed for seed in numbers if (entry.id, REFERENCE, seed) not in rows.done]
        if not results.has(entry, REFERENCE, missing):
            continue
        columns = {name: results.column(entry.id, REFERENCE, missing, name) for name in SHIPPED}
        for at, seed in enumerate(missing):
            row = {name: float(column[at]) for name, column in columns.items()}
            label = {"scenario": entry.id, "policy": REFERENCE, "seed": seed, "label": "shipped", "truncated": 0.0}
            rows.append([row | label])
        taken += len(missing)
    if taken:
        console.print(f"costs of the reference on {taken} episodes: those that ship with suite {results.header.suite}")


def find_references(
    rows: SuiteFolder,
    cases: dict[str, Case],
    numbers: Sequence[int],
    search: dict[str, Any],
    workers: int,
    console: Console,
    clock: Clock,
) -> None:
    """Looks for the reference of every episode that has none yet, by a thread each."""
    every = [(case, seed) for case in cases.values() for seed in numbers]
    jobs = [job for job in every if (job[0].name, REFERENCE, job[1]) not in rows.done]
    if not jobs:
        return
    with progress_bar(console) as progress:
        bar = progress.add_task("reference", total=len(every), completed=len(every) - len(jobs))
        found = in_order(lambda job: reference_result(*job, search), jobs, workers)
        for (case, seed), (result, reference) in zip(jobs, found, strict=True):
            rows.append([result.row])
            rows.note_search(
                scenario=case.name,
                seed=seed,
                base=reference.base,
                base_cost=reference.base_cost,
                cost=reference.cost,
                rounds=len(reference.rounds),
                replays=reference.replays,
                wall_s=round(reference.wall_s, 3),
            )
            progress.update(bar, advance=1, description=f"reference: {case.name}")
            clock.tick()
