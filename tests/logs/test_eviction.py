"""Claims about whether eviction matters, and the sentence about it."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.scenarios import Scenario, load_scenario
from cace_env.workload import Workload
from experiments.logs import eviction
from experiments.logs.eviction import (
    Engine,
    Headroom,
    causes,
    headroom,
    pressure,
    samples,
    spread,
    under_lru,
    verdict,
    with_engine,
    working_set,
)

BUSY = {
    "decisions_per_request": 0.05,
    "swapping_share": 0.6,
    "work_share": 0.2,
    "waited_min_per_day": 500.0,
    "channel_share": 0.3,
    "compute_share": 0.4,
    "cold_share": 0.2,
    "ttft_mean_s": 2.0,
}
ROOM = Headroom(windows=5, requests=1000, decisions=250, lru=100.0, reference=70.0, rule="gdsf", rule_cost=95.0)


@pytest.fixture(scope="module")
def tiny() -> Scenario:
    return load_scenario("tiny")


def judged(scenario: Scenario, found: Headroom | None = ROOM, **changed: float) -> tuple[str, str]:
    lru = Engine(scenario.engine, 2.0, 1.0, {**BUSY, **changed})
    result = verdict(scenario.tables(), "2 x h100", lru, found, 40)
    return result.worth, result.sentence


def room(saved: float) -> Headroom:
    return Headroom(**{**vars(ROOM), "reference": 100.0 * (1 - saved)})


def test_much_headroom_on_a_busy_fleet_is_worth_it(tiny: Scenario):
    worth, sentence = judged(tiny)
    assert worth == "yes" and "would cut the cost of waiting by 30% against LRU" in sentence


@pytest.mark.parametrize(
    ("found", "changed", "because"),
    [
        (ROOM, {"decisions_per_request": 0.0}, "LRU is never asked which model should leave"),
        (
            ROOM,
            {"decisions_per_request": 0.0004},
            "LRU is asked which model should leave only 0.4 times in 1,000 requests",
        ),
        (ROOM, {"swapping_share": 0.04}, "cause only 4% of the waiting cost"),
        (room(0.04), {}, "even choosing perfectly which model leaves would cut the cost of waiting by 4%"),
        (ROOM, {"waited_min_per_day": 1.0}, "spare all users together 0.3 minutes in 8 hours"),
    ],
)
def test_each_reason_against_is_said_in_plain_words(
    tiny: Scenario, found: Headroom, changed: dict[str, float], because: str
):
    worth, sentence = judged(tiny, found, **changed)
    assert worth == "no" and sentence.startswith("Not worth it: on 2 x h100 ") and because in sentence


def test_what_lies_between_is_perhaps(tiny: Scenario):
    assert judged(tiny, room(0.1))[0] == "perhaps"
    assert judged(tiny, channel_share=0.001)[0] == "perhaps"


def test_on_a_fleet_that_is_far_too_small_more_gpus_come_first(tiny: Scenario):
    worth, sentence = judged(tiny, ttft_mean_s=262.4)
    assert worth == "more GPUs first"
    assert "a first token takes 262 s on average" in sentence and "save 60% of that, perfect eviction 30%" in sentence
    assert "compute 40% of the time" in judged(tiny, ttft_mean_s=262.4, swapping_share=0.1)[1]


def test_what_would_help_more_is_named(tiny: Scenario):
    assert "more or larger GPUs help more" in judged(tiny, room(0.16), swapping_share=0.9)[1]
    assert "accelerators compute 40%" in judged(tiny, room(0.01), swapping_share=0.12)[1]
    assert "the work itself" in judged(tiny, room(0.01), swapping_share=0.12, work_share=0.8)[1]


def test_a_fleet_that_holds_everything_leaves_nothing_to_decide(tiny: Scenario):
    worth, sentence = judged(tiny.replace(pressure=0.5), None)
    assert worth == "no" and "memory holds all models at once" in sentence


def test_lru_is_played_and_its_cost_is_taken_apart(tiny: Scenario):
    workload = tiny.workload(0)
    lru = under_lru(tiny, workload)
    assert lru.numbers["requests"] == len(workload) and lru.problem == ""
    assert 0 < lru.numbers["channel_share"] < 1
    parts = causes(tiny, workload, lru)
    assert 0 < parts["swapping_share"] < 1 and 0 < parts["work_share"] <= 1 - parts["swapping_share"]


def test_the_reference_is_never_worse_than_lru_or_the_best_rule(tiny: Scenario):
    steps: list[None] = []
    found = headroom(tiny, tiny.workload(0), done=lambda: steps.append(None))
    assert found.reference <= found.rule_cost <= found.lru
    assert len(steps) == found.windows


def test_pressure_and_working_set_by_hand(tiny: Scenario):
    tables = tiny.tables()
    assert pressure(tables) == pytest.approx(tables.need_bytes.sum() / tables.memory_bytes.sum())
    ones = np.ones(3, int)
    # hour 0 asks for models 0 and 1, hour 1 for model 0
    workload = Workload.from_columns(
        arrival_us=[0, 1, 3_600_000_001], model=[0, 1, 0], context_tokens=ones, output_tokens=ones
    )
    needs = (tables.need_bytes[0] + tables.need_bytes[1], tables.need_bytes[0])
    assert working_set(tables, workload) == pytest.approx(np.median(needs) / tables.memory_bytes.sum())


def test_a_long_workload_is_sampled_in_stretches_spread_over_it(monkeypatch: pytest.MonkeyPatch):
    ones = np.ones(1000, int)
    workload = Workload.from_columns(
        arrival_us=np.arange(1000), model=ones * 0, context_tokens=ones, output_tokens=ones
    )
    assert samples(workload) == [workload]
    windows = spread(workload, 4, 50)
    assert [len(window) for window in windows] == [50] * 4
    assert [window.meta["window"] for window in windows] == [2, 7, 12, 17]
    monkeypatch.setattr(eviction, "MOST_PLAYED", 400)
    assert [len(one) for one in samples(workload)] == [100] * 4
    assert sum(len(window) for window in spread(workload, 5, 4000)) == 1000


def test_engines_that_put_models_to_sleep_start_asleep(tiny: Scenario):
    asleep = with_engine(tiny.replace(host_ram_gb=500, pressure=1.2), "sleep-mode")
    assert asleep.start == "asleep"
    assert with_engine(asleep, "safetensors").start == "empty"
