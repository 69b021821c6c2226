"""DQN and QR-DQN that explore legal actions only.

SB3's own versions draw from all actions; here the environment replaces illegal ones by the first legal action, which
would then be explored too often.
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
    """Explores legal actions only, with a separate coin toss per environment; SB3 tosses one for all."""

    def _setup_model(self: Any) -> None:
        """Like SB3's, but explores from the first step on; SB3's rate is 0 until learning starts."""
        super()._setup_model()  # type: ignore[misc]
        if self.num_timesteps == 0:  # a model that was loaded knows its rate
            self.exploration_rate = self.exploration_initial_eps

    def predict(
        self: Any, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[npt.NDArray[Any], Any]:
        """Like `predict` of SB3."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic:
            return actions, state
        return self._explored(observation, actions, self.exploration_rate), state

    def _sample_action(self: Any, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
        """Explore at the current rate also before learning starts: near 1 at first, low after a resume."""
        del learning_starts, action_noise, n_envs
        actions, _ = self.predict(self._last_obs)
        return actions, actions

    def _explored(self: Any, observation: Any, actions: Any, rate: float) -> npt.NDArray[np.int64]:
        """Replace actions, at this rate, by legal ones drawn at random."""
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
