"""The report of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from cace_env.evaluation.intervals import share_of_gap
from cace_env.evaluation.scores import REFERENCE
from cace_env.files import replace_file
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.cautions import BASELINES, WAITS_TITLE, about_requests, against_patience, longer_waits
from experiments.reading.contrasts import gain_table
from experiments.reading.markdown import table
from experiments.reading.verdicts import (
    NOTHING_TO_DECIDE,
    TO_CHANGE_THAT,
    episodes_text,
    few_seeds,
    floor,
    in_short,
    nothing_to_decide,
    own_policies,
    replicates,
    saved,
)
from experiments.reports.agents import learned_sections
from experiments.reports.decisions import decision_tables
from experiments.reports.guard_table import GUARDS, guard_table
from experiments.reports.plots import draw
from experiments.reports.score_table import scenarios_with_reference, score_sections
from experiments.reports.texts import ASKED, CAVEATS, HOW_TO_READ, SCORES, WHAT_THIS_IS, WHERE_FROM
from experiments.running.contestants import ORDERED
from experiments.running.progress import progress_bar
from experiments.running.run_folder import BASELINE, PATIENT, Run

Pictures = dict[str, dict[str, str]]  # paths within the run folder, by scenario ("" = all of them) and name
CLAIMS: Final = {
    "ttft_mean_s": "mean TTFT",
    "completion_ttft_mean_s": "mean TTFT, completion",
    "e2e_mean_s": "mean E2E",
    "evictions": "evictions",
    "cost": "cost",
}
ABLATIONS: Final = {
    "cace-no-load-time": "load time",
    "cace-no-latency": "latency sensitivity",
    "cace-no-output": "output length",
    "cace-no-recency": "recency",
    "cace-no-demand": "future demand",
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


def write_report(run: Run, console: Console) -> Path:
    """Writes report.md, first without plots, then with those that are drawn meanwhile; returns its path."""
    path = run.path / "report.md"
    pictures: Pictures = {scenario: {} for scenario in ("", *run.scenarios)}
    replace_file(path, page(run, pictures))
    try:
        with progress_bar(console) as progress:
            bar = progress.add_task("drawing the report", total=len(pictures))
            for scenario, drawn in draw(run):
                pictures[scenario] = {name: picture.as_posix() for name, picture in drawn}
                progress.update(bar, advance=1)
            progress.update(bar, completed=len(pictures))
    finally:  # Ctrl-C keeps what is drawn
        replace_file(path, page(run, pictures))
    return path


def page(run: Run, pictures: Pictures) -> str:
    """The report as Markdown."""
    about = run.about
    several = len(run.scenarios) > 1
    counted_policies = len(set(about["policies"]) - {NO_SWAPPING, REFERENCE})
    parts = [
        "# Policies compared",
        f"{counted_policies} policies and {NO_SWAPPING}, {len(run.scenarios)} scenario{'s' if several else ''}, "
        f"{episodes_text(run)} each, "
        f"{about['started'][:10]}, cace-env {about['versions']['cace-env']}.",
    ]
    if about["status"] != "finished":
        parts.append(
            f"**This run was {about['status']}**: it holds {about['finished']} of {about['asked_for']} pairs of "
            "scenario and seed."
        )
    parts += [few_seeds(run)] if few_seeds(run) else []
    parts += cautions(run)
    parts += [WHAT_THIS_IS, "## In short", "Percentages are cost saved against LRU, in brackets the 95 % interval."]
    parts += ["\n".join(f"- {line}" for line in in_short(run))] if in_short(run) else []
    parts += [f"![Gain over LRU by scenario]({picture})" for picture in pictures[""].values()]
    parts += [_scenario_table(run), "## How to read it", HOW_TO_READ]
    if any("cace" in run.policies(scenario) for scenario in run.scenarios):
        parts += ["## CACE against LRU, number by number", *_claims(run)]
    parts += learned_sections(run)
    if scenarios_with_reference(run):
        parts += ["## Scores", SCORES, *score_sections(run)]
    if gain_table(run):
        parts += ["## Where the gain comes from", WHERE_FROM, gain_table(run)]
        parts += [
            "The same for the longest wait of an episode: above 0 it is shorter.",
            gain_table(run, "longest_wait_s"),
        ]
    parts += ["## All policies, all scenarios", _matrix(run)]
    if guard_table(run):
        parts += ["## Guards", GUARDS, guard_table(run)]
    for scenario in run.scenarios:
        parts += _scenario(run, scenario, pictures[scenario])
    parts += ["## What to keep in mind", CAVEATS, "## How to get these numbers again", _again(run)]
    return "\n\n".join(parts) + "\n"


def cautions(run: Run) -> list[str]:
    """What must not be overlooked, as boxes: refused requests, composites, time compression, longer waits."""
    requests = [said for said in (about_requests(run, name) for name in run.scenarios) if said]
    boxes = ["\n".join(f"> **Requests of {said}**" for said in requests)] if requests else []
    waits = longer_waits(run)
    if waits:
        rows = [[f"`{w.policy}`", w.scenario, figure(w.mine_s), figure(w.baseline_s), f"{w.times:.1f}"] for w in waits]
        header = ("policy", "scenario", "longest wait [s]", "under LRU [s]", "times")
        boxes += [f"> **{WAITS_TITLE}:**", table(header, rows, numbers="right")]
    return boxes


def _scenario_table(run: Run) -> str:
    """Per scenario: the cheapest policies, how hard LRU is worked, what swapping costs at all."""
    header, rows = headlines(run)
    numbers = ("cost_per_request", "decisions", "decisions_per_request", "channel_share")
    for row, scenario in zip(rows, run.scenarios, strict=True):
        row += [figure(run.mean(scenario, BASELINE, metric)) for metric in numbers]
        row += [figure(run.least_cost(scenario)), run.about["scenarios"][scenario]["label"]]
    header += ["LRU: cost per request", "decisions", "decisions per request", "channels busy"]
    header += ["LRU: least share of it that any policy can cost [%]", "requests"]
    return table(header, rows, numbers="right")


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


def _claims(run: Run) -> list[str]:
    """CACE against LRU on each number, and what each factor adds."""
    scenarios = [scenario for scenario in run.scenarios if "cace" in run.policies(scenario)]
    rows = [[s, *(saved(run, s, "cace", metric) for metric in CLAIMS)] for s in scenarios]
    parts = [
        "What CACE saves against LRU; bold where the interval leaves out 0, with fewer than 10 seeds nowhere.",
        table(["scenario", *CLAIMS.values()], rows, numbers="right"),
    ]
    ablations = [policy for policy in ABLATIONS if all(policy in run.policies(s) for s in scenarios)]
    if ablations:
        rows = [[s, *(saved(run, s, "cace", over=policy) for policy in ablations)] for s in scenarios]
        parts += [
            "What each factor adds: the cost that CACE saves against CACE without it. Below 0 it does harm, with these "
            "weights.",
            table(["scenario", *(ABLATIONS[policy] for policy in ablations)], rows, numbers="right"),
        ]
    return parts


def _matrix(run: Run) -> str:
    """Cost saved against LRU, policies by scenarios."""
    policies = [policy for policy in run.about["policies"] if policy != BASELINE]
    rows = []
    for policy in policies:
        cells = [saved(run, s, policy) if policy in run.policies(s) else "left out" for s in run.scenarios]
        rows.append([f"`{policy}`", run.group(policy).lower(), *cells])
    return table(["cost saved against LRU", "kind", *run.scenarios], rows, numbers="right")


def _scenario(run: Run, scenario: str, pictures: dict[str, str]) -> list[str]:
    """One scenario: what it is, its numbers, its plots."""
    about = run.about["scenarios"][scenario]
    fleet = ", ".join(f"{name} ({gb:g} GB)" for name, gb in about["accelerators"].items())
    models = ", ".join(f"{name} {gb:g}" for name, gb in about["models"].items())
    tasks = ", ".join(f"{count:,} {task}" for task, count in about["tasks"].items() if count)
    weights = "; ".join(f"{task}: {_weights(row)}" for task, row in about["weights"].items() if about["tasks"][task])
    extra = ", ".join(f"{name} {value:g}" for name, value in about["extra_weights"].items() if value)
    parts = [f"## {scenario}", f"*{about['question']}* {about['description']}".strip().replace("** ", "")]
    log = about["log"]
    requests = f"{about['requests']:,} per episode ({about['label']}); first one: {tasks}"
    if log:
        requests += f". Log: {log['source']}, times divided by {log['time_compression']:g}, licence {log['licence']}"
        requests += f", {log['attribution']}" if log["attribution"] else ""
    lines = [
        f"- Asked ({Protocol(about['env']).env_name}): {ASKED[about['env']]}.",
        f"- Fleet: {fleet}; load engine {about['engine']}.",
        f"- Models, memory needed [GB]: {models}.",
        f"- Requests: {requests}.",
        f"- Cost (assumed weights): {weights}{'; ' + extra if extra else ''}.",
        *([f"- {replicates(run, scenario)}"] if scenario in run.blocks else []),
        *([f"- {floor(run, scenario)}"] if floor(run, scenario) else []),
        *(f"- {note}" for note in [*about["notes"], *remarks(run, scenario)]),
    ]
    parts += ["\n".join(lines), _policy_table(run, scenario)]
    captions = {
        "gain": "Cost saved against LRU with 95 % paired bootstrap intervals; arrows: far worse, with their number",
        "ttft": "Time to first token by task, all seeds together, logarithmic; further up and left is better",
        "evictions": "Evictions against mean time to first token, means over seeds; further down and left is better",
        "timeline": "Which model sat where in a part of one episode; one row per place in memory",
        "decision": "Why an agent decided so: what each feature adds to the margin of its clearest decision",
    }
    parts += [f"![{scenario}, {name}]({path})\n\n{captions[name]}." for name, path in pictures.items()]
    parts += decision_tables(run, scenario)
    return parts


def remarks(run: Run, scenario: str) -> list[str]:
    """What must be said beside the numbers: that nothing is decided, and what was replaced or cut short."""
    said = [f"{NOTHING_TO_DECIDE.capitalize()}. {TO_CHANGE_THAT}"] if nothing_to_decide(run, scenario) else []
    said += [
        f"Actions of {policy} that were not legal: {replaced:,} of {decisions:,}. The legal one of lowest index was "
        "taken in their place."
        for policy, (replaced, decisions) in run.replaced(scenario).items()
    ]
    if REFERENCE in run.policies(scenario):
        costs = run.columns[scenario, REFERENCE]["cost"]
        there = int(np.isfinite(costs).sum())
        if there < len(costs):
            said.append(
                f"The reference is there for {there} of {len(costs)} seeds: scores and its own means are of those."
            )
    cut = run.cut_short(scenario)
    if cut:
        seeds = len(run.columns[scenario, BASELINE]["seed"])
        counts = ", ".join(f"{policy} {count}" for policy, count in cut.items())
        limit = f"Cut short by the limit on decisions, of {seeds} episodes each, and left out of every number"
        said.append(f"{limit}: {counts}.")
    return said


def _weights(row: dict[str, float | str | None]) -> str:
    said = [f"{row['w_ttft']:g} per s to the first token"] if row["w_ttft"] else []
    said += [f"{row['w_e2e']:g} per s to the last"] if row["w_e2e"] else []
    said += [f"SLO {row['slo_s']:g} s on {str(row['slo_on']).upper()}"] if row["slo_s"] is not None else []
    return " + ".join(said) or "no cost"


def _policy_table(run: Run, scenario: str) -> str:
    """All policies on one scenario, the cheapest on top."""
    policies = run.ranking(scenario)
    thinks = any(np.isfinite(run.columns[scenario, policy]["decision_us"]).any() for policy in policies)
    rows = []
    title, gaps, note = _share(run, scenario)
    patient, drawn = against_patience(run, scenario), run.gains_by_draw(scenario, BASELINE).size > 0
    for policy in policies:
        cells = [f"`{policy}`", "" if policy == BASELINE else saved(run, scenario, policy)]
        if patient:
            cells.append("" if policy == PATIENT else saved(run, scenario, policy, over=PATIENT))
        if drawn:
            gains = run.gains_by_draw(scenario, policy)
            cells.append("" if policy == BASELINE else f"{gains.min():+.1f} to {gains.max():+.1f} %")
        cells += [gaps[policy]] if title else []
        cells += [figure(run.mean(scenario, policy, metric)) for metric in COLUMNS]
        cells += [figure(run.mean(scenario, policy, "decision_us"))] if thinks else []
        rows.append(cells)
    against = ["cost saved against LRU", *(["against patient FIFO + LRU"] if patient else [])]
    against += ["by draw of what is attached"] if drawn else []
    header = ["policy", *against, *([title] if title else []), *COLUMNS.values()]
    text = table(header + (["µs per decision"] if thinks else []), rows, numbers="right")
    return "\n\n".join([text, *([note] if note else []), *([BASELINES] if patient else [])])


def _share(run: Run, scenario: str) -> tuple[str, dict[str, str], str]:
    """Title, each policy's share of what could be saved, and what it is a share of; empty without a reference."""
    policies = run.policies(scenario)
    best = REFERENCE if REFERENCE in policies else run.cheapest(scenario, "Clairvoyant")
    if best is None:
        return "", {}, ""
    shares = {p: figure(share_of_gap(*run.costs(scenario, BASELINE, p, best))) for p in policies}
    if best == REFERENCE:
        return "score", shares, "Score: 0 = LRU, 100 = the clairvoyant reference; none where that saves under 1 %."
    note = f"% of the gap: of the cost between LRU and {best}; no number where that is under 1 % of LRU's."
    return "% of the gap", shares | {NO_SWAPPING: "-"}, note


def _again(run: Run) -> str:
    """Command, versions and what is in the folder."""
    about = run.about
    git = about["git"]
    state = "no git checkout"
    if git:
        changed = git["changed_files"]
        state = f"commit {git['commit'][:12]}" + (f" with {changed} changed files" if changed else "")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"```\n{about['command']}\n```\n\n"
        f"{versions}; {about['platform']}; {state}; {about['wall_s']:.0f} s for {about['finished']} pairs of scenario "
        "and seed.\n\n"
        "Beside this page: `rows.csv` (every metric of every episode), `ttft.csv` (histograms), `timelines.csv`, "
        "`run.json`, `config.yaml` and `scenarios/`. Every number above can be computed from them, and "
        "`python -m experiments.report FOLDER` writes this page again. A row of `rows.csv` also holds request-seconds "
        "by task, so the cost under other weights needs no new run."
    )


def figure(value: float, digits: int = 3) -> str:
    """So many significant digits, no exponent; `-` where there is no number."""
    if not np.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}"
