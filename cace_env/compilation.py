"""Numba with a cache that is never stale, and that all installations of one version share.

Numba's own cache notices an edit in the file of a compiled function, but not one in another file that was inlined into
it, and it keeps the code of every installation apart. Here the cache folder is named after a hash of all sources of
compiled functions, so an edit anywhere starts an empty folder, and a new virtual environment finds what another one has
compiled.

The simulator is compiled in parts (`PARTS`): the entry points that Python calls, and the large pieces that several of
those call. Each is compiled when it is first needed, and kept as soon as it is done. `python -m cace_env.compile`
compiles all of them.

What is compiled more than once costs time. So what several entry points need is `linked`, and not a part of each of
them, and what is rare is `outlined`, and not copied into every place that calls it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numba
from numba.core import config as numba_config
from numba.core import event as numba_event
from numba.core.caching import CompileResultCacheImpl, FunctionCache

from cace_env.linking import Entry, EntryCompiler, Linked, LinkedCompiler, OutlinedCompiler, PartCompiler

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
# Folders and files with compiled functions, or with constants that those read.
SOURCES: Final = (
    "compilation.py",
    "forecasting",
    "generator",
    "held.py",
    "kernel",
    "linking.py",
    "observation.py",
    "planning/search.py",
    "sessions.py",
    "simulation/packing.py",
    "tables.py",
    "workload.py",
)

# No reference counts: two atomic operations for every array that a function touches would be two thirds of the
# simulator's time. In return compiled code can neither create nor return arrays: the caller brings the scratch space.
COUNTLESS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# Inner functions need no Python wrapper, which would be half of their compile time.
INNER: dict[str, Any] = {**COUNTLESS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

Function = TypeVar("Function", bound=Callable[..., Any])

# What is compiled by itself, in the order in which most people need them, and what it is for.
PARTS: Final = {
    "cace_env.generator.rows.generate_rows": "requests of scenarios",
    "cace_env.kernel.state.link_followers": "requests as the simulator reads them",
    "cace_env.kernel.state.number_pairs": "requests as the simulator reads them",
    "cace_env.kernel.run.advance": "the simulator from question to question",
    "cace_env.kernel.orders.decide": "built-in policies",
    "cace_env.kernel.features.write_observation": "what agents see",
    "cace_env.kernel.run.run_episode": "whole episodes of built-in policies",
    "cace_env.kernel.run.read_cost": "results",
    "cace_env.kernel.summary.sum_up": "results",
    "cace_env.kernel.summary.summarize": "results",
    "cace_env.kernel.batch.step_some": "environments",
    "cace_env.kernel.batch.step_rows": "environments",
    "cace_env.kernel.batch.step_one": "environments",
    "cace_env.kernel.batch.see_rows": "environments",
    "cace_env.kernel.batch.serve": "environments by several threads",
    "cace_env.simulation.packing.settled": "states of simulations",
    "cace_env.simulation.packing.pack": "states of simulations",
    "cace_env.simulation.packing.unpack": "states of simulations",
    "cace_env.kernel.batch.show_rows": "environments that show some candidates",
    "cace_env.kernel.run.step": "episodes question by question",
    "cace_env.kernel.run.observe": "what policies in Python see",
    "cace_env.kernel.run.read_features": "what policies in Python see",
    "cace_env.kernel.run.read_models": "what policies in Python see",
    "cace_env.kernel.pick.pick": "built-in policies question by question",
    "cace_env.kernel.pick.read_victims": "built-in policies question by question",
    "cace_env.kernel.plan.first_plan": "the clairvoyant reference",
    "cace_env.kernel.plan.improve": "the clairvoyant reference",
    "cace_env.kernel.rollouts.try_actions": "costs of actions, for imitation",
    "cace_env.planning.search.branch_and_bound": "optima of tiny episodes",
    "cace_env.planning.search.try_action": "optima of tiny episodes",
    "cace_env.forecasting.history.catch_up": "planning by sampled futures",
    "cace_env.forecasting.futures.imagine": "planning by sampled futures",
    "cace_env.forecasting.present.copy_present": "planning by sampled futures",
    "cace_env.forecasting.futures.read_rates": "planning by sampled futures",
}


def source_hash(package: Path = PACKAGE) -> str:
    """Hash of the folders and files of `package` that compiled functions are made of (`SOURCES`)."""
    digest = hashlib.sha256()
    for source in SOURCES:
        place = package / source
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
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


SOURCE_HASH: Final = source_hash()
# Numba ignores an index that another version of it wrote, and replaces it. NUMBA_BOUNDSCHECK=1 makes other code.
CACHE_DIR: Final = cache_root() / "-".join(
    [SOURCE_HASH, "numba", numba.__version__, *(["bounds"] if numba_config.BOUNDSCHECK else [])]
)


class _Place:
    """Where Numba's cache keeps the code of a function: by its name and not by the path of its file.

    These are the methods that Numba asks its locators for.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._path = CACHE_DIR / function.__module__
        self._line = function.__code__.co_firstlineno
        # Of the own file, which tells apart functions outside this package; those in it are told apart by the folder.
        self._stamp = hashlib.sha256(Path(file).read_bytes()).hexdigest()

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Self:
        return cls(function, file)

    def ensure_cache_path(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Code(CompileResultCacheImpl):  # type: ignore[misc]  # mypy skips numba
    _locator_classes = [_Place]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Code


def compiled(function: Function) -> Function:
    """An entry point that Python calls: compiled at its first call, without the GIL, cached on disk."""
    if numba_config.DISABLE_JIT:
        return function
    made = Entry(function, targetoptions={**COUNTLESS, "nopython": True}, pipeline_class=EntryCompiler)
    made._cache = _Cache(function)
    return made


def linked(*types: Any) -> Callable[[Function], Function]:
    """A large function that several entry points call: compiled once, for these types of arguments, and cached.

    It is called like any other, but is not inlined into its callers. A call costs as much as reading its arguments.
    """

    def link(function: Function) -> Function:
        if numba_config.DISABLE_JIT:
            return function
        made = Linked(function, targetoptions={**INNER, "nopython": True}, pipeline_class=LinkedCompiler)
        made._cache = _Cache(function)
        made.types = types
        return made

    return link


def inner(function: Function) -> Function:
    """A function that only compiled ones call: cached as a part of those."""
    return numba.njit(**INNER, forceinline=False, pipeline_class=PartCompiler)(function)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """`inner`, inlined into its caller: for the hot path, where passing the state would cost more than the work."""
    return numba.njit(**INNER, pipeline_class=PartCompiler, forceinline=True)(function)  # type: ignore[no-any-return]


def outlined(function: Function) -> Function:
    """`inner`, never inlined into its callers: for what is rare or large, which would be compiled at each place."""
    return numba.njit(**INNER, forceinline=False, pipeline_class=OutlinedCompiler)(function)  # type: ignore[no-any-return]


def kept() -> list[str]:
    """Those of `PARTS` that the cache holds for this version of Python, in their order."""
    names = [part.rpartition(".") for part in PARTS]
    python = f"py{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    return [
        f"{module}.{function}"
        for module, _, function in names
        if any((CACHE_DIR / module).glob(f"*.{function}-*.{python}.nbi"))
    ]


