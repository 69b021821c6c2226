"""The same measurements without a server: the architecture of a model of the catalogue, random weights, plain torch.

It says what an accelerator can do: loads are copies from pinned host memory, prompts and tokens run one forward pass
after the other. There is no server, so there is no constant per request; rotary embeddings and sampling are left out.
**Unverified on a GPU**: it has been run on the CPU alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cace_env.config import ConfigError, shown
from cace_env.fleets import MODELS
from cace_env.live.calibration import Plan, Sample
from cace_env.live.calibration.measure import SHORT, What

if TYPE_CHECKING:
    import torch

TOKENS: Final = 32_000  # of the vocabulary, for the first and the last layer


@dataclass(frozen=True)
class Architecture:
    """Sizes of a dense decoder with grouped-query attention and a gated feed-forward network."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int  # width of the feed-forward network

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


def architecture(name: str) -> Architecture:
    """The sizes of a model of the catalogue; the feed-forward network gets what its parameters leave.

    Raises:
        ConfigError: no such model, a mixture of experts, or one with 4-bit weights, which plain torch cannot run.
    """
    model = MODELS.get(name)
    if model is None:
        raise ConfigError(f"no model {shown(name)} in the catalogue; known are {', '.join(MODELS)}")
    if model.quantisation != "bf16" or model.experts != (1, 1):
        raise ConfigError(f"model {name!r}: random weights are made of dense models in bf16 alone")
    width = model.heads * model.head_dim
    attention = 2 * width * width + 2 * width * model.kv_heads * model.head_dim
    inner = round((model.params_b * 1e9 - 2 * TOKENS * width) / model.layers - attention) // (3 * width)
    return Architecture(model.layers, model.heads, model.kv_heads, model.head_dim, max(1, inner))


