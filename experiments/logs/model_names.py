"""Which model of the catalogue a name of a log stands for: by key, by name without its decoration, by size.

A gateway calls `qwen2.5-coder-7b-int4` what it likes: `Qwen/Qwen2.5-Coder-7B-Instruct-AWQ`, `ollama/qwen2.5-coder:7b`.
A name is cut into its words, and words that do not say which weights these are (the organisation, "instruct", dates)
are left out. What is left is looked for in the catalogue.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal, NamedTuple

import yaml

from cace_env.config import ConfigError, did_you_mean, read_yaml
from cace_env.fleets import MODELS
from cace_env.fleets.catalogue import CodeModel

IGNORE: Final = "ignore"  # in a file of names: requests for this model are left out
How = Literal["given", "exact", "name", "size"]

# Words of a name that do not say which weights these are.
DECORATION: Final = frozenset(
    {"instruct", "chat", "base", "it", "hf", "latest", "python", "sft", "dpo", "preview", "free"}
    | {"gguf", "ggml", "mlx", "k", "s", "m", "l"}
)
UNTOLD: Final = re.compile(r"v[01](\.\d+)*|\d{4,8}|\d+k")  # version, date, context window
SIZE: Final = re.compile(r"a?(\d+(?:\.\d+)?)b")  # "7b", "a3b": 1e9 parameters, 1e9 active ones
BITS: Final = (  # of a weight
    (re.compile(r"awq|gptq|w4a16|nf4|bnb|mxfp4"), 4),
    (re.compile(r"w8a8|w8a16"), 8),
    (re.compile(r"i?q(\d).*"), None),  # in the word: q5k, q80
    (re.compile(r"(?:int|fp|bf|f)(\d\d?)"), None),
    (re.compile(r"(\d\d?)bit"), None),
)
# Names of vendors for models that the catalogue calls otherwise.
ALIASES: Final = {
    frozenset(("deepseek", "r", "1", "distill", "qwen")): frozenset(("r", "1", "distill", "qwen")),
    frozenset(("deepseek", "r", "1")): frozenset(("r", "1", "distill", "qwen")),  # as Ollama calls the distilled ones
}
FEW_BITS: Final = 6  # up to here the 4-bit weights of the catalogue are the closer ones
SIZE_OFF: Final = 0.15  # a guess by size is at most this far from the size in the name
MOST_LISTED: Final = 30  # names in an error


class Match(NamedTuple):
    """A model of the log and what stands for it; `model` is None where its requests are left out."""

    name: str  # as the log calls it
    model: str | None  # key of the catalogue
    how: How
    note: str = ""  # what was assumed


class Words(NamedTuple):
    """A name in parts."""

    stem: frozenset[str]  # without sizes and decoration
    sizes: frozenset[str]  # "7b", "a3b"
    bits: int | None  # of a weight; None: not said


def match_models(names: Sequence[str], given: Mapping[str, str] | None = None) -> list[Match]:
    """Find the catalogue's model for every name of a log.

    The first that holds: the name, or a pattern with `*`, stands in `given`; it is a key of the catalogue; it is one
    after its decoration is taken off; the catalogue has a model of the size in the name (a guess, which reports say).

    Args:
        names: as the log has them, the most used first.
        given: name or pattern -> key of the catalogue, or `ignore`; an exact name goes before patterns.

    Returns:
        A match for each name, in their order.

    Raises:
        ConfigError: `given` names something unknown; every model is ignored; or names are left for which nothing was
            found: the message lists them, as a file to fill in.
    """
    given = given or {}
    for name, model in given.items():
        if model != IGNORE and model not in MODELS:
            hint = did_you_mean(model, MODELS) or f"; known are {', '.join(sorted(MODELS))}"
            raise ConfigError(f"models: {shown(name)}: no model {model!r} in the catalogue, nor {IGNORE}{hint}")
        if not any(fnmatchcase(there, name) or there == name for there in names):
            raise ConfigError(f"models: {shown(name)} is no model of the log; it has {listed(names)}")
    found = [_match(name, given) for name in names]
    unknown = [name for name, match in zip(names, found, strict=True) if match is None]
    if unknown:
        raise ConfigError(_to_fill_in(unknown, len(names)))
    matches = [match for match in found if match is not None]
    if matches and all(match.model is None for match in matches):
        raise ConfigError("models: every model of the log is ignored; no request is left")
    return matches


def read_models(path: str | Path) -> dict[str, str]:
    """A file of names: model of the log, or a pattern with `*`, -> key of the catalogue or `ignore`.

    Raises:
        ConfigError: it cannot be read, or is not a mapping of texts.
    """
    content = read_yaml(path)
    for name, model in content.items():
        if not isinstance(name, str) or not isinstance(model, str):
            kind = type(model if isinstance(name, str) else name).__name__
            raise ConfigError(f"{path}: {shown(str(name))} needs a text, NAME: MODEL, but has {kind}; quote numbers")
    return content


def shown(name: str) -> str:
    """A name from a log in double quotes, all that is not plain ASCII escaped: YAML, and safe in a terminal."""
    text: str = yaml.safe_dump(name, default_style='"', allow_unicode=False, width=1 << 30)
    return text.strip()


def listed(names: Sequence[str], most: int = 10) -> str:
    """Some names, escaped."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def _match(name: str, given: Mapping[str, str]) -> Match | None:
    model = given.get(name) or next((model for key, model in given.items() if fnmatchcase(name, key)), None)
    if model is not None:
        return Match(name, None if model == IGNORE else model, "given")
    if name in MODELS:
        return Match(name, name, "exact")
    return _by_name(name) or _by_size(name)


