"""What the processor can do and numba has no word for: views, bits of numbers, branch-free logarithms, prefetching.

A call of the C library's `log1p` for every feature would be the largest part of an observation; `ln` has no branches,
so that the compiler computes several at once.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model
from numba.np.arrayobj import populate_array

from cace_env.compilation import inlined

Array = Any
Values = TypeVar("Values")

HALF_SQRT_BITS: Final = 0x3FE6A09E667F3BCD  # of sqrt(1/2): mantissas come out between it and sqrt(2)
LN_2: Final = float(np.log(2.0))
READ, EVERY_CACHE, DATA = 0, 3, 1  # arguments of LLVM's prefetch


class Held(types.Type):  # type: ignore[misc]  # mypy skips numba
    """A named tuple that is passed on as its address; `held` makes one."""

    def __init__(self, values: Any) -> None:
        self.values = values
        super().__init__(name=f"Held({values.instance_class.__name__})")

    @classmethod
    def of(cls, names: Any, *members: Any) -> Held:
        """The type of `held(names(...))` with members of these types."""
        return cls(types.BaseTuple.from_types(members, names))

    @property
    def key(self) -> int:
        """What tells types apart, quickly."""
        return int(self.values._code)


@register_model(Held)
class _HeldModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, held: Held) -> None:
        super().__init__(manager, held, manager.lookup(held.values).get_value_type().as_pointer())


@infer_getattr
class _HeldAttributes(AttributeTemplate):  # type: ignore[misc]
    key = Held

    def generic_resolve(self, held: Held, name: str) -> Any:
        fields = held.values.fields
        if name not in fields:
            return None
        member = held.values.types[fields.index(name)]
        return Held(member) if isinstance(member, types.BaseNamedTuple) else member


@lower_getattr_generic(Held)  # type: ignore[untyped-decorator]
def _read_held(context: Any, builder: Any, held: Held, address: Any, name: str) -> Any:
    del context
    k = held.values.fields.index(name)
    member = cgutils.gep_inbounds(builder, address, 0, k)
    return member if isinstance(held.values.types[k], types.BaseNamedTuple) else builder.load(member)


if numba.config.DISABLE_JIT:

    def held(values: Values) -> Values:
        """The tuple itself."""
        return values

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

else:

    @intrinsic
    def held(typing_context: Any, values: Any) -> Any:
        """A named tuple in the caller's own memory, so that it is passed on as one word and not as a hundred.

        It is gone when the caller returns. Where everything that it is passed to is inlined, nothing is left of it.
        """
        del typing_context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = cgutils.alloca_once(builder, context.get_value_type(signature.return_type).pointee)
            for k in range(len(values)):
                member = builder.extract_value(arguments[0], k)
                builder.store(member, cgutils.gep_inbounds(builder, address, 0, k))
            return address

        return Held(values)(values), generate

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
