"""Real model servers under the policies of this package.

    python -m experiments.live tiny models                      five tiny models with random weights, for trials
    python -m experiments.live check llama.cpp:models           start llama.cpp over a folder of GGUF files, and try it
    python -m experiments.live check llama.cpp:http://127.0.0.1:8080

`check` tries on the real server what the router takes for granted, and says what holds: load, unload, streams,
cancelling, error paths. It loads and unloads two models and writes a few hundred tokens; nobody else should use the
server meanwhile. The exit status is 0 where everything holds. `docs/live.md` lists the servers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.text import Text

from cace_env.config import ConfigError, Frozen, one_line, read_text
from cace_env.live.backends import BackendError, make_backend, read_memory
from cace_env.live.check import check_backend
from cace_env.live.tiny_models import write_tiny_models
from experiments.running.command_line import Session, metavar, run_command

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


class Tiny(Frozen):
    """Write five models of 2 to 13 MB with random weights: noise, but real files for a real server."""

    folder: tyro.conf.Positional[Path] = Field(description="is made where it is missing")


def live(options: Check | Tiny, session: Session) -> int:
    """Runs a sub-command."""
    if isinstance(options, Tiny):
        paths = write_tiny_models(options.folder)
        size = sum(path.stat().st_size for path in paths.values())
        session.console.print(f"{options.folder} has {len(paths)} models of {size / 1e6:.0f} MB together")
        return 0
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
    session.console.print("everything holds" if failed == 0 else f"{failed} do not hold")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("live", Check | Tiny, live, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
