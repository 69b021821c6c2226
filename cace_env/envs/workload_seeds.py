"""Choice of an episode's workload: within the split, by the seed of the reset, or at random."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, NamedTuple, SupportsIndex

import numpy as np
from gymnasium.utils import seeding

from cace_env.kernel.state import requests_of
from cace_env.scenarios import SEEDS, Scenario, Split, seeds
from cace_env.simulation import Bank
from cace_env.simulation.bank import Laid, Shelf
from cace_env.tables import FleetTables
from cace_env.workload import Workload

LARGEST_BANK: Final = 1 << 16

Key = tuple[int, int]  # number of a scenario, seed of a workload


class Drawn(NamedTuple):
    """A workload, and what is made of it before an episode."""

    workload: Workload
    laid: Laid
    curve: Any = None  # of the baseline on it; None if there is none yet


def whole(name: str, value: SupportsIndex) -> int:
    """Convert an argument to a whole number.

    Raises:
        TypeError: `value` is not a whole number; the message names the argument.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it has to be a whole number") from None


class Draws:
    """The workloads of a split of some scenarios.

    Args:
        scenarios: where workloads come from.
        tables: their fleets, used to check the first workload of each scenario.
        split: whose seeds are played.
        num_workloads: play only the split's first so many seeds, and keep their workloads; None = all seeds, each
            generated when it is played.

    Raises:
        ValueError: `num_workloads` out of range.
    """

    def __init__(
        self, scenarios: Sequence[Scenario], tables: Sequence[FleetTables], split: Split, num_workloads: int | None
    ) -> None:
        self.scenarios = scenarios
        self._tables = tables
        self._checked: set[int] = set()  # scenarios
        self.split = split
        self.all_seeds = seeds(split)
        most = min(LARGEST_BANK, len(self.all_seeds))
        if num_workloads is not None:
            num_workloads = whole("num_workloads", num_workloads)
        if num_workloads is not None and not 1 <= num_workloads <= most:
            raise ValueError(
                f"num_workloads is {num_workloads}; it has to be 1 to {most}, or None for all of the split"
            )
        self.seeds = seeds(split, num_workloads)
        self.num_kept = 0 if num_workloads is None else num_workloads * len(scenarios)

    def seed(self, seed: int | None, np_random: np.random.Generator) -> int:
        """The workload seed for a reset with this seed; without one it is drawn."""
        if seed is None:
            return self.seeds[int(np_random.integers(len(self.seeds)))]
        return seed if seed in self.seeds else self.seeds[seed % len(self.seeds)]

    def check(self, workload_seed: int) -> int:
        """Return a workload seed that the user gave, checked.

        Raises:
            ValueError: the seed does not belong to this split.
        """
        if workload_seed not in self.all_seeds:
            home = next((split for split, known in SEEDS.items() if workload_seed in known), None)
            fix = f"make the environment with split={home!r}" if home else f"{self.split} has {self.all_seeds}"
            raise ValueError(f"workload seed {workload_seed} is not one of split {self.split!r}; {fix}")
        return workload_seed

    def keeps(self, workload_seed: int) -> bool:
        """Whether a workload stays in the bank once it has been generated."""
        return bool(self.num_kept) and workload_seed in self.seeds

    def draw(self, key: Key) -> Drawn:
        """A workload, generated now. Threads may do so at once."""
        scenario, workload_seed = key
        workload = self.scenarios[scenario].workload(workload_seed)
        return Drawn(workload, requests_of(workload))

    def shelf(
        self,
        bank: Bank,
        env: int,
        scenario: int,
        workload_seed: int,
        met: Callable[[Workload, Any], None] | None = None,
        draw: Callable[[Key], Drawn] | None = None,
    ) -> Shelf:
        """The workload in the bank: found there if it is kept, else generated.

        Args:
            bank: the bank of the simulations.
            env: number of the environment that plays it.
            scenario: number of its scenario.
            workload_seed: which one.
            met: called with a workload that has been generated, and its `curve`.
            draw: how to get one that is not kept; None = `self.draw`.
        """
        key = scenario, workload_seed

        def generated() -> Laid:
            drawn = (draw or self.draw)(key)
            if scenario not in self._checked:  # later workloads have the same length
                drawn.workload.check_horizon(self._tables[scenario])
                self._checked.add(scenario)
            if met is not None:
                met(drawn.workload, drawn.curve)
            return drawn.laid

        if self.keeps(workload_seed):
            return bank.kept(key, generated)
        return bank.put(env, generated())


