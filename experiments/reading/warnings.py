"""What stands against the numbers of a comparison, so that nobody overlooks it."""

from __future__ import annotations

from typing import Any, Final

from cace_env.tables import Protocol
from experiments.reading.cautions import ASSUMED, WAITS_TITLE, about_requests, longer_waits, wait_text
from experiments.reading.recommendations import best_of
from experiments.reading.verdicts import TO_CHANGE_THAT, few_seeds, nothing_to_decide, own_policies
from experiments.running.run_folder import BASELINE, Run

WAITS: Final = 5  # of longer waits that are named


def warnings_of(run: Run) -> list[str]:
    """Every warning, the gravest first; empty where there is none."""
    return [
        *_unfinished(run),
        *_requests(run),
        *_not_held_out(run),
        *_undecided(run),
        *_replaced(run),
        *_cut_short(run),
        *_waits(run),
        *([f"**Few episodes.** {few_seeds(run)}"] if few_seeds(run) else []),
    ]


def _unfinished(run: Run) -> list[str]:
    about = run.about
    if about["status"] == "finished":
        return []
    there = sum(len(run.episodes[scenario, BASELINE]["seed"]) for scenario in run.scenarios)
    of = f" of {about['asked_for']}" if "asked_for" in about else ""
    state = "is running, or was killed" if about["status"] == "running" else f"was {about['status']}"
    return [
        f"**This run {state}.** It holds {there}{of} pairs of scenario and seed, and every number is of those. The "
        "same command with `--out` and this folder plays what is missing."
    ]


def _requests(run: Run) -> list[str]:
    """What of the requests is refused, left out, made up or compressed."""
    said = [text for text in (about_requests(run, scenario) for scenario in run.scenarios) if text]
    if not said:
        return []
    only_assumed = all(text.partition(": ")[2].startswith(ASSUMED) for text in said)
    title = "The log does not say everything" if only_assumed else "Not every request is served, or as it was recorded"
    return ["\n".join([f"**{title}.**", *(f"- {text}" for text in said)])]


def _not_held_out(run: Run) -> list[str]:
    agents: dict[str, Any] = run.about.get("agents", {})
    return [
        f"**Results of `{name}` are not held out**: {'; '.join(about['problems'])}."
        for name, about in (*agents.items(), *run.about["policies"].items())
        if about.get("problems") and any(name in run.policies(scenario) for scenario in run.scenarios)
    ]


def _undecided(run: Run) -> list[str]:
    quiet = [scenario for scenario in run.scenarios if nothing_to_decide(run, scenario)]
    return [f"**Nothing is decided in {', '.join(quiet)}**: no policy is ever asked. {TO_CHANGE_THAT}"] if quiet else []


def _replaced(run: Run) -> list[str]:
    return [
        f"**Illegal actions in {scenario}.** {replaced_actions(policy, *counts)}"
        for scenario in run.scenarios
        for policy, counts in run.replaced(scenario).items()
    ]


def replaced_actions(policy: str, replaced: int, decisions: int) -> str:
    """That a policy answered what is not legal."""
    return (
        f"Actions of {policy} that were not legal: {replaced:,} of {decisions:,}. The legal one of lowest index was "
        "taken in their place."
    )


def _cut_short(run: Run) -> list[str]:
    cut = {scenario: cut_short(run, scenario) for scenario in run.scenarios}
    return [f"**Cut short in {scenario}** {said}" for scenario, said in cut.items() if said]


def cut_short(run: Run, scenario: str) -> str:
    """How many episodes of which policies the limit on decisions ended; empty where there are none."""
    cut, seeds = run.cut_short(scenario), len(run.episodes[scenario, BASELINE]["seed"])
    counts = ", ".join(f"{policy} {count}" for policy, count in cut.items())
    each = f"by the limit on decisions, of {seeds} episodes each, and left out of every number: {counts}."
    return each if cut else ""


def _waits(run: Run) -> list[str]:
    """Policies that let a request wait longer than LRU does: those of the headline and of one's own, then the worst."""
    first = {best.policy for env in Protocol if (best := best_of(run, env)) is not None} | {*own_policies(run)}
    waits = sorted(longer_waits(run), key=lambda wait: wait.policy not in first)
    if not waits:
        return []
    said = [f"**{WAITS_TITLE}**; the longest wait of an episode, mean over episodes:"]
    said += [f"- {wait_text(wait)}" for wait in waits[:WAITS]]
    said += [f"- and {len(waits) - WAITS} more, in the table of all policies"] if waits[WAITS:] else []
    return ["\n".join(said)]
