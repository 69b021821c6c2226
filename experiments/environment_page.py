"""The page of Eviction-v0, from the code, and its picture.

`python -m experiments.environment_page --write docs/environment.md --picture docs/images/eviction.png`
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import numpy as np

from cace_env.env import EvictionEnv
from cace_env.observation import (
    CONTEXT_FEATURES,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    Feature,
    describe_features,
)

COMMAND = "python -m experiments.environment_page --write docs/environment.md --picture docs/images/eviction.png"
DECISIONS = 150  # before the picture is taken

INTRODUCTION = f"""# Eviction-v0

Written from `cace_env/env.py` and `cace_env/observation.py` (change those, not this page) by

    {COMMAND}

```python
import gymnasium as gym

env = gym.make("cace_env:cace_env/Eviction-v0", scenario="default", render_mode="rgb_array")
observation, info = env.reset(seed=0)
over = False
while not over:
    action = env.action_space.sample(info["action_mask"])  # a legal slot
    observation, reward, terminated, truncated, info = env.step(action)
    over = terminated or truncated
print(info["episode_metrics"]["cost"])
```

![Who sat in which slot, who waited for whom, and the last decision with its candidates](images/eviction.png)

The picture (`render_mode="rgb_array"`) shows the default scenario after {DECISIONS} decisions of LRU. Each lane of the
timeline is a slot, hatched while its model loads or leaves; below are the waiting requests, stacked by model. On the
right: the memory now, the last decision (the red line) with its candidates, and the open question."""

WATCHING = """## Watching and recording

`render_mode="human"` (extra `human`) opens a window and shows reset and every step in it, four decisions a second, or
more with `env.unwrapped.window.fps = 20`. The window can be resized. Space stops the time and lets it go on, the right
arrow shows one more decision; after closing it (Escape and Q do, too) the run goes on unseen and at full speed.
`render_mode="ansi"` gives the same situation as text, for a terminal or a log.

Gymnasium's `RecordVideo` writes videos of `render_mode="rgb_array"` (extra `video`):

```py
import gymnasium as gym

env = gym.make("cace_env:cace_env/Eviction-v0", scenario="workstation", render_mode="rgb_array")
env = gym.wrappers.RecordVideo(env, "videos", episode_trigger=lambda episode: True, video_length=100)
observation, info = env.reset(seed=0)
over = False
while not over:
    action = env.action_space.sample(info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(action)
    over = terminated or truncated
env.close()  # writes what is left
```

The wrapper holds its frames in memory until it writes them, 1.6 MB each: give it a `video_length` for long episodes. Of
a batch, `gymnasium.wrappers.vector.RecordVideo` writes all environments side by side, where it was made with
`gym.make_vec(..., vectorization_mode="sync", render_mode="rgb_array")`; with `SAME_STEP` autoreset it never sees the
last situation of an episode. The extra `video` brings moviepy, which needs Pillow 11 or older; pictures differ from
those of Pillow 13 in a few pixels at edges, but what else you have installed may want a newer Pillow."""

FEATURES = """## Features

Every number that can be observed is fixed by a physical scale in `cace_env/observation.py`; nothing is normalised by
running statistics. What has never happened (a second use, an eviction) counts as 1,000,000 s ago. No feature reads the
output length of an unfinished request; KV room is reserved for it, though, so when a full engine admits depends on it.

```python
from cace_env.observation import SLOT

slots, pending, context = env.unwrapped.layout.split(observation)
slots[:, SLOT.since_use_s]  # scaled; env.unwrapped.layout.physical(observation) gives seconds
```"""

TRAINING = """## Training an agent

Any library that speaks Gymnasium will do. Illegal actions are replaced and penalised, but an agent that knows the mask
learns faster: sb3-contrib's `MaskablePPO` asks for `action_masks()`. Rewards are weighted seconds of waiting and can be
tens in one step, so scale them. Train on the split `train`, choose on `validation`, report on `test`; the same seeds
give LRU, CACE and all others the same requests.

```python
import gymnasium as gym
from sb3_contrib import MaskablePPO
from sb3_contrib.common.wrappers import ActionMasker

from cace_env import evaluate
from cace_env.scenarios import seeds


def make(split):
    env = gym.make("cace_env:cace_env/Eviction-v0", scenario="workstation", split=split)
    env = gym.wrappers.TransformReward(env, lambda reward: reward / 10)
    return ActionMasker(env, lambda env: env.unwrapped.action_masks())


agent = MaskablePPO("MlpPolicy", make("train"), gamma=0.999, seed=0)
agent.learn(4_096)  # shows that it works; hundreds of thousands are a start

env, costs, test_seeds = make("test"), [], seeds("test", 3)
for workload_seed in test_seeds:
    observation, info = env.reset(options={"workload_seed": workload_seed})
    over = False
    while not over:
        mask = info["action_mask"].astype(bool)
        action, _ = agent.predict(observation, action_masks=mask, deterministic=True)
        observation, _, terminated, truncated, info = env.step(int(action))
        over = terminated or truncated
    costs.append(info["episode_metrics"]["cost"])
lru = evaluate("lru", "workstation", test_seeds).column("cost")
print(f"cost saved against LRU: {100 * (1 - sum(costs) / lru.sum()):.1f} %")
```"""


def page() -> str:
    """`docs/environment.md` as Markdown."""
    summary, _, sections = inspect.cleandoc(EvictionEnv.__doc__ or "").partition("\n\n")
    blocks = (
        ("Of each slot", "Rows of empty slots are zero.", SLOT_FEATURES),
        ("Of each pending model", "Oldest request first; rows that are not needed are zero.", PENDING_FEATURES),
        ("Of the whole", "", CONTEXT_FEATURES),
    )
    features = [_block(*block) for block in blocks]
    return "\n\n".join([INTRODUCTION, f"**{summary}**", sections, TRAINING, WATCHING, FEATURES, *features]) + "\n"


def _block(title: str, note: str, features: tuple[Feature, ...]) -> str:
    return "\n\n".join(part for part in (f"### {title}", note, describe_features(features)) if part)


def save_picture(path: Path) -> None:
    """Plays the default scenario under LRU and saves what it looks like then, as PNG."""
    from PIL import Image

    env = EvictionEnv("default", split="validation", render_mode="rgb_array")
    observation, info = env.reset(seed=env.seeds[0])
    for _ in range(DECISIONS):
        since_use_s = env.layout.split(observation).slots[:, SLOT.since_use_s]
        observation, _, _, _, info = env.step(int(np.where(info["action_mask"] == 1, since_use_s, -1.0).argmax()))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(env.render())).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Prints the page, or writes it and its picture."""
    parser = argparse.ArgumentParser(prog="python -m experiments.environment_page", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture to this file")
    options = parser.parse_args(arguments)
    if options.write is None and options.picture is None:
        print(page())
    if options.write is not None:
        options.write.write_text(page(), encoding="utf-8")
        print(f"wrote {options.write}")
    if options.picture is not None:
        save_picture(options.picture)
        print(f"wrote {options.picture}, {options.picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
