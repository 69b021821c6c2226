"""How fast the simulator is: whole episodes, environment steps, first compilation, start, memory.

    python -m experiments.benchmark                            everything, a few minutes
    python -m experiments.benchmark --quick                    rough figures in seconds, nothing compiled anew
    python -m experiments.benchmark --write docs/benchmarks.md
    python -m experiments.benchmark --results runs/benchmark-.../benchmark.json --write docs/benchmarks.md

Prints tables; writes `benchmark.json` and a plot into a new folder. What each figure means stands in
`docs/benchmarks.md`. One core throughout; the other cores should be idle.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from cace_env.config import ConfigError
from cace_env.policies import POLICIES
from cace_env.scenarios import load_scenario, scenario_names, seeds
from experiments import benchmark_measures as measure
from experiments.benchmark_page import draw, page
from experiments.command_line import split_names
from experiments.run_folder import check_new, surroundings

Figures = dict[str, Any]

FORMAT: Final = 1  # of benchmark.json, raised when a key changes its meaning
DEFAULT: Final = "default"  # the scenario on which every policy runs
EVERYWHERE: Final = ("lru", "cace")  # the policies that run on every scenario
EPISODES: Final = 8  # seeds per round


@dataclass(frozen=True)
class Options:
    """What is measured, and where the results go."""

    quick: bool = False
    """few rounds, the default scenario only, a short memory run, nothing compiled anew"""
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = ()
    """built-in policies on the default scenario; all by default"""
    scenarios: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = ()
    """scenarios on which lru and cace run; all shipped ones by default"""
    rounds: int | None = None
    """how often everything is repeated; 40 by default, 3 with --quick"""
    requests: int | None = None
    """length of the episode whose memory is measured; 1,000,000 by default, 50,000 with --quick"""
    out: Path | None = None
    """new folder for the results; runs/benchmark-<time> by default"""
    write: Path | None = None
    """also write the page of the docs"""
    results: Path | None = None
    """benchmark.json of an earlier run to show or write, instead of measuring"""


class Target(NamedTuple):
    """A figure that the project promises."""

    what: str
    limit: float
    at_least: bool  # else at most
    unit: str
    path: tuple[str, ...]  # in benchmark.json


ON_DEFAULT: Final = ("scenarios", DEFAULT, "policies")
TARGETS: Final = (
    Target("LRU, whole episodes", 1e6, True, "requests/s", (*ON_DEFAULT, "lru", "requests_per_s", "best")),
    Target("CACE, whole episodes", 1e6, True, "requests/s", (*ON_DEFAULT, "cace", "requests_per_s", "best")),
    Target("first compilation, all of it", 40.0, False, "s", ("compile", "all_s")),
    Target("import to first step, compiled before", 2.0, False, "s", ("start", "median", "first_step_s")),
    Target("peak memory of 1,000,000 requests", 500.0, False, "MB", ("memory", "peak_mb")),
)  # fmt: skip


def names_of(values: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """`a,b c` and `a b c` alike, all known ones where none is given.

    Raises:
        ConfigError: an unknown name.
    """
    names = split_names(values)
    for name in names:
        if name not in known:
            raise ConfigError(f"no {what} called {name!r}; known are {', '.join(known)}")
    return names or list(known)


def measure_all(options: Options, command: str, folder: Path, console: Console) -> Figures:
    """Runs every measurement; the result is what benchmark.json in the new `folder` holds.

    Raises:
        ConfigError: an unknown name, or the folder is not empty.
    """
    rounds = options.rounds or (3 if options.quick else 40)
    requests = options.requests or (50_000 if options.quick else 1_000_000)
    policies = names_of(options.policies, list(POLICIES), "policy")
    known = scenario_names()
    names = [DEFAULT] if options.quick and not options.scenarios else names_of(options.scenarios, known, "scenario")
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = seeds("test", 2 if options.quick else EPISODES)
    figures: Figures = {"format": FORMAT, "command": command, "quick": options.quick, "machine": machine()}
    with console.status("preparing") as status:
        default = measure.Episodes(load_scenario(DEFAULT), numbers)
        status.update(f"{DEFAULT}: every policy")
        everyone = list(dict.fromkeys([*EVERYWHERE, *policies]))
        figures["scenarios"] = {DEFAULT: measure.episode_rates(default, everyone, rounds)}
        for name in names:
            if name != DEFAULT:
                status.update(f"{name}: {', '.join(EVERYWHERE)}")
                episodes = measure.Episodes(load_scenario(name), numbers)
                figures["scenarios"][name] = measure.episode_rates(episodes, EVERYWHERE, rounds)
        status.update("features, libCacheSim")
        figures["features"] = measure.feature_cost(default, rounds)
        figures["libcachesim"] = measure.libcachesim_rate(default, rounds)
        status.update("environment steps")
        figures["steps"] = measure.step_rates(min(rounds, 10), 500 if options.quick else 5_000)
        status.update("starting" if options.quick else "compiling in an empty cache folder, starting")
        figures |= measure.start_times(1 if options.quick else 5, fresh=not options.quick)
        status.update(f"an episode of {requests:,} requests")
        figures["memory"] = measure.probe("memory", str(requests))
    figures["targets"] = [judged._asdict() for judged in judge(figures)]
    return figures


class Judged(NamedTuple):
    """A target and what was measured."""

    what: str
    measured: float
    limit: float
    unit: str
    met: bool


def judge(figures: Figures) -> Iterator[Judged]:
    """The targets that were measured as they are meant."""
    for target in TARGETS:
        value: Any = figures
        for key in target.path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or (target.path[0] == "memory" and figures["memory"]["requests"] != 1_000_000):
            continue
        met = value >= target.limit if target.at_least else value <= target.limit
        yield Judged(target.what, value, target.limit, target.unit, bool(met))


def machine() -> Figures:
    """Where it was measured; the load average says how idle that was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = surroundings() | {"cpu": cpu_model(), "cores": os.cpu_count(), "load_average_1min": load}
    about.pop("git")
    return about


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------------------------------------------------------------
# Showing and keeping


