"""Tiny language models with random weights, for tests and demonstrations: real files for a real server, no download.

They are llamas with a vocabulary of bytes and single characters. What they write is noise, but they load, read a
prompt, write tokens and unload as large ones do, only faster. Needs the `gguf` package (extra `live`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError

CONTEXT: Final = 8192  # tokens
# Prompts are read token by token in tests: every message becomes one line, and nothing is added to it.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
)
SPECIAL: Final = ("<unk>", "<s>", "</s>")
SPACE: Final = "\u2581"  # how the vocabulary writes a space


class Shape(NamedTuple):
    """Size of a llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int


# 2 to 13 MB as f32, of which the smallest loads in some 0.1 s.
TINY_MODELS: Final = {
    "tiny-2m": Shape(2, 128, 4, 2),
    "tiny-4m": Shape(4, 128, 4, 2),
    "tiny-6m": Shape(3, 192, 6, 2),
    "tiny-9m": Shape(5, 192, 6, 2),
    "tiny-13m": Shape(4, 256, 8, 2),
}
# 70 to 908 MB as f32: large enough that on one core loads, prompts and tokens take long beside all else.
LARGER_MODELS: Final = {
    "llama-70m": Shape(10, 384, 6, 2),
    "llama-134m": Shape(11, 512, 8, 2),
    "llama-274m": Shape(10, 768, 12, 3),
    "llama-534m": Shape(11, 1024, 16, 4),
    "llama-908m": Shape(12, 1280, 20, 5),
}


def write_tiny_models(folder: str | Path, shapes: dict[str, Shape] | None = None) -> dict[str, Path]:
    """Write models with random weights as GGUF files of f32.

    The same shapes always give the same weights. Files that are there already are kept.

    Args:
        folder: is made where it is missing.
        shapes: of the models by name; by default `TINY_MODELS`.

    Returns:
        The file of each model.

    Raises:
        ConfigError: the package `gguf` is missing.
    """
    paths = {}
    for seed, (name, shape) in enumerate((TINY_MODELS if shapes is None else shapes).items()):
        paths[name] = Path(folder) / f"{name}.gguf"
        if not paths[name].exists():
            _write(paths[name], name, shape, seed)
    return paths


def _write(path: Path, name: str, shape: Shape, seed: int) -> None:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError("writing models needs the package gguf; run: pip install 'cace-env[live]'") from error
    tokens, kinds, scores = _vocabulary()
    layers, width, heads, kv_heads = shape
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    writer = gguf.GGUFWriter(str(draft), "llama")
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(3 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for tensor, weights in _weights(shape, len(tokens), np.random.default_rng(seed)).items():
        writer.add_tensor(tensor, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    draft.replace(path)  # a server that watches the folder never sees half a file


def _vocabulary() -> tuple[list[str], list[int], list[float]]:
    """Tokens, their kinds (2 unknown, 3 control, 6 byte, 1 normal) and scores: bytes, and the printable letters."""
    letters = [SPACE, *(chr(code) for code in range(33, 127))]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    kinds = [2, 3, 3, *(6 for _ in range(256)), *(1 for _ in letters)]
    scores = [0.0] * (len(SPECIAL) + 256) + [-float(rank) for rank in range(1, len(letters) + 1)]
    return tokens, kinds, scores


def _weights(shape: Shape, tokens: int, rng: np.random.Generator) -> dict[str, Any]:
    """Arrays of float32 by name, (outputs, inputs) each."""
    layers, width, heads, kv_heads = shape
    kv_width = width // heads * kv_heads

    def drawn(*size: int) -> Any:
        return rng.standard_normal(size, dtype=np.float32) * np.float32(0.05)

    output = drawn(tokens, width) * np.float32(8.0)
    output[: len(SPECIAL) + 256] = 0.0  # it writes letters, and hardly ever ends by itself
    ones = np.ones(width, np.float32)
    weights = {"token_embd.weight": drawn(tokens, width), "output_norm.weight": ones, "output.weight": output}
    for layer in range(layers):
        block = {
            "attn_norm": ones,
            "attn_q": drawn(width, width),
            "attn_k": drawn(kv_width, width),
            "attn_v": drawn(kv_width, width),
            "attn_output": drawn(width, width),
            "ffn_norm": ones,
            "ffn_gate": drawn(3 * width, width),
            "ffn_up": drawn(3 * width, width),
            "ffn_down": drawn(width, 3 * width),
        }
        weights |= {f"blk.{layer}.{name}.weight": array for name, array in block.items()}
    return weights
