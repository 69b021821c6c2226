"""Tables of the suite, from a run of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cace_env.evaluation.scores import BASELINE, NO_SCORE, REFERENCE, SMALLEST_HEADROOM_PERCENT, SuiteScores
from cace_env.evaluation.suite import Entry, MemorySweep
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.pages.suite_plots import ALONG_MEMORY, draw_memory, draw_scores
from experiments.reading.markdown import number, percent, score_text, table
from experiments.reading.suite_scores import SuiteRun


def regions(suite: SuiteRun) -> dict[str, str]:
    """Regions of `docs/suite.md` that a run fills: those of the environments that ran.

    Raises:
        ConfigError: the reference has not run everywhere.
    """
    scores_by_env = {env: suite.scores(env) for env in suite.envs}  # first, because it says what has not run
    found = {"run": _about_run(suite)}
    for env, scores in scores_by_env.items():
        found[f"{env}-entries"] = _entries(suite, env, scores)
        found[f"{env}-scores"] = _scores(suite, env, scores)
        found[f"{env}-waits"] = _waits(suite, env, scores)
    sweeps = [sweep for env in suite.envs for sweep in suite.sweeps(env)]
    if sweeps:
        parts = [
            f"**{sweep.id}** ({sweep.env.env_name}): *{sweep.question}*\n\n{_sweep(suite, sweep)}" for sweep in sweeps
        ]
        found["memory"] = "\n\n".join(parts)
    commands = "\n".join(suite.run.about.get("commands", [suite.run.about["command"]]))
    return found | {"commands": f"```console\n{commands}\n```"}


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
    left_out = f"Headroom under {SMALLEST_HEADROOM_PERCENT:g} %, so in no mean: {', '.join(scores.left_out)}."
    return table(header, rows) + (f"\n\n{left_out}" if scores.left_out else "")


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


def draw(suite: SuiteRun, images: Path) -> None:
    """Writes the pictures of the page.

    Raises:
        ConfigError: as `regions`.
    """
    for env in suite.envs:
        draw_scores(suite, env, suite.scores(env), images / f"suite-{env}.png")
    sweeps = [sweep for env in suite.envs for sweep in suite.sweeps(env)]
    if sweeps:
        draw_memory(suite, sweeps, images / "suite-memory.png")
