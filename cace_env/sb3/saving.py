"""Trained models as policies: agent folders without pickle, and other models as contestants.

```python
save_agent(model, "runs/mine", trained_on=("workstation",))  # any model with "SlotPolicy", or networks of ours
evaluate("agent:runs/mine", "default", seeds="test")         # compare, explanations and guards take it, too
evaluate(contestant(model), "workstation", seeds="test")     # any other model: asked question by question
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sb3_contrib import QRDQN, MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from cace_env.config import ConfigError
from cace_env.envs import FleetEnv, FleetVectorEnv
from cace_env.evaluation import agent_folders as saving
from cace_env.evaluation.feature_ranges import Limits, widened
from cace_env.evaluation.held_out import Chosen, seeds_text
from cace_env.networks import ScoreNetwork
from cace_env.observation import Float32Array, ObservationLayout
from cace_env.policies import Agent
from cace_env.policies import agent as agents
from cace_env.policies.network import Network
from cace_env.policies.ranges import feature_ranges
from cace_env.policies.spaces import layout_of
from cace_env.sb3.policies import NAME, is_slot_policy, score_network
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol

NAMES: Final[dict[type, str]] = {MaskablePPO: "maskable-ppo", PPO: "ppo", DQN: "dqn", QRDQN: "qrdqn"}
LOOKED_AT: Final = 8_192  # observations of a replay buffer that are checked for ranges of features

Trained = BaseAlgorithm | saving.Trained | Network


def save_agent(model: Trained, folder: str | Path, **card: Any) -> Agent:
    """Write an agent folder: weights as NumPy arrays, and a card; it holds no code.

    Args:
        model: a model of SB3 with `"SlotPolicy"`, or a network of `cace_env.networks` or `cace_env.policies.network`.
        folder: created if needed; an agent that is already there is overwritten.
        **card: fields of `cace_env.policies.agent.AgentCard`, such as `name`, `trained_on` or `requests`. A model of
            SB3 knows algorithm, scenarios, seeds, and the ranges of features in its buffer. For a network give
            `algorithm` and `trained_on` (scenarios by name); one episode of each scenario gives the ranges.

    Returns:
        The agent; `agent.policy()` plays.

    Raises:
        ConfigError: the model has another policy, or a field is not one of a card.
    """
    made = agent_of(model, **card)
    return Agent(agents.write_agent(made, folder), made.network)


def load_agent(folder: str | Path) -> Agent:
    """Load an agent from its folder, or the best one from the folder of a training (`cace_env.policies.load_agent`)."""
    return agents.load_agent(folder)


def agent_of(model: Trained, **card: Any) -> Agent:
    """Make the agent that `save_agent` writes; the same arguments and errors."""
    if not isinstance(model, BaseAlgorithm):
        return saving.agent_of(model, **card)
    played: Sequence[Chosen] | None = None
    if "trained_on" not in card:  # its scenarios may have no name that is known
        played = [] if model.env is None else [each for each in scenarios_of(model.env) if each.trace is None]
    return saving.agent_of(_scores(model), played=played, **about_model(model) | card)


def about_model(model: BaseAlgorithm) -> dict[str, Any]:
    """Fields of a card known from a model of SB3."""
    about: dict[str, Any] = {"algorithm": algorithm_name(model)}
    about["description"] = f"{about['algorithm']} of Stable-Baselines3, {model.num_timesteps:,} decisions"
    limits = limits_of(model)
    if limits:
        about["limits"] = limits
    return about | (about_training(model.env) if model.env is not None else {})


def about_training(venv: VecEnv) -> dict[str, Any]:
    """Fields of a card known from environments: scenarios, and the seeds of the workloads they play."""
    about: dict[str, Any] = {}
    names = [scenario.name for scenario in scenarios_of(venv)]
    if names:
        about["trained_on"] = tuple(names)
    seeds = {(each.draws.seeds[0], len(each.draws.seeds)): each.draws.seeds for each in environments_of(venv)}
    if len(seeds) == 1:
        about["train_seeds"] = seeds_text(*seeds.values())
    return about


def scenarios_of(venv: VecEnv) -> list[Scenario]:
    """The scenarios that environments play, each once; none if they are not of this package."""
    found = [scenario for each in environments_of(venv) for scenario in each.draws.scenarios]
    return list({scenario.name: scenario for scenario in found}.values())


def requests_for_rewards(venv: VecEnv) -> int:
    """Requests that environments have simulated for baselines and scales of their rewards."""
    total, scales = 0, {}
    for each in environments_of(venv):
        baseline = each.rewards.baseline
        total += 0 if baseline is None else baseline.requests
        # Many single environments of the same scenarios find their scales once.
        scales[tuple(scenario.name for scenario in each.draws.scenarios)] = each.rewards.scale_requests
    return total + sum(scales.values())


def environments_of(venv: VecEnv) -> list[FleetEnv | FleetVectorEnv]:
    """Our own environments at the bottom of SB3's, without wrappers, each once: many single ones, or one for all."""
    found = {id(env): env for env in venv.get_attr("unwrapped")}
    return [env for env in found.values() if isinstance(env, FleetEnv | FleetVectorEnv)]


