"""DQN and QR-DQN that explore legal actions only.

SB3's own draw from all actions; here those that are not legal are replaced by the environment, so that a part of what
is explored is what the first legal action does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN

from cace_env.networks import legal_actions
from cace_env.policies.spaces import layout_of


class LegalExploration:
    """Explores legal actions only, and tosses a coin for each environment; SB3 tosses one for all of them."""

    def _setup_model(self: Any) -> None:
        """As SB3's, and explores from the first step on; SB3's rate is 0 until something has been learned."""
        super()._setup_model()  # type: ignore[misc]
        if self.num_timesteps == 0:  # a model that was loaded knows its rate
            self.exploration_rate = self.exploration_initial_eps

    def predict(
        self: Any, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[npt.NDArray[Any], Any]:
        """As `predict` of SB3."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic:
            return actions, state
        return self._explored(observation, actions, self.exploration_rate), state

    def _sample_action(self: Any, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
        """Explores at the rate that holds now before learning starts, too: near 1 at first, low after a resume."""
        del learning_starts, action_noise, n_envs
        actions, _ = self.predict(self._last_obs)
        return actions, actions

    def _explored(self: Any, observation: Any, actions: Any, rate: float) -> npt.NDArray[np.int64]:
        """The actions, some of them, at this rate, replaced by legal ones drawn at random."""
        batch = np.atleast_2d(observation)
        layout, protocol = layout_of(self.observation_space, self.action_space)
        legal = legal_actions(torch.as_tensor(batch), layout, protocol).numpy()
        drawn = np.where(legal, np.random.random(legal.shape), -1.0).argmax(axis=1)  # SB3 seeds this generator
        chosen = np.where(np.random.random(len(batch)) < rate, drawn, np.atleast_1d(actions))
        return chosen.reshape(np.shape(actions))


class MaskableDQN(LegalExploration, DQN):
    """DQN that explores legal actions only; with `"SlotPolicy"` its greedy action is legal, too."""


class MaskableQRDQN(LegalExploration, QRDQN):
    """QR-DQN that explores legal actions only; with `"SlotPolicy"` its greedy action is legal, too."""
