"""Numba with a cache that is never stale, and that all installations of one version share.

Numba's own cache notices an edit in the file of a compiled function, but not one in another file that was inlined into
it, and it keeps the code of every installation apart. Here the cache folder is named after a hash of all sources of
compiled functions, so an edit anywhere starts an empty folder, and a new virtual environment finds what another one has
compiled.

The simulator is compiled in parts (`PARTS`): the entry points that Python calls, and the large pieces that several of
those call. Each is compiled when it is first needed, and kept as soon as it is done. `python -m cace_env.compile`
compiles all of them.

Compiling costs what is compiled more than once. So an entry point is optimised once, with all that is melted into it,
and not once more for each level of calls; what several entry points need is `linked`, not melted into each; and what is
rare is `outlined`, not melted into every place that calls it.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import gc
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import numba
from llvmlite import binding  # type: ignore[import-untyped]
from numba.core import config as numba_config
from numba.core import event as numba_event
from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
# Whatever compiled functions are made of, and the constants that they read.
SOURCES: Final = ("compilation.py", "generator", "held.py", "kernel", "observation.py", "tables.py", "workload.py")

# No reference counts: two atomic operations for every array that a function touches would be two thirds of the
# simulator's time. In return compiled code can neither create nor return arrays: whoever calls it brings the scratch
# space.
COUNTLESS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# Inner functions need no Python wrapper, which would be half of their compile time.
INNER: dict[str, Any] = {**COUNTLESS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

Function = TypeVar("Function", bound=Callable[..., Any])

# What is compiled by itself, in the order in which most people need them, and what it is for.
PARTS: Final = {
    "cace_env.generator.rows.generate_rows": "requests of scenarios",
    "cace_env.kernel.run.advance": "the simulator from question to question",
    "cace_env.kernel.orders.decide": "built-in policies",
    "cace_env.kernel.features.write_observation": "what agents see",
    "cace_env.kernel.run.run_episode": "whole episodes of built-in policies",
    "cace_env.kernel.run.read_cost": "results",
    "cace_env.kernel.summary.summarize": "results",
    "cace_env.kernel.batch.step_rows": "environments",
    "cace_env.kernel.batch.see_rows": "environments",
    "cace_env.kernel.run.step": "episodes question by question",
    "cace_env.kernel.run.observe": "what policies in Python see",
    "cace_env.kernel.run.read_features": "what policies in Python see",
    "cace_env.kernel.run.read_models": "what policies in Python see",
    "cace_env.kernel.pick.pick": "built-in policies question by question",
    "cace_env.kernel.pick.read_victims": "built-in policies question by question",
    "cace_env.kernel.plan.first_plan": "the clairvoyant reference",
    "cace_env.kernel.plan.improve": "the clairvoyant reference",
    "cace_env.kernel.rollouts.try_actions": "costs of actions, for imitation",
    "cace_env.kernel.optimum.branch_and_bound": "optima of tiny episodes",
    "cace_env.kernel.optimum.try_action": "optima of tiny episodes",
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


class _Loner:
    """The code generator as a `_Part` sees it: its engine never hears of the part."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Does nothing: the engine has no such variable."""


class _Part(JITCodeLibrary):  # type: ignore[misc]
    """Code of an inner function: handed on to its callers, which are optimised as a whole.

    Numba would optimise every function together with all that it calls, once more at each level of calls, and make
    machine code of each that nobody runs.
    """

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(_Loner(codegen), name)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Nowhere."""
        del name
        self._ensure_finalized()
        return 0


class _EntryCode(JITCodeLibrary):  # type: ignore[misc]
    """Code of an entry point, optimised once with all that is melted into it."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == binding.Linkage.linkonce_odr:
                function.linkage = binding.Linkage.internal  # nobody else calls it, so that more is known of it
        super()._optimize_final_module()


class _Flags(Flags):  # type: ignore[misc]
    """Flags that nobody changes any more: Numba looks them up all the time, and would compare each with each."""

    __slots__ = ("_key",)
    _key: int
    known: ClassVar[dict[Flags, _Flags]] = {}

    @classmethod
    def of(cls, flags: Flags) -> _Flags:
        """The only ones that equal these."""
        if flags not in cls.known:
            frozen = cls(flags)
            frozen._key = super(_Flags, frozen).__hash__()
            cls.known[flags] = frozen
        return cls.known[flags]

    def copy(self) -> _Flags:
        """The same."""
        return self

    def __hash__(self) -> int:
        return self._key

    def __eq__(self, other: object) -> bool:
        return self is other or (not isinstance(other, _Flags) and super().__eq__(other))


# Steps of Numba's compiler for what the functions here do not use: closures, generators of code, array expressions.
NEEDLESS: Final = {
    "WithLifting", "InlineClosureLikes", "RewriteSemanticConstants", "DeadBranchPrune", "RewriteDynamicRaises",
    "MakeFunctionToJitFunction", "InlineInlinables", "FindLiterallyCalls", "LiteralUnroll",
    "LiteralPropagationSubPipelinePass", "InlineOverloads", "NopythonRewrites",
}  # fmt: skip


