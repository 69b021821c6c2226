"""The claims made for CACE, one by one, against a comparison of the whole suite.

    python -m experiments.compare --seeds 100 --split test --out runs/suite
    python -m experiments.claims runs/suite --write docs/claims.md

Every number is a gain in percent with a 95 % bootstrap interval over paired seeds. A claim's verdict comes from the
rule that the page states, not from judgement.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console

from cace_env.config import ConfigError
from cace_env.intervals import Gain
from cace_env.policies import CLAIRVOYANT
from cace_env.scenarios import load_scenario
from experiments.run_folder import BASELINE, Run

FloatArray = npt.NDArray[np.float64]

FACTORS: Final = {
    "load-time": "load time",
    "latency": "latency sensitivity of the task",
    "output": "expected output length",
    "recency": "recent usage",
    "demand": "future demand (sliding window)",
}
# What a scenario is like, with digits.
UNDER_LRU: Final = {
    "decisions": 0,
    "decisions_per_request": 3,
    "cold_share": 2,
    "channel_share": 2,
    "ttft_mean_s": 2,
    "e2e_mean_s": 2,
}
RESAMPLES: Final = 10_000
SEVERAL: Final = 2 / 3  # of the scenarios must agree for a verdict without "depends"


@dataclass(frozen=True)
class Options:
    """Judge the claims for CACE by a finished comparison of all scenarios."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of `experiments.compare` with lru, cace and its ablations."""
    write: str | None = None
    """Markdown page to write, besides printing it."""


@dataclass(frozen=True)
class Claim:
    """A sentence, and where its numbers come from."""

    sentence: str
    metric: str
    policy: str = "cace"
    over: str = BASELINE
    less: str | None = None  # a metric whose gain is taken off: more so for one than for the other


CLAIMS: Final = (
    Claim("CACE lowers TTFT", "waiting_s"),
    Claim("CACE lowers E2E", "system_s"),
    Claim("CACE lowers the number of evictions", "evictions"),
    Claim("CACE lowers the TTFT of completions", "completion_waiting_s"),
    Claim("... more than that of all requests [points]", "completion_waiting_s", less="waiting_s"),
    *(Claim(f"{what} contributes", "cost", over=f"cace-no-{name}") for name, what in FACTORS.items()),
)


