"""Tables of the claims made for CACE, from a comparison of all scenarios.

Every number is a gain in percent with a 95 % bootstrap interval over paired seeds. A claim's verdict follows from the
rule that `docs/claims.md` states, not from judgement.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.evaluation import Gain
from cace_env.evaluation.intervals import RESAMPLES, seed_draws
from cace_env.policies.built_in import CLAIRVOYANT
from cace_env.scenarios import load_scenario
from cace_env.tables import TASKS, FloatArray
from experiments.reading.markdown import table
from experiments.running.run_folder import BASELINE, Run

FACTORS: Final = {
    "load-time": "load time",
    "latency": "latency sensitivity of the task",
    "output": "expected output length",
    "recency": "recent usage",
    "demand": "future demand (sliding window)",
}
# What a scenario is like: metric -> title, digits.
UNDER_LRU: Final = {
    "decisions": ("decisions", 0),
    "decisions_per_request": ("per request", 3),
    "cold_share": ("cold", 2),
    "channel_share": ("channels busy", 2),
    "ttft_mean_s": ("TTFT [s]", 2),
    "e2e_mean_s": ("E2E [s]", 2),
}
SEVERAL: Final = 2 / 3  # of the scenarios must agree for a verdict
OTHER_READING: Final = "cace-output-kept"


class Draws(NamedTuple):
    """A gain [%], and the same of every resample `(RESAMPLES,)`."""

    value: float
    again: FloatArray


@dataclass(frozen=True)
class Claim:
    """A sentence, and where its numbers come from."""

    sentence: str
    metric: str
    policy: str = "cace"
    over: str = BASELINE
    less: str | None = None  # a metric whose gain is taken off: more so for one than for the other


EFFECTS: Final = (
    Claim("CACE lowers TTFT", "waiting_s"),
    Claim("CACE lowers E2E", "system_s"),
    Claim("CACE lowers the number of evictions", "evictions"),
    Claim("CACE lowers the TTFT of completions", "completion_waiting_s"),
    Claim("... more than that of all requests [points]", "completion_waiting_s", less="waiting_s"),
)
TITLES: Final = ("TTFT", "E2E", "evictions", "TTFT of completions", "more than of all [points]")
CONTRIBUTIONS: Final = tuple(
    Claim(f"{what} contributes", "cost", over=f"cace-no-{name}") for name, what in FACTORS.items()
)


def drawn(run: Run, scenario: str, claim: Claim) -> Draws:
    """The gain in one scenario [%], and again for every resample of its seeds."""
    metrics = [claim.metric] if claim.less is None else [claim.metric, claim.less]
    pairs = np.stack([run.columns[scenario, who][metric] for metric in metrics for who in (claim.over, claim.policy)])
    pairs[:, ~np.isfinite(pairs).all(axis=0)] = np.nan
    gain = resampled(pairs[0], pairs[1])
    if claim.less is None:
        return gain
    less = resampled(pairs[2], pairs[3])
    return Draws(gain.value - less.value, gain.again - less.again)


def resampled(base: FloatArray, mine: FloatArray) -> Draws:
    """`100 * (1 - sum(mine) / sum(base))` over seeds that both have, and for the same resamples each time."""
    both = np.isfinite(base) & np.isfinite(mine)
    base, mine = base[both], mine[both]
    counts = seed_draws(len(base), RESAMPLES)
    return Draws(100 * (1 - mine.sum() / base.sum()), 100 * (1 - (counts @ mine) / (counts @ base)))


def gain_in(run: Run, scenario: str, claim: Claim) -> Gain:
    """The gain in one scenario with its interval."""
    return mean_of([drawn(run, scenario, claim)])


def pooled(run: Run, claim: Claim) -> Gain:
    """Mean over scenarios of the gain; seeds are drawn again within each scenario."""
    return mean_of([drawn(run, scenario, claim) for scenario in usable(run, claim)])


def mean_of(parts: Sequence[Draws]) -> Gain:
    """Mean of several gains with the 95 % percentile interval of its resamples."""
    low, high = np.quantile(np.mean([part.again for part in parts], axis=0), [0.025, 0.975])
    return Gain(float(np.mean([part.value for part in parts])), float(low), float(high))


def usable(run: Run, claim: Claim) -> list[str]:
    """Scenarios in which the metric exists: a task without requests has no latency."""
    return [name for name in run.scenarios if np.nansum(run.columns[name, claim.over][claim.metric]) > 0]


def verdict(run: Run, claim: Claim) -> str:
    """Confirmed, refuted, or in which scenarios it holds and in which it does not; the page states the rule."""
    names = usable(run, claim)
    gains = {name: gain_in(run, name, claim) for name in names}
    better = [name for name in names if gains[name].low > 0]
    worse = [name for name in names if gains[name].high < 0]
    pool = pooled(run, claim)
    if pool.low > 0 and len(better) >= SEVERAL * len(names):
        return "confirmed"
    if pool.high < 0 and len(worse) >= SEVERAL * len(names):
        return "refuted"
    if not better and not worse:
        return "no effect found"
    return f"depends: holds in {', '.join(better) or 'none'}; the opposite in {', '.join(worse) or 'none'}"


def cell(gain: Gain) -> str:
    """A gain with its interval, bold where the interval excludes zero."""
    text = f"{gain.percent:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text


def summary(run: Run, claim: Claim) -> list[str]:
    """Pooled gain, in how many scenarios the interval excludes zero, and the verdict."""
    gains = [gain_in(run, name, claim) for name in usable(run, claim)]
    up, down = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
    return [cell(pooled(run, claim)), f"{up} / {down} of {len(gains)}", verdict(run, claim)]


def claims_table(run: Run) -> str:
    """The claims on effects, for both readings of output length."""
    rows = []
    for claim in EFFECTS:
        other = replace(claim, policy=OTHER_READING)
        mine, theirs = summary(run, claim), summary(run, other)
        rows.append([claim.sentence, *mine[:2], *theirs[:2], in_both(run, claim, other)])
    header = ["claim", "long answers evicted [%]", "better / worse", "long answers kept [%]", "better / worse"]
    return table([*header, "verdict"], rows)


def in_both(run: Run, claim: Claim, other: Claim) -> str:
    """The verdict that stands in both readings, if one does."""
    verdicts = {verdict(run, claim).partition(":")[0], verdict(run, other).partition(":")[0]}
    one, two = pooled(run, claim), pooled(run, other)
    turns = (one.low > 0 and two.high < 0) or (one.high < 0 and two.low > 0)
    if len(verdicts) > 1 or turns:
        return "hinges on the reading"
    return "depends on the scenario" if verdicts == {"depends"} else verdicts.pop()


def factors_table(run: Run) -> str:
    """Whether each factor contributes, in the reading where long answers are evicted."""
    header = ["claim", "gain, mean over scenarios [%]", "better / worse", "verdict"]
    return table(header, [[claim.sentence, *summary(run, claim)] for claim in CONTRIBUTIONS])


def sensitivity(run: Run) -> str:
    """The gain in cost of both readings over LRU, with each cost weight halved and doubled."""
    used = [scenario for scenario in run.scenarios if load_scenario(scenario).reward == "balanced"]
    weights = load_scenario(used[0]).costs().table()
    rows = [["as they are", *weighed(run, used, weights.w_ttft, weights.w_e2e)]]
    for name, column in (("w_ttft", weights.w_ttft), ("w_e2e", weights.w_e2e)):
        for task in np.flatnonzero(column):
            for factor in (0.5, 2.0):
                changed = {"w_ttft": weights.w_ttft.copy(), "w_e2e": weights.w_e2e.copy()}
                changed[name][task] *= factor
                cells = weighed(run, used, changed["w_ttft"], changed["w_e2e"])
                rows.append([f"{TASKS[task]} {name} x {factor:g}", *cells])
    return table(["weights", "cace [%]", "cace-output-kept [%]", "omlx [%]", "gdsf [%]"], rows)


def weighed(run: Run, scenarios: Sequence[str], w_ttft: FloatArray, w_e2e: FloatArray) -> list[str]:
    """Mean gain over LRU of some policies when cost is weighed like this."""
    cells = []
    for policy in ("cace", OTHER_READING, "omlx", "gdsf"):
        parts = [
            resampled(costs(run, s, BASELINE, w_ttft, w_e2e), costs(run, s, policy, w_ttft, w_e2e)) for s in scenarios
        ]
        cells.append(cell(mean_of(parts)))
    return cells


def costs(run: Run, scenario: str, policy: str, w_ttft: FloatArray, w_e2e: FloatArray) -> FloatArray:
    """Cost by seed with other weights, `(seeds,)`: request-seconds are kept by task."""
    columns = run.columns[scenario, policy]
    waited = [w_ttft[i] * columns[f"{task}_waiting_s"] for i, task in enumerate(TASKS)]
    stayed = [w_e2e[i] * columns[f"{task}_system_s"] for i, task in enumerate(TASKS)]
    return np.sum([*waited, *stayed], axis=0)


def by_scenario(run: Run, claims: Sequence[Claim], titles: Sequence[str]) -> str:
    """One row per scenario, one column per claim."""
    rows = []
    for name in run.scenarios:
        scenario = load_scenario(name)
        cells = [cell(gain_in(run, name, claim)) if name in usable(run, claim) else "-" for claim in claims]
        rows.append([name, scenario.engine, f"{scenario.pressure:g}" if scenario.pressure else "-", *cells])
    return table(["scenario", "engine", "pressure", *titles], rows)


def by_task(run: Run, policy: str) -> str:
    """A policy against LRU on TTFT, task by task."""
    return by_scenario(run, [Claim("", f"{task}_waiting_s", policy=policy) for task in TASKS], TASKS)


def all_policies(run: Run) -> str:
    """Cost gain of every policy over LRU, scenario by scenario."""
    names = [policy for policy in run.policies(run.scenarios[0]) if policy != BASELINE]
    rows = []
    for policy in names:
        cells = [cell(run.gain(name, policy)) if (name, policy) in run.columns else "-" for name in run.scenarios]
        rows.append([policy, *cells])
    return table(["policy", *run.scenarios], rows)


def gaps(run: Run) -> str:
    """What each scenario is like under LRU, and how far the best Belady rule is from it."""
    rows = []
    for name in run.scenarios:
        belady = run.cheapest(name, CLAIRVOYANT)
        gain = cell(run.gain(name, belady)) if belady else "-"
        means = [f"{run.mean(name, BASELINE, metric):.{digits}f}" for metric, (_, digits) in UNDER_LRU.items()]
        regrets = run.mean(name, BASELINE, "regret_loads") / run.mean(name, BASELINE, "loads")
        rows.append([name, *means, f"{regrets:.2f}", f"{belady}: {gain}"])
    titles = [title for title, _ in UNDER_LRU.values()]
    return table(["scenario", *titles, "regret loads", "best Belady over LRU [%]"], rows)


def regions(run: Run) -> dict[str, str]:
    """Regions of `docs/claims.md` that a comparison of all scenarios fills.

    Raises:
        ConfigError: the run lacks a policy that the claims are about.
    """
    check_policies(run, NEEDED)
    seeds = len(run.columns[run.scenarios[0], BASELINE]["seed"])
    other = [replace(claim, policy=OTHER_READING) for claim in EFFECTS]
    version = run.about["versions"]["cace-env"]
    return {
        "run": f"{len(run.scenarios)} scenarios, {seeds} test seeds each, every policy on the same requests; "
        f"cace-env {version}.",
        "effects": claims_table(run),
        "factors": factors_table(run),
        "effects-evicted": by_scenario(run, EFFECTS, TITLES),
        "effects-kept": by_scenario(run, other, TITLES),
        "factors-by-scenario": by_scenario(run, CONTRIBUTIONS, list(FACTORS.values())),
        "tasks-evicted": by_task(run, "cace"),
        "tasks-kept": by_task(run, OTHER_READING),
        "weights": sensitivity(run),
        "policies": all_policies(run),
        "scenarios": gaps(run),
    }


NEEDED: Final = frozenset(
    {claim.over for claim in (*EFFECTS, *CONTRIBUTIONS)} | {"cace", OTHER_READING, "omlx", "gdsf"}
)


def check_policies(run: Run, needed: Collection[str]) -> None:
    """Refuses a run that lacks a policy in all scenarios.

    Raises:
        ConfigError: it does; all that are needed are named.
    """
    missing = sorted(set(needed) - {policy for name in run.scenarios for policy in run.policies(name)})
    if missing:
        raise ConfigError(f"{run.path} lacks {', '.join(missing)}; compare with at least {', '.join(sorted(needed))}")
