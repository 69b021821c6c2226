"""`Eviction-v0`: the agent chooses which model to evict. `fleet_env.py` holds the implementation."""

from __future__ import annotations

from cace_env import EVICTION_ID
from cace_env.envs.fleet_env import FleetEnv
from cace_env.tables import Protocol


class EvictionEnv(FleetEnv):
    """The agent chooses which resident CodeLLM to evict for the one that requests wait for.

    ## Description

    A fleet of accelerators hosts more code language models than fit into its memory. A request for a model that is not
    resident waits until the model has been loaded, and often another one must be evicted first. The agent is asked
    whenever more than one model could be evicted. Between two questions the simulator serves requests by continuous
    batching, loads and drains (`docs/design.md` has every rule), so steps are unequal in simulated time.

    Everything random is drawn before the episode: with the same seed every policy serves the same users.

    ## Action Space

    `Discrete(max_slots)`: the slot whose model is evicted. Slots are numbered accelerator by accelerator.

    | Num          | Action                                     | Legal                             |
    |--------------|--------------------------------------------|-----------------------------------|
    | 0            | evict the model in slot 0                  | `info["action_mask"][0] == 1`     |
    | ...          |                                            |                                   |
    | max_slots - 1| evict the model in the last slot           | `info["action_mask"][-1] == 1`    |

    Models without requests are legal. Busy models, which drain first, are legal only when a request has waited for
    `drain_after_s` and no idle model helps. `info["action_mask"]` (int8) comes with every reset and step,
    `action_masks()` (bool) is for sb3-contrib. An illegal action is replaced by the legal one of lowest index, counted
    in `info["invalid_action"]` and penalised; with `strict=True` it raises `gymnasium.error.InvalidAction` and changes
    nothing. An action that does not exist (99) always raises.

    A model may need several victims: the agent picks one per step, all at one instant.

    ## Observation Space

    A flat float32 `Box`: `[slots x F | pending models x P | context x C]`, every number scaled by a fixed constant.
    `F`, `P` and `C` are how many features `cace_env.observation` has: the lengths of `SLOT`, `PENDING` and `CONTEXT`,
    which find columns by name. `layout.names` names each position, `layout.split(observation)` takes it apart,
    `layout.physical(observation)` gives physical units; `docs/environment.md` lists every feature with unit and scale.

    | Position          | Block                     | What                                                           |
    |-------------------|---------------------------|----------------------------------------------------------------|
    | from `F s`        | slot s of S               | its model: legal, size, reload time, requests, recency,        |
    |                   |                           | demand, users, prefix tokens, latency weight, output length    |
    | from `F S + P k`  | k-th oldest pending model | target or not, need, load time, waiting requests, demand       |
    | the last `C`      | context                   | time since the last decision, target, memory, queues           |

    It holds only what a real orchestrator can know: no output length of an unfinished request, no future arrival.

    A large fleet has thousands of slots and models. With `top_k=k` the action space is `Discrete(k)`, and both show
    only what is most plausible, so that networks stay small: row i of the slots, and action i, is the legal victim with
    the i-th least to lose (what its presence has saved per second and byte: uses since the load / time since the load x
    reload time / size; cost-aware hyperbolic caching, Blankstein et al., ATC 2017). Victims beyond the k-th cannot be
    chosen. The `max_pending` rows of models (k by default) are the target, then the oldest other pending models.
    `info["shown"]` says what every row is. With k >= S the play is that of the whole environment.

    ## Rewards

    Minus the cost of the time since the last decision: per task, `w_ttft` for every second that a request waits for its
    first token and `w_e2e` for every second that it is in the system, plus optional prices of loads, missed SLOs and
    refusals (the scenario's `reward`). The first step's reward includes the cost since time 0. `info["reward_terms"]`
    splits each reward by its source, in the order of `cace_env.fleets.REWARD_TERMS`; the terms add up to it.

    Without illegal actions the return equals minus the sum of the costs of all requests. Each illegal action costs
    `invalid_penalty` on top, as the term `invalid_action`; metrics do not include it.

    With `baseline="lru"`, or any other built-in policy, the reward is what the agent saves against that policy, which
    plays the same requests: its cost since the last decision is added as the term `baseline`. Over an episode rewards
    add up to exactly the savings, so the best policy stays the same, but bursts and quiet hours no longer hide what a
    decision was worth (input-dependent baselines: Mao et al., ICLR 2019; `cace_env.envs.baselines`). Rewards are then
    divided by `reward_scale`, what LRU pays per decision of the scenario, so that 1 means the same everywhere; the
    terms stay costs, and add up to reward x `reward_scale`. `episode_metrics["baseline_cost"]` is its total cost. A
    baseline costs one compiled run of each workload, and nothing where workloads are kept (`num_workloads`).

    ## Information

    The same keys, types and shapes at every reset and step, numbers all of them; in a vector environment each is an
    array `(num_envs, ...)`.

    | Key              | Type              | What                                                                   |
    |------------------|-------------------|------------------------------------------------------------------------|
    | `action_mask`    | int8 `(actions,)` | 1 = legal; `action_masks()` gives it as bool                           |
    | `elapsed_s`      | float             | simulated time since the last decision; since time 0 at a reset [s]    |
    | `time_s`         | float             | simulated time since the episode began [s]                             |
    | `invalid_action` | int               | illegal actions of the episode so far                                  |
    | `workload_seed`  | int               | which requests are played; -1 for a `Workload` that was handed in      |
    | `reward_terms`   | float64 `(16,)`   | what the reward is made of, by `cace_env.fleets.TERM`; 0 at a reset   |
    | `shown`          | int64 `(k + K,)`  | with `top_k` only: the slot of each row of slots, then the model of    |
    |                  |                   | each row of pending models; -1 = an empty row, of zeros                |

    `env.unwrapped.describe()` says in words what is asked.

    ## Starting State

    Time 0 up to the first question. Models are resident, cached or asleep as the scenario says.

    `reset(seed=s)` plays the workload of seed `s` if it is one of the split's seeds, else that of the split's seed
    number `s % len(seeds)`: no seed can make a training run play test workloads. A reset without seed draws one of the
    split's seeds with `np_random`. `info["workload_seed"]` says which it was. `options` may say instead
    `{"workload_seed": s}` (exactly this one; it must belong to the split) or `{"workload": Workload}` (a log, say).

    ## Episode End

    1. Termination: all requests have finished. The last step runs on until then.
    2. Truncation: one more decision than the scenario's `max_decisions` would be asked (no limit by default).

    From then to the first step of the next episode `env.unwrapped.episode_metrics` has its metrics by name
    (`cace_env.simulation.METRICS` explains each), so also after an automatic reset; otherwise it is None. If nothing is
    ever asked, reset returns the mask `[1, 0, ...]`, and the only step is a no-op that returns the whole cost.

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("cace_env:cace_env/Eviction-v0", scenario="default")

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
    | `max_pending`     | **int or None**               | `None`      | rows of pending models; `None` = one per model |
    | `top_k`           | **int or None**               | `None`      | show, and let choose, so many of the most      |
    |                   |                               |             | plausible victims; `None` = all                |
    | `render_mode`     | **str or None**               | `None`      | `"ansi"`, `"rgb_array"` (960 x 540), `"human"` |

    Rendering needs the history of the episode, which is kept only if `render_mode` is given. `"human"` is for
    `gym.make`, which shows the picture of reset and every step in a window at `metadata["render_fps"]`.

    ## Vectorized environment

    `gym.make_vec("cace_env:cace_env/Eviction-v0", num_envs=64)` makes `cace_env.envs.EvictionVectorEnv`: the same
    simulations, all in one compiled call.

    ## Version History

    * v0: first release.
    """

    ID = EVICTION_ID
    PROTOCOL = Protocol.EVICTION
