"""The report of a comparison, from its run folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from cace_env.evaluation.intervals import share_of_gap
from cace_env.evaluation.scores import REFERENCE
from cace_env.policies.built_in import CLAIRVOYANT
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.cautions import BASELINES, against_patience
from experiments.reading.contrasts import contrasted
from experiments.reading.recommendations import recommendation
from experiments.reading.verdicts import (
    NOTHING_TO_DECIDE,
    TO_CHANGE_THAT,
    episodes_text,
    floor,
    in_short,
    nothing_to_decide,
    own_policies,
    replicates,
    saved,
)
from experiments.reading.warnings import cut_short, replaced_actions, warnings_of
from experiments.reports.agents import learned_section
from experiments.reports.decisions import WHY, decision_table, factor_figure
from experiments.reports.figures import ablation_figure, evictions_figure, gain_figure, ttft_figure
from experiments.reports.guard_table import GUARDS, guard_table
from experiments.reports.page import Cell, Figure, Page, Section, Table, write_page
from experiments.reports.score_table import scenarios_with_reference, score_tables
from experiments.reports.texts import ASKED, CAVEATS, HOW_TO_READ, SCORES, WHAT_THIS_IS, WHERE_FROM
from experiments.reports.timelines import timeline_figure
from experiments.running.contestants import ORDERED
from experiments.running.run_folder import BASELINE, PATIENT, Run

SCORE: Final = "score"
GAP: Final = "% of the gap"
SHARE_NOTES: Final = {
    SCORE: "Score: 0 = LRU, 100 = the clairvoyant reference; none where that saves under 1 %.",
    GAP: "% of the gap: of the cost between LRU and the cheapest rule that knows the future; none where that is under "
    "1 % of LRU's.",
}
CLAIMS: Final = {
    "ttft_mean_s": "mean TTFT",
    "completion_ttft_mean_s": "mean TTFT, completion",
    "e2e_mean_s": "mean E2E",
    "evictions": "evictions",
    "cost": "cost",
}
COLUMNS: Final = {
    "ttft_mean_s": "TTFT mean [s]",
    "ttft_p95_s": "TTFT p95 [s]",
    "completion_ttft_mean_s": "completion TTFT mean [s]",
    "e2e_mean_s": "E2E mean [s]",
    "longest_wait_s": "longest wait [s]",
    "slo_met": "SLO met",
    "waited_min_per_day": "waited [min/day]",
    "evictions": "evictions",
    "loads": "loads",
    "load_s": "loading [s]",
    "regret_loads": "regret loads",
    "decisions": "decisions",
}


def write_report(run: Run) -> Path:
    """Writes report.html in the folder of a run; returns its path."""
    return write_page(comparison_page(run), run.path / "report.html")


def comparison_page(run: Run) -> Page:
    """The report: what is recommended, the numbers and figures behind it, and at the end how to read them."""
    about = run.about
    policies = len(set(about["policies"]) - {NO_SWAPPING, REFERENCE})
    scenarios = len(run.scenarios)
    sections = (
        _scoreboard(run),
        _figures("Time to first token, by task", ttft_figure(run)),
        _figures("Memory, minute by minute", timeline_figure(run)),
        _parts(run),
        _decisions(run),
        learned_section(run),
        _scores(run),
        _guards(run),
        Section("The scenarios", sections=[_scenario(run, name) for name in run.scenarios]),
        Section("How to read it", [WHAT_THIS_IS, HOW_TO_READ]),
        Section("What to keep in mind", [CAVEATS]),
        Section("How to get these numbers again", _again(run)),
    )
    return Page(
        "Policies compared",
        recommendation(run),
        warnings_of(run),
        [section for section in sections if section is not None],
        f"{policies} policies and {NO_SWAPPING}, {scenarios} scenario{'s' if scenarios > 1 else ''}, "
        f"{episodes_text(run)} each, {about['started'][:10]}, cace-env {about['versions']['cace-env']}",
    )


def _figures(title: str, *figures: Figure | None) -> Section | None:
    """A section of figures alone; None where there are none."""
    there = [figure for figure in figures if figure is not None]
    return Section(title, figures=there) if there else None


def _scoreboard(run: Run) -> Section:
    """Who saves how much: figures, then every number of every policy on every scenario."""
    figures = [figure for figure in (gain_figure(run), evictions_figure(run)) if figure is not None]
    short = "\n".join(f"- {line}" for line in in_short(run))
    return Section("Scoreboard", [short] if short else [], [_scenario_table(run), _every_number(run)], figures)


def _scenario_table(run: Run) -> Table:
    """Per scenario: the cheapest policies, how hard LRU is worked, what swapping costs at all."""
    header, rows = headlines(run)
    numbers = ("cost_per_request", "decisions", "decisions_per_request", "channel_share")
    lines: list[list[Cell]] = []
    for row, scenario in zip(rows, run.scenarios, strict=True):
        measured = [run.mean(scenario, BASELINE, metric) for metric in numbers]
        lines.append([*row, *measured, run.least_cost(scenario), run.about["scenarios"][scenario]["label"]])
    header += ["LRU: cost per request", "decisions", "decisions per request", "channels busy"]
    header += ["LRU: least share of it that any policy can cost [%]", "requests"]
    return Table("Cost saved against LRU, scenario by scenario", header, lines)


def _every_number(run: Run) -> Table:
    """All policies on all scenarios, the cheapest on top; bold: the interval leaves out 0."""
    shares = {scenario: _share(run, scenario) for scenario in run.scenarios}
    titles = list(dict.fromkeys(title for title, _ in shares.values() if title))
    patient = {scenario for scenario in run.scenarios if against_patience(run, scenario)}
    drawn = any(run.gains_by_draw(scenario, BASELINE).size for scenario in run.scenarios)
    thinks = any(np.isfinite(columns["decision_us"]).any() for columns in run.columns.values())
    metrics, rows = _kept(run, COLUMNS), []
    for scenario in run.scenarios:
        title, share = shares[scenario]
        env = run.env(scenario).env_name
        for policy in run.ranking(scenario):
            row: list[Cell] = [policy, scenario, env, run.group(policy).lower()]
            row += ["0" if policy == BASELINE else saved(run, scenario, policy)]
            row += [saved(run, scenario, policy, over=PATIENT) if scenario in patient else None] if patient else []
            row += [_by_draw(run, scenario, policy)] if drawn else []
            row += [share[policy] if name == title else None for name in titles]
            row += [run.mean(scenario, policy, metric) for metric in metrics]
            rows.append(row + ([run.mean(scenario, policy, "decision_us")] if thinks else []))
    header = ["policy", "scenario", "environment", "kind", "cost saved against LRU"]
    header += ["against patient FIFO + LRU"] if patient else []
    header += ["by draw of what is attached"] if drawn else []
    header += [*titles, *metrics.values(), *(["µs per decision"] if thinks else [])]
    notes = [*(SHARE_NOTES[title] for title in titles), *([BASELINES] if patient else [])]
    filters = ("environment", "scenario", "kind")
    return Table("All policies, all scenarios", header, rows, " ".join(notes), filters)


def headlines(run: Run) -> tuple[list[str], list[list[str]]]:
    """Header and a row per scenario: what CACE, own policies and the cheapest rule of each kind save against LRU."""
    groups = ("Deployed", "Proposed", "Caching", ORDERED, "Clairvoyant")
    ran = [group for group in groups if any(run.cheapest(s, group) not in (None, BASELINE) for s in run.scenarios)]
    with_cace = any("cace" in run.policies(scenario) for scenario in run.scenarios)
    own, with_reference = own_policies(run), bool(scenarios_with_reference(run))
    header = ["scenario", *(["CACE"] if with_cace else []), *own]
    header += [f"cheapest {group.lower()} rule" for group in ran]
    rows = []
    for scenario in run.scenarios:
        row = [scenario, *([saved(run, scenario, "cace")] if with_cace else [])]
        row += [saved(run, scenario, policy) if policy in run.policies(scenario) else "-" for policy in own]
        for group in ran:
            policy = run.cheapest(scenario, group)
            row.append("-" if policy is None else f"{policy} {saved(run, scenario, policy)}")
        if with_reference:
            row.append(saved(run, scenario, REFERENCE) if REFERENCE in run.policies(scenario) else "-")
        rows.append([*row, saved(run, scenario, NO_SWAPPING)])
    return [*header, *(["clairvoyant reference"] if with_reference else []), "without any swapping"], rows


def _by_draw(run: Run, scenario: str, policy: str) -> str | None:
    """The least and the most that a policy saves, by draw of what was attached to a log; None where nothing was."""
    gains = run.gains_by_draw(scenario, policy)
    return f"{gains.min():+.1f} to {gains.max():+.1f} %" if gains.size and policy != BASELINE else None


def _kept(run: Run, metrics: Mapping[str, str]) -> dict[str, str]:
    """Those that the folder has: a suite keeps no numbers by task."""
    there = next(iter(run.columns.values()))
    return {name: said for name, said in metrics.items() if name in there}


def _parts(run: Run) -> Section | None:
    """What each factor of CACE adds, and in Swap-v0 each thing that a policy decides; None where neither ran."""
    ablations, contrasts = ablation_figure(run), contrasted(run)
    with_cace = [scenario for scenario in run.scenarios if "cace" in run.policies(scenario)]
    tables = []
    if with_cace:
        claims = _kept(run, CLAIMS)
        rows = [[s, *(saved(run, s, "cace", metric) for metric in claims)] for s in with_cace]
        note = "Bold where the interval leaves out 0, with fewer than 10 seeds nowhere."
        tables.append(Table("CACE against LRU, number by number", ["scenario", *claims.values()], rows, note))
    scenarios = run.of_env(Protocol.SWAP)
    for metric, said in (("cost", "cost"), ("longest_wait_s", "the longest wait of an episode")) if contrasts else ():
        lines = [[row.part, row.contrast.what, row.contrast.policy, row.contrast.over, *row.gains]
                 for row in contrasted(run, metric)]  # fmt: skip
        tables.append(Table(f"What one thing saves: {said}", ("part", "what", "policy", "over", *scenarios), lines))
    if ablations is None and not tables:
        return None
    figures = [] if ablations is None else [ablations]
    return Section("Where the gain comes from", [WHERE_FROM] if contrasts else [], tables, figures)


def _decisions(run: Run) -> Section | None:
    figure, table = factor_figure(run), decision_table(run)
    if figure is None and table is None:
        return None
    return Section("Why they decided so", [WHY], [table] if table else [], [figure] if figure else [])


def _scores(run: Run) -> Section | None:
    return Section("Scores", [SCORES], score_tables(run)) if scenarios_with_reference(run) else None


def _guards(run: Run) -> Section | None:
    table = guard_table(run)
    return Section("Guards", [GUARDS], [table]) if table else None


def _scenario(run: Run, scenario: str) -> Section:
    """What a scenario is, and what must be known beside its numbers."""
    about = run.about["scenarios"][scenario]
    fleet = ", ".join(f"{name} ({gb:g} GB)" for name, gb in about["accelerators"].items())
    models = ", ".join(f"{name} {gb:g}" for name, gb in about["models"].items())
    tasks = ", ".join(f"{count:,} {task}" for task, count in about["tasks"].items() if count)
    weights = "; ".join(f"{task}: {_weights(row)}" for task, row in about["weights"].items() if about["tasks"][task])
    extra = ", ".join(f"{name} {value:g}" for name, value in about["extra_weights"].items() if value)
    log = about["log"]
    requests = f"{about['requests']:,} per episode ({about['label']}); first one: {tasks}"
    if log:
        requests += f". Log: {log['source']}, times divided by {log['time_compression']:g}, licence {log['licence']}"
        requests += f", {log['attribution']}" if log["attribution"] else ""
    lines = [
        f"Asked ({Protocol(about['env']).env_name}): {ASKED[about['env']]}.",
        f"Fleet: {fleet}; load engine {about['engine']}.",
        f"Models, memory needed [GB]: {models}.",
        f"Requests: {requests}.",
        f"Cost (assumed weights): {weights}{'; ' + extra if extra else ''}.",
        *([replicates(run, scenario)] if scenario in run.blocks else []),
        *([floor(run, scenario)] if floor(run, scenario) else []),
        *about["notes"],
        *remarks(run, scenario),
    ]
    question = " ".join(part for part in (about["question"], about["description"]) if part)
    texts = [question] if question else []
    return Section(scenario, [*texts, "\n".join(f"- {line}" for line in lines)], folded=len(run.scenarios) > 1)


def remarks(run: Run, scenario: str) -> list[str]:
    """What must be said beside the numbers: that nothing is decided, and what was replaced or cut short."""
    said = [f"{NOTHING_TO_DECIDE.capitalize()}. {TO_CHANGE_THAT}"] if nothing_to_decide(run, scenario) else []
    said += [replaced_actions(policy, *counts) for policy, counts in run.replaced(scenario).items()]
    if REFERENCE in run.policies(scenario):
        costs = run.columns[scenario, REFERENCE]["cost"]
        there = int(np.isfinite(costs).sum())
        if there < len(costs):
            said.append(
                f"The reference is there for {there} of {len(costs)} seeds: scores and its own means are of those."
            )
    return said + ([f"Cut short {cut_short(run, scenario)}"] if cut_short(run, scenario) else [])


def _weights(row: dict[str, float | str | None]) -> str:
    said = [f"{row['w_ttft']:g} per s to the first token"] if row["w_ttft"] else []
    said += [f"{row['w_e2e']:g} per s to the last"] if row["w_e2e"] else []
    said += [f"SLO {row['slo_s']:g} s on {str(row['slo_on']).upper()}"] if row["slo_s"] is not None else []
    return " + ".join(said) or "no cost"


def _share(run: Run, scenario: str) -> tuple[str, dict[str, float]]:
    """Title and each policy's share of what could be saved; empty where nobody knows the future."""
    policies = run.policies(scenario)
    best = REFERENCE if REFERENCE in policies else run.cheapest(scenario, CLAIRVOYANT)
    if best is None:
        return "", {}
    shares = {p: share_of_gap(*run.costs(scenario, BASELINE, p, best)) for p in policies}
    return (SCORE, shares) if best == REFERENCE else (GAP, shares | {NO_SWAPPING: float("nan")})


def _again(run: Run) -> list[str]:
    """Command, versions and what is in the folder."""
    about = run.about
    git = about["git"]
    state = "no git checkout"
    if git:
        changed = git["changed_files"]
        state = f"commit {git['commit'][:12]}" + (f" with {changed} changed files" if changed else "")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    took = (
        f"; {about['wall_s']:.0f} s for {about['finished']} pairs of scenario and seed" if "finished" in about else ""
    )
    return [
        f"```\n{about['command']}\n```",
        f"{versions}; {about['platform']}; {state}{took}.",
        "Beside this page: `rows.csv` (every metric of every episode), `ttft.csv` (histograms), `timelines.csv`, "
        "`decisions.csv` and `factors.csv`, `run.json`, `config.yaml` and `scenarios/`. Every number above can be "
        "computed from them, and `python -m experiments.report FOLDER` writes this page again. A row of `rows.csv` "
        "also holds request-seconds by task, so the cost under other weights needs no new run.",
    ]
