"""Claims about what guards watch: forecasts, long answers, models that wait for too long; and real logs under guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.config import parse
from cace_env.evaluation import evaluate, load_suite
from cace_env.observation import PENDING
from cace_env.policies import Guarded
from cace_env.policies.guard import REASONS, ForecastError, ForecastWatch
from cace_env.scenarios import load_scenario
from cace_env.traces import TraceConfig, load_config
from cace_env.workload import COLUMNS, Workload
from tests.support.logs import shared_file
from tests.support.small import SHORT, lru_in_python

NEVER = dict.fromkeys(REASONS, 0)


@pytest.fixture(scope="module")
def small() -> Case:
    return case_of(SHORT)


@pytest.fixture(scope="module")
def small_swap() -> Case:
    return case_of(SHORT, "swap")


def steady(rate: float, seed: int, windows: int = 60, jump_at: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Poisson arrivals of four models in windows of two minutes and their forecast; it may lag behind a jump."""
    draws = np.random.default_rng(seed)
    expected = rate * np.array([4.0, 2.0, 1.0, 0.5])
    for window in range(windows):
        true = expected if jump_at is None or window < jump_at else expected[::-1] * 4
        yield draws.poisson(true).astype(float), expected


@pytest.mark.parametrize("rate", [0.5, 10.0])
def test_a_calm_forecast_is_hardly_ever_called_anomalous_whatever_the_rate(rate: float):
    flags = []
    for seed in range(50):
        error = ForecastError(ForecastWatch())
        for arrived, expected in steady(rate, seed):
            error.add(arrived, expected)
            flags.append(error.anomalous)
    assert np.mean(flags) < 0.005, "of 3,000 windows"


def test_a_forecast_that_fails_is_noticed_and_forgiven_when_it_is_right_again():
    for seed in range(20):
        error = ForecastError(ForecastWatch(high=4.0, low=2.0))
        flags = []
        for arrived, expected in [*steady(10.0, seed, jump_at=40), *steady(10.0, seed + 100)]:
            error.add(arrived, expected)
            flags.append(error.anomalous)
        assert not any(flags[:40])
        assert all(flags[42:60]), "no flapping"
        assert not any(flags[66:]), "the history is of calm windows only, so that the threshold stays where it was"


def test_a_sudden_change_of_demand_trips_the_guard_and_calm_demand_does_not(small: Case):
    calm = replace(small, workload=lambda seed: poisson(small, seed, changes=False))
    drifting = replace(small, workload=lambda seed: poisson(small, seed, changes=True))
    seeds = [1, 2, 3, 4, 5]
    for case, trips in ((calm, 0), (drifting, len(seeds))):
        guarded = Guarded("cace")
        result = evaluate(guarded, case, seeds)
        assert result.column("decisions").min() > 200
        assert guarded.trips == NEVER | {"forecast": trips}, "once in each episode"
        assert sum(result.column("fallback_forecast")) == guarded.counts["forecast"] < guarded.decisions / 4
    assert "standard deviations" in guarded.last["forecast"]


def poisson(case: Case, seed: int, *, changes: bool) -> Any:
    """Three hours of independent short requests; in the last hour the least wanted models may become the most."""
    draws = np.random.default_rng(seed)
    shares = np.array([0.4, 0.3, 0.2, 0.06, 0.03, 0.01])
    at = np.sort(draws.uniform(0, 3 * 3600, 3000))
    model = draws.choice(6, 3000, p=shares)
    if changes:
        late = at > 2 * 3600
        model[late] = 5 - model[late]
    return type(case.workload(seed)).from_columns(
        arrival_us=(at * 1e6).astype(np.int64),
        model=model,
        context_tokens=np.full(3000, 200),
        output_tokens=np.full(3000, 20),
    )


def changed(case: Case, **columns: Callable[[Workload], Any]) -> Case:
    """The same case with other columns of its requests."""

    def workload(seed: int) -> Workload:
        plain = case.workload(seed)
        return replace(plain, **{name: column(plain).astype(COLUMNS[name]) for name, column in columns.items()})

    return replace(case, workload=workload)


def answering(case: Case, tokens: int) -> Case:
    """The same case with answers of so many tokens each."""
    return changed(case, output_tokens=lambda w: np.full(len(w), tokens))


