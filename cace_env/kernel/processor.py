"""What the processor can do and numba has no word for: views, bits of numbers, logarithms, prefetching, threads.

A call of the C library's `log1p` for every feature would be the largest part of an observation; `ln` has no branches,
so that the compiler computes several at once.
"""

from __future__ import annotations

import os
import platform
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from cace_env.compilation import inlined

Array = Any

HALF_SQRT_BITS: Final = 0x3FE6A09E667F3BCD  # of sqrt(1/2): mantissas come out between it and sqrt(2)
LN_2: Final = float(np.log(2.0))
READ, EVERY_CACHE, DATA = 0, 3, 1  # arguments of LLVM's prefetch
# LLVM's names for "this thread waits for another one", by `platform.machine()`; arguments of the instruction.
PAUSES: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    **dict.fromkeys(("x86_64", "amd64"), ("llvm.x86.sse2.pause", ())),
    **dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.hint", (1,))),
}
IN_ORDER: Final = "seq_cst"  # all threads see all atomic operations in one order

# Lets another thread have this core; of the C library, or of Windows.
give_way = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


if numba.config.DISABLE_JIT:

    def table(row: Array, first: int, end: int, columns: tuple[int, ...]) -> Array:
        """`row[first:end]` as rows of these columns."""
        return row[first:end].reshape(-1, len(columns))

    def float_table(row: Array, first: int, end: int, columns: tuple[int, ...]) -> Array:
        """The same, of float64."""
        return row[first:end].view(np.float64).reshape(-1, len(columns))

    def bits_of(x: float) -> int:
        """The bits of a float64, as int64."""
        return int(np.float64(x).view(np.int64))

    def float_of(bits: int) -> float:
        """The float64 with these bits."""
        return float(np.int64(bits).view(np.float64))

    def prefetch(array: Array, index: int) -> None:
        """Does nothing in plain Python."""
        del array, index

    # Nothing runs beside plain Python: these need not be atomic.

    def atomic_add(words: Array, index: int, value: int) -> int:
        """Adds to a word; what it was before."""
        before = int(words[index])
        words[index] += value
        return before

    def atomic_read(words: Array, index: int) -> int:
        """A word."""
        return int(words[index])

    def atomic_write(words: Array, index: int, value: int) -> None:
        """Writes a word."""
        words[index] = value

    def pause() -> None:
        """Does nothing in plain Python."""

else:

    def _table(row: Any, first: Any, end: Any, columns: Any, dtype: Any) -> Any:
        """A contiguous two-dimensional view whose number of columns is a constant of the machine code.

        `reshape` would look for a way to view any array without copying, at run time, and hide the constant.
        """
        width = columns.count
        out = types.Array(dtype, 2, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            row_type, first_type, end_type, _ = signature.args
            size = context.get_constant(types.intp, 8)
            columns = context.get_constant(types.intp, width)
            first = context.cast(builder, arguments[1], first_type, types.intp)
            end = context.cast(builder, arguments[2], end_type, types.intp)
            array = context.make_array(out)(context, builder)
            data = context.make_array(row_type)(context, builder, arguments[0]).data
            populate_array(
                array,
                data=builder.bitcast(builder.gep(data, [first]), array.data.type),
                shape=[builder.sdiv(builder.sub(end, first), columns), columns],
                strides=[builder.mul(columns, size), size],
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return out(row, first, end, columns), generate

    @intrinsic
    def table(typing_context: Any, row: Any, first: Any, end: Any, columns: Any) -> Any:
        """`row[first:end]` as rows of these columns."""
        del typing_context
        return _table(row, first, end, columns, types.int64)

    @intrinsic
    def float_table(typing_context: Any, row: Any, first: Any, end: Any, columns: Any) -> Any:
        """The same, of float64."""
        del typing_context
        return _table(row, first, end, columns, types.float64)

    @intrinsic
    def bits_of(typing_context: Any, x: Any) -> Any:
        """The bits of a float64, as int64."""
        del typing_context, x

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return types.int64(types.float64), generate

    @intrinsic
    def float_of(typing_context: Any, bits: Any) -> Any:
        """The float64 with these bits."""
        del typing_context, bits

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return types.float64(types.int64), generate

    @intrinsic
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        """Asks for the cache line of `array[index]`, of a contiguous array."""
        del typing_context, index

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
            flag = cgutils.int32_t
            wanted = cgutils.ir.FunctionType(cgutils.ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
            function = cgutils.get_or_insert_function(builder.module, wanted, "llvm.prefetch.p0")
            builder.call(function, [address, flag(READ), flag(EVERY_CACHE), flag(DATA)])
            return context.get_dummy_value()

        return types.void(array, types.int64), generate

    @intrinsic
    def atomic_add(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
        """Adds to a word of a contiguous int64 array; what it was before. No thread sees anything in between."""
        del typing_context, index, value

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature, arguments)
            return builder.atomic_rmw("add", address, arguments[2], IN_ORDER)

        return types.int64(words, types.int64, types.int64), generate

    @intrinsic
    def atomic_read(typing_context: Any, words: Any, index: Any) -> Any:
        """A word of a contiguous int64 array that other threads write."""
        del typing_context, index

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load_atomic(_address(context, builder, signature, arguments), IN_ORDER, 8)

        return types.int64(words, types.int64), generate

    @intrinsic
    def atomic_write(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
        """Writes a word of a contiguous int64 array that other threads read, after all that was written before."""
        del typing_context, index, value

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store_atomic(arguments[2], _address(context, builder, signature, arguments), IN_ORDER, 8)
            return context.get_dummy_value()

        return types.void(words, types.int64, types.int64), generate

    def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """The address of a word of an array."""
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    @intrinsic
    def pause(typing_context: Any) -> Any:
        """Tells the processor that this thread waits for another one."""
        del typing_context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del signature, arguments
            name, numbers = PAUSES.get(platform.machine().lower(), (None, ()))
            if name is not None:
                flag = cgutils.int32_t
                wanted = cgutils.ir.FunctionType(cgutils.ir.VoidType(), [flag] * len(numbers))
                function = cgutils.get_or_insert_function(builder.module, wanted, name)
                builder.call(function, [flag(number) for number in numbers])
            return context.get_dummy_value()

        return types.void(), generate


@inlined
def ln(x: float) -> float:
    """Natural logarithm of a normal x > 0, to 1e-10.

    x = 2^k m with m near 1, and ln m = 2 artanh((m - 1) / (m + 1)), whose series is cut after the 11th power.
    """
    bits = bits_of(x)
    k = (bits - HALF_SQRT_BITS) >> 52
    m = float_of(bits - (k << 52))
    a = (m - 1.0) / (m + 1.0)
    z = a * a
    series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * (1.0 / 11.0)))))
    return 2.0 * a * series + k * LN_2
