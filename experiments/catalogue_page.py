"""The catalogue as a page, from the code: `python -m experiments.catalogue_page --write docs/catalogue.md`."""

from __future__ import annotations

from collections.abc import Sequence

from cace_env.fleets import ENGINES, GPUS, MODELS
from cace_env.fleets import tabulation as tabulate
from cace_env.fleets.catalogue import CHUNK_TOKENS, KV_TOKENS, MAX_NUM_SEQS, MOE_BATCH, RUNTIME_GB, SOURCES, Figure
from cace_env.tables import DISK, HOST
from experiments.reading.markdown import table
from experiments.running.command_line import print_or_write
from experiments.yardsticks.calibration import checks_as_markdown, decode_ms, prefill_us

INTRODUCTION = """# Catalogue: models, GPUs, engines

Written by `python -m experiments.catalogue_page --write docs/catalogue.md` from `cace_env/fleets/catalogue.py` (models)
and `cace_env/fleets/hardware.py` (GPUs, engines): change those, not this page. GB = 1e9 bytes. Every number carries how
it was come by and a key of the [sources](#sources):

- **measured**: read off a published measurement;
- **fit**: computed from published measurements, error in the tables of [accuracy](#accuracy);
- **datasheet**: stated by the maker (data sheet, model card, config.json, file listing);
- **assumed**: our choice. Vary it before you trust a conclusion that hangs on it."""

ACCURACY = """\
Predictions of the functions that fill the tables of the simulator (`cace_env/fleets/tabulation.py`), against every
measured figure known to us. *Fitted to* marks figures that went into the prediction: their errors are residuals, not a
validation. A dash: the model has no such thing; the note says why. The 7,531 production loads of image models in
Alibaba GenTD26 (10 / 50 / 90 / 99 % in 2.6 / 22.7 / 42.0 / 51.9 s, a third within 5 s, most of the rest 16-50 s) are
not listed: no sizes are given. Their two humps are what `safetensors` or `fast-loader` beside `cold-engine` look like.

The published load times end before the first inference, which is slow after a load. The simulator holds a model back
until that is over. So loads have two columns: the **load alone**, which is what was measured and what the error is of,
and **as charged**, what the simulator takes for load and slow first inference together. The slowness has only been
measured after a cold start of vLLM: 2.5-3.7 s against 0.5-1.0 s warm, the mid-points 2.35 s apart. That it is the same
with `safetensors` and `fast-loader` is **assumed**, and of what `fast-loader` is charged it is mostly the larger part
(in bold): its loads are dominated by that assumption, so vary `first_inference_s` (`cace_env/fleets/hardware.py`)
before you
trust a conclusion about fast loading."""

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


def page() -> str:
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
                "## Sources\n\n" + table(("key", "source"), sorted(SOURCES.items())),
            ]
        )
        + "\n"
    )


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it."""
    print_or_write(page, "experiments.catalogue_page", __doc__, arguments)


if __name__ == "__main__":
    main()
