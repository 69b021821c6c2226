"""Shadow mode as a command: a policy is asked beside a system that decides for itself, by its log or in between."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import tyro
from pydantic import Field
from rich.text import Text

from cace_env.config import ConfigError, Frozen, read_text
from cace_env.decision_log import DecisionLog, moment
from cace_env.decision_log.writer import Clock, files_of
from cace_env.live.backends import Backend, BackendError, make_backend, read_memory
from cace_env.live.decider import Decider
from cace_env.live.fleet import found_now
from cace_env.live.mirror import live_tables
from cace_env.live.shadow.deciding import Watcher
from cace_env.live.shadow.report import summary
from cace_env.live.tickets import LOOPBACK, Serving
from cace_env.policies import contestant_of
from cace_env.tables import FleetTables, Protocol
from cace_env.traces import Trace, TraceError
from experiments.logs.advice.contenders import deployed_name
from experiments.logs.own_log import open_log
from experiments.running.command_line import Session, metavar
from experiments.serving.fleets import Given, read_fleet
from experiments.serving.replay import Replay

FOLLOWED_US: Final = 600_000_000  # windows of a system that is watched as it runs
WINDOWS: Final = 24  # that a log is cut into, for the interval
SHOWN: Final = 5  # decisions that differ
DEPLOYED: Final = "what decides today: ollama, llama-swap, llama-cpp, lru, any policy"


class Shadow(Frozen):
    """Ask a policy beside a system that decides for itself, by the log of its gateway; nothing is changed."""

    fleet: Annotated[str, tyro.conf.Positional] = Field(
        description="FLEET.yaml with accelerators and models, as the log calls them (docs/shadow.md); or a scenario"
    )
    log_file: Annotated[Path, metavar("FILE")] = Field(description="the gateway's log, of any format that is read")
    format: Annotated[str | None, metavar("NAME")] = Field(default=None, description="of the log; told by its columns")
    policy: Annotated[str, metavar("NAME|MODULE:OBJECT")] = Field(
        default="agent:eviction", description="who is asked: a built-in policy, agent:NAME, guarded:NAME, or your own"
    )
    deployed: Annotated[str, metavar("SYSTEM|POLICY")] = Field(default="lru", description=DEPLOYED)
    follow: bool = Field(default=False, description="go on as the log grows, until Ctrl-C")
    every_s: float = Field(default=30.0, gt=0, description="pause between two looks at a growing log")
    lag_s: float = Field(
        default=300.0, ge=0, description="rows come when answers end: what is younger in a growing log is waited for"
    )
    decision_log: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="where decisions are written; python -m experiments.why reads them"
    )


def watcher_of(
    given: Given,
    policy: str,
    deployed: str,
    tables: FleetTables,
    began_us: int,
    window_us: int,
    log: DecisionLog | None,
) -> Watcher:
    """A shadow; the policy is made twice, since some remember what they saw."""
    deciders = [
        Decider(contestant_of(name), tables, training=given.training)
        for name in (policy, policy, deployed_name(deployed, Protocol.EVICTION))
    ]
    return Watcher(
        tables, deciders[0], deciders[1], deciders[2], began_us=began_us, log=log, scenario=tables.label,
        window_us=window_us,
    )  # fmt: skip


def shadow_log(options: Shadow, session: Session) -> int:
    """Replays a log, and says what the policy would have done; returns the exit status."""
    given = read_fleet(options.fleet, Protocol.EVICTION)
    folder = options.decision_log
    if folder is not None and folder.is_dir() and files_of(folder):  # the same decisions would be there twice
        raise ConfigError(
            f"--decision-log: {folder} holds the decisions of another run; name a new folder, or remove it"
        )
    tables = live_tables(given.tables)
    numbers = {given.names.get(name, name): m for m, name in enumerate(tables.model_names)}
    numbers |= {name: m for m, name in enumerate(tables.model_names)}
    trace = open_log(options.log_file, options.format).trace
    if options.follow and trace.began_us is None:
        raise ConfigError("--follow needs a log with times since 1970 or dates")
    span_us = int(trace.time_us[-1])
    window_us = FOLLOWED_US if options.follow else max(span_us // WINDOWS, 1_000_000)
    clock: Clock = "episode" if trace.began_us is None else "utc"
    log = DecisionLog(folder, clock=clock) if folder is not None else None
    session.console.print(f"preparing {options.policy}")
    watcher = watcher_of(given, options.policy, options.deployed, tables, trace.began_us or 0, window_us, log)
    replay = Replay(numbers)
    try:
        if not options.follow:
            replay.tell(trace, watcher, np.iinfo(np.int64).max)
        while options.follow:
            replay.tell(trace, watcher, (trace.began_us or 0) + int(trace.time_us[-1]) - round(1e6 * options.lag_s))
            say(watcher, replay, session, short=True)
            time.sleep(options.every_s)
            trace = read_again(options, session)
    except KeyboardInterrupt:
        session.console.print("")
    finally:
        if log is not None:
            log.close()
    say(watcher, replay, session)
    return 0


def read_again(options: Shadow, session: Session) -> Trace:
    """A log that grows, as it is now. Its last row may be half written: it is read once more then."""
    while True:
        try:
            return open_log(options.log_file, options.format).trace
        except TraceError as error:
            session.console.print(f"{error}; it is read again in {options.every_s:g} s", style="yellow", soft_wrap=True)
            time.sleep(options.every_s)


def say(watcher: Watcher, replay: Replay, session: Session, *, short: bool = False) -> None:
    """Prints what was found, or a line."""
    tally = watcher.tally
    if short:
        counts = f"{tally.requests:,} requests, {tally.asked:,} questions, {tally.agreed:,} alike"
        session.console.print(f"{time.strftime('%H:%M:%S')}  {counts}")
        return
    for text in summary(watcher):
        session.console.print(text, soft_wrap=True)
    if replay.late:
        session.console.print(f"{replay.late:,} requests came into the log too late (--lag-s).", style="yellow")
    if replay.made_up:
        session.console.print(
            f"{replay.made_up:,} requests have no measured time; their answers are taken to have come at once, at the "
            "speed of the model running alone.",
            style="yellow",
        )
    clock: Clock = "utc" if watcher.began_us else "episode"
    for decision in list(watcher.differing)[-SHOWN:]:
        done = decision.candidates[decision.done].model
        line = (
            f"{moment(decision.time_us, clock)}: for {decision.target} {decision.chosen.model} would have left, "
            f"and {done} did"
        )
        session.console.print(Text(line), soft_wrap=True)


async def forward(
    url: str,
    fleet: str,
    policy: str,
    deployed: str,
    serving: Serving,
    session: Session,
    *,
    decision_log: Path | None,
    memory: Path | None,
    server_key_file: Path | None,
) -> int:
    """Passes requests on to a server that decides for itself, and asks the policy beside it, until SIGTERM."""
    from cace_env.live.shadow.forwarding import Forwarder, problem_of

    if not url.startswith(("http://", "https://")):
        raise ConfigError("--shadow needs the address of a server, such as http://127.0.0.1:8080")
    if url.rstrip("/").endswith("/v1"):
        raise ConfigError("--shadow: leave /v1 out of the address; the paths of requests begin with it")
    given = read_fleet(fleet, Protocol.EVICTION)
    known = read_memory(memory) if memory is not None else {}
    key = read_text(server_key_file).strip() if server_key_file is not None else None
    if serving.host not in LOOPBACK:
        session.console.print(
            f"Whoever reaches {serving.host} reaches {url}: the key guards the pages below /shadow/ alone.",
            style="yellow",
            soft_wrap=True,
        )
    if problem := await problem_of(url):
        session.console.print(
            f"{url} {problem}. Requests are passed on all the same, and fail until it serves them: is it the address?",
            style="yellow",
            soft_wrap=True,
        )
    else:
        session.console.print(f"{url} answers", soft_wrap=True)
    looked_at = [spec for spec in given.backends if "://" in spec]  # a folder would start a server
    backends: list[Backend] = [make_backend(spec, memory=known, key=key) for spec in looked_at]
    try:
        tables = live_tables(given.tables)
        if len(backends) == tables.num_accelerators:
            tables = await found_now(tables, backends, given.names)
        elif backends:
            raise ConfigError("give an address for every accelerator's backend, or for none (backend: none)")
        log = DecisionLog(decision_log, clock="utc", background=True) if decision_log is not None else None
        session.console.print(f"preparing {policy}")
        began_us = round(time.time() * 1e6)
        watcher = watcher_of(given, policy, deployed, tables, began_us, FOLLOWED_US, log)
        try:
            await Forwarder(watcher, url, backends, given.names, serving).run(
                lambda at: session.console.print(
                    f"passing on to {url} at {at}; {at}/shadow/ shows what {policy} would do, and nothing is changed"
                )
            )
        finally:
            if log is not None:
                log.close()
    except BackendError as error:
        raise ConfigError(error.message) from error
    finally:
        await asyncio.gather(*(backend.close() for backend in backends))
    for text in summary(watcher):
        session.console.print(text, soft_wrap=True)
    return 0
