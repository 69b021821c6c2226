"""A learned policy that is not told a group of features: the groups stand in the table of `cace_env.observation`.

A group is neutralised by fixing its features to their means over the decisions of validation episodes. The first layer
is linear in its inputs, so that is a change of weights alone, and exact: columns of the group are set to 0, and what
they would add at the mean goes into the bias. What is left runs compiled like any other policy, on the same requests.
The other common way, permuting a feature's values between decisions, draws values that contradict the rest of the
observation (a reload time of another model beside this model's size), needs a second random stream, and asks the policy
question by question in Python. Neither retrains: a policy that had never seen the group might do better than this says.
The mask of legal actions is left as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.envs import Actor, EvictionEnv, SwapEnv
from cace_env.observation import BLOCKS, GROUPS, PENDING, PENDING_FEATURES, SLOT, SLOT_FEATURES
from cace_env.policies import Agent
from cace_env.policies.network import Network
from cace_env.scenarios import Scenario
from cace_env.tables import FloatArray, Protocol
from experiments.reading.markdown import table

# By group, its features as BLOCK.FEATURE.
FEATURE_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    group: tuple(f"{block}.{f.name}" for block, features in BLOCKS.items() for f in features if f.group == group)
    for group in GROUPS
}


class Means(NamedTuple):
    """What the features are on average, scaled as observations have them."""

    slots: FloatArray  # (len(SLOT_FEATURES),) over the occupied slots of all decisions
    target: FloatArray  # (len(PENDING_FEATURES),) over the targets
    pending: FloatArray  # (len(PENDING_FEATURES),) over the pending models
    context: FloatArray  # (len(CONTEXT_FEATURES),)
    decisions: int  # that they are means over


def feature_means(agent: Agent, scenarios: Iterable[Scenario], seeds: Iterable[int]) -> Means:
    """Means over the decisions that an agent takes, every scenario counting by its decisions.

    Args:
        agent: it plays.
        scenarios: where.
        seeds: of the episodes; validation seeds, so that test seeds stay unseen.
    """
    make = EvictionEnv if agent.card.env == Protocol.EVICTION else SwapEnv
    sums = {name: np.zeros(len(features)) for name, features in (*BLOCKS.items(), ("target", PENDING_FEATURES))}
    counts = dict.fromkeys(sums, 0)
    for scenario in scenarios:
        env = make(scenario=scenario, split="validation")
        actor = Actor(agent.policy(), env)
        for seed in seeds:
            observation, info = env.reset(options={"workload_seed": seed})
            actor.reset(info["workload_seed"])
            over = not info["action_mask"].sum() > 1
            while not over:
                blocks = env.layout.split(observation)
                rows: dict[str, Any] = {
                    "slot": blocks.slots[blocks.slots[:, SLOT.occupied] == 1],
                    "pending": blocks.pending[blocks.pending[:, PENDING.present] == 1],
                    "target": blocks.pending[blocks.pending[:, PENDING.target] == 1],
                    "context": blocks.context[None],
                }
                for name, there in rows.items():
                    sums[name] += there.sum(axis=0)
                    counts[name] += len(there)
                observation, _, terminated, truncated, _ = env.step(actor.act())
                over = terminated or truncated
        env.close()
    means = {name: total / max(counts[name], 1) for name, total in sums.items()}
    return Means(means["slot"], means["target"], means["pending"], means["context"], counts["context"])


def neutralised(network: Network, means: Means, group: str) -> Network:
    """The network that is not told a group of features: they are at their means, whatever is observed.

    The scores of slots among themselves are exactly those of a network that sees the means. All slots together may be
    shifted, which decides nothing: slots are never compared with pending models or with waiting.

    Args:
        network: trained with all features.
        means: from `feature_means`.
        group: a key of `FEATURE_GROUPS`.
    """
    slots, pending, context = (columns(group, block) for block in BLOCKS)
    w = {name: np.array(weight, dtype=np.float64) for name, weight in network.weights.items()}
    w["slot_linear"][slots] = 0.0
    if network.protocol == Protocol.SWAP:
        # Pending models are compared with waiting: what the constant part adds to one has to reach the other.
        w["wait_bias"] += w["wait_linear"][context] @ means.context[context]
        w["wait_bias"] -= w["pending_linear"][pending] @ means.pending[pending]
        w["wait_linear"][context] = w["pending_linear"][pending] = 0.0
    if network.hidden:
        num_slot, num_pending = len(SLOT_FEATURES), len(PENDING_FEATURES)
        seen = np.concatenate([means.slots, means.target, means.context])
        fixed = np.concatenate([slots, num_slot + pending, num_slot + num_pending + context])
        _fix(w["slot_in"], w["slot_in_bias"], fixed, seen[fixed])
        seen = np.concatenate([means.pending, means.context])
        fixed = np.concatenate([pending, num_pending + context])
        _fix(w["pending_in"], w["pending_in_bias"], fixed, seen[fixed])
        if network.protocol == Protocol.SWAP:
            _fix(w["wait_mix"], w["wait_mix_bias"], 2 * network.hidden + context, means.context[context])
    return dataclasses.replace(network, weights={name: weight.astype(np.float32) for name, weight in w.items()})


def _fix(weight: FloatArray, bias: FloatArray, columns: npt.NDArray[np.int64], values: FloatArray) -> None:
    """Inputs at constant values: their part goes into the bias."""
    bias += weight[:, columns] @ values
    weight[:, columns] = 0.0


def columns(group: str, block: str) -> npt.NDArray[np.int64]:
    """Columns of a group's features within a block: "slot", "pending" or "context"."""
    return np.flatnonzero([feature.group == group for feature in BLOCKS[block]])


def groups_table() -> str:
    """The groups as a Markdown table."""
    rows = [(group, ", ".join(f"`{name}`" for name in names)) for group, names in FEATURE_GROUPS.items()]
    return table(("group", "features"), rows)
