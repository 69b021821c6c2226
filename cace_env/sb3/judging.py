"""Costs of a model in training and of its rivals: greedy actions on the same validation seeds.

Models with `"SlotPolicy"` play compiled, as agents. Other models are asked by `predict`, for all seeds of a scenario at
once; their illegal actions are replaced by the first legal one, as in the environment, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.envs import EvictionVectorEnv, SwapVectorEnv
from cace_env.evaluation import evaluate, load_suite
from cace_env.evaluation.held_out import SUITE, check_choosing
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE, SMALLEST_HEADROOM_PERCENT
from cace_env.evaluation.suite import PROSE, TINY
from cace_env.policies.built_in import Policy
from cace_env.policies.spaces import layout_of
from cace_env.sb3.policies import is_slot_policy
from cace_env.sb3.saving import agent_of, best_actions, takes_masks
from cace_env.scenarios import SEEDS, Scenario, Split
from cace_env.tables import FloatArray, Protocol

RIVALS: Final[dict[Protocol, tuple[str, ...]]] = {
    Protocol.EVICTION: ("lru", "cace", "cace:tuned-eviction"),
    Protocol.SWAP: ("lru", "cace", "very-patient-wsjf+cace:tuned-swap"),
}
VECTOR_ENVS: Final = {Protocol.EVICTION: EvictionVectorEnv, Protocol.SWAP: SwapVectorEnv}


class Costs(NamedTuple):
    """Costs of a model on the validation seeds."""

    costs: FloatArray  # (scenarios, seeds)
    illegal: float | None  # share of illegal actions; None for a model that uses masks


class Judge:
    """Judges models on scenarios and seeds, which rivals also play.

    Args:
        scenarios: by name.
        env: the environment.
        seeds: seeds of the validation split.
        rivals: names of policies; LRU is always included.
        threads: number of threads for compiled policies.

    Attributes:
        names: of the scenarios.
        rivals: names of the rivals.
        short: short names of the rivals for curves, such as "tuned_cace".

    Raises:
        ConfigError: a seed belongs to another split, or a rival is unknown or cannot play.
    """

    def __init__(
        self,
        scenarios: Mapping[str, Scenario],
        env: Protocol,
        seeds: Sequence[int],
        rivals: Sequence[str],
        threads: int = 1,
    ) -> None:
        check_choosing(seeds)
        self.env, self.seeds, self.threads = env, tuple(seeds), threads
        self.names = tuple(scenarios)
        self.rivals = tuple(dict.fromkeys((BASELINE, *rivals)))
        self.short = tuple(short_name(rival) for rival in self.rivals)
        if len(set(self.short)) < len(self.short):
            raise ConfigError(f"rivals are {', '.join(self.rivals)}; leave out one of those with the same short name")
        self._scenarios = dict(scenarios)
        self.cases: dict[str, Case] = {name: case_of(each, env) for name, each in scenarios.items()}
        self._of_rivals = np.stack([self.play(rival) for rival in self.rivals])  # (rivals, scenarios, seeds)
        self._headroom = [headroom_percent(each, env) for each in scenarios.values()]

    def play(self, policy: str | Policy) -> FloatArray:
        """Costs of a policy that runs compiled, `(scenarios, seeds)`."""
        results = [evaluate(policy, case, self.seeds, workers=self.threads) for case in self.cases.values()]
        return np.stack([result.column("cost") for result in results])

    def judge(self, model: BaseAlgorithm) -> Costs:
        """Costs of the current model.

        Raises:
            ConfigError: the model is for another environment, or too small for one of the fleets.
        """
        if is_slot_policy(model.policy):
            return Costs(self.play(agent_of(model, limits={}).policy()), None)
        costs, illegal, decisions = [], 0.0, 0.0
        for scenario in self._scenarios.values():
            episodes = play_model(model, scenario, self.seeds)
            costs.append([episode["cost"] for episode in episodes])
            illegal += sum(episode["illegal"] for episode in episodes)
            decisions += sum(episode["decisions"] for episode in episodes)
        return Costs(np.array(costs), None if takes_masks(model) else illegal / max(decisions, 1.0))

    def saved(self, costs: FloatArray) -> FloatArray:
        """Savings over each rival [%], `(rivals, scenarios)`; sums over seeds."""
        saved: FloatArray = 100 * (1 - costs.sum(axis=1) / self._of_rivals.sum(axis=2))
        return saved

    def numbers(self, found: Costs) -> dict[str, float]:
        """The curves of an evaluation, by name; means over scenarios, and per scenario if there are several."""
        saved = self.saved(found.costs)
        numbers = {f"eval/saved_vs_{name}": float(row.mean()) for name, row in zip(self.short, saved, strict=True)}
        scores = [100 * gained / room for gained, room in zip(saved[0], self._headroom, strict=True)]
        if np.isfinite(scores).any():
            numbers["eval/score"] = float(np.nanmean(scores))
        if found.illegal is not None:
            numbers["eval/illegal_share"] = found.illegal
        if len(self.names) > 1:
            for column, scenario in enumerate(self.names):
                numbers |= {
                    f"eval/{scenario}/saved_vs_{name}": float(row[column])
                    for name, row in zip(self.short, saved, strict=True)
                }
        return numbers

    def of_rivals(self) -> dict[str, float]:
        """Savings of each rival over LRU [%], mean over scenarios: reference lines for the model's curve."""
        return {
            f"rivals/{name}_saved_vs_{self.short[0]}": float(self.saved(costs)[0].mean())
            for name, costs in zip(self.short, self._of_rivals, strict=True)
        }

    def table(self, costs: FloatArray) -> tuple[list[str], list[list[str | float]]]:
        """Columns and rows of a table with a row per scenario: mean costs and savings [%]."""
        columns = ["scenario", "cost", *(f"{name}_cost" for name in self.short)]
        columns += [f"saved_vs_{name}" for name in self.short]
        saved = self.saved(costs)
        rows: list[list[str | float]] = []
        for number, name in enumerate(self.names):
            means = [costs[number].mean(), *self._of_rivals[:, number].mean(axis=1)]
            rows.append([name, *map(float, means), *map(float, saved[:, number])])
        return columns, rows


