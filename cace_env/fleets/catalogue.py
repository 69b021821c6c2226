"""The catalogue of CodeLLMs: rows of numbers, each with its source and how it was obtained.

`Figure.kind` says how far to trust a number: `measured` (read off a published measurement), `fit` (computed from
measurements; the note gives points and error), `datasheet` (stated by the maker: GPU data sheets, model cards,
configuration files, file listings) or `assumed` (our choice; vary it). `docs/catalogue.md` shows all of them, those of
`cace_env.fleets.hardware` too, and compares the predictions with every measurement. GB = 1e9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["measured", "fit", "datasheet", "assumed"]
Quantisation = Literal["bf16", "int4"]

SOURCES: Final = {
    "card": "model card and config.json on Hugging Face",
    "gptq": "size of the GPTQ-Int4 repository on Hugging Face",
    "gguf": "size of the 4-bit GGUF file (Ollama or Hugging Face listing)",
    "0.6-byte": "0.6 bytes per parameter, as the 4-bit files of the same size have",
    "nvidia": "NVIDIA data sheet (memory, HBM bandwidth, peak dense bf16)",
    "pcie": "0.83 of the one-way peak of PCIe x16 (Gen4 31.5, Gen5 63 GB/s), which the fast loader reaches on H100",
    "qwen-speed": "Qwen2.5 speed benchmark (docs of QwenLM/Qwen2.5): A100-80G, vLLM 0.6.3, batch 1",
    "qwen-speed-scaled": "the A100-80 fit, bandwidth scaled by the HBM bandwidth of the data sheets",
    "vidur": "Vidur operator profiles (microsoft/vidur)",
    "vidur-h100": "Vidur H100 profiles of the linear operators, 0.63 + 0.36 GB ms (at most 2.3 % off), plus 1 ms for "
    "engine and attention, which meets Qwen3-8B at 7.4 ms (vLLM 0.11)",
    "vidur-h100-scaled": "the H100 fit, bandwidth scaled by the HBM bandwidth of the data sheets",
    "h100-int4": "the H100 bf16 fit plus what int4 adds on the A100 (0.8 ms, bandwidth 4 % less)",
    "vidur-scaled": "the A100 figure, scaled by peak bf16 compute",
    "llama.cpp": "llama.cpp tg1024 of an 8B Q4_K_M model; one point, with the A100's share of the HBM bandwidth",
    "prefill": "end-to-end prefill rates of a 14B model at 4k and a 32B model at 32k prompts on A100 and H100, "
    "attention and rounds accounted for",
    "prefill-h100": "lower end of the 0.35-0.45 in use for H100; the two end-to-end points alone would give 0.31",
    "prefill-ada": "one end-to-end figure for L40S",
    "as-ada": "as L40S (same architecture)",
    "as-h100": "as H100 (same compute)",
    "vllm-blog": "vLLM blog of 2025-10-26 on sleep mode, A100: three models, 1.2 to 61 GB",
    "first-load": "as after a cold start: caches and graphs of the model are made anew with every load",
    "sllm": "ServerlessLLM repository, December 2025: H100, NVMe array of 29.4 GB/s",
    "sllm-reader": "reads as `safetensors` does",
    "cold-start": "as `cold-engine`: no engine sleeps on that accelerator",
    "loader-only": "the engine process is kept; the published load times include no start",
    "vllm-32714": "vllm-project/vllm issue 32714: CUDA context and graphs stay",
    "drops": "weights are dropped, nothing stays",
    "ours": "our choice",
}


@dataclass(frozen=True)
class Figure:
    """One number, how it was obtained, and a key of `SOURCES`."""

    value: float
    kind: Kind
    source: str


@dataclass(frozen=True)
class CodeModel:
    """A CodeLLM in one number format. Architecture and parameter counts are from its card (`datasheet`)."""

    name: str
    params_b: float  # 1e9 parameters
    active_b: float  # 1e9 parameters per token; less than `params_b` for mixtures of experts
    layers: int
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    context_window: int  # tokens
    quantisation: Quantisation
    weights_gb: Figure
    tasks: tuple[str, ...]  # tasks that it serves unless a scenario says otherwise (assumed)
    experts: tuple[int, int] = (1, 1)  # in all, per token

    @property
    def kv_bytes_per_token(self) -> int:
        """Size of keys and values of one token in 16-bit numbers: 2 x layers x KV heads x head dimension x 2 bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    @property
    def attention_flops_per_pair(self) -> int:
        """Work of QK and AV for one (query, key) pair in all layers: 2 x 2 x layers x query heads x head dimension."""
        return 4 * self.layers * self.heads * self.head_dim

    @property
    def round_gb(self) -> float:
        """Weights that one round reads: all of a dense model; of a mixture, the experts that `MOE_BATCH` tokens hit.

        With E experts of which each token picks k at random, b tokens hit 1 - (1 - k / E)^b of them; the parameters
        outside the experts follow from total and active counts.
        """
        total, chosen = self.experts
        share = chosen / total
        if share == 1:
            return self.weights_gb.value
        experts_b = (self.params_b - self.active_b) / (1 - share)
        read_b = self.params_b - experts_b * (1 - share) ** MOE_BATCH.value
        return float(self.weights_gb.value * read_b / self.params_b)


K: Final = 1024
MOE_BATCH: Final = Figure(4, "assumed", "ours")  # tokens per round for which `round_gb` counts experts
RUNTIME_GB: Final = Figure(1.5, "assumed", "ours")  # CUDA context, activations, graphs of a resident model
KV_TOKENS: Final = {  # default size of the KV cache: the largest among the tasks of a model
    "completion": Figure(16_384, "assumed", "ours"),
    "chat": Figure(32_768, "assumed", "ours"),
    "reasoning": Figure(65_536, "assumed", "ours"),
    "agent": Figure(131_072, "assumed", "ours"),
}
MAX_NUM_SEQS: Final = Figure(64, "assumed", "ours")  # seats; vLLM's default is 256, a team rarely fills 64
CHUNK_TOKENS: Final = Figure(2048, "assumed", "ours")  # vLLM's default for chunked prefill


