"""What whoever plays many episodes asks of an executor, the threads that are one, and what is handed to tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from cace_env.cases import Case
from cace_env.policies.base import TRAINING_EPISODES
from cace_env.scenarios import seeds
from cace_env.workload import Workload

Result = TypeVar("Result")
T = TypeVar("T")
Finished = Generator[tuple[int, Result], None, None]  # the number of a task and its result, in the order of their ends


class Executor(Protocol):
    """Runs tasks side by side; results depend neither on where they run nor on the order in which they end."""

    apart: bool  # tasks may run on another machine, which has no files of this one
    cores: int

    def share(self, value: T) -> T:
        """What stands for a value among the arguments of several tasks: it is moved once, however many they are."""

    def run(self, work: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Finished[Result]:
        """Runs a function of a module on each of some arguments; what has not begun when the caller leaves never does.

        Args:
            work: found by its name where it runs, so no function inside another one.
            tasks: arguments of each, shared ones or plain numbers and texts.

        Yields:
            The number of a task and its result, as soon as it has ended.

        Raises:
            TaskLostError: what ran a task was lost again and again.
            Exception: what a task raised; no other one begins.
        """


class TaskLostError(OSError):
    """A machine or process that ran a task was lost, each time that it was tried again."""


class Threads:
    """Threads of this machine: episodes are compiled and hold no lock of the interpreter, and nothing is moved.

    What runs cannot be stopped, so a caller that leaves waits until it has ended.
    """

    apart = False

    def __init__(self, workers: int) -> None:
        self._workers, self.cores = workers, os.cpu_count() or 1

    def share(self, value: T) -> T:
        """The value itself."""
        return value

    def run(self, work: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Finished[Result]:
        """See `Executor.run`; one worker needs no thread, and takes tasks in order."""
        if self._workers == 1:
            yield from ((number, work(*arguments)) for number, arguments in enumerate(tasks))
            return
        pool = ThreadPoolExecutor(self._workers)
        try:
            begun = {pool.submit(work, *arguments): number for number, arguments in enumerate(tasks)}
            for one in as_completed(list(begun)):
                yield begun.pop(one), one.result()  # whose result is kept no longer than the caller does
        finally:
            pool.shutdown(cancel_futures=True)


def movable(case: Case, executor: Executor) -> Case:
    """A case for tasks of an executor; what only this machine can read of a log is read now, or left out.

    Its requests come with each task (`requests_for`, `with_requests`).
    """
    if not (executor.apart and case.logged):
        return case
    training = case.training
    if training is not None:
        training = {seed: training(seed) for seed in seeds("train", TRAINING_EPISODES)}.__getitem__
    return replace(case, workload=dict[int, Workload]().__getitem__, training=training)


def requests_for(case: Case, seed: int, executor: Executor) -> Workload | None:
    """The requests of a task, where it cannot draw them: those of a log, elsewhere. They are shared."""
    return executor.share(case.workload(seed)) if executor.apart and case.logged else None


def with_requests(case: Case, seed: int, workload: Workload | None) -> Case:
    """A case in a task, with the requests that it was given, if any."""
    return case if workload is None else replace(case, workload={seed: workload}.__getitem__)
