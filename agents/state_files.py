"""The state of a training in two files that hold no code: arrays as npz, the rest in JSON.

`torch.save` and SB3's zip files are pickles, which run what they contain when they are read. Here anything that is made
of dicts, lists, tuples, numbers, text, tensors and arrays can be put away, and comes back as it was: the state of an
optimiser has integer keys and tuples, which plain JSON would change.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cace_env.config import ConfigError
from cace_env.files import read_arrays, replace_file

MOST_BYTES: Final = 1 << 34  # a replay buffer
ARRAYS: Final = "training.npz"
REST: Final = "training.json"


def save_state(state: Any, folder: Path) -> None:
    """Write a state into an existing folder.

    Raises:
        TypeError: it holds a type that the module docstring does not list.
    """
    arrays: dict[str, Any] = {}
    rest = _taken_apart(state, arrays)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    replace_file(folder / ARRAYS, packed.getvalue())
    replace_file(folder / REST, json.dumps(rest))


def load_state(folder: Path) -> Any:
    """Read what `save_state` wrote.

    Raises:
        ConfigError: a file is missing, damaged or of another kind.
    """
    try:
        arrays = read_arrays((folder / ARRAYS).read_bytes(), MOST_BYTES)
        return _put_together(json.loads((folder / REST).read_text(encoding="utf-8")), arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{folder}: cannot read the state of a training from it ({problem})") from error


def _taken_apart(value: Any, arrays: dict[str, Any]) -> Any:
    """Convert a value for JSON; its tensors and arrays go to `arrays`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[_taken_apart(each, arrays) for each in item] for item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_taken_apart(each, arrays) for each in value]}
    if isinstance(value, torch.Tensor | np.ndarray):
        name = str(len(arrays))
        arrays[name] = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return {"tensor" if isinstance(value, torch.Tensor) else "array": name}
    raise TypeError(f"{value!r} is a {type(value).__name__}, which a state may not hold")


def _put_together(value: Any, arrays: dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[content])
    if kind == "array":
        return arrays[content]
    items = [_put_together(each, arrays) for each in content] if kind != "dict" else content
    if kind == "dict":
        return {_put_together(key, arrays): _put_together(each, arrays) for key, each in items}
    return {"list": list, "tuple": tuple}[kind](items)
