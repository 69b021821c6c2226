"""The benchmark's plot and its page in the docs, both from the figures of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from cace_env.markdown import table
from cace_env.policies import POLICIES
from experiments.plots import GROUP_COLOURS, STYLE

Figures = dict[str, Any]

DEFAULT: Final = "default"


def draw(figures: Figures, path: Path) -> None:
    """Requests per second of every policy on the default scenario, and of LRU and CACE on every scenario."""
    scenarios = figures["scenarios"]
    default = scenarios[DEFAULT]["policies"]
    rows = max(len(default), 2 * len(scenarios))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.4 + 0.21 * rows), layout="constrained")
        colours = {name: GROUP_COLOURS[POLICIES[name].group] for name in default}
        _bars(left, list(default), [default[name] for name in default], [colours[name] for name in default])
        left.set_title("default scenario, every policy", loc="left")
        groups = list(dict.fromkeys(POLICIES[name].group for name in default))
        handles = [Patch(color=GROUP_COLOURS[group]) for group in groups]
        figure.legend(handles, groups, loc="outside lower center", ncols=len(groups), frameon=False)
        pairs = [(name, policy) for name in scenarios for policy in ("lru", "cace")]
        _bars(
            right,
            [f"{name}, {policy}" for name, policy in pairs],
            [scenarios[name]["policies"][policy] for name, policy in pairs],
            [colours[policy] for _, policy in pairs],
        )
        right.set_title("every scenario, LRU and CACE", loc="left")
        figure.suptitle("Whole episodes on one core: best round (bar) and median (tick)", x=0.01, ha="left")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _bars(axes: Any, labels: Sequence[str], rows: Sequence[Figures], colours: Sequence[str]) -> None:
    """One bar per row, the first on top."""
    places = range(len(labels))
    axes.barh(places, [row["requests_per_s"]["best"] / 1e6 for row in rows], color=colours, height=0.72)
    medians = [row["requests_per_s"]["median"] / 1e6 for row in rows]
    axes.scatter(medians, places, marker="|", s=60, color="black", zorder=3)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("million requests per second")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


# ---------------------------------------------------------------------------------------------------------------------
# The page


def page(figures: Figures) -> str:
    """`docs/benchmarks.md`."""
    default = figures["scenarios"][DEFAULT]
    machine = figures["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    memory, start, features = figures["memory"], figures["start"], figures["features"]
    load = machine["load_average_1min"]
    return PAGE.format(
        cpu=machine["cpu"],
        cores=machine["cores"],
        platform=machine["platform"],
        versions=versions,
        date=machine["started"][:10],
        load="" if load is None else f", load average at the start {load:.1f}",
        targets=_targets(figures),
        rounds=default["rounds"],
        episodes=default["episodes"],
        requests=default["requests"],
        models=default["models"],
        accelerators=default["accelerators"],
        policies=_rates((name, row) for name, row in default["policies"].items()),
        scenarios=_rates(
            (f"{name}, {policy}", about["policies"][policy])
            for name, about in figures["scenarios"].items()
            for policy in ("lru", "cace")
        ),
        parts=_parts(default),
        features_ns=features["ns_per_decision"],
        features_share=features["share_of_episode"],
        libcachesim=_libcachesim(figures["libcachesim"]),
        steps=_steps(figures["steps"]),
        requests_per_decision=1 / default["policies"]["lru"]["decisions_per_request"],
        compiling=_compiling(figures["compile"]),
        starts=start["rounds"],
        start=table(
            ("from a new process on", "best s", "median s"),
            [
                (what, f"{start['best'][key]:.3f}", f"{start['median'][key]:.3f}")
                for what, key in START_PARTS
            ],
            numbers="right",
        ),
        long=memory["requests"],
        memory=table(
            ("so far", "peak MB"),
            [
                ("imports, scenario", f"{memory['after_import_mb']:.0f}"),
                ("the requests generated", f"{memory['after_generation_mb']:.0f}"),
                ("the episode simulated", f"{memory['after_episode_mb']:.0f}"),
                ("metrics computed", f"{memory['peak_mb']:.0f}"),
            ],
            numbers="right",
        ),
        long_rate=memory["requests"] / memory["episode_s"] / 1e6,
    )  # fmt: skip


def _targets(figures: Figures) -> str:
    rows = []
    for row in figures["targets"]:
        digits = ",.1f" if row["unit"] == "s" else ",.0f"
        limit = f"{row['limit']:,.0f} {row['unit']}"
        rows.append((row["what"], f"{row['measured']:{digits}}", limit, "yes" if row["met"] else "**no**"))
    return table(("target", "measured", "limit", "met"), rows, numbers="right")


def _rates(rows: Iterable[tuple[str, Figures]]) -> str:
    header = ("", "best", "median", "with generation", "decisions/s", "decisions/request")
    return table(
        header,
        [
            (
                name,
                f"{row['requests_per_s']['best'] / 1e3:,.0f}",
                f"{row['requests_per_s']['median'] / 1e3:,.0f}",
                f"{row['with_generation_per_s']['median'] / 1e3:,.0f}",
                f"{row['decisions_per_s']['median'] / 1e3:,.0f}",
                f"{row['decisions_per_request']:.3f}",
            )
            for name, row in rows
        ],
        numbers="right",
    )


def _parts(default: Figures) -> str:
    around = default["around_us_per_request"]
    episode_us = 1e6 / default["policies"]["lru"]["requests_per_s"]["median"]
    rows = [
        ("generating the requests", around["generation"]),
        ("laying them out for the kernel, with all checks", around["layout"]),
        ("the episode under LRU, in compiled code, its reset included", episode_us),
        ("results per request and all metrics", around["results"]),
    ]
    return table(("part", "us per request"), [(what, f"{us:.3f}") for what, us in rows], numbers="right")


def _libcachesim(figures: Figures) -> str:
    if "skipped" in figures:
        return f"Not measured: {figures['skipped']}."
    rates = figures["requests_per_s"]
    return (
        f"libCacheSim {figures['version']}, {figures['slots']} slots: {rates['best'] / 1e6:.1f} million requests/s\n"
        f"(median round {rates['median'] / 1e6:.1f}; miss ratio {figures['miss_ratio']:.3f}); ours over "
        f"theirs: {figures['ours_over_theirs']:.3f}."
    )


def _steps(figures: Figures) -> str:
    rows = []
    for key, how in (("made", "as `gymnasium.make` returns them"), ("bare", "`unwrapped`")):
        rates = figures[key]
        eviction, cartpole = rates["eviction_steps_per_s"], rates["cartpole_steps_per_s"]
        cells = (eviction["best"], eviction["median"], cartpole["best"], cartpole["median"])
        rows.append((how, *(f"{rate:,.0f}" for rate in cells), f"{rates['eviction_over_cartpole']:.2f}"))
    return table(("", "Eviction-v0 best", "median", "CartPole-v1 best", "median", "ratio"), rows, numbers="right")


def _compiling(figures: Figures) -> str:
    if "skipped" in figures:
        return f"Not measured ({figures['skipped']})."
    rows = [
        ("importing", figures["import_s"]),
        ("first generated workload", figures["generation_s"]),
        ("first episode under a rule", figures["episode_s"]),
        ("first environment: reset and step", figures["env_s"]),
        ("**first call to last result**, without the import", figures["all_s"]),
        ("the same in processor time", figures["all_cpu_s"]),
    ]
    cells = [(what, f"{seconds:.1f}") for what, seconds in rows]
    return table(("in an empty cache folder", "s"), cells, numbers="right")


START_PARTS: Final = (
    ("`import gymnasium`", "import_gymnasium_s"),
    ("`import cace_env`", "import_cace_env_s"),
    ("`gymnasium.make`, which imports the simulator", "make_s"),
    ("`reset`", "reset_s"),
    ("`step`", "step_s"),
    ("**all**: import to first step", "first_step_s"),
)

PAGE: Final = """\
# Benchmarks

