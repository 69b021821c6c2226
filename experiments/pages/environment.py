"""The page of Eviction-v0."""

from __future__ import annotations

import inspect

import numpy as np
import numpy.typing as npt

from cace_env.envs import EvictionEnv
from cace_env.observation import CONTEXT, CONTEXT_FEATURES, PENDING, PENDING_FEATURES, SLOT, SLOT_FEATURES, Feature
from cace_env.wrappers import FORMS
from experiments.pages.docs_tables import describe_features
from experiments.reading.markdown import table

COMMAND = "python -m experiments.environment_page --write docs/environment.md --picture docs/images/eviction.png"
DECISIONS = 150  # before the picture is taken
INTRODUCTION = f"""# Eviction-v0

Written from `cace_env/envs/eviction.py` and `cace_env/observation.py` (change those, not this page) by

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
print(env.unwrapped.episode_metrics["cost"])
```

![Who sat in which slot, who waited for whom, and the last decision with its candidates](images/eviction.png)

The picture (`render_mode="rgb_array"`) shows the default scenario after {DECISIONS} decisions of LRU. Each lane of the
timeline is a slot, hatched while its model loads or leaves; below are the waiting requests, stacked by model. On the
right: the memory now, the last decision (the red line) with its candidates, and the open question."""
WATCHING = """## Watching and recording

`gymnasium.make(..., render_mode="human")` (extra `human`) opens Gymnasium's window and shows reset and every step in
it, four decisions a second, or more with `env.metadata["render_fps"] = 20`: `make` puts `HumanRendering` around the
environment, and says so.
`render_mode="ansi"` gives the same situation as text, for a terminal or a log.

Gymnasium's `RecordVideo` writes videos of `render_mode="rgb_array"` (extra `video`):

```py
import gymnasium as gym

from cace_env.envs import Actor

env = gym.make("cace_env:cace_env/Eviction-v0", scenario="workstation", render_mode="rgb_array")
env = gym.wrappers.RecordVideo(env, "videos", episode_trigger=lambda episode: True, video_length=100)
actor = Actor("cace", env)  # any policy of cace_env.evaluate
observation, info = env.reset(seed=0)
actor.reset(info["workload_seed"])
over = False
while not over:
    observation, reward, terminated, truncated, info = env.step(actor.act())
    over = terminated or truncated
env.close()  # writes what is left
```

The wrapper holds its frames in memory until it writes them, 1.6 MB each: give it a `video_length` for long episodes. Of
a batch, `gymnasium.wrappers.vector.RecordVideo` writes all environments side by side, where it was made with
`gym.make_vec(..., vectorization_mode="sync", render_mode="rgb_array")`; with `SAME_STEP` autoreset it never sees the
last situation of an episode. The extra `video` brings moviepy, which needs Pillow 11 or older; pictures differ from
those of Pillow 13 in a few pixels at edges, but what else you have installed may want a newer Pillow."""
FEATURES = """## Features

Both environments have the same features; those that only Swap-v0 needs are 0 in Eviction-v0. Each is scaled by a fixed
physical constant (`cace_env/observation.py`); nothing is normalised by running statistics. What has never happened (a
second use, an eviction) counts as 1,000,000 s ago. No feature reads the output length of an unfinished request; KV room
is reserved for it, though, so when a full engine admits depends on it.

```python
from cace_env.observation import SLOT

slots, pending, context = env.unwrapped.layout.split(observation)
slots[:, SLOT.since_use_s]  # scaled; env.unwrapped.layout.physical(observation) gives seconds
```"""
TRAINING = """## Training an agent

`pip install -c constraints.txt -e '.[experiments,sb3]'` brings what this section needs, and `make test` has done
that. Any library that speaks Gymnasium will do; [examples](../examples/README.md) has a complete program for each of
six. Two things matter most. `baseline="lru"` makes rewards what was saved against LRU on the same requests: without it
they are tens of seconds of waiting in which the worth of a decision drowns. And weights that all slots share, as those
of `"SlotPolicy"` and of `cace_env.networks`, learn once what a big, idle model looks like. Such networks read what is
legal from the observation; sb3-contrib's `MaskablePPO` asks for the mask by itself, whatever its network, and without
either an illegal action is replaced and penalised. Train on the split `train`, choose on `validation`, report on
`test`; the same seeds give LRU, CACE and all others the same requests.

```python
from sb3_contrib import MaskablePPO

from cace_env import evaluate
from cace_env.sb3 import EvictionVecEnv, hyperparameters, save_agent
from cace_env.scenarios import seeds

venv = EvictionVecEnv(scenario="workstation", baseline="lru")  # 60 environments in one simulator
model = MaskablePPO("SlotPolicy", venv, seed=0, device="cpu", **hyperparameters("maskable-ppo"))
model.learn(7_680)  # shows that it works; 150,000 decisions take half a minute and save more than CACE
agent = save_agent(model, "runs/first")  # a policy among others: "agent:runs/first"

lru = evaluate("lru", "workstation", seeds("test", 3))
for policy in ("cace", agent):
    result = evaluate(policy, "workstation", seeds("test", 3))
    print(f"{result.policy}: {result.gain_over(lru)} of LRU's cost saved")
```"""
# Where each library says so: checked against the source of the version named.
SOURCES = {
    "pettingzoo": "PettingZoo 1.27, `classic/connect_four`",
    "rllib": "RLlib 2.60, `ActionMaskingTorchRLModule` of its examples",
    "tianshou": "Tianshou 2.0, `DiscreteQLearningPolicy` and the rest of the DQN family",
    "torchrl": "TorchRL 0.14, `ActionMask`, `MaskedCategorical`, `QValueModule`",
}
BATCHES = """## Many at once

`EvictionVectorEnv` steps N environments in one compiled call. Environment i does exactly what a single one does that
was reset with seed `s + i`; infos are those of `gymnasium.vector.SyncVectorEnv`: a flat array for each key, always the
same keys. `envs.unwrapped.describe(i)` says what is asked in words, `envs.unwrapped.episode_metrics["cost"]` what the
episodes cost that the last step has ended, NaN for the others. Arrays that were returned are never changed later.

```python
import gymnasium as gym

envs = gym.make_vec("cace_env:cace_env/Eviction-v0", num_envs=64, autoreset_mode="SameStep", num_workloads=256)
observations, infos = envs.reset(seed=0)  # (64, size) float32
for _ in range(100):
    actions = infos["action_mask"].argmax(axis=1)  # the first legal slot of each
    observations, rewards, terminated, truncated, infos = envs.step(actions)
```

- **Where an episode has ended**, `autoreset_mode` says what happens, as the enum of Gymnasium or its value.
  `"NextStep"` (default): the next step ignores that environment's action, resets it and rewards 0; a loop that learns
  from that step learns from nothing. `"SameStep"`: it is reset in the step that ends it; the last observation and
  info are `infos["final_obs"][i]` and `infos["final_info"]`. `"Disabled"`: you call
  `envs.reset(options={"reset_mask": terminated | truncated})`.
- **Fresh requests or a bank.** By default every episode has requests of its own, and drawing them takes about as long
  as simulating them. With `num_workloads=K` only the split's first K seeds are played, and their requests are kept
  (0.4 MB for 8,000): resets then cost next to nothing, and an agent meets the same K workloads again and again.
  They are drawn with replacement, so that K episodes meet some 63 % of them; a million decisions of the default
  scenario are some 900 episodes. Whether a policy has learned these K by heart shows on the validation seeds, which
  are others.
- **Several scenarios in one batch**: `scenario=["default", "sleep-mode"]` gives environment i number `i % 2`, all
  with the slots and pending rows of the largest. `max_slots` and `max_pending` give a single environment the same
  shape.
- All of these are arguments of `make_vec` itself, not `vector_kwargs`.
- `threads=2` shares the environments among threads; results do not depend on it.
- `options={"workload_seed": [...]}` plays exactly these, to evaluate an agent on many test seeds at once.
- `episode_statistics=True` adds `infos["episode"]` as Gymnasium's `RecordEpisodeStatistics` does.

[Benchmarks](benchmarks.md) has the speed."""
STATES = """## Searching and planning: states

`env.unwrapped.get_state()` takes the state of an environment, `set_state(state)` puts it back: there, in another
environment of the same scenario, or in one of a batch (`envs.unwrapped.get_state(i)`, `set_state(i, state)`). What
follows is what followed before, to the bit: observations, rewards, infos, and the workloads that later resets draw.

```python
import copy

single = gym.make("cace_env:cace_env/Eviction-v0").unwrapped
observation, info = single.reset(seed=0)
state = single.get_state()
first = {}
for action in info["action_mask"].nonzero()[0]:  # what does each legal victim cost until the next question?
    single.set_state(state)
    _, first[action], *_ = single.step(action)

envs = gym.make_vec("cace_env:cace_env/Eviction-v0", num_envs=len(first), autoreset_mode="SameStep").unwrapped
envs.reset(seed=1)
for i in range(envs.num_envs):
    envs.set_state(i, copy.deepcopy(state))  # a copy, a pickle and the state itself serve alike
_, rewards, *_ = envs.step(list(first))
assert rewards.tolist() == list(first.values())
```

- **What is seen of it.** `set_state` returns nothing: the legal actions are in `action_masks()`, and
  `single.simulator.observation(single.layout)` is the observation of the moment.
- **The future in it is the true one.** A simulation that goes on from a state meets the very requests that are still to
  come. A search that tries its actions there, MCTS or beam search, is clairvoyant: what it finds is what could have
  been saved, and no policy. [examples/beam_search.py](../examples/beam_search.py) shows one. Whoever plans without the
  future simulates other requests than those that will come (`reset(options={"workload": ...})`).
- **A state is small and lasts.** It holds what is in use of the simulation's one row of memory, about a hundred kB for
  2,000 requests, and takes microseconds (`python -m experiments.benchmark --only states`). The requests of an episode
  are copied when its first state is taken, and shared by all that follow; after a reset they are put back, too.
  Nothing that happens later changes a state.
- **What it does not hold**: `strict`, `invalid_penalty` and `num_workloads`, which stay those of the environment that
  takes it; the generator of `action_space.sample()`; and what wrappers remember. They learn of it at the next step, so
  search on `unwrapped`. The legal actions are in `action_masks()`; an `Actor` has to be reset.
- **Where it does not fit** an error says why: another scenario, split, number of slots (in Swap-v0 of model rows,
  too), limit on decisions or version of the package. With a `render_mode` the history belongs to the state, and one
  without it is refused.

`Simulator.snapshot()` and `restore()` do the same without an environment."""
WRAPPERS_TABLE = table(
    ("one environment", "a vector of them", "observation"),
    [
        (
            "`DictObservation(env, form)`",
            "`VectorDictObservation(envs, form)`",
            "the flat vector and the mask, under the names of a library",
        ),
        (
            "`SlotTableObservation(env)`",
            "`VectorSlotTableObservation(envs)`",
            f"`slots` (S, {len(SLOT)}), `pending` (K, {len(PENDING)}), `context` ({len(CONTEXT)},); "
            "`action_mask` (S,) bool",
        ),
    ],
)
FORMS_TABLE = table(
    ("`form`", "observation", "mask", "type of the mask", "of"),
    [
        (f'`"{form}"`', f"`{keys.observation}`", f"`{keys.mask}`", np.dtype(keys.dtype).name, SOURCES[form])
        for form, keys in FORMS.items()
    ],
)
GYMNASIUM_TABLE = table(
    ("wrapper", "for", "mind that"),
    [
        (
            "`RecordEpisodeStatistics`",
            "return and length of episodes",
            "vectors: before Gymnasium 1.4 and under SAME_STEP it leaves out the first step of every episode but the "
            "first; around a `SyncVectorEnv` under DISABLED, a partial reset makes it forget all episodes",
        ),
        ("`TransformReward`, `ClipReward`", "rewards of tens", '`info["reward_terms"]` stays in cost'),
        (
            "`NormalizeReward`",
            "the same, without choosing a scale",
            "its first rewards are far off, and a partial reset clears the running returns of all environments",
        ),
        (
            "`TimeLimit`, `max_episode_steps` of `gymnasium.make`",
            "short episodes",
            "there are no `episode_metrics` of an episode that it cuts; with `max_decisions` in the scenario there are",
        ),
        (
            "`FlattenObservation`",
            "a flat vector that holds the mask, around a Dict",
            "the keys follow each other in alphabetical order",
        ),
        ("`FilterObservation`", "some of the tables, around `SlotTableObservation`", ""),
        (
            "`FrameStackObservation`, `DelayObservation`",
            "memory; late measurements",
            "`info` has the mask of now: put `DictObservation` outside",
        ),
        ("`TransformObservation`", "anything else, around the flat vector", ""),
        (
            "`NormalizeObservation`",
            "networks that want unit variance",
            "its statistics have to be kept with the agent; the features have fixed scales already",
        ),
        ("`Autoreset`", "loops that never call reset", ""),
        ("`RenderCollection`, `AddRenderObservation`, `RecordVideo`", "pictures", 'need `render_mode="rgb_array"`'),
        ("`vector.DictInfoToList`", "a list of infos", "it has to be the outermost wrapper"),
    ],
)
WRAPPERS = f"""## Wrappers

The observation is a flat vector and the mask is in `info`. Some libraries look for the mask in the observation, and
some networks treat all slots alike; `cace_env.wrappers` rearranges it for them, and changes no number:

{WRAPPERS_TABLE}

A `form` is named after who looks for it:

{FORMS_TABLE}

The mask is 1 or True where an action is legal, and always that of the observation beside it: where all requests
have finished it is that of the no-op, where the limit on decisions ended the episode that of the question which was
left open. The vector wrappers work with each autoreset mode; under SAME_STEP the entries of
`infos["final_obs"]` are Dicts too, under DISABLED a partial reset leaves the masks of the others. TorchRL 0.14 reads
these under DISABLED. sb3-contrib needs no wrapper and finds `action_masks()` through all of these; AgileRL takes the
mask from `info`, and networks of `cace_env.networks` read it from the flat vector. [Integrations](integrations.md) goes
through library by library.

`CostLimit` and `VectorCostLimit` leave observations alone and put the cost of a limit on waiting into `info["cost"]`,
for safe reinforcement learning; `cace_env/MO-Eviction-v0` and `cace_env/MO-Swap-v0` reward with a vector, one number
for each objective: [several objectives, and limits](objectives.md).

```python
from cace_env.observation import PENDING, SLOT
from cace_env.wrappers import DictObservation, SlotTableObservation

masked = DictObservation(gym.make("cace_env:cace_env/Eviction-v0"), "rllib")
pair, info = masked.reset(seed=0)
assert pair["observations"].shape == masked.unwrapped.observation_space.shape
assert (pair["action_mask"] == info["action_mask"]).all()

tables, info = SlotTableObservation(gym.make("cace_env:cace_env/Eviction-v0")).reset(seed=0)
occupied = tables["slots"][:, SLOT.occupied] == 1  # row s is action s; these two are padding masks for attention
present = tables["pending"][:, PENDING.present] == 1
```

### Gymnasium's own

These wrappers of Gymnasium serve a purpose here, and the tests run them:

{GYMNASIUM_TABLE}

In `gymnasium.wrappers.vector`, wrappers of observations refuse SAME_STEP, and `NormalizeObservation` DISABLED too;
those of rewards and statistics work with each mode. Three kinds do not serve: `StickyAction` and `RepeatAction` play
actions that are no longer legal, `RescaleObservation` divides by bounds that are far from what is observed, and those
that change pictures or continuous actions have nothing to change."""


