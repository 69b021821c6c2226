"""Choice of an episode's workload: within the split, by the seed of the reset, or at random."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding

from cace_env.config import ConfigError
from cace_env.envs.baselines import Baseline, Curve
from cace_env.kernel.state import requests_of
from cace_env.scenarios import SEEDS, Scenario, Split, seeds
from cace_env.simulation import Bank, Simulators
from cace_env.simulation.bank import Laid, Shelf
from cace_env.tables import FleetTables
from cace_env.workload import Workload

LARGEST_BANK: Final = 1 << 16

Key = tuple[int, int]  # number of a scenario, seed of a workload


class Drawn(NamedTuple):
    """A workload as the simulator reads it, and what a baseline needs of it: the workload, or the baseline's curve."""

    laid: Laid
    met: Workload | Curve | None  # None without a baseline


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
        ConfigError: `num_workloads` out of range.
    """

    def __init__(
        self, scenarios: Sequence[Scenario], tables: Sequence[FleetTables], split: Split, num_workloads: int | None
    ) -> None:
        self.scenarios = scenarios
        self._tables = tables
        self.split = split
        self.all_seeds = seeds(split)
        most = min(LARGEST_BANK, len(self.all_seeds))
        if num_workloads is not None:
            num_workloads = whole("num_workloads", num_workloads)
        if num_workloads is not None and not 1 <= num_workloads <= most:
            raise ConfigError(
                f"num_workloads is {num_workloads}; it has to be 1 to {most}, or None for all of the split"
            )
        self.seeds = seeds(split, num_workloads)
        self.num_kept = 0 if num_workloads is None else num_workloads * len(scenarios)

    def seed(self, seed: int | None, np_random: np.random.Generator) -> int:
        """The workload seed for a reset with this seed; without one it is drawn."""
        if seed is None:
            return self.seeds[int(np_random.integers(len(self.seeds)))]
        return seed if seed in self.seeds else self.seeds[seed % len(self.seeds)]

    def all_of(
        self,
        envs: Sequence[int],
        seeds: Sequence[int | None] | None,
        named: npt.NDArray[np.int64] | None,
        generators: Generators,
    ) -> list[int]:
        """The workload seeds for a reset of `envs`: those that are `named`, else by the seeds of the reset."""
        if named is not None:
            return [int(named[env]) for env in envs]
        return [self.seed(None if seeds is None else seeds[env], generators[env]) for env in envs]

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

    def draw(self, key: Key) -> tuple[Laid, Workload]:
        """A workload, generated now, and checked. Threads may do so at once."""
        scenario, workload_seed = key
        workload = self.scenarios[scenario].workload(workload_seed)
        workload.check_horizon(self._tables[scenario])
        return requests_of(workload), workload

    def shelf(
        self,
        bank: Bank,
        env: int,
        scenario: int,
        workload_seed: int,
        met: Callable[[Any], None] | None = None,
        draw: Callable[[Key], Drawn] | None = None,
    ) -> Shelf:
        """The workload in the bank: found there if it is kept, else generated.

        Args:
            bank: the bank of the simulations.
            env: number of the environment that plays it.
            scenario: number of its scenario.
            workload_seed: which one.
            met: called with the `met` of a workload that has been generated.
            draw: how to get one that is not kept; None = `self.draw`.
        """
        key = scenario, workload_seed

        def generated() -> Laid:
            drawn = Drawn(*self.draw(key)) if draw is None else draw(key)
            if met is not None:
                met(drawn.met)
            return drawn.laid

        if self.keeps(workload_seed):
            return bank.kept(key, generated)
        return bank.put(env, generated())


class Ahead:
    """Workloads that threads draw while steps go on: for each environment the one that it will play next.

    Nothing depends on it but time. What an environment plays is settled at its reset; if that is another workload, or
    nobody has begun to draw it, or it could not be drawn, it is drawn there and then, with the error if there is one.

    Args:
        draws: where workloads come from.
        generators: of all environments.
        simulators: of all environments; their threads draw.
        scenario_of: number of each environment's scenario, `(num_envs,)`.
        baseline: plays what is drawn; None = there is none.
    """

    def __init__(
        self,
        draws: Draws,
        generators: Generators,
        simulators: Simulators,
        scenario_of: npt.NDArray[np.int64],
        baseline: Baseline | None,
    ) -> None:
        self._draws, self._generators, self._simulators = draws, generators, simulators
        self._scenario_of = scenario_of
        self._make = partial(_drawn, draws, baseline)  # threads know nothing else
        self._expected: list[Key | None] = [None] * len(scenario_of)  # by environment
        self._coming: dict[Key, Future[Drawn]] = {}  # at most one for each environment
        self._process = os.getpid()

    def expect(self, envs: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Lets threads draw what each of `envs` plays next: a seed's workload; None = what it would draw."""
        if (team := self._simulators.team()) is None:
            return
        if self._process != os.getpid():  # a fork has none of the threads that were drawing
            self._process, self._coming = os.getpid(), {}
        for env, seed in zip(envs, seeds, strict=True):
            if seed is None:
                seed = self._generators.peek(env, partial(self._draws.seed, None))
            key = None if seed is None else (int(self._scenario_of[env]), seed)
            before, self._expected[env] = self._expected[env], key
            if before is not None and before != key and before in self._coming:
                self._coming.pop(before).cancel()
            if key is not None and key not in self._coming and not self._simulators.bank.holds(key):
                future: Future[Drawn] = Future()
                self._coming[key] = future
                team.send(partial(_fulfil, future, self._make, key))

    def shelf(self, env: int, workload_seed: int, met: Callable[[Any], None] | None) -> Shelf:
        """The workload of an environment, as `Draws.shelf` gives it."""
        scenario = int(self._scenario_of[env])
        return self._draws.shelf(self._simulators.bank, env, scenario, workload_seed, met, self._draw)

    def _draw(self, key: Key) -> Drawn:
        """A workload: drawn ahead, or now."""
        coming = self._coming.pop(key, None)
        if coming is None or self._process != os.getpid() or coming.cancel() or coming.exception() is not None:
            return self._make(key)
        return coming.result()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_expected": [None] * len(self._expected), "_coming": {}}


def _drawn(draws: Draws, baseline: Baseline | None, key: Key) -> Drawn:
    """A workload, with the baseline's curve."""
    laid, workload = draws.draw(key)
    curve = None if baseline is None else baseline.curve(key[0], workload, key[1])
    return Drawn(laid, curve)


def _fulfil(future: Future[Drawn], make: Callable[[Key], Drawn], key: Key) -> None:
    """Draw a workload for a future, unless it is not wanted any more."""
    if future.set_running_or_notify_cancel():
        try:
            drawn = make(key)
        except BaseException as error:  # of any kind: the reset that needs the workload meets it again
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
