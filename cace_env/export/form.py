"""What is exported of a policy: its formula, its numbers, and the features that it reads; or why it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import cace_env
from cace_env.config import ConfigError
from cace_env.kernel import rules
from cace_env.kernel.network import NUM_SLOT_INPUTS
from cace_env.observation import BLOCKS, CONTEXT, PENDING, SLOT, Feature
from cace_env.policies import Agent, Contestant, Guarded, Planner, Policy, PythonPolicy, contestant_of
from cace_env.policies.agent import PREFIX, AgentCard, features_hash, load_agent
from cace_env.policies.network import Network
from cace_env.tables import Protocol

FORMAT: Final = "cace-env policy 1"
TIES: Final = "since_use_s"  # the feature that breaks ties of rules: the least recently used is evicted
# Rules with a formula of their own, by the name in `policy.json`, and the slot features that it reads.
FORMULAS: Final = {
    rules.HYPERBOLIC: ("hyperbolic", ("uses_since_load", "since_load_s")),
    rules.RATE_LOAD_SIZE: ("rate_load_size", ("rate_10m", "reload_s", "freed_gb")),
    rules.CHURN_GUARD: ("churn_guard", ("since_use_s", "since_load_s")),
    rules.SINGLE_VICTIM: ("single_victim", ("since_use_s", "freed_gb", "missing_gb")),
}
# Why other kinds of rules are no function of features.
BEYOND: Final = {
    rules.VALUES: "ranks models by their names, not by features",
    rules.RANDOM: "draws its scores at random",
    rules.QUOTED: "reads the clock and who waits in which order, which no feature says",
}


@dataclass(frozen=True, eq=False)
class Form:
    """A policy as a function of features.

    Attributes:
        about: what `policy.json` and the metadata of an ONNX file say; JSON.
        weights: by name: float32 of a network, float64 `weights` of a rule.
    """

    about: dict[str, Any]
    weights: dict[str, npt.NDArray[Any]]

    @property
    def swap(self) -> bool:
        """Whether it also says which model is loaded, and when to wait."""
        return bool(self.about["env"] == Protocol.SWAP)

    @property
    def network(self) -> bool:
        """Whether it scores by a network, not by a rule."""
        return bool(self.about["score"]["kind"] == "network")


def form_of(policy: str | Policy | Agent | PythonPolicy | Guarded | Contestant, env: str | None = None) -> Form:
    """The function of features behind a policy.

    Args:
        policy: anything that `cace_env.evaluate` takes.
        env: the environment that it has to answer in full, "eviction" or "swap"; by default what it is for: an agent
            for Swap-v0 answers all that Swap-v0 asks, every other policy chooses victims.

    Raises:
        ConfigError: its scores are no function of features, or it does not answer what `env` asks.
    """
    found = contestant_of(policy)
    name, chosen = found.name, found.policy
    if isinstance(chosen, Guarded):
        raise ConfigError(
            f"{name!r} is guarded, and a guard watches whole episodes; export the policy behind it, and keep the "
            "guard where the features are made"
        )
    if isinstance(chosen, Planner):
        raise ConfigError(f"{name!r} plans by simulation, and there is no formula of that; export the policy alone")
    if not isinstance(chosen, Policy) or not found.swaps:
        raise ConfigError(f"{name!r} is not a built-in rule or an agent, so there is no formula to export")
    _check_rule(chosen)
    network = chosen.network
    made_for = Protocol.EVICTION if network is None else network.protocol
    _check_env(name, made_for, env)
    card = _card_of(policy)
    about = {
        "format": FORMAT,
        "policy": name,
        "description": chosen.description,
        "source": chosen.source,
        "env": str(made_for),
        "score": _score(chosen),
        "reads": _reads(chosen),
        "ties": None if network is not None else TIES,
        "features": {block: [_feature(one) for one in features] for block, features in BLOCKS.items()},
        "features_hash": features_hash(),
        "agent_weights_sha256": card.weights_sha256 if card is not None else "",
        "trained_range": {} if card is None else {key: list(limits) for key, limits in card.limits.items()},
        "cace_env": cace_env.__version__,
    }
    weights: dict[str, npt.NDArray[Any]] = {"weights": np.array(_used_weights(chosen), dtype=np.float64)}
    return Form(about, weights if network is None else dict(network.weights))


def _check_rule(policy: Policy) -> None:
    """Refuse what features do not determine.

    Raises:
        ConfigError: the policy needs the future, training, the clock, names or draws, or leaves out what it does.
    """
    name = policy.name
    if policy.clairvoyant:
        raise ConfigError(f"{name!r} knows the future, which nobody does at run time; export a policy that does not")
    if policy.trained:
        raise ConfigError(
            f"{name!r} counts the demand of training seeds for each model by name, which is no function of features"
        )
    if policy.kind in BEYOND:
        raise ConfigError(f"{name!r} {BEYOND[policy.kind]}, so it is no function of features")
    if policy.kind in (rules.FEATURES, rules.TERMS) and not any(policy.weights):
        raise ConfigError(f"{name!r} has no weight other than 0, which equals lru; export that")
    if policy.unloads_by_itself:
        raise ConfigError(
            f"{name!r} unloads idle models by itself or limits how many stay, which is more than choosing victims; "
            "export the choice alone, such as lru, and set keep-alive and count in the server"
        )
    if policy.network is None and policy.order is not None:
        raise ConfigError(
            f"{name!r} has the order {policy.order.name!r}, which needs the queue and not features alone; export the "
            "part behind the plus, which chooses victims, and load in that order yourself"
        )
    if policy.network is not None and policy.network.protocol == Protocol.EVICTION and policy.order is not None:
        raise ConfigError(
            f"{name!r} is an agent for {Protocol.EVICTION.env_name} behind the order {policy.order.name!r}; export the "
            "agent alone, which chooses victims, and load in that order yourself"
        )


def _check_env(name: str, made_for: Protocol, env: str | None) -> None:
    if env is not None and env not in tuple(Protocol):
        raise ConfigError(f"env is {env!r}; it has to be one of {', '.join(Protocol)}")
    if env is None or env == made_for:
        return
    if made_for == Protocol.SWAP:
        raise ConfigError(
            f"{name!r} was trained for {Protocol.SWAP.env_name}, where it also says what to load; it cannot answer as "
            f"in {Protocol.EVICTION.env_name}"
        )
    raise ConfigError(
        f"{name!r} chooses victims and does not say which model is loaded next; export an agent for "
        f"{Protocol.SWAP.env_name}, or this one for {Protocol.EVICTION.env_name} and load by an order of your own"
    )


def _card_of(policy: Any) -> AgentCard | None:
    """The card of an agent; None for rules, and for an agent's policy without its agent."""
    if isinstance(policy, str) and policy.startswith(PREFIX):
        policy = load_agent(policy.removeprefix(PREFIX))
    return policy.card if isinstance(policy, Agent) else None


