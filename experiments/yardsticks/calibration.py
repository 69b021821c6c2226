"""Predictions of the catalogue beside published measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cace_env.fleets import ENGINES, GPUS, MODELS
from cace_env.fleets import tabulation as tabulate
from cace_env.fleets.catalogue import CHUNK_TOKENS, CodeModel, Figure
from cace_env.tables import DISK, HOST
from experiments.reading.markdown import number, table


@dataclass(frozen=True)
class Check:
    """One measured figure and what the catalogue says; `predicted` is None where the model has no such thing."""

    what: str
    measured: float
    predicted: float | None
    source: str
    note: str = ""
    charged: float | None = None  # what the simulator takes for it: of loads, the slow first inference comes on top
    first_inference: Figure | None = None  # what of `charged` that is

    @property
    def error(self) -> float | None:
        """Relative error of the prediction."""
        return None if self.predicted is None else self.predicted / self.measured - 1

    @property
    def assumed_share(self) -> float:
        """Share of `charged` that is an assumed first inference."""
        if not self.charged or self.first_inference is None or self.first_inference.kind != "assumed":
            return 0.0
        return self.first_inference.value / self.charged


def _bf16(name: str, params_b: float) -> CodeModel:
    """A measured model that is not in the catalogue: only its size matters here (2 bytes per parameter)."""
    size = Figure(2 * params_b, "datasheet", "card")
    return replace(MODELS["qwen2.5-coder-7b"], name=name, params_b=params_b, active_b=params_b, weights_gb=size)


QWEN3_32B = _bf16("Qwen3-32B", 32.8)
LLAMA_8B = _bf16("Llama-3.1-8B", 8.03)
OPT_7B = _bf16("OPT-6.7B", 6.66)
QWEN3_600M = _bf16("Qwen3-0.6B", 0.6)
PHI3_VISION = _bf16("Phi-3-vision", 4.15)
QWQ_32B = _bf16("QwQ-32B", 32.8)
QWEN3_CODER = replace(MODELS["qwen3-coder-30b-a3b"], name="Qwen3-Coder-30B-A3B")
QWEN3_8B = _bf16("Qwen3-8B", 8.2)
# 8B in Q4_K_M: 4.9 GB.
Q4_8B = replace(LLAMA_8B, name="8B Q4_K_M", quantisation="int4", weights_gb=Figure(4.9, "datasheet", "gguf"))
SERVERLESSLLM = "ServerlessLLM repository, Dec 2025"
VLLM_BLOG = "vLLM blog, 2025-10-26"
QWEN_SPEED = "Qwen2.5 speed benchmark"
VIDUR = "Vidur operator profiles"
LLAMA_CPP = "llama.cpp tg1024"
PREFILL = "end-to-end prefill"


def load_checks() -> list[Check]:
    """Loads, wake-ups and going to sleep, in seconds.

    The published loads end before the first inference, whose slowness was timed on its own: without it the load is
    held against the measurement, with it the simulator charges it.
    """

    def load(model: CodeModel, gpu: str, engine: str, tier: int, seconds: float, source: str, note: str = "") -> Check:
        first = ENGINES[engine].first_inference_s[tier]
        charged = tabulate.load_us(model, GPUS[gpu], ENGINES[engine], tier) / 1e6
        what = f"{model.name}, {engine} from {('host', 'disk')[tier]}, {gpu}"
        return Check(what, seconds, charged - first.value, source, note, charged, first)

    def other(what: str, seconds: float, source: str, note: str) -> Check:
        return Check(what, seconds, None, source, note)

    sleep_s = tabulate.unload_us(QWEN3_CODER, GPUS["a100-80"], ENGINES["sleep-mode"]) / 1e6
    asleep = "Qwen3-Coder-30B-A3B, going to sleep, a100-80"
    first_s = ENGINES["cold-engine"].first_inference_s[HOST].value
    half_array = "A5000, two NVMe drives: slower than the array behind the fit"
    return [
        load(QWEN3_32B, "h100", "fast-loader", HOST, 1.25, SERVERLESSLLM, "fitted to"),
        load(QWEN3_32B, "h100", "fast-loader", DISK, 3.22, SERVERLESSLLM, "fitted to"),
        load(LLAMA_8B, "h100", "fast-loader", DISK, 0.68, SERVERLESSLLM, "fitted to"),
        load(QWEN3_32B, "h100", "safetensors", HOST, 12.5, SERVERLESSLLM, "fitted to"),
        load(QWEN3_32B, "h100", "safetensors", DISK, 20.6, SERVERLESSLLM, "fitted to"),
        load(LLAMA_8B, "h100", "safetensors", DISK, 4.44, SERVERLESSLLM, "fitted to"),
        load(OPT_7B, "a100-80", "fast-loader", DISK, 1.18, SERVERLESSLLM, half_array),
        load(OPT_7B, "a100-80", "safetensors", DISK, 5.10, SERVERLESSLLM, half_array),
        load(QWEN3_CODER, "a100-80", "cold-engine", HOST, 47.4, VLLM_BLOG, "fitted to"),
        load(QWEN3_600M, "a100-80", "cold-engine", HOST, 37.5, VLLM_BLOG, "fitted to"),
        load(PHI3_VISION, "a100-80", "cold-engine", HOST, 58.0, VLLM_BLOG, "fitted to; a vision model"),
        load(LLAMA_8B, "l40s", "cold-engine", HOST, 82.0, "Tensorfuse guide", "start-up is bound by the CPU"),
        load(QWEN3_CODER, "a100-80", "sleep-mode", HOST, 2.87, VLLM_BLOG, "fitted to"),
        load(QWEN3_600M, "a100-80", "sleep-mode", HOST, 0.26, VLLM_BLOG, "fitted to"),
        load(PHI3_VISION, "a100-80", "sleep-mode", HOST, 0.86, VLLM_BLOG, "fitted to; 0.82-0.90 s"),
        load(QWQ_32B, "a100-80", "sleep-mode", HOST, 4.0, "vllm issue 16663", "GPU not stated"),
        Check(asleep, 2.78, sleep_s, VLLM_BLOG, "fitted to", sleep_s),
        Check("first inference after a cold load against a warm one", 2.35, first_s, VLLM_BLOG, "2.5-3.7 s, 0.5-1.0 s"),
        other("QwQ-32B, wake-up after host memory was released", 21.0, "vllm issue 16663", "no third tier"),
        other("Qwen3-0.6B, sleep-2 wake-up, A100", 0.85, VLLM_BLOG, "level 2 is not one of the engines"),
        other("Phi-3-vision, sleep-2 wake-up, A100", 2.58, VLLM_BLOG, "level 2 is not one of the engines"),
        other("Llama-3.1-8B, vLLM from nothing, L40S", 294.0, "Tensorfuse guide", "downloads: no network tier"),
        other("Llama-3-8B, safetensors, A10G", 48.0, "Run:ai white paper", "GP3 network disk: bound by it"),
        other("Llama-3-8B, streamer, A10G", 14.3, "Run:ai white paper", "GP3 network disk: bound by it"),
    ]


def prefill_checks() -> list[Check]:
    """Prompt tokens per second from end to end, one request alone: `P / (rounds x round + W)`."""

    def check(name: str, gpu: str, prompt_tokens: int, measured_mfu: float, note: str) -> Check:
        model, kind = MODELS[name], GPUS[gpu]
        flops = measured_mfu * kind.peak_tflops.value * 1e12
        what = f"{name}, {prompt_tokens // 1024}k prompt, {gpu} (MFU {measured_mfu})"
        predicted = prompt_tokens / (prefill_us(model, gpu, prompt_tokens) / 1e6)
        return Check(what, flops / (2 * model.active_b * 1e9), predicted, PREFILL, note)

    slow = "long prompts on H100 come out too fast"
    return [
        check("qwen2.5-coder-14b", "a100-80", 4096, 0.55, "fitted to"),
        check("qwen2.5-coder-32b", "a100-80", 32768, 0.36, "fitted to"),
        check("qwen2.5-coder-14b", "h100", 4096, 0.32, "MFU of 0.35 assumed"),
        check("qwen2.5-coder-32b", "h100", 32768, 0.19, f"MFU of 0.35 assumed; {slow}"),
    ]


def prefill_us(model: CodeModel, gpu: str, prompt_tokens: int) -> float:
    """Time to the first token of a request alone, as the simulator has it (docs/design.md 2.4)."""
    kind = GPUS[gpu]
    rounds = -(-prompt_tokens // int(CHUNK_TOKENS.value))
    work_ns = tabulate.prefill_ns(model, kind) * prompt_tokens
    work_ns += tabulate.attention_ps(model, kind) * prompt_tokens**2 // 2000
    return (rounds * tabulate.round_ns(model, kind) + work_ns) / 1e3


def decode_ms(model: CodeModel, gpu: str, context_tokens: int = 1, output_tokens: int = 2048) -> float:
    """Milliseconds per token of one request decoding alone, at its mean context."""
    kind = GPUS[gpu]
    kv_ns = tabulate.kv_ps(model, kind) * (2 * context_tokens + output_tokens) / 2000
    return (tabulate.round_ns(model, kind) + tabulate.decode_ns(model, kind) + kv_ns) / 1e6


def qwen_decode_checks() -> list[Check]:
    """The Qwen2.5 speed benchmark on the A100-80G, ms per token: the table the decode fits were made from."""
    measured = {"0.5b": (3.2, 3.8), "1.5b": (5.5, 4.6), "3b": (7.8, 6.0), "7b": (11.9, 6.5)}
    measured |= {"14b": (21.6, 10.2), "32b": (45.2, 17.9)}
    names = [
        (f"qwen2.5-coder-{size}{suffix}", ms)
        for size, pair in measured.items()
        for suffix, ms in zip(("", "-int4"), pair, strict=True)
    ]
    return [
        Check(f"{name}, a100-80, batch 1", ms, decode_ms(MODELS[name], "a100-80"), QWEN_SPEED, "fitted to")
        for name, ms in names
    ]


def other_decode_checks() -> list[Check]:
    """Decode figures of other GPUs and engines, ms per token at batch 1."""
    pcie = "H100 PCIe (2 TB/s); the catalogue's H100 is the SXM one"
    rows = [
        Check("Qwen3-8B, h100", 7.4, decode_ms(QWEN3_8B, "h100"), "vLLM 0.11", "fitted to"),
        Check("8B Q4_K_M, rtx-4090", 1000 / 128, decode_ms(Q4_8B, "rtx-4090", 0, 1024), LLAMA_CPP, "fitted to"),
        Check("8B Q4_K_M, l40s", 1000 / 114, decode_ms(Q4_8B, "l40s", 0, 1024), LLAMA_CPP, "fitted to"),
        Check("8B Q4_K_M, a100-80", 1000 / 138, decode_ms(Q4_8B, "a100-80", 0, 1024), LLAMA_CPP, "another engine"),
        Check("8B Q4_K_M, h100", 1000 / 145, decode_ms(Q4_8B, "h100", 0, 1024), LLAMA_CPP, f"another engine; {pcie}"),
        Check("8B Q4_K_M, RTX 3090", 1000 / 112, None, LLAMA_CPP, "not in the catalogue"),
    ]
    return rows


def batch_checks() -> list[Check]:
    """Operator time of a round with b decoding requests, ms: measured at b = 1 plus `(b - 1) k_b` against measured."""
    profiles = {"7B": (6.7, 9.3, 9.5, 12.2), "8B": (8.0, 9.7, 10.9, 13.2), "20B": (20.1, 26.0, 27.0, 37.0)}
    profiles |= {"34B": (33.7, 44.0, 46.0, 52.0)}
    rows = []
    for name, (params_b, alone_ms, at_32_ms, at_128_ms) in profiles.items():
        per_request_ms = tabulate.decode_ns(_bf16(name, params_b), GPUS["a100-80"]) / 1e6
        for batch, measured_ms in ((32, at_32_ms), (128, at_128_ms)):
            predicted_ms = alone_ms + (batch - 1) * per_request_ms
            rows.append(Check(f"{name}, a100-80, batch {batch}", measured_ms, predicted_ms, VIDUR, "fitted to"))
    return rows


TABLES: list[tuple[str, str, Callable[[], list[Check]]]] = [
    ("Load, wake-up, going to sleep", "s", load_checks),
    ("Prefill", "tokens/s", prefill_checks),
    ("Decode, Qwen2.5 on the A100", "ms/token", qwen_decode_checks),
    ("Decode, other GPUs and engines", "ms/token", other_decode_checks),
    ("Batching", "ms/round", batch_checks),
]


def checks_as_markdown() -> str:
    """The comparison, one table per kind of figure."""
    parts = []
    for title, unit, checks in TABLES:
        text = _loads(checks(), unit) if checks is load_checks else _figures(checks(), unit)
        parts.append(f"### {title}\n\n{text}")
    return "\n\n".join(parts)


def _figures(checks: list[Check], unit: str) -> str:
    header = ("figure", f"measured [{unit}]", f"predicted [{unit}]", "error", "measured by", "note")
    rows = [(c.what, number(c.measured), number(c.predicted), _error(c), c.source, c.note) for c in checks]
    return table(header, rows)


def _loads(checks: list[Check], unit: str) -> str:
    """Loads have two predictions: of the load alone, which was measured, and of all that the simulator charges."""
    predicted = (f"load alone [{unit}]", "error", f"as charged, with first inference [{unit}]", "assumed of that")
    rows = []
    for c in checks:
        share = f"{100 * c.assumed_share:.0f} %" if c.assumed_share else "-"
        share = f"**{share}**" if c.assumed_share > 0.5 else share
        cells = (number(c.measured), number(c.predicted), _error(c), number(c.charged), share)
        rows.append((c.what, *cells, c.source, c.note))
    return table(("figure", f"measured [{unit}]", *predicted, "measured by", "note"), rows)


def _error(check: Check) -> str:
    return "-" if check.error is None else f"{100 * check.error:+.0f} %"
