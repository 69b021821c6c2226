"""Claims about measured coefficients in a scenario: they stand in the tables as they are, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from cace_env.config import ConfigError, dump, parse_yaml
from cace_env.evaluation import evaluate
from cace_env.scenarios import Scenario, load_scenario

ROW: dict[str, Any] = {
    "weights_bytes": 70_000_001,
    "need_bytes": 90_000_003,
    "load_us": [300_000, 900_000],
    "unload_us": 40_000,
    "round_ns": 8_000_000,
    "decode_ns": 1_000_000,
    "kv_ps": 17,
    "prefill_ns": 400_000,
    "attention_ps": 23,
}


def scenario(**changes: Any) -> Scenario:
    hosted = {"model": "qwen2.5-coder-7b", "tasks": ["completion", "chat"], "kv_tokens": 4096, "max_num_seqs": 4}
    catalogue = [{"name": f"mine-{i}", **hosted, "measured": {**ROW, "unload_us": i}} for i in range(3)]
    shares = {"completion": 0.8, "chat": 0.2, "reasoning": 0, "agent": 0}
    content = {"name": "mine", "fleet": [{"gpu": "h100", "memory_gb": 0.2}], "catalogue": catalogue}
    return load_scenario({**content, "workload": {"requests": 60, "users": 3, "shares": shares}, **changes})


def test_measured_rows_stand_in_the_tables_as_they_are():
    tables = scenario().tables()
    for name in ("need_bytes", "weights_bytes"):
        assert getattr(tables, name).tolist() == [ROW[name]] * 3
    for name in ("round_ns", "decode_ns", "kv_ps", "prefill_ns", "attention_ps"):
        assert getattr(tables, name).tolist() == [[ROW[name]] * 3]
    assert tables.load_us.tolist() == [[ROW["load_us"]] * 3]
    assert tables.unload_us.tolist() == [[0, 1, 2]]
    assert tables.residual_bytes.tolist() == [0, 0, 0]


def test_batches_of_one_model_go_on_straight_where_another_has_more():
    rows = [ROW, {**ROW, "batch_ns": [0, 5, 6, 6], "request_ns": 7}]
    hosted = {"model": "qwen2.5-coder-7b", "kv_tokens": 4096}
    catalogue = [{"name": f"mine-{i}", **hosted, "measured": row} for i, row in enumerate(rows)]
    tables = scenario(
        catalogue=[*catalogue, {"name": "plain", **hosted, "reserve_gb": None}],
        fleet=[{"gpu": "h100", "load_slowdown": 1.25}],
        rules={"whole_rounds": True},
    ).tables()
    decode_ns = tables.decode_ns[0].tolist()
    assert tables.batch_ns.tolist() == [
        [[0, 10**6, 2 * 10**6, 3 * 10**6], [0, 5, 6, 6], [batch * decode_ns[2] for batch in range(4)]]
    ]
    assert tables.request_ns.tolist() == [[0, 7, 0]]
    assert tables.load_slowdown.tolist() == [1250]
    assert tables.whole_rounds


def test_measured_speeds_pace_the_workload():
    served = scenario().workload_models()[0]
    assert served.prefill_us_per_token == 400.0
    assert served.decode_us_per_token == 9_000.0
    assert served.weights_gb == pytest.approx(0.070000001)


def test_other_models_keep_the_formulas():
    plain = load_scenario("default")
    row = {**ROW, "need_bytes": 10**10}
    mixed = plain.replace(
        catalogue=[*plain.catalogue, {"model": "mellum-4b", "name": "mine", "measured": row}], pressure=None
    )
    before, after = plain.tables(), mixed.tables()
    assert (after.load_us[:, :-1] == before.load_us).all()
    assert (after.prefill_ns[:, :-1] == before.prefill_ns).all()
    assert after.prefill_ns[:, -1].tolist() == [400_000] * 2


def test_a_scenario_with_measured_rows_survives_its_file():
    one = scenario()
    assert load_scenario(parse_yaml(dump(one), "dumped")) == one


def test_it_can_be_played():
    (cost,) = evaluate("lru", scenario(), seeds=[1]).column("cost")
    assert cost > 0


def test_rows_that_cannot_be_are_refused():
    bad = {"name": "mine", "model": "mellum-4b", "measured": {**ROW, "need_bytes": 1}}
    with pytest.raises(ConfigError, match="need_bytes"):
        scenario(catalogue=[bad])
    with pytest.raises(ConfigError, match="load_us"):
        scenario(catalogue=[{**bad, "measured": {**ROW, "load_us": [0, 0]}}])
    with pytest.raises(ConfigError, match="a round could last"):
        scenario(catalogue=[{**bad, "measured": {**ROW, "round_ns": 1 << 50}}])
