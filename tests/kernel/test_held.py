"""Claims about tuples that compiled code finds at an address."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba import types

from cace_env.compilation import compiled
from cace_env.held import Frame, Held, at_address

pytestmark = pytest.mark.nojit


class Inner(NamedTuple):
    number: int
    table: Any


class Outer(NamedTuple):
    flag: bool
    words: Any
    inner: Inner
    ratio: float
    small: Any


INNER = Held.of(Inner, types.int64, types.float64[:, ::1])
OUTER = Held.of(Outer, types.boolean, types.int64[::1], INNER.values, types.float64, types.int8[::1])
outer_at = at_address(OUTER)


@compiled
def read_out(address: int, out: Any) -> None:
    """Reads every member, and writes to one of them."""
    outer = outer_at(address)
    out[0] = 1.0 if outer.flag else 0.0
    out[1] = outer.words[2]
    out[2] = outer.inner.number
    out[3] = outer.inner.table[1, 2]
    out[4] = len(outer.inner.table)
    out[5] = outer.ratio
    out[6] = outer.small[1]
    outer.words[0] = 99


def some(**changes: Any) -> Outer:
    values = Outer(True, np.arange(5), Inner(-7, np.arange(6.0).reshape(2, 3)), 0.25, np.array([3, 4], dtype=np.int8))
    return values._replace(**changes)


def test_a_compiled_function_finds_every_member_of_a_tuple_at_its_address() -> None:
    for flag in (True, False):
        values, out = some(flag=flag), np.zeros(7)
        read_out(Frame(OUTER, values).address, out)
        assert out.tolist() == [float(flag), 2.0, -7.0, 5.0, 2.0, 0.25, 4.0]
        assert values.words[0] == 99


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="then the address is the tuple itself")
def test_an_address_is_one_number() -> None:
    assert isinstance(Frame(OUTER, some()).address, int)


@pytest.mark.parametrize("words", [np.arange(5.0), np.arange(6).reshape(2, 3), np.arange(10)[::2]])
def test_arrays_of_another_type_are_refused(words: Any) -> None:
    with pytest.raises(TypeError, match="words is"):
        Frame(OUTER, some(words=words))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
def test_addresses_are_neither_copied_nor_pickled(duplicate: Any) -> None:
    with pytest.raises(TypeError, match="holds addresses of this process"):
        duplicate(Frame(OUTER, some()))