def drawn(run: Run, scenario: str, claim: Claim) -> tuple[float, FloatArray]:
    """The gain in one scenario [%], and again for every resample of its seeds, `(RESAMPLES,)`."""
    metrics = [claim.metric] if claim.less is None else [claim.metric, claim.less]
    pairs = np.stack([run.columns[scenario, who][metric] for metric in metrics for who in (claim.over, claim.policy)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    seeds = pairs.shape[1]
    counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    sums = np.vstack([pairs.sum(axis=1), counts @ pairs.T])
    gains = 100 * (1 - sums[:, 1::2] / sums[:, 0::2])
    values = gains[:, 0] if claim.less is None else gains[:, 0] - gains[:, 1]
    return float(values[0]), values[1:]


def gain_in(run: Run, scenario: str, claim: Claim) -> Gain:
    """The gain in one scenario with its interval."""
    return interval(*drawn(run, scenario, claim))


def pooled(run: Run, claim: Claim) -> Gain:
    """Mean over scenarios of the gain; seeds are drawn again within each scenario."""
    parts = [drawn(run, scenario, claim) for scenario in usable(run, claim)]
    return interval(float(np.mean([value for value, _ in parts])), np.mean([draws for _, draws in parts], axis=0))


def interval(value: float, draws: FloatArray) -> Gain:
    """A value with the 95 % percentile interval of its resamples."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Gain(value, float(low), float(high))


def usable(run: Run, claim: Claim) -> list[str]:
    """Scenarios in which the metric exists: a task that nobody does has no latency."""
    return [name for name in run.scenarios if np.nansum(run.columns[name, claim.over][claim.metric]) > 0]


def verdict(pool: Gain, gains: Sequence[Gain]) -> str:
    """Confirmed, refuted, or what it depends on; the rule is printed with the table."""
    up, down = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
    if pool.low > 0 and up >= SEVERAL * len(gains):
        return "confirmed"
    if pool.high < 0 or (up == 0 and down > 0):
        return "refuted"
    return "no effect found" if up == 0 else "depends"


def cell(gain: Gain) -> str:
    """A gain with its interval, bold where the interval excludes zero."""
    text = f"{gain.percent:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def claims_table(run: Run) -> str:
    """One row per claim: pooled gain, in how many scenarios the interval excludes zero, verdict."""
    rows = []
    for claim in CLAIMS:
        names = usable(run, claim)
        gains = [gain_in(run, name, claim) for name in names]
        up, down = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
        pool = pooled(run, claim)
        rows.append([claim.sentence, cell(pool), f"{up} better, {down} worse of {len(names)}", verdict(pool, gains)])
    return table(["claim", "gain, mean over scenarios [%]", "scenarios", "verdict"], rows)


def by_scenario(run: Run, claims: Sequence[Claim], titles: Sequence[str]) -> str:
    """One row per scenario, one column per claim."""
    rows = []
    for name in run.scenarios:
        scenario = load_scenario(name)
        cells = [cell(gain_in(run, name, claim)) if name in usable(run, claim) else "-" for claim in claims]
        rows.append([name, scenario.engine, f"{scenario.pressure:g}" if scenario.pressure else "-", *cells])
    return table(["scenario", "engine", "pressure", *titles], rows)


def by_task(run: Run) -> str:
    """CACE against LRU on TTFT, task by task."""
    tasks = ("completion", "chat", "reasoning", "agent")
    return by_scenario(run, [Claim("", f"{task}_waiting_s") for task in tasks], tasks)


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
        means = [f"{run.mean(name, BASELINE, metric):.{digits}f}" for metric, digits in UNDER_LRU.items()]
        rows.append([name, *means, f"{belady}: {gain}"])
    header = [
        "scenario",
        "decisions",
        "per request",
        "cold",
        "channel busy",
        "TTFT [s]",
        "E2E [s]",
        "best Belady over LRU [%]",
    ]
    return table(header, rows)


def page(run: Run) -> str:
    """The whole page."""
    about = run.about
    seeds = len(run.columns[run.scenarios[0], BASELINE]["seed"])
    effects = CLAIMS[:5]
    factors = CLAIMS[5:]
    return f"""# The claims made for CACE, one by one

CACE (arXiv 2506.18796) is said to lower TTFT, E2E and evictions against LRU, most so for completions, and each of
its factors is said to contribute. Its formula is not public in what we could read: what is judged here is our
reconstruction from the named factors, with equal weights (`docs/policies.md`), on generated workloads
(`docs/workloads.md`) whose cost weights are assumptions. Whatever does not hold here need not fail in the paper's
own setting.

- {len(run.scenarios)} scenarios, {seeds} test seeds each, every policy on the same requests; cace-env
  {about["versions"]["cace-env"]}.
- A gain is `100 * (1 - sum(policy) / sum(other))` over the seeds: positive is better. In brackets the 95 % interval
  of a paired bootstrap over seeds; **bold** where it excludes zero. The mean over scenarios gives each the same
  weight.
- Verdicts follow a rule. *Confirmed*: the interval of the mean lies above zero, and so do those of two thirds of
  the scenarios. *Refuted*: it lies below zero, or no scenario gains and some lose. *No effect found*: no scenario
  gains or loses for sure. *Depends*: all else; the tables below show on what.
- Made by `python -m experiments.compare --seeds {seeds} --split test --out RUN` and `python -m experiments.claims
  RUN --write docs/claims.md`.

{claims_table(run)}

"Contributes" compares the cost of CACE with that of CACE without the factor.

## By scenario

{by_scenario(run, effects, ["TTFT", "E2E", "evictions", "TTFT of completions", "more than of all [points]"])}

## By factor: cost of CACE against CACE without it

{by_scenario(run, factors, list(FACTORS.values()))}

## By task: TTFT of CACE against LRU

{by_task(run)}

## Every policy: cost against LRU

{all_policies(run)}

## The scenarios under LRU

{gaps(run)}

Belady knows the future; it is not optimal once sizes, load times and queues differ, and a rule that is worse than
LRU although it knows the
future says that the choice of the victim alone is not what the waiting comes from.
"""


def main(options: Options) -> None:
    """Prints the table of claims and writes the page."""
    run = Run(Path(options.run))
    needed = {claim.over for claim in CLAIMS} | {"cace"}
    missing = sorted(needed - {policy for name in run.scenarios for policy in run.policies(name)})
    if missing:
        raise ConfigError(
            f"{options.run} lacks {', '.join(missing)}; compare with at least {', '.join(sorted(needed))}"
        )
    Console(highlight=False, soft_wrap=True).print(claims_table(run), markup=False)
    if options.write is not None:
        Path(options.write).write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except ConfigError as error:
        sys.exit(f"error: {error}")
