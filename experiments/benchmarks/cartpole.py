"""One environment step by step, and other people's environments: Gymnasium's CartPole and EnvPool's, in the same run.

CartPole is the smallest environment there is: four numbers of physics and nothing else. Who knows how fast it runs on a
machine can place our figures.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from itertools import cycle, islice
from typing import Any, Final

import gymnasium
import numpy as np

from cace_env import EVICTION_ID
from experiments.benchmarks.measures import Figures, best_s, per_second

CARTPOLE: Final = "CartPole-v1"
DRAWS: Final = 1024  # random numbers drawn beforehand and used in turn: drawing them is nobody's speed
NO_ENVPOOL: Final = "envpool is not installed (pip install envpool, which brings 850 MB of other games' files)"


def uniform_draws() -> list[float]:
    """Numbers in [0, 1) for `play` and `play_legal`."""
    return np.random.default_rng(0).random(DRAWS).tolist()


def step_rates(rounds: int, steps: int) -> Figures:
    """Steps per second of one environment under random legal actions, resets included, beside CartPole's, in turns.

    Both as `gymnasium.make` returns them, with its checks, and bare (`unwrapped`).
    """
    draws = uniform_draws()
    ours = gymnasium.make(f"cace_env:{EVICTION_ID}")
    cartpole = gymnasium.make(CARTPOLE)
    figures: Figures = {"steps": steps, "rounds": rounds}
    for name, mine, theirs in (("made", ours, cartpole), ("bare", ours.unwrapped, cartpole.unwrapped)):
        play_legal(mine, draws, 10)
        seconds: dict[str, list[float]] = {"eviction": [], "cartpole": []}
        for _ in range(rounds):
            seconds["eviction"].append(play_legal(mine, draws, steps))
            seconds["cartpole"].append(play(theirs, draws, steps))
        figures[name] = {f"{env}_steps_per_s": per_second(steps, times) for env, times in seconds.items()}
        figures[name]["eviction_over_cartpole"] = best_s(seconds["cartpole"]) / best_s(seconds["eviction"])
    ours.close()
    cartpole.close()
    return figures


def play_legal(env: gymnasium.Env[Any, Any], draws: Sequence[float], steps: int) -> float:
    """Seconds for random actions of those that the mask allows."""
    began = time.perf_counter()
    _, info = env.reset(seed=0)
    for draw in islice(cycle(draws), steps):
        legal = info["action_mask"].nonzero()[0]
        _, _, terminated, truncated, info = env.step(legal[int(draw * len(legal))])
        if terminated or truncated:
            _, info = env.reset()
    return time.perf_counter() - began


def play(env: gymnasium.Env[Any, Any], draws: Sequence[float], steps: int) -> float:
    """Seconds for random actions of CartPole."""
    began = time.perf_counter()
    env.reset(seed=0)
    for draw in islice(cycle(draws), steps):
        _, _, terminated, truncated, _ = env.step(int(draw * 2))
        if terminated or truncated:
            env.reset()
    return time.perf_counter() - began


# ---------------------------------------------------------------------------------------------------------------------
# CartPole in batches


def cartpole_rates(rounds: int, seconds: float, sizes: Sequence[int]) -> Figures:
    """Steps per second of CartPole, one and in batches, everybody in turns.

    Args:
        rounds: how often everybody has a turn.
        seconds: how long a turn takes, roughly.
        sizes: environments of a batch.

    Returns:
        Figures: `rows` of `name`, `num_envs`, `threads` and `steps_per_s`; `envpool` says its version, or why it is
        missing.
    """
    turns: list[tuple[str, int, int, Callable[[int], float]]] = []
    figures: Figures = {"rounds": rounds, "envpool": envpool_version()}
    with ExitStack() as stack:
        single, draws = gymnasium.make(CARTPOLE), uniform_draws()
        stack.callback(single.close)
        turns.append(("gymnasium.make", 1, 1, lambda steps: play(single, draws, steps)))
        for num_envs in sizes:
            for name, mode in (("SyncVectorEnv", "sync"), ("CartPoleVectorEnv (NumPy)", "vector_entry_point")):
                envs: Any = gymnasium.make_vec(CARTPOLE, num_envs=num_envs, vectorization_mode=mode)
                stack.callback(envs.close)
                turns.append((name, num_envs, 1, _player(envs, num_envs)))
            if "version" in figures["envpool"]:
                for threads in (1, 2):
                    envs = _envpool(num_envs, threads)
                    stack.callback(envs.close)
                    turns.append(("EnvPool", num_envs, threads, _player(envs, num_envs)))
        steps = [_steps_in(take, seconds) for *_, take in turns]
        times: list[list[float]] = [[] for _ in turns]
        for _ in range(rounds):
            for row, (*_, take) in enumerate(turns):
                times[row].append(take(steps[row]))
    figures["rows"] = [
        {
            "name": name,
            "num_envs": num_envs,
            "threads": threads,
            "steps_per_s": per_second(num_envs * steps[row], times[row]),
        }
        for row, (name, num_envs, threads, _) in enumerate(turns)
    ]
    return figures


def _player(envs: Any, num_envs: int) -> Callable[[int], float]:
    """Plays so many steps of a batch under random actions; returns the seconds."""
    actions = np.random.default_rng(0).integers(0, 2, (DRAWS, num_envs), dtype=np.int32)
    envs.reset()

    def take(steps: int) -> float:
        began = time.perf_counter()
        for row in range(steps):
            envs.step(actions[row % DRAWS])
        return time.perf_counter() - began

    return take


def _steps_in(take: Callable[[int], float], seconds: float) -> int:
    """How many steps fill about so many seconds; runs a few."""
    steps = 1
    while (took := take(steps)) < min(seconds, 0.02):
        steps *= 2
    return max(1, round(steps * seconds / took))


def envpool_version() -> Figures:
    """`version` of EnvPool if it can be used here, else `skipped` with the reason."""
    try:
        version = metadata.version("envpool")
        _envpool(1, 1).close()
    except metadata.PackageNotFoundError:
        return {"skipped": NO_ENVPOOL}
    except (ImportError, OSError, RuntimeError) as error:
        return {"skipped": f"envpool does not start: {type(error).__name__}: {error}"}
    return {"version": version}


def _envpool(num_envs: int, threads: int) -> Any:
    import envpool

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first reset makes spaces, and casts their bounds
        envs = envpool.make_gymnasium(CARTPOLE, num_envs=num_envs, num_threads=threads, seed=0)
        envs.reset()
    return envs
