"""Labelled decisions: what an agent saw, and either what a teacher did or what every action would have cost.

The future is known when labels are made, and hidden when they are learned from. Prices of actions
(`agents.imitation.pricing`) say of every action how dear it is, so that decisions between equals weigh nothing.

What a copy costs until the end of its episode is exact, and mostly chance: after some minutes copies differ in all they
do. So costs are read at horizons of minutes, and the label is their mean over the horizons and over who plays on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from agents.imitation.config import ImitationConfig
from cace_env.cases import Case
from cace_env.evaluation.feature_ranges import Limits
from cace_env.evaluation.held_out import check_training, training_cases
from cace_env.executor import Executor, Finished, movable, requests_for, with_requests
from cace_env.kernel.pick import pick
from cace_env.kernel.rules import Rule
from cace_env.observation import ObservationLayout
from cace_env.planning import find_reference
from cace_env.planning.planner import plan_action
from cace_env.policies import Future, policy
from cace_env.policies.built_in import Policy, rule_of
from cace_env.policies.ranges import feature_ranges
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import Protocol
from cace_env.workload import Workload

Array = npt.NDArray[Any]
Result = TypeVar("Result")

PARTS: Final = 1000.0  # prices are thousandths of what LRU's whole episode costs, so that all scenarios weigh the same
PRICE_SEEDS: Final = 4  # episodes of LRU that say how much that is


class Labelled(NamedTuple):
    """Some decisions of one episode, `n` of them."""

    case: int  # index of the classroom
    observations: npt.NDArray[np.float16]  # (n, size) in the layout of the classroom; half a float is precise enough
    # (n, actions): 1 for the action that a teacher took; or what each costs over the mean of the legal ones [PARTS].
    # 0 where an action is not legal.
    labels: npt.NDArray[np.float32]
    limits: Limits  # ranges of the features, seen before they were rounded: a guard allows a constant no more


@dataclass(frozen=True)
class Classroom:
    """A case and the numbers that its labels need."""

    number: int
    case: Case
    layout: ObservationLayout
    lru_cost: float  # of an episode, mean
    requests: int  # simulated to find that out

    @classmethod
    def of(cls, number: int, case: Case, first_seed: int) -> Classroom:
        """Plays a few episodes by LRU, from this training seed on."""
        simulator = Simulator(case.tables)
        rule = rule_of(policy("lru"), case.tables)
        costs, requests = [], 0
        for seed in range(first_seed, first_seed + PRICE_SEEDS):
            workload = case.workload(seed)
            simulator.run(workload, rule)
            costs.append(simulator.cost())
            requests += len(workload)
        layout = ObservationLayout(simulator.max_slots, case.tables.num_models)
        return cls(number, case, layout, float(np.mean(costs)), requests)

    @property
    def actions(self) -> int:
        """Number of actions of a policy here."""
        swap = self.case.tables.protocol == Protocol.SWAP
        return self.layout.max_slots + (self.layout.max_pending + 1 if swap else 0)

    def rule(self, chosen: Policy, workload: Workload, seed: int, future: Future | None) -> Rule:
        """A policy as it plays an episode; one that is not clairvoyant is told nothing of the future."""
        known = future if chosen.clairvoyant else None
        return rule_of(
            chosen, self.case.tables, seed=seed, workload=workload, future=known, training=self.case.training
        )


def classrooms(config: ImitationConfig) -> dict[str, Classroom]:
    """The classrooms of a configuration, by the names that it gives their scenarios.

    Raises:
        ConfigError: unknown scenarios, or seeds that are not for training.
    """
    check_training(range(config.first_seed, config.first_seed + PRICE_SEEDS))
    cases = training_cases(config.train_on, config.env)
    return {name: Classroom.of(number, case, config.first_seed) for number, (name, case) in enumerate(cases.items())}


def show_reference(room: Classroom, seed: int, max_replays: int) -> tuple[Labelled, int]:
    """Label an episode with the decisions of the clairvoyant reference.

    Also returns how many requests were simulated, at most. If its plan waits for the timer of a patient order, some
    questions are included that an agent is never asked.
    """
    tables, workload = room.case.tables, room.case.workload(seed)
    reference = find_reference(room.case, workload, Future.of(tables, workload), seed, max_replays=max_replays)
    simulator = Simulator(tables, policy(reference.start).limits(tables))
    seen, taken = [], []
    simulator.reset(workload)
    for code in reference.plan.tolist():
        action = plan_action(simulator, code)
        seen.append(simulator.observation(room.layout))
        taken.append(action)
        simulator.answer(action)
    episodes = 2 + len(reference.costs) + len(reference.rounds) + reference.replays
    return _labelled(room, seen, _ones(room, taken)), episodes * len(workload)


def show_rule(room: Classroom, seed: int, teacher: Policy) -> tuple[Labelled, int]:
    """Label an episode without timers, as agents play it, with the decisions of a rule; also the requests simulated."""
    simulator, rule, asked = begun(room, seed, teacher)
    scratch = new_scratch(simulator.max_slots, room.case.tables.num_models, rule.network)
    seen, taken = [], []
    while asked:
        action = int(pick(*simulator.arguments, rule, scratch))
        seen.append(simulator.observation(room.layout))
        taken.append(action)
        asked = simulator.answer(action)
    return _labelled(room, seen, _ones(room, taken)), len(simulator.state.requests)


def begun(room: Classroom, seed: int, player: Policy) -> tuple[Simulator, Rule, bool]:
    """Return an episode at its first question, if there is one, and the rule that will play it."""
    workload = room.case.workload(seed)
    future = Future.of(room.case.tables, workload) if player.clairvoyant else None
    simulator = Simulator(room.case.tables)
    return simulator, room.rule(player, workload, seed, future), simulator.reset(workload)


def _ones(room: Classroom, taken: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.eye(room.actions, dtype=np.float32)[np.array(taken, dtype=np.int64)]


def seen_as(room: Classroom, seen: Sequence[Any]) -> tuple[npt.NDArray[np.float16], Limits]:
    """Observations, there may be none, in the form of the memory; and their ranges before they are rounded to it."""
    observations = np.array(seen, dtype=np.float32).reshape(len(seen), room.layout.size)
    limits = feature_ranges(observations, room.layout) if len(seen) else {}
    return observations.astype(np.float16), limits


def _labelled(room: Classroom, seen: Sequence[Any], labels: npt.NDArray[np.float32]) -> Labelled:
    """Decisions in the form of the memory; there may be none."""
    observations, limits = seen_as(room, seen)
    return Labelled(room.number, observations, labels.reshape(len(seen), room.actions), limits)


class Lessons:
    """Labels episodes by an executor, with which the classrooms are shared once.

    Args:
        rooms: all classrooms, in the order of their numbers.
        executor: labels the episodes.
    """

    def __init__(self, rooms: Sequence[Classroom], executor: Executor) -> None:
        self._rooms, self._executor = rooms, executor
        self._shared = executor.share([replace(room, case=movable(room.case, executor)) for room in rooms])

    def labelled(
        self, work: Callable[..., Result], episodes: Sequence[tuple[Classroom, int]], *more: Any
    ) -> Finished[Result]:
        """Runs a function on some episodes, as `Executor.run` does.

        Args:
            work: takes a classroom, a seed and `more`.
            episodes: classroom and seed of each.
            more: values that the executor shares, or numbers.
        """
        tasks = (
            (work, self._shared, room.number, seed, requests_for(room.case, seed, self._executor), *more)
            for room, seed in episodes
        )
        return self._executor.run(_in_classroom, tasks)


def _in_classroom(
    work: Callable[..., Result], rooms: Sequence[Classroom], number: int, seed: int, given: Workload | None, *more: Any
) -> Result:
    """A task: one episode, on the requests that were given if they cannot be drawn here."""
    room = rooms[number]
    return work(replace(room, case=with_requests(room.case, seed, given)), seed, *more)


class Memory:
    """Labelled decisions to learn from: at most so many, the oldest episodes leave first.

    Args:
        rooms: the classrooms that episodes may come from.
        capacity: most decisions; the last episode is kept whole.

    Attributes:
        layout: that has room for every case: what `draw` returns is laid out by it.
        size: decisions that are remembered.
    """

    def __init__(self, rooms: Sequence[Classroom], capacity: int) -> None:
        self._rooms, self._capacity = rooms, capacity
        self._episodes: deque[Labelled] = deque()
        self.size = 0
        self.layout = ObservationLayout(
            max(room.layout.max_slots for room in rooms), max(room.layout.max_pending for room in rooms)
        )

    def add(self, episode: Labelled) -> None:
        """Remembers an episode, and forgets the oldest where there are too many."""
        self._episodes.append(episode)
        self.size += len(episode.labels)
        while self.size > self._capacity and len(self._episodes) > 1:
            self.size -= len(self._episodes.popleft().labels)

    def draw(self, draws: np.random.Generator, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """So many decisions, with replacement: observations `(count, layout.size)` and labels `(count, actions)`."""
        ends = np.cumsum([len(episode.labels) for episode in self._episodes])
        picked = np.sort(draws.integers(self.size, size=count))
        where = np.searchsorted(ends, picked, side="right")
        slots, models = self.layout.max_slots, self.layout.max_pending
        swap = self._rooms[0].case.tables.protocol == Protocol.SWAP
        observations = np.zeros((count, self.layout.size), dtype=np.float32)
        labels = np.zeros((count, slots + (models + 1 if swap else 0)), dtype=np.float32)
        blocks = self.layout.split(observations)
        for number, found in self._of_each_case(picked, where, ends).items():
            rows, seen, known = (np.concatenate(parts) for parts in zip(*found, strict=True))
            own = self._rooms[number].layout
            theirs = own.split(seen.astype(np.float32))
            blocks.slots[rows, : own.max_slots] = theirs.slots
            blocks.pending[rows, : own.max_pending] = theirs.pending
            blocks.context[rows] = theirs.context
            labels[rows, : own.max_slots] = known[:, : own.max_slots]
            if swap:
                labels[rows, slots : slots + own.max_pending] = known[:, own.max_slots : -1]
                labels[rows, -1] = known[:, -1]
        return observations, labels

    def _of_each_case(self, picked: Array, where: Array, ends: Array) -> dict[int, list[tuple[Array, Array, Array]]]:
        """Rows of the batch, observations and labels of what was picked, by the number of its classroom."""
        found: dict[int, list[tuple[Array, Array, Array]]] = {}
        for number, first, end in _runs(where):
            episode = self._episodes[number]
            rows = picked[first:end] - (ends[number] - len(episode.labels))
            taken = np.arange(first, end), episode.observations[rows], episode.labels[rows]
            found.setdefault(episode.case, []).append(taken)
        return found

    def state(self) -> list[dict[str, Any]]:
        """All that is remembered, for `agents.state_files`."""
        return [episode._asdict() for episode in self._episodes]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Remembers what `state` gave, and nothing else."""
        self._episodes, self.size = deque(), 0
        for episode in state:
            self.add(Labelled(**episode))


def _runs(numbers: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """`(number, first, end)` of each run of equal numbers."""
    edges = (np.flatnonzero(np.diff(numbers)) + 1).tolist()
    for first, end in zip([0, *edges], [*edges, len(numbers)], strict=True):
        yield int(numbers[first]), first, end
