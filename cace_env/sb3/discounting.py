"""A discount per second of simulated time, instead of SB3's discount per decision.

Decisions are unequal steps: two may follow within a second, the next one after minutes. `DiscountPerSecond` makes the
buffers of PPO, MaskablePPO, DQN and QRDQN discount by the time that has passed, as in a semi-Markov decision process
(Bradtke and Duff, Reinforcement Learning Methods for Continuous-Time Markov Decision Problems, NIPS 1994):

    g_t = gamma_per_s ** tau_t                             tau_t: seconds from decision t to decision t + 1
    delta_t = r_t + g_t V(s_t+1) - V(s_t)
    A_t = delta_t + g_t lambda A_t+1                       PPO: generalised advantages
    y_t = r_t + g_t max_a Q(s_t+1, a)                      DQN; of n steps: r_t + g_t r_t+1 + g_t g_t+1 r_t+2 + ...

The reward of a decision is the cost between two decisions. It is not discounted within the interval; Bradtke and Duff
discount a rate within the interval, too, which changes little while `gamma_per_s ** tau` is near 1.

An episode that is cut short (`max_decisions`, `TimeLimit`) is the one exception: SB3 itself adds the value of the state
where it was cut, with the `gamma` of the algorithm.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from cace_env.config import ConfigError
from cace_env.sb3.vec_env import FleetVecEnv


class TimedRollouts:
    """Shared code of both rollout buffers.

    Attributes:
        elapsed_s: `(buffer_size, n_envs)`, from each decision to the next.
    """

    def __init__(self, *args: Any, gamma_per_s: float, **settings: Any) -> None:
        self.gamma_per_s = gamma_per_s
        super().__init__(*args, **settings)

    def reset(self: Any) -> None:
        """Forgets everything."""
        super().reset()  # type: ignore[misc]
        self.elapsed_s = np.zeros((self.buffer_size, self.n_envs))

    def compute_returns_and_advantage(self: Any, last_values: Tensor, dones: npt.NDArray[Any]) -> None:
        """Like SB3's, with a discount per step."""
        discounts = self.gamma_per_s**self.elapsed_s
        goes_on = 1.0 - np.concatenate([self.episode_starts[1:], np.asarray(dones, dtype=np.float32)[None]])
        values = np.concatenate([self.values[1:], last_values.clone().cpu().numpy().reshape(1, -1)])
        deltas = self.rewards + discounts * values * goes_on - self.values
        advantage = np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            advantage = deltas[step] + discounts[step] * self.gae_lambda * goes_on[step] * advantage
            self.advantages[step] = advantage
        self.returns = self.advantages + self.values


class TimedRolloutBuffer(TimedRollouts, RolloutBuffer):
    """Rollout buffer of PPO and A2C."""


class TimedMaskableRolloutBuffer(TimedRollouts, MaskableRolloutBuffer):
    """Rollout buffer of MaskablePPO."""


