"""What the report of a comparison says of trained agents: what they are, and how they compare with all others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cace_env.evaluation.scores import REFERENCE
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.markdown import percent
from experiments.reading.pooled_gains import costs_of, estimate_text, pooled
from experiments.reading.verdicts import enough, notable, saved
from experiments.reports.page import Cell, Section, Table
from experiments.running.run_folder import BASELINE, Run

LEARNED_TEXT: Final = """\
A learned policy against every other one that ran on the same scenarios, over all of them. **Cost of LRU's** is the mean
over scenarios of the cost over LRU's, the **interquartile mean** the same without a quarter of the scenarios at either
end (with fewer than four it is the mean). **The agent saves** is by how much its cost is below the other's, of the mean
over scenarios. **The agent is cheaper** is the share of seeds on which it costs less on the same requests (ties count
half), mean over scenarios: the probability of improvement (Agarwal et al., NeurIPS 2021; ours is paired, because
every policy met the same requests). Intervals are 95 %: within each scenario seeds are drawn again, the same for both
(stratified bootstrap)."""
SAID: Final = {"Works": "works", "Fails": "fails", "On real logs": "logs"}  # of a card
BUDGETS: Final = """\
What it took to find each: requests simulated in training, over all candidates and trials. A tuned rule and a learned
policy compare fairly where these are alike."""


def learned_section(run: Run) -> Section | None:
    """The section on agents; None where none ran."""
    agents: dict[str, Any] = run.about.get("agents", {})
    ran = {name: about for name, about in agents.items() if any(name in run.policies(s) for s in run.scenarios)}
    if not ran:
        return None
    parts = [Section(name, [card_text(about)], _against_all(run, name)) for name, about in ran.items()]
    budgets = budget_rows(run)
    if len(budgets) > 1:
        table = Table("What it took", ("policy", "requests simulated", "trained on", "seeds"), budgets, BUDGETS)
        parts.append(Section("Budgets", tables=[table]))
    return Section("Learned policies", [LEARNED_TEXT], sections=parts)


def card_text(about: dict[str, Any]) -> str:
    """What an agent is, as a list; what stands against its results in bold."""
    card = about["card"]
    kind = f"{card['algorithm']}, " + (f"{card['hidden']} hidden units" if card["hidden"] else "linear")
    lines = [
        f"For {Protocol(card['env']).env_name}; {kind}." + (f" {card['description']}" if card["description"] else "")
    ]
    where = ", ".join(card["trained_on"]) or "what its card does not say"
    suite = f" of suite {card['suite']}" if card["suite"] else ""
    seeds = f", seeds {card['train_seeds']}" if card["train_seeds"] else ""
    lines.append(
        f"Trained on {where}{suite}{seeds}: {card['requests']:,} simulated requests, {card['wall_s'] / 60:.0f} minutes."
    )
    lines += [f"{word}: {card[key]}" for word, key in SAID.items() if card.get(key)]
    lines += [f"Made by `{card['command']}`."] if card["command"] else []
    lines += [f"**Not held out: {problem}.**" for problem in about["problems"]]
    return "\n".join(f"- {line}" for line in lines)


def _against_all(run: Run, agent: str) -> list[Table]:
    """Tables of an agent against every policy that ran on the same scenarios."""
    scenarios = [scenario for scenario in run.scenarios if agent in run.policies(scenario)]
    others = [policy for policy in run.everywhere(scenarios) if policy not in (agent, NO_SWAPPING, REFERENCE)]
    mine, lru = costs_of(run, agent, scenarios), costs_of(run, BASELINE, scenarios)
    sure = all(enough(run, scenario) for scenario in scenarios)
    own = pooled(mine, lru, lru, run.blocks)
    rows = [(own.cost.value, [f"**{agent}**", estimate_text(own.cost), estimate_text(own.typical), "", ""])]
    for policy in others:
        theirs = costs_of(run, policy, scenarios)
        numbers, cost = pooled(mine, theirs, lru, run.blocks), pooled(theirs, lru, lru, run.blocks)
        gain = percent(numbers.gain) if sure else percent(numbers.gain).replace("**", "")
        cells = [policy, estimate_text(cost.cost), estimate_text(cost.typical), gain]
        rows.append((cost.cost.value, [*cells, estimate_text(numbers.chance, 2)]))
    header = ("policy", "cost of LRU's", "interquartile mean", "the agent saves", "the agent is cheaper")
    lines = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    tables = [Table(f"{agent} against all others", header, lines)]
    if len(scenarios) > 1:
        shown = [p for p in others if any(p in notable(run, s) for s in scenarios)]
        rows_by = [[p, *(saved(run, s, agent, over=p) for s in scenarios)] for p in shown]
        tables.append(Table(f"What {agent} saves against them, scenario by scenario", ("policy", *scenarios), rows_by))
    return tables


def budget_rows(run: Run) -> list[list[Cell]]:
    """Policies that were trained or tuned, and what that took."""
    rows = []
    for name, about in run.about.get("agents", {}).items():
        card = about["card"]
        rows.append(_budget(name, card["requests"], card["trained_on"], card["train_seeds"]))
    for name, about in run.about["policies"].items():
        tuned = about.get("tuned")
        if tuned:
            rows.append(_budget(name, tuned["requests"], tuned["trained_on"], tuned["train_seeds"]))
    return rows


def _budget(name: str, requests: int, trained_on: Iterable[str], seeds: str) -> list[Cell]:
    return [name, requests, ", ".join(trained_on) or "-", seeds or "-"]
