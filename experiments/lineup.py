"""Who takes part in a comparison, by environment, and what is said of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from cace_env.config import ConfigError
from cace_env.evaluation import NO_SWAPPING, Contestant, contestant_of
from cace_env.guard import Guarded
from cace_env.orders import JOINT, ORDERS, Order
from cace_env.policies import CLAIRVOYANT, GROUPS, POLICIES
from experiments.run_folder import BASELINE

EVICTION: Final = "eviction"
SWAP: Final = "swap"
ENV_OF: Final = {EVICTION: "Eviction-v0", SWAP: "Swap-v0"}  # by protocol
ORDERED: Final = "Order"  # the kind of policies that load by another order than that of the oldest request
OWN: Final = "Your own"
PARTNERS: Final = (BASELINE, "cace")  # whose victims every order goes with, by default
WITHOUT_SWAPPING: Final = "room for every model: nothing is evicted, nobody is asked"


def default_names(protocols: Iterable[str], partners: Sequence[str] = PARTNERS) -> list[str]:
    """Every built-in policy; in Swap-v0, where those load by `fifo`, also every other order with some of them."""
    joint = [f"{order}{JOINT}{victims}" for victims in partners for order in ORDERS if order != "fifo"]
    return [*POLICIES, *(joint if SWAP in set(protocols) else [])]


def contestants_of(names: Sequence[str], addresses: Sequence[str], protocols: Sequence[str]) -> list[Contestant]:
    """The baseline, built-in policies by name, Python policies by address, and the run without swapping.

    Raises:
        ConfigError: no such policy, two under one name, or one that needs an environment that is not run.
    """
    names = names or ([] if addresses else default_names(protocols))
    contestants = [contestant_of(name) for name in dict.fromkeys([BASELINE, *names]) if name != NO_SWAPPING]
    for address in addresses:
        if ":" not in address:
            wanted = "MODULE:OBJECT, such as my_policies:my_policy; --policies takes built-in ones"
            raise ConfigError(f"--policy {address} has to be {wanted}")
        contestants.append(contestant_of(address))
    contestants.append(contestant_of(NO_SWAPPING))
    check_names(contestant.name for contestant in contestants)
    for contestant in contestants:
        if SWAP not in protocols and order_of(contestant) is not None:
            raise ConfigError(
                f"policy {contestant.name!r} has an order, and Eviction-v0 asks for none; run it with --env swap"
            )
    return contestants


def able(contestants: Iterable[Contestant], protocol: str) -> list[Contestant]:
    """Those that can answer what an environment asks."""
    return [contestant for contestant in contestants if protocol == SWAP or order_of(contestant) is None]


def order_of(contestant: Contestant) -> Order | None:
    """The order that a policy was given; None where it has none, and goes by `fifo`."""
    return contestant.built_in.order if contestant.built_in is not None else contestant.order


def check_names(names: Iterable[str]) -> None:
    """Refuses results that nobody could tell apart.

    Raises:
        ConfigError: a name stands twice.
    """
    taken = list(names)
    twice = [name for name in taken if taken.count(name) > 1]
    if twice:
        raise ConfigError(f"two policies or scenarios are called {twice[0]!r}; give one of them another name")


def about_policy(contestant: Contestant) -> dict[str, Any]:
    """What the report says about a policy."""
    if not contestant.swaps:
        return {"group": "No swapping", "description": WITHOUT_SWAPPING}
    order = order_of(contestant)
    built_in = contestant.built_in
    if isinstance(contestant.policy, Guarded):
        inner = about_policy(Contestant(contestant.name, contestant.policy.policy, contestant.order))
        return {**inner, "description": f"under guard: {inner['description']}"}
    if built_in is not None:
        group, evicts = built_in.group, built_in.description
        group = group if group in GROUPS else OWN
        if order is None:
            return {"group": group, "description": evicts}
        if group != CLAIRVOYANT:  # whoever knows the future competes with nobody, whatever the order
            group = ORDERED if group != OWN and order.name in ORDERS else OWN
        return {"group": group, "description": f"loads: {order.description}; evicts: {evicts}"}
    first_line = (contestant.policy.__doc__ or "").strip().partition("\n")[0]
    return {"group": OWN, "description": first_line or "Python policy"}
