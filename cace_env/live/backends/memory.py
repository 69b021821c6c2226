"""How much memory a model takes, where its server does not say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from cace_env.config import ConfigError, parse_yaml, read_text, shown

_UNITS: Final = {"B": 1, "MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?) ?(B|MB|GB|MiB|GiB)")
_PART: Final = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


def read_memory(path: str | Path) -> dict[str, int]:
    """A file of the user's: the name of each model and its memory, such as `qwen-7b: 4.7 GB`.

    Returns:
        Bytes by model.

    Raises:
        ConfigError: it cannot be read, or a line is no name with an amount.
    """
    rows = parse_yaml(read_text(path), str(path))
    if not isinstance(rows, dict):
        raise ConfigError(f"{path}: has to hold lines such as 'qwen-7b: 4.7 GB'")
    return {str(name): _bytes(amount, f"{path}: {shown(str(name))}") for name, amount in rows.items()}


def _bytes(amount: Any, where: str) -> int:
    found = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    size = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size <= 0:
        raise ConfigError(f"{where}: memory has to be a number with a unit ({', '.join(_UNITS)}), such as 4.7 GB")
    return size


def gguf_bytes(path: str | Path) -> int | None:
    """The size of a model's file, all parts of a split one together; None where it is not on this machine.

    That is its weights and some kB of names: the cache of keys and values and buffers come on top.
    """
    first = Path(path)
    found = _PART.fullmatch(first.name)
    parts = sorted(first.parent.glob(f"{found[1]}-?????-of-{found[2]}.gguf")) if found else [first]
    try:
        return sum(part.stat().st_size for part in parts) or None
    except OSError:
        return None
