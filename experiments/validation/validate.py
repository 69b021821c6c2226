"""The simulator against a real server, from the first calibration to the report."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from cace_env.config import ConfigError, one_line, read_text
from cace_env.files import json_text, replace_file
from cace_env.live.backends import Backend, BackendError, Start, make_backend, read_memory
from cace_env.live.calibration import Sample, drift_percent, measure
from cace_env.policies import contestant_of
from cace_env.tables import FleetTables
from experiments.calibration.outputs import Sizes, size_of, write_samples
from experiments.pages.regions import fill
from experiments.reports.page import write_page
from experiments.running.command_line import Session
from experiments.running.progress import progress_bar
from experiments.validation.evaluating import AFTER, BEFORE, Validation, evaluate
from experiments.validation.options import Validate
from experiments.validation.page import page_of
from experiments.validation.playing import play
from experiments.validation.records import read_plan, read_workload, write_plan, write_rows, write_run, write_workload
from experiments.validation.simulating import pace_for, simulate, tables_of, unguarded
from experiments.validation.summary import document_of, regions_of, say
from experiments.validation.workloads import kind_of, make

MEMORY_SHARE: Final = 0.65  # of what all models need together
SLACK_TOKENS: Final = 16  # of a seat's room that no request uses
RESULT, REPORT = "validation.json", "report.html"


def validate(options: Validate, session: Session) -> int:
    """Measures, unless `--from` says where that lies already; simulates, compares, writes.

    Returns:
        0 where the calibrations agree, and all runs are there; 1 where they do not: then nothing counts, but all is
        written.

    Raises:
        ConfigError: options, a server or a folder that cannot be used.
    """
    if options.from_ is None:
        if not options.backend or options.out is None:
            raise ConfigError("name a server, such as llama.cpp:models, and a folder for what is found, --out FOLDER")
        if options.out.exists() and any(options.out.iterdir()):
            raise ConfigError(f"{options.out} has something in it; give --out a new folder, or report on it by --from")
        _check_names(options)
        folder = options.out
        with progress_bar(session.console) as bar, _own_core(options):
            try:
                asyncio.run(_Measuring(options, session, bar).all())
            except BackendError as error:
                raise ConfigError(error.message) from error
    else:
        folder = options.from_
    with progress_bar(session.console) as bar:
        plan = read_plan(folder)
        task = bar.add_task("simulating", total=len(plan["workloads"]) * plan["simulations"])
        found = evaluate(folder, lambda: bar.advance(task))
    _write(found, folder)
    say(found, session.console)
    session.console.print(f"{folder / REPORT} has it all", soft_wrap=True)
    if options.write is not None:
        fill(options.write, regions_of(found))
    return 1 if found.problems else 0


def _check_names(options: Validate) -> None:
    """Everybody can decide and everything can be drawn: else it would be said after a calibration."""
    if len(options.policies) < 2:
        raise ConfigError("--policies: one policy is compared with nothing; name two at least, such as lru gdsf")
    for what, names in (("--policies", options.policies), ("--workloads", options.workloads)):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"{what} has {twice[0]!r} twice; name each once, --repeats says how often it runs")
    for name in options.workloads:
        kind_of(name)
    for name in options.policies:
        unguarded(contestant_of(name))


def _nothing_to_decide(needs: Sequence[int], memory: int) -> str:
    """Why no policy can be asked by these models, whatever is asked for; empty where one can. Both in bytes."""
    if memory >= sum(needs):
        because = f"memory of {memory / 1e9:.3g} GB holds all models at once ({sum(needs) / 1e9:.3g} GB)"
        change = "give less memory (--memory-gb)"
    elif memory < sum(sorted(needs)[:2]):
        because = f"memory of {memory / 1e9:.3g} GB holds one model at a time"
        change = "give more memory (--memory-gb), or a server with more models"
    else:
        return ""
    return f"No policy will be asked: {because}. All policies do the same then; to compare them, {change}."


def _write(found: Validation, folder: Path) -> None:
    """The results, simulated requests as rows, and the page."""
    rows = []
    for (name, policy), one in found.simulated.items():
        for number, (ttft_s, e2e_s) in enumerate(zip(one.ttft_s, one.e2e_s, strict=True)):
            rows.append((name, policy, "simulated", number, ttft_s, e2e_s))
    for run in found.runs:
        for number, (ttft_s, e2e_s) in enumerate(zip(run.ttft_s(), run.e2e_s(), strict=True)):
            rows.append((run.workload, run.policy, f"real {run.repeat}", number, ttft_s, e2e_s))
    write_rows(folder / "requests.csv", ("workload", "policy", "run", "request", "ttft_s", "e2e_s"), rows)
    replace_file(folder / RESULT, json_text(document_of(found)))
    write_page(page_of(found), folder / REPORT)


@contextmanager
def _own_core(options: Validate) -> Iterator[None]:
    """Clients and the router run on the core for loads: the other one is the accelerator."""
    if options.cores is None or not _starts_one(options):
        yield
        return
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if not set(options.cores) <= before:
        raise ConfigError(
            f"--cores {options.cores[0]} {options.cores[1]}: processes can be put on the cores {sorted(before)} here; "
            "name two of them, or say --cores None"
        )
    os.sched_setaffinity(0, {options.cores[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _starts_one(options: Validate) -> bool:
    kind, _, where = options.backend.partition(":")
    return kind == "llama.cpp" and not where.startswith(("http://", "https://"))


class _Measuring:
    """What is measured, into the folder, piece by piece: what is there stays if the rest is broken off."""

    def __init__(self, options: Validate, session: Session, bar: Progress) -> None:
        assert options.out is not None
        self._options, self._session, self._bar, self._folder = options, session, bar, options.out

    async def all(self) -> None:
        """Calibrates, plays, calibrates."""
        o = self._options
        self._folder.mkdir(parents=True, exist_ok=True)
        backend = self._backend()
        try:
            if not backend.verified:
                self._say(f"The backend {backend.kind} is unverified against the real server.")
            sizes = await self._sizes(backend)
            needs = [size.need_bytes for size in sizes.values()]
            memory = (
                max(max(needs), round(MEMORY_SHARE * sum(needs))) if o.memory_gb is None else round(1e9 * o.memory_gb)
            )
            if nothing := _nothing_to_decide(needs, memory):
                self._session.console.print(nothing, style="yellow", soft_wrap=True)
            began = time.monotonic()
            before = await self._calibrate(backend, list(sizes), BEFORE)
            calibrating_s = time.monotonic() - began
            tables = tables_of(before, sizes, memory, o.drain_after_s)
            paces = self._workloads(tables, sizes)
            write_plan(self._plan(sizes, memory, paces), self._folder)
            await self._play(backend, tables, calibrating_s)
            await self._calibrate(backend, list(sizes), AFTER)
        finally:
            await backend.close()

    def _backend(self) -> Backend:
        o = self._options
        options = (
            *("--threads", "1", "--ctx-size", f"{o.kv_tokens}", "--parallel", f"{o.seats}"),
            *("--batch-size", f"{o.chunk_tokens}", "--ubatch-size", f"{o.chunk_tokens}"),
            *("--no-mmap", "--cache-ram", "4096"),  # a load reads all weights, and no prefix is forgotten
        )
        memory = read_memory(o.memory) if o.memory is not None else {}
        key = read_text(o.key_file).strip() if o.key_file is not None else None
        log, start = self._folder / "server.log", Start(options, o.cores)
        return make_backend(o.backend, memory=memory, key=key, load_s=o.load_s, log=log, start=start)

    async def _sizes(self, backend: Backend) -> dict[str, Sizes]:
        """By model, the smallest first."""
        o = self._options
        where = Path(o.backend.partition(":")[2])
        folder = o.files or (where if where.is_dir() else None)
        found = {}
        for model in await backend.models():
            file = None if folder is None else folder / f"{model.name}.gguf"
            if file is not None and not file.is_file():
                file = None
            found[model.name] = size_of(model.name, model.memory_bytes, file, o.kv_tokens, o.seats, o.chunk_tokens)
        if len(found) < 2:
            raise ConfigError("a policy chooses among models: the server needs two of them at least")
        return dict(sorted(found.items(), key=lambda item: item[1].need_bytes))

    async def _calibrate(self, backend: Backend, names: list[str], part: str) -> list[Sample]:
        samples: list[Sample] = []
        task = self._bar.add_task(f"calibration {part}", total=None)
        async for sample in measure(backend, names, self._options.plan):
            samples.append(sample)
            self._bar.advance(task)
        write_samples(samples, self._folder / part)
        self._bar.update(task, total=len(samples))
        drift = drift_percent(samples)
        self._say(f"calibration {part}: {len(samples):,} measurements, the machine drifted by {drift:+.1f} %")
        return samples

    def _workloads(self, tables: FleetTables, sizes: dict[str, Sizes]) -> dict[str, float]:
        """Draws all workloads, at a pace at which the simulation has queues and no overload."""
        o, paces = self._options, {}
        longest = o.kv_tokens // o.seats - SLACK_TOKENS
        for name in o.workloads:

            def draw(pace: float, name: str = name) -> Any:
                return make(
                    name, list(range(len(sizes))), o.requests, o.seed, longest=longest, scale=o.scale, pace=pace
                )

            paces[name] = o.pace or pace_for(draw, tables, o.policies)
            write_workload(draw(paces[name]), self._folder / f"{name}.csv")
        return paces

    def _plan(self, sizes: dict[str, Sizes], memory: int, paces: dict[str, float]) -> dict[str, Any]:
        o = self._options
        kept = (
            "policies",
            "workloads",
            "requests",
            "repeats",
            "simulations",
            "seed",
            "scale",
            "drain_after_s",
            "most_drift",
        )
        return {
            "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": self._session.command,
            "backend": o.backend.partition(":")[0],
            **{name: getattr(o, name) for name in kept},
            "memory_bytes": memory,
            "paces": paces,
            "sizes": {name: size._asdict() for name, size in sizes.items()},
        }

    async def _play(self, backend: Backend, tables: FleetTables, calibrating_s: float) -> None:
        o = self._options
        total = len(o.workloads) * o.repeats * len(o.policies) * o.requests
        task = self._bar.add_task("requests", total=total)
        drawn = {name: read_workload(self._folder / f"{name}.csv", name) for name in o.workloads}
        expected = sum(simulate(drawn[name], tables, policy).end_s for name in drawn for policy in o.policies)
        left_s = o.repeats * expected + calibrating_s
        self._say(f"about {left_s / 60:.0f} minutes to go, of which the runs take {o.repeats * expected / 60:.0f}")
        for name in o.workloads:
            for repeat in range(1, o.repeats + 1):
                for policy in o.policies:
                    self._bar.update(task, description=f"{name}, {policy}, {repeat} of {o.repeats}")
                    run = await play(
                        drawn[name], tables, backend, policy, repeat, seed=o.seed,
                        answered=lambda: self._bar.advance(task),
                    )  # fmt: skip
                    write_run(run, self._folder)
                    self._say(
                        f"{name}, {policy}, run {repeat}: {run.end_s:.0f} s, {run.count('load')} loads, mean TTFT "
                        f"{sum(run.ttft_s()) / len(run.asked):.3f} s"
                    )

    def _say(self, text: str) -> None:
        self._session.console.print(one_line(text), soft_wrap=True)
