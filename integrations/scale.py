"""Measures what Ray costs: `make bench-ray` prints the tables of docs/scale.md.

Everything is measured in turns, and what is compared is a ratio within a turn: no machine is quite idle.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
from ray import cloudpickle

from agents.evolution.trainer import EvolutionTrainer, LinearConfig
from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import classrooms
from agents.imitation.labels import KeptLabels
from agents.imitation.pricing import pricing_of
from cace_env.config import dump
from cace_env.evaluation import load_suite
from cace_env.executor import Executor
from cace_env.policies import Contestant
from cace_env.scenarios import seeds
from cace_env.tables import Protocol
from experiments.reading.markdown import table
from experiments.running.cases import of_entry, prepared
from experiments.running.command_line import Console, Session
from experiments.running.contestants import contestants_of, default_names
from experiments.running.executors.execution import Execution
from experiments.running.options import Running
from experiments.running.reference_rows import DEFAULTS
from experiments.running.run_writer import RunFolder
from experiments.running.runner import Plan, about_run, play_pair

ENTRY: Final = "eviction-default"
EMPTY_TASKS: Final = 500
PAIRS: Final = 8
LEARNED: Final = "default"  # scenario that agents learn from
LABELLED: Final = 4  # episodes of a turn
TURNS: Final = 3
WAYS: Final = {
    "this process alone": Execution(workers=1),
    "two threads": Execution(workers=2),
    "Ray, one core": Execution("ray", workers=1),
    "Ray, two cores": Execution("ray", workers=2),
}


def measure(console: Console) -> None:
    """All tables, the quick ones first."""
    suite = load_suite("v1")
    players = contestants_of(default_names([Protocol.EVICTION]), (), [Protocol.EVICTION])
    entry = of_entry(next(entry for entry in suite.entries if entry.id == ENTRY))
    (case,) = prepared([entry], players, seeds("test", PAIRS))
    results, _ = play_pair(case.case, case.seeds[0], players, _places(case.contestants, players), None, None)
    sizes = {
        "everybody who plays": players,
        "a case": case.case,
        "the requests of an episode": case.case.workload(case.seeds[0]),
        "the rows of a task": results,
    }
    rows = [[name, f"{len(cloudpickle.dumps(value)) / 1e3:,.0f}"] for name, value in sizes.items()]
    console.print(table(("what", "KB"), rows, numbers="right"), "\n")
    _overhead(console, case.case, players)
    _writing(console, case, players, results)
    tasks = [(case.case, seed, players, _places(case.contestants, players), None, None) for seed in case.seeds]
    spent = {name: _ways(execution, tasks) for name, execution in WAYS.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(TURNS):
        for name, way in spent.items():
            found[name].append(next(way))
    for way in spent.values():
        way.close()
    alone = found["this process alone"]
    lines = []
    for name, turns in found.items():
        ratios = [first[0] / mine[0] for first, mine in zip(alone, turns, strict=True)]
        wall, cpu = (statistics.median(values) for values in zip(*turns, strict=True))
        lines.append([name, f"{wall:.1f}", f"{statistics.median(ratios):.2f} ({_spread(ratios, 1)})", f"{cpu:.2f}"])
    header = (f"{PAIRS} pairs", "s", "times as fast as this process alone", "processor time [s]")
    console.print(table(header, lines, numbers="right"), "\n")
    twice = [one[0] / two[0] for one, two in zip(found["Ray, one core"], found["Ray, two cores"], strict=True)]
    console.print(f"Ray, two cores over one: {statistics.median(twice):.2f} times as fast ({_spread(twice, 1)})\n")
    _learning(console)
    _whole(console, suite)


def _places(taking_part: Any, players: list[Contestant]) -> list[int]:
    return [place for place, one in enumerate(players) if one in taking_part]


def _shared(executor: Executor, tasks: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Tasks as a run would hand them over."""
    case, players = executor.share(tasks[0][0]), executor.share(tasks[0][2])
    return ((case, seed, players, places, None, None) for _, seed, _, places, *_ in tasks)


def _ways(execution: Execution, tasks: list[tuple[Any, ...]]) -> Any:
    """Seconds and processor seconds that the tasks take, each time that it is asked; a first task warms up."""
    while True:
        with execution.opened() as executor:
            list(executor.run(play_pair, _shared(executor, tasks[:2])))
            began, cpu = time.perf_counter(), _processor_s()
            list(executor.run(play_pair, _shared(executor, tasks)))
            spent = time.perf_counter() - began, _processor_s() - cpu
        yield spent


def nothing(*arguments: Any) -> int:
    """A task that does nothing with what it is given."""
    return len(arguments)


