"""Plays cases, contestants and seeds side by side into a run folder, and goes on where a run was killed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from cace_env.cases import Case
from cace_env.compilation import PACKAGE
from cace_env.config import MOST_THREADS, ConfigError, Frozen, dump
from cace_env.evaluation import SeedResult, run_seed
from cace_env.evaluation.episodes import PolicyError
from cace_env.evaluation.scores import REFERENCE
from cace_env.evaluation.suite import fingerprint_of
from cace_env.executor import Executor, TaskLostError, movable, requests_for, with_requests
from cace_env.policies import Contestant
from cace_env.simulation import SimulationError
from cace_env.workload import Workload
from experiments.running.cases import PreparedCase
from experiments.running.command_line import Session
from experiments.running.contestants import about_agents, about_habits, about_policy
from experiments.running.executors.execution import Execution
from experiments.running.progress import progress_bar
from experiments.running.reference_rows import Reference, reference_of, reference_result, shipped_result
from experiments.running.run_folder import BASELINE, Run, surroundings
from experiments.running.run_writer import RunFolder

AGREE: Final = ("split", "code", "agree", "reference_options")  # keys of run.json: else rows do not belong together
NOTED_S: Final = 10.0  # how often run.json says how long it has taken
FINISHED: Final = "finished"


@dataclass(frozen=True)
class Plan:
    """What is to be run, and where it is kept."""

    path: Path
    cases: Sequence[PreparedCase]
    options: Frozen  # of the command, kept as config.yaml
    split: str
    execution: Execution
    reference: Reference | None = None
    contestants: Sequence[Contestant] = ()  # in the order in which they are shown; by default those of the cases
    by_task: bool = True  # keep the metrics of each task, and histograms
    agree: Mapping[str, Any] = field(default_factory=dict)  # what else makes rows belong together
    about: Mapping[str, Any] = field(default_factory=dict)  # more for run.json
    files: Mapping[str, str] = field(default_factory=dict)  # by name in the folder


class Pair(NamedTuple):
    """A case and a seed: what one task plays, on the same requests."""

    case: PreparedCase
    seed: int
    contestants: Sequence[Contestant]  # whose row is missing
    searched: bool  # the reference is looked for
    shipped: str  # the fingerprint under which its row ships; empty: none is wanted, or it is looked for


class Outcome(NamedTuple):
    """How a run ended; one that failed raises."""

    folder: RunFolder
    status: str
    done: int  # pairs of scenario and seed that are whole
    asked_for: int

    @property
    def run(self) -> Run:
        """What is in the folder."""
        return Run(self.folder.path)


def workers_of(asked: int | None) -> int:
    """How many threads play; as many as there are cores by default.

    Raises:
        ConfigError: fewer than one, or more than any machine has.
    """
    workers = asked if asked is not None else os.cpu_count() or 1
    if not 1 <= workers <= MOST_THREADS:
        raise ConfigError(f"{workers} workers were asked for; --workers has to be 1 to {MOST_THREADS}")
    return workers


def fingerprints_of(cases: Sequence[PreparedCase]) -> dict[str, str]:
    """What results on each case depend on, as a hash; of a log, how it is read and cut."""
    return {case.name: fingerprint_of(case.scenario, case.case.tables.protocol) for case in cases}


def referenced(
    choice: Any, given: Sequence[str], cases: Sequence[PreparedCase], seeds: Sequence[int]
) -> Reference | None:
    """The reference that was asked for on some cases (`reference_of`).

    Raises:
        ConfigError: as `reference_of`.
    """
    return reference_of(choice, given, fingerprints_of(cases).values(), seeds)


def play(plan: Plan, session: Session, title: str) -> Outcome:
    """Plays what is missing in the folder; what has finished is on disk at once.

    Args:
        plan: what is to be run.
        session: to be told about progress.
        title: beside the progress bar.

    Raises:
        ConfigError: the folder holds something else; nothing was written. Or there is no such cluster.
        PolicyError, SimulationError: an episode failed; what had finished is in the folder.
        TaskLostError: what played an episode was lost again and again; what had finished is in the folder.
    """
    about, console = about_run(plan, session.command), session.console
    known = (*about["agents"].items(), *about["policies"].items())
    for name, problem in ((name, said) for name, row in known for said in row.get("problems", [])):
        console.print(f"{name}: {problem}: its results are not held out", style="yellow")
    folder = RunFolder(plan.path, about, AGREE, by_task=plan.by_task)
    for name, text in {"config.yaml": dump(plan.options), **plan.files}.items():
        folder.write(name, text)
    for case in plan.cases:
        folder.write(f"scenarios/{case.name}.yaml", dump(case.scenario))
    pairs = missing(plan, folder)
    asked_for = sum(len(case.seeds) for case in plan.cases)
    done, status = asked_for - len(pairs), "interrupted"
    clock = Clock(folder)
    try:
        with plan.execution.opened() as executor, progress_bar(console) as progress:
            folder.describe(cores=executor.cores)
            bar = progress.add_task(title, total=asked_for, completed=done)
            with closing(executor.run(play_pair, _tasks(plan, pairs, executor))) as finished:
                for number, (results, searches) in finished:
                    pair = pairs[number]
                    folder.append([*results, *_shipped(plan, pair)], searches)
                    done += 1
                    progress.update(bar, advance=1, description=f"{title}: {pair.case.name}")
                    clock.tick()
        folder.sort()
        status = FINISHED
    except KeyboardInterrupt:
        console.print(f"interrupted: {kept(done, asked_for, plan.path)}")
    except (PolicyError, SimulationError, TaskLostError):
        status = "failed"
        console.print(kept(done, asked_for, plan.path))
        raise
    finally:
        clock.note(status=status, finished=done, asked_for=asked_for)
        if not done:
            folder.discard()
    return Outcome(folder, status, done, asked_for)


def kept(done: int, asked_for: int, path: Path) -> str:
    """What is left of a run that did not finish, and how to go on."""
    if not done:
        return "nothing had finished, so nothing is kept"
    return f"{done} of {asked_for} pairs of scenario and seed are kept in {path}; the same command with --out goes on"


def missing(plan: Plan, folder: RunFolder) -> list[Pair]:
    """Pairs of case and seed of which a row is missing."""
    pairs = []
    for case in plan.cases:
        fingerprint = fingerprint_of(case.scenario, case.case.tables.protocol)
        ships = plan.reference is not None and fingerprint in plan.reference.shipped
        for place, seed in enumerate(case.seeds):
            rest = [c for c in case.contestants if (case.name, c.name, seed) not in folder.done]
            reference = plan.reference is not None and plan.reference.wants(place)
            reference = reference and (case.name, REFERENCE, seed) not in folder.done
            if rest or reference:
                pairs.append(
                    Pair(case, seed, rest, reference and not ships, fingerprint if reference and ships else "")
                )
    return pairs


def _shipped(plan: Plan, pair: Pair) -> list[SeedResult]:
    """The row of the reference as it ships with a suite, if it does."""
    if plan.reference is None or not pair.shipped:
        return []
    return [shipped_result(plan.reference, pair.shipped, pair.case.case, pair.seed)]


def _tasks(plan: Plan, pairs: Sequence[Pair], executor: Executor) -> Iterator[tuple[Any, ...]]:
    """The arguments of `play_pair`; every case and every policy is shared once."""
    everybody = list({id(one): one for pair in pairs for one in pair.contestants}.values())
    place = {id(one): at for at, one in enumerate(everybody)}
    players, cases = executor.share(everybody), dict[str, Case]()
    for case, seed, contestants, searched, _ in pairs:
        if case.name not in cases:
            cases[case.name] = executor.share(movable(case.case, executor))
        workload = requests_for(case.case, seed, executor)
        search = dict(plan.reference.search) if plan.reference is not None and searched else None
        yield cases[case.name], seed, players, [place[id(one)] for one in contestants], search, workload


def play_pair(
    case: Case,
    seed: int,
    players: Sequence[Contestant],
    places: Sequence[int],
    search: Mapping[str, Any] | None,
    workload: Workload | None,
) -> tuple[list[SeedResult], list[dict[str, Any]]]:
    """The rows of a pair, and how its reference was found.

    Args:
        case: the fleet.
        seed: of the requests.
        players: everybody.
        places: of those who play, among `players`.
        search: how hard the reference is looked for; None: it is not.
        workload: the requests, where they cannot be drawn here.
    """
    case = with_requests(case, seed, workload)
    results = run_seed(case, [players[place] for place in places], seed) if places else []
    if search is None:
        return results, []
    found, how = reference_result(case, seed, search)
    return [*results, found], [how]


class Clock:
    """Seconds that a run has taken, over all its beginnings; kept in run.json."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._began = self._noted = time.perf_counter()

    def tick(self) -> None:
        """Notes the seconds now and then: a run that is killed loses no more than `NOTED_S` of them."""
        if time.perf_counter() - self._noted > NOTED_S:
            self.note()

    def note(self, **more: Any) -> None:
        """Notes the seconds, and what else is to be said."""
        self._noted = time.perf_counter()
        self._folder.describe(wall_s=self._folder.spent_s + self._noted - self._began, **more)


