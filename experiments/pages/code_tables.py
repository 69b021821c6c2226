"""Tables of pages that come from the code: environments, features, metrics, policies, agents, the suite."""

from __future__ import annotations

import inspect
from typing import Final

import numpy as np

from cace_env.envs import FleetEnv
from cace_env.evaluation import load_suite
from cace_env.evaluation.results import Header
from cace_env.fleets import REWARD_TERMS
from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, Feature
from cace_env.policies import ORDERS, POLICIES, READINGS, Agent
from cace_env.policies.built_in import AS_QUOTED, GROUPS
from cace_env.policies.network import Network, Urgency
from cace_env.policies.quoted import NAME as AS_IN_REVIEW
from cace_env.policies.quoted import PARTS, Quoted
from cace_env.simulation.metrics import METRICS, TASK_METRICS
from cace_env.tables import TASKS
from cace_env.wrappers import FORMS
from experiments.reading.markdown import table

# Where each library says so: checked against the source of the version named.
SOURCES: Final = {
    "pettingzoo": "PettingZoo 1.27, `classic/connect_four`",
    "rllib": "RLlib 2.60, `ActionMaskingTorchRLModule` of its examples",
    "tianshou": "Tianshou 2.0, `DiscreteQLearningPolicy` and the rest of the DQN family",
    "torchrl": "TorchRL 0.14, `ActionMask`, `MaskedCategorical`, `QValueModule`",
}
TERM_MEANINGS: Final = {
    "waiting": "`w_ttft` per second that a request waits for its first token",
    "system": "`w_e2e` per second that a request is in the system",
    "slo": "`w_slo` per request that misses its SLO",
    "loading": "`w_load` per second of loading",
    "refused": "`w_refused` per request that is longer than its model's KV cache",
    "invalid_action": "`invalid_penalty` per illegal action; it is no cost",
    "baseline": "plus what the baseline has paid since the last decision; 0 without a baseline",
}
HEAVIEST: Final = 12  # weights of a linear agent that its card shows
HEAVIEST_WEIGHTS: Final = """\
Its heaviest weights, of features as observations have them. Above 0, more of the feature is a reason to choose: the
slot as a victim, the model to be loaded, or to wait."""


def features_table(features: tuple[Feature, ...]) -> str:
    """Features: column, name, unit, how it is scaled, meaning."""
    rows = []
    for column, feature in enumerate(features):
        over = "" if feature.scale == 1.0 else f" / {feature.scale:g}"
        scaled = f"log1p(x{over})" if feature.log else f"x{over}"
        if feature.signed and feature.log:
            scaled = f"sign(x) log1p(abs(x){over})"
        rows.append((str(column), f"`{feature.name}`", feature.unit, scaled, feature.doc))
    return table(("column", "feature", "unit", "in the observation", "meaning"), rows)


def orders_table() -> str:
    """All orders."""
    rows = [(f"`{row.name}`", row.description, row.source) for row in ORDERS.values()]
    return table(("order", "loads", "source"), rows)


def policies_table() -> str:
    """All policies, one table per group."""
    parts = []
    for group in GROUPS:
        members = [row for row in POLICIES.values() if row.group == group]
        if group == AS_QUOTED:
            members = [READINGS[AS_IN_REVIEW]]
        rows = [(f"`{row.name}`", row.description, row.source, row.differs) for row in members]
        parts += [f"### {group}", table(("policy", "evicts", "source", "differs from it"), rows)]
    return "\n\n".join(parts)


def options_table() -> str:
    """Options of the quoted formula, with the parts of names that set them."""
    rows = []
    for option, field in Quoted.model_fields.items():
        if option == "description":
            continue
        parts = PARTS.get(option, {})
        named = "; ".join(f"{value}: {f'`{part}`' if part else 'nothing'}" for part, value in parts.items())
        rows.append((f"`{option}`", f"{field.default}", named or "-", field.description or ""))
    return table(("option", "in `cace-quoted`", "values and what they add to the name", "meaning"), rows)


def environment(env: type[FleetEnv]) -> str:
    """The docstring of an environment: what is asked, actions, observations, rewards, arguments."""
    summary, _, sections = inspect.cleandoc(env.__doc__ or "").partition("\n\n")
    return f"**{summary}**\n\n{sections}"


def forms_table() -> str:
    """Names of observation and mask in other libraries."""
    rows = [
        (f'`"{form}"`', f"`{keys.observation}`", f"`{keys.mask}`", np.dtype(keys.dtype).name, SOURCES[form])
        for form, keys in FORMS.items()
    ]
    return table(("`form`", "observation", "mask", "type of the mask", "of"), rows)


def reward_terms_table() -> str:
    """Terms of a reward in the order of `info["reward_terms"]`."""
    rows = []
    for position, term in enumerate(REWARD_TERMS):
        task, _, part = term.partition("_")
        meaning = TERM_MEANINGS.get(term) or f"{task}: {TERM_MEANINGS[part]}"
        rows.append((str(position), f"`{term}`", meaning))
    return table(("position", "term", "minus what is paid for"), rows)


def metrics_table() -> str:
    """Every metric of an episode; those of a task are said to exist."""
    rows = [
        (f"`{name}`", metric.unit, metric.meaning, "yes" if name in TASK_METRICS else "")
        for name, metric in METRICS.items()
        if name.partition("_")[0] not in TASKS
    ]
    return table(("metric", "unit", "meaning", "by task"), rows)


def hyperparameters_table() -> str:
    """The arguments that ship for Stable-Baselines3, one algorithm per column."""
    from cace_env.sb3 import hyperparameters

    names = ("maskable-ppo", "ppo", "dqn", "qrdqn")
    settings = [hyperparameters(name) for name in names]  # type: ignore[arg-type]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [[f"`{key}`", *(f"`{each[key]}`" if key in each else "" for each in settings)] for key in keys]
    return table(("argument", *names), rows)


def results_header_table() -> str:
    """Keys above a file of results."""
    rows = [(f"`{name}`", str(field.description)) for name, field in Header.model_fields.items()]
    return table(("key of the header", "holds"), rows)


def dropped_table(version: str) -> str:
    """Scenarios that were left out of a suite, and why."""
    return table(
        ("scenario", "env", "why"), [(row.scenario, row.env.env_name, row.why) for row in load_suite(version).dropped]
    )


def card(agent: Agent) -> str:
    """What an agent is, where it does well, where it fails; a linear one weight by weight."""
    about = agent.card
    rows = [
        ("environment", about.env.env_name),
        ("what it is", about.description),
        ("trained by", about.algorithm),
        ("trained on", ", ".join(about.trained_on) + (f" (suite {about.suite})" if about.suite else "")),
        ("training seeds", about.train_seeds),
        ("simulated requests", f"{about.requests:,}"),
        ("time", f"{about.wall_s / 60:.0f} min"),
        ("command", f"`{about.command}`"),
        ("numbers in it", f"{sum(weight.size for weight in agent.network.weights.values()):,}"),
        ("urgency of long waits", "" if about.urgency is None else _urgency(about.urgency)),
        ("does well", about.works),
        ("fails", about.fails),
        ("on real logs", about.logs),
        ("ignores", ", ".join(f"`{name}`" for name in about.newer_features)),
    ]
    parts = [f"### {about.name}", table(("", ""), [row for row in rows if row[1]])]
    if about.hidden == 0:
        parts += [HEAVIEST_WEIGHTS, weights_table(agent.network)]
    return "\n\n".join(parts)


def _urgency(urgency: Urgency) -> str:
    """Its numbers in a line."""
    return ", ".join(f"`{name}` {value:g}" for name, value in urgency.model_dump().items())


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
