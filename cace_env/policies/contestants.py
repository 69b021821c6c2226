"""Policies in a comparison: any form that users give, and the name of its results.

The forms: a name (with an order before it, weights after it, or a guard), the address of a Python object, a trained
agent, a function, an object with a method `act`, and a planner around a name.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Final, cast

from cace_env.config import ConfigError, did_you_mean
from cace_env.forecasting.demand import DemandScorer, forecaster_of
from cace_env.policies.agent import PREFIX, Agent
from cace_env.policies.built_in import Policy
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.guard import GUARDED, Guarded
from cace_env.policies.orders import JOINT, Order, split_order
from cace_env.policies.planner import PLANNER, Planner, planner_of
from cace_env.policies.python import Illegal, PythonPolicy, acts, problem_of
from cace_env.policies.quoted import is_quoted
from cace_env.tables import Protocol

BY_FORECAST: Final = ":demand="  # behind CACE, or CACE with weights, and before the name of a forecaster
NO_SWAPPING: Final = "no-swapping"  # shown beside the policies: the cost that remains when nothing has to be evicted


@dataclass(frozen=True)
class Contestant:
    """A policy and the name of its results."""

    name: str
    policy: Policy | PythonPolicy | Guarded | Planner
    order: Order | None = None  # in Swap-v0, for a Python policy without one of its own; None = fifo
    illegal: Illegal = "error"  # handling of illegal actions of a Python policy
    swaps: bool = True  # False: a fleet with room for everything, where no policy is asked ("no-swapping")
    # A Python policy may have state and holds the interpreter lock anyway, so it plays one episode at a time.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:  # another process has a lock of its own
        return Contestant, (self.name, self.policy, self.order, self.illegal, self.swaps)

    @property
    def built_in(self) -> Policy | None:
        """The built-in policy, also behind a guard or a planner; None for a Python policy."""
        inner = self.policy.policy if isinstance(self.policy, Guarded | Planner) else self.policy
        return inner if isinstance(inner, Policy) else None


def contestant_of(policy: str | Policy | Agent | PythonPolicy | Guarded | Planner | Contestant) -> Contestant:
    """Pair a policy with a name: its own, the function's, or that of the object's class.

    Raises:
        ConfigError: there is no such policy or Python object, or it can neither be called nor act.
    """
    if isinstance(policy, Contestant):
        return policy
    if isinstance(policy, Guarded | Planner):
        return Contestant(policy.name, policy, policy.order)
    if isinstance(policy, str):
        if policy == NO_SWAPPING:
            return Contestant(NO_SWAPPING, find_policy("lru"), swaps=False)
        if policy.startswith(PLANNER):
            return contestant_of(planner_of(policy))
        if policy.startswith(GUARDED + PREFIX):
            return contestant_of(Guarded(policy.removeprefix(GUARDED)))  # ranges come from the agent's card
        if policy.startswith(GUARDED):
            inner = contestant_of(policy.removeprefix(GUARDED))
            if not inner.swaps or isinstance(inner.policy, Guarded | Planner):
                raise ConfigError(f"{policy!r}: a guard cannot wrap {inner.name!r}; name another policy")
            return contestant_of(Guarded(inner.policy, name=inner.name, order=inner.order))
        order, victims = split_order(policy)
        for prefix in (PLANNER, GUARDED):
            if order is not None and victims.startswith(prefix):
                whole = f"{prefix}{order.name}{JOINT}{victims.removeprefix(prefix)}"
                raise ConfigError(f"policy {policy!r}: {prefix} stands before the order, as in {whole!r}")
        weights, by_forecast, forecaster = victims.partition(BY_FORECAST)
        if by_forecast and (weights == "cace" or weights.startswith("cace:")):
            return Contestant(policy, DemandScorer(find_policy(weights).weights, forecaster_of(forecaster)), order)
        if ":" not in victims or victims.startswith(("cace:", PREFIX)) or is_quoted(victims):
            return Contestant(policy, find_policy(policy))
        found = _imported(victims)
        found = found.policy() if isinstance(found, Agent) else _checked(found, victims)
        prefix = f"{order.name}{JOINT}" if order is not None else ""
        if isinstance(found, Policy):
            joint = replace(found, name=f"{prefix}{found.name}", order=order or found.order)
            return Contestant(joint.name, joint)
        return Contestant(prefix + victims.partition(":")[2], found, order)
    if isinstance(policy, Agent):
        policy = policy.policy()
    if isinstance(policy, Policy):
        return Contestant(policy.name, policy)
    return Contestant(getattr(policy, "__name__", type(policy).__name__), _checked(policy, repr(policy)))


def unanswered(contestant: Contestant, protocol: Protocol) -> str | None:
    """Why a policy has no answer to what is asked; None if it has.

    An agent of Eviction-v0 says nothing of which model is loaded next, so in Swap-v0 it needs an order before it.
    """
    trained = getattr(contestant.policy, "protocol", None) if contestant.built_in is None else None
    if isinstance(trained, Protocol) and trained != protocol:
        return f"{contestant.name!r} was trained for {trained.env_name}, and is asked what {protocol.env_name} asks"
    policy = contestant.built_in
    if protocol != Protocol.SWAP or policy is None or policy.network is None or policy.order is not None:
        return None
    return (
        f"{contestant.name!r} was trained for {Protocol.EVICTION.env_name} and does not say which model is loaded "
        f"next; name an order before it, as in 'wsjf{JOINT}{policy.name}'"
    )


def _imported(address: str) -> Any:
    """Import the object at "package.module:object"; a class is instantiated."""
    module_name, _, attribute = address.rpartition(":")
    as_module = module_of(module_name)
    if as_module is not None:
        raise ConfigError(f"policy {address!r}: {module_name!r} is a path; {as_module.format(attribute)}")
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        hint = did_you_mean(module_name, [prefix.rstrip(":") for prefix in (PLANNER, GUARDED, PREFIX)])
        raise ConfigError(f"policy {address!r}: {error}{hint}; is the module on Python's path?") from error
    except Exception as error:
        raise ConfigError(f"policy {address!r}: while it was imported, {problem_of(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, [name for name in vars(found) if not name.startswith("_")])
            raise ConfigError(f"policy {address!r}: module {module_name!r} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:
        raise ConfigError(
            f"policy {address!r}: {problem_of(error)}; a class is created without arguments: give all of them "
            "defaults, or name an object instead"
        ) from error


def module_of(text: str) -> str | None:
    """How a path to a Python file is named as a module, with a place for the object; None for what is no path."""
    path = PurePath(text.replace("\\", "/"))
    if path.suffix != ".py" and len(path.parts) < 2:
        return None
    stem, folder = path.stem if path.suffix == ".py" else path.name, path.parent
    return f"name the module as Python imports it: {stem}:{{0}}, with PYTHONPATH={folder}"


def _checked(policy: Any, shown: str) -> Policy | PythonPolicy:
    if isinstance(policy, Policy) or callable(policy) or acts(policy):
        return cast(Policy | PythonPolicy, policy)
    raise ConfigError(
        f"expected a policy, got {shown} of type {type(policy).__name__}; it has to be a name, a Policy, a callable "
        "f(features, legal) -> keep-scores, or an object with a method act(observation, action_mask) -> action"
    )
