"""Predictions of the catalogue against every published measurement it was made from or can be held against.

`python -m experiments.calibration` prints the comparison; `--write docs/catalogue.md` writes the page of the catalogue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cace_env import tabulate
from cace_env.catalogue import (
    CHUNK_TOKENS,
    ENGINES,
    GPUS,
    KV_TOKENS,
    MAX_NUM_SEQS,
    MODELS,
    MOE_BATCH,
    RUNTIME_GB,
    SOURCES,
    CodeModel,
    Figure,
)
from cace_env.tables import DISK, HOST


@dataclass(frozen=True)
class Check:
    """One measured figure and what the catalogue says; `predicted` is None where the model has no such thing."""

    what: str
    measured: float
    predicted: float | None
    source: str
    note: str = ""

    @property
    def error(self) -> float | None:
        """Relative error of the prediction."""
        return None if self.predicted is None else self.predicted / self.measured - 1


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
    """Loads, wake-ups and going to sleep, in seconds; the slow first inference was timed on its own."""

    def load(model: CodeModel, gpu: str, engine: str, tier: int, seconds: float, source: str, note: str = "") -> Check:
        regime = ENGINES[engine]
        predicted = tabulate.load_us(model, GPUS[gpu], regime, tier) / 1e6 - regime.first_inference_s[tier].value
        return Check(f"{model.name}, {engine} from {('host', 'disk')[tier]}, {gpu}", seconds, predicted, source, note)

    def other(what: str, seconds: float, source: str, note: str) -> Check:
        return Check(what, seconds, None, source, note)

    sleep_us = tabulate.unload_us(QWEN3_CODER, GPUS["a100-80"], ENGINES["sleep-mode"])
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
        Check("Qwen3-Coder-30B-A3B, going to sleep, a100-80", 2.78, sleep_us / 1e6, VLLM_BLOG, "fitted to"),
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


def main(arguments: list[str] | None = None) -> None:
    """Prints the comparison, or writes the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.calibration", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the catalogue to this file")
    options = parser.parse_args(arguments)
    if options.write is not None:
        options.write.write_text(catalogue_page(), encoding="utf-8")
        print(f"wrote {options.write}")
        return
    print(checks_as_markdown())


def checks_as_markdown() -> str:
    """The comparison, one table per kind of figure."""
    parts = []
    for title, unit, checks in TABLES:
        rows = [
            (c.what, _number(c.measured), _number(c.predicted), _percent(c.error), c.source, c.note) for c in checks()
        ]
        header = ("figure", f"measured [{unit}]", f"predicted [{unit}]", "error", "measured by", "note")
        parts.append(f"### {title}\n\n{_table(header, rows)}")
    return "\n\n".join(parts)


def catalogue_page() -> str:
    """`docs/catalogue.md` as Markdown."""
    return (
        "\n\n".join(
            [
                INTRODUCTION,
                f"## Accuracy\n\n{ACCURACY}",
                checks_as_markdown(),
                f"## GPUs\n\n{_gpu_table()}",
                f"{GPU_NOTES}",
                f"## Engines\n\n{_engine_table()}",
                f"{ENGINE_NOTES}",
                f"## Models\n\n{_model_table()}",
                f"{MODEL_NOTES}",
                f"## Defaults of a served model\n\n{_default_table()}",
                f"## Speeds on an A100-80\n\n{SPEED_NOTES}\n\n{_speed_table()}",
                "## Sources\n\n" + _table(("key", "source"), sorted(SOURCES.items())),
            ]
        )
        + "\n"
    )


INTRODUCTION = """# Catalogue: models, GPUs, engines

Written by `python -m experiments.calibration --write docs/catalogue.md` from `cace_env/catalogue.py`: change that, not
this page. GB = 1e9 bytes. Every number carries how it was come by and a key of the [sources](#sources):

- **measured**: read off a published measurement;
- **fit**: computed from published measurements, error in the tables of [accuracy](#accuracy);
- **datasheet**: stated by the maker (data sheet, model card, config.json, file listing);
- **assumed**: our choice. Vary it before you trust a conclusion that hangs on it."""

ACCURACY = """What the integer tables of the simulator say (`cace_env/tabulate.py`), against every measured figure known
to us. *Fitted to* marks figures that went into the prediction: their errors are residuals, not a validation. A dash:
the model has no such thing; the note says why. The 7,531 production loads of image models in Alibaba GenTD26 (10 / 50 /
90 / 99 % in 2.6 / 22.7 / 42.0 / 51.9 s, a third within 5 s, most of the rest 16-50 s) are not listed: no sizes are
given. Their two humps are what `safetensors` or `fast-loader` beside `cold-engine` look like."""

GPU_NOTES = """A round at batch 1 takes `overhead + ms per GB x bytes read`; one more decoding request adds `us per 1e9
active parameters`, each token of its context `kv bytes per token x ms per GB (bf16)`. Prefill costs `2 x active
parameters / (MFU x peak)` per token and the attention FLOPs of each (query, key) pair at the same rate. int4 has its
own round fit and the bf16 prefill rate (weights are dequantised; assumed)."""