class _EntryCompiler(Compiler):  # type: ignore[misc]
    """Numba's compiler with flags that are compared quickly."""

    code = _EntryCode

    noalias = False

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.state.flags.noalias = self.noalias
        self.state.flags = _Flags.of(self.state.flags)

    def define_pipelines(self) -> Any:
        self.state.library = self.code(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        (pipeline,) = super().define_pipelines()
        lean = PassManager(pipeline.pipeline_name)
        for step, what in pipeline.passes:
            if step.__name__ not in NEEDLESS:
                lean.add_pass(step, what)
        lean.finalize()
        return [lean]


class _OutlinedPart(_Part):
    """A `_Part` that is never melted into its callers."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == binding.Linkage.external and not function.is_declaration:
                function.add_function_attribute("noinline")


class _PartCompiler(_EntryCompiler):
    """It, for inner functions."""

    code = _Part


class _LinkedCompiler(_EntryCompiler):
    """It, for linked functions: nothing that they write is one of their arguments."""

    noalias = True


class _OutlinedCompiler(_LinkedCompiler):
    """It, for outlined functions, of which the same holds."""

    code = _OutlinedPart


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: the compiler makes millions of objects that live on."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _links(function: Callable[..., Any]) -> list[_Linked]:
    """Linked functions that a function calls, directly or by functions that are melted into it."""
    found: dict[Any, None] = {}
    waiting = [function]
    while waiting:
        caller = waiting.pop()
        for name in sorted({step.argval for step in dis.get_instructions(caller) if step.opname == "LOAD_GLOBAL"}):
            called = caller.__globals__.get(name)
            if isinstance(called, CPUDispatcher) and called not in found:
                found[called] = None
                if not isinstance(called, _Linked):
                    waiting.append(called.py_func)
    return [called for called in found if isinstance(called, _Linked)]


class _Entry(CPUDispatcher):  # type: ignore[misc]
    """A function with code of its own in the cache."""

    def __init__(self, py_func: Callable[..., Any], locals: Any = None, targetoptions: Any = None, **rest: Any) -> None:
        super().__init__(py_func, locals, targetoptions, **rest)
        self._cache = _Cache(py_func)

    def compile(self, sig: Any) -> Any:
        """As Numba does it, once all is there that the code is linked to."""
        with global_compiler_lock, _uncollected():
            for linked in _links(self.py_func):
                linked.ready()
            return super().compile(sig)


class _Linked(_Entry):
    """An entry point of compiled callers: they hold its symbol, not its code."""

    types: tuple[Any, ...]
    is_ready = False

    def ready(self) -> None:
        """Compiles it or loads it from the cache, and tells the linker where it is."""
        if self.is_ready:
            return
        self.is_ready = True
        entry = super().compile(self.types)
        compiled = self.overloads[self.types]
        symbol = f"{self.py_func.__module__}.{self.py_func.__qualname__}"
        binding.add_symbol(symbol, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
        described = copy.copy(compiled.fndesc)
        described.mangled_name = symbol
        self.targetctx.remove_user_function(entry)
        self.targetctx.insert_user_function(entry, described)

    def compile(self, sig: Any) -> Any:
        """Has happened; other types than those that it was declared with are an error."""
        self.ready()
        arguments, _ = sigutils.normalize_signature(sig)
        if tuple(arguments) not in self.overloads:
            raise TypingError(f"{self.py_func.__name__} takes {self.types}, not {tuple(arguments)}")
        return self.overloads[tuple(arguments)].entry_point


def compiled(function: Function) -> Function:
    """An entry point that Python calls: compiled at its first call, without the GIL, cached on disk."""
    if numba_config.DISABLE_JIT:
        return function
    return _Entry(function, targetoptions={**COUNTLESS, "nopython": True}, pipeline_class=_EntryCompiler)


def linked(*types: Any) -> Callable[[Function], Function]:
    """A large function that several entry points call: compiled once, for these types of arguments, and cached.

    It is called like any other, but is not melted into its callers. A call costs as much as reading its arguments.
    """

    def link(function: Function) -> Function:
        if numba_config.DISABLE_JIT:
            return function
        made = _Linked(function, targetoptions={**INNER, "nopython": True}, pipeline_class=_LinkedCompiler)
        made.types = types
        return made

    return link


def inner(function: Function) -> Function:
    """A function that only compiled ones call: cached as a part of those."""
    return numba.njit(**INNER, forceinline=False, pipeline_class=_PartCompiler)(function)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """`inner`, melted into its caller: for the hot path, where passing the state would cost more than the work."""
    return numba.njit(**INNER, pipeline_class=_PartCompiler, forceinline=True)(function)  # type: ignore[no-any-return]


def outlined(function: Function) -> Function:
    """`inner`, never melted into its callers: for what is rare or large, which would be compiled at each place."""
    return numba.njit(**INNER, forceinline=False, pipeline_class=_OutlinedCompiler)(function)  # type: ignore[no-any-return]


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
    """Which of `PARTS` an event of Numba is about; None: no entry point, or somebody else's."""
    function = event.data["dispatcher"].py_func
    name = f"{function.__module__}.{function.__qualname__}"
    return name if name in PARTS else None


class Announcement(numba_event.Listener):  # type: ignore[misc]
    """A line on stderr before each part that is compiled, so that nobody wonders about the wait.

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