def _feature(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "unit": feature.unit,
        "scale": feature.scale,
        "log": feature.log,
        "signed": feature.signed,
        "doc": feature.doc,
    }


def _used_columns(policy: Policy) -> list[int]:
    """Positions of the weights that count, in the order in which they are summed up."""
    return [i for i, weight in enumerate(policy.weights) if weight != 0.0]


def _used_weights(policy: Policy) -> list[float]:
    return [weight for weight in policy.weights if weight != 0.0]


def _score(policy: Policy) -> dict[str, Any]:
    """The formula by name, and what it is over."""
    if policy.network is not None:
        urgency = policy.network.urgency
        said = {} if urgency is None else {"urgency": urgency.model_dump()}
        return {"kind": "network", "hidden": policy.network.hidden, **said}
    if policy.kind == rules.FEATURES:
        return {"kind": "sum", "features": [SLOT._fields[i] for i in _used_columns(policy)]}
    if policy.kind == rules.TERMS:
        terms = [tuple(rules.CACE_TERMS.values())[i] for i in _used_columns(policy)]
        return {
            "kind": "terms",
            "features": [term.feature for term in terms],
            "falling": [term.falling for term in terms],
        }
    return {"kind": FORMULAS[policy.kind][0]}


def _reads(policy: Policy) -> dict[str, list[str]]:
    """The features that change the answer, by block; all others may be left at 0."""
    if policy.network is not None:
        return _network_reads(policy.network)
    score = _score(policy)
    read = score.get("features") or FORMULAS[policy.kind][1]
    return {"slot": list(dict.fromkeys((*read, TIES))), "pending": [], "context": []}


def _network_reads(network: Network) -> dict[str, list[str]]:
    """Features with a weight other than 0 in any place, and the flags by which rows are found."""
    w = network.weights
    slots, pending, context = len(SLOT), len(PENDING), len(CONTEXT)
    used = {"slot": w["slot_linear"] != 0, "pending": np.zeros(pending, bool), "context": np.zeros(context, bool)}
    if network.protocol == Protocol.SWAP:
        used["pending"] |= w["pending_linear"] != 0
        used["context"] |= w["wait_linear"] != 0
    if network.hidden:
        of_slots, of_pending = (w["slot_in"] != 0).any(axis=0), (w["pending_in"] != 0).any(axis=0)
        used["slot"] |= of_slots[:slots]
        used["pending"] |= of_slots[slots : slots + pending] | of_pending[:pending]
        used["context"] |= of_slots[NUM_SLOT_INPUTS - context :] | of_pending[pending:]
        if network.protocol == Protocol.SWAP:
            used["context"] |= (w["wait_mix"][:, 2 * network.hidden :] != 0).any(axis=0)
        used["slot"][SLOT.occupied] = True
        used["pending"][[PENDING.present, PENDING.target]] = True
    if network.urgency is not None:
        used["slot"][[SLOT.occupied, SLOT.running_age_s]] = True
        used["pending"][[PENDING.oldest_wait_s, PENDING.load_s, PENDING.idle_suffices]] = True
        used["context"][CONTEXT.pending] = True
    return {
        block: [feature.name for feature, read in zip(BLOCKS[block], used[block].tolist(), strict=True) if read]
        for block in BLOCKS
    }