ENGINE_NOTES = """`load = start + first inference + weights / min(bandwidth, link of the GPU)`, `unload = weights /
min(unload bandwidth, link)`, 0 where weights are dropped. Pairs are host / disk. Under `sleep-mode` *disk* means that
no engine of the model sleeps on that accelerator: a cold start. It was measured on PCIe Gen4 only, so it wakes no
faster on an H100 here."""

MODEL_NOTES = f"""Parameters, layers, heads and context windows are from model cards and config.json (datasheet; of
granite-code 3b and 8b the 128k variants). A mixture of experts reads per round the experts that {MOE_BATCH.value:g}
tokens hit (assumed), not all of them. gpt-oss-20b (MXFP4): full attention assumed in all layers, though half of them
have a window of 128 tokens, so its KV cache and attention are upper bounds. Tasks are what we route to it by default
(assumed)."""

SPEED_NOTES = """Loads from disk, the slow first inference included; prefill of a 2,048-token prompt from end to end; ms
per token of one request at 2,000 tokens of context; need = weights + default reserve."""


def _gpu_table() -> str:
    speeds = ("overhead ms bf16 / int4", "ms per GB bf16 / int4", "us per request and 1e9 parameters")
    header = ("GPU", "memory GB", "HBM TB/s", "peak TFLOP/s", "MFU", "link GB/s", *speeds)
    rows = []
    for gpu in GPUS.values():
        overhead = f"{_figure(gpu.overhead_ms['bf16'])} / {_figure(gpu.overhead_ms['int4'])}"
        per_gb = f"{_figure(gpu.ms_per_gb['bf16'])} / {_figure(gpu.ms_per_gb['int4'])}"
        plain = [_figure(f) for f in (gpu.memory_gb, gpu.hbm_tb_s, gpu.peak_tflops, gpu.mfu, gpu.link_gb_s)]
        rows.append((gpu.name, *plain, overhead, per_gb, _figure(gpu.decode_us_per_b)))
    return _table(header, rows)


def _engine_table() -> str:
    header = ("engine", "start s", "first inference s", "bandwidth GB/s", "unload GB/s", "residual GB")
    rows = []
    for engine in ENGINES.values():
        pairs = [engine.start_s, engine.first_inference_s, engine.bandwidth_gb_s]
        cells = [" / ".join(_figure(figure) for figure in pair) for pair in pairs]
        rows.append((engine.name, *cells, _figure(engine.unload_gb_s), _figure(engine.residual_gb)))
    return _table(header, rows)


def _model_table() -> str:
    shape = ("layers", "heads (KV) x dim", "KV bytes per token", "window")
    header = ("model", "parameters (active), 1e9", "format", "weights GB", "read per round GB", *shape, "tasks")
    rows = []
    for m in MODELS.values():
        active = "" if m.active_b == m.params_b else f" ({m.active_b:g})"
        heads = f"{m.heads} ({m.kv_heads}) x {m.head_dim}"
        cells = (f"{m.params_b:g}{active}", m.quantisation, _figure(m.weights_gb), f"{m.round_gb:.3g}", str(m.layers))
        window = f"{m.context_window // 1024}k"
        rows.append((m.name, *cells, heads, f"{m.kv_bytes_per_token:,}", window, ", ".join(m.tasks)))
    return _table(header, rows)


def _default_table() -> str:
    rows = [("runtime (CUDA context, activations, graphs) GB", _figure(RUNTIME_GB))]
    rows += [(f"KV cache of a model that serves {task}, tokens", _figure(figure)) for task, figure in KV_TOKENS.items()]
    rows += [("seats (max_num_seqs)", _figure(MAX_NUM_SEQS)), ("prefill tokens per round", _figure(CHUNK_TOKENS))]
    return _table(("default", "value"), rows)


def _speed_table() -> str:
    gpu = GPUS["a100-80"]
    rows = []
    for m in MODELS.values():
        loads = [f"{tabulate.load_us(m, gpu, engine, DISK) / 1e6:.1f}" for engine in ENGINES.values()]
        wake = tabulate.load_us(m, gpu, ENGINES["sleep-mode"], HOST) / 1e6
        need_gb = m.weights_gb.value + tabulate.reserve(m)[0] / tabulate.GB
        rate = 2048 / (prefill_us(m, "a100-80", 2048) / 1e6)
        speed = (f"{rate:,.0f}", f"{decode_ms(m, 'a100-80', 2000, 1):.1f}")
        rows.append((m.name, f"{need_gb:.1f}", *loads[:3], f"{wake:.2f}", *speed))
    header = ("model", "need GB", "cold-engine s", "safetensors s", "fast-loader s", "sleep-mode wake-up s")
    return _table((*header, "prefill tokens/s", "ms/token"), rows)


def _figure(figure: Figure) -> str:
    return f"{figure.value:g} *{figure.kind}, {figure.source}*"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.0f} %"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main()