class Ahead:
    """Workloads that threads draw while steps go on: for each environment the one that it will play next.

    Nothing depends on it but time. What an environment plays is settled at its reset; if that is another workload, or
    nobody has begun to draw it, or it could not be drawn, it is drawn there and then, with the error if there is one.

    Args:
        num_envs: number of environments; for each at most one workload is kept.
        draw: draws one, in any thread.
    """

    def __init__(self, num_envs: int, draw: Callable[[Key], Drawn]) -> None:
        self._draw = draw
        self._expected: list[Key | None] = [None] * num_envs
        self._coming: dict[Key, Future[Drawn]] = {}
        self._process = os.getpid()

    def expect(self, env: int, key: Key, send: Callable[[Callable[[], None]], None]) -> None:
        """Let a thread draw what an environment will play next; `send` hands a function to one."""
        before, self._expected[env] = self._expected[env], key
        if before is not None and before != key and before in self._coming:
            self._coming.pop(before).cancel()
        if self._process != os.getpid():  # a fork has none of the threads that were drawing
            self._process, self._coming = os.getpid(), {}
        if key not in self._coming:
            self._coming[key] = future = Future()
            send(partial(_fulfil, future, self._draw, key))

    def draw(self, key: Key) -> Drawn:
        """A workload: drawn ahead, or now."""
        coming = self._coming.pop(key, None)
        if coming is None or self._process != os.getpid() or coming.cancel() or coming.exception() is not None:
            return self._draw(key)
        return coming.result()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_expected": [None] * len(self._expected), "_coming": {}, "_process": -1}


def _fulfil(future: Future[Drawn], draw: Callable[[Key], Drawn], key: Key) -> None:
    """Draw a workload for a future, unless it is not wanted any more."""
    if future.set_running_or_notify_cancel():
        try:
            drawn = draw(key)
        except Exception as error:  # of any kind: the reset that needs the workload meets it again
            future.set_exception(error)
        else:
            future.set_result(drawn)


class Generators:
    """A random generator for each of many environments, made when it is first needed, as Gymnasium's `np_random`."""

    def __init__(self, num_envs: int) -> None:
        self._made: list[tuple[np.random.Generator, int] | None] = [None] * num_envs  # with its seed; -1: unknown

    def begin(self, seeds: Sequence[int | None], rows: Iterable[int]) -> None:
        """Seeds the generators of `rows` that have a seed; `seeds` has an entry for every environment."""
        for env in rows:
            if seeds[env] is not None:
                self._made[env] = seeding.np_random(seeds[env])

    def __getitem__(self, env: int) -> np.random.Generator:
        return self._with_seed(env)[0]

    def seed(self, env: int) -> int:
        """The seed of an environment's generator; -1 where a state brought the generator alone."""
        return self._with_seed(env)[1]

    def peek(self, env: int, draw: Callable[[np.random.Generator], int]) -> int | None:
        """What `draw` would give for an environment, whose generator stays as it is; None where there is none yet."""
        made = self._made[env]
        if made is None:
            return None
        bits = made[0].bit_generator
        before = bits.state
        drawn = draw(made[0])
        bits.state = before
        return drawn

    def state(self, env: int) -> tuple[int, Mapping[str, Any]] | None:
        """Seed and state of an environment's generator; None before its first use."""
        made = self._made[env]
        return None if made is None else (made[1], made[0].bit_generator.state)

    def restore(self, env: int, state: tuple[int | None, Any] | None) -> None:
        """Continue from what `state` returned, here or in another environment."""
        if state is None:
            self._made[env] = None
            return
        generator = self[env]
        generator.bit_generator.state = state[1]
        self._made[env] = generator, -1 if state[0] is None else state[0]

    def _with_seed(self, env: int) -> tuple[np.random.Generator, int]:
        made = self._made[env]
        if made is None:
            made = self._made[env] = seeding.np_random()
        return made
