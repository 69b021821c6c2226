"""How fast the simulator is: whole episodes, batches, latency, growth, start, compiling, memory, training.

    python -m experiments.benchmark                                 everything, under five minutes on two cores
    python -m experiments.benchmark --only episodes,batches         some probes
    python -m experiments.benchmark --against ../other-checkout     and how this code compares with another checkout
    python -m experiments.benchmark --write docs/benchmarks.md      and the tables of the page

Every probe (`experiments/speed/probe.py`) runs in a new process, those that differ from process to process `--rounds`
times; with `--against` the same probe of the other checkout follows at once. Prints the targets and one table, and
writes JSON. Everything runs on one core, but where threads are said; the other cores should be idle.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

from cace_env.config import ConfigError, Frozen
from cace_env.files import json_text, replace_file
from experiments.pages.regions import fill
from experiments.reading.markdown import number, table
from experiments.running.command_line import Session, metavar, run_command, screen_table, split_names
from experiments.running.progress import progress_bar
from experiments.running.run_folder import surroundings
from experiments.speed import probe as script
from experiments.speed.probe import PROBES

ROOT: Final = Path(__file__).resolve().parents[1]
# Slow, hardly different from one process to the next, or measured in many turns within one.
ONCE: Final = (
    "batches", "growth", "ablation", "compiling", "memory", "batch_memory", "sb3", "cartpole", "libcachesim",
)  # fmt: skip
PEERS: Final = ROOT / ".venvs" / "peers"  # an environment with EnvPool, if `make bench-peers` has made one
ALL_OF_IT: Final = "the whole benchmark"
# What is to be reached: at least, where more is better, else at most.
TARGETS: Final = {
    "64 environments, one thread over LRU": 0.7,
    "1,024 environments, one thread over LRU": 0.5,
    "64 environments, two threads over one": 1.6,
    "1,024 environments, two threads over one": 1.8,
    "64 environments, fresh requests, one thread over LRU with generation": 0.8,
    "64 environments, one thread over CartPole": 0.6,
    "1,024 environments, one thread over CartPole": 0.8,
    "one environment over CartPole": 0.5,
    "a state taken and put back, 16 slots": 10.0,
    "whole episodes, lru": 1e6,
    "whole episodes, cace": 1e6,
    "Swap-v0 over LRU in Eviction-v0": 0.7,
    "time of a decision, exponent in slots": 1.0,
    "time of a decision, exponent in models": 1.0,
    "time of a decision, exponent in accelerators": 1.0,
    "import to first step": 2.0,
    "compiling, all of these": 40.0,
    "peak memory of 1,000,000 requests": 500.0,
    "memory after 1,280,000 decisions over the first fifth": 1.01,
    "PPO, defaults: share of the environment": 0.15,
    ALL_OF_IT: 300.0,
}


class Benchmark(Frozen):
    """What is measured, and where the results go."""

    only: Annotated[tuple[str, ...], metavar("A,B")] = Field(
        default=(), description=f"probes to run, all by default: {', '.join(PROBES)}"
    )
    rounds: int = Field(default=3, ge=1, le=1_000, description="processes that run each probe; slow probes run once")
    quick: bool = Field(default=False, description="next to nothing is measured: does it run?")
    against: Annotated[Path | None, metavar("CHECKOUT")] = Field(
        default=None, description="another checkout, measured in turns with this one; ratios are this one over it"
    )
    out: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="new file for the results; runs/benchmark-<time>.json by default"
    )
    write: Annotated[Path | None, metavar("FILE")] = Field(default=None, description="page whose tables are replaced")


class Row(NamedTuple):
    """One measured thing."""

    probe: str
    what: str
    unit: str
    best: float | None  # of the rounds; None: what it would need is not installed
    median: float | None
    ratio: float | None = None  # to the other checkout, the median of the rounds

    @property
    def reached(self) -> float | None:
        """What counts: the best of times and rates, which others on the machine only worsen, the median of ratios."""
        return self.median if self.unit in ("x", "") else self.best

    @property
    def met(self) -> str:
        """Whether the target is met: "yes", "no", or "" where there is none."""
        limit = TARGETS.get(self.what)
        if limit is None or self.reached is None:
            return ""
        return "yes" if (self.reached >= limit if more_is_better(self.unit) else self.reached <= limit) else "no"


def more_is_better(unit: str) -> bool:
    """Whether of two values the larger one is better."""
    return unit.endswith("/s") or unit == "x"


def run_probe(probe: str, checkout: Path, quick: bool) -> list[tuple[str, float | None, str]]:
    """What a probe measures in a new process that imports from `checkout`.

    Raises:
        ConfigError: it failed; the last line that it said is in the message.
    """
    has_envpool = probe == "cartpole" and (PEERS / ".ready").is_file()
    python = PEERS / "bin" / "python" if has_envpool else sys.executable
    command = [str(python), "-P", script.__file__, probe, *(["--quick"] if quick else [])]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ConfigError(f"the probe {probe} failed in {checkout}: {said}")
    return [(what, value, unit) for what, value, unit in json.loads(done.stdout)]


def rows_of(probe: str, here: Sequence[Any], there: Sequence[Any]) -> Iterator[Row]:
    """What the rounds of a probe say together; `there` are those of the other checkout, none without one."""
    others = [{what: value for what, value, _ in one} for one in there]
    for place, (what, first, unit) in enumerate(here[0]):
        if first is None:
            yield Row(probe, what, unit, None, None)
            continue
        values = [one[place][1] for one in here]
        ratios = [value / other[what] for value, other in zip(values, others, strict=False) if other.get(what)]
        best = max(values) if more_is_better(unit) else min(values)
        ratio = float(np.median(ratios)) if ratios else None
        yield Row(probe, what, unit, best, float(np.median(values)), ratio)


def measure(options: Benchmark, console: Console) -> list[Row]:
    """Runs the probes.

    Raises:
        ConfigError: an unknown probe, one that failed, or --against is no checkout.
    """
    if options.against is not None and not (options.against / "cace_env").is_dir():
        raise ConfigError(f"--against {options.against}: there is no cace_env in it; give the folder of a checkout")
    names = split_names(options.only) or list(PROBES)
    if unknown := [name for name in names if name not in PROBES]:
        raise ConfigError(f"there is no probe {unknown[0]!r}; use {', '.join(PROBES)}")
    jobs = [(name, 1 if name in ONCE else options.rounds) for name in names]
    rows: list[Row] = []
    began = time.perf_counter()
    with progress_bar(console) as progress:
        bar = progress.add_task("", total=sum(rounds for _, rounds in jobs))
        for name, rounds in jobs:
            here, there = [], []
            for _ in range(rounds):
                progress.update(bar, description=name)
                here.append(run_probe(name, ROOT, options.quick))
                if options.against is not None:
                    there.append(run_probe(name, options.against.resolve(), options.quick))
                progress.advance(bar)
            rows += rows_of(name, here, there)
    if len(names) == len(PROBES) and options.against is None:
        seconds = time.perf_counter() - began
        rows.append(Row("", ALL_OF_IT, "s", seconds, seconds))
    return rows


def target_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of targets, as text."""
    by_name = {row.what: row for row in rows}
    lines = []
    for what, limit in TARGETS.items():
        if row := by_name.get(what):
            target = f"at {'least' if more_is_better(row.unit) else 'most'} {number(limit)}"
            met = f"**{row.met}**" if row.met == "no" else row.met
            lines.append([what, target, number(row.reached), row.unit, met])
    return ["", "target", "measured", "unit", "met"], lines


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of everything that was measured, as text."""
    compared = any(row.ratio is not None for row in rows)
    lines = []
    for row in rows:
        ratio = [] if not compared else ["" if row.ratio is None else f"{row.ratio:.2f}"]
        lines.append([row.what, number(row.best), number(row.median), row.unit, *ratio])
    return ["", "best", "median", "unit", *(["over the other"] if compared else [])], lines


def machine() -> dict[str, Any]:
    """Where it was measured; the load average says how idle that was."""
    about = surroundings()
    info = Path("/proc/cpuinfo")
    names = [line for line in (info.read_text("utf-8") if info.is_file() else "").splitlines() if "model name" in line]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cpu = names[0].partition(":")[2].strip() if names else platform.machine()
    return about | {"cpu": cpu, "cores": os.cpu_count(), "load_average_1min": load}


def page_tables(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the regions of the page."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    measured = (
        f"Measured on {about['started'][:10]}: {about['cpu']}, {about['cores']} cores, {about['platform']}, "
        f"load average at the start {about['load_average_1min']:.1f};\n{versions}."
    )
    return {
        "targets": f"{measured}\n\n{table(*target_cells(rows), numbers='right')}",
        "benchmark": table(*cells(rows), numbers="right"),
    }


def run(options: Benchmark, session: Session) -> int:
    """Measures, prints the tables, and writes the results; the exit status.

    Raises:
        ConfigError: the file for the results exists, or as `measure`.
    """
    console, command = session.console, session.command
    out = options.out or Path("runs") / f"benchmark-{datetime.now():%Y%m%d-%H%M%S}.json"
    if out.exists():
        raise ConfigError(f"{out} is there already; name another --out, or remove it")
    about = machine()
    rows = measure(options, console)
    for shown in (cells(rows), target_cells(rows)):
        if shown[1]:
            console.print(screen_table(*shown))
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "command": command,
        "quick": options.quick,
        "machine": about,
        "rows": [row._asdict() | {"met": row.met} for row in rows],
    }
    replace_file(out, json_text(results))
    if options.write is not None:
        fill(options.write, page_tables(rows, about))
    console.print(f"Results: {out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("benchmark", Benchmark, run, arguments, __doc__, interrupted="interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
