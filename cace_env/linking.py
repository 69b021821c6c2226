"""How Numba compiles our functions: each once, and linked where Numba would copy.

Numba optimises every function together with all that it calls, once more at each level of calls. Here an entry point is
optimised once, with all that is copied into it, and what several entry points need is compiled apart and linked.
This changes inner classes of Numba; `make test-versions` runs it with the oldest and the newest version.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import gc
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from llvmlite import binding  # type: ignore[import-untyped]
from numba.core import sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher


class _Loner:
    """Numba's code generator without its engine: a `_Part` is not added to the engine, as nothing runs it there."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: the variable would belong to the engine."""


class _Part(JITCodeLibrary):  # type: ignore[misc]
    """Code of an inner function: handed on to its callers, which are optimised as a whole.

    Numba would optimise every function together with all that it calls, once more at each level of calls, and make
    machine code of each, which is never run.
    """

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(_Loner(codegen), name)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """0: there is no machine code of a part alone."""
        del name
        self._ensure_finalized()
        return 0


class _EntryCode(JITCodeLibrary):  # type: ignore[misc]
    """Code of an entry point, optimised once with all that is inlined into it."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == binding.Linkage.linkonce_odr:
                function.linkage = binding.Linkage.internal  # called from here only, so LLVM may assume more
        super()._optimize_final_module()


class _Flags(Flags):  # type: ignore[misc]
    """Flags that never change again: Numba compares them often, and equal ones are one object here."""

    __slots__ = ("_key",)
    _key: int
    known: ClassVar[dict[Flags, _Flags]] = {}

    @classmethod
    def of(cls, flags: Flags) -> _Flags:
        """The one object that equals these flags."""
        if flags not in cls.known:
            frozen = cls(flags)
            frozen._key = super(_Flags, frozen).__hash__()
            cls.known[flags] = frozen
        return cls.known[flags]

    def copy(self) -> _Flags:
        """Itself: it never changes."""
        return self

    def __hash__(self) -> int:
        return self._key

    def __eq__(self, other: object) -> bool:
        return self is other or (not isinstance(other, _Flags) and super().__eq__(other))


# Steps of Numba's compiler for what the functions here do not use (closures, generators of code, array expressions).
NEEDLESS: Final = {
    "WithLifting", "InlineClosureLikes", "RewriteSemanticConstants", "DeadBranchPrune", "RewriteDynamicRaises",
    "MakeFunctionToJitFunction", "InlineInlinables", "FindLiterallyCalls", "LiteralUnroll",
    "LiteralPropagationSubPipelinePass", "InlineOverloads", "NopythonRewrites",
}  # fmt: skip


class EntryCompiler(Compiler):  # type: ignore[misc]
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
    """A `_Part` that is never inlined into its callers."""

    def add_ir_module(self, ir_module: Any) -> None:
        """As Numba does it, once the functions are marked."""
        for function in ir_module.functions:
            if not function.is_declaration:
                function.attributes.add("noinline")
        super().add_ir_module(ir_module)


class PartCompiler(EntryCompiler):
    """`EntryCompiler` for inner functions."""

    code = _Part


class LinkedCompiler(EntryCompiler):
    """`EntryCompiler` for linked functions: their arguments do not overlap."""

    noalias = True


class OutlinedCompiler(LinkedCompiler):
    """`LinkedCompiler` for outlined functions, of which the same holds."""

    code = _OutlinedPart


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off: the compiler makes millions of objects that stay alive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _links(function: Callable[..., Any]) -> list[Linked]:
    """Linked functions that a function calls, directly or through functions that are inlined into it."""
    found: dict[Any, None] = {}
    waiting = [function]
    while waiting:
        caller = waiting.pop()
        for name in sorted({step.argval for step in dis.get_instructions(caller) if step.opname == "LOAD_GLOBAL"}):
            called = caller.__globals__.get(name)
            if isinstance(called, CPUDispatcher) and called not in found:
                found[called] = None
                if not isinstance(called, Linked):
                    waiting.append(called.py_func)
    return [called for called in found if isinstance(called, Linked)]


class Entry(CPUDispatcher):  # type: ignore[misc]
    """A function with code of its own in the cache."""

    def compile(self, sig: Any) -> Any:
        """Compile as Numba does, after all linked functions that it calls."""
        with global_compiler_lock, _uncollected():
            for linked in _links(self.py_func):
                linked.ready()
            return super().compile(sig)


class Linked(Entry):
    """An entry point of compiled callers: they hold its symbol, not its code."""

    types: tuple[Any, ...]
    is_ready = False

    def ready(self) -> None:
        """Compile it or load it from the cache, and tell the linker where it is."""
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
        """The entry point, compiled once for its declared types.

        Raises:
            TypingError: other types than those.
        """
        self.ready()
        arguments, _ = sigutils.normalize_signature(sig)
        if tuple(arguments) not in self.overloads:
            raise TypingError(
                f"{self.py_func.__name__} takes {self.types}, not {tuple(arguments)}; change its @linked or the call"
            )
        return self.overloads[tuple(arguments)].entry_point
