"""Named arrays as a file without code in it: the safetensors format, float32 only.

Eight bytes with the length of a JSON header, the header (dtype, shape and place of each array), the numbers. Agents
that ship are read by the core, which does without the safetensors package; `tests/policies/test_agent.py` holds the two
against each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError

Float32Array = npt.NDArray[np.float32]

LENGTH_BYTES: Final = 8
FLOAT32: Final = "F32"
METADATA: Final = "__metadata__"


def pack_tensors(arrays: Mapping[str, Float32Array]) -> bytes:
    """The file with these arrays, in their order; the same arrays give the same bytes."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": FLOAT32, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    numbers = b"".join(np.ascontiguousarray(array, dtype="<f4").tobytes() for array in arrays.values())
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + numbers


def unpack_tensors(content: bytes, where: str) -> dict[str, Float32Array]:
    """The arrays in a file, by name.

    Args:
        content: of the file.
        where: its name, for errors.

    Raises:
        ConfigError: it is no safetensors file, or holds anything but float32 arrays that fill it without gaps.
    """
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if len(content) < LENGTH_BYTES or end > len(content):
        raise ConfigError(f"{where}: not a safetensors file, or cut short ({len(content)} bytes)")
    try:
        header = json.loads(content[LENGTH_BYTES:end])
    except ValueError as error:
        raise ConfigError(f"{where}: not a safetensors file (its header is no JSON: {error})") from error
    if not isinstance(header, dict):
        raise ConfigError(f"{where}: not a safetensors file (its header is a {type(header).__name__})")
    header.pop(METADATA, None)
    numbers = content[end:]
    arrays: dict[str, Float32Array] = {}
    at = 0
    try:
        for name, row in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            shape, (begin, stop) = tuple(row["shape"]), row["data_offsets"]
            if row["dtype"] != FLOAT32:
                raise ConfigError(f"{where}: {name!r} is {row['dtype']}; weights are {FLOAT32}")
            if begin != at or stop != at + 4 * math.prod(shape) or stop > len(numbers):
                raise ConfigError(f"{where}: {name!r} lies at {begin} to {stop}, which is not where shape {shape} fits")
            arrays[name] = np.frombuffer(numbers[begin:stop], dtype="<f4").astype(np.float32).reshape(shape)
            at = stop
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: not a safetensors file ({type(error).__name__}: {error})") from error
    if at != len(numbers):
        raise ConfigError(f"{where}: {len(numbers) - at} bytes behind the last array; the file is not what was written")
    return arrays
