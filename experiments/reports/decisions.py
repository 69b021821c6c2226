"""Why an agent decided as it did: the decisions of one episode that were clearest and narrowest, kept and shown."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from cace_env.policies import Player, explain
from cace_env.policies.built_in import Policy
from cace_env.policies.explanations import BEFORE, Contribution
from cace_env.policies.network import Network
from cace_env.policies.python import layout_for, view
from cace_env.simulation import Simulator
from experiments.reading.markdown import table
from experiments.running.cases import PreparedCase
from experiments.running.run_folder import Run

FILE: Final = "decisions.csv"
SHOWN: Final = 3  # decisions of each kind
TITLE_LETTERS: Final = 90  # in a line of a picture's title
PARTS: Final = 8  # features of each that are kept
REASONS: Final = 4  # of them in a cell of the table
CLEAR: Final = "clear"
NARROW: Final = "narrow"

WHY: Final = """\
Why agents decided as they did: the decisions of the first seed with the largest and the smallest margin, by which the
score of the choice exceeded that of the next best candidate. The reasons, the largest first, add up to the margin: what
each feature adds, with its value for the choice and, in brackets, for that candidate
(`cace_env/policies/explanations.py`; for
networks integrated gradients). They say what moved the agent, not whether it was right."""


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


def decisions_of(prepared: PreparedCase) -> list[Reason]:
    """The clearest and the narrowest decisions of each agent on the first seed, feature by feature."""
    rows = []
    seed = prepared.seeds[0]
    for contestant in prepared.contestants:
        policy = contestant.policy
        if not isinstance(policy, Policy) or policy.network is None:
            continue
        if policy.network.protocol != prepared.case.tables.protocol:
            continue  # it goes with an order, which decides part of what is asked
        margins = sorted(
            (_margin(policy.network, s, action), s.question.decision) for s, action in _asked(prepared, policy)
        )
        kinds = {decision: NARROW for _, decision in margins[:SHOWN]}
        kinds |= {decision: CLEAR for _, decision in margins[max(SHOWN, len(margins) - SHOWN) :]}
        for simulator, action in _asked(prepared, policy):
            question = simulator.question
            if question.decision not in kinds:
                continue
            why = explain(policy, simulator, against="rival", action=action)
            parts = list(why.top(PARTS))
            if why.base:
                parts.append(Contribution(BEFORE, "", np.nan, np.nan, why.base))
            parts.sort(key=lambda part: -abs(part.amount))
            start = (prepared.name, contestant.name, seed, question.decision, question.now_us / 1e6)
            about = (kinds[question.decision], why.label, why.rival_label, why.margin)
            rows += [Reason(*start, *about, *vars(part).values()) for part in parts]
    return rows


def _margin(network: Network, simulator: Simulator, action: int) -> float:
    """By how much the score of an action exceeds that of the next best candidate."""
    layout = layout_for(None, simulator)
    logits = network.logits(view(simulator, layout).observation, layout)
    return float(logits[action] - np.delete(logits, action).max())


def _asked(prepared: PreparedCase, policy: Policy) -> Iterator[tuple[Simulator, int]]:
    """Every question of the first seed's episode, with the policy's answer."""
    case, seed = prepared.case, prepared.seeds[0]
    workload = case.workload(seed)
    player = Player(policy.name, policy, case.tables, workload, seed, training=case.training)
    simulator = Simulator(case.tables, player.limits)
    asked = simulator.reset(workload)
    while asked:
        action, _ = player.answer(simulator)
        yield simulator, action
        asked = simulator.answer(action)


def csv_of(reasons: Sequence[Reason]) -> str:
    """The rows as a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Reason._fields)
    writer.writerows(reasons)
    return text.getvalue()


def read_decisions(run: Run, scenario: str) -> list[tuple[Reason, list[Reason]]]:
    """Decisions on a scenario, each with its first row and all its rows; the clear ones of a policy come first."""
    path = run.path / FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reasons = [_reason(row) for row in csv.DictReader(file)]
    mine = [reason for reason in reasons if reason.scenario == scenario]
    groups = [list(group) for _, group in groupby(mine, key=lambda reason: (reason.policy, reason.decision))]
    order = list(dict.fromkeys(reason.policy for reason in mine))
    decisions = [(group[0], group) for group in groups]
    return sorted(decisions, key=lambda pair: (order.index(pair[0].policy), -pair[0].margin))


def _reason(row: dict[str, str]) -> Reason:
    numbers: dict[str, Any] = {name: int(row[name]) for name in ("seed", "decision")}
    numbers |= {name: float(row[name]) for name in ("time_s", "margin", "value", "others", "amount")}
    return Reason(**{**row, **numbers})


def _part(reason: Reason) -> str:
    if not reason.unit:
        return f"{BEFORE} {reason.amount:+.3g}"
    return str(Contribution(reason.feature, reason.unit, reason.value, reason.others, reason.amount))


def decision_tables(run: Run, scenario: str) -> list[str]:
    """What explanations are, and a table for each agent that decided on a scenario; empty where none did."""
    decisions = read_decisions(run, scenario)
    parts = [WHY] if decisions else []
    for policy, mine in groupby(decisions, key=lambda pair: pair[0].policy):
        rows = []
        for first, reasons in mine:
            why = "; ".join(_part(reason) for reason in reasons[:REASONS])
            when = f"{first.decision}, at {first.time_s / 60:.1f} min"
            rows.append([first.kind, when, first.choice, first.rival, f"{first.margin:.3g}", why])
        header = ["", "decision", "choice", "next best", "margin", "because"]
        parts += [f"**Why `{policy}` decided so**", table(header, rows)]
    return parts


def draw_decision(run: Run, scenario: str) -> Any:
    """The reasons for the clearest decision of the first agent, as bars; None where there is none."""
    decisions = read_decisions(run, scenario)
    if not decisions:
        return None
    first, reasons = decisions[0]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.28 * len(reasons)), layout="constrained")
    for y, reason in enumerate(reversed(reasons)):
        axes.barh(y, reason.amount, color="#0072B2" if reason.amount > 0 else "#D55E00")
    axes.set_yticks(range(len(reasons)), [_part(reason).rpartition(" ")[0] for reason in reversed(reasons)])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("part of the margin over the next best; right of 0 speaks for the choice")
    which = f"{scenario}: {first.policy}, seed {first.seed}, decision {first.decision}"
    what = textwrap.wrap(f"{first.choice}, rather than {first.rival}", TITLE_LETTERS)
    # Of the figure, not of the axes, which begin right of long labels.
    figure.suptitle("\n".join([which, *what]), x=0.01, ha="left", fontsize="medium")
    return figure
