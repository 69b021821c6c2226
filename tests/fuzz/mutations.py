"""Mappings, texts and files as nobody should write them: valid ones, with parts changed, lost, doubled or out of range.

`make fuzz` tries thousands; `make test` some, always the same.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, Final

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from cace_env.config import ConfigError
from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from cace_env.traces import TraceError

EXAMPLES: Final = "FUZZ_EXAMPLES"  # variable of the environment: how many inputs each claim is tried on
SAID: Final = (ConfigError, TraceError, PolicyError, SimulationError)  # what users can mend

WORDS: Final = """
. .. ../x [red] ${x} {0} %s nan 1e400 -0 1_0 0x10 true null ~ !!int &a *a /dev/zero /dev/null / // ~root lru cace
default tiny v1 agent: agent:swap cace: cace:cace cace-quoted: cace-quoted:window=x fifo+ +lru wsjf+lru guarded:
guarded:lru guarded:agent:swap no-swapping a:b os:path os:system : :: x.yaml
"""
ODD: Final = ("", " ", "a\0b", "\x1b[31mred", "\u202e", "\ud800", "\ufeff", "x" * 300, "x" * 5000)
TEXTS: Final = st.one_of(st.sampled_from((*WORDS.split(), *ODD)), st.text(max_size=12))
NUMBERS: Final = st.one_of(
    st.sampled_from((0, -1, 1, 2, 3, 255, 256, 10**6, 2**31, 2**32, 2**53, 2**63, -(2**63), 10**30, 10**400)),
    st.sampled_from((0.0, -0.0, 0.5, 1.5, 1e-300, 1e-9, 1e9, 1e18, 1e300, float("nan"), float("inf"), -float("inf"))),
    st.integers(-5, 100),
    st.floats(),
)
SCALARS: Final = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JUNK: Final = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5
)


def fuzzed(test: Callable[..., None]) -> Callable[..., None]:
    """A claim that is tried on some inputs, or on as many as `FUZZ_EXAMPLES` says."""
    asked = os.environ.get(EXAMPLES)
    tried = settings(
        max_examples=int(asked or 30),
        derandomize=asked is None,
        database=None,
        deadline=None,
        phases=(Phase.generate,),  # a failure is shown as it was found: to shrink it would take as long again
        suppress_health_check=list(HealthCheck),
    )
    return tried(test)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A copy of plain content with one to four of its parts changed."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 4))):
        content = _changed(draw, content)
    return content


def _changed(draw: st.DrawFn, part: Any) -> Any:
    """The content with a part of it, or all of it, changed."""
    if isinstance(part, dict) and part and draw(st.integers(0, 9)) > 0:
        key = draw(st.sampled_from(list(part)))
        how = draw(st.sampled_from(("deeper", "deeper", "deeper", "replace", "drop", "add", "rename")))
        if how == "deeper":
            return part | {key: _changed(draw, part[key])}
        if how == "replace":
            return part | {key: draw(JUNK)}
        rest = {name: value for name, value in part.items() if name != key}
        if how == "drop":
            return rest
        name = draw(TEXTS) if how == "add" else f"{key}x"
        return rest | {name: part[key]} | ({key: part[key]} if how == "add" else {})
    if isinstance(part, list) and part and draw(st.integers(0, 9)) > 0:
        at = draw(st.integers(0, len(part) - 1))
        how = draw(st.sampled_from(("deeper", "drop", "double", "replace")))
        middle = {"deeper": lambda: [_changed(draw, part[at])], "drop": list, "replace": lambda: [draw(JUNK)]}
        new = [part[at], part[at]] if how == "double" else middle[how]()
        return [*part[:at], *new, *part[at + 1 :]]
    if isinstance(part, int | float) and not isinstance(part, bool):
        return draw(st.one_of(NUMBERS, st.sampled_from((-part, part * 10))))
    return draw(JUNK)


TAGS: Final = ["!!timestamp", "!!binary", "!!set", "!!omap", "!!int", "!!float", "!!bool", "!!python/name:os.system"]
MARKS: Final = [
    "-",
    ":",
    "?",
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "<<:",
    '"',
    "'",
    "|",
    ">",
    "#",
    ",",
    "2026-13-45",
    "0o9",
    "1:99:99",
    "0b2",
    ".nan",
    "---",
    "...",
    "%YAML",
]
SIGNS: Final = st.sampled_from(
    (*(f"{one} " for one in (*TAGS, *MARKS)), "", "\0", "\t", "\n", "\r", "9" * 5000, "[" * 300)
)


@st.composite
def mutated_text(draw: st.DrawFn, text: str) -> str:
    """A text with letters cut, doubled, or put in between."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = draw(st.integers(at, min(len(text), at + 30)))
        text = text[:at] + draw(st.one_of(SIGNS, TEXTS)) + text[draw(st.sampled_from((at, to))) :]
    return text


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with bytes flipped, cut or put in between."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.binary(max_size=4), st.sampled_from((b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\x03\x04"))))
        content = content[:at] + new + content[draw(st.sampled_from((at, at + len(new), len(content)))) :]
    return content


def as_yaml(content: Any) -> str:
    """Plain content as YAML, whatever is in it; surrogates, which no file holds, as escapes."""
    return (
        yaml.safe_dump(content, sort_keys=False, default_flow_style=None).encode("utf-8", "backslashreplace").decode()
    )