class TimedReplayBuffer(NStepReplayBuffer):
    """Replay buffer of DQN and QRDQN, for returns of any number of steps.

    Attributes:
        elapsed_s: `(buffer_size, n_envs)`, from each decision to the next.
    """

    def __init__(self, *args: Any, gamma_per_s: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.gamma_per_s = gamma_per_s
        self.elapsed_s = np.zeros((self.buffer_size, self.n_envs))

    def _get_samples(self, batch_inds: npt.NDArray[np.int64], env: Any = None) -> ReplayBufferSamples:
        """Like SB3's, with a discount per step."""
        envs = np.random.randint(0, self.n_envs, size=batch_inds.shape)
        rows = (batch_inds[:, None] + np.arange(self.n_steps)) % self.buffer_size  # (B, n)
        column = envs[:, None]
        ends = (self.dones[rows, column] > 0) | (self.timeouts[rows, column] > 0) | (rows == self._newest)
        last = np.where(ends.any(axis=1), ends.argmax(axis=1), self.n_steps - 1)  # (B,) step that ends the return
        discounts = np.cumprod(self.gamma_per_s ** self.elapsed_s[rows, column], axis=1)
        before = np.concatenate([np.ones((len(rows), 1)), discounts[:, :-1]], axis=1)
        rewards = self._normalize_reward(self.rewards[rows, column], env) * before
        rewards = (rewards * (np.arange(self.n_steps) <= last[:, None])).sum(axis=1, keepdims=True)
        each, at = np.arange(len(rows)), (batch_inds + last) % self.buffer_size
        ended = self.dones[at, envs] * (1.0 - self.timeouts[at, envs])
        seen: Any = self._normalize_obs(self.observations[batch_inds, envs], env)
        next_seen: Any = self._normalize_obs(self.next_observations[at, envs], env)
        return ReplayBufferSamples(
            observations=self.to_torch(seen),
            actions=self.to_torch(self.actions[batch_inds, envs]),
            next_observations=self.to_torch(next_seen),
            dones=self.to_torch(ended[:, None].astype(np.float32)),
            rewards=self.to_torch(rewards.astype(np.float32)),
            discounts=self.to_torch(discounts[each, last, None].astype(np.float32)),
        )

    @property
    def _newest(self) -> int:
        """The newest row; the oldest row, of other episodes, follows it."""
        return (self.pos - 1) % self.buffer_size


# The buffer classes that are replaced; their subclasses store other data.
ROLLOUTS: Final = (RolloutBuffer, MaskableRolloutBuffer, TimedRolloutBuffer, TimedMaskableRolloutBuffer)
REPLAYS: Final = (ReplayBuffer, NStepReplayBuffer, TimedReplayBuffer)


class DiscountPerSecond(BaseCallback):
    """Makes an algorithm discount by the time that passes between decisions, as the module says.

        model.learn(600_000, callback=DiscountPerSecond(0.98))

    The `gamma` of the algorithm is ignored. Environments may be an `EvictionVecEnv` or a `SwapVecEnv`, or any `VecEnv`
    whose infos have `elapsed_s`, wrapped or not.

    Args:
        gamma_per_s: above 0 to 1. A cost in 1 / (1 - gamma_per_s) seconds counts 37 %.

    Raises:
        ConfigError: a discount out of range; at the start of training: an algorithm that has no such buffer or one of
            its own kind (recurrent, prioritised, of `Dict` observations), or a replay buffer that holds decisions
            whose times were not noted.
    """

    def __init__(self, gamma_per_s: float) -> None:
        if not 0 < gamma_per_s <= 1:
            raise ConfigError(f"gamma_per_s is {gamma_per_s}; it has to be above 0 and at most 1")
        super().__init__()
        self.gamma_per_s = gamma_per_s
        self._buffer: Any = None

    def _on_training_start(self) -> None:
        """Replace the buffer."""
        model: Any = self.model
        if type(getattr(model, "rollout_buffer", None)) in ROLLOUTS:
            model.rollout_buffer = self._buffer = self._rollouts(model)
        elif type(getattr(model, "replay_buffer", None)) in REPLAYS:
            model.replay_buffer = self._buffer = self._replay(model)
        else:
            raise ConfigError(
                f"{type(model).__name__} on a {type(model.observation_space).__name__} has no buffer that can "
                "discount by time; use PPO, A2C, MaskablePPO, DQN or QRDQN with flat observations"
            )

    def _on_step(self) -> bool:
        """Record the time since the previous decision."""
        venv: Any = self.training_env
        while not isinstance(venv, FleetVecEnv) and hasattr(venv, "venv"):
            venv = venv.venv
        infos = self.locals["infos"]
        if isinstance(venv, FleetVecEnv):
            elapsed_s = venv.step_infos["elapsed_s"].copy()
            for env in np.flatnonzero(self.locals["dones"]):  # there it is the next episode's
                elapsed_s[env] = infos[env]["elapsed_s"]
        else:
            elapsed_s = [info["elapsed_s"] for info in infos]
        self._buffer.elapsed_s[self._buffer.pos] = elapsed_s  # SB3 adds the rest of this step after this call
        return True

    def _rollouts(self, model: Any) -> TimedRollouts:
        old = model.rollout_buffer
        kind = TimedMaskableRolloutBuffer if isinstance(old, MaskableRolloutBuffer) else TimedRolloutBuffer
        return kind(
            old.buffer_size,
            old.observation_space,
            old.action_space,
            old.device,
            gae_lambda=old.gae_lambda,
            gamma=old.gamma,
            n_envs=old.n_envs,
            gamma_per_s=self.gamma_per_s,
        )

    def _replay(self, model: Any) -> TimedReplayBuffer:
        old = model.replay_buffer
        if isinstance(old, TimedReplayBuffer):
            old.gamma_per_s = self.gamma_per_s
            return old
        if old.full or old.pos:
            raise ConfigError(
                "the replay buffer holds decisions without their times; give DiscountPerSecond to the first call of "
                "learn, or make a new model"
            )
        return TimedReplayBuffer(
            old.buffer_size * old.n_envs,
            old.observation_space,
            old.action_space,
            old.device,
            n_envs=old.n_envs,
            n_steps=getattr(old, "n_steps", 1),
            handle_timeout_termination=old.handle_timeout_termination,
            gamma_per_s=self.gamma_per_s,
        )
