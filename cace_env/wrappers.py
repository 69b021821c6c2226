"""Wrappers: observations in the form of other libraries, and limits on waiting for safe reinforcement learning.

Both environments return a flat vector and put the mask into `info`. Wrap them if a library reads the mask from the
observation, or if a network shares its weights across slots:

| single environment     | vector environment           | observation                                      |
|------------------------|------------------------------|--------------------------------------------------|
| `DictObservation`      | `VectorDictObservation`      | the flat vector and the mask, under their names  |
| `SlotTableObservation` | `VectorSlotTableObservation` | `slots`, `pending`, `context`, and `action_mask` |

All take the mask from the `info` of the same observation; numbers are not changed. `CostLimit` and `VectorCostLimit`
put the cost of a constraint into `info["cost"]`; `LogDecisions` writes every decision to a log. For everything else use
Gymnasium's own wrappers; `docs/environment.md` says which of them work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cace_env.envs.cost_limits import AnyVectorWrapper, AnyWrapper, CostLimit, VectorCostLimit
from cace_env.envs.logging_decisions import LogDecisions
from cace_env.observation import ObservationLayout

__all__ = [
    "FORMS", "CostLimit", "DictObservation", "Form", "Keys", "LogDecisions", "SlotTableObservation", "VectorCostLimit",
    "VectorDictObservation", "VectorSlotTableObservation",
]  # fmt: skip

Form = Literal["pettingzoo", "rllib", "tianshou", "torchrl"]


class Keys(NamedTuple):
    """Names and type that a library expects for the mask.

    Attributes:
        observation: key of what the network sees.
        mask: key of the legal actions.
        dtype: of the mask.
    """

    observation: str
    mask: str
    dtype: type[np.generic]


FORMS: Final[Mapping[Form, Keys]] = {
    "pettingzoo": Keys("observation", "action_mask", np.int8),  # its classic games
    "rllib": Keys("observations", "action_mask", np.float32),  # takes the logarithm of the mask
    "tianshou": Keys("obs", "mask", np.bool_),  # inverts it with `~`
    "torchrl": Keys("observation", "action_mask", np.bool_),  # MaskedCategorical takes nothing else
}


class _Arrangement(Protocol):
    """Puts observation and mask together; leading axes (environments) are kept."""

    def space(self, observation: spaces.Space[Any], actions: spaces.Space[Any]) -> spaces.Dict: ...

    def __call__(self, observation: Any, mask: npt.NDArray[np.int8]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Pair:
    """The observation as it is, and the mask."""

    keys: Keys

    def space(self, observation: spaces.Space[Any], actions: spaces.Space[Any]) -> spaces.Dict:
        mask = _mask_space(actions, self.keys.dtype)
        return spaces.Dict({self.keys.observation: observation, self.keys.mask: mask})

    def __call__(self, observation: Any, mask: npt.NDArray[np.int8]) -> dict[str, Any]:
        return {self.keys.observation: observation, self.keys.mask: mask.astype(self.keys.dtype)}


@dataclass(frozen=True)
class _Tables:
    """The three blocks, and the mask."""

    layout: ObservationLayout

    def space(self, observation: spaces.Space[Any], actions: spaces.Space[Any]) -> spaces.Dict:
        if not isinstance(observation, spaces.Box) or observation.shape != (self.layout.size,):
            raise ValueError(
                f"slot tables are cut from the flat observation of {self.layout.size} numbers, the environment has "
                f"{observation}; put this wrapper directly around the environment"
            )
        bounds = zip(self.layout.split(observation.low), self.layout.split(observation.high), strict=True)
        blocks = [spaces.Box(low, high, dtype=np.float32) for low, high in bounds]
        names = ("slots", "pending", "context")
        return spaces.Dict({**dict(zip(names, blocks, strict=True)), "action_mask": _mask_space(actions, np.bool_)})

    def __call__(self, observation: Any, mask: npt.NDArray[np.int8]) -> dict[str, Any]:
        slots, pending, context = self.layout.split(observation)
        return {"slots": slots, "pending": pending, "context": context, "action_mask": mask.astype(np.bool_)}


class _MaskedObservation(AnyWrapper):
    """Rearranges what a single environment returns; `action_masks` is reached by `get_wrapper_attr`."""

    def __init__(self, env: gymnasium.Env[Any, Any], arrange: _Arrangement) -> None:
        super().__init__(env)
        self._arrange = arrange
        self.observation_space = arrange.space(env.observation_space, env.action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._arrange(observation, _mask(info)), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._arrange(observation, _mask(info)), reward, terminated, truncated, info


class _VectorMaskedObservation(AnyVectorWrapper):
    """Rearranges what a vector environment returns, in each autoreset mode."""

    def __init__(self, env: VectorEnv[Any, Any, Any], arrange: _Arrangement) -> None:
        super().__init__(env)
        self._arrange = arrange
        self.single_observation_space = arrange.space(env.single_observation_space, env.single_action_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._masks: npt.NDArray[np.int8] | None = None  # (num_envs, actions), of the observations last returned

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's mode; Gymnasium keeps it in `metadata`, TorchRL reads it here."""
        mode: AutoresetMode = self.env.metadata["autoreset_mode"]
        return mode

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions of the observations last returned, `(num_envs, actions)`.

        Raises:
            ResetNeeded: there has been no reset.
        """
        if self._masks is None:
            raise ResetNeeded("there is no mask before the first reset")
        return self._masks.astype(np.bool_)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type] # a list is allowed
        masks = _mask(infos)
        given = infos.get("_action_mask")
        if self._masks is not None and given is not None:
            # After a partial reset (`reset_mask`), infos cover only the environments reset, observations all.
            masks = np.where(given[:, None], masks, self._masks)
        self._masks = masks
        return self._arrange(observations, masks), infos

    def step(
        self, actions: Any
    ) -> tuple[dict[str, Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self._masks = _mask(infos)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._rearrange_final(infos)}
        return self._arrange(observations, self._masks), rewards, terminations, truncations, infos

    def _rearrange_final(self, infos: Mapping[str, Any]) -> npt.NDArray[np.object_]:
        """The last observation of each episode that ended, with the mask of that moment; None elsewhere."""
        final = np.full(self.num_envs, None, dtype=object)
        masks = _mask(infos["final_info"])
        for i in np.flatnonzero(infos["_final_obs"]):
            final[i] = self._arrange(infos["final_obs"][i], masks[i])
        return final


class DictObservation(_MaskedObservation, RecordConstructorArgs):
    """Observation and mask of a single environment as a `Dict`, under the names that a library expects.

    | `form`         | Observation      | Mask            | Type of the mask |
    |----------------|------------------|-----------------|------------------|
    | `"pettingzoo"` | `"observation"`  | `"action_mask"` | int8             |
    | `"rllib"`      | `"observations"` | `"action_mask"` | float32          |
    | `"tianshou"`   | `"obs"`          | `"mask"`        | bool             |
    | `"torchrl"`    | `"observation"`  | `"action_mask"` | bool             |

    The mask is 1 (True) where an action is legal and lies in a `Box` of shape `(actions,)` of its type.

    Args:
        env: Eviction-v0 or Swap-v0, possibly wrapped; its observation goes under the observation's key.
        form: library whose names and type are used.

    Raises:
        ValueError: the form is unknown, or the actions are not `Discrete`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], form: Form = "torchrl") -> None:
        RecordConstructorArgs.__init__(self, form=form)
        super().__init__(env, _Pair(_keys(form)))


