"""What a GGUF file says of the model in it."""

from __future__ import annotations

from pathlib import Path

from cace_env.config import ConfigError


def kv_bytes_per_token(path: str | Path) -> int:
    """Keys and values of one token in 16-bit numbers: layers x KV heads x (key length + value length) x 2 bytes.

    Raises:
        ConfigError: the package `gguf` is missing, or the file says no such sizes.
    """
    try:
        import gguf
    except ImportError as error:
        raise ConfigError("reading GGUF files needs the package gguf; run: pip install 'cace-env[live]'") from error
    try:
        fields = gguf.GGUFReader(str(path)).fields
        kind = fields["general.architecture"].contents()
        layers = int(fields[f"{kind}.block_count"].contents())
        heads = int(fields[f"{kind}.attention.head_count"].contents())
        of_keys = fields.get(f"{kind}.attention.head_count_kv")
        kv_heads = of_keys.contents() if of_keys is not None else heads
        width = int(fields[f"{kind}.embedding_length"].contents()) // heads
        lengths = [
            int(fields[key].contents()) if (key := f"{kind}.attention.{part}_length") in fields else width
            for part in ("key", "value")
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{path}: no GGUF file of a language model ({type(error).__name__})") from error
    in_all = sum(kv_heads) if isinstance(kv_heads, list) else layers * int(kv_heads)
    return in_all * sum(lengths) * 2