def _overhead(console: Console, case: Any, players: list[Contestant]) -> None:
    """What a task costs beside its work, and what starting costs."""
    began = time.perf_counter()
    with Execution("ray", workers=1).opened() as executor:
        opened = time.perf_counter()
        list(executor.run(play_pair, _shared(executor, [(case, 2_000_000, players, [0], None, None)])))
        first = time.perf_counter()
        each, driver, everywhere = [], [], []
        for _ in range(TURNS):
            shared = executor.share(case), executor.share(players)
            list(executor.run(nothing, [shared]))
            wall, cpu, all_cpu = time.perf_counter(), time.process_time(), _processor_s()
            list(executor.run(nothing, (shared for _ in range(EMPTY_TASKS))))
            each.append((time.perf_counter() - wall) / EMPTY_TASKS)
            driver.append((time.process_time() - cpu) / EMPTY_TASKS)
            everywhere.append((_processor_s() - all_cpu) / EMPTY_TASKS)
    rows = [
        ["a cluster of its own starts", f"{opened - began:.1f} s"],
        ["its first task, in a process that starts", f"{first - opened:.1f} s"],
        ["a task without work, one core", f"{1e3 * statistics.median(each):.2f} ms ({_spread(each, 1e3)})"],
        ["tasks a second, one core", f"{1 / statistics.median(each):,.0f}"],
        [
            "processor time of that task, everywhere",
            f"{1e3 * statistics.median(everywhere):.2f} ms ({_spread(everywhere, 1e3)})",
        ],
        ["of it the command's own", f"{1e3 * statistics.median(driver):.2f} ms ({_spread(driver, 1e3)})"],
    ]
    console.print(table(("what", "takes"), rows, numbers="right"), "\n")


def _processor_s() -> float:
    """Processor time of the command and of Ray's processes, so far."""
    mine = psutil.Process()
    times = [process.cpu_times() for process in (mine, *mine.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _spread(values: list[float], scale: float) -> str:
    return f"{scale * min(values):.2f} to {scale * max(values):.2f}"


def _writing(console: Console, case: Any, players: list[Contestant], results: Any) -> None:
    """What the rows of a pair cost the command that writes them."""

    def cpu_ms(work: Callable[[], Any], times: int = 50) -> float:
        began = time.process_time()
        for _ in range(times):
            work()
        return 1e3 * (time.process_time() - began) / times

    with tempfile.TemporaryDirectory() as name:
        plan = Plan(Path(name) / "run", [case], Running(), "test", Execution(), contestants=players, by_task=False)
        folder = RunFolder(plan.path, about_run(plan, "bench"), by_task=False)
        written = cpu_ms(lambda: folder.append(results))
        folder.write("config.yaml", dump(plan.options))
    console.print(f"rows of a pair written: {written:.2f} ms of processor time of the command\n")


def _learning(console: Console) -> None:
    """What learning costs: processor time, and as a share of what the same turn costs this process alone."""
    found = {name: _learned(execution) for name, execution in WAYS.items()}
    alone = found["this process alone"]
    rows = []
    for name, spent in found.items():
        cells = []
        for mine, theirs in zip(spent, alone, strict=True):
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            cells += [f"{statistics.median(mine):.2f}", f"{statistics.median(ratios):.2f} ({_spread(ratios, 1)})"]
        rows.append([name, *cells])
    header = ("processor time", "a generation [s]", "over alone", f"labels of {LABELLED} episodes [s]", "over alone")
    console.print(table(header, rows, numbers="right"), "\n")


def _learned(execution: Execution) -> tuple[list[float], list[float]]:
    """Processor time of generations of candidates, and of labels of some episodes."""
    first: dict[str, Any] = {"train_on": (LEARNED,), "env": Protocol.EVICTION}
    search = LinearConfig(**first, train_seeds=8, seeds_per_generation=8)
    with execution.opened() as executor, tempfile.TemporaryDirectory() as folder:
        trainer = EvolutionTrainer(search, executor)
        config = ImitationConfig(
            **first,
            labels=folder,
            player="lru",
            futures=8,
            share=0.2,
            horizons_s=(60.0,),
            episodes=LABELLED * (1 + TURNS),
        )
        kept = KeptLabels(config, list(classrooms(config).values()), pricing_of(config))

        def generation(turn: int) -> None:
            trainer.learn(search.population, lambda step: None)

        def labels(turn: int) -> None:
            list(kept.price(kept.jobs[LABELLED * turn : LABELLED * (turn + 1)], executor))

        return _spent(generation), _spent(labels)


def _spent(work: Callable[[int], None]) -> list[float]:
    """Processor seconds of each turn; one before them warms up."""
    spent = []
    for turn in range(1 + TURNS):
        began = _processor_s()
        work(turn)
        spent.append(_processor_s() - began)
    return spent[1:]


def _whole(console: Console, suite: Any) -> None:
    """One pair of every entry of the suite with its reference: what a whole suite is made of."""
    protocols = list(Protocol)
    names = default_names(protocols, ("lru", "cace", "gdsf", "belady-cost"))
    players, seed = contestants_of(names, (), protocols), [2_000_000]
    began, entries = time.process_time(), [of_entry(entry) for entry in suite.all_entries()]
    cases = prepared(entries, players, seed)
    preparing, spent = time.process_time() - began, []
    for case in cases:
        began = time.process_time()
        play_pair(case.case, seed[0], case.contestants, range(len(case.contestants)), DEFAULTS, None)
        spent.append(time.process_time() - began)
    console.print(
        f"{len(cases)} entries: made ready in {preparing:.1f} s; a pair with its reference takes "
        f"{statistics.mean(spent):.2f} s of one core, median {statistics.median(spent):.2f}, at most {max(spent):.2f}"
    )


if __name__ == "__main__":
    measure(Session(Console(width=120), "bench").console)