How fast the simulator is, and how that was measured. `make bench` (`python -m experiments.benchmark`) measures all of
it and writes `benchmark.json` and a plot into `runs/`; `--quick` gives rough figures in seconds. This page is written
by it: `python -m experiments.benchmark --write docs/benchmarks.md`, or from earlier results with
`--results runs/benchmark-.../benchmark.json`.

Measured on {date}: {cpu}, {cores} cores, {platform}{load};
{versions}. Everything runs on one core.

No machine is quite idle, so what is compared is measured in turns, round after round. *Best* takes every episode's
fastest run, *median* the median round: what the code can do, and what to expect. Ratios are of best figures.

{targets}

## Whole episodes

A built-in policy runs a whole episode in one compiled call, with everything [design.md](design.md) describes: queues,
continuous batching, prefix caches, swap channels, tiers. A *request* is one request of the workload, from arrival to
last token; a *decision* is one question to the policy. A round runs {episodes} test seeds one after the other
({requests:,} requests); {rounds} rounds. Thousand per second; *with generation* counts the time to generate the
requests and to lay them out as well.

The default scenario ({models} models, {accelerators} accelerators):

{policies}

LRU and CACE on every scenario (they differ in length, queues, accelerators and decisions per request):

{scenarios}

Where the time of an episode goes, default scenario, median round:

{parts}

Reading every feature of every candidate costs {features_ns:.0f} ns per decision, {features_share:.0%} of an episode:
LRU against an LRU that reads them all and decides the same. A rule reads only those that it needs.

One long episode of {long:,} requests, which no processor cache holds, runs at {long_rate:.2f} million requests/s under
LRU, laying it out included.

## Beside libCacheSim

[libCacheSim](https://github.com/1a1a11a/libCacheSim) is a fast cache simulator in C. Its LRU, called from Python with
`process_trace`, gets the models of the default scenario's requests in the order in which they arrived, one unit each,
and as many slots as models fit into memory on average. It has no time: no arrivals, queues, loads, tokens or
accelerators; it counts hits. The ratio says what simulating all of that costs over counting.

{libcachesim}

## Environment steps

One `cace_env/Eviction-v0` under random legal actions, resets included (each generates an episode and simulates up to
its first question; each last step computes all metrics), beside Gymnasium's CartPole-v1. A step of ours simulates what
happens until the next question: {requests_per_decision:.1f} requests on average under LRU.

{steps}

## First compilation and start

The first use compiles the simulator once per version of the package and says so in one line on stderr; the code
is kept in `~/.cache/cace_env` (or `$CACE_ENV_CACHE_DIR`).

{compiling}

From then on, {starts} new processes one after the other:

{start}

## Memory

Peak resident memory of a process of its own that generates one episode of {long:,} requests of the default scenario,
simulates it under LRU and computes its metrics:

{memory}
"""
