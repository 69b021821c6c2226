"""Claims about scenarios: strict, cheap, reproducible, and tabulated as they say."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cace_env.config import ConfigError, dump
from cace_env.evaluation import evaluate
from cace_env.fleets import REWARDS
from cace_env.scenarios import SEEDS, Scenario, compared_scenarios, load_scenario, scenario_names, seeds
from cace_env.tables import FOREVER, TASKS, slots_per_accelerator

DOCS = Path(__file__).resolve().parents[2] / "docs"


def small(**changes: Any) -> Scenario:
    """Two L40S and three models: 18.6 (7B), 17.8 (14B in int4) and 15.5 GB (4B)."""
    catalogue = ["qwen2.5-coder-7b", "qwen2.5-coder-14b-int4", "mellum-4b"]
    shares = {"completion": 0.8, "chat": 0.2, "reasoning": 0, "agent": 0}
    content = {"name": "small", "fleet": [{"gpu": "l40s", "count": 2}], "catalogue": catalogue}
    return load_scenario({**content, "workload": {"requests": 50, "users": 3, "shares": shares}, **changes})


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_is_complete(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.question.endswith("?")
    assert scenario.description
    scenario.tables().validate()


def test_the_default_scenario_is_two_h100_with_sixteen_models_under_pressure() -> None:
    scenario = load_scenario("default")
    tables = scenario.tables()
    assert tables.accelerator_names == ("h100-0", "h100-1")
    assert tables.num_models == 16
    assert tables.need_bytes.sum() / tables.memory_bytes.sum() == pytest.approx(2.7)
    assert tables.memory_bytes[0] <= 80e9  # what the card has
    assert {task for model in scenario.workload_models() for task in model.tasks} == set(TASKS)


def test_all_that_ships_is_compared_but_the_scenario_for_debugging_and_large_fleets() -> None:
    assert set(scenario_names()) - set(compared_scenarios()) == {"tiny", "fleet-64", "fleet-256"}


def test_policies_come_apart_on_tiny_and_it_asks_often() -> None:
    some = seeds("validation", 40)
    lru = evaluate("lru", "tiny", some)
    names = ("random", "cace", "cace:tuned-eviction", "agent:eviction", "belady-cost")
    saved = [evaluate(name, "tiny", some).gain_over(lru).percent for name in names]
    assert saved == sorted(saved)
    assert saved[0] < -2 and saved[1] > 1 and saved[3] > 8 and saved[4] > 15
    assert 60 <= lru.column("decisions").mean() <= 100
    assert (lru.column("requests") == 300).all()


def test_pressure_scales_memory_and_leaves_out_what_is_pinned() -> None:
    tables = small(pressure=1.25).tables()
    assert tables.need_bytes.sum() / tables.memory_bytes.sum() == pytest.approx(1.25)
    pinned = {"model": "mellum-4b", "pinned_on": 1}
    tables = small(pressure=1.25, catalogue=["qwen2.5-coder-7b", "qwen2.5-coder-14b-int4", pinned]).tables()
    left = tables.memory_bytes.sum() - tables.need_bytes[2]
    assert tables.need_bytes[:2].sum() / left == pytest.approx(1.25)
    assert slots_per_accelerator(tables).tolist() == [1, 1]  # the pin leaves no room for another


def test_a_pressure_at_which_a_model_fits_nowhere_is_refused_with_both_sizes() -> None:
    sizes = r"'qwen2.5-coder-7b' needs \d+\.\d\d GB.* more than \d+\.\d\d GB"
    with pytest.raises(ConfigError, match=f"at pressure 4.0: model {sizes}"):
        small(pressure=4.0)


def test_memory_of_a_gpu_can_be_overridden() -> None:
    fleet = [{"gpu": "l40s", "memory_gb": 40}, {"gpu": "h100"}]
    tables = small(fleet=fleet).tables()
    assert tables.memory_bytes.tolist() == [40_000_000_000, 80_000_000_000]
    assert (tables.prefill_ns[1] < tables.prefill_ns[0]).all()


def test_a_model_can_be_hosted_twice_under_two_names() -> None:
    twice = ["mellum-4b", {"model": "mellum-4b", "name": "second", "reserve_gb": 3.0, "tasks": ["chat"]}]
    tables = small(catalogue=twice).tables()
    assert tables.model_names == ("mellum-4b", "second")
    assert tables.need_bytes[1] == 11_000_000_000
    with pytest.raises(ConfigError, match="'mellum-4b' more than once"):
        small(catalogue=["mellum-4b", "mellum-4b"])


def test_where_models_start() -> None:
    catalogue = [
        {"model": "qwen2.5-coder-7b", "resident_on": 1},
        {"model": "mellum-4b", "cached": True},
        {"model": "qwen2.5-coder-14b-int4", "asleep_on": 0},
    ]
    tables = small(catalogue=catalogue, engine="sleep-mode", host_ram_gb=20).tables()
    assert tables.resident_on.tolist() == [1, -1, -1]
    assert tables.asleep_on.tolist() == [-1, -1, 0]
    assert tables.host_cached.tolist() == [False, True, True]


def test_a_fleet_can_start_with_what_fits_in_host_ram_and_the_rest_asleep() -> None:
    cached = small(start="cached", host_ram_gb=24).tables()
    assert cached.host_cached.tolist() == [True, False, True]  # 15.2, 9.9 and 8 GB, in this order where they fit
    assert (cached.asleep_on == -1).all()
    asleep = small(start="asleep", host_ram_gb=64, engine="sleep-mode").tables()
    assert asleep.host_cached.all()
    assert asleep.asleep_on.tolist() == [0, 1, 0]
    with pytest.raises(ConfigError, match="nothing sleeps under engine 'safetensors'"):
        small(start="asleep")


def test_rules_reach_the_tables() -> None:
    rules = {"placement": "pack", "drain_after_s": 1.5, "max_slots": 9, "max_decisions": 77}
    tables = small(rules=rules).tables()
    assert (tables.placement, tables.drain_after_us, tables.max_slots, tables.max_decisions) == (
        "pack",
        1_500_000,
        9,
        77,
    )
    assert small().tables().max_decisions == FOREVER


def test_the_balanced_preset_weighs_tasks_as_documented() -> None:
    cost = load_scenario("default").tables().cost
    assert cost.w_ttft.tolist() == [1.0, 0.3, 0.0, 0.0]  # completion, chat, reasoning, agent
    assert cost.w_e2e.tolist() == [0.0, 0.1, 0.1, 0.2]
    assert cost.slo_us.tolist() == [500_000, 2_000_000, FOREVER, FOREVER]
    assert not cost.slo_on_e2e.any()


def test_rewards_can_be_spelt_out() -> None:
    reward = {"agent": {"w_e2e": 2.0, "slo_s": 60, "slo_on": "e2e"}, "w_load": 0.5}
    cost = small(reward=reward).tables().cost
    assert (cost.w_e2e.tolist(), cost.w_load) == ([0.0, 0.0, 0.0, 2.0], 0.5)
    assert cost.slo_on_e2e.tolist() == [False, False, False, True]
    assert set(REWARDS) == {"ttft", "e2e", "balanced"}


def test_the_same_seed_gives_the_same_requests_within_the_kv_cache() -> None:
    scenario = small()
    first, again, other = scenario.workload(7), scenario.workload(7), scenario.workload(8)
    assert np.array_equal(first.arrival_us, again.arrival_us)
    assert not np.array_equal(first.arrival_us, other.arrival_us)
    first.validate(scenario.tables())
    room = scenario.tables().kv_tokens[first.model]
    assert (first.context_tokens + first.output_tokens <= room).all()


def test_seeds_of_training_validation_and_test_are_disjoint_and_fixed() -> None:
    splits = [set(known) for known in SEEDS.values()]
    assert sum(len(split) for split in splits) == len(set().union(*splits))
    assert list(seeds("test")) == list(range(2_000_000, 2_000_100))
    assert list(seeds("validation", 2)) == [1_000_000, 1_000_001]
    assert 0 in SEEDS["train"]  # the seeds that people type are for training
    with pytest.raises(ConfigError, match="101 test seeds"):
        seeds("test", 101)


def test_a_scenario_comes_from_a_name_a_path_a_mapping_or_itself(tmp_path: Path) -> None:
    scenario = load_scenario("default")
    path = tmp_path / "mine.yaml"
    path.write_text(dump(scenario), encoding="utf-8")
    assert load_scenario(path) == load_scenario(str(path)) == scenario
    assert load_scenario(yaml.safe_load(dump(scenario))) == scenario
    assert load_scenario(scenario) is scenario
    assert pickle.loads(pickle.dumps(scenario)) == scenario


def test_a_changed_copy_is_checked_like_a_new_scenario() -> None:
    scenario = small()
    assert scenario.replace(engine="cold-engine").tables().load_us.min() > 45_000_000
    assert scenario.engine == "safetensors"
    with pytest.raises(ConfigError, match="scenario 'small': engine: no such engine, did you mean 'cold-engine'"):
        scenario.replace(engine="cold")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"catalogue": ["qwen2.5-coder-7"]}, "did you mean 'qwen2.5-coder-7b' or 'qwen2.5-coder-7b-int4'"),
        ({"catalogue": [{"model": "mellum-4b", "pined_on": 0}]}, r"catalogue.0.pined_on: unknown key"),
        ({"catalogue": [{"model": "mellum-4b", "pinned_on": 2}]}, "pinned_on is 2; the fleet has accelerators 0 to 1"),
        ({"catalogue": []}, "catalogue: .*at least 1"),
        ({"fleet": [{"gpu": "a100"}]}, r"fleet.0.gpu: no such GPU, did you mean 'a100-40' or 'a100-80'\?; known are"),
        ({"fleet": [{"gpu": "h100", "count": 0}]}, "fleet.0.count: .*greater than or equal to 1"),
        ({"reward": "fast"}, "no such reward preset; known are balanced, e2e, ttft"),
        ({"reward": {}}, "all weights are 0"),
        ({"workload": {"users": 0}}, "workload.users"),
        ({"colour": "blue"}, "colour: unknown key"),
        ({"catalogue": ["qwen2.5-coder-32b"]}, "'qwen2.5-coder-32b' needs 101.36 GB"),
    ],
)
def test_a_bad_scenario_is_refused_with_key_and_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no scenario called 'defualt', did you mean 'default'.*; known are .*default"
    ):
        load_scenario("defualt")
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read"):
        load_scenario("nowhere.yaml")


def test_the_example_of_the_page_of_scenarios_works() -> None:
    page = (DOCS / "scenarios.md").read_text(encoding="utf-8")
    assert "python -m experiments.calibrate_load" in page, "users are the knob of load beside pressure"
    example = page.split("```yaml\n")[1].split("```")[0]
    lru = evaluate("lru", yaml.safe_load(example), seeds("test", 5))
    assert min(lru.column("decisions")) > 0, "an example has to ask the policy something"
