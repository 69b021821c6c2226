"""The policies of a comparison: which take part, in which environment, and what run.json says of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, NamedTuple

from cace_env.config import ConfigError, did_you_mean
from cace_env.evaluation.held_out import problems_of, problems_of_seeds
from cace_env.observation import PENDING, SLOT
from cace_env.policies import ORDERS, POLICIES, READINGS, Contestant, Guarded, Order, Planner, contestant_of, load_agent
from cace_env.policies.agent import LEARNED, PREFIX, AgentCard, shipped_agents
from cace_env.policies.built_in import CLAIRVOYANT, GROUPS
from cace_env.policies.cace import load_cace
from cace_env.policies.contestants import NO_SWAPPING, module_of, unanswered
from cace_env.policies.orders import JOINT
from cace_env.policies.python import Illegal
from cace_env.tables import Protocol
from experiments.running.run_folder import BASELINE, PATIENT

ORDERED: Final = "Order"  # the kind of policies that load by another order than that of the oldest request
OWN: Final = "Your own"
CACE_PREFIX: Final = "cace:"  # of CACE with other weights, among names of policies
PARTNERS: Final = (BASELINE, "cace")  # whose victims every order goes with, by default
WITHOUT_SWAPPING: Final = "room for every model: nothing is evicted, no policy is asked"


def protocols_of(env: Protocol | Literal["both"]) -> tuple[Protocol, ...]:
    """One environment, or both."""
    return tuple(Protocol) if env == "both" else (Protocol(env),)


def default_names(protocols: Iterable[Protocol], partners: Sequence[str] = PARTNERS) -> list[str]:
    """Every built-in policy and the agents that ship; in Swap-v0, where rules load by `fifo`, other orders, too."""
    protocols = set(protocols)
    joint = [f"{order}{JOINT}{victims}" for victims in partners for order in ORDERS if order != "fifo"]
    agents = [PREFIX + name for name, agent in shipped_agents().items() if agent.card.env in protocols]
    return [*POLICIES, *(joint if Protocol.SWAP in protocols else []), *agents]


def spelled_out(names: Iterable[str]) -> list[str]:
    """Names with each `*` replaced by all built-in policies that fit: `cace-quoted*` is every reading of that formula.

    Raises:
        ConfigError: no built-in policy fits.
    """
    found: list[str] = []
    for name in names:
        fitting = [known for known in (*POLICIES, *READINGS) if fnmatchcase(known, name)] if "*" in name else [name]
        if not fitting:
            raise ConfigError(f"no built-in policy fits {name!r}; python -m experiments.compare --list shows them")
        found += fitting
    return found


def agent_names(agents: Iterable[str]) -> list[str]:
    """Trained agents, by name or folder, as names of policies."""
    return [agent if agent.startswith(PREFIX) else PREFIX + agent for agent in agents]


def contestants_of(
    names: Sequence[str], addresses: Sequence[str], protocols: Sequence[Protocol], illegal: Illegal = "error"
) -> list[Contestant]:
    """The baselines, built-in policies and agents by name, Python policies by address, and the run without swapping.

    Args:
        names: of built-in policies and agents; those of `default_names` if there are no addresses either.
        addresses: of Python policies.
        protocols: that are run.
        illegal: what becomes of an action of a Python policy that is not legal.

    Raises:
        ConfigError: no such policy, two under one name, or one that needs an environment that is not run.
    """
    names = names or ([] if addresses else default_names(protocols))
    patient = [PATIENT] if Protocol.SWAP in protocols else []
    every = dict.fromkeys([BASELINE, *spelled_out(names), *patient])
    contestants = [contestant_of(name) for name in every if name != NO_SWAPPING]
    for address in addresses:
        if ":" not in address:
            raise ConfigError(f"--policy {address} has to be MODULE:OBJECT, {_hint(address)}")
        contestants.append(contestant_of(address))
    contestants.append(contestant_of(NO_SWAPPING))
    contestants = [replace(contestant, illegal=illegal) for contestant in contestants]
    check_names(contestant.name for contestant in contestants)
    for contestant in contestants:
        card = card_of(contestant)
        if card is not None and not any(can_answer(contestant, protocol) for protocol in protocols):
            ran = " and ".join(protocol.env_name for protocol in protocols)
            raise ConfigError(
                f"agent {card.name!r} was trained for {card.env.env_name}, and {ran} is run; "
                f"run it with --env {card.env}"
                + (f", or name an order: wsjf+{contestant.name}" if card.env == Protocol.EVICTION else "")
            )
        if Protocol.SWAP not in protocols and order_of(contestant) is not None:
            raise ConfigError(
                f"policy {contestant.name!r} has an order, and Eviction-v0 asks for none; run it with --env swap"
            )
    return contestants


def _hint(address: str) -> str:
    """What was probably meant by an address that names no object."""
    path, features = module_of(address), [*SLOT._fields, *PENDING._fields]
    if path is not None:
        return path.format("OBJECT")
    if address in (*POLICIES, *READINGS):
        return f"but {address!r} is built in: --policies {address}"
    if address in features:
        return f"but {address!r} is a feature: a policy is a function of features, see docs/compare.md"
    return (
        f"such as my_policies:my_policy; --policies takes built-in ones{did_you_mean(address, [*POLICIES, *features])}"
    )


def able(contestants: Iterable[Contestant], protocol: Protocol) -> list[Contestant]:
    """Those that can answer what an environment asks."""
    return [contestant for contestant in contestants if can_answer(contestant, protocol)]


def can_answer(contestant: Contestant, protocol: Protocol) -> bool:
    """Whether a contestant answers all that is asked; an agent of Eviction-v0 needs an order for Swap-v0."""
    if protocol != Protocol.SWAP:
        return order_of(contestant) is None
    return unanswered(contestant, protocol) is None


def card_of(contestant: Contestant) -> AgentCard | None:
    """What is known of a trained agent, under guard or not; None of any other policy."""
    if contestant.built_in is None or contestant.built_in.network is None:
        return None
    _, _, name = contestant.built_in.name.rpartition(JOINT)
    return load_agent(name.removeprefix(PREFIX)).card if name.startswith(PREFIX) else None


def about_agents(contestants: Iterable[Contestant], seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What run.json says of the agents among some policies: each one's card, and why its results would not be held out.

    Args:
        contestants: all policies.
        seeds: that they are judged by.
    """
    agents = {}
    for contestant in contestants:
        card = card_of(contestant)
        if card is not None:
            agents[contestant.name] = {"card": card.model_dump(mode="json"), "problems": problems_of(card, seeds)}
    return agents


