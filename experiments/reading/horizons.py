"""The horizon curve: what the shipped agents reach with the true future of the next seconds, as scores.

The costs ship with the suite, in the form of `cace_env.evaluation.results`; `python -m experiments.reference horizon`
writes them. Their policies are `agent` (without any future), `agent+60s` (with the true next 60 s at each decision),
and a rule that knows the next use of every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

import cace_env
from cace_env.config import ConfigError
from cace_env.evaluation import load_suite, suite_scores
from cace_env.evaluation.results import Results, published, read_results
from cace_env.evaluation.scores import BASELINE, REFERENCE, SuiteScores
from cace_env.files import save_figure
from cace_env.tables import Protocol
from experiments.reading.markdown import score_text, table

SHIPPED: Final = Path(cace_env.__file__).parent / "data" / "suites" / "v1-horizons.csv"
HORIZONS_S: Final = (5, 15, 60, 300, 900, 3600)
AGENT: Final = "agent"
PICTURE: Final = "horizons.png"
KNOWING: Final = {Protocol.EVICTION: "belady-cost", Protocol.SWAP: "very-patient-wsjf+belady-cost"}  # best on the suite


class Curve(NamedTuple):
    """The curve in one environment."""

    env: Protocol
    seeds: dict[str, list[int]]  # by entry: those that all policies have
    scores: SuiteScores


def policy_at(horizon_s: int) -> str:
    """The name in the file of the agent that knows the next seconds."""
    return f"{AGENT}+{horizon_s}s"


def policies(env: Protocol) -> list[str]:
    """All that a file has rows of."""
    return [AGENT, *map(policy_at, HORIZONS_S), KNOWING[env]]


def curve(results: Results, env: Protocol) -> Curve | None:
    """Scores of all policies on the entries of one environment; None where the file has none of them.

    Raises:
        ConfigError: an entry has changed since, or no costs of LRU and the reference ship for a seed.
    """
    suite = load_suite(results.header.suite)
    shipped = published(suite.version)
    if shipped is None:
        raise ConfigError(f"{results.source}: no costs of the reference ship with suite {suite.version}")
    seeds, costs = {}, {}
    for entry in suite.entries:
        mine = _seeds_of(results, entry.id, policies(env)) if entry.env == env else []
        if mine:
            results.check_fingerprint(entry)
            shipped.check_fingerprint(entry)
            seeds[entry.id] = mine
            costs[entry.id] = {name: results.column(entry.id, name, mine) for name in policies(env)}
            costs[entry.id] |= {name: shipped.column(entry.id, name, mine) for name in (BASELINE, REFERENCE)}
    return Curve(env, seeds, suite_scores(costs)) if costs else None


def _seeds_of(results: Results, entry: str, names: Sequence[str]) -> list[int]:
    """Seeds of an entry that all of the policies have."""
    there = [{row.seed for row in results.rows if row.entry == entry and row.policy == name} for name in names]
    return sorted(set.intersection(*there))


def score_table(found: Curve) -> str:
    """The curve as Markdown, the mean over the entries first."""
    shown = policies(found.env)
    header = ["entry", "agent alone", *(f"next {horizon_s:,} s" for horizon_s in HORIZONS_S), f"`{KNOWING[found.env]}`"]
    rows = [["**interquartile mean**", *(f"**{score_text(found.scores.means[name])}**" for name in shown)]]
    for entry in found.seeds:
        rows.append([f"`{entry}`", *(score_text(found.scores.scores[name][entry]) for name in shown)])
    return f"{table(header, rows, numbers='right')}\n\n{seed_counts(found)} test seeds of each entry."


def seed_counts(found: Curve) -> str:
    """How many seeds entries have, in words."""
    counts = sorted({len(seeds) for seeds in found.seeds.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def shipped_curves() -> list[Curve]:
    """The curves that ship, of both environments.

    Raises:
        ConfigError: as `curve`.
    """
    results = read_results(SHIPPED)
    return [found for env in Protocol if (found := curve(results, env)) is not None]


def regions() -> dict[str, str]:
    """The tables of docs/reference.md, from the costs that ship.

    Raises:
        ConfigError: as `curve`.
    """
    return {f"horizons-{found.env}": score_table(found) for found in shipped_curves()}


def draw(path: Path) -> None:
    """Draws score against horizon from the costs that ship: entries thin, interquartile mean and its interval thick.

    Raises:
        ConfigError: as `curve`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from experiments.reading.style import GROUP_COLOURS, STYLE

    curves = shipped_curves()
    with plt.rc_context(STYLE):
        size = (4.4 * len(curves), 3.4)
        figure, panels = plt.subplots(1, len(curves), figsize=size, layout="constrained", sharey=True)
        for axes, found in zip(np.atleast_1d(panels), curves, strict=True):
            names = [policy_at(horizon_s) for horizon_s in HORIZONS_S]
            for entry in found.seeds:
                values = [found.scores.scores[name][entry].value for name in names]
                axes.plot(HORIZONS_S, values, color="#9BA3AD", linewidth=0.8)
            means = np.array([found.scores.means[name] for name in names])
            axes.fill_between(HORIZONS_S, means[:, 1], means[:, 2], color=GROUP_COLOURS["Clairvoyant"], alpha=0.3)
            axes.plot(HORIZONS_S, means[:, 0], "o-", color=GROUP_COLOURS["Clairvoyant"], label="knows the next seconds")
            for name, colour, label in (
                (AGENT, GROUP_COLOURS["Learned"], "shipped agent, knows nothing"),
                (KNOWING[found.env], "black", f"{KNOWING[found.env]}, knows every next use"),
            ):
                axes.axhline(found.scores.means[name].value, color=colour, linestyle="--", linewidth=1, label=label)
            axes.axhline(100, color="black", linewidth=0.8, linestyle=":")
            axes.set_xscale("log")
            axes.set_xticks(HORIZONS_S, [f"{horizon_s:,}" for horizon_s in HORIZONS_S])
            axes.minorticks_off()
            axes.grid(axis="y", alpha=0.3)
            axes.set_title(f"{found.env.env_name}: {seed_counts(found)} test seeds")
            axes.set_xlabel("seconds known at each decision")
            axes.legend(frameon=False, fontsize=7, loc="lower right")
        np.atleast_1d(panels)[0].set_ylabel("score: 0 = LRU, 100 = clairvoyant reference")
        save_figure(figure, path, dpi=110)
        plt.close(figure)
