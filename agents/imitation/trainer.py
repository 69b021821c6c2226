"""Imitation: an agent learns what clairvoyant policies would do, finally in its own states.

1. It is shown whole episodes, of the clairvoyant reference by default, and copies what was done (behaviour cloning).
2. Then it plays itself, and at its own decisions every action is priced: with the true future, or in the mean of
   futures sampled from what it has seen. A clone that sees nothing but good episodes does not learn what follows from
   its own mistakes (DAgger: Ross et al., 2011); prices in place of right answers let it spend its effort where
   decisions matter (AggreVaTe: Ross and Bagnell, 2014). Its loss is what its own probabilities of the actions would
   cost, plus a share of the first loss.

Who plays on in the copies that price an action is the agent itself, or a rule. With the agent alone, and no horizon,
the gradient would be that of its expected cost (policy gradient theorem), with all actions tried on the same requests.

The agent that is played is a mean over the last few gradient steps: the labels are noisy, and so is each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.imitation.config import REFERENCE, ImitationConfig
from agents.imitation.demonstrations import (
    PRICE_SEEDS,
    Labelled,
    Lessons,
    Memory,
    classrooms,
    show_reference,
    show_rule,
)
from agents.imitation.labels import KeptLabels
from agents.imitation.pricing import price_episode, pricing_of
from agents.state_files import load_state, save_state
from cace_env.config import ConfigError
from cace_env.evaluation.feature_ranges import Limits, widened
from cace_env.evaluation.held_out import (
    check_training,
    recorded,
    seeds_text,
    spent_before,
)
from cace_env.executor import Executor, Threads
from cace_env.networks import ScoreNetwork
from cace_env.policies import Agent, load_agent, policy
from cace_env.policies.agent import AgentCard

WEIGHT_DECAY: Final = 1e-4
MAX_GRADIENT: Final = 1.0
PORTION: Final = 1_000  # decisions of kept labels, after which the learning rate changes
_DESCRIPTIONS: Final = {
    False: "imitation of those who know the future",
    True: "learned what choices cost in the mean of sampled futures",
}  # by whether futures are sampled
Result = TypeVar("Result")


class ImitationTrainer:
    """Labels a training seed in every scenario, learns from what is remembered, and so on.

    Args:
        config: of the training.
        executor: labels the episodes; None: so many threads as the configuration says.

    Attributes:
        step: decisions that were shown or priced so far; from labels that are kept, so many are learned from as if they
            had been priced in this training.
        requests: simulated for them, in episodes, copies and searches; those of the agent it began from besides.

    Raises:
        ConfigError: unknown scenarios, agents or policies, or one that does not fit the environment.
    """

    def __init__(self, config: ImitationConfig, executor: Executor | None = None) -> None:
        self.config, self._executor = config, executor or Threads(config.threads)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        rooms = classrooms(config)
        self._names, self._rooms = tuple(rooms), list(rooms.values())
        self._teacher = None if config.teacher == REFERENCE else policy(config.teacher)
        self._pricing = pricing_of(config)
        self._lessons = Lessons(self._rooms, self._executor)
        self._shared_pricing = self._executor.share(self._pricing)
        self._shown = Memory(self._rooms, capacity=1 << 60)
        self._priced = Memory(self._rooms, 1 << 60 if config.labels else config.capacity)
        self._draws = np.random.default_rng(config.seed)
        self.network = _first_network(config)
        self._mean = ScoreNetwork.from_network(self.network.to_network())
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.step = 0
        self.requests = spent_before(config.init) + sum(room.requests for room in self._rooms)
        self._seeds = 0  # played so far, in every scenario
        self._read_seeds: set[int] = set()  # of kept labels
        self._due = 0.0  # gradient steps
        self._updates = 0
        self._wall_s = 0.0
        self._limits: Limits = {}
        if config.labels:
            self._read(KeptLabels(config, self._rooms, self._pricing))

    @property
    def batch(self) -> int:
        """Whole episodes are labelled, and how many decisions they have shows when they are played."""
        return 1

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        """Labels at least `steps` more decisions, whole episodes in every scenario, and learns from them.

        Returns:
            Means over gradient steps: `copy`, the cross-entropy of what the teacher did; `price`, what the agent's
            probabilities would cost over even ones, in thousandths of an episode of LRU per decision. And
            `learning_rate`, `remembered`.
        """
        began_s, end = time.perf_counter(), self.step + steps
        losses: dict[str, list[float]] = {"copy": [], "price": []}
        while self.step < end:
            showing = self._seeds < self.config.shown
            if self.config.labels and not showing:
                self._study(min(PORTION, end - self.step), losses)
                tick(self.step)
                continue
            memory, passes = (self._shown, self.config.shown_passes) if showing else (self._priced, self.config.passes)
            for episode, requests in self._play(showing):
                memory.add(episode)
                self._limits = widened(self._limits, episode.limits)
                self.step += len(episode.labels)
                self.requests += requests
                self._due += len(episode.labels) * passes / self.config.batch_size
                tick(self.step)
            self._fit(losses)
        self._wall_s += time.perf_counter() - began_s
        return {name: float(np.mean(values)) for name, values in losses.items() if values} | {
            "learning_rate": self.config.learning_rate_at(self.step),
            "remembered": float(self._shown.size + self._priced.size),
        }

    def _play(self, showing: bool) -> list[tuple[Labelled, int]]:
        """The next training seed in every scenario."""
        config, seed = self.config, self.config.first_seed + self._seeds
        check_training([seed])
        self._seeds += 1
        episodes = [(room, seed) for room in self._rooms]
        if showing and self._teacher is None:
            return _in_order(self._lessons.labelled(show_reference, episodes, config.max_replays))
        if showing:
            return _in_order(self._lessons.labelled(show_rule, episodes, self._executor.share(self._teacher)))
        learner = self._executor.share(self.agent().policy())
        priced = _in_order(self._lessons.labelled(price_episode, episodes, learner, self._shared_pricing))
        every = range(len(config.horizons_s))
        return [(one.labelled(room, every), one.requests) for room, one in zip(self._rooms, priced, strict=True)]

    def _read(self, kept: KeptLabels) -> None:
        """Remembers labels that are kept."""
        for episode, seed, requests in kept.read():
            self._priced.add(episode)
            self._limits = widened(self._limits, episode.limits)
            self._read_seeds.add(seed)
            self.requests += requests
        if not self._priced.size:
            raise ConfigError(f"labels: {self.config.labels}: nothing was decided in its episodes")
        self.requests += kept.spent_before

    def _study(self, steps: int, losses: dict[str, list[float]]) -> None:
        """Learns from labels that are kept as if so many had been priced now."""
        self.step += steps
        self._due += steps * self.config.passes / self.config.batch_size
        self._fit(losses)

    def _fit(self, losses: dict[str, list[float]]) -> None:
        """Takes the gradient steps that are due; adds their losses."""
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        while self._due >= 1.0:
            self._due -= 1.0
            loss = torch.zeros(())
            if self._priced.size:
                term = price_loss(*self._drawn(self._priced))
                losses["price"].append(term.item())
                loss = loss + term
            if self._shown.size and (config.copying or not self._priced.size):
                term = copy_loss(*self._drawn(self._shown))
                losses["copy"].append(term.item())
                loss = loss + (config.copying if self._priced.size else 1.0) * term
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT)
            self._optimizer.step()
            self._updates += 1
            self._average()

    def _drawn(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Scores and labels of some remembered decisions."""
        observations, labels = memory.draw(self._draws, self.config.batch_size)
        return self.network(torch.from_numpy(observations), memory.layout), torch.from_numpy(labels)

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the mean; at first it is that of few steps, so that it does not remember the random beginning."""
        kept = min(self.config.averaging, self._updates / (self._updates + 10.0))
        for mean, weight in zip(self._mean.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(weight, 1.0 - kept)

    def agent(self) -> Agent:
        """The current mean agent, acting greedily."""
        config, seeds = self.config, max(self._seeds, PRICE_SEEDS)
        card = AgentCard(
            name=f"imitation-{config.env.lower()}",
            env=config.env,
            algorithm=config.algorithm,
            hidden=config.hidden,
            description=f"{_DESCRIPTIONS[config.futures > 0]}, {self.step:,} decisions",
            trained_on=self._names,
            train_seeds=seeds_text(sorted({*range(config.first_seed, config.first_seed + seeds), *self._read_seeds})),
            requests=self.requests,
            wall_s=round(self._wall_s, 1),
            limits=self._limits,
        )
        return Agent(recorded(card), self._mean.to_network())

    @property
    def _kept(self) -> int:
        """Decisions that are read from labels anew, so that checkpoints need not hold them."""
        return self._priced.size if self.config.labels else 0

    def save(self, folder: Path) -> None:
        """Writes what a resumed training needs: weights, optimiser, counters, generator, and what it labelled."""
        save_state(
            {
                "algorithm": self.config.algorithm,
                "network": dict(self.network.state_dict()),
                "mean": dict(self._mean.state_dict()),
                "optimizer": self._optimizer.state_dict(),
                "shown": self._shown.state(),
                "priced": [] if self.config.labels else self._priced.state(),
                "kept": self._kept,
                "draws": self._draws.bit_generator.state,
                "limits": self._limits,
                "counters": [self.step, self.requests, self._seeds, self._due, self._updates, self._wall_s],
            },
            folder,
        )

    def load(self, folder: Path) -> None:
        """Goes on from what `save` wrote under the same configuration.

        Raises:
            ConfigError: the folder holds something else.
        """
        state = load_state(folder)
        try:
            if state["algorithm"] != self.config.algorithm:
                raise ValueError(f"it is from algorithm {state['algorithm']!r}")
            self.network.load_state_dict(state["network"])
            self._mean.load_state_dict(state["mean"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._shown.restore(state["shown"])
            if state["kept"] != self._kept:
                raise ValueError(
                    f"it has learned from {state['kept']} labels that are kept, and now there are {self._kept}"
                )
            if not self.config.labels:
                self._priced.restore(state["priced"])
            self._draws.bit_generator.state = state["draws"]
            self._limits = state["limits"]
            self.step, self.requests, self._seeds, self._due, self._updates, self._wall_s = state["counters"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{folder}: does not hold a state of this training ({problem})") from error


def _in_order(finished: Iterable[tuple[int, Result]]) -> list[Result]:
    """Results of tasks in the order of the tasks."""
    return [result for _, result in sorted(finished, key=itemgetter(0))]


def price_loss(scores: Tensor, prices: Tensor) -> Tensor:
    """What actions drawn by their scores (softmax) would cost in expectation, mean over decisions.

    Args:
        scores: `(B, A)`, -inf where not legal.
        prices: `(B, A)` of the actions, over the mean of the legal ones; 0 where not legal.
    """
    return (torch.softmax(scores, dim=1) * prices).sum(dim=1).mean()


def copy_loss(scores: Tensor, taken: Tensor) -> Tensor:
    """Cross-entropy of what was done, mean over decisions.

    Args:
        scores: `(B, A)`, -inf where not legal.
        taken: `(B, A)` 1 for the action that was taken, else 0.
    """
    return torch.nn.functional.cross_entropy(scores, taken.argmax(dim=1))


def _first_network(config: ImitationConfig) -> ScoreNetwork:
    """Random, or that of the agent to begin from."""
    if config.init is None:
        return ScoreNetwork(config.env, config.hidden)
    agent = load_agent(config.init)
    if (agent.card.env, agent.network.hidden) != (config.env, config.hidden):
        raise ConfigError(
            f"init {config.init!r} is an agent for {agent.card.env.env_name} with {agent.network.hidden} hidden units, "
            f"the configuration for {config.env.env_name} with {config.hidden}"
        )
    return ScoreNetwork.from_network(agent.network)
