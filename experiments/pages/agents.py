"""The page of the agents that ship."""

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
from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, ObservationLayout
from cace_env.policies import Agent
from cace_env.policies.agent import LEARNED, shipped_agents
from cace_env.policies.built_in import rule_of
from cace_env.policies.network import Network
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import Protocol
from experiments.pages.shifted import regime_table, share_table
from experiments.reading.markdown import percent, table
from experiments.reading.suite_scores import SuiteRun
from experiments.reports.score_table import score_text
from experiments.running.run_folder import Run

# Whom agents are held against besides LRU, where those ran; and every CACE with other weights.
RIVALS: Final[dict[str, tuple[str, ...]]] = {
    Protocol.EVICTION: (BASELINE, "cace", "gdsf", "omlx"),
    Protocol.SWAP: (BASELINE, "cace", "wsjf+cace", "very-patient-wsjf+cace", "very-patient-wsjf+gdsf"),
}
HEAVIEST: Final = 12  # weights of a linear agent that its card shows
INTRO: Final = """\
# Agents

Trained policies that ship with the package, what they cost against CACE and everybody else on workloads that they never
saw, and where they fail. They are arrays of numbers and a card: `numpy` runs them, torch is not needed.

```console
python -m experiments.compare --agent {first} --policies cace,gdsf --seeds 100
```

```python
import cace_env

cace_env.evaluate("agent:{first}", "default", seeds="test").summary()["cost"]
agent = cace_env.policies.load_agent("{first}")
action = agent.act(observation, env.unwrapped.layout)
```

This page is written by `python -m experiments.agents_page`. Test seeds were used for nothing but this page; training
drew on training seeds, and which checkpoint ships was decided by validation seeds (`docs/training.md`). Which scenarios
count, and from which headroom on, was fixed with the suite, before anything was trained (`docs/suite.md`)."""
HOW_TO_READ: Final = """\
*Score*: interquartile mean over scenarios and seeds; 0 is LRU, 100 the clairvoyant reference. *Pooled cost*: mean over
scenarios of the cost as a share of LRU's; LRU in Swap-v0 loads the oldest request first and does not wait. *Worst
scenario*: the largest upper 95 % bound of that share among them. *Requests*: simulated in training or tuning, in all.
Intervals are 95 % bootstraps over the same seeds for everybody; bold ones leave out 0.

Agents under `runs/` do not ship: they show what generality costs. `linear-eviction` is linear and trained on the whole
suite (`configs/agent/linear.yaml`); those under `specialist/` are linear, too, and trained on the one scenario in their
name (`--train-on NAME --steps 2560`). Where a specialist is cheaper on its own scenario than an agent of the whole
suite, that is the price of one policy for all."""


def page(suite: SuiteRun, shifted: Run | None) -> str:
    """`docs/agents.md`.

    Args:
        suite: a run of the suite in which the agents took part.
        shifted: one of regimes that nothing was trained on.

    Raises:
        ConfigError: no agent took part, or the reference has not run everywhere.
    """
    agents = shipped_agents()
    if not agents:
        raise ConfigError("no agent ships; save one to cace_env/data/agents/NAME first")
    about = suite.run.about
    seeds = len(next(iter(suite.costs(suite.entries(suite.envs[0])[0].id).values())))
    parts = [INTRO.format(first=next(iter(agents))), f"{seeds} {about['split']} seeds of each scenario.", HOW_TO_READ]
    for env in suite.envs:
        if not learned(suite, env):
            raise ConfigError(f"{suite.path}: no agent took part in {env.env_name}; run it with --agent NAME")
        parts += [
            f"## {env.env_name}",
            results_table(suite, env),
            "**Saved against** (pooled cost):",
            gains_table(suite, env),
        ]
        parts += ["**By scenario**, cost as a share of LRU's:", entries_table(suite, env)]
    if shifted is not None:
        parts += ["## Where nothing was trained", SHIFTED]
        for env in Protocol:
            regimes = [name for name in shifted.scenarios if shifted.about["scenarios"][name]["env"] == env]
            if regimes:
                parts += [f"### {env.env_name}", share_table(shifted, regimes), regime_table(shifted, regimes)]
    parts += ["## How long a decision takes", LATENCY, latency_table(agents.values())]
    parts += ["## Cards", *(card(agent) for agent in agents.values())]
    parts += ["## How to get these numbers again", COMMANDS.format(suite=about["command"])]
    if shifted is not None:
        parts[-1] = parts[-1].replace("\n```", f"\n{shifted.about['command']}\n```", 1)
    return "\n\n".join(parts) + "\n"


SHIFTED: Final = """\
Regimes that are in no training workload: other pressure, engines, fleet sizes, GPU generations, demand. Cost as a share
of LRU's."""
COMMANDS: Final = """\
```console
{suite}
```"""
HEAVIEST_WEIGHTS: Final = """\
Its heaviest weights, of features as observations have them. Above 0, more of the feature is a reason to choose: the
slot as a victim, the model to be loaded, or to wait."""
LATENCY: Final = """\
Median and 99th percentile over the questions of one episode of `default`, on one core of the machine that wrote this
page:
`Agent.act` from an observation by NumPy, and the compiled policy, which computes its features as well."""


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


def card(agent: Agent) -> str:
    """What an agent is, where it does well, where it fails; a linear one weight by weight."""
    about = agent.card
    rows = [
        ("environment", about.env),
        ("what it is", about.description),
        ("trained by", about.algorithm),
        ("trained on", ", ".join(about.trained_on) + (f" (suite {about.suite})" if about.suite else "")),
        ("training seeds", about.train_seeds),
        ("simulated requests", f"{about.requests:,}"),
        ("time", f"{about.wall_s / 60:.0f} min"),
        ("command", f"`{about.command}`"),
        ("numbers in it", f"{sum(weight.size for weight in agent.network.weights.values()):,}"),
        ("does well", about.works),
        ("fails", about.fails),
    ]
    parts = [f"### {about.name}", table(("", ""), [row for row in rows if row[1]])]
    if about.hidden == 0:
        parts += [HEAVIEST_WEIGHTS, weights_table(agent.network)]
    return "\n\n".join(parts)


def weights_table(network: Network) -> str:
    """The heaviest weights of a linear policy, by what is chosen."""
    blocks = {"victim": SLOT_FEATURES, "model to load": PENDING_FEATURES, "wait": CONTEXT_FEATURES}
    columns = {}
    for (title, features), name in zip(blocks.items(), ("slot_linear", "pending_linear", "wait_linear"), strict=True):
        if name in network.weights:
            weights = {f.name: float(w) for f, w in zip(features, network.weights[name], strict=True) if w}
            if name == "wait_linear":
                weights["always"] = float(network.weights["wait_bias"][0])
            columns[title] = sorted(weights.items(), key=lambda item: -abs(item[1]))[:HEAVIEST]
    lines = max(len(column) for column in columns.values())
    rows = [
        [f"`{column[k][0]}` {column[k][1]:+.2f}" if k < len(column) else "" for column in columns.values()]
        for k in range(lines)
    ]
    return table(tuple(columns), rows)
