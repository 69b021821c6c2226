"""Tables of the agents that ship, from a run of the suite and one of shifted regimes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation.scores import (
    BASELINE,
    REFERENCE,
    Estimate,
    pooled_gain,
    probability_of_improvement,
    relative_cost,
)
from cace_env.kernel.pick import pick
from cace_env.observation import ObservationLayout
from cace_env.policies import Agent
from cace_env.policies.agent import LEARNED, shipped_agents
from cace_env.policies.built_in import rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import Protocol
from experiments.pages.shifted import regime_table, share_table
from experiments.reading.markdown import percent, score_text, table
from experiments.reading.suite_scores import SuiteRun
from experiments.running.run_folder import Run

# Whom agents are held against besides LRU, where those ran; and every CACE with other weights.
RIVALS: Final[dict[str, tuple[str, ...]]] = {
    Protocol.EVICTION: (BASELINE, "cace", "gdsf", "omlx"),
    Protocol.SWAP: (BASELINE, "cace", "wsjf+cace", "very-patient-wsjf+cace", "very-patient-wsjf+gdsf"),
}


def regions(suite: SuiteRun, shifted: Run) -> dict[str, str]:
    """Regions of `docs/agents.md` that runs fill.

    Args:
        suite: a run of the suite in which agents took part.
        shifted: one of regimes that nothing was trained on.

    Raises:
        ConfigError: no agent took part, or the reference has not run everywhere.
    """
    about = suite.run.about
    seeds = len(next(iter(suite.costs(suite.entries(suite.envs[0])[0].id).values())))
    found = {"run": f"{seeds} {about['split']} seeds of each scenario."}
    for env in suite.envs:
        if not learned(suite, env):
            raise ConfigError(
                f"{suite.path}: no agent took part in {env.env_name}; python -m experiments.suite --agent NAME has one"
            )
        found |= {
            f"{env}-results": results_table(suite, env),
            f"{env}-gains": gains_table(suite, env),
            f"{env}-entries": entries_table(suite, env),
        }
        regimes = shifted.of_env(env)
        if regimes:
            found[f"{env}-shifted"] = f"{share_table(shifted, regimes)}\n\n{regime_table(shifted, regimes)}"
    found["latency"] = latency_table(shipped_agents().values())
    return found | {"commands": f"```console\n{about['command']}\n{shifted.about['command']}\n```"}


def latency_table(agents: Iterable[Agent]) -> str:
    """How long each agent takes for a decision, by NumPy and compiled."""
    rows = []
    for agent in agents:
        case = case_of("default", protocol=agent.card.env)
        workload = case.workload(0)
        rule = rule_of(agent.policy(), case.tables)
        simulator = Simulator(case.tables)
        asked = simulator.reset(workload)
        layout = ObservationLayout(simulator.max_slots, case.tables.num_models)
        scratch = new_scratch(simulator.max_slots, case.tables.num_models, rule.network)
        times_us: list[tuple[float, float]] = []
        while asked:
            observation = simulator.observation(layout)
            began = time.perf_counter()
            action = agent.act(observation, layout)
            between = time.perf_counter()
            pick(*simulator.arguments, rule, scratch)
            times_us.append(((between - began) * 1e6, (time.perf_counter() - between) * 1e6))
            asked = simulator.answer(action)
        quantiles = np.quantile(times_us[1:], [0.5, 0.99], axis=0)  # the first call compiles, or reads the cache
        cells = [f"{quantiles[row, column]:.0f}" for column in (0, 1) for row in (0, 1)]
        rows.append([f"`{agent.card.name}`", str(len(times_us)), *cells])
    header = ("agent", "decisions", "NumPy [us]", "p99", "compiled [us]", "p99")
    return table(header, rows, numbers="right")


def learned(suite: SuiteRun, env: Protocol) -> list[str]:
    """Agents that took part, by the names of their policies."""
    policies: dict[str, Any] = suite.run.about["policies"]
    return [name for name in suite.policies(env) if policies[name]["group"] == LEARNED]


def tuned(suite: SuiteRun, env: Protocol) -> list[str]:
    """CACE with tuned weights."""
    return [name for name in suite.policies(env) if "tuned" in suite.run.about["policies"][name]]


def by_entry(suite: SuiteRun, env: Protocol, policy: str) -> dict[str, Any]:
    """Costs of a policy on the entries of an environment, by entry."""
    return {entry.id: suite.costs(entry.id)[policy] for entry in suite.entries(env)}


def estimate_text(estimate: Estimate) -> str:
    """A share with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def budget(suite: SuiteRun, policy: str) -> str:
    """Requests that were simulated to make a policy."""
    about = suite.run.about["policies"][policy]
    if "tuned" in about:
        return f"{about['tuned']['requests'] / 1e6:,.0f} M"
    agent = suite.run.about.get("agents", {}).get(policy)
    return f"{agent['card']['requests'] / 1e6:,.0f} M" if agent else "-"


def results_table(suite: SuiteRun, env: Protocol) -> str:
    """Score, pooled cost, worst scenario and budget of every policy, the best on top."""
    scores = suite.scores(env)
    rivals = [name for name in suite.ranking(scores) if name in tuned(suite, env)]  # held against the best of them
    rows = []
    for policy in suite.ranking(scores):
        costs = by_entry(suite, env, policy)
        lru = by_entry(suite, env, BASELINE)
        worst = max((relative_cost({e: costs[e]}, {e: lru[e]}).high, e) for e in costs)
        often = probability_of_improvement(costs, by_entry(suite, env, rivals[0])) if rivals else None
        rows.append(
            [
                f"`{policy}`",
                suite.run.group(policy).lower(),
                score_text(scores.means[policy]),
                estimate_text(relative_cost(costs, lru)) if policy != BASELINE else "1",
                f"{worst[0]:.3f} ({worst[1].partition('-')[2]})" if policy != BASELINE else "1",
                "-" if often is None or policy in rivals else f"{100 * often.value:.0f} %",
                budget(suite, policy),
            ]
        )
    header = ("policy", "kind", "score", "pooled cost", "worst scenario", "cheaper than tuned CACE", "requests")
    return table(header, rows, numbers="right")


def gains_table(suite: SuiteRun, env: Protocol) -> str:
    """By how much each agent's pooled cost is below that of others."""
    there = suite.policies(env)
    rivals = [name for name in (*RIVALS[env], *tuned(suite, env)) if name in there]
    lru = by_entry(suite, env, BASELINE)
    rows = []
    for agent in learned(suite, env):
        mine = by_entry(suite, env, agent)
        gains = [percent(pooled_gain(mine, by_entry(suite, env, rival), lru)) for rival in rivals]
        rows.append([f"`{agent}`", *gains])
    return table(("agent", *(f"`{rival}`" for rival in rivals)), rows, numbers="right")


def entries_table(suite: SuiteRun, env: Protocol) -> str:
    """Scenario by scenario, with intervals for the agents."""
    agents = learned(suite, env)
    others = [name for name in (*RIVALS[env][1:], *tuned(suite, env), REFERENCE) if name in suite.policies(env)]
    rows = []
    for entry in suite.entries(env):
        costs = suite.costs(entry.id)
        shares = {name: relative_cost({"": costs[name]}, {"": costs[BASELINE]}) for name in (*agents, *others)}
        cells = [estimate_text(shares[name]) for name in agents] + [f"{shares[name].value:.3f}" for name in others]
        rows.append([entry.id.partition("-")[2], *cells])
    return table(("scenario", *(f"`{name}`" for name in (*agents, *others))), rows, numbers="right")