def about_habits(contestant: Contestant, seeds: Sequence[int]) -> dict[str, list[str]]:
    """What run.json says of the habits of a planner: why its results would not be held out, if so.

    Args:
        contestant: any policy.
        seeds: that it is judged by.
    """
    card = contestant.policy.habits_card if isinstance(contestant.policy, Planner) else None
    if card is None or card.part:  # parts of a log are no seeds
        return {}
    problems = problems_of_seeds(card.train_seeds, seeds, "its habits were")
    return {"problems": problems} if problems else {}


def about_tuning(contestant: Contestant) -> dict[str, Any]:
    """What run.json says of CACE with other weights: how they were found, where their file says so."""
    name = contestant.built_in.name.rpartition(JOINT)[2] if contestant.built_in is not None else ""
    tuned = load_cace(name.removeprefix(CACE_PREFIX)).tuned if name.startswith(CACE_PREFIX) else None
    return {} if tuned is None else {"tuned": tuned.model_dump(mode="json")}


def order_of(contestant: Contestant) -> Order | None:
    """The order that a policy was given; None where it has none, and goes by `fifo`."""
    return contestant.built_in.order if contestant.built_in is not None else contestant.order


def check_names(names: Iterable[str]) -> None:
    """Refuses results that could not be told apart.

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
    if isinstance(contestant.policy, Planner):
        inner = about_policy(Contestant(contestant.name, contestant.policy.policy, contestant.order))
        return {**inner, "description": f"plans by sampled futures: {inner['description']}"}
    if built_in is not None:
        group, evicts, tuned = built_in.group, built_in.description, about_tuning(contestant)
        group = group if group in (*GROUPS, LEARNED) else OWN
        if order is None:
            return {"group": group, "description": evicts, **tuned}
        if group not in (CLAIRVOYANT, LEARNED):  # a policy that knows the future stays in its group, whatever its order
            group = ORDERED if group != OWN and order.name in ORDERS else OWN
        return {"group": group, "description": f"loads: {order.description}; evicts: {evicts}", **tuned}
    first_line = (contestant.policy.__doc__ or "").strip().partition("\n")[0]
    return {"group": OWN, "description": first_line or "Python policy"}


class Contrast(NamedTuple):
    """Two policies that differ in one thing."""

    what: str  # does the first and not the second
    policy: str
    over: str
    protocol: Protocol = Protocol.SWAP  # under which both run