def page() -> str:
    """`docs/environment.md` as Markdown."""
    summary, _, sections = inspect.cleandoc(EvictionEnv.__doc__ or "").partition("\n\n")
    blocks = (
        ("Of each slot", "Rows of empty slots are zero.", SLOT_FEATURES),
        ("Of each pending model", "Oldest request first; rows that are not needed are zero.", PENDING_FEATURES),
        ("Of the whole", "", CONTEXT_FEATURES),
    )
    features = [_block(*block) for block in blocks]
    return (
        "\n\n".join(
            [
                INTRODUCTION,
                f"**{summary}**",
                sections,
                BATCHES,
                STATES,
                TRAINING,
                WRAPPERS,
                WATCHING,
                FEATURES,
                *features,
            ]
        )
        + "\n"
    )


def _block(title: str, note: str, features: tuple[Feature, ...]) -> str:
    return "\n\n".join(part for part in (f"### {title}", note, describe_features(features)) if part)


def picture() -> npt.NDArray[np.uint8]:
    """What the default scenario looks like after some decisions of LRU."""
    env = EvictionEnv("default", split="validation", render_mode="rgb_array")
    observation, info = env.reset(seed=env.draws.seeds[0])
    for _ in range(DECISIONS):
        since_use_s = env.layout.split(observation).slots[:, SLOT.since_use_s]
        observation, _, _, _, info = env.step(int(np.where(info["action_mask"] == 1, since_use_s, -1.0).argmax()))
    image: npt.NDArray[np.uint8] = np.asarray(env.render())
    return image
