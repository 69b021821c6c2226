"""Strict configuration: frozen models, YAML without surprises, errors that name file, key, value and limit."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A configuration is not valid; the message names the file, the key, the value and what is allowed."""


class Frozen(pydantic.BaseModel):
    """Base of every configuration section: immutable, no unknown keys, no silent conversion of types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Section = TypeVar("Section", bound=Frozen)


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


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs a mapping of keys at the top, has {type(content).__name__}")
    return content


def parse(section: type[Section], content: dict[str, Any], source: str) -> Section:
    """Parse `content` as a `section`; `source` (such as a file name) starts error messages.

    Raises:
        ConfigError: a key is unknown, a type is wrong or a value is out of range, one line per problem.
    """
    try:
        # Strict JSON rules: "2" is not a number and 1 is not a bool, but a YAML list can be a tuple and 2 a float.
        text = json.dumps(content, default=_plain)
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; use plain numbers, strings, lists and mappings") from error
    try:
        return section.model_validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_readable(error, source, section, json.loads(text))) from error


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
    """`", did you mean 'x'?"`, or nothing if no name is close."""
    known = list(known)
    close = [row for row in known if row.startswith(name)] or difflib.get_close_matches(name, known, n=1)
    return f", did you mean {' or '.join(repr(row) for row in close)}?" if close and name else ""


def _readable(error: pydantic.ValidationError, source: str, section: type[Frozen], content: Any) -> str:
    problems = error.errors(include_url=False)
    lines = []
    for problem in problems:
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
            message += "; YAML reads 3e-4 and quoted numbers as text: write 3.0e-4, without quotes"
        shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
        lines.append(": ".join([source, *([".".join(map(str, place))] if place else []), f"{message}{shown}"]))
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
