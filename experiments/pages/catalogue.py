"""Tables of the catalogue: GPUs, engines, models, and how far predictions are off."""

from __future__ import annotations

from cace_env.fleets import ENGINES, GPUS, MODELS
from cace_env.fleets import tabulation as tabulate
from cace_env.fleets.catalogue import CHUNK_TOKENS, KV_TOKENS, MAX_NUM_SEQS, RUNTIME_GB, SOURCES, Figure
from cace_env.tables import DISK, HOST
from experiments.reading.markdown import table
from experiments.yardsticks.calibration import checks_as_markdown, decode_ms, prefill_us


def regions() -> dict[str, str]:
    """Regions of `docs/catalogue.md`."""
    return {
        "calibration": checks_as_markdown(),
        "gpus": _gpu_table(),
        "engines": _engine_table(),
        "models": _model_table(),
        "defaults": _default_table(),
        "speeds": _speed_table(),
        "sources": table(("key", "source"), sorted(SOURCES.items())),
    }


def _gpu_table() -> str:
    speeds = ("overhead ms bf16 / int4", "ms per GB bf16 / int4", "us per request and 1e9 parameters")
    header = ("GPU", "memory GB", "HBM TB/s", "peak TFLOP/s", "MFU", "link GB/s", *speeds)
    rows = []
    for gpu in GPUS.values():
        overhead = f"{_figure(gpu.overhead_ms['bf16'])} / {_figure(gpu.overhead_ms['int4'])}"
        per_gb = f"{_figure(gpu.ms_per_gb['bf16'])} / {_figure(gpu.ms_per_gb['int4'])}"
        plain = [_figure(f) for f in (gpu.memory_gb, gpu.hbm_tb_s, gpu.peak_tflops, gpu.mfu, gpu.link_gb_s)]
        rows.append((gpu.name, *plain, overhead, per_gb, _figure(gpu.decode_us_per_b)))
    return table(header, rows)


def _engine_table() -> str:
    header = ("engine", "start s", "first inference s", "bandwidth GB/s", "unload GB/s", "residual GB")
    rows = []
    for engine in ENGINES.values():
        pairs = [engine.start_s, engine.first_inference_s, engine.bandwidth_gb_s]
        cells = [" / ".join(_figure(figure) for figure in pair) for pair in pairs]
        rows.append((engine.name, *cells, _figure(engine.unload_gb_s), _figure(engine.residual_gb)))
    return table(header, rows)


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
    return table(header, rows)


def _default_table() -> str:
    rows = [("runtime (CUDA context, activations, graphs) GB", _figure(RUNTIME_GB))]
    rows += [(f"KV cache of a model that serves {task}, tokens", _figure(figure)) for task, figure in KV_TOKENS.items()]
    rows += [("seats (max_num_seqs)", _figure(MAX_NUM_SEQS)), ("prefill tokens per round", _figure(CHUNK_TOKENS))]
    return table(("default", "value"), rows)


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
    return table((*header, "prefill tokens/s", "ms/token"), rows)


def _figure(figure: Figure) -> str:
    return f"{figure.value:g} *{figure.kind}, {figure.source}*"
