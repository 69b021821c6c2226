"""Who may take the place of what is deployed: rules, CACE, agents with and without guard, and CACE tuned to the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from agents.evolution.tuned_cace import tune_cace
from agents.objective import Objective
from cace_env.cases import Case
from cace_env.config import ConfigError, did_you_mean, dump
from cace_env.executor import Executor
from cace_env.files import replace_file
from cace_env.policies import ORDERS, POLICIES, CaceWeights, Contestant, Policy, contestant_of, policy
from cace_env.policies.agent import PREFIX, shipped_agents
from cace_env.policies.built_in import CLAIRVOYANT, DEPLOYED
from cace_env.policies.cace import Cace, Tuning
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.policies.guard import GUARDED
from cace_env.policies.orders import JOINT
from cace_env.tables import Protocol
from cace_env.workload import Workload
from experiments.running.contestants import can_answer

TUNED: Final = "cace:tuned-here"  # name of CACE tuned to the log
POPULATION: Final = 12  # candidates of a generation: few numbers are searched
# Orders that rules stand behind in Swap-v0: what is deployed serves the oldest request first and waits for an idle
# victim; what is proposed loads by waiting weight.
DEPLOYED_ORDER: Final = "patient-fifo"
PROPOSED_ORDER: Final = "very-patient-wsjf"
# Systems by other names than those of their policies.
SYSTEMS: Final = {
    "llama.cpp": "llama-cpp",
    "kserve": "modelmesh",
    "ray": "ray-serve",
}


class Found(NamedTuple):
    """Weights, and what finding them took."""

    weights: CaceWeights
    requests: int  # simulated
    generations: int


def deployed_name(system: str, env: Protocol) -> str:
    """The policy of a deployed system.

    Args:
        system: a system or the name of any policy.
        env: in Swap-v0 a rule without an order goes behind `DEPLOYED_ORDER`.

    Raises:
        ConfigError: no such system or policy, or one that knows the future.
    """
    name = SYSTEMS.get(system.lower(), system)
    plain = ":" not in name and JOINT not in name
    if plain and name not in POLICIES:
        known = sorted({*SYSTEMS, *(row.name for row in POLICIES.values() if row.group == DEPLOYED)})
        raise ConfigError(
            f"--deployed: no system or policy called {system!r}{did_you_mean(system, known)}; systems are "
            f"{', '.join(known)}, and any policy of python -m experiments.compare --list may be named"
        )
    if plain and POLICIES[name].group == CLAIRVOYANT:
        raise ConfigError(f"--deployed: {name!r} knows the future, so nobody has deployed it; name another policy")
    order = name if name in ORDERS else DEPLOYED_ORDER
    return f"{order}{JOINT}{name}" if plain and env == Protocol.SWAP else name


def contender_names(env: Protocol) -> list[str]:
    """Everybody who plays by default, without tuned CACE."""
    deployed = [row.name for row in POLICIES.values() if row.group == DEPLOYED]
    agents = [PREFIX + name for name, agent in shipped_agents().items() if agent.card.env == env]
    learned = [*agents, *(GUARDED + name for name in agents)]
    if env == Protocol.EVICTION:
        return [*dict.fromkeys(["lru", "cace", "gdsf", "omlx", *learned, *deployed])]
    rules = [f"{order}{JOINT}{name}" for order in (DEPLOYED_ORDER, PROPOSED_ORDER) for name in ("lru", "gdsf", "omlx")]
    return [*rules, f"{PROPOSED_ORDER}{JOINT}cace", *learned, *(deployed_name(name, env) for name in deployed)]


def contestants(names: Sequence[str], env: Protocol) -> list[Contestant]:
    """Those who play: by name, and the fleet with room for everything.

    Raises:
        ConfigError: no such policy, one of the other environment, or one that knows the future or learns from
            generated requests.
    """
    found = [contestant_of(name) for name in dict.fromkeys(names)]
    for one in found:
        if one.built_in is not None and (one.built_in.clairvoyant or one.built_in.trained):
            what = "knows the future" if one.built_in.clairvoyant else "learns from generated requests"
            raise ConfigError(f"policy {one.name!r} {what}, so it cannot be recommended; leave it out of --policies")
        if not can_answer(one, env):
            other = Protocol.SWAP if env == Protocol.EVICTION else Protocol.EVICTION
            raise ConfigError(
                f"policy {one.name!r} plays {other.env_name}, and this is {env.env_name}; give --env {other}"
            )
    return [*found, contestant_of(NO_SWAPPING)]


def tuned_contestant(weights: CaceWeights, env: Protocol) -> Contestant:
    """CACE with the weights that were found."""
    return contestant_of(replace(_cace(env), name=TUNED, weights=weights.row()))


def tuned_to(
    case: Case,
    windows: Sequence[Workload],
    env: Protocol,
    requests: int,
    executor: Executor,
    tell: Callable[[int], None],
) -> Found:
    """Weights of CACE with the least cost on the tuning part of a log, by CMA-ES.

    Args:
        case: the fleet of today.
        windows: consecutive parts of the log, each an episode; nothing else of the log is seen.
        env: in Swap-v0, CACE stands behind `PROPOSED_ORDER`.
        requests: budget, simulated ones.
        executor: plays the episodes.
        tell: called after each generation with the requests simulated so far.
    """
    # An objective takes seeds of training: the number of a window.
    objective = Objective({"log": replace(case, workload=windows.__getitem__)}, range(len(windows)), executor)
    generations = 0

    def progress(spent: int, metrics: dict[str, float]) -> None:
        nonlocal generations
        del metrics
        generations += 1
        tell(spent)

    weights = tune_cace(
        objective,
        requests=requests,
        order=PROPOSED_ORDER if env == Protocol.SWAP else None,
        seeds_per_generation=max(1, len(windows) // 2),
        population=POPULATION,
        progress=progress,
    )
    return Found(weights, objective.requests, generations)


def write_tuned(found: Found, path: Path, env: Protocol, source: str, command: str) -> None:
    """The weights as a file that `cace:FILE.yaml` plays."""
    tuning = Tuning(
        env=env,
        trained_on=(f"{source}, the first part in time",),
        train_seeds="0",
        requests=found.requests,
        order=PROPOSED_ORDER if env == Protocol.SWAP else None,
        command=command,
    )
    replace_file(path, dump(Cace(description="CACE tuned by CMA-ES to a log.", weights=found.weights, tuned=tuning)))


def _cace(env: Protocol) -> Policy:
    """CACE, with its order in Swap-v0."""
    return policy(f"{PROPOSED_ORDER}{JOINT}cace" if env == Protocol.SWAP else "cace")
