"""Strict configuration: frozen models, YAML without surprises, errors that name file, key, value and limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml


class ConfigError(ValueError):
    """A configuration that was refused; the message names the file, the key, the value and what is allowed."""


class Frozen(pydantic.BaseModel):
    """Base of every configuration section: immutable, no unknown keys, no silent conversion of types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Section = TypeVar("Section", bound=Frozen)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; this one refuses."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in mapping:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} stands twice; keep one")
        mapping[key] = loader.construct_object(value_node, deep=deep)
    return mapping


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

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
    """`content` as a `section`; `source` (a file name, say) opens the error message.

    Raises:
        ConfigError: unknown key, wrong type or value out of range, one line per problem.
    """
    try:
        # Strict JSON rules: "2" is no number and 1 no bool, while a YAML list may fill a tuple and 2 a float.
        return section.model_validate_json(json.dumps(content, default=_plain), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_readable(error, source)) from error
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; use plain numbers, strings, lists and mappings") from error


def load(section: type[Section], path: str | Path) -> Section:
    """`read_yaml` and `parse` in one."""
    return parse(section, read_yaml(path), str(path))


def dump(section: Frozen) -> str:
    """The section as YAML that `parse` reads back to an equal one."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _plain(value: object) -> Any:
    """What JSON does not know: a section inside a plain mapping becomes a mapping again."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def _readable(error: pydantic.ValidationError, source: str) -> str:
    problems = error.errors(include_url=False)
    lines = []
    for problem in problems:
        depth = len(problem["loc"])
        if problem["type"] == "too_short" and any(p["loc"][:depth] == problem["loc"] for p in problems if p != problem):
            continue  # pydantic also counts what is left of a list when a bad entry has been taken out
        key = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; check its spelling"
        value = problem.get("input")
        if isinstance(value, str) and _is_number(value):
            message += "; YAML reads 3e-4 and quoted numbers as text: write 3.0e-4, without quotes"
        shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
        lines.append(f"{source}: {key}: {message}{shown}")
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
