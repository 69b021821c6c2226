"""Named tuples that compiled functions pass on as one word.

Numba passes a tuple of arrays as seven words and more for each of them. With dozens of arrays that is most of what has
to be compiled, and most of the time of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model
from numba.np.numpy_support import as_dtype

Values = TypeVar("Values")


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
        """A number by which Numba tells types apart, cheaper to compare than their names."""
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


@lower_getattr_generic(Held)
def _read_held(context: Any, builder: Any, held: Held, address: Any, name: str) -> Any:
    del context
    k = held.values.fields.index(name)
    member = cgutils.gep_inbounds(builder, address, 0, k)
    return member if isinstance(held.values.types[k], types.BaseNamedTuple) else builder.load(member)


if numba.config.DISABLE_JIT:

    def held(values: Values) -> Values:
        """The tuple itself."""
        return values

    def address_of(values: Any) -> int:
        """0: there are no addresses in plain Python."""
        del values
        return 0

    def at_address(held: Held) -> Callable[[Any], Any]:
        """A function that returns what a `Frame` gives instead of its address: the tuple itself."""
        del held
        return lambda values: values

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

    @intrinsic
    def address_of(typing_context: Any, values: Any) -> Any:
        """The address of a held tuple as a number, for other threads: good until the function that holds it ends."""
        del typing_context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(arguments[0], context.get_value_type(signature.return_type))

        return types.int64(values), generate

    def at_address(held: Held) -> Callable[[Any], Any]:
        """A function that makes a held tuple of this type of its address: that of `address_of`, or of a `Frame`."""

        @intrinsic
        def at(typing_context: Any, address: Any) -> Any:
            del typing_context

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

            return held(address), generate

        return at  # type: ignore[no-any-return]


class Frame:
    """A named tuple in memory, as compiled code holds one: a call that takes its address takes one number.

    Numba takes a tuple of arrays apart at every call, in about a seventh of a microsecond for each array.

    Args:
        held: its type.
        values: the tuple, of C-contiguous arrays, whole numbers (int64), floats, truth values, and such tuples.

    Attributes:
        values: the tuple.
        address: what compiled functions are given; without compilation the tuple itself.

    Raises:
        TypeError: an array is not of its type.
    """

    def __init__(self, held: Held, values: Any) -> None:
        self.values = values  # keeps the arrays alive
        self._words = np.array(list(_words(held.values, values)), dtype=np.int64)
        self.address: Any = values if numba.config.DISABLE_JIT else int(self._words.ctypes.data)

    def __reduce__(self) -> Any:
        raise TypeError("a Frame holds addresses of this process, so it cannot be copied or pickled; make another one")


def _words(kind: Any, values: Any) -> Iterator[int]:
    """The members of a named tuple in the order in which Numba lays them out, each in words of its own."""
    for member, name, value in zip(kind.types, kind.fields, values, strict=True):
        if isinstance(member, types.BaseNamedTuple):
            yield from _words(member, value)
        elif isinstance(member, types.Array):
            if value.dtype != as_dtype(member.dtype) or value.ndim != member.ndim or not value.flags.c_contiguous:
                raise TypeError(f"{name} is {value.dtype} with {value.ndim} dimensions; it has to be {member}")
            yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        elif member == types.float64:
            yield int(np.float64(value).view(np.int64))
        else:
            yield int(value)
