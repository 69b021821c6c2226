"""`Swap-v0`: the agent chooses which model to load, and what to evict for it."""

from __future__ import annotations

from cace_env import SWAP_ID
from cace_env.envs.fleet_env import FleetEnv
from cace_env.tables import Protocol


class SwapEnv(FleetEnv):
    """The agent chooses which CodeLLM to load next and what to evict for it, or waits.

    ## Description

    The fleet, the requests, the simulator and the reward are those of `cace_env/Eviction-v0`. There the model whose
    request is oldest is loaded as soon as it can be; here the agent says which of the pending models is loaded, or
    waits until a better moment, and then which models have to leave. One load may serve many requests, and an agent
    that waits for an idle victim drains no busy one. What order, waiting and the choice of victims are worth depends on
    engine and pressure: `python -m experiments.findings` measures each alone, and `docs/findings.md` has the numbers.

    It is asked which model to load at the end of an instant in which a model turned idle, a load or an unload ended, or
    a request arrived for an absent model; and after each choice again, as long as there is another model that could be
    loaded. Everything random is drawn before the episode: for the same seed every policy, of this environment and of
    the other, serves the same users.

    ## Action Space

    `Discrete(max_slots + max_pending + 1)`: victims by slot, models by their number (`env.unwrapped.tables.model_names`
    is in this order), and waiting. `env.unwrapped.describe()` says in words what is asked.

    | Num                     | Action                           | Legal                                               |
    |-------------------------|----------------------------------|-----------------------------------------------------|
    | 0 ... max_slots - 1     | evict the model in this slot     | asked for a victim: unpinned, idle or busy          |
    | max_slots + m           | load model m                     | asked which model: it is pending, and there is      |
    |                         |                                  | room on an accelerator whose swap channel is idle,  |
    |                         |                                  | or room can be made there                           |
    | max_slots + max_pending | wait until something has changed | asked which model, while anything runs, loads or    |
    |                         |                                  | unloads, or if no request waits for a loadable model|

    A model that fits is loaded at once. For one that does not, the agent is asked for victims at the same instant, one
    a step, idle and busy alike (busy ones drain first), until there is room; the first fixes the accelerator. A single
    legal action is applied without asking. `info["action_mask"]` (int8) comes with every reset and step,
    `action_masks()` (bool) is for sb3-contrib. An illegal action is replaced by the legal one of lowest index, counted
    in `info["invalid_action"]` and penalised; with `strict=True` it raises `gymnasium.error.InvalidAction` and changes
    nothing. An action that does not exist (99) always raises.

    Where the scenario allows it (`rules.prefetch_limit`), models without waiting requests may be loaded, too.

    ## Observation Space

    The flat float32 `Box` of Eviction-v0, `[slots x F | models x P | context x C]`, with the same features. Row m of
    the second block is model m, whether pending or not; it is zero (`present` = 0) unless the model is pending, the
    target, or may be loaded. `legal` of slots and models and `wait_legal` of the context are the action mask;
    `ordering` says which of the two questions is asked.

    | Position          | Block           | What                                                                     |
    |-------------------|-----------------|--------------------------------------------------------------------------|
    | from `F s`        | slot s of S     | its model: legal, size, reload time, requests, recency, demand,          |
    |                   |                 | users, prefix tokens, latency weight, output length                      |
    | from `F S + P m`  | model m         | legal, need, load time, whether it fits or idle victims suffice,         |
    |                   |                 | waiting requests and their weight, demand                                |
    | the last `C`      | context         | which question, time since the last decision, target, memory, queues     |

    With `top_k=k` the action space is `Discrete(k + max_pending + 1)`, and rows and actions are only the most plausible
    ones, as in Eviction-v0. Asked which model to load, the `max_pending` rows of models (k by default) are those that
    may be loaded, by what waits for them and its weight per second of loading, then other pending models, oldest first;
    asked for a victim, the target comes first. The last action waits. Models that nobody waits for are not shown, so
    `prefetch_limit` has to be 0.

    ## Rewards

    As in Eviction-v0: minus the cost of the time since the last decision, split by its source in
    `info["reward_terms"]`, and `invalid_penalty` for each illegal action; or the savings against a `baseline`, such as
    `"lru"` or `"wsjf+cace"`.

    ## Starting State

    Time 0 up to the first question. `reset` takes seeds and options as in Eviction-v0, and the same seed plays the same
    workload in both.

    ## Episode End

    1. Termination: all requests have finished. The last step runs on until then.
    2. Truncation: one more decision, of either kind, than the scenario's `max_decisions` would be asked (no limit by
       default).

    Information and `episode_metrics` are as in Eviction-v0. If nothing is ever asked, reset returns the mask
    `[1, 0, ...]`, and the only step is a no-op that returns the whole cost.

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("cace_env:cace_env/Swap-v0", scenario="default")

    ```

    | Parameter         | Type                          | Default     | Description                                    |
    |-------------------|-------------------------------|-------------|------------------------------------------------|
    | `scenario`        | **str, Path, dict, Scenario** | `"default"` | name, YAML file, its keys, or a `Scenario`     |
    | `split`           | **str**                       | `"train"`   | whose seeds are played: train, validation, test|
    | `baseline`        | **str, Policy or None**       | `None`      | a built-in policy: rewards are what is saved   |
    |                   |                               |             | against it; `"lru"` makes learning far faster  |
    | `scale_rewards`   | **bool or None**              | `None`      | divide rewards by what LRU pays per decision;  |
    |                   |                               |             | `None` = if there is a baseline                |
    | `strict`          | **bool**                      | `False`     | illegal actions raise                          |
    | `invalid_penalty` | **float**                     | `1.0`       | taken from the reward for each illegal action  |
    | `num_workloads`   | **int or None**               | `None`      | play only the split's first so many seeds, and |
    |                   |                               |             | keep their workloads; `None` = all seeds       |
    | `max_slots`       | **int or None**               | `None`      | slots; `None` = as many as the fleet can use   |
    | `max_pending`     | **int or None**               | `None`      | rows of models, at least their number; `None` =|
    |                   |                               |             | one per model                                  |
    | `top_k`           | **int or None**               | `None`      | show, and let choose, so many of the most      |
    |                   |                               |             | plausible victims; `None` = all                |
    | `render_mode`     | **str or None**               | `None`      | `"ansi"`, `"rgb_array"` (960 x 540), `"human"` |

    ## Vectorized environment

    `gym.make_vec("cace_env:cace_env/Swap-v0", num_envs=64)` makes `cace_env.envs.SwapVectorEnv`: the same
    simulations, all in one compiled call.

    ## Version History

    * v0: first release.
    """

    ID = SWAP_ID
    PROTOCOL = Protocol.SWAP
