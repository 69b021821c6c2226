"""The page of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cace_env.evaluation.scores import BASELINE, NO_SCORE, REFERENCE, SMALLEST_HEADROOM_PERCENT, SuiteScores
from cace_env.evaluation.suite import Entry, MemorySweep
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.pages.suite_plots import ALONG_MEMORY, draw_memory, draw_scores
from experiments.pages.suite_text import FORMAT, MEMORY, SCORES, THE_SUITE, WAITS
from experiments.reading.markdown import number, percent, table
from experiments.reading.suite_scores import SuiteRun
from experiments.reports.score_table import score_text


def page(suite: SuiteRun, pictures: dict[str, str]) -> str:
    """`docs/suite.md`.

    Args:
        suite: the run.
        pictures: paths beside the page: by environment its scores, and "memory".

    Raises:
        ConfigError: the reference has not run everywhere.
    """
    about = suite.run.about
    scores_by_env = {env: suite.scores(env) for env in suite.envs}  # first, because it says what has not run
    parts = [
        THE_SUITE.format(version=suite.suite.version, description=suite.suite.description.strip()),
        _about_run(suite),
        SCORES,
    ]
    for env, scores in scores_by_env.items():
        parts += [f"## {env.env_name}", _entries(suite, env, scores)]
        if scores.left_out:
            parts.append(
                f"Headroom under {SMALLEST_HEADROOM_PERCENT:g} %, so in no mean: {', '.join(scores.left_out)}."
            )
        parts += [f"![Scores on {env.env_name}]({pictures[env]})"] if env in pictures else []
        parts += ["### Scores", _scores(suite, env, scores)]
        parts += ["### Waiting: mean time to first token / longest wait [s]", WAITS, _waits(suite, env, scores)]
    sweeps = [sweep for env in suite.envs for sweep in suite.sweeps(env)]
    if sweeps:
        parts += ["## How much memory", MEMORY]
        parts += [f"![Cost along the memory]({pictures['memory']})"] if "memory" in pictures else []
        for sweep in sweeps:
            parts += [f"**{sweep.id}** ({sweep.env.env_name}): *{sweep.question}*", _sweep(suite, sweep)]
    if suite.suite.dropped:
        rows = [(row.scenario, row.env.env_name, row.why) for row in suite.suite.dropped]
        parts += ["## What was left out", table(("scenario", "env", "why"), rows)]
    commands = "\n".join(about.get("commands", [about["command"]]))
    parts += [FORMAT, "## How to get these numbers again", f"```console\n{commands}\n```"]
    return "\n\n".join(parts) + "\n"


def _about_run(suite: SuiteRun) -> str:
    """Seeds, versions and the time it took."""
    about = suite.run.about
    minutes = about["wall_s"] / 60
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    counts = sorted({len(suite.run.columns[name, BASELINE]["seed"]) for name in suite.run.scenarios})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    searches = suite.searches()
    who = "policies and reference" if searches else "policies"
    said = [
        f"{seeds} {about['split']} seeds per policy and entry, {about['started'][:10]}, {versions}; "
        f"{who} took {minutes:.0f} minutes on {about['cores']} cores."
    ]
    settings = ", ".join(f"{key} {value}" for key, value in about["policies"][REFERENCE]["settings"].items())
    origin = "The reference was" if searches else "Costs of the reference are those that ship with the suite,"
    said.append(f"{origin} looked for with {settings}.")
    if searches:
        wall_s = sum(float(row["wall_s"]) for row in searches)
        found = sum(float(row["base_cost"]) - float(row["cost"]) for row in searches)
        share = 100 * found / sum(float(row["base_cost"]) for row in searches)
        said.append(
            f"That took {wall_s / len(searches):.1f} s per episode and thread, and saved {share:.1f} % of the cost of "
            "the cheapest rule of each episode."
        )
    if about["status"] != "finished":
        said.append(f"**The run is {about['status']}.**")
    return " ".join(said)


def _entries(suite: SuiteRun, env: Protocol, scores: SuiteScores) -> str:
    """What each entry asks, and how much there is to gain."""
    rows = []
    for entry in suite.entries(env):
        decisions = suite.run.mean(entry.id, BASELINE, "decisions")
        rows.append(
            [
                f"`{entry.id}`",
                entry.question,
                percent(scores.headroom[entry.id]),
                percent(suite.run.gain(entry.id, NO_SWAPPING)) if NO_SWAPPING in suite.run.policies(entry.id) else "-",
                f"{suite.least_cost(entry):.1f} %",
                number(suite.cost_per_request(entry.id, BASELINE)),
                number(decisions),
            ]
        )
    header = ["entry", "question", "headroom: LRU to reference", "LRU to no swapping"]
    header += ["no policy can cost less than, of LRU's cost", "LRU: cost per request", "LRU: decisions"]
    return table(header, rows)


def _scores(suite: SuiteRun, env: Protocol, scores: SuiteScores) -> str:
    """Every policy on every entry."""
    entries = suite.entries(env)
    rows = []
    for policy in suite.ranking(scores):
        cells = [score_text(scores.scores[policy].get(entry.id, NO_SCORE)) for entry in entries]
        rows.append([f"`{policy}`", suite.run.group(policy).lower(), f"**{score_text(scores.means[policy])}**", *cells])
    return table(("policy", "kind", "interquartile mean", *_short(entries)), rows, numbers="right")


def _short(entries: Sequence[Entry]) -> list[str]:
    """Ids without the environment, under whose heading they stand."""
    return [entry.id.removeprefix(f"{entry.env}-") for entry in entries]


def _waits(suite: SuiteRun, env: Protocol, scores: SuiteScores) -> str:
    """How long people wait under every policy."""
    entries = suite.entries(env)
    rows = []
    for policy in [REFERENCE, *suite.ranking(scores), NO_SWAPPING]:
        cells = []
        for entry in entries:
            if policy not in suite.run.policies(entry.id):
                cells.append("-")
                continue
            ttft_s, wait_s = (suite.run.mean(entry.id, policy, name) for name in ("ttft_mean_s", "longest_wait_s"))
            cells.append(f"{number(ttft_s)} / {number(wait_s)}")
        rows.append([f"`{policy}`", *cells])
    return table(("policy", *_short(entries)), rows, numbers="right")


def _sweep(suite: SuiteRun, sweep: MemorySweep) -> str:
    """Costs and headroom at each fraction."""
    scores = suite.sweep_scores(sweep)
    there = suite.run.policies(sweep.entries()[0].id)
    shown = [policy for policy in ALONG_MEMORY if policy in there]
    scored = [policy for policy in shown if policy not in (BASELINE, REFERENCE, NO_SWAPPING)]
    rows = []
    for fraction, entry in zip(sweep.fractions, sweep.entries(), strict=True):
        rows.append(
            [
                f"{100 * fraction:g} %",
                percent(scores.headroom[entry.id]),
                *(score_text(scores.scores[policy][entry.id]) for policy in scored),
                *(number(suite.cost_per_request(entry.id, policy)) for policy in shown),
            ]
        )
    header = ["memory", "headroom", *(f"score: `{policy}`" for policy in scored)]
    return table(header + [f"cost per request: `{policy}`" for policy in shown], rows, numbers="right")


def write_page(suite: SuiteRun, path: Path) -> None:
    """Writes the page, and its pictures into `images/` beside it.

    Raises:
        ConfigError: as `page`.
    """
    pictures: dict[str, str] = {env: f"images/suite-{env}.png" for env in suite.envs}
    for env in suite.envs:
        draw_scores(suite, env, suite.scores(env), path.parent / pictures[env])
    sweeps = [sweep for env in suite.envs for sweep in suite.sweeps(env)]
    if sweeps:
        pictures["memory"] = "images/suite-memory.png"
        draw_memory(suite, sweeps, path.parent / pictures["memory"])
    path.write_text(page(suite, pictures), "utf-8")
