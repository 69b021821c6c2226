"""Claims about the integer tables: what is refused, and how many slots there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cace_env.tables import FOREVER, NONE, TASKS, CostTable, FleetTables, TableError, slots_per_accelerator

GB = 1_000_000_000


def tiny(
    memory: tuple[int, ...] = (10 * GB,), need: tuple[int, ...] = (3 * GB, 4 * GB, 5 * GB), **changes: Any
) -> FleetTables:
    """A fleet that can be checked by eye: needs of 3, 4 and 5 GB on 10 GB, loads of 1 s, rounds of 10 ms."""
    num_a, num_m, num_t = len(memory), len(need), len(TASKS)
    pair = (num_a, num_m)
    tables = FleetTables(
        accelerator_names=tuple(f"gpu-{a}" for a in range(num_a)),
        model_names=tuple(f"model-{m}" for m in range(num_m)),
        memory_bytes=np.array(memory),
        need_bytes=np.array(need),
        weights_bytes=np.array(need) // 2,
        residual_bytes=np.zeros(num_m, np.int64),
        kv_tokens=np.full(num_m, 10_000),
        max_num_seqs=np.full(num_m, 4),
        chunk_tokens=np.full(num_m, 512),
        load_us=np.full((*pair, 2), 1_000_000),
        unload_us=np.zeros(pair, np.int64),
        round_ns=np.full(pair, 10_000_000),
        decode_ns=np.full(pair, 50_000),
        kv_ps=np.full(pair, 30_000),
        prefill_ns=np.full(pair, 100_000),
        attention_ps=np.full(pair, 1_000),
        cost=CostTable(np.ones(num_t), np.zeros(num_t), np.full(num_t, FOREVER), np.zeros(num_t, np.bool_)),
        pinned_on=np.full(num_m, NONE),
        resident_on=np.full(num_m, NONE),
        asleep_on=np.full(num_m, NONE),
        host_cached=np.zeros(num_m, np.bool_),
    )
    return tables.replace(**changes)


def test_plain_tables_are_accepted() -> None:
    tiny().validate()


def test_a_token_takes_a_round_with_one_request_in_it() -> None:
    assert tiny().token_ns.tolist() == [[10_050_000] * 3]
    assert tiny(batch_ns=np.full((1, 3, 1), 7)).token_ns.tolist() == [[10_050_007] * 3]  # then decode_ns for each more
    assert tiny(batch_ns=np.array([[[7, 20, 30]] * 3])).token_ns.tolist() == [[10_000_020] * 3]


def test_slots_are_the_most_models_that_fit_at_once() -> None:
    assert slots_per_accelerator(tiny()).tolist() == [2]  # 3 + 4 fit into 10 GB, 3 + 4 + 5 do not
    assert slots_per_accelerator(tiny(memory=(12 * GB, 6 * GB))).tolist() == [3, 1]


def test_a_model_that_just_fits_gets_its_slot() -> None:
    assert slots_per_accelerator(tiny(memory=(7 * GB,))).tolist() == [2]
    assert slots_per_accelerator(tiny(memory=(7 * GB - 1,))).tolist() == [1]


def test_pinned_models_take_their_slot_first_and_none_elsewhere() -> None:
    tables = tiny(memory=(10 * GB, 10 * GB), pinned_on=np.array([NONE, NONE, 0]))
    assert slots_per_accelerator(tables).tolist() == [2, 2]  # 5 pinned + 3 on the first, 3 + 4 on the second


def test_unlimited_memory_has_a_slot_for_every_model() -> None:
    assert slots_per_accelerator(tiny(memory=(1, 1), unlimited_memory=True)).tolist() == [3, 3]
    tiny(memory=(1, 1), unlimited_memory=True).validate()


def test_more_slots_than_can_be_used_are_allowed_fewer_are_not() -> None:
    tiny(max_slots=5).validate()
    with pytest.raises(TableError, match="max_slots is 1, but up to 2"):
        tiny(max_slots=1).validate()


def test_a_model_that_fits_nowhere_is_refused_with_both_sizes() -> None:
    with pytest.raises(TableError, match=r"'model-2' needs 5.00 GB.* more than 4.99 GB"):
        tiny(memory=(5 * GB - 1, 4 * GB)).validate()


def test_residuals_of_all_other_models_count_against_the_room_of_each() -> None:
    residual = np.full(3, GB)
    tiny(memory=(7 * GB,), residual_bytes=residual).validate()  # 7 - 2 asleep = 5, the largest need
    with pytest.raises(TableError, match=r"'model-2'.*4.99 GB.*2.00 GB of residuals"):
        tiny(memory=(7 * GB - 1,), residual_bytes=residual).validate()


def test_pins_count_against_the_room_of_the_others() -> None:
    pins = np.array([0, NONE, NONE])
    with pytest.raises(TableError, match=r"'model-2'.*4.00 GB.*3.00 GB pinned"):
        tiny(memory=(7 * GB,), pinned_on=pins).validate()
    with pytest.raises(TableError, match=r"pinned there need 12.00 GB"):
        tiny(pinned_on=np.zeros(3, np.int64)).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resident_on": np.array([0, 0, 0])}, "take 12.00 GB at time 0"),
        ({"pinned_on": np.array([0, NONE, NONE]), "resident_on": np.array([0, NONE, NONE])}, r"resident_on\[model-0\]"),
        ({"asleep_on": np.array([NONE, 0, NONE])}, r"asleep_on\[model-1\].*leaves no residual"),
        ({"host_cached": np.array([True, False, False])}, "host_cache_bytes is 0.00 GB"),
        ({"resident_on": np.array([1, NONE, NONE])}, r"resident_on\[model-0\] is 1; .* 0 to 0, or -1"),
    ],
)
def test_an_impossible_start_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=message):
        tiny(**changes).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"need_bytes": np.array([3 * GB, 4 * GB])}, r"need_bytes is int64 \(2,\); .* int64 of shape \(3,\)"),
        ({"need_bytes": np.array([3e9, 4e9, 5e9])}, "need_bytes is float64"),
        ({"need_bytes": np.array([GB, 4 * GB, 5 * GB])}, r"need_bytes\[model-0\] is 1000000000; .* weights_bytes"),
        ({"load_us": np.zeros((1, 3, 2), np.int64)}, r"load_us\[gpu-0, model-0, host\] is 0"),
        (
            {"load_us": np.full((1, 3, 2), FOREVER)},
            r"load_us\[gpu-0, model-0, host\] is .* 1 to 1125899906842624",
        ),
        ({"unload_us": np.full((1, 3), FOREVER)}, r"unload_us\[gpu-0, model-0\]"),
        ({"prefill_ns": np.array([[1, -1, 1]])}, r"prefill_ns\[gpu-0, model-1\] is -1"),
        ({"memory_bytes": np.array([0])}, r"memory_bytes\[gpu-0\] is 0"),
        ({"residual_bytes": np.array([3 * GB, 0, 0])}, r"residual_bytes\[model-0\]"),
        ({"model_names": ("a", "a", "b")}, "'a' more than once"),
        ({"accelerator_names": ()}, "accelerator_names is empty"),
        ({"placement": "best"}, "placement is 'best'; it has to be one of spread, pack"),
        ({"drain_after_us": -1}, "drain_after_us is -1"),
        ({"max_decisions": 0}, "max_decisions is 0"),
        ({"round_ns": np.full((1, 3), FOREVER)}, "a round could last"),
        ({"batch_ns": np.zeros((1, 3), np.int64)}, r"batch_ns is int64 \(1, 3\); .* of shape \(1, 3, 1\)"),
        ({"batch_ns": np.array([[[0, 2], [0, 2], [3, 2]]])}, r"batch_ns\[gpu-0, model-2, 1\] is 2; .* no less than"),
        ({"batch_ns": np.full((1, 3, 9), FOREVER)}, "a round could last"),
        ({"request_ns": np.array([[1, -1, 1]])}, r"request_ns\[gpu-0, model-1\] is -1"),
        ({"load_slowdown": np.array([999])}, r"load_slowdown\[gpu-0\] is 999; .* 1000 to 1000000"),
        ({"load_slowdown": np.array([1_000_000]), "round_ns": np.full((1, 3), 10**10)}, "a round could last"),
        ({"prefill_ns": np.full((1, 3), 10**9), "whole_rounds": True}, "a prompt with whole_rounds could last"),
        ({"kv_tokens": np.full(3, 1 << 40)}, "model-0"),
    ],
)
def test_a_bad_entry_is_named_with_its_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=message):
        tiny(**changes).validate()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("w_ttft", np.array([1.0, np.nan, 0, 0])),
        ("w_e2e", np.array([0, -1.0, 0, 0])),
        ("w_load", -1.0),
        ("w_slo", np.inf),
    ],
)
def test_a_bad_cost_weight_is_refused(column: str, value: Any) -> None:
    tables = tiny()
    with pytest.raises(TableError, match=f"cost.{column}"):
        tables.replace(cost=dataclasses.replace(tables.cost, **{column: value})).validate()