class VectorDictObservation(_VectorMaskedObservation):
    """What `DictObservation` does, for vector environments; `infos["final_obs"]` holds Dicts too.

    Works in each autoreset mode. `action_masks()` gives the masks as `(num_envs, actions)` bool.

    Args:
        env: `EvictionVectorEnv` or `SwapVectorEnv`, or a `SyncVectorEnv` or `AsyncVectorEnv` of single ones.
        form: library whose names and type are used.

    Raises:
        ValueError: the form is unknown, or the actions are not `Discrete`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], form: Form = "torchrl") -> None:
        super().__init__(env, _Pair(_keys(form)))


class SlotTableObservation(_MaskedObservation, RecordConstructorArgs):
    """Observations of a single environment as tables, for networks that treat all slots alike (sets, attention).

    | Key             | Shape               | Type    | What                                                        |
    |-----------------|---------------------|---------|-------------------------------------------------------------|
    | `"slots"`       | `(S, len(SLOT))`    | float32 | a row for each slot, a column for each of `SLOT_FEATURES`   |
    | `"pending"`     | `(K, len(PENDING))` | float32 | a row for each pending model, columns of `PENDING_FEATURES` |
    | `"context"`     | `(len(CONTEXT),)`   | float32 | `CONTEXT_FEATURES`                                          |
    | `"action_mask"` | `(actions,)`        | bool    | legal actions                                               |

    Row `s` of `slots` is action `s`; in Swap-v0 row `m` of `pending` is action `S + m`, and the last action is to wait.
    Empty rows are zero: `slots[:, SLOT.occupied]` and `pending[:, PENDING.present]` are the padding masks of attention.
    The tables are views of the flat observation.

    Args:
        env: Eviction-v0 or Swap-v0, under wrappers that leave its flat observation alone.

    Raises:
        ValueError: the observation is not the flat one of these environments.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env, _Tables(env.get_wrapper_attr("layout")))


class VectorSlotTableObservation(_VectorMaskedObservation):
    """What `SlotTableObservation` does, for vector environments: `slots` is `(num_envs, S, 32)`, and so on.

    Works in each autoreset mode; `infos["final_obs"]` holds Dicts too. `action_masks()` gives the masks alone.

    Args:
        env: `EvictionVectorEnv` or `SwapVectorEnv`, or a `SyncVectorEnv` or `AsyncVectorEnv` of single ones.

    Raises:
        ValueError: the observation is not the flat one of these environments.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env, _Tables(_layout(env)))


def _keys(form: Form) -> Keys:
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it has to be one of {', '.join(get_args(Form))}")
    return FORMS[form]


def _mask_space(actions: spaces.Space[Any], dtype: type[np.generic]) -> spaces.Box:
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(f"a mask needs Discrete actions, the environment has {actions}")
    return spaces.Box(0, 1, (int(actions.n),), dtype)  # type: ignore[arg-type] # Box takes bool, its annotation does not


def _mask(info: Mapping[str, Any]) -> npt.NDArray[np.int8]:
    """The mask in the info of an observation."""
    try:
        mask: npt.NDArray[np.int8] = info["action_mask"]
    except KeyError:
        raise ValueError('info has no "action_mask"; these wrappers are for Eviction-v0 and Swap-v0') from None
    return mask


def _layout(env: VectorEnv[Any, Any, Any]) -> ObservationLayout:
    """The native vector environment has a layout; the others ask their environments."""
    base = env.unwrapped
    layout: ObservationLayout = base.layout if hasattr(base, "layout") else base.get_attr("layout")[0]  # type: ignore[attr-defined]
    return layout
