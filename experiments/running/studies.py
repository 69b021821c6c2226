"""What studies have in common: their scenarios, and their episodes in a run folder.

A study compares a policy with others that differ from it in one thing: `experiments.ablate`. Its run folder is that of
a comparison (`experiments/running/run_folder.py`), so everything that reads one reads this too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from cace_env.config import ConfigError, Frozen, did_you_mean, dump
from cace_env.evaluation import load_suite, run_seed
from cace_env.evaluation.episodes import PolicyError, in_order
from cace_env.evaluation.suite import Entry, suite_versions
from cace_env.policies import Contestant
from cace_env.scenarios import Scenario, load_scenario, scenario_names
from cace_env.simulation import SimulationError
from cace_env.tables import Protocol
from experiments.running.cases import PreparedCase, prepare
from experiments.running.lineup import about_policy, check_names
from experiments.running.progress import progress_bar
from experiments.running.run_folder import BASELINE, Run, RunFolder, surroundings


class Chosen(NamedTuple):
    """A scenario of a study, in one environment."""

    name: str  # in results
    scenario: Scenario
    protocol: Protocol


def chosen(what: Sequence[str], protocols: Sequence[Protocol], suite: str = "v1") -> list[Chosen]:
    """Scenarios by what somebody typed.

    Args:
        what: versions of suites (all entries without memory sweeps), ids of entries of `suite`, shipped scenarios by
            name, or YAML files; none: all entries of `suite`.
        protocols: in which environments; an entry has its own, and is left out where that is not asked for.
        suite: whose entries may be named.

    Raises:
        ConfigError: no such thing, or nothing is left.
    """
    entries = {entry.id: entry for entry in load_suite(suite).all_entries()}
    found: list[Chosen] = []
    for name in what or [suite]:
        if name in suite_versions():
            found += [_of_entry(entry) for entry in load_suite(name).entries if entry.env in protocols]
        elif name in entries:
            found.append(_of_entry(entries[name]))
        elif name in scenario_names() or name.endswith((".yaml", ".yml")):
            scenario = load_scenario(name)
            suffix = {Protocol.EVICTION: "", Protocol.SWAP: "-swap"}
            found += [Chosen(scenario.name + suffix[protocol], scenario, protocol) for protocol in protocols]
        else:
            known = [*suite_versions(), *entries, *scenario_names()]
            raise ConfigError(
                f"no suite, entry or scenario called {name!r}{did_you_mean(name, known)}; scenarios are "
                f"{', '.join(scenario_names())}, suites {', '.join(suite_versions())}, or give a YAML file"
            )
    other = [row.name for row in found if row.protocol not in protocols]
    if other or not found:
        asked = " and ".join(one.env_name for one in protocols)
        raise ConfigError(f"{other[0] if other else ', '.join(what)} is nothing of {asked}; name another --env")
    check_names(row.name for row in found)
    return found


def _of_entry(entry: Entry) -> Chosen:
    return Chosen(entry.id, entry.load(), entry.env)


def prepared(
    cases: Sequence[Chosen],
    contestants: Sequence[Contestant],
    numbers: Sequence[int],
    trace: dict[str, Any] | None = None,
) -> list[PreparedCase]:
    """The scenarios ready to run, under their names; those who cannot run on one are left out there.

    Raises:
        ConfigError, TraceError: a scenario or a log that cannot be used.
    """
    ready = []
    for name, scenario, protocol in cases:
        case = prepare(scenario, contestants, numbers, trace, protocol)
        ready.append(dataclasses.replace(case, case=dataclasses.replace(case.case, name=name)))
    return ready


def run_cases(
    path: Path,
    scenarios: Sequence[Chosen],
    cases: Sequence[PreparedCase],
    options: Frozen,
    *,
    title: str,
    split: str,
    command: str,
    workers: int,
    console: Console,
    **about: Any,
) -> Run | None:
    """Runs every contestant of every case into a new run folder.

    Args:
        path: the folder, new or empty.
        scenarios: kept in full under scenarios/.
        cases: the same, from `prepared`.
        options: kept as config.yaml.
        title: beside the progress bar.
        split: where the seeds are from.
        command: as it was typed.
        workers: threads.
        console: to be told about progress.
        about: more for run.json.

    Returns:
        The finished run; None after Ctrl-C, when what had finished is in the folder.

    Raises:
        ConfigError: the folder holds something.
        PolicyError, SimulationError: an episode failed; what had finished is in the folder.
    """
    folder, began = RunFolder(path), time.perf_counter()
    folder.write("config.yaml", dump(options))
    for one in scenarios:
        folder.write(f"scenarios/{one.name}.yaml", dump(one.scenario))
    taking_part = {contestant.name: contestant for case in cases for contestant in case.contestants}
    folder.describe(
        command=command,
        **surroundings(),
        status="running",
        split=split,
        baseline=BASELINE,
        policies={name: about_policy(contestant) for name, contestant in taking_part.items()},
        scenarios={case.name: case.about for case in cases},
        **about,
    )
    jobs = [(case, seed) for case in cases for seed in case.seeds]
    status, done = "finished", 0
    try:
        with progress_bar(console) as progress:
            bar = progress.add_task(title, total=len(jobs))
            played = in_order(lambda job: run_seed(job[0].case, job[0].contestants, job[1]), jobs, workers)
            for results in played:
                folder.append(results)
                done += 1
                progress.update(bar, advance=1, description=results[0].row["scenario"])
    except KeyboardInterrupt:
        status = "interrupted"
        console.print(f"interrupted: {done} of {len(jobs)} pairs of scenario and seed are in {path}", highlight=False)
    except (PolicyError, SimulationError):
        status = "failed"
        raise
    finally:
        folder.finish([], status=status, finished=done, asked_for=len(jobs), wall_s=time.perf_counter() - began)
        if not done:
            folder.discard()
    return Run(path) if status == "finished" else None