def short_name(policy: str) -> str:
    """Short name of a policy for curves."""
    return "tuned_cace" if re.search(r"\bcace:tuned-", policy) else re.sub(r"\W+", "_", policy).strip("_")


def headroom_percent(scenario: Scenario, env: Protocol) -> float:
    """Savings of the clairvoyant reference over LRU on a scenario [%], from the tables that ship with suites.

    The table is of test seeds, so a score from validation seeds is an estimate: how much is saved there, as a share of
    the possible savings on the test seeds.

    Returns:
        NaN if neither the suite nor the one for debugging has this scenario, or if there is too little to gain for a
        score to mean anything.
    """
    content = scenario.model_dump(exclude=set(PROSE))
    for suite in (SUITE, TINY):
        results = published(suite)
        for entry in load_suite(suite).entries if results is not None else ():
            if entry.env == env and entry.load().model_dump(exclude=set(PROSE)) == content:
                assert results is not None
                lru, best = (results.column(entry.id, who, SEEDS["test"]).sum() for who in (BASELINE, REFERENCE))
                percent = float(100 * (1 - best / lru))
                return percent if percent >= SMALLEST_HEADROOM_PERCENT else np.nan
    return np.nan


def play_model(
    model: BaseAlgorithm, scenario: Scenario, seeds: Sequence[int], split: Split = "validation"
) -> list[dict[str, Any]]:
    """Plays a model's best actions on some seeds, all side by side.

    Args:
        model: of SB3, trained on observations of this package.
        scenario: of at most the slots and pending rows that it was trained with.
        seeds: of the split.
        split: whose seeds they are.

    Returns:
        Of each seed: every metric of the episode, and `illegal`, how many of its actions were replaced.

    Raises:
        ConfigError: the model is for something else, or too small for the fleet.
    """
    layout, protocol = layout_of(model.observation_space, model.action_space)
    env = VECTOR_ENVS[protocol](
        len(seeds),
        scenario,
        split,
        max_slots=layout.max_slots,
        max_pending=layout.max_pending,
        invalid_penalty=0.0,
    )
    observations, _ = env.reset(options={"workload_seed": np.array(seeds)})
    episodes: dict[int, dict[str, Any]] = {}
    state, starts = None, np.ones(len(seeds), dtype=np.bool_)
    while len(episodes) < len(seeds):
        actions, state = best_actions(model, observations, env.action_masks(), state, starts)
        observations, _, terminated, truncated, infos = env.step(actions)
        starts = terminated | truncated
        for number in np.flatnonzero(starts).tolist():
            if number not in episodes:  # those that are over early begin another one, which does not count
                metrics = {name: float(values[number]) for name, values in env.episode_metrics.items()}
                episodes[number] = metrics | {"illegal": int(infos["invalid_action"][number])}
    env.close()
    return [episodes[number] for number in range(len(seeds))]
