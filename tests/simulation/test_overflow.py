"""Times that the clock or a sum cannot hold are refused, with their place, value and limit."""

from __future__ import annotations

from typing import Any

import pytest

from cace_env.simulation import Limits, SimulationError, Simulator, simulate
from cace_env.tables import FOREVER, MAX_DURATION_US
from cace_env.workload import WorkloadError
from tests.specification.examples import fleet, requests

FOLLOWING = {"after": 0, "session": 0}


@pytest.mark.parametrize(
    ("column", "row"),
    [
        ("arrival_us", {"arrival_us": FOREVER}),
        ("arrival_us", {"arrival_us": MAX_DURATION_US + 1}),
        ("think_us", {**FOLLOWING, "think_us": 2**63 - 1}),
    ],
)
def test_a_time_beyond_the_clock_is_refused(column: str, row: dict[str, Any]):
    with pytest.raises(WorkloadError, match=rf"column '{column}', row 1: {row[column]} is not 0 to {MAX_DURATION_US}"):
        requests({}, row)


def test_times_that_add_up_beyond_the_clock_are_refused():
    pauses = [{"after": row, "session": 0, "think_us": MAX_DURATION_US} for row in range(600)]
    workload = requests({}, *pauses)
    with pytest.raises(WorkloadError, match=r"601 requests could take .* us and .* rounds on this fleet"):
        simulate(fleet(), workload, lambda question: int(question.legal.argmax()))


def test_loads_that_add_up_beyond_the_clock_are_refused():
    with pytest.raises(WorkloadError, match=r"of load_us and unload_us 6.8e\+17"):
        simulate(fleet(load_us=MAX_DURATION_US), requests(*[{}] * 600), lambda question: int(question.legal.argmax()))


@pytest.mark.parametrize("keep_alive_us", [-1, FOREVER + 1, 2**63 - 1])
def test_a_keep_alive_beyond_the_clock_is_refused(keep_alive_us: int):
    tables = fleet()
    with pytest.raises(
        SimulationError, match=rf"keep_alive_us is .*{keep_alive_us}.*; give one time of 0 to {FOREVER}"
    ):
        Simulator(tables, Limits(keep_alive_us=[keep_alive_us] * tables.num_models))


def test_the_longest_times_that_are_allowed_are_simulated():
    tables = fleet(load_us=MAX_DURATION_US // 2)
    workload = requests({"arrival_us": MAX_DURATION_US}, {**FOLLOWING, "model": 1, "think_us": MAX_DURATION_US})
    episode = simulate(tables, workload, lambda question: int(question.legal.argmax()))
    assert episode.end_us >= 3 * MAX_DURATION_US
    assert episode.cost > 0


def test_a_sum_of_waiting_that_would_turn_negative_is_an_error():
    rounds = {"max_num_seqs": 1, "kv_tokens": 1 << 18, "round_ns": 1 << 41, "decode_ns": 0, "prefill_ns": 0}
    tables = fleet(need=(6,), **rounds, kv_ps=0, attention_ps=0)
    simulator = Simulator(tables)
    with pytest.raises(SimulationError, match=r"8192 requests were in the system for"):
        simulator.reset(requests(*[{"output_tokens": 240}] * 8192))
        simulator.totals()