class Decoder:
    """Random weights in (pinned) host memory, and on the device while it is loaded."""

    def __init__(self, shape: Architecture, device: str) -> None:
        import torch

        self.shape, self.device = shape, torch.device(device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        width, kv = shape.width, shape.kv_heads * shape.head_dim
        layer = [(width, width + 2 * kv), (width, width), (width, 2 * shape.inner), (shape.inner, width)]
        sizes = [(TOKENS, width), *layer * shape.layers, (width, TOKENS)]
        generator = torch.Generator().manual_seed(0)
        self._host = [torch.randn(size, generator=generator).mul_(0.02).to(self.dtype) for size in sizes]
        if self.device.type == "cuda":
            self._host = [weights.pin_memory() for weights in self._host]
        self._here: list[torch.Tensor] = []

    @property
    def weights_bytes(self) -> int:
        return sum(weights.nbytes for weights in self._host)

    def load(self) -> None:
        """Copies the weights to the device; on the CPU, to other memory."""
        self._here = [weights.to(self.device, non_blocking=True, copy=True) for weights in self._host]

    def unload(self) -> None:
        """Drops them."""
        import torch

        self._here = []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def cache(self, batch: int, room: int) -> torch.Tensor:
        """Keys and values, `(layers, 2, batch, kv_heads, room, head_dim)`, at random."""
        import torch

        size = (self.shape.layers, 2, batch, self.shape.kv_heads, room, self.shape.head_dim)
        return torch.randn(size, device=self.device, dtype=self.dtype)

    def step(self, tokens: torch.Tensor, cache: torch.Tensor, position: int) -> torch.Tensor:
        """One forward pass over `(batch, n)` tokens that stand at `position`; returns the next one, `(batch, 1)`."""
        import torch
        from torch.nn import functional

        shape, (batch, count) = self.shape, tokens.shape
        first, *layers, last = self._here
        x = functional.embedding(tokens, first)
        end = position + count
        seen = torch.ones(count, end, dtype=torch.bool, device=self.device).tril(position)
        for index in range(shape.layers):
            qkv_w, out_w, up_w, down_w = layers[4 * index : 4 * index + 4]
            kv_width = shape.kv_heads * shape.head_dim
            q, k, v = (_normed(x) @ qkv_w).split((shape.width, kv_width, kv_width), dim=-1)
            for slot, part in enumerate((k, v)):
                cache[index, slot, :, :, position:end] = _by_head(part, batch, count, shape.kv_heads)
            keys, values = (
                cache[index, slot, :, :, :end].repeat_interleave(shape.heads // shape.kv_heads, dim=1)
                for slot in (0, 1)
            )
            mixed = functional.scaled_dot_product_attention(
                _by_head(q, batch, count, shape.heads), keys, values, attn_mask=None if count == 1 else seen
            )
            x = x + mixed.transpose(1, 2).reshape(batch, count, shape.width) @ out_w
            gate, up = (_normed(x) @ up_w).chunk(2, dim=-1)
            x = x + (functional.silu(gate) * up) @ down_w
        return (_normed(x[:, -1:]) @ last).argmax(dim=-1)


def _normed(x: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = x * (x.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt()
    return normed


def _by_head(x: torch.Tensor, batch: int, count: int, heads: int) -> torch.Tensor:
    return x.reshape(batch, count, heads, -1).transpose(1, 2)


def measure_torch(
    decoders: dict[str, Decoder], plan: Plan, chunk_tokens: int, clock: Any = time.perf_counter
) -> Iterator[Sample]:
    """Samples as `cace_env.live.calibration.measure` gives them; cold loads and pairs are not measured.

    Args:
        decoders: by name.
        plan: what is measured.
        chunk_tokens: prompt tokens of one pass.
        clock: seconds.

    Yields:
        Measurements.
    """
    began = clock()
    names = list(decoders)
    yield from _drift(decoders[names[0]], names[0], plan, chunk_tokens, "begin", began, clock)
    for name, decoder in decoders.items():
        yield from _model(decoder, name, plan, chunk_tokens, began, clock)
    yield from _drift(decoders[names[0]], names[0], plan, chunk_tokens, "end", began, clock)


def _drift(decoder: Decoder, name: str, plan: Plan, chunk: int, end: str, began: float, clock: Any) -> Iterator[Sample]:
    whats: dict[str, tuple[What, What]] = {
        "begin": ("drift prompt begin", "drift token begin"),
        "end": ("drift prompt end", "drift token end"),
    }
    decoder.load()
    _prompt(decoder, SHORT, 0, chunk, clock)
    for _ in range(plan.repeats):
        length = max(plan.lengths)
        yield Sample(clock() - began, name, whats[end][0], _prompt(decoder, length, 0, chunk, clock), 1, length)
        for gap in _gaps(decoder, 1, min(plan.contexts), plan.tokens, clock):
            yield Sample(clock() - began, name, whats[end][1], gap, 1, min(plan.contexts), 0, plan.tokens)
    decoder.unload()


def _model(decoder: Decoder, name: str, plan: Plan, chunk: int, began: float, clock: Any) -> Iterator[Sample]:
    def timed(move: Any) -> float:
        start = clock()
        move()
        decoder.wait()
        return float(clock() - start)

    for _ in range(plan.repeats):
        yield Sample(clock() - began, name, "load warm", timed(decoder.load))
        yield Sample(clock() - began, name, "first", _prompt(decoder, SHORT, 0, chunk, clock), 1, SHORT)
        yield Sample(clock() - began, name, "again", _prompt(decoder, SHORT, 0, chunk, clock), 1, SHORT)
        yield Sample(clock() - began, name, "unload", timed(decoder.unload))
    decoder.load()
    _prompt(decoder, max(plan.lengths), 0, chunk, clock)
    longest = max(plan.lengths)
    for _ in range(plan.repeats):
        for length in plan.lengths:
            yield Sample(clock() - began, name, "prefill", _prompt(decoder, length, 0, chunk, clock), 1, length)
        known = longest - SHORT
        if known > 0:
            yield Sample(
                clock() - began, name, "cached", _prompt(decoder, longest, known, chunk, clock), 1, longest, known
            )
        for batch in plan.batches:
            for context in plan.contexts:
                for gap in _gaps(decoder, batch, context, plan.tokens, clock):
                    yield Sample(clock() - began, name, "token", gap, batch, context, 0, plan.tokens)
    decoder.unload()


def _prompt(decoder: Decoder, length: int, cached: int, chunk: int, clock: Any) -> float:
    """Time to the first token of a prompt of which the beginning is cached."""
    import torch

    tokens = torch.randint(TOKENS, (1, length), device=decoder.device)
    with torch.inference_mode():
        cache = decoder.cache(1, length)
        decoder.wait()
        began = clock()
        for at in range(cached, length, chunk):
            decoder.step(tokens[:, at : at + chunk], cache, at)
        decoder.wait()
    return float(clock() - began)


def _gaps(decoder: Decoder, batch: int, context: int, tokens: int, clock: Any) -> list[float]:
    """Times between tokens of a batch whose prompts have been read."""
    import torch

    with torch.inference_mode():
        cache = decoder.cache(batch, context + tokens)
        token = torch.zeros(batch, 1, dtype=torch.long, device=decoder.device)
        times = []
        for at in range(context, context + tokens):
            token = decoder.step(token, cache, at)
            decoder.wait()
            times.append(clock())
    return [after - before for before, after in itertools.pairwise(times)]


def decoders_of(names: Sequence[str], device: str) -> dict[str, Decoder]:
    """Random weights for models of the catalogue.

    Raises:
        ConfigError: torch is missing, has no such device, or a model cannot be made.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError("measuring with torch needs it; run: pip install 'cace-env[learn]'") from error
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"torch:{shown(device)}: torch has no such device here; torch:cpu always works")
    return {name: Decoder(architecture(name), device) for name in names}
