"""Real model servers under the policies of this package.

    python -m experiments.live demo                             all parts at work, on this machine, in half a minute
    python -m experiments.live tiny models                      five tiny models with random weights, for trials
    python -m experiments.live check llama.cpp:models           start llama.cpp over a folder of GGUF files, and try it
    python -m experiments.live check llama.cpp:http://127.0.0.1:8080
    python -m experiments.live serve fleet.yaml --policy agent:eviction --decision-log decisions
    python -m experiments.live serve fleet.yaml --shadow http://127.0.0.1:8080      pass on, ask, change nothing
    python -m experiments.live shadow fleet.yaml --log-file gateway.jsonl           the same by a gateway's log
    python -m experiments.live validate llama.cpp:models --out validated

`check` tries on the real server what the router takes for granted, and says what holds: load, unload, streams,
cancelling, error paths. It loads and unloads two models and writes a few hundred tokens; nobody else should use the
server meanwhile. The exit status is 0 where everything holds. `docs/live.md` lists the servers.

`serve` is a proxy with the OpenAI API before servers: it keeps their memory budget and asks the policy whom to evict.
`docs/live-router.md` has the fleet file, the rules, and how a policy sees real servers. SIGTERM lets requests end.

`shadow`, and `serve --shadow`, ask a policy beside a system that decides for itself; see `docs/shadow.md`.

`validate` serves the same requests by the real server and by the simulator, with coefficients that it measures, and
says how far they are apart (`docs/validation.md`).

`demo` starts llama.cpp over the tiny models and serves made-up clients under several policies, one after another.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field
from rich.text import Text

from cace_env.config import ConfigError, Frozen, one_line, read_text
from cace_env.decision_log import DecisionLog
from cace_env.live.backends import Backend, BackendError, make_backend, read_memory
from cace_env.live.check import check_backend
from cace_env.live.decider import LIMIT_S, Decider
from cace_env.live.fleet import resident_now
from cace_env.live.stage import Stage, Turns
from cace_env.live.tickets import Options, Serving
from cace_env.live.tiny_models import LARGER_MODELS, TINY_MODELS, write_tiny_models
from cace_env.policies import contestant_of
from cace_env.tables import Protocol
from experiments.running.command_line import Session, metavar, run_command, screen_table
from experiments.serving.fleets import read_fleet
from experiments.serving.shadow import DEPLOYED, Shadow, forward, shadow_log
from experiments.validation.options import Validate

KEY_VARIABLE = "CACE_LIVE_KEY"
NOT_IN_BETWEEN = ("env", "backend", "share", "block_min", "decide_ms", "most_waiting", "load_s", "log")  # --shadow
SIGNS = {True: ("holds", "green"), False: ("FAILS", "red"), None: ("note", "yellow")}


class Check(Frozen):
    """Try a real server, claim by claim."""

    backend: Annotated[str, tyro.conf.Positional] = Field(
        description="KIND:WHERE, such as llama.cpp:http://127.0.0.1:8080 or xllamacpp:FOLDER; see docs/live.md"
    )
    models: Annotated[tuple[str, str] | None, metavar("NAME NAME")] = Field(
        default=None, description="the two that are tried; by default the smallest"
    )
    memory: Annotated[Path | None, metavar("FILE.yaml")] = Field(
        default=None, description="how much each model takes, where the server does not say: lines 'qwen-7b: 4.7 GB'"
    )
    key_file: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="the server's API key, sent as a bearer token"
    )
    load_s: float = Field(default=600.0, gt=0.0, description="a load may take so many seconds")
    log: Path = Field(default=Path("/dev/null"), description="gets what a server writes that is started here")


class Demo(Frozen):
    """Serve made-up clients by a real server over tiny models, under one policy after another."""

    policies: Annotated[tuple[str, ...], metavar("POLICY ...")] = Field(
        default=("cace", "agent:eviction"), min_length=1, description="who decides"
    )
    requests: int = Field(default=15, ge=1, le=10_000, description="of each of the six clients, under each policy")
    seed: int = Field(default=0, ge=0, description="of the clients")
    port: int = Field(default=0, ge=0, le=65535, description="of the router; 0 = any that is free")


class Tiny(Frozen):
    """Write five models of 2 to 13 MB with random weights: noise, but real files for a real server."""

    folder: tyro.conf.Positional[Path] = Field(description="is made where it is missing")
    larger: bool = Field(default=False, description="five of 70 to 908 MB instead, which take as long as real work")


class Serve(Frozen):
    """Serve real models under a policy, as a proxy with the OpenAI API."""

    fleet: Annotated[str, tyro.conf.Positional] = Field(
        description="FLEET.yaml with accelerators, servers and models (docs/live-router.md); or a scenario, and its "
        "servers by --backend"
    )
    policy: Annotated[str, metavar("NAME|MODULE:OBJECT")] = Field(
        default="cace", description="who decides: a built-in policy, agent:NAME, guarded:NAME, or your own"
    )
    env: Annotated[Protocol, metavar("eviction|swap")] = Field(
        default=Protocol.EVICTION, description="what it is asked: whom to evict, or also what to load next (swap)"
    )
    backend: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND:WHERE")]] = Field(
        default=(), description="server of a scenario's next accelerator; once for each"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 = any that is free")
    key_file: Annotated[Path | None, metavar("FILE")] = Field(
        default=None,
        description=f"API key that clients have to send (with --shadow: for the pages alone); default: {KEY_VARIABLE}, "
        "else none",
    )
    server_key_file: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="API key that the servers ask for"
    )
    memory: Annotated[Path | None, metavar("FILE.yaml")] = Field(
        default=None, description="how much each model takes, where the server does not say: lines 'qwen-7b: 4.7 GB'"
    )
    load_s: float = Field(default=600.0, gt=0.0, description="a load may take so many seconds")
    most_waiting: int = Field(default=1000, ge=1, description="requests that may wait; more get 429")
    most_mb: float = Field(default=8.0, gt=0, le=1024, description="of a request's body")
    drain_s: float = Field(default=60.0, ge=0, description="requests get so long to end after SIGTERM")
    decide_ms: float = Field(
        default=1e3 * LIMIT_S, gt=0, le=10_000, description="a policy in Python gets so long; then LRU decides"
    )
    share: float = Field(
        default=1.0, description="pilot: share of the blocks of time that are the policy's; the others are LRU's"
    )
    block_min: float = Field(default=30.0, gt=0, description="length of a block of a pilot [min]")
    shadow: Annotated[str | None, metavar("URL")] = Field(
        default=None, description="pass everything on to this server, which decides for itself; only ask the policy"
    )
    deployed: Annotated[str, metavar("SYSTEM|POLICY")] = Field(default="lru", description=f"with --shadow: {DEPLOYED}")
    decision_log: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="where decisions are written; python -m experiments.why reads them"
    )
    log: Path = Field(default=Path("/dev/null"), description="gets what a server writes that is started here")


def live(options: Check | Demo | Serve | Shadow | Tiny | Validate, session: Session) -> int:
    """Runs a sub-command."""
    if isinstance(options, Demo):
        return asyncio.run(demo(options, session))
    if isinstance(options, Shadow):
        return shadow_log(options, session)
    if isinstance(options, Serve):
        return asyncio.run(serve(options, session))
    if isinstance(options, Tiny):
        paths = write_tiny_models(options.folder, LARGER_MODELS if options.larger else TINY_MODELS)
        size = sum(path.stat().st_size for path in paths.values())
        session.console.print(f"{options.folder} has {len(paths)} models of {size / 1e6:.0f} MB together")
        return 0
    if isinstance(options, Validate):
        try:
            from experiments.validation.validate import validate
        except ImportError as error:
            install = "pip install 'cace-env[experiments,live]'"
            raise ConfigError(f"validating needs {error.name}; run: {install}") from error
        return validate(options, session)
    return asyncio.run(check(options, session))


async def check(options: Check, session: Session) -> int:
    """Prints each claim as it has been tried; returns 1 where one does not hold."""
    memory = read_memory(options.memory) if options.memory is not None else {}
    key = read_text(options.key_file).strip() if options.key_file is not None else None
    try:
        backend = make_backend(options.backend, memory=memory, key=key, load_s=options.load_s, log=options.log)
    except BackendError as error:
        raise ConfigError(error.message) from error
    if not backend.verified:
        session.console.print(
            f"The backend {backend.kind} is unverified against the real server: it was written from documentation.",
            style="yellow",
        )
    failed = 0
    try:
        async for outcome in check_backend(backend, options.models or ()):
            sign, colour = SIGNS[outcome.holds]
            failed += outcome.holds is False
            line = Text.assemble((f"{sign:5}", colour), f"  {outcome.claim}: {one_line(outcome.detail)}")
            session.console.print(line, soft_wrap=True)
    finally:
        await backend.close()
    session.console.print("everything holds" if failed == 0 else f"claims that do not hold: {failed}")
    return 1 if failed else 0


async def demo(options: Demo, session: Session) -> int:
    """Prints a line for each policy; returns 1 where an answer was not whole."""
    try:
        from cace_env.live.demo import CLIENTS, try_policies
    except ImportError as error:
        raise ConfigError(f"the demo needs {error.name}; run: pip install 'cace-env[servers]'") from error
    session.console.print(f"{CLIENTS} clients, llama.cpp on this CPU, five models of which some fit")
    with tempfile.TemporaryDirectory(prefix="cace-live-") as folder:
        outcomes = await try_policies(
            options.policies,
            Path(folder),
            requests=options.requests,
            seed=options.seed,
            port=options.port,
            started=lambda policy, url: session.console.print(f"serving under {policy}: {url}/ shows what it does"),
        )
    header = ["policy", "answers", "broken", "TTFT mean ms", "p95 ms", "evictions", "loads", "decisions", "ms each"]
    rows = [
        [
            each.policy,
            f"{each.whole}",
            f"{each.broken}",
            f"{1e3 * np.mean(each.first_s):.0f}" if each.first_s else "",
            f"{1e3 * np.quantile(each.first_s, 0.95):.0f}" if each.first_s else "",
            f"{each.evictions}",
            f"{each.loads}",
            f"{each.decisions}",
            f"{1e3 * each.decision_s / each.decisions:.2f}" if each.decisions else "",
        ]
        for each in outcomes
    ]
    session.console.print(screen_table(header, rows))
    session.console.print(
        "Tiny models with random weights on a CPU: this shows that all parts work together, not what a policy gains."
    )
    return 1 if any(each.broken for each in outcomes) else 0


async def serve(options: Serve, session: Session) -> int:
    """Serves until SIGTERM or Ctrl-C."""
    try:
        from cace_env.live.proxy import ignoring
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}; run: pip install 'cace-env[live]'") from error
    key = os.environ.get(KEY_VARIABLE) if options.key_file is None else read_text(options.key_file).strip()
    serving = Serving(options.host, options.port, key, round(options.most_mb * 1e6), options.drain_s)
    serving.check()
    if options.shadow is not None:
        if given := [f"--{name.replace('_', '-')}" for name in NOT_IN_BETWEEN if _changed(options, name)]:
            raise ConfigError(f"--shadow only watches whom to evict: leave {', '.join(given)} out")
        return await forward(
            options.shadow, options.fleet, options.policy, options.deployed, serving, session,
            decision_log=options.decision_log, memory=options.memory, server_key_file=options.server_key_file,
        )  # fmt: skip
    if _changed(options, "deployed"):
        raise ConfigError("--deployed says what decides behind --shadow URL; give that, or leave it out")
    with ignoring(signal.SIGUSR1, signal.SIGUSR2):  # they hand over; too early or too late they would end the process
        return await _serve(options, serving, session)


async def _serve(options: Serve, serving: Serving, session: Session) -> int:
    """Serves under a policy."""
    from cace_env.live.proxy import Proxy
    from cace_env.live.router import Router

    tables, names, specs, training = read_fleet(options.fleet, options.env, options.backend)
    contestant, stage = contestant_of(options.policy), Stage(Turns(options.share, 60 * options.block_min))
    memory = read_memory(options.memory) if options.memory is not None else {}
    server_key = read_text(options.server_key_file).strip() if options.server_key_file is not None else None
    backends: list[Backend] = []
    try:
        for spec in specs:
            one = make_backend(spec, memory=memory, key=server_key, load_s=options.load_s, log=options.log)
            backends.append(one)
        tables = await resident_now(tables, backends, names)
        session.console.print(f"preparing {contestant.name}")
        decider = Decider(contestant, tables, training=training, limit_s=options.decide_ms * 1e-3, stage=stage)
        log = None
        if options.decision_log is not None:
            log = DecisionLog(options.decision_log, clock="utc", background=True)
        routing = Options(most_waiting=options.most_waiting, scenario=tables.label, names=names)
        router = Router(tables, backends, decider, routing, log=log)
        for kind in sorted({backend.kind for backend in backends if not backend.verified}):
            session.console.print(f"The backend {kind} is unverified against the real server.", style="yellow")
        await Proxy(router, serving).run(
            lambda url: session.console.print(
                f"serving {len(names) or tables.num_models} models at {url}/v1, status {url}/; "
                f"kill -USR1 {os.getpid()} hands over to LRU, -USR2 back"
            )
        )
    except BackendError as error:
        raise ConfigError(error.message) from error
    finally:
        for backend in backends:
            await backend.close()
    return 0


def _changed(options: Serve, name: str) -> bool:
    """Whether an option is not at its default."""
    return bool(getattr(options, name) != Serve.model_fields[name].default)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("live", Check | Demo | Serve | Shadow | Tiny | Validate, live, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