def show(figures: Figures, console: Console) -> None:
    """Tables in the terminal."""
    title = "Whole episodes, one core: thousand requests/s (best, median, with their generation) and decisions"
    rates = Table("scenario", title=title, title_justify="left")
    rates.add_column("policy", no_wrap=True)
    for header in ("best", "median", "generated", "dec./s", "dec./req."):
        rates.add_column(header, justify="right", no_wrap=True)
    for scenario, about in figures["scenarios"].items():
        for policy, row in about["policies"].items():
            per_s = row["requests_per_s"]
            rates.add_row(
                scenario,
                policy,
                f"{per_s['best'] / 1e3:,.0f}",
                f"{per_s['median'] / 1e3:,.0f}",
                f"{row['with_generation_per_s']['median'] / 1e3:,.0f}",
                f"{row['decisions_per_s']['median'] / 1e3:,.0f}",
                f"{row['decisions_per_request']:.3f}",
            )
    console.print(rates)
    for line in summary(figures):
        console.print(line, highlight=False)
    targets = Table("target", title="Targets", title_justify="left")
    for header in ("measured", "limit", "met"):
        targets.add_column(header, justify="right")
    for row in figures["targets"]:
        digits = ",.1f" if row["unit"] == "s" else ",.0f"
        limit = f"{row['limit']:,.0f} {row['unit']}"
        targets.add_row(row["what"], f"{row['measured']:{digits}}", limit, "yes" if row["met"] else "[bold red]no[/]")
    console.print(targets)


def summary(figures: Figures) -> Iterator[str]:
    """One line for each of the other measurements."""
    around = figures["scenarios"][DEFAULT]["around_us_per_request"]
    lru = figures["scenarios"][DEFAULT]["policies"]["lru"]["requests_per_s"]["median"]
    parts = ", ".join(f"{name} {us:.2f}" for name, us in around.items())
    yield f"default, us per request: LRU episode {1e6 / lru:.2f}, {parts}"
    features = figures["features"]
    yield (
        f"reading all features of all candidates: {features['ns_per_decision']:.0f} ns per decision, "
        f"{features['share_of_episode']:.0%} of an episode"
    )
    other = figures["libcachesim"]
    if "skipped" in other:
        yield f"libCacheSim: not measured, {other['skipped']}"
    else:
        yield (
            f"libCacheSim {other['version']}, LRU, {other['slots']} equal slots, same models in the same order: "
            f"{other['requests_per_s']['best'] / 1e6:.1f} million requests/s; ours over theirs "
            f"{other['ours_over_theirs']:.3f} (a pure cache: no time, no queues, no loads, no serving)"
        )
    for name, how in (("made", "as gymnasium.make returns it"), ("bare", "unwrapped")):
        rates = figures["steps"][name]
        yield (
            f"env steps/s, {how}: {rates['eviction_steps_per_s']['best']:,.0f}; CartPole-v1 "
            f"{rates['cartpole_steps_per_s']['best']:,.0f}; ratio {rates['eviction_over_cartpole']:.2f}"
        )
    compiling = figures["compile"]
    if "skipped" in compiling:
        yield f"first compilation: not measured ({compiling['skipped']})"
    else:
        yield (
            f"first compilation: {compiling['first_result_s']:.1f} s to the first episode, {compiling['all_s']:.1f} s "
            f"with the environment, {compiling['all_cpu_s']:.1f} s of them computing (lines of notice: "
            f"{compiling['notices']})"
        )
    start = figures["start"]["median"]
    yield (
        f"import to first env step: {start['first_step_s']:.2f} s, of it import gymnasium "
        f"{start['import_gymnasium_s']:.2f}, import cace_env {start['import_cace_env_s']:.3f}, make "
        f"{start['make_s']:.2f}, reset {start['reset_s']:.2f}"
    )
    memory = figures["memory"]
    yield (
        f"peak memory of {memory['requests']:,} requests: {memory['peak_mb']:.0f} MB (imports "
        f"{memory['after_import_mb']:.0f}, with generation {memory['after_generation_mb']:.0f}, with the episode "
        f"{memory['after_episode_mb']:.0f}); {memory['requests'] / memory['episode_s'] / 1e6:.2f} million requests/s"
    )


def read_results(path: Path) -> Figures:
    """An earlier benchmark.json.

    Raises:
        ConfigError: there is none, or it is of another format.
    """
    try:
        figures: Figures = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as results of a benchmark: {error}") from error
    if not isinstance(figures, dict) or figures.get("format") != FORMAT:
        raise ConfigError(f"{path} is no benchmark.json of format {FORMAT}; measure again")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.benchmark",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    console = Console()
    folder = options.out or Path("runs") / f"benchmark-{datetime.now():%Y%m%d-%H%M%S}"
    command = shlex.join(["python", "-m", "experiments.benchmark", *arguments])
    try:
        if options.results is not None:
            figures = read_results(options.results)
        else:
            figures = measure_all(options, command, folder, console)
            text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
            (folder / "benchmark.json").write_text(text, encoding="utf-8")
            draw(figures, folder / "rates.png")
        show(figures, console)
        if options.write is not None:
            options.write.write_text(page(figures), encoding="utf-8")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.results is None:
        console.print(f"Results: [bold]{folder}[/bold]", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
