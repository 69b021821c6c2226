"""Why policies decided as they did: single decisions of one episode, and the share of each factor in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.decision_log.words import reason_in_words
from cace_env.kernel import rules
from cace_env.observation import PENDING_FEATURES, SLOT_FEATURES
from cace_env.policies import Player, explain
from cace_env.policies.built_in import Policy
from cace_env.policies.explanations import BEFORE, Contribution, Explanation
from cace_env.policies.network import Network
from cace_env.policies.python import layout_for, view
from cace_env.simulation import Simulator
from experiments.reports.page import Figure, Table
from experiments.running.cases import PreparedCase
from experiments.running.run_files import rows_of
from experiments.running.run_folder import Run

REASONS_FILE: Final = "decisions.csv"
FACTORS_FILE: Final = "factors.csv"
SHOWN: Final = 3  # decisions of each kind
SAMPLED: Final = 60  # decisions that shares of factors are of
MOST_POLICIES: Final = 6  # that are looked at in a scenario
PARTS: Final = 8  # features of each that are kept
REASONS: Final = 4  # of them in a cell of the table
LEAST_SHARE: Final = 0.02  # of a factor that is named in the figure
CLEAR: Final = "clear"
NARROW: Final = "narrow"
COLOURS: Final = (
    *("#3B8BD0", "#E0762F", "#2E9E6B", "#C9549B", "#8C7AE6", "#C0A030", "#5FA8A8", "#B5654A", "#6F86B8", "#D98A8A"),
    *("#7FA650", "#A58AC9"),
)
OTHERS_COLOUR: Final = "#9AA3AE"
_NAMES: Final = {feature.name: feature.phrase for feature in (*SLOT_FEATURES, *PENDING_FEATURES)} | {
    "since_use_s": "time since last use",
    "since_second_use_s": "time since last use but one",
    "reload_s": "load time",
    "load_s": "load time",
    "freed_gb": "memory freed",
    "need_gb": "memory needed",
    "since_load_s": "time since load",
    "mean_gap_s": "time between requests",
    "oldest_wait_s": "time waited",
}

WHY: Final = """\
Agents and CACE on the first seed: at up to 60 decisions, spread over the episode, the score of the choice is compared
with that of the next best candidate, and the difference divided among the factors. A factor's share is the mean of its
part of all that pulls either way. The table has the decisions with the largest and the smallest margin: the reasons,
the largest first, add up to the margin, each with its value for the choice and, in brackets, for the next best
(`cace_env/policies/explanations.py`; for networks integrated gradients). They say what moved a policy, not whether it
was right."""


class Reason(NamedTuple):
    """What one feature added to one decision; a row of decisions.csv."""

    scenario: str
    policy: str
    seed: int
    decision: int
    time_s: float
    kind: str  # CLEAR or NARROW
    choice: str
    rival: str
    margin: float
    feature: str
    unit: str
    value: float
    others: float
    amount: float


class Factor(NamedTuple):
    """What one factor weighed in some decisions of a policy; a row of factors.csv."""

    scenario: str
    policy: str
    seed: int
    decisions: int  # that were looked at
    feature: str
    share: float  # of all that pulled either way, mean over the decisions
    for_choice: float  # the same, minus what pulled away from the choice


class Look(NamedTuple):
    """What a closer look at a scenario found."""

    reasons: list[Reason]
    factors: list[Factor]


def closer_look(prepared: PreparedCase, policies: Iterable[str]) -> Look:
    """Decisions of some agents and of CACE on the first seed: the clearest, the narrowest, and shares of factors."""
    found, wanted = Look([], []), set(policies)
    taking_part = [c for c in prepared.contestants if c.name in wanted and isinstance(c.policy, Policy)]
    for contestant in [c for c in taking_part if _has_factors(c.policy, prepared)][:MOST_POLICIES]:
        policy, seed = contestant.policy, prepared.seeds[0]
        assert isinstance(policy, Policy)
        margins = sorted((margin, s.question.decision) for s, _, margin in _asked(prepared, policy) if margin > 0)
        if not margins:
            continue
        kinds = {decision: NARROW for _, decision in margins[:SHOWN]}
        kinds |= {decision: CLEAR for _, decision in margins[max(SHOWN, len(margins) - SHOWN) :]}
        numbers = sorted(decision for _, decision in margins)
        sampled = {numbers[at] for at in np.linspace(0, len(numbers) - 1, SAMPLED).astype(int)}
        shares: list[dict[str, float]] = []
        for simulator, action, _ in _asked(prepared, policy):
            question = simulator.question
            if question.decision not in kinds and question.decision not in sampled:
                continue
            why = explain(policy, simulator, against="rival", action=action)
            if question.decision in sampled:
                shares.append(_shares(why))
            if question.decision in kinds:
                start = (prepared.name, contestant.name, seed, question.decision, question.now_us / 1e6)
                about = (kinds[question.decision], why.label, why.rival_label, why.margin)
                found.reasons.extend(Reason(*start, *about, *vars(part).values()) for part in _parts(why))
        for feature in dict.fromkeys(name for each in shares for name in each):
            pulls = np.array([each.get(feature, 0.0) for each in shares])
            means = float(np.abs(pulls).mean()), float(pulls.mean())
            found.factors.append(Factor(prepared.name, contestant.name, seed, len(shares), feature, *means))
    return found


def _has_factors(policy: Any, prepared: PreparedCase) -> bool:
    """Whether all that a built-in policy is asked is decided by a network, or its victims by CACE's terms."""
    if policy.network is None:
        return policy.kind == rules.TERMS
    return policy.network.protocol == prepared.case.tables.protocol  # else an order decides part of what is asked


