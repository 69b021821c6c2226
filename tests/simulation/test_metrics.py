"""What the numbers of an episode claim, on hand-worked runs."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.policies import POLICIES
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import METRICS, Episode, Question, Simulator, episode_metrics, ttft_histogram
from cace_env.simulation.metrics import TASK_METRICS, TTFT_EDGES_S, WORKING_DAY_S
from cace_env.tables import FOREVER, TASKS, FleetTables
from cace_env.workload import Workload
from tests.specification.examples import MS, fleet, requests, slo
from tests.support.small import EVERYDAY

COMPLETION, CHAT, REASONING, AGENT = range(4)


def oldest(question: Question) -> int:
    """The least recently used legal slot."""
    slots = np.flatnonzero(question.legal)
    return int(min(slots, key=lambda slot: (question.last_use_us[question.slot_models[slot]], slot)))


def two_models_in_turn(count: int = 6, gap_us: int = 300 * MS) -> tuple[FleetTables, Workload]:
    """Two models that do not fit together, asked for in turn: every request is a load of 100 ms and a round of 2 ms."""
    rows = [{"arrival_us": i * gap_us, "model": i % 2, "task": COMPLETION if i % 2 else CHAT} for i in range(count)]
    return fleet(), requests(*rows)


def run(tables: FleetTables, workload: Workload) -> tuple[Episode, dict[str, float]]:
    simulator = Simulator(tables)
    asked = simulator.reset(workload)
    while asked:
        asked = simulator.answer(oldest(simulator.question))
    return simulator.episode(), episode_metrics(simulator.summary(), tables)


def request_by_request(episode: Episode, tables: FleetTables) -> dict[str, float]:
    """All metrics that requests tell, from the arrays of the episode."""
    values = {}
    arrived = episode.arrival_us <= episode.end_us
    ttft_us, e2e_us = episode.first_token_us - episode.arrival_us, episode.finish_us - episode.arrival_us
    limit_us = tables.cost.slo_us[episode.task]
    met = np.where(tables.cost.slo_on_e2e[episode.task], e2e_us, ttft_us) <= limit_us
    for prefix, mine in [("", arrived)] + [(f"{name}_", arrived & (episode.task == t)) for t, name in enumerate(TASKS)]:
        answered = mine & (episode.finish_us >= 0)
        limited = answered & (limit_us < FOREVER)
        for name, latency_us in (("ttft", ttft_us[answered]), ("e2e", e2e_us[answered])):
            some = len(latency_us) > 0
            values[f"{prefix}{name}_mean_s"] = latency_us.mean() / 1e6 if some else np.nan
            for percent in (50, 95, 99):
                values[f"{prefix}{name}_p{percent}_s"] = (
                    np.quantile(latency_us, percent / 100) / 1e6 if some else np.nan
                )
        values[f"{prefix}longest_wait_s"] = ttft_us[answered].max() / 1e6 if answered.any() else np.nan
        values[f"{prefix}slo_met"] = met[limited].mean() if limited.any() else np.nan
        values[f"{prefix}requests"] = mine.sum()
        values[f"{prefix}answered"] = answered.sum()
        values[f"{prefix}refused"] = (mine & episode.refused).sum()
    return values


def test_every_metric_is_described_and_none_is_missing():
    _, values = run(*two_models_in_turn())
    assert list(values) == list(METRICS)
    assert all(isinstance(value, float) for value in values.values())
    assert all(metric.unit and metric.meaning for metric in METRICS.values())
    for name, metric in METRICS.items():
        assert metric.unit != "s" or name.endswith("_s"), f"{name} is in seconds and does not say so"


@pytest.mark.nojit
def test_latencies_loads_and_sizes_of_two_models_in_turn():
    tables, workload = two_models_in_turn()
    episode, values = run(tables, workload)
    # 100 prompt tokens: one round of 1 ms + 100 x 10 us of work; one output token, so the first is the last
    assert values["ttft_mean_s"] == pytest.approx(0.102)
    assert values["e2e_p99_s"] == pytest.approx(0.102)
    assert values["longest_wait_s"] == pytest.approx(0.102)
    assert values["loads"] == 6
    assert values["evictions"] == 5
    assert values["load_s"] == pytest.approx(0.6)
    assert values["loaded_gb"] == pytest.approx(36e-9)
    assert values["cold_share"] == 1.0
    assert values["regret_loads"] == 4  # all but each model's first
    assert values["simulated_s"] == pytest.approx(5 * 0.3 + 0.102)
    assert values["channel_share"] == pytest.approx(0.6 / values["simulated_s"])
    assert values["compute_share"] == pytest.approx(6 * 0.002 / values["simulated_s"])
    assert values["memory_share"] == pytest.approx(0.6, rel=1e-6)  # one of 6 bytes at a time, in 10
    assert values["waited_min_per_day"] == pytest.approx(6 * 0.102 / values["simulated_s"] * WORKING_DAY_S / 60)
    assert values["cost"] == episode.cost == pytest.approx(6 * 2 * 0.102)
    assert values["cost_per_request"] == pytest.approx(2 * 0.102)


@pytest.mark.nojit
def test_tasks_are_counted_apart_and_an_absent_task_is_nan():
    _, values = run(*two_models_in_turn(5))
    assert (values["chat_requests"], values["completion_requests"], values["agent_requests"]) == (3, 2, 0)
    assert values["completion_ttft_p95_s"] == pytest.approx(0.102)
    for name in ("ttft_mean_s", "ttft_p50_s", "e2e_p99_s", "longest_wait_s", "slo_met"):
        assert np.isnan(values[f"agent_{name}"])
    assert values["agent_waiting_s"] == 0.0


@pytest.mark.nojit
def test_totals_are_the_sums_over_tasks():
    _, values = run(*two_models_in_turn(7))
    for name in ("requests", "answered", "refused", "slo_missed", "waiting_s", "system_s"):
        assert values[name] == pytest.approx(sum(values[f"{task}_{name}"] for task in TASKS))


@pytest.mark.nojit
def test_slo_is_judged_on_the_latency_that_the_task_names():
    rows = [{"arrival_us": 0, "task": CHAT, "output_tokens": 50}]
    for on_e2e, met in ((False, 1.0), (True, 0.0)):
        _, values = run(fleet(cost=slo(110 * MS, on_e2e)), requests(*rows))
        assert values["slo_met"] == values["chat_slo_met"] == met
        assert values["slo_missed"] == 1 - met
    _, values = run(fleet(cost=slo(FOREVER)), requests(*rows))
    assert np.isnan(values["slo_met"])


@pytest.mark.nojit
def test_refused_requests_are_counted_and_have_no_latency():
    rows = [{"context_tokens": 100}, {"context_tokens": 2000, "arrival_us": 10 * MS}]
    _, values = run(fleet(), requests(*rows))
    assert (values["requests"], values["answered"], values["refused"]) == (2, 1, 1)
    assert values["ttft_mean_s"] == pytest.approx(0.102)
    assert values["cold_share"] == 1.0


@pytest.mark.nojit
def test_histogram_counts_every_answered_request_once():
    tables, workload = two_models_in_turn(7)
    episode, values = run(tables, workload)
    counts = ttft_histogram(episode)
    assert counts.shape == (len(TASKS), len(TTFT_EDGES_S) - 1)
    assert counts.sum(axis=1).tolist() == [values[f"{task}_answered"] for task in TASKS]
    (bins,) = np.nonzero(counts[CHAT])
    assert len(bins) == 1 and TTFT_EDGES_S[bins[0]] <= 0.102 < TTFT_EDGES_S[bins[0] + 1]


@pytest.mark.nojit
def test_latencies_outside_the_histogram_count_at_its_ends():
    _, workload = two_models_in_turn(2)
    episode, _ = run(fleet(resident_on=(0, -1), round_ns=1000, prefill_ns=0), workload)
    counts = ttft_histogram(episode)
    assert counts[CHAT, 0] == 1 and counts.sum() == 2


@pytest.mark.nojit
def test_a_truncated_episode_says_so_and_counts_what_was_answered():
    tables = fleet(need=(3, 3, 3, 3), max_decisions=1)
    workload = requests(*({"arrival_us": i * 300 * MS, "model": i % 4} for i in range(9)))
    _, values = run(tables, workload)
    assert values["truncated"] == 1.0
    assert values["answered"] < values["requests"] <= 9
    assert np.isfinite(values["ttft_mean_s"])


@pytest.mark.parametrize("max_decisions", [FOREVER, 3])
@pytest.mark.parametrize("name", EVERYDAY)
def test_metrics_are_those_of_the_requests_one_by_one(name: str, max_decisions: int) -> None:
    scenario = load_scenario(name)
    tables = scenario.tables()
    tables = tables.replace(max_decisions=max_decisions, kv_tokens=tables.kv_tokens // 20)  # refuses the longest ones
    workload = scenario.workload(3)
    simulator = Simulator(tables)
    simulator.run(workload, rule_of(POLICIES["lru"], tables, workload=workload))
    episode, values = simulator.episode(), episode_metrics(simulator.summary(), tables)
    expected = request_by_request(episode, tables)
    assert expected["answered"] > 0 and expected["refused"] > 0
    assert values["truncated"] == (max_decisions == 3)
    assert {metric: values[metric] for metric in expected} == pytest.approx(expected, rel=1e-12, nan_ok=True)
    for index, task in enumerate(TASKS):
        assert values[f"{task}_waiting_s"] == episode.waiting_us[index] / 1e6
        assert values[f"{task}_system_s"] == episode.system_us[index] / 1e6
        assert values[f"{task}_slo_missed"] == episode.slo_missed[index]


def test_task_metrics_exist_for_every_task():
    assert all(f"{task}_{name}" in METRICS for task in TASKS for name in TASK_METRICS)