@pytest.mark.parametrize("policy", ["cace", "fifo+cace"])
def test_where_answers_take_longer_than_loads_lru_decides(policy: str, small: Case, small_swap: Case):
    case = small_swap if "+" in policy else small
    for tokens, least, most in ((2_000, 0.75, 1.0), (20, 0.0, 0.0)):
        guarded = Guarded(policy, patient_loads=None)
        talkative = answering(case, tokens)
        row = evaluate(guarded, talkative, [1]).rows[0]
        assert least <= row["fallback_compute"] / row["decisions"] <= most
        assert guarded.counts == NEVER | {"compute": row["fallback_compute"]}
    trusting = Guarded(policy, long_answer_s=None, patient_loads=None)
    talkative = answering(case, 2_000)
    assert evaluate(trusting, talkative, [1]).column("cost") == evaluate(policy, talkative, [1]).column("cost")


def test_one_long_answer_in_ten_does_not_make_computing_the_bottleneck(small: Case):
    guarded = Guarded("cace")
    some = changed(small, output_tokens=lambda w: np.where(np.arange(len(w)) % 10 == 0, 2_000, 20))
    evaluate(guarded, some, [1])
    assert guarded.decisions > 30 and guarded.counts["compute"] == 0


class Unfair:
    """Loads whatever was asked for last, and so lets a model wait for as long as others are asked for."""

    def __call__(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        return lru_in_python(features, legal)

    def order(self, features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        del legal
        return np.append(-features[:, PENDING.oldest_wait_s], -1e9)


def test_a_model_that_waits_too_long_is_loaded_and_then_the_policy_goes_on(small_swap: Case):
    hurried = changed(small_swap, arrival_us=lambda w: w.arrival_us // 30)
    seeds = [1, 2, 3]
    alone, guarded = evaluate(Unfair(), hurried, seeds), Guarded(Unfair(), long_answer_s=None)
    watched = evaluate(guarded, hurried, seeds)
    assert guarded.counts == NEVER | {"starved": guarded.counts["starved"]}
    assert 0 < guarded.counts["starved"] < 0.2 * guarded.decisions, "the policy goes on at once"
    assert watched.column("longest_wait_s").max() < 0.7 * alone.column("longest_wait_s").max()
    assert "a model could be loaded and has waited for" in guarded.last["starved"]
    careless = Guarded(Unfair(), long_answer_s=None, patient_loads=None)
    assert evaluate(careless, hurried, seeds).column("cost").tolist() == alone.column("cost").tolist()


def test_a_policy_that_loads_the_oldest_request_first_lets_nobody_starve(small_swap: Case):
    guarded = Guarded("patient-fifo+lru")
    evaluate(guarded, small_swap, [1, 2])
    assert guarded.counts == NEVER


LOGS = {
    "azure2023_code_first60": {"format": "azure", "users": 60, "tasks": "completion", "time_compression": 0.1},
    "alibaba_gentd26_requests_before_1202": {"format": "gentd26", "attach": "client-as-model", "time_compression": 30},
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_on_real_logs_an_agent_keeps_most_of_its_gain_and_nobody_waits_much_longer(name: str, protocol: str):
    log = parse(TraceConfig, {"path": str(shared_file(f"{name}.csv.gz")), "limit": 3000, **LOGS[name]}, "log")
    scenario = load_scenario("default")
    case = replace(case_of(scenario, protocol), workload=lambda _: load_config(log, scenario.workload_models(), 0))
    agent, lru = f"agent:{protocol}", {"eviction": "lru", "swap": "patient-fifo+lru"}[protocol]
    rows = {policy: evaluate(policy, case, [0]).rows[0] for policy in (lru, agent, f"guarded:{agent}")}
    cost, alone, watched = (row["cost"] for row in rows.values())
    assert cost - watched > 0.8 * (cost - alone) > 0.05 * cost
    assert rows[f"guarded:{agent}"]["longest_wait_s"] < 2 * rows[lru]["longest_wait_s"]


def test_on_a_fleet_of_three_times_the_models_that_it_was_trained_on_the_agent_decides():
    (entry,) = [entry for entry in load_suite("shifted-v1").entries if entry.id == "eviction-fleet-six"]
    case = case_of(entry.load())
    guarded, seeds = Guarded("agent:eviction"), range(1000, 1006)
    assert case.tables.num_models == 48
    cost = evaluate(guarded, case, seeds).column("cost").sum()
    assert sum(guarded.counts.values()) < 0.1 * guarded.decisions
    lru, alone = (evaluate(name, case, seeds).column("cost").sum() for name in ("lru", "agent:eviction"))
    assert lru - cost > 0.8 * (lru - alone) > 0.05 * lru
