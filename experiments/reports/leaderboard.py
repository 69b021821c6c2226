"""A comparison on one screen: a few named policies, means over the scenarios, and a sentence of what that means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from cace_env.evaluation.scores import REFERENCE, Estimate, relative_cost
from cace_env.policies.agent import LEARNED
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.policies.planner import PLANNER
from cace_env.tables import Protocol
from experiments.reading.cautions import (
    BASELINES,
    WAITS_TITLE,
    about_requests,
    against_patience,
    longer_waits,
    wait_text,
)
from experiments.reading.pooled_gains import costs_of
from experiments.reading.verdicts import few_seeds, nothing_to_decide, own_policies, replicates
from experiments.reports.comparison import remarks
from experiments.running.command_line import screen_table
from experiments.running.contestants import ORDERED
from experiments.running.run_folder import BASELINE, PATIENT, Run

MOST: Final = 12  # rows of a table
WAITS: Final = 4  # warnings of long waits
AGAINST_PATIENCE: Final = "against patience"  # no metric, but a column: cost against patient FIFO
METRICS: Final = {"cost": "cost", "ttft_mean_s": "mean TTFT", "e2e_mean_s": "mean E2E", "evictions": "evictions"}
LEARNED_AGENT, TUNED, UNTUNED, FORESEEN = "learned", "CACE, tuned", "CACE, untuned", "knows the future"
PLANS: Final = "planner"
# Rows that every reader looks for, and what they are.
NAMED: Final = {
    Protocol.EVICTION: {
        "cace": UNTUNED,
        BASELINE: "least recent use",
        "ollama": "as in Ollama",
        "llama-cpp": "as in llama.cpp",
        "llama-swap": "as in llama-swap",
        REFERENCE: FORESEEN,
    },
    Protocol.SWAP: {
        "very-patient-wsjf+cace": UNTUNED,  # in the order of the tuned one
        "wsjf+cace": "CACE, no waiting",
        BASELINE: "drains at once",
        PATIENT: "waits up to 30 s",
        "llama-swap+lru": "as in llama-swap",
        REFERENCE: FORESEEN,
    },
}
BEST: Final = {"Caching": "best cache rule", "Clairvoyant": "best Belady rule", ORDERED: "best order"}
READING: Final = (
    "Means over scenarios, ± half of the 95 % interval. TTFT: time to the first token, E2E: to the last, cost: seconds "
    "waited, weighted by task. Belady rules and the reference know the future."
)


class Line(NamedTuple):
    """A row of a table."""

    policy: str
    what: str
    changes: dict[str, Estimate]  # by metric: share of LRU's


def print_leaderboard(run: Run, console: Console) -> None:
    """A table for each environment, and what it means."""
    for protocol in Protocol:
        scenarios = run.of_env(protocol)
        if not scenarios:
            continue
        lines = leaderboard(run, scenarios, protocol)
        console.print(_title(run, protocol, scenarios), style="bold", soft_wrap=True)
        for said in filter(None, (about_requests(run, name) for name in scenarios)):
            console.print(f"! {said}", style="bold black on yellow", soft_wrap=True)
        console.print(_table(lines))
        if AGAINST_PATIENCE in lines[0].changes:
            console.print(BASELINES.replace("`", ""))
        if not all(nothing_to_decide(run, name) for name in scenarios):
            console.print(meaning(lines))
        for name in filter(run.blocks.get, scenarios):
            console.print(f"{name}: {replicates(run, name)}")
        for note in (note for name in scenarios for note in remarks(run, name)):
            console.print(note, style="yellow")
    waits = longer_waits(run)
    if waits:
        rest = f"; and {len(waits) - WAITS} more" if len(waits) > WAITS else ""
        said = f"! {WAITS_TITLE}: {'; '.join(map(wait_text, waits[:WAITS]))}{rest}."
        console.print(said, style="bold yellow")
    if few_seeds(run):
        console.print(few_seeds(run), style="yellow")
    console.print(READING, style="dim")


def leaderboard(run: Run, scenarios: Sequence[str], protocol: Protocol) -> list[Line]:
    """At most `MOST` policies, those that cost least on top; all of them where there are no more."""
    names = {p: what_is(run, p, protocol) for p in run.everywhere(scenarios) if p != NO_SWAPPING}
    lines = {policy: _line(run, scenarios, policy, what) for policy, what in names.items()}
    if len(lines) > MOST:
        trained = [policy for policy, what in names.items() if what in (LEARNED_AGENT, PLANS, TUNED)]
        wanted = [*own_policies(run), *trained, *NAMED[protocol]]
        for group, what in BEST.items():
            best = min((line for line in lines.values() if run.group(line.policy) == group), key=_rank, default=None)
            if best is not None and best.policy not in wanted:
                lines[best.policy] = best._replace(what=what)
                wanted.append(best.policy)
        first = [BASELINE, REFERENCE, *([PATIENT] if protocol == Protocol.SWAP else [])]
        shown = [policy for policy in dict.fromkeys([*first, *wanted]) if policy in lines][:MOST]
        lines = {policy: lines[policy] for policy in shown}
    return sorted(lines.values(), key=_rank)


def what_is(run: Run, policy: str, protocol: Protocol) -> str:
    """What a policy is, in a word or two."""
    if policy.startswith(PLANNER):
        return PLANS
    if run.group(policy) == LEARNED:
        return LEARNED_AGENT
    tuned = run.about["policies"][policy].get("tuned")
    if tuned is not None and tuned["env"] == protocol:
        return TUNED
    return NAMED[protocol].get(policy, run.group(policy).lower())


def _rank(line: Line) -> tuple[bool, float]:
    cost = line.changes["cost"].value
    return bool(np.isnan(cost)), cost


def _line(run: Run, scenarios: Sequence[str], policy: str, what: str) -> Line:
    changes = {}
    for metric in METRICS:
        mine, theirs = ({n: run.replicates(n, who, metric) for n in scenarios} for who in (policy, BASELINE))
        usable = all(np.nansum(theirs[name]) > 0 and np.isfinite(mine[name] + theirs[name]).any() for name in scenarios)
        changes[metric] = relative_cost(mine, theirs, blocks=run.blocks) if usable else Estimate(np.nan, np.nan, np.nan)
    if all(against_patience(run, name) for name in scenarios):
        mine, theirs = (costs_of(run, who, scenarios) for who in (policy, PATIENT))
        changes[AGAINST_PATIENCE] = relative_cost(mine, theirs, blocks=run.blocks)
    return Line(policy, what, changes)


def _title(run: Run, protocol: Protocol, scenarios: Sequence[str]) -> str:
    """Which environment, how much of it, and whose requests."""
    seeds = len(run.columns[scenarios[0], BASELINE]["seed"])
    title = f"{protocol.env_name}: {len(scenarios)} scenario{'s' if len(scenarios) > 1 else ''} x {seeds} "
    title += ("window" if scenarios[0] in run.blocks else "seed") + ("s" if seeds > 1 else "")
    labels = dict.fromkeys(run.about["scenarios"][name]["label"] for name in scenarios)
    about = [*(scenarios if len(scenarios) == 1 else []), *(label for label in labels if label != "generated")]
    return title + (f" ({'; '.join(about)})" if about else "") + ": change against LRU in %, minus is better"


def _table(lines: Sequence[Line]) -> Table:
    columns = METRICS | ({AGAINST_PATIENCE: "vs patient"} if AGAINST_PATIENCE in lines[0].changes else {})
    rows = []
    for line in lines:
        zero = {PATIENT: (AGAINST_PATIENCE,), BASELINE: METRICS}.get(line.policy, ())
        cells = ["0" if metric in zero else change_text(line.changes[metric]) for metric in columns]
        bold = line.what in (LEARNED_AGENT, PLANS, TUNED, UNTUNED) or line.policy == BASELINE
        rows.append([f"**{line.policy}**" if bold else line.policy, line.what, *cells])
    header = ("policy", "", *columns.values())
    table = screen_table(header, rows, left=2, whole=len(header))
    table.columns[0].max_width = 33
    return table


def change_text(share: Estimate) -> str:
    """A share of LRU's as a change in percent, and half of its interval; `-` where there is none."""
    if np.isnan(share.value):
        return "-"
    value, half = 100 * (share.value - 1), 50 * (share.high - share.low)
    return f"{value:+.1f}" + ("" if np.isnan(half) else f" ±{half:.{0 if half >= 9.95 else 1}f}")


