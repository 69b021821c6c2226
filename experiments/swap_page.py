"""The page of Swap-v0, from the code, and its picture.

`python -m experiments.swap_page --write docs/swap.md --picture docs/images/swap.png`
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cace_env.envs import Actor, SwapEnv
from experiments.running.command_line import print_or_write

COMMAND = "python -m experiments.swap_page --write docs/swap.md --picture docs/images/swap.png"
SCENARIO, POLICY = "mixed-gpus", "wsjf+cace"
DECISIONS = 150  # at least, before the picture is taken

INTRODUCTION = f"""# Swap-v0

Written from `cace_env/envs/eviction.py` (change that, not this page) by

    {COMMAND}

```python
import gymnasium as gym

from cace_env.envs import Actor

env = gym.make("cace_env:cace_env/Swap-v0", scenario="default", render_mode="rgb_array")
actor = Actor("wsjf+cace", env)  # most waiting weight per second of load first; victims by CACE
observation, info = env.reset(seed=0)
actor.reset(info["workload_seed"])
over = False
while not over:
    observation, reward, terminated, truncated, info = env.step(actor.act())
    over = terminated or truncated
print(env.unwrapped.episode_metrics["cost"], env.unwrapped.episode_metrics["longest_wait_s"])
```

![Who sat in which slot, who waited for whom, the last decision, and what could be loaded now](images/swap.png)

The picture (`render_mode="rgb_array"`) shows the scenario `{SCENARIO}` under `{POLICY}`: the last decision (the red
line) with its candidates, and the open question, which model to load."""

POLICIES = """## Policies, and everything else

`cace_env.evaluate(policy, scenario, seeds, protocol="swap")` runs any policy in this environment. Built-in ones go with
an order, named before a plus: `"wsjf+cace"`; without one it is `fifo` ([policies](policies.md) lists both). A Python
policy may bring an order of its own, and any agent is held against them on the same seeds:

```python
from cace_env import evaluate

for policy in ("lru", "wsjf+lru", "wsjf+cace"):
    print(policy, evaluate(policy, "workstation", [2_000_000], protocol="swap").column("cost").sum())
```

What [the page of Eviction-v0](environment.md) says of batches, wrappers, Stable-Baselines3, states, rendering and the
features holds here, too: `gym.make_vec("cace_env:cace_env/Swap-v0", num_envs=64)`, `cace_env.wrappers`,
`cace_env.sb3.SwapVecEnv`, `get_state` and `set_state`. `"SlotPolicy"` and `cace_env.networks` find out from the spaces
which of the two environments they are for, and `hyperparameters("maskable-ppo", "swap")` are those that work here.
Such a network, which shares its weights, scores the rows of `slots` and those of `pending` (`SlotTableObservation`),
and waiting from the context:

```python
from cace_env.observation import CONTEXT, PENDING, SLOT
from cace_env.wrappers import SlotTableObservation

tables, info = SlotTableObservation(gym.make("cace_env:cace_env/Swap-v0")).reset(seed=0)
legal = [tables["slots"][:, SLOT.legal], tables["pending"][:, PENDING.legal], tables["context"][[CONTEXT.wait_legal]]]
assert [bool(each) for block in legal for each in block] == tables["action_mask"].tolist()
```"""


def page() -> str:
    """`docs/swap.md` as Markdown."""
    summary, _, sections = inspect.cleandoc(SwapEnv.__doc__ or "").partition("\n\n")
    return "\n\n".join([INTRODUCTION, f"**{summary}**", sections, POLICIES]) + "\n"


def picture() -> npt.NDArray[np.uint8]:
    """What it looks like when several models could be loaded."""
    env = SwapEnv(SCENARIO, split="validation", render_mode="rgb_array")
    _, info = env.reset(seed=env.draws.seeds[0])
    actor = Actor(POLICY, env)
    actor.reset(info["workload_seed"])
    decisions = 0
    while decisions < DECISIONS or info["action_mask"][env.layout.max_slots :].sum() < 4:
        *_, info = env.step(actor.act())
        decisions += 1
    image: npt.NDArray[np.uint8] = np.asarray(env.render())
    return image


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it and its picture."""
    print_or_write(page, "experiments.swap_page", __doc__, arguments, picture)


if __name__ == "__main__":
    main()
