"""Checks of the arguments of the vector environments, made before anything changes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode

from cace_env.envs.vector_infos import Bools
from cace_env.envs.workload_seeds import Draws, whole
from cace_env.kernel.state import Int64Array
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import FOREVER

AnyScenario = str | Path | Mapping[str, Any] | Scenario

OPTIONS: Final = ("reset_mask", "workload_seed")


MOST: Final = {"num_envs": 1 << 20, "threads": 1024}  # of what takes memory as soon as it is asked for


def check_counts(**counts: int | None) -> None:
    """Raise ValueError or TypeError if a count is not a whole number of 1 to its limit; None means none."""
    for name, value in counts.items():
        most = MOST.get(name, FOREVER)
        if value is not None and not 1 <= whole(name, value) <= most:
            limit = "at least 1" if value < 1 else f"at most {most}"
            raise ValueError(f"{name} is {value}; it has to be {limit}")


def check_render_mode(render_mode: None, env_id: str) -> None:
    """Raise ValueError for every render mode: only single environments can be rendered."""
    if render_mode is not None:
        raise ValueError(
            f"render_mode is {render_mode!r}, but vector environments cannot be rendered; make a single one: "
            f'gymnasium.make("cace_env:{env_id}", render_mode=...)'
        )


def scenarios(given: AnyScenario | Sequence[AnyScenario]) -> tuple[Scenario, ...]:
    """Load one scenario or several.

    Raises:
        ConfigError: a scenario cannot be loaded.
        ValueError: there is none.
    """
    one = isinstance(given, str | Path | Mapping | Scenario)
    several: Sequence[Any] = [given] if one else given  # type: ignore[assignment]
    if not len(several):
        raise ValueError("scenario is an empty sequence; give at least one")
    return tuple(load_scenario(each) for each in several)


def autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode as the enum, from the enum or its value.

    Raises:
        ValueError: there is no such mode.
    """
    known = [each.value for each in AutoresetMode]
    if not isinstance(mode, AutoresetMode) and mode not in known:
        raise ValueError(f"autoreset_mode is {mode!r}; it has to be one of {str(known)[1:-1]}")
    return AutoresetMode(mode)


def seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed, or None, for each environment; from one number `n` they are `n, n + 1, ...`.

    Raises:
        TypeError: a seed is not a whole number.
        ValueError: a seed is negative, or there are too few or too many.
    """
    if seed is None:
        return [None] * num_envs
    if np.ndim(seed) == 0:  # type: ignore[arg-type]
        first = whole("seed", seed)  # type: ignore[arg-type]
        each_seed: list[int | None] = [first + env for env in range(num_envs)]
    else:
        each_seed = [None if each is None else operator.index(each) for each in seed]  # type: ignore[union-attr]
    if len(each_seed) != num_envs:
        raise ValueError(f"there are {len(each_seed)} seeds for {num_envs} environments; give one for each")
    negative = [each for each in each_seed if each is not None and each < 0]
    if negative:
        raise ValueError(f"seed {negative[0]} is negative; seeds are at least 0")
    return each_seed


def reset_options(options: Mapping[str, Any], num_envs: int, draws: Draws) -> tuple[Bools | None, Int64Array | None]:
    """The environments to reset (None = all), and their workload seeds (None = not given), `(num_envs,)` each.

    Raises:
        TypeError: the mask is not an array of `num_envs` booleans.
        ValueError: an unknown option, an empty mask, or workload seeds of the wrong number, type or split.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"unknown reset option {unknown[0]!r}; the options are {', '.join(OPTIONS)}")
    mask = options.get("reset_mask")
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
            raise TypeError(f"reset_mask is {mask!r}; it has to be a bool array of shape ({num_envs},)")
        if not mask.any():
            raise ValueError("reset_mask selects no environment; at least one entry has to be True")
    named = options.get("workload_seed")
    if named is not None:
        named = np.asarray(named)
        if named.dtype.kind not in "iu" or named.shape not in ((), (num_envs,)):
            raise ValueError(
                f"workload_seed is {named.dtype} of shape {named.shape}; give one integer, or {num_envs} integers"
            )
        named = np.broadcast_to(named, num_envs)
        for each in np.unique(named if mask is None else named[mask]).tolist():
            draws.check(each)
    return mask, named


def actions(given: npt.ArrayLike, stepped: Bools, num_actions: int) -> Int64Array:
    """One action for each environment, `(num_envs,)`; 0 for those that are not `stepped`.

    Raises:
        InvalidAction: the shape or type is wrong, or an action of a `stepped` environment is out of range.
    """
    chosen = np.asarray(given)
    if chosen.shape != stepped.shape or chosen.dtype.kind not in "iu":
        raise InvalidAction(
            f"actions are {chosen.dtype} of shape {chosen.shape}; give an integer for each of {len(stepped)}"
        )
    chosen = chosen.astype(np.int64, order="C")  # a copy: Numba would compile once more for read-only actions
    chosen *= stepped
    if chosen.view(np.uint64).max() >= num_actions:  # a negative number is a large one, too
        env = int(np.flatnonzero((chosen < 0) | (chosen >= num_actions))[0])
        raise InvalidAction(f"environment {env}: there is no action {chosen[env]}; use 0 to {num_actions - 1}")
    return chosen


def check_legal(chosen: Int64Array, mask: npt.NDArray[np.int8], stepped: Bools) -> None:
    """Raise InvalidAction if the action of a `stepped` environment is not legal by `mask (num_envs, actions)`."""
    illegal = (mask[np.arange(len(chosen)), chosen] == 0) & stepped
    if illegal.any():
        env = int(illegal.argmax())
        legal = np.flatnonzero(mask[env]).tolist()
        raise InvalidAction(f"environment {env}: action {chosen[env]} is not legal now; legal are {legal}")