def _family(
    name: str,
    params_b: float,
    shape: tuple[int, int, int, int],
    context_window: int,
    tasks: str,
    bf16_gb: float | None = None,
    int4_gb: Figure | None = None,
    *,
    active_b: float | None = None,
    experts: tuple[int, int] = (1, 1),
) -> list[CodeModel]:
    """The rows of one model; `shape` is (layers, query heads, KV heads, head dimension)."""
    sizes: list[tuple[str, Quantisation, Figure]] = []
    if bf16_gb is not None:
        sizes.append((name, "bf16", Figure(bf16_gb, "datasheet", "card")))
    if int4_gb is not None:
        sizes.append((f"{name}-int4" if bf16_gb is not None else name, "int4", int4_gb))
    active_b = params_b if active_b is None else active_b
    served = tuple(tasks.split())
    return [CodeModel(n, params_b, active_b, *shape, context_window, q, size, served, experts) for n, q, size in sizes]


def _gptq(size_gb: float) -> Figure:
    return Figure(size_gb, "datasheet", "gptq")


def _gguf(size_gb: float) -> Figure:
    return Figure(size_gb, "datasheet", "gguf")


def _calculated(size_gb: float) -> Figure:
    return Figure(size_gb, "assumed", "0.6-byte")


_ROWS: Final[list[list[CodeModel]]] = [
    # name, 1e9 parameters, (layers, query heads, KV heads, head dimension), window, tasks, GB in bf16, int4
    _family("qwen2.5-coder-0.5b", 0.49, (24, 14, 2, 64), 32 * K, "completion", 1.0, _gptq(0.48)),
    _family("qwen2.5-coder-1.5b", 1.54, (28, 12, 2, 128), 32 * K, "completion", 3.1, _gptq(1.2)),
    _family("qwen2.5-coder-3b", 3.09, (36, 16, 2, 128), 32 * K, "completion", 6.2, _gptq(2.1)),
    _family("qwen2.5-coder-7b", 7.61, (28, 28, 4, 128), 128 * K, "completion chat", 15.2, _gptq(5.5)),
    _family("qwen2.5-coder-14b", 14.8, (48, 40, 8, 128), 128 * K, "chat", 29.5, _gptq(9.9)),
    _family("qwen2.5-coder-32b", 32.8, (64, 40, 8, 128), 128 * K, "chat agent", 65.5, _gptq(18.9)),
    _family(
        "qwen3-coder-30b-a3b",
        30.5,
        (48, 32, 4, 128),
        256 * K,
        "chat agent",
        61,
        _calculated(18),
        active_b=3.3,
        experts=(128, 8),
    ),
    _family("starcoder2-3b", 3.0, (30, 24, 2, 128), 16 * K, "completion", 6.0),
    _family("starcoder2-7b", 7.2, (32, 36, 4, 128), 16 * K, "completion", 14.4),
    _family("starcoder2-15b", 16.0, (40, 48, 4, 128), 16 * K, "completion", 32.0, _gguf(9.9)),
    _family("deepseek-coder-1.3b", 1.35, (24, 16, 16, 128), 16 * K, "completion", 2.7),
    _family("deepseek-coder-6.7b", 6.7, (32, 32, 32, 128), 16 * K, "completion chat", 13.5, _gguf(4.1)),
    _family("deepseek-coder-33b", 33.3, (62, 56, 8, 128), 16 * K, "chat", 66.7),
    _family("r1-distill-qwen-7b", 7.6, (28, 28, 4, 128), 128 * K, "reasoning", 15.2),
    _family("r1-distill-qwen-14b", 14.8, (48, 40, 8, 128), 128 * K, "reasoning", 29.5),
    _family("r1-distill-qwen-32b", 32.8, (64, 40, 8, 128), 128 * K, "reasoning", 65.5),
    _family("codellama-7b", 6.7, (32, 32, 32, 128), 16 * K, "completion chat", 13.5, _gguf(4.1)),
    _family("codellama-13b", 13.0, (40, 40, 40, 128), 16 * K, "completion chat", 26.0, _gguf(7.9)),
    _family("codellama-34b", 33.7, (48, 64, 8, 128), 16 * K, "chat", 67.5, _calculated(20.2)),
    _family("codestral-22b", 22.2, (56, 48, 8, 128), 32 * K, "completion chat", 44.5, _calculated(13.3)),
    _family("granite-code-3b", 3.5, (32, 32, 32, 80), 128 * K, "completion chat", 7.0, _gguf(2.0)),
    _family("granite-code-8b", 8.1, (36, 32, 8, 128), 128 * K, "completion chat", 16.0),
    _family("granite-code-20b", 20.1, (52, 48, 1, 128), 8 * K, "chat", 40.0),
    _family("granite-code-34b", 34.0, (88, 48, 1, 128), 8 * K, "chat", 68.0),
    # MXFP4 weights. Half of its layers attend to a window of 128 tokens only; full attention everywhere is assumed.
    _family(
        "gpt-oss-20b",
        20.9,
        (24, 64, 8, 64),
        128 * K,
        "chat reasoning agent",
        None,
        _gguf(13.8),
        active_b=3.6,
        experts=(32, 4),
    ),
    _family("mellum-4b", 4.0, (30, 24, 24, 128), 8 * K, "completion", 8.0),
]
MODELS: Final[dict[str, CodeModel]] = {model.name: model for rows in _ROWS for model in rows}
