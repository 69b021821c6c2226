"""Claims about generated traffic that looks like a log."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.generator import WorkloadConfig, generate
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import NONE
from cace_env.workload import Workload
from experiments.logs.characteristics import characteristics, day
from experiments.logs.lookalike import (
    EPISODE_REQUESTS,
    compared,
    fitted,
    is_off,
    lookalike,
    popularity_law_of,
    runs_of,
    uneven,
)

KNOWN = {
    "requests": 12_000,
    "users": 30,
    "requests_per_user_hour": 10.0,
    "shares": {"completion": 0.6, "chat": 0.4, "reasoning": 0.0, "agent": 0.0},
    "routing": {"popularity_exponent": 1.2, "popularity_cutoff": 8.0, "new_models": 0},
    "bursts": {"spread": 1.6},
}


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    content = load_scenario("default").model_dump(mode="json")
    return load_scenario({**content, "workload": KNOWN})


@pytest.fixture(scope="module")
def log(scenario: Scenario) -> Workload:
    return scenario.workload(0)


@pytest.fixture(scope="module")
def found(scenario: Scenario, log: Workload) -> WorkloadConfig:
    return fitted(log, scenario.workload_models(), day(log.arrival_us, None, "UTC"))


def test_what_was_generated_is_found_again(log: Workload, found: WorkloadConfig):
    assert found.users == 30
    assert found.requests_per_user_hour == pytest.approx(len(log) / 30 / (log.arrival_us[-1] / 3.6e9), rel=0.15)
    assert found.shares.completion == pytest.approx(0.6, abs=0.05)
    known = WorkloadConfig.model_validate(KNOWN)
    for task in ("completion", "chat"):
        ours, theirs = getattr(found, task), getattr(known, task)
        assert ours.output_tokens.p50 == pytest.approx(theirs.output_tokens.p50, rel=0.1)
        assert ours.prompt_tokens.p90 == pytest.approx(theirs.prompt_tokens.p90, rel=0.15)
        assert ours.gap_s.p50 == pytest.approx(theirs.gap_s.p50, rel=0.15)
    assert found.bursts.spread > 0.0
    assert found.routing.stickiness == pytest.approx(known.routing.stickiness, abs=0.25)


def test_the_look_alike_looks_alike(scenario: Scenario, log: Workload, found: WorkloadConfig):
    made = generate(found, scenario.workload_models(), seed=1)
    names = [model.name for model in scenario.workload_models()]
    rows = {row["what"]: row for row in compared(characteristics(log, names), characteristics(made, names))}
    assert abs(rows["requests per second"]["off"]) < 0.3
    assert abs(rows["share of the top 3"]["off"]) < 0.25
    assert abs(rows["chat: output tokens p50"]["off"]) < 0.1
    assert abs(rows["a user repeats his model"]["off"]) < 0.25


def test_only_what_differs_noticeably_is_pointed_out():
    rows = [
        {"what": "drift between halves", "log": 0.004, "made": 0.013, "off": 2.25},
        {"what": "LRU: decisions per request", "log": 0.004, "made": 0.013, "off": 2.25},
        {"what": "share of the top 3", "log": 0.4, "made": 0.6, "off": 0.5},
        {"what": "share of the top 10", "log": 0.8, "made": 0.9, "off": 0.125},
        {"what": "a user repeats his model", "log": None, "made": 0.9, "off": None},
    ]
    assert [is_off(row) for row in rows] == [False, True, True, False, False]


def test_the_scenario_generates_and_has_no_log(scenario: Scenario, found: WorkloadConfig):
    imitation = lookalike(scenario, found)
    assert imitation.trace is None and imitation.name == "default-lookalike"
    assert imitation.workload_config.requests == min(found.requests, EPISODE_REQUESTS)
    assert imitation.entries == scenario.entries
    assert len(imitation.replace(workload={**KNOWN, "requests": 50}).workload(0)) == 50


def test_runs_end_at_long_pauses_and_at_another_model_but_for_agents():
    columns = {"context_tokens": [9] * 6, "output_tokens": [1] * 6, "user": [0] * 6, "session": [0] * 6}
    times = [second * 1_000_000 for second in (0, 10, 20, 30, 4000, 4010)]
    model = [0, 0, 1, 1, 1, 1]
    chat = runs_of(Workload.from_columns(arrival_us=times, model=model, task=[1] * 6, **columns))
    assert chat.first.tolist() == [True, False, True, False, True, False]
    assert chat.gap_s.tolist() == [0.0, 10.0, 0.0, 10.0, 0.0, 10.0]
    assert chat.before.tolist() == [NONE, 0, 1, 2, 3, 4]
    agent = runs_of(Workload.from_columns(arrival_us=times, model=model, task=[3] * 6, **columns))
    assert agent.first.tolist() == [True, False, False, False, True, False]


@pytest.mark.parametrize(("exponent", "cutoff"), [(0.0, 5.0), (0.87, 12.0), (1.5, 3000.0)])
def test_the_law_of_popularity_is_found_again(exponent: float, cutoff: float):
    ranks = np.arange(1, 41)
    law = ranks**-exponent * np.exp(-ranks / cutoff)
    again = ranks ** -popularity_law_of(law)[0] * np.exp(-ranks / popularity_law_of(law)[1])
    assert np.abs(again / again.sum() - law / law.sum()).sum() < 0.05


def test_a_log_without_users_gets_as_many_as_its_rate_takes(scenario: Scenario):
    rows = 2000
    workload = Workload.from_columns(
        arrival_us=np.arange(rows) * 1_800_000, model=[0] * rows, context_tokens=[9] * rows, output_tokens=[1] * rows
    )
    found = fitted(workload, scenario.workload_models(), day(workload.arrival_us, None, "UTC"))
    assert found.users == 51  # 2,000 requests in 59.97 minutes, 40 per user and hour
    assert found.bursts.spread == 0.0 and found.day.peak_to_mean == 1.0


def test_unevenness_is_known_only_for_bins_of_which_there_are_enough():
    assert set(uneven(np.arange(0, 1_000_000_000, 500_000))) == {10, 60}
    assert uneven(np.arange(0, 1_000_000_000, 500_000))[10] == 0.0