def _parts(why: Explanation) -> list[Contribution]:
    """The largest contributions, and what was there before any of them."""
    parts = list(why.top(PARTS))
    if why.base:
        parts.append(Contribution(BEFORE, "", np.nan, np.nan, why.base))
    return sorted(parts, key=lambda part: -abs(part.amount))


def _shares(why: Explanation) -> dict[str, float]:
    """The part of each factor in all that pulls either way; those that pull away from the choice below 0."""
    amounts = {part.feature: part.amount for part in why.contributions} | ({BEFORE: why.base} if why.base else {})
    total = sum(abs(amount) for amount in amounts.values())
    return {name: amount / total for name, amount in amounts.items() if amount} if total else {}


def _margin(network: Network, simulator: Simulator, action: int) -> float:
    """By how much the score of an action exceeds that of the next best candidate."""
    layout = layout_for(None, simulator)
    logits = network.logits(view(simulator, layout).observation, layout)
    return float(logits[action] - np.delete(logits, action).max())


def _asked(prepared: PreparedCase, policy: Policy) -> Iterator[tuple[Simulator, int, float]]:
    """Every question of the first seed's episode, with the policy's answer and its margin; 0: no scores decided."""
    case, seed = prepared.case, prepared.seeds[0]
    workload = case.workload(seed)
    player = Player(policy.name, policy, case.tables, workload, seed, training=case.training)
    simulator = Simulator(case.tables, player.limits)
    asked = simulator.reset(workload)
    while asked:
        action, _ = player.answer(simulator)
        network = policy.network
        margin = (
            explain(policy, simulator, against="rival", action=action).margin
            if network is None
            else _margin(network, simulator, action)
        )
        yield simulator, action, margin
        asked = simulator.answer(action)


def read_decisions(run: Run, scenario: str) -> list[tuple[Reason, list[Reason]]]:
    """Decisions on a scenario, each with its first row and all its rows; the clear ones of a policy come first."""
    mine = [reason for reason in rows_of(run.path / REASONS_FILE, Reason) if reason.scenario == scenario]
    groups = [list(group) for _, group in groupby(mine, key=lambda reason: (reason.policy, reason.decision))]
    order = list(dict.fromkeys(reason.policy for reason in mine))
    decisions = [(group[0], group) for group in groups]
    return sorted(decisions, key=lambda pair: (order.index(pair[0].policy), -pair[0].margin))


def factor_figure(run: Run) -> Figure | None:
    """What share each factor has in the decisions of each policy, by scenario; None where nobody was looked at."""
    factors = [factor for factor in rows_of(run.path / FACTORS_FILE, Factor) if factor.scenario in run.scenarios]
    if not factors:
        return None
    weight: dict[str, float] = {}
    for factor in factors:
        weight[factor.feature] = weight.get(factor.feature, 0.0) + factor.share
    colours = dict(zip(sorted(weight, key=lambda name: -weight[name]), COLOURS, strict=False))
    figures = {}
    for scenario in dict.fromkeys(factor.scenario for factor in factors):
        mine = [factor for factor in factors if factor.scenario == scenario]
        figures[scenario] = _factor_bars(mine, colours)
    caption = "Mean share of a factor in what pulls for or against a choice, over the decisions that were looked at."
    return Figure("What weighs how much in a decision", figures, caption, by=("scenario",))


def _factor_bars(factors: Sequence[Factor], colours: dict[str, str]) -> dict[str, Any]:
    policies = list(dict.fromkeys(factor.policy for factor in factors))[::-1]
    shares = {(factor.policy, factor.feature): factor for factor in factors}
    named = [name for name in colours if any(f.feature == name and f.share >= LEAST_SHARE for f in factors)]
    data = []
    for name in named:
        there = [shares.get((policy, name)) for policy in policies]
        data.append({
            "type": "bar", "orientation": "h", "name": readable(name), "y": policies,
            "x": [100 * factor.share if factor else 0.0 for factor in there],
            "customdata": [100 * factor.for_choice if factor else 0.0 for factor in there],
            "marker": {"color": colours[name]},
            "hovertemplate": f"<b>{readable(name)}</b><br>%{{x:.0f}} % of what pulls; for the choice minus against it: "
            "%{customdata:+.0f} %<extra></extra>",
        })  # fmt: skip
    rest = [100 * sum(f.share for f in factors if f.policy == policy and f.feature not in named) for policy in policies]
    if any(value > 0.5 for value in rest):
        data.append({
            "type": "bar", "orientation": "h", "name": "all others", "y": policies, "x": rest,
            "marker": {"color": OTHERS_COLOUR}, "hovertemplate": "<b>all others</b><br>%{x:.0f} %<extra></extra>",
        })  # fmt: skip
    layout = {
        "height": 190 + 42 * len(policies), "barmode": "stack", "bargap": 0.35,
        "xaxis": {"title": {"text": "share of what pulls either way [%]"}, "range": [0, 100]},
        "yaxis": {"type": "category"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def readable(feature: str) -> str:
    """A feature in words."""
    return _NAMES.get(feature, feature)


def decision_table(run: Run) -> Table | None:
    """The clearest and the narrowest decisions; None where none were kept."""
    rows = []
    for scenario in run.scenarios:
        for first, reasons in read_decisions(run, scenario):
            why = "; ".join(reason_in_words(Contribution(*reason[-5:])) for reason in reasons[:REASONS])
            when = round(first.time_s / 60, 1)
            rows.append((scenario, first.policy, first.kind, first.decision, when, first.choice, first.rival,
                         first.margin, why))  # fmt: skip
    header = ("scenario", "policy", "kind", "decision", "minute", "choice", "next best", "margin", "because")
    return Table("Single decisions", header, rows, filters=("scenario", "policy"), folded=True) if rows else None
