"""Pictures of the environments, from episodes that are simulated for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cace_env.envs import Actor, EvictionEnv, FleetEnv, SwapEnv

Picture = npt.NDArray[np.uint8]  # (height, width, 3)

DECISIONS: Final = 150  # at least, before a picture is taken
FRAMES: Final = 24  # of the animation
FRAME_MS: Final = 600
COLOURS: Final = 48


def decided(env: FleetEnv, policy: str) -> Iterator[dict[str, Any]]:
    """Plays a validation episode; yields the info of each step."""
    _, info = env.reset(seed=env.draws.seeds[0])
    actor = Actor(policy, env)
    actor.reset(info["workload_seed"])
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(actor.act())
        over = terminated or truncated
        yield info


def rendered(env: FleetEnv) -> Picture:
    """The environment as it is now."""
    return np.asarray(env.render(), dtype=np.uint8)


def eviction() -> Picture:
    """What the default scenario looks like after some decisions of LRU."""
    env = EvictionEnv("default", split="validation", render_mode="rgb_array")
    for count, _ in enumerate(decided(env, "lru"), 1):
        if count == DECISIONS:
            break
    return rendered(env)


def swap() -> Picture:
    """What it looks like when several models could be loaded."""
    env = SwapEnv("mixed-gpus", split="validation", render_mode="rgb_array")
    for count, info in enumerate(decided(env, "wsjf+cace"), 1):
        if count >= DECISIONS and info["action_mask"][env.layout.max_slots :].sum() >= 4:
            break
    return rendered(env)


def animation(path: Path) -> None:
    """Writes successive decisions of an episode of CACE as a GIF that goes on for ever."""
    env = EvictionEnv("default", split="validation", render_mode="rgb_array")
    frames: list[Image.Image] = []
    for count, _ in enumerate(decided(env, "cace"), 1):
        if count > DECISIONS:
            frames.append(Image.fromarray(rendered(env)))
        if len(frames) == FRAMES:
            break
    # One palette for all frames, so that what stays is stored once.
    palette = frames[len(frames) // 2].quantize(COLOURS, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0, optimize=True)


def draw(images: Path) -> None:
    """Writes eviction.png, swap.png and episode.gif."""
    Image.fromarray(eviction()).save(images / "eviction.png", optimize=True)
    Image.fromarray(swap()).save(images / "swap.png", optimize=True)
    animation(images / "episode.gif")
