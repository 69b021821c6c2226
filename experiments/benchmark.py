"""How fast the simulator is: whole episodes, batches of environments, latency, growth, compilation, memory.

    python -m experiments.benchmark                            everything, about 13 minutes
    python -m experiments.benchmark --quick                    rough figures in seconds, nothing compiled anew
    python -m experiments.benchmark --only vector,cartpole     some parts
    python -m experiments.benchmark --write docs/benchmarks.md
    python -m experiments.benchmark --results runs/benchmark-.../benchmark.json --write docs/benchmarks.md
    python -m experiments.benchmark --only long --long 100000000    memory over a hundred million decisions

Prints tables; writes `benchmark.json` and plots into a new folder. What each figure means stands in
`docs/benchmarks.md`. One core but where threads are said; the other cores should be idle.
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
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cace_env.config import ConfigError
from cace_env.policies import POLICIES
from cace_env.scenarios import compared_scenarios, scenario_names
from experiments.benchmarks import tables as tables
from experiments.benchmarks.page import PICTURE, page
from experiments.benchmarks.parts import EVERYWHERE, PARTS, Effort, jobs
from experiments.benchmarks.plot import draw, draw_overview
from experiments.benchmarks.targets import DEFAULT, LONG, MILLION, judge
from experiments.running.command_line import split_names
from experiments.running.run_folder import check_new, surroundings

Figures = dict[str, Any]

WIDTH: Final = 110  # columns of the terminal that the tables need
FORMAT: Final = 2  # of benchmark.json, raised when a key changes its meaning


@dataclass(frozen=True)
class Options:
    """What is measured, and where the results go."""

    quick: bool = False
    """few rounds, the default scenario only, small batches, short runs, nothing compiled anew"""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = ()
    """parts to measure; all by default"""
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = ()
    """built-in policies on the default scenario; all by default"""
    scenarios: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B")] = ()
    """scenarios on which lru, cace and batches run; all shipped ones by default"""
    rounds: int | None = None
    """how often whole episodes are repeated, and other things at most; 40 by default, 3 with --quick"""
    requests: int | None = None
    """length of the episode whose memory is measured; 1,000,000 by default, 50,000 with --quick"""
    long: int | None = None
    """decisions over which memory is watched; 10,000,000 by default, 100,000 with --quick"""
    out: Path | None = None
    """new folder for the results; runs/benchmark-<time> by default"""
    write: Path | None = None
    """also write the page of the docs, and its picture into images/ beside it"""
    results: Path | None = None
    """benchmark.json of an earlier run to show or write, instead of measuring"""


def names_of(values: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """`a,b c` and `a b c` alike.

    Raises:
        ConfigError: an unknown name.
    """
    names = split_names(values)
    for name in names:
        if name not in known:
            raise ConfigError(f"no {what} called {name!r}; known are {', '.join(known)}")
    return names


def effort_of(options: Options) -> Effort:
    """How much the options ask for.

    Raises:
        ConfigError: an unknown name, or a number below 1.
    """
    for name in ("rounds", "requests", "long"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}; it has to be at least 1")
    quick = options.quick
    scenarios = names_of(options.scenarios, scenario_names(), "scenario") or ([] if quick else compared_scenarios())
    return Effort(
        quick=quick,
        rounds=options.rounds or (3 if quick else 40),
        requests=options.requests or (50_000 if quick else MILLION),
        long=options.long or (100_000 if quick else LONG),
        policies=list(
            dict.fromkeys([*EVERYWHERE, *(names_of(options.policies, list(POLICIES), "policy") or POLICIES)])
        ),
        scenarios=list(dict.fromkeys([DEFAULT, *scenarios])),
    )


def measure(options: Options, command: str, folder: Path, console: Console) -> Figures:
    """Runs every measurement; benchmark.json in the new `folder` grows with each.

    Raises:
        ConfigError: an unknown name, or the folder is not empty.
    """
    parts = names_of(options.only, list(PARTS), "part")
    todo = jobs(effort_of(options), parts)
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures: Figures = {"format": FORMAT, "command": command, "quick": options.quick, "machine": machine()}
    columns = (BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(job.weight for job in todo))
        for job in todo:
            progress.update(bar, description=job.label)
            job.run(figures)
            progress.advance(bar, job.weight)
            keep(figures, folder)
    figures["targets"] = [judged._asdict() for judged in judge(figures)]
    keep(figures, folder)
    return figures


def keep(figures: Figures, folder: Path) -> None:
    """Writes benchmark.json."""
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    (folder / "benchmark.json").write_text(text, encoding="utf-8")


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


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def show(figures: Figures, console: Console) -> None:
    """Tables in the terminal, of the parts that were measured."""
    for part, title, grid in tables.SHOWN:
        if part in figures and not isinstance(figures[part].get("skipped"), str):
            _print(console, title, grid(figures[part]))
    for line in summary(figures):
        console.print(line, highlight=False)
    if figures.get("targets"):
        _print(console, "Targets", tables.targets(figures))


def _print(console: Console, title: str, grid: tables.Grid) -> None:
    shown = Table(title=title, title_justify="left")
    for number, header in enumerate(grid.header):
        shown.add_column(header, justify="right" if number else "left")
    for row in grid.rows:
        shown.add_row(*(_rich(cell) for cell in row))
    console.print(shown)


def _rich(cell: str) -> str:
    """Markdown's bold and code as the terminal shows them."""
    text = cell.replace("`", "")
    return f"[bold]{text[2:-2]}[/]" if text.startswith("**") and text.endswith("**") else text.replace("**", "")


