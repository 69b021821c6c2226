"""How long one decision takes: in cace-env, exported for NumPy, and as ONNX on one thread; alone and beside a load.

    python -m experiments.yardsticks.decisions
    python -m experiments.yardsticks.decisions --policies cace,agent:swap --rounds 10

The questions are those of one simulated episode. In cace-env a decision is one compiled call, which makes the features
and the choice; the exported forms are given the features and make the choice. The load is another process on another
core that multiplies matrices: it takes the processor's caches and its clock, not its time. Processor time leaves out
the moments in which the machine did something else, which the clock on the wall does not.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, Frozen
from cace_env.export import form_of, load_numpy, load_onnx, questions, write_numpy, write_onnx
from cace_env.kernel.pick import pick
from cace_env.policies import Policy, contestant_of, rule_of
from cace_env.scenarios import seeds
from cace_env.simulation import Simulator, new_scratch
from experiments.reading.markdown import table
from experiments.running.command_line import Session, metavar, run_command, split_names

SIZE: Final = 1_500  # rows of the matrices of the load: more than the caches of a core hold
WARM_UP: Final = 50  # decisions that do not count

Timed = Callable[[], list[tuple[int, int]]]  # of some decisions, on the wall and of the processor [ns]


class Options(Frozen):
    """What is measured."""

    policies: Annotated[tuple[str, ...], metavar("A,B")] = Field(
        default=("lru", "cace", "agent:eviction", "agent:swap"), description="policies that can be exported"
    )
    scenario: str = Field(default="default", description="whose questions are asked")
    questions: int = Field(default=500, ge=1, description="questions in a round")
    rounds: int = Field(default=5, ge=1, description="rounds of each form, in turns")


def timed(decide: Callable[..., Any], *given: Any) -> tuple[Any, tuple[int, int]]:
    """An answer, and the time it took on the wall and of the processor [ns]."""
    processor = time.thread_time_ns()
    wall = time.perf_counter_ns()
    answer = decide(*given)
    wall = time.perf_counter_ns() - wall
    return answer, (wall, time.thread_time_ns() - processor)


def compiled(policy: Policy, case: Case, most: int) -> Timed:
    """Decisions of the compiled simulator, at the first questions of an episode."""
    seed = next(iter(seeds("test", 1)))
    workload = case.workload(seed)
    rule = rule_of(policy, case.tables, seed=seed, workload=workload)

    def run() -> list[tuple[int, int]]:
        simulator = Simulator(case.tables, policy.limits(case.tables))
        times: list[tuple[int, int]] = []
        asked = simulator.reset(workload)
        scratch = new_scratch(simulator.max_slots, case.tables.num_models, rule.network)
        while asked and len(times) < most:
            action, took = timed(pick, *simulator.arguments, rule, scratch)
            times.append(took)
            asked = simulator.answer(int(action))
        return times

    return run


def replayed(decide: Callable[..., Any], asked: Sequence[Any]) -> Timed:
    """Decisions of an exported form, at recorded questions."""

    def run() -> list[tuple[int, int]]:
        return [timed(decide, one.slots, one.pending, one.context, one.legal)[1] for one in asked]

    return run


def forms_of(name: str, options: Options, folder: Path) -> dict[str, Timed]:
    """The forms of a policy by name; ONNX where its libraries are there."""
    chosen = contestant_of(name).built_in
    env = form_of(name).about["env"]
    case = case_of(options.scenario, env)
    assert chosen is not None  # all that can be exported is built in
    asked = list(islice(questions(chosen, case, next(iter(seeds("test", 1)))), options.questions))
    write_numpy(name, folder)
    write_onnx(name, folder / "policy.onnx")
    return {
        "cace-env, features and choice": compiled(chosen, case, len(asked)),
        "NumPy": replayed(load_numpy(folder).decide, asked),
        "ONNX": replayed(load_onnx(folder / "policy.onnx"), asked),
    }


def multiply(core: int | None) -> None:
    """Multiplies matrices until it is ended."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    matrix = np.random.default_rng(0).random((SIZE, SIZE))
    while True:
        matrix @ matrix


@contextmanager
def load(core: int | None) -> Iterator[None]:
    """Another process that is busy on a core."""
    process = multiprocessing.get_context("spawn").Process(target=multiply, args=(core,), daemon=True)
    process.start()
    time.sleep(2.0)  # until it multiplies
    try:
        yield
    finally:
        process.terminate()
        process.join()


def measured(forms: dict[str, Timed], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Of a decision of each form, the forms in turns: median, 99th percentile, that of the processor's time [us]."""
    times: dict[str, list[tuple[int, int]]] = {name: [] for name in forms}
    for run in forms.values():
        run()
    for _ in range(rounds):
        for name, run in forms.items():
            times[name] += run()[WARM_UP:]
    found = {}
    for name, each in times.items():
        wall, processor = np.array(each).T / 1e3
        found[name] = tuple(map(float, (*np.percentile(wall, (50, 99)), np.percentile(processor, 99))))
    return found  # type: ignore[return-value]


@contextmanager
def pinned() -> Iterator[int | None]:
    """This process on one core alone, where the system can do that; gives another core, for the load.

    Raises:
        ConfigError: there is only one.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise ConfigError("there is one core, so nothing can be measured beside a load on another one")
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield max(cores)
    finally:
        os.sched_setaffinity(0, cores)


def show(options: Options, session: Session) -> None:
    """Prints the table.

    Raises:
        ConfigError: a policy cannot be exported, or there are fewer than two cores.
    """
    if options.questions <= WARM_UP:
        raise ConfigError(f"--questions {options.questions} has to be more than {WARM_UP}, which do not count")
    busy, rows = os.getloadavg()[0], list[list[str]]()
    with tempfile.TemporaryDirectory() as folder, pinned() as other:
        for name in split_names(options.policies):
            forms = forms_of(name, options, Path(folder) / str(len(rows)))
            alone = measured(forms, options.rounds)
            with load(other):
                beside = measured(forms, options.rounds)
            rows += [[f"`{name}`", form, *(f"{us:.0f}" for us in (*alone[form], *beside[form]))] for form in forms]
    times = ("p50", "p99", "p99 of processor time")
    header = ("policy", "form", *times, *(f"{each}, beside a load" for each in times))
    session.console.print(f"Microseconds of one decision.\n\n{table(header, rows, numbers='right')}", soft_wrap=True)
    session.console.print(f"Load average of the last minute, before: {busy:.1f} on {os.cpu_count()} cores.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("yardsticks.decisions", Options, show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
