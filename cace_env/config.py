"""Strict configuration: frozen models, YAML without surprises, errors that name file, key, value and limit."""

from __future__ import annotations

import itertools
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import pydantic
import yaml
from pydantic.fields import FieldInfo

MOST_BYTES: Final = 1 << 20  # of a YAML file: PyYAML takes ten seconds for as many
MOST_JSON_BYTES: Final = 1 << 26
MOST_PARTS: Final = 200_000  # keys and values of a configuration; what an alias stands for counts every time
MOST_LEVELS: Final = 50  # of mappings and lists in each other
MOST_PROBLEMS: Final = 20  # that an error lists
MOST_SEED: Final = (1 << 32) - 1  # of a search or a training: more than that Optuna and torch do not take
MOST_STEPS: Final = 1 << 53  # of a training, and of a budget: whole as a float, too
MOST_THREADS: Final = 1024
SHOWN: Final = 80  # letters of a value in an error
LONGEST_NAME: Final = 80
LONGEST_LINE: Final = 200
# What moves the cursor, colours or reorders text in a terminal, or is no text at all (lone surrogates).
_UNSHOWN: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
TOO_DEEP: Final = f"is nested deeper than {MOST_LEVELS} levels, the most of a configuration"
UNSHOWN: Final = re.compile(f"[{_UNSHOWN}]")
NOWHERE: Final = re.compile("[\x00\ud800-\udfff]")
_UNSHOWN_IN_A_LINE: Final = re.compile(f"[\t\n{_UNSHOWN}]")
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9 ._+()-]*[A-Za-z0-9_+()-])?")


class ConfigError(ValueError):
    """A configuration is not valid; the message names the file, the key, the value and what is allowed."""