def about_run(plan: Plan, command: str) -> dict[str, Any]:
    """run.json at the beginning."""
    taking_part = {one.name: one for one in (*plan.contestants, *(c for case in plan.cases for c in case.contestants))}
    reference = plan.reference
    # Seeds of a log are its windows, and no seeds that anything was trained on.
    seeds = sorted({seed for case in plan.cases if case.scenario.trace is None for seed in case.seeds})
    policies = {name: about_policy(one) | about_habits(one, seeds) for name, one in taking_part.items()}
    return {
        "command": command,
        **surroundings(),
        "status": "running",
        "split": plan.split,
        "code": package_hash(),
        "agree": dict(plan.agree),
        "baseline": BASELINE,
        "fingerprints": fingerprints_of(plan.cases),
        **({} if reference is None else {"reference_options": reference.settings}),
        "policies": policies | ({} if reference is None else {REFERENCE: reference.about()}),
        "scenarios": {case.name: case.about for case in plan.cases},
        "agents": about_agents(taking_part.values(), seeds),
        **plan.about,
    }


def package_hash(package: Path = PACKAGE) -> str:
    """Hash of every module of a package, in 16 hexadecimal digits: results may depend on any of them."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0{path.read_text('utf-8')}\0".encode())
    return digest.hexdigest()[:16]
