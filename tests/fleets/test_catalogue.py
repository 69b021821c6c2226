"""Claims about the catalogue: complete, sourced, close to what was measured, and tabulated as written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cace_env.fleets import ENGINES, GPUS, MODELS
from cace_env.fleets import tabulation as tabulate
from cace_env.fleets.catalogue import KV_TOKENS, SOURCES, Figure
from cace_env.tables import DISK, FOREVER, HOST, TASKS, CostTable, TableError
from experiments.yardsticks import calibration as yardsticks

ONES = np.ones(len(TASKS))
COST = CostTable(ONES, ONES, np.full(len(TASKS), FOREVER), np.zeros(len(TASKS), np.bool_))


def figures(thing: Any) -> Iterator[Figure]:
    """Every figure inside a row."""
    if isinstance(thing, Figure):
        yield thing
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        for field in dataclasses.fields(thing):
            yield from figures(getattr(thing, field.name))
    elif isinstance(thing, dict):
        yield from figures(tuple(thing.values()))
    elif isinstance(thing, tuple):
        for item in thing:
            yield from figures(item)


def test_the_catalogue_holds_what_a_company_would_choose_from() -> None:
    assert len({name.removesuffix("-int4") for name in MODELS}) >= 20
    assert set(GPUS) == {"a100-40", "a100-80", "h100", "h200", "l40s", "rtx-4090"}
    assert set(ENGINES) == {"cold-engine", "safetensors", "fast-loader", "sleep-mode"}
    assert {task for model in MODELS.values() for task in model.tasks} == set(TASKS)


def test_every_figure_has_a_kind_and_a_known_source_and_no_source_is_unused() -> None:
    used = set()
    for figure in figures((MODELS, GPUS, ENGINES, KV_TOKENS)):
        assert figure.kind in ("measured", "fit", "datasheet", "assumed")
        assert figure.value >= 0
        used.add(figure.source)
    assert used == set(SOURCES)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_weights_agree_with_parameters_and_format(model: Any) -> None:
    bytes_per_parameter = model.weights_gb.value / model.params_b
    low, high = (1.9, 2.15) if model.quantisation == "bf16" else (0.55, 1.0)
    assert low <= bytes_per_parameter <= high
    assert model.active_b <= model.params_b
    assert 0 < model.round_gb <= model.weights_gb.value
    assert model.heads % model.kv_heads == 0


def test_a_round_of_a_mixture_reads_less_than_its_weights_and_more_than_one_token_needs() -> None:
    model = MODELS["qwen3-coder-30b-a3b"]
    one_token_gb = model.weights_gb.value * model.active_b / model.params_b
    assert one_token_gb < model.round_gb < model.weights_gb.value / 2
    assert MODELS["qwen2.5-coder-7b"].round_gb == 15.2


def test_kv_cache_of_a_known_model() -> None:
    assert MODELS["qwen2.5-coder-7b"].kv_bytes_per_token == 57_344  # 2 x 28 layers x 4 heads x 128 x 2 bytes
    assert MODELS["codellama-7b"].kv_bytes_per_token == 524_288  # without grouped queries


@pytest.mark.parametrize("check", yardsticks.qwen_decode_checks(), ids=lambda check: check.what)
def test_decode_is_within_15_percent_of_the_qwen_table(check: yardsticks.Check) -> None:
    assert check.error is not None
    assert abs(check.error) < 0.15


@pytest.mark.parametrize("check", yardsticks.load_checks(), ids=lambda check: check.what)
def test_loads_that_were_fitted_to_are_within_28_percent(check: yardsticks.Check) -> None:
    if check.note.startswith("fitted to"):
        assert check.error is not None
        assert abs(check.error) < 0.28


@pytest.mark.parametrize("check", yardsticks.load_checks(), ids=lambda check: check.what)
def test_the_simulator_charges_the_load_and_the_slow_first_inference(check: yardsticks.Check) -> None:
    if check.first_inference is not None:
        assert check.predicted is not None
        assert check.charged == pytest.approx(check.predicted + check.first_inference.value)


def test_the_page_shows_what_a_fast_load_costs_in_the_simulator_and_that_most_of_it_is_assumed() -> None:
    check = next(check for check in yardsticks.load_checks() if check.what.startswith("Qwen3-32B, fast-loader from h"))
    simulated_s = tabulate.load_us(yardsticks.QWEN3_32B, GPUS["h100"], ENGINES["fast-loader"], HOST) / 1e6
    assert check.measured == 1.25
    assert check.charged == simulated_s == pytest.approx(3.60, abs=0.01)
    assert f"| 1.25 | 1.25 | +0 % | 3.6 | **{235 / simulated_s:.0f} %** |" in yardsticks.checks_as_markdown()
    measured = [c for c in yardsticks.load_checks() if "cold-engine" in c.what or "sleep-mode" in c.what]
    assert {check.assumed_share for check in measured} == {0.0}


def test_what_the_catalogue_cannot_predict_says_why() -> None:
    checks = [check for _, _, table in yardsticks.TABLES for check in table()]
    assert len(checks) > 40
    assert all(check.note for check in checks if check.error is None or abs(check.error) > 0.1)


def test_loads_follow_engine_tier_and_link() -> None:
    model, a100, h100 = MODELS["qwen2.5-coder-7b"], GPUS["a100-80"], GPUS["h100"]
    assert (
        tabulate.load_us(model, a100, ENGINES["safetensors"], HOST) == 2_350_000 + 2_923_077
    )  # 15.2 GB / 5.2 GB/s, up
    assert tabulate.load_us(model, a100, ENGINES["fast-loader"], HOST) == 2_350_000 + 582_376  # bound by the link, 26.1
    assert tabulate.load_us(model, h100, ENGINES["fast-loader"], HOST) < 2_650_000
    assert tabulate.unload_us(model, a100, ENGINES["sleep-mode"]) == 694_064  # 15.2 GB / 21.9 GB/s, up
    assert tabulate.unload_us(model, a100, ENGINES["safetensors"]) == 0
    for engine in ENGINES.values():
        assert tabulate.load_us(model, a100, engine, HOST) <= tabulate.load_us(model, a100, engine, DISK)


def test_speeds_of_a_known_model() -> None:
    model, gpu = MODELS["qwen2.5-coder-7b"], GPUS["a100-80"]
    assert tabulate.prefill_ns(model, gpu) == 88_695  # 15.22 GFLOP / 171.6 TFLOP/s
    assert tabulate.attention_ps(model, gpu) == 2_339  # 401,408 FLOP / 171.6 TFLOP/s
    assert tabulate.decode_ns(model, gpu) == 22_830  # 3 us x 7.61
    assert tabulate.round_ns(model, gpu) + tabulate.decode_ns(model, gpu) == 12_780_000  # 2.9 + 0.65 x 15.2 ms
    assert tabulate.kv_ps(model, gpu) == 37_274  # 57,344 bytes at 0.65 ms per GB


def test_reserve_and_kv_tokens_follow_from_each_other() -> None:
    model = MODELS["qwen2.5-coder-7b"]
    reserve_bytes, tokens = tabulate.reserve(model)
    assert (reserve_bytes, tokens) == (1_500_000_000 + 32_768 * 57_344, 32_768)  # the larger of completion and chat
    assert tabulate.reserve(model, reserve_gb=reserve_bytes / 1e9) == (reserve_bytes, tokens)
    assert tabulate.reserve(model, kv_tokens=1000)[0] == 1_500_000_000 + 57_344_000
    with pytest.raises(TableError, match=r"'qwen2.5-coder-7b': reserve_gb is 1.5.*no room"):
        tabulate.reserve(model, reserve_gb=1.5)
    with pytest.raises(TableError, match="not both"):
        tabulate.reserve(model, reserve_gb=3, kv_tokens=1000)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_catalogue_can_be_tabulated(engine: str) -> None:
    accelerators = [
        tabulate.Accelerator(f"{name}-{i}", gpu, 400 * tabulate.GB) for i, (name, gpu) in enumerate(GPUS.items())
    ]
    models = [tabulate.HostedModel(name, model, *tabulate.reserve(model)) for name, model in MODELS.items()]
    tables = tabulate.tabulate(accelerators, models, ENGINES[engine], COST, host_ram_bytes=2000 * tabulate.GB)
    assert tables.load_us.shape == (len(GPUS), len(MODELS), 2)
    assert (tables.residual_bytes > 0).all() == (engine == "sleep-mode")
    assert tables.unload_copies == (engine == "sleep-mode")


def test_a_pinned_model_leaves_no_residual() -> None:
    model = MODELS["qwen2.5-coder-7b"]
    served = [tabulate.HostedModel(name, model, *tabulate.reserve(model)) for name in ("a", "b")]
    served[0] = dataclasses.replace(served[0], pinned_on=0)
    gpu = tabulate.Accelerator("gpu", GPUS["a100-80"], 80 * tabulate.GB)
    tables = tabulate.tabulate([gpu], served, ENGINES["sleep-mode"], COST)
    assert tables.residual_bytes.tolist() == [0, 1_100_000_000]
    assert tables.pinned_on.tolist() == [0, -1]