class Frozen(pydantic.BaseModel):
    """Base of every configuration section: immutable, no unknown keys, no silent conversion of types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Section = TypeVar("Section", bound=Frozen)


def printable(text: str, most: int | None = None) -> str:
    r"""The text as it may be shown: control characters, and what reorders text, as escapes such as `\x1b`.

    Args:
        text: from a file, a log or a command line; line feeds stay.
        most: letters; longer text is cut, and says how long it was.
    """
    shown = UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)
    return shown if most is None or len(shown) <= most else f"{shown[:most]}... ({len(text)} letters)"


def one_line(text: str, most: int | None = LONGEST_LINE) -> str:
    """`printable`, with line feeds as escapes, too, and cut: a name from a log or a file as one line of a table."""
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"), most)


def _is_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"a name has 1 to {LONGEST_NAME} letters (a to z), digits, spaces and . _ + - ( ), begins with a letter, a "
            "digit or _, and ends with no dot or space: files are called by it"
        )
    return name


def _is_line(text: str) -> str:
    if len(text) > LONGEST_LINE or _UNSHOWN_IN_A_LINE.search(text):
        raise ValueError(f"it has to be one line of at most {LONGEST_LINE} letters without control characters")
    return text


Name = Annotated[str, pydantic.AfterValidator(_is_name)]  # files may be called by it
Line = Annotated[str, pydantic.AfterValidator(_is_line)]  # shown in tables, terminals and pictures


class _UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses duplicate keys, of which PyYAML silently keeps the last."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in mapping:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} appears twice; keep one")
        mapping[key] = loader.construct_object(value_node, deep=deep)
    return mapping


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_text(path: str | Path, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file.

    Raises:
        ConfigError: it cannot be read, is larger than `most_bytes`, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) <= most_bytes:
            return content.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or no UTF-8
        why = (isinstance(error, OSError) and error.strerror) or shown(error)
        raise ConfigError(f"{printable(str(path), 4 * SHOWN)}: cannot be read ({why})") from error
    raise ConfigError(f"{path}: is larger than {most_bytes >> 20} MiB, the most that is read of such a file")


def parse_yaml(text: str, source: str) -> Any:
    """What a YAML text says; `source` (a file name, an option) starts error messages.

    Raises:
        ConfigError: not YAML, a key stands twice, or it is nested too deeply.
    """
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(depths, default=0) > 10 * MOST_LEVELS:  # PyYAML's time grows with the square of brackets in brackets
        raise ConfigError(f"{source}: {TOO_DEEP}")
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except RecursionError:
        raise ConfigError(
            f"{source}: is nested deeper than {MOST_LEVELS} levels, the most of a configuration"
        ) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What PyYAML raises for dates that do not exist, numbers of 5,000 digits, tags that do not fit, lists as keys.
        raise ConfigError(f"{source}: has a value or a key that cannot be read ({shown(error)})") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or has a key twice.
    """
    content = parse_yaml(read_text(path), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs a mapping of keys at the top, has {type(content).__name__}")
    return content


def read_json(path: str | Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ConfigError: the file is missing, cut short, is not JSON, or is no object.
    """
    text = read_text(path, MOST_JSON_BYTES)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON, or was cut short ({shown(error)})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs an object at the top, has {type(content).__name__}")
    return content


def parse(section: type[Section], content: Mapping[str, Any], source: str) -> Section:
    """Parse `content` as a `section`; `source` (such as a file name) starts error messages.

    Raises:
        ConfigError: a key is unknown, a type is wrong or a value is out of range, one line per problem.
    """
    _check_plain(content, source)
    try:
        # Strict JSON rules: "2" is not a number and 1 is not a bool, but a YAML list can be a tuple and 2 a float.
        text = json.dumps(content, default=_plain)
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; use plain numbers, strings, lists and mappings") from error
    try:
        return section.model_validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_readable(error, source, section, json.loads(text))) from error


def _check_plain(content: Any, source: str) -> None:
    """Refuses what no configuration needs, and what takes down programs or terminals.

    Raises:
        ConfigError: too deep, or too large with aliases spelled out; a whole number beyond 64 bits; a NUL or a lone
            surrogate in a text.
    """
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(content, ())]
    parts = 0
    while waiting:
        part, place = waiting.pop()
        parts += 1 + (len(part) // 100 if isinstance(part, str) else 0)
        problem = ""
        if parts > MOST_PARTS:
            place, problem = (), f"has more than {MOST_PARTS} keys and values, the most of a configuration"
        elif len(place) > MOST_LEVELS:
            place, problem = (), TOO_DEEP
        elif isinstance(part, str) and (found := NOWHERE.search(part)):
            problem = f"has {found[0]!a}, which no file and no text can hold; leave it out"
        elif isinstance(part, int) and not -(1 << 63) <= part < 1 << 63:
            problem = "is a whole number beyond 64 bits; give a smaller one"
        elif isinstance(part, Mapping):
            waiting += [(key, place) for key in part]
            waiting += [(value, (*place, key)) for key, value in part.items()]
        elif isinstance(part, list | tuple):
            waiting += [(value, (*place, at)) for at, value in enumerate(part)]
        if problem:
            where = [printable(".".join(str(key) for key in place), SHOWN)] if place else []
            raise ConfigError(": ".join([source, *where, problem]))


def load(section: type[Section], path: str | Path) -> Section:
    """`read_yaml` and `parse` in one."""
    return parse(section, read_yaml(path), str(path))


def dump(section: Frozen) -> str:
    """Format the section as YAML that `parse` reads back to an equal one."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _plain(value: object) -> Any:
    """Convert values that JSON lacks: a section inside a plain mapping becomes a mapping again."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"`, or nothing where no name is close: a wrong guess is worse than none.

    Close is what begins with all of `name`, if that has three letters, or what is a slip of the keyboard apart: one
    letter that was added, left out, changed or swapped with the next, and one more for every five letters over five.
    Capitals do not matter.
    """
    names, wanted = list(dict.fromkeys(known)) if len(name) <= LONGEST_LINE else [], name.lower()
    close = [one for one in names if len(name) >= 3 and one.lower().startswith(wanted)]
    if not 1 <= len(close) <= 3:
        slips = {one: _slips(wanted, one.lower()) for one in names if len(name) >= 3}
        least = min(slips.values(), default=0)
        close = [one for one, count in slips.items() if count == least <= _most_slips(wanted, one)]
    return f", did you mean {' or '.join(repr(one) for one in close[:3])}?" if close else ""


def _most_slips(one: str, other: str) -> int:
    """So many slips apart are names that are taken for each other."""
    return max(1, min(len(one), len(other)) // 5)


def _slips(one: str, other: str) -> int:
    """Letters to add, leave out, change or swap with their neighbour to make one of the other (Damerau 1964)."""
    if abs(len(one) - len(other)) > _most_slips(one, other):
        return max(len(one), len(other))  # too many in any case
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        older, before, row = before, row, [at]
        for place, its in enumerate(other, start=1):
            cost = min(before[place] + 1, row[-1] + 1, before[place - 1] + (letter != its))
            if at > 1 and place > 1 and letter == other[place - 2] and its == one[at - 2]:
                cost = min(cost, older[place - 2] + 1)
            row.append(cost)
    return row[-1]


def shown(value: object) -> str:
    """A value in an error: as text if it is a path or an error, else as Python writes it; escaped, and cut."""
    return printable(str(value) if isinstance(value, Path | Exception) else repr(value), 4 * SHOWN)


def _readable(error: pydantic.ValidationError, source: str, section: type[Frozen], content: Any) -> str:
    problems = error.errors(include_url=False)
    lines: list[str] = []
    for problem in problems:
        if len(lines) == MOST_PROBLEMS:
            lines.append(f"{source}: and more; {len(problems)} problems in all")
            break
        depth = len(problem["loc"])
        if problem["type"] == "too_short" and any(p["loc"][:depth] == problem["loc"] for p in problems if p != problem):
            continue  # pydantic also reports the rest of a list after removing a bad entry
        place = _place(problem, content)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = _known_keys(section, place[:-1])
            hint = did_you_mean(str(place[-1]), known)
            message = f"unknown key{hint}" if hint else f"unknown key; known are {', '.join(known)}"
        value = problem.get("input")
        if isinstance(value, str) and _is_number(value):
            message += "; YAML reads 3e-4, 1.0e9 and quoted numbers as text: write 3.0e-4 and 1.0e+9, without quotes"
        got = "" if isinstance(value, dict | list) else f" (got {printable(repr(value), SHOWN)})"
        lines.append(": ".join([source, *([".".join(map(str, place))] if place else []), f"{message}{got}"]))
    return "\n".join(lines)


def _place(problem: Any, content: Any) -> list[str | int]:
    """The keys that lead to a problem, as the user wrote them: pydantic also names the branches of unions."""
    location = list(problem["loc"])
    added = [location.pop()] if problem["type"] == "missing" else []
    written = _written(location, content, problem["input"])
    return (location if written is None else written) + added


def _written(location: Sequence[str | int], content: Any, value: Any) -> list[str | int] | None:
    """The parts of `location` that lead from `content` to `value`; None if no parts do."""
    if not location:
        return [] if repr(content) == repr(value) else None
    part, rest = location[0], location[1:]
    if isinstance(content, dict | list) and part in (content if isinstance(content, dict) else range(len(content))):
        found = _written(rest, content[part], value)  # type: ignore[index]
        if found is not None:
            return [part, *found]
    return _written(rest, content, value)


def _known_keys(section: type[Frozen], path: Sequence[str | int]) -> list[str]:
    """Known keys of the section at a path."""
    sections = [section]
    for key in path:
        fields = [field for each in sections for name, field in _keys(each).items() if name == key]
        sections = [each for field in fields for each in _sections_in(field.annotation)] or sections
    return [name for each in sections for name in _keys(each)]


def _keys(section: type[Frozen]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _sections_in(annotation: Any) -> list[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [section for each in typing.get_args(annotation) for section in _sections_in(each)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
