"""From a log to an answer: cuts it, tunes CACE, plays every policy on every fleet, and decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, dump
from cace_env.executor import Executor
from cace_env.files import append_file, csv_text, replace_file
from cace_env.policies import Contestant
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol
from experiments.logs.advice.contenders import Found, tuned_contestant, tuned_to, write_tuned
from experiments.logs.advice.decision import Answer, Economy, answer_of
from experiments.logs.advice.parts import Parts
from experiments.logs.advice.playing import Played, Promise, play
from experiments.logs.advice.prices import Fleet
from experiments.logs.advice.resampling import Draws
from experiments.logs.advice.robustness import SITUATIONS, Held, held
from experiments.running.cases import unable
from experiments.running.command_line import Session
from experiments.running.contestants import able
from experiments.running.executors.execution import Execution
from experiments.running.progress import progress_bar

TUNED_FILE: Final = "cace.yaml"
WINDOWS_FILE: Final = "windows.csv"
WINDOW_COLUMNS: Final = ("requests", "cost", "waiting_s", "answered")


@dataclass(frozen=True)
class Question:
    """What is asked of a log."""

    scenario: Callable[[Fleet], Scenario]
    parts: Parts
    fleets: Sequence[Fleet]  # today's among them
    current: Fleet
    deployed: str
    players: Sequence[Contestant]  # the deployed policy among them; CACE tuned to the log comes to them
    env: Protocol
    economy: Economy
    promises: Sequence[Promise]
    tuning: int  # budget of requests; 0: none
    execution: Execution  # of policies on fleets, and of tuning
    folder: Path


@dataclass
class Results:
    """What has been played, as far as it got."""

    draws: Draws
    grid: dict[tuple[Fleet, str], Played] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # fleets and policies, with the reason
    tuned: Found | None = None
    answer: Answer | None = None
    held: list[Held] = field(default_factory=list)
    interrupted: bool = False

    def on(self, fleet: Fleet) -> dict[str, Played]:
        """What was played on a fleet, by policy."""
        return {policy: played for (there, policy), played in self.grid.items() if there == fleet}


def results_of(question: Question, session: Session) -> Results:
    """Plays and decides; what has finished is on disk at once, and is decided on after Ctrl-C.

    Raises:
        ConfigError: today's fleet or policy cannot play the log.
        PolicyError, SimulationError: an episode failed.
        TaskLostError: what played an episode was lost again and again.
    """
    results = Results(Draws.of(question.parts.windows))
    try:
        with question.execution.opened() as executor, progress_bar(session.console) as progress:
            cases = _cases(question, results)
            players = _players(question, results, cases[question.current], executor, progress, session.command)
            _play_all(question, results, cases, players, executor, progress)
            results.answer = _answer(question, results)
            _try_elsewhere(question, results, cases, players, progress)
    except KeyboardInterrupt:
        results.interrupted = True
        if results.answer is None and (question.current, question.deployed) in results.grid:
            results.answer = _answer(question, results)
    return results


def _cases(question: Question, results: Results) -> dict[Fleet, Case]:
    """The fleets on which the log's models fit; the scenario of each is written."""
    cases = {}
    for fleet in question.fleets:
        try:
            scenario = question.scenario(fleet)
        except ConfigError as error:
            if fleet == question.current:
                raise
            results.left_out.append(f"{fleet.name}: {error}")
            continue
        cases[fleet] = replace(case_of(scenario, question.env), name=fleet.name, training=None)
        path = question.folder / "scenarios" / file_name(fleet)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, dump(scenario))
    return cases


def file_name(fleet: Fleet) -> str:
    """The file of a fleet's scenario."""
    return f"{'-'.join(f'{count}x{gpu}' for gpu, count in fleet.groups)}.yaml"


def _players(
    question: Question, results: Results, case: Case, executor: Executor, progress: Progress, command: str
) -> list[Contestant]:
    """The policies, and CACE tuned to the beginning of the log."""
    if question.tuning:
        bar = progress.add_task("tuning CACE", total=question.tuning)
        results.tuned = tuned_to(
            case,
            question.parts.tuning,
            question.env,
            question.tuning,
            executor,
            lambda spent: progress.update(bar, completed=min(spent, question.tuning)),
        )
        source = str(question.parts.whole.meta.get("source", "log"))
        write_tuned(results.tuned, question.folder / TUNED_FILE, question.env, source, command)
    tuned = [] if results.tuned is None else [tuned_contestant(results.tuned.weights, question.env)]
    return [*question.players, *tuned]


def _play_all(
    question: Question,
    results: Results,
    cases: Mapping[Fleet, Case],
    players: Sequence[Contestant],
    executor: Executor,
    progress: Progress,
) -> None:
    """Every policy on every fleet: today's fleet first, and there what is deployed."""
    jobs = []
    for fleet in sorted(cases, key=lambda fleet: (fleet != question.current, fleet.usd_per_hour)):
        for player in able(players, question.env):
            reason = unable(player, cases[fleet])
            if reason is None:
                jobs.append((fleet, player))
            elif fleet == question.current and player.name == question.deployed:
                raise ConfigError(f"--deployed: {reason}")
            else:
                results.left_out.append(f"{player.name} on {fleet.name}: {reason}")
    bar = progress.add_task("playing", total=len(jobs))

    def tasks() -> Iterator[tuple[Any, ...]]:
        parts = question.parts
        fleets = {fleet: executor.share(case) for fleet, case in cases.items()}
        by_name = {player.name: executor.share(player) for player in players}
        workload, starts = executor.share(parts.whole), executor.share(parts.starts)
        for fleet, player in jobs:
            yield fleets[fleet], by_name[player.name], workload, starts, parts.windows, question.promises

    with closing(executor.run(play, tasks())) as finished:
        for number, found in finished:
            fleet, player = jobs[number]
            results.grid[fleet, player.name] = found
            _append(question.folder / WINDOWS_FILE, fleet, player.name, found)
            progress.update(bar, advance=1, description=f"playing: {fleet.name}")


def _answer(question: Question, results: Results) -> Answer:
    eligible = [name for name in results.on(question.current) if name != NO_SWAPPING]
    return answer_of(
        results.grid,
        question.current,
        question.deployed,
        eligible,
        question.economy,
        results.draws,
        question.parts.chosen,
        question.promises,
    )


def _try_elsewhere(
    question: Question,
    results: Results,
    cases: Mapping[Fleet, Case],
    players: Sequence[Contestant],
    progress: Progress,
) -> None:
    """The recommended policy, or the best one where none is recommended, in other situations than the log's."""
    assert results.answer is not None
    by_name = {player.name: player for player in players}
    step = results.answer.tried
    if step.policy == question.deployed:
        return
    bar = progress.add_task("in other situations", total=len(SITUATIONS))
    results.held = held(
        cases[step.fleet],
        by_name[step.policy],
        by_name[question.deployed],
        question.parts,
        results.draws,
        lambda: progress.update(bar, advance=1),
    )


def _append(path: Path, fleet: Fleet, policy: str, played: Played) -> None:
    """A row for each window."""
    header = () if path.exists() else ("fleet", "policy", "window", *WINDOW_COLUMNS)
    numbers = zip(*(getattr(played, name).tolist() for name in WINDOW_COLUMNS), strict=True)
    append_file(path, csv_text(header, ((fleet.name, policy, at, *row) for at, row in enumerate(numbers))))
