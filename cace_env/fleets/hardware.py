"""GPUs and load engines: rows of figures as in `cace_env.fleets.catalogue`, which has their sources. GB = 1e9 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cace_env.fleets.catalogue import Figure, Quantisation


@dataclass(frozen=True)
class Gpu:
    """A kind of accelerator. A round at batch 1 takes `overhead + ms_per_gb x bytes read`, by number format."""

    name: str
    memory_gb: Figure
    hbm_tb_s: Figure
    peak_tflops: Figure  # dense bf16
    mfu: Figure  # share of the peak that prefill reaches
    link_gb_s: Figure  # host to accelerator
    overhead_ms: dict[Quantisation, Figure]
    ms_per_gb: dict[Quantisation, Figure]
    decode_us_per_b: Figure  # per decoding request and 1e9 active parameters: the slope over the batch


@dataclass(frozen=True)
class Engine:
    """A load regime. Pairs are (host, disk)."""

    name: str
    start_s: tuple[Figure, Figure]
    first_inference_s: tuple[Figure, Figure]  # how much longer the first inference takes than a warm one
    bandwidth_gb_s: tuple[Figure, Figure]
    unload_gb_s: Figure  # 0 = weights are dropped immediately
    residual_gb: Figure  # memory that an evicted model keeps on its accelerator


def _datasheet(value: float) -> Figure:
    return Figure(value, "datasheet", "nvidia")


def _assumed(value: float, source: str) -> Figure:
    return Figure(value, "assumed", source)


_LINK_SHARE: Final = 0.83
_PCIE4: Final = _assumed(round(_LINK_SHARE * 31.5, 1), "pcie")
_PCIE5: Final = _assumed(round(_LINK_SHARE * 63.0, 1), "pcie")
_A100_MFU: Final = Figure(0.55, "fit", "prefill")
_A100_OVERHEAD: Final[dict[Quantisation, Figure]] = {
    "bf16": Figure(2.9, "fit", "qwen-speed"),
    "int4": Figure(3.7, "fit", "qwen-speed"),
}
_H100_OVERHEAD: Final[dict[Quantisation, Figure]] = {
    "bf16": Figure(1.6, "fit", "vidur-h100"),
    "int4": _assumed(2.4, "h100-int4"),
}


def _a100_per_gb(hbm_tb_s: float) -> dict[Quantisation, Figure]:
    """0.65 ms/GB in bf16 (75 % of the HBM bandwidth) and 0.675 in int4 on the A100-80, scaled by bandwidth."""
    scale = 2.039 / hbm_tb_s
    if scale == 1:
        return {"bf16": Figure(0.65, "fit", "qwen-speed"), "int4": Figure(0.675, "fit", "qwen-speed")}
    bf16, int4 = round(0.65 * scale, 3), round(0.675 * scale, 3)
    return {"bf16": _assumed(bf16, "qwen-speed-scaled"), "int4": _assumed(int4, "qwen-speed-scaled")}


_GPU_ROWS: Final = (
    Gpu(
        name="a100-40",
        memory_gb=_datasheet(40),
        hbm_tb_s=_datasheet(1.555),
        peak_tflops=_datasheet(312),
        mfu=_A100_MFU,
        link_gb_s=_PCIE4,
        overhead_ms=_A100_OVERHEAD,
        ms_per_gb=_a100_per_gb(1.555),
        decode_us_per_b=Figure(3.0, "fit", "vidur"),
    ),
    Gpu(
        name="a100-80",
        memory_gb=_datasheet(80),
        hbm_tb_s=_datasheet(2.039),
        peak_tflops=_datasheet(312),
        mfu=_A100_MFU,
        link_gb_s=_PCIE4,
        overhead_ms=_A100_OVERHEAD,
        ms_per_gb=_a100_per_gb(2.039),
        decode_us_per_b=Figure(3.0, "fit", "vidur"),
    ),
    Gpu(
        name="h100",
        memory_gb=_datasheet(80),
        hbm_tb_s=_datasheet(3.35),
        peak_tflops=_datasheet(989),
        mfu=_assumed(0.35, "prefill-h100"),
        link_gb_s=_PCIE5,
        overhead_ms=_H100_OVERHEAD,
        ms_per_gb={"bf16": Figure(0.36, "fit", "vidur-h100"), "int4": _assumed(0.374, "h100-int4")},
        decode_us_per_b=_assumed(0.95, "vidur-scaled"),
    ),
    Gpu(
        name="h200",
        memory_gb=_datasheet(141),
        hbm_tb_s=_datasheet(4.8),
        peak_tflops=_datasheet(989),
        mfu=_assumed(0.35, "as-h100"),
        link_gb_s=_PCIE5,
        overhead_ms={"bf16": _assumed(1.6, "as-h100"), "int4": _assumed(2.4, "as-h100")},
        ms_per_gb={"bf16": _assumed(0.251, "vidur-h100-scaled"), "int4": _assumed(0.261, "vidur-h100-scaled")},
        decode_us_per_b=_assumed(0.95, "vidur-scaled"),
    ),
    Gpu(
        name="l40s",
        memory_gb=_datasheet(48),
        hbm_tb_s=_datasheet(0.864),
        peak_tflops=_datasheet(362),
        mfu=Figure(0.32, "fit", "prefill-ada"),
        link_gb_s=_PCIE4,
        overhead_ms={"bf16": _assumed(1.0, "llama.cpp"), "int4": Figure(1.0, "fit", "llama.cpp")},
        ms_per_gb=_a100_per_gb(0.864),
        decode_us_per_b=_assumed(2.6, "vidur-scaled"),
    ),
    Gpu(
        name="rtx-4090",
        memory_gb=_datasheet(24),
        hbm_tb_s=_datasheet(1.008),
        peak_tflops=_datasheet(165),
        mfu=_assumed(0.32, "as-ada"),
        link_gb_s=_PCIE4,
        overhead_ms={"bf16": _assumed(1.1, "llama.cpp"), "int4": Figure(1.1, "fit", "llama.cpp")},
        ms_per_gb=_a100_per_gb(1.008),
        decode_us_per_b=_assumed(5.7, "vidur-scaled"),
    ),
)
GPUS: Final[dict[str, Gpu]] = {gpu.name: gpu for gpu in _GPU_ROWS}

# Cold 2.5-3.7 s against warm 0.5-1.0 s: the difference of the mid-points.
_FIRST_INFERENCE: Final = Figure(2.35, "fit", "vllm-blog")
_AS_COLD: Final = _assumed(2.35, "first-load")
_NO_PENALTY: Final = Figure(0.0, "measured", "vllm-blog")
_NO_START: Final = _assumed(0.0, "loader-only")
_DROPS: Final = _assumed(0.0, "drops")
_COLD_START: Final = Figure(42.7, "fit", "vllm-blog")

_ENGINE_ROWS: Final = (
    Engine(
        name="cold-engine",
        start_s=(_COLD_START, _COLD_START),
        first_inference_s=(_FIRST_INFERENCE, _FIRST_INFERENCE),
        bandwidth_gb_s=(Figure(10.4, "fit", "vllm-blog"), _assumed(3.4, "sllm-reader")),
        unload_gb_s=_DROPS,
        residual_gb=_DROPS,
    ),
    Engine(
        name="safetensors",
        start_s=(_NO_START, _NO_START),
        first_inference_s=(_AS_COLD, _AS_COLD),
        bandwidth_gb_s=(Figure(5.2, "measured", "sllm"), Figure(3.4, "fit", "sllm")),
        unload_gb_s=_DROPS,
        residual_gb=_DROPS,
    ),
    Engine(
        name="fast-loader",
        start_s=(_NO_START, _NO_START),
        first_inference_s=(_AS_COLD, _AS_COLD),
        bandwidth_gb_s=(Figure(52.4, "measured", "sllm"), Figure(22.0, "fit", "sllm")),
        unload_gb_s=_DROPS,
        residual_gb=_DROPS,
    ),
    Engine(
        name="sleep-mode",
        start_s=(Figure(0.22, "fit", "vllm-blog"), _assumed(42.7, "cold-start")),
        first_inference_s=(_NO_PENALTY, _assumed(2.35, "cold-start")),
        bandwidth_gb_s=(Figure(20.4, "fit", "vllm-blog"), _assumed(3.4, "cold-start")),
        unload_gb_s=Figure(21.9, "measured", "vllm-blog"),
        residual_gb=Figure(1.1, "measured", "vllm-32714"),
    ),
)
ENGINES: Final[dict[str, Engine]] = {engine.name: engine for engine in _ENGINE_ROWS}
