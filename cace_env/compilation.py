"""Numba with a cache that is never stale.

Numba's own cache notices an edit in the file of a compiled function, but not one in another file that was inlined into
it. Here the cache folder is named after a hash of every module that a compiled function can see, so an edit anywhere
starts an empty folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config as numba_config
from numba.core import event as numba_event

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
COMPILED = re.compile(r"^from cace_env\.compilation import", re.MULTILINE)
IMPORTS = re.compile(r"^from (cace_env(?:\.\w+)*) import", re.MULTILINE)

# No reference counts: two atomic operations for every array that a function touches would be two thirds of the
# simulator's time. In return compiled code can neither create nor return arrays: whoever calls it brings the scratch
# space.
COUNTLESS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# Inner functions need no Python wrapper, which would be half of their compile time.
INNER: dict[str, Any] = {**COUNTLESS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

Function = TypeVar("Function", bound=Callable[..., Any])


def source_hash(package: Path = PACKAGE) -> str:
    """Hash of the modules of `package` that hold compiled functions and of all that those import from it."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    seen: set[Path] = {path for path, text in texts.items() if COMPILED.search(text)}
    waiting = sorted(seen)
    while waiting:
        for name in IMPORTS.findall(texts[waiting.pop()]):
            stem = package.joinpath(*name.split(".")[1:])
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                if path in texts and path not in seen:
                    seen.add(path)
                    waiting.append(path)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.relative_to(package).as_posix()}\0{texts[path]}\0".encode())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Where compiled code is kept.

    `$CACE_ENV_CACHE_DIR`, else `$XDG_CACHE_HOME/cace_env`, else `~/.cache/cace_env`; a temporary folder where that
    cannot be written.
    """
    explicit = os.environ.get("CACE_ENV_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(explicit) if explicit else base / "cace_env"
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError:
        root = Path(tempfile.gettempdir()) / f"cace_env-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        root.mkdir(parents=True, exist_ok=True)
        logger.warning(
            "compiled code is kept in %s; set CACE_ENV_CACHE_DIR to a writable folder to keep it elsewhere", root
        )
    return root


CACHE_DIR = cache_root() / source_hash()


def compiled(function: Function) -> Function:
    """An entry point that Python calls: compiled at its first call, without the GIL, cached on disk."""
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(CACHE_DIR)
    try:
        return numba.njit(**COUNTLESS, cache=True)(function)  # type: ignore[no-any-return]
    finally:
        numba_config.CACHE_DIR = before


def inner(function: Function) -> Function:
    """A function that only compiled ones call: cached as a part of those."""
    return numba.njit(**INNER)(function)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """`inner`, melted into its caller: for the hot path, where passing the state would cost more than the work."""
    return numba.njit(**INNER, forceinline=True)(function)  # type: ignore[no-any-return]


class Announcement(numba_event.Listener):  # type: ignore[misc]  # mypy skips numba
    """One line on stderr before the first compilation in this process, so that nobody wonders about the wait.

    Numba tells when it compiles because the cache has nothing: whether generator or simulator comes first, what the
    cache holds of other functions, and what other packages compile make no difference.
    """

    def __init__(self) -> None:
        self._made = False

    def on_start(self, event: numba_event.Event) -> None:
        if self._made or not event.data["dispatcher"].py_func.__module__.startswith("cace_env."):
            return
        self._made = True
        logger.warning("compiling the simulator (once per version, about half a minute; kept in %s)", CACHE_DIR)

    def on_end(self, event: numba_event.Event) -> None:
        del event


numba_event.register("numba:compile", Announcement())