def summary(figures: Figures) -> Iterator[str]:
    """One line for each measurement that is no table."""
    if "features" in figures:
        yield (
            f"reading all features of all candidates: {figures['features']['ns_per_decision']:.0f} ns per decision, "
            f"{figures['features']['share_of_episode']:.0%} of an episode"
        )
    other = figures.get("libcachesim", {"skipped": "not asked for"})
    if "skipped" not in other:
        yield (
            f"libCacheSim {other['version']}, LRU, {other['slots']} equal slots, same models in the same order: "
            f"{other['requests_per_s']['best'] / 1e6:.1f} million requests/s; ours over theirs "
            f"{other['ours_over_theirs']:.3f} (a pure cache: no time, no queues, no loads, no serving)"
        )
    for part in ("libcachesim", "sb3", "compile"):
        if "skipped" in figures.get(part, {}):
            yield f"{part}: not measured, {figures[part]['skipped']}"
    if "cartpole" in figures and "skipped" in figures["cartpole"]["envpool"]:
        yield f"EnvPool: not measured, {figures['cartpole']['envpool']['skipped']}"
    for reason in figures.get("vector", {}).get("skipped", ()):
        yield f"batch not measured: {reason}"
    if "all_s" in figures.get("compile", {}):
        compiling = figures["compile"]
        yield (
            f"first compilation: {compiling['first_result_s']:.1f} s to the first episode, {compiling['all_s']:.1f} s "
            f"with the environment (lines of notice: {compiling['notices']})"
        )
    if "start" in figures:
        yield f"import to first env step: {figures['start']['median']['first_step_s']:.2f} s"
    if "memory" in figures:
        yield f"peak memory of {figures['memory']['requests']:,} requests: {figures['memory']['peak_mb']:.0f} MB"
    if "long" in figures:
        run = figures["long"]
        yield (
            f"{run['decisions']:,} decisions of {run['num_envs']} environments in {run['seconds']:.0f} s: "
            f"{run['settled_mb']:.1f} MB in the first fifth, {run['last_mb']:.1f} MB in the last"
        )


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
    console.width = max(console.width, WIDTH)
    folder = options.out or Path("runs") / f"benchmark-{datetime.now():%Y%m%d-%H%M%S}"
    command = shlex.join(["python", "-m", "experiments.benchmark", *arguments])
    try:
        if options.results is not None:
            figures = read_results(options.results)
        else:
            figures = measure(options, command, folder, console)
            if "scenarios" in figures:
                draw(figures, folder / "rates.png")
            draw_overview(figures, folder / "overview.png")
        show(figures, console)
        if options.write is not None:
            options.write.write_text(page(figures), encoding="utf-8")
            picture = options.write.parent / PICTURE
            picture.parent.mkdir(exist_ok=True)
            draw_overview(figures, picture)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.results is None:
        console.print(f"Results: [bold]{folder}[/bold]", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
