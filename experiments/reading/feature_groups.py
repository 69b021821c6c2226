"""Which features say similar things, and a learned policy that is not told some of them.

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
from cace_env.observation import CONTEXT, CONTEXT_FEATURES, PENDING, PENDING_FEATURES, SLOT, SLOT_FEATURES
from cace_env.policies import Agent
from cace_env.policies.network import Network
from cace_env.scenarios import Scenario
from cace_env.tables import Protocol
from experiments.reading.markdown import table

FloatArray = npt.NDArray[np.float64]

BLOCKS: Final = {"slot": SLOT_FEATURES, "pending": PENDING_FEATURES, "context": CONTEXT_FEATURES}
# Every feature stands in exactly one group, as BLOCK.FEATURE.
FEATURE_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "states and legality": (
        "slot.occupied", "slot.legal", "slot.loading", "slot.leaving", "slot.pinned", "pending.present",
        "pending.target", "pending.legal", "context.legal", "context.ordering", "context.wait_legal",
    ),
    "sizes": (
        "slot.freed_gb", "slot.weights_gb", "pending.need_gb", "pending.weights_gb", "context.target_need_gb",
    ),
    "room": (
        "slot.missing_gb", "slot.free_gb", "slot.suffices", "slot.spare_gb", "pending.fits", "pending.idle_suffices",
        "context.missing_gb", "context.free_gb", "context.memory_gb", "context.host_cache_gb", "context.chosen",
    ),
    "load time": ("slot.reload_s", "slot.target_load_s", "pending.load_s", "context.target_load_s"),
    "speed": ("slot.decode_ms", "slot.target_decode_ms"),
    "work in progress": (
        "slot.running", "slot.running_age_s", "slot.emitted_tokens", "slot.drain_s", "slot.busy_here",
        "context.running", "context.loading", "context.idle_models",
    ),
    "recency": ("slot.since_use_s", "slot.since_second_use_s", "slot.since_load_s", "pending.since_eviction_s"),
    "demand": (
        "slot.uses_since_load", "slot.uses", "slot.window_requests", "slot.rate_1m", "slot.rate_10m", "slot.rate_60m",
        "slot.mean_gap_s", "slot.gap_cv", "pending.rate_1m", "pending.rate_10m", "pending.rate_60m",
    ),
    "users": ("slot.window_users", "slot.window_sessions", "pending.window_users", "pending.window_sessions"),
    "prefix": ("slot.prefix_tokens",),
    "latency and outputs": (
        "slot.latency_weight", "slot.expected_output_tokens", "pending.latency_weight",
        "pending.expected_output_tokens",
    ),
    "scores of known rules": ("slot.greedy_dual", "slot.worth"),
    "queue": (
        "slot.waiting", "pending.waiting", "pending.waiting_weight", "pending.oldest_wait_s", "pending.pending_s",
        "context.pending", "context.waiting", "context.elapsed_s",
    ),
}  # fmt: skip


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
    by_name = {"slot": SLOT, "pending": PENDING, "context": CONTEXT}[block]
    names = [name.partition(".")[2] for name in FEATURE_GROUPS[group] if name.startswith(f"{block}.")]
    return np.array([getattr(by_name, name) for name in names], dtype=np.int64)


def groups_table() -> str:
    """The groups as a Markdown table."""
    rows = [(group, ", ".join(f"`{name}`" for name in names)) for group, names in FEATURE_GROUPS.items()]
    return table(("group", "features"), rows)