def _by_name(name: str) -> Match | None:
    """The one family of the catalogue with these words; a size may be missing if there is still only one."""
    stem, sizes, _ = words(name)
    stem = ALIASES.get(stem, stem)
    families: dict[frozenset[str], list[CodeModel]] = {}
    for model in MODELS.values():
        known = words(model.name)
        if stem == known.stem and sizes <= known.sizes:
            families.setdefault(known.sizes, []).append(model)
    found = families.get(sizes) or (next(iter(families.values())) if len(families) == 1 else None)
    return _in_bits(name, found, "name") if found else None


def _by_size(name: str) -> Match | None:
    """The model of the catalogue closest in parameters; among equals one that shares words, then the first."""
    stem, sizes, _ = words(name)
    wanted = [float(size.removesuffix("b")) for size in sizes if not size.startswith("a")]
    if len(wanted) != 1 or not wanted[0]:
        return None
    reasons = bool(stem & {"r", "qwq", "reasoning", "thinking", "reasoner"})

    def distance(model: CodeModel) -> tuple[bool, float, int]:
        shared = len(words(model.name).stem & stem)
        return ("reasoning" in model.tasks) != reasons, abs(model.params_b / wanted[0] - 1), -shared

    near = [model for model in MODELS.values() if abs(model.params_b / wanted[0] - 1) <= SIZE_OFF]
    near = [model for model in near if model.quantisation == _format(_bits(name))] or near
    if not near:
        return None
    best = words(min(near, key=distance).name)
    family = [model for model in near if words(model.name)[:2] == best[:2]]
    return _in_bits(name, family, "size", f"a guess: a model of {wanted[0]:g}e9 parameters")


def _in_bits(name: str, family: Sequence[CodeModel], how: How, note: str = "") -> Match:
    """The member of a family in the number format that the name says; 16 bits where it says none."""
    bits, notes = _bits(name), [note] if note else []
    if bits != words(name).bits:
        notes.append("4 bits assumed, as Ollama's tags have")
    model = next((model for model in family if model.quantisation == _format(bits)), family[0])
    has = 4 if model.quantisation == "int4" else 16
    if bits not in (None, has):
        notes.append(f"{bits} bits in the name, {has} in the catalogue")
    return Match(name, model.name, how, "; ".join(notes))


def _bits(name: str) -> int | None:
    """Bits of a weight, if the name says; a tag as Ollama has them, `name:7b`, means 4."""
    tagged = ":" in name and not name.lower().endswith(":free")
    return words(name).bits or (4 if tagged else None)


def _format(bits: int | None) -> str:
    return "int4" if bits is not None and bits <= FEW_BITS else "bf16"


@functools.cache
def words(name: str) -> Words:
    """Cuts a name into its words: without organisation, decoration, version and date; letters apart from digits."""
    stem: set[str] = set()
    sizes: set[str] = set()
    bits: int | None = None
    text = name.lower().rpartition("/")[2]
    text = re.sub(r"(q\d)_(k|\d)(_[sml])?", r"\1\2", text)  # q4_k_m is one word
    text = re.sub(r"(?<=\d)_(?=\d)", ".", text)  # qwen2_5
    for word in re.split(r"[-_:\s,@]+", text.removesuffix(".gguf")):
        found = next((match for shape, _ in BITS if (match := shape.fullmatch(word))), None)
        if found is not None:
            bits = next(number for shape, number in BITS if shape is found.re) or int(found[1])
        elif SIZE.fullmatch(word):
            sizes.add(word)
        elif word not in DECORATION and not UNTOLD.fullmatch(word):
            stem |= set(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", word))
    return Words(frozenset(stem), frozenset(sizes), bits)


def _to_fill_in(unknown: Sequence[str], total: int) -> str:
    """An error that is a file to fill in."""
    rows = [f"  {shown(name)}: {IGNORE}" for name in unknown[:MOST_LISTED]]
    if len(unknown) > MOST_LISTED:
        rows.append(f'  "*": {IGNORE}  # the other {len(unknown) - MOST_LISTED}; * stands for any text')
    return "\n".join(
        [
            f"{len(unknown)} of {total} models of the log have names that the catalogue does not know. Write a file "
            "such as models.yaml with these lines, a model of the catalogue in place of `ignore` (which leaves "
            "requests out), and pass it with --models models.yaml:",
            *rows,
            f"The catalogue has {', '.join(sorted(MODELS))}.",
        ]
    )