def part_of(event: numba_event.Event) -> str | None:
    """Which of `PARTS` an event of Numba is about; None for any other function, ours or of other packages."""
    function = event.data["dispatcher"].py_func
    name = f"{function.__module__}.{function.__qualname__}"
    return name if name in PARTS else None


class Announcement(numba_event.Listener):  # type: ignore[misc]
    """A line on stderr before each part that is compiled, because it takes seconds to minutes.

    Numba tells when it compiles because the cache has nothing: what is asked for first, what the cache holds already,
    and what other packages compile make no difference.
    """

    def __init__(self) -> None:
        self._explained = False

    def on_start(self, event: numba_event.Event) -> None:
        part = part_of(event)
        if part is None:
            return
        done = [name for name in kept() if name != part]
        now = f"part {len(done) + 1} of {len(PARTS)}, {PARTS[part]} ({part.rpartition('.')[2]})"
        if self._explained:
            logger.warning("compiling %s", now)
            return
        self._explained = True
        logger.warning(
            "compiling the simulator, once per version: %s. A first training or comparison needs about half of the "
            "parts, up to a minute of one core. Each is kept in %s as soon as it is done; the others are compiled "
            "when they are first needed, or all at once by: python -m cace_env.compile",
            now,
            CACHE_DIR,
        )

    def on_end(self, event: numba_event.Event) -> None:
        del event


ANNOUNCEMENT: Final = Announcement()
numba_event.register("numba:compile", ANNOUNCEMENT)