def meaning(lines: Sequence[Line]) -> str:
    """What a table says, in a sentence or two."""
    first: dict[str, Line] = {}
    for line in lines:
        first.setdefault(line.what, line)
    named = {LEARNED_AGENT: "the learned agent", PLANS: "the planner", TUNED: "tuned CACE", UNTUNED: "CACE"}
    found = [(name, first[what]) for what, name in named.items() if what in first]
    if not found:
        others = [(line.policy, line) for line in lines if line.policy not in (BASELINE, REFERENCE)]
        found = [pair for pair in others if pair[0] != PATIENT][:1] or others[:1]
    said = [f"{name} {_verdict(line.changes['cost'])}" for name, line in found]
    text = f"Against LRU, {', '.join(said)}." if said else ""
    if AGAINST_PATIENCE in lines[0].changes and said:
        rest = [f"{name} {_verdict(line.changes[AGAINST_PATIENCE])}" for name, line in found if line.policy != PATIENT]
        text += f" Against patient FIFO with LRU, {', '.join(rest)}." if rest else ""
    if {LEARNED_AGENT, FORESEEN} <= set(first):
        mine, room = (1 - first[what].changes["cost"].value for what in (LEARNED_AGENT, FORESEEN))
        if room > 0:
            text += (
                f" Knowing the future would save {100 * room:.0f} %: the agent gets {100 * mine / room:.0f} % of that."
            )
    return text


def _verdict(share: Estimate) -> str:
    """What a share of LRU's cost means."""
    size = f"{100 * abs(1 - share.value):.1f} %"
    if np.isnan(share.low):
        return f"costs {size} {'less' if share.value < 1 else 'more'}"
    if share.low <= 1 <= share.high:
        return "cannot be told apart"
    return f"saves {size} of the cost" if share.value < 1 else f"costs {size} more"