def limits_of(model: BaseAlgorithm) -> Limits:
    """Least and greatest value of each feature in a model's buffer; empty if it has not learned yet."""
    layout, _ = layout_of(model.observation_space, model.action_space)
    rollouts, replay = getattr(model, "rollout_buffer", None), getattr(model, "replay_buffer", None)
    if rollouts is not None and rollouts.full:
        return feature_ranges(rollouts.observations, layout)
    if replay is not None and (replay.full or replay.pos):
        seen = replay.observations if replay.full else replay.observations[: replay.pos]
        return feature_ranges(seen[-max(LOOKED_AT // replay.n_envs, 1) :], layout)
    return {}


def wider(limits: Limits, model: BaseAlgorithm) -> Limits:
    """Widen ranges to include a model's current buffer."""
    return widened(limits, limits_of(model))


def algorithm_name(model: BaseAlgorithm) -> str:
    """Name of the algorithm for cards: "maskable-ppo"; for unknown classes, the class name in lower case."""
    return next((name for kind, name in NAMES.items() if isinstance(model, kind)), type(model).__name__.lower())


def protocol_of(model: BaseAlgorithm) -> Protocol:
    """Find the protocol of a model from its spaces.

    Raises:
        ConfigError: the spaces are not of this package.
    """
    return layout_of(model.observation_space, model.action_space)[1]


class ModelContestant:
    """Best actions of a trained model of SB3, as a policy that acts.

    Attributes:
        layout: layout that it was trained with; smaller fleets are padded to it.
        protocol: the environment that it was trained in.
    """

    def __init__(self, model: BaseAlgorithm, name: str | None = None) -> None:
        self.model = model
        self.layout: ObservationLayout
        self.protocol: Protocol
        self.layout, self.protocol = layout_of(model.observation_space, model.action_space)
        self.__name__ = name or algorithm_name(model)
        self._masked = takes_masks(model)
        self._state: Any = None
        self._first = True

    def reset(self, seed: int) -> None:
        """Start an episode."""
        del seed
        self._state, self._first = None, True

    def act(self, observation: Float32Array, action_mask: npt.NDArray[np.int8]) -> int:
        """Choose an action; it is legal if the algorithm takes masks, or the policy masks itself."""
        actions, self._state = best_actions(
            self.model, observation[None], action_mask[None].astype(bool), self._state, np.array([self._first])
        )
        self._first = False
        return int(actions[0])


def contestant(model: BaseAlgorithm, name: str | None = None) -> ModelContestant:
    """Make a policy for `evaluate` from any trained model of SB3, such as `MlpPolicy` or recurrent ones.

    It plays fleets with at most the slots and pending rows that it was trained with. A model that knows no masks may
    want what is not legal: `evaluate(contestant(model), scenario, illegal="replace")` replaces that, as the environment
    does, and counts. With `"SlotPolicy"`, `save_agent` is better: the agent plays any fleet, compiled.

    Args:
        model: as trained or loaded.
        name: name of its results; default: the algorithm's.

    Raises:
        ConfigError: it was trained on other observations than those of this package.
    """
    return ModelContestant(model, name)


def takes_masks(model: BaseAlgorithm) -> bool:
    """Whether its `predict` takes masks."""
    return isinstance(model, MaskablePPO)


def best_actions(
    model: BaseAlgorithm,
    observations: Float32Array,
    masks: npt.NDArray[np.bool_],
    state: Any = None,
    starts: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int64], Any]:
    """A model's greedy actions, and its state if it is recurrent.

    Args:
        model: whose statistics of observations (`VecNormalize`) are applied, if it has any.
        observations: `(N, layout.size)`, as the environments return them.
        masks: legal actions `(N, actions)`, for algorithms that take masks.
        state: of a recurrent policy.
        starts: which episodes have just begun, `(N,)`.
    """
    statistics = model.get_vec_normalize_env()
    seen: Any = observations if statistics is None else statistics.normalize_obs(observations)
    masked: Mapping[str, Any] = {"action_masks": masks} if takes_masks(model) else {}
    actions, state = model.predict(seen, state, starts, deterministic=True, **masked)
    return np.asarray(actions, dtype=np.int64), state


def _scores(model: BaseAlgorithm) -> ScoreNetwork:
    """The score network of a model.

    Raises:
        ConfigError: the model has another policy; the message says what to do.
    """
    if not is_slot_policy(model.policy):
        raise ConfigError(
            f"the model has a {type(model.policy).__name__}; only models with {NAME!r} become agents that play without "
            f'SB3, on any fleet. Make it with "{NAME}", or compare it as it is: '
            "evaluate(cace_env.sb3.contestant(model), scenario)"
        )
    return score_network(model.policy)
