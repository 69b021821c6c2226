"""Claims about the lower bound: no request is faster, and a request alone is exactly as fast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env.simulation import Question, lower_bound, simulate
from cace_env.simulation.bounds import TOLERANCE_US
from cace_env.tables import FOREVER, NONE, FleetTables
from cace_env.workload import Workload, WorkloadError
from tests.specification import strategies
from tests.specification.examples import MS, fleet, requests, slo
from tests.specification.invariants import alone_us

ROUNDING = 1e-9  # of float sums


def check(tables: FleetTables, workload: Workload, seed: int) -> None:
    """An episode with random answers is no faster and no cheaper than the bound."""
    rng = np.random.default_rng(seed)

    def anything(question: Question) -> int:
        return int(rng.choice(np.flatnonzero(question.legal)))

    episode = simulate(tables.replace(max_decisions=FOREVER), workload, anything)
    least = lower_bound(tables, workload)
    served = episode.finish_us != NONE
    assert (episode.first_token_us - episode.arrival_us >= least.ttft_us)[served].all()
    assert (episode.finish_us - episode.arrival_us >= least.e2e_us)[served].all()
    assert episode.cost >= least.cost * (1 - ROUNDING)
    assert (least.ttft_us[episode.refused] == 0).all()


@settings(max_examples=150)
@given(strategies.cases(), st.integers(0, 1000))
def test_no_answers_are_cheaper_in_eviction_v0(case: tuple[FleetTables, Workload, object], seed: int) -> None:
    check(case[0], case[1], seed)


@settings(max_examples=150)
@given(strategies.swap_cases(), st.integers(0, 1000))
def test_no_answers_are_cheaper_in_swap_v0(case: tuple[FleetTables, Workload, object], seed: int) -> None:
    check(case[0], case[1], seed)


@settings(max_examples=50)
@given(strategies.cases())
def test_latencies_are_those_of_the_rules(case: tuple[FleetTables, Workload, object]) -> None:
    tables, workload, _ = case
    least = lower_bound(tables, workload)
    for r in range(len(workload)):
        if workload.context_tokens[r] + workload.output_tokens[r] <= tables.kv_tokens[workload.model[r]]:
            for bound_us, us in zip((least.ttft_us[r], least.e2e_us[r]), alone_us(tables, workload, r), strict=True):
                if us <= 1 << 20:  # so is each of its rounds
                    assert bound_us == max(0, us - TOLERANCE_US)
                else:
                    assert TOLERANCE_US <= us - bound_us <= TOLERANCE_US * (-(-us >> 20))


def test_who_is_alone_reaches_it() -> None:
    """A prompt of 2 ms, then ten rounds of 1 ms; the slower accelerator does not count."""
    tables = fleet(memory=(10, 10), resident_on=(0, 1), round_ns=np.array([[1_000_000] * 2, [5_000_000] * 2]))
    workload = requests({"context_tokens": 100, "output_tokens": 11})
    episode = simulate(tables, workload, lambda question: 0)
    least = lower_bound(tables, workload)
    assert episode.first_token_us[0] == 2 * MS == least.ttft_us[0] + TOLERANCE_US
    assert episode.finish_us[0] == 12 * MS == least.e2e_us[0] + TOLERANCE_US
    assert least.cost == pytest.approx((2 * MS + 12 * MS - 2 * TOLERANCE_US) * 1e-6)


def test_a_cached_prefix_is_not_computed_again() -> None:
    whole, rest = (lower_bound(fleet(), requests({"context_tokens": 100, "new_tokens": new})) for new in (100, 10))
    assert whole.ttft_us[0] - rest.ttft_us[0] == 90 * 10


def test_what_no_policy_avoids_is_charged() -> None:
    """A request that no KV cache holds is refused; one whose service alone takes longer than its SLO misses it."""
    workload = requests({"context_tokens": 1000}, {"context_tokens": 100})
    costs = {}
    for limit_us, w_slo, w_refused in ((FOREVER, 0.0, 0.0), (FOREVER, 0.0, 7.0), (MS, 3.0, 0.0), (3 * MS, 3.0, 0.0)):
        prices = slo(limit_us)
        prices = type(prices)(
            prices.w_ttft, prices.w_e2e, prices.slo_us, prices.slo_on_e2e, w_slo=w_slo, w_refused=w_refused
        )
        costs[limit_us, w_slo, w_refused] = lower_bound(fleet(cost=prices), workload).cost
    plain = costs[FOREVER, 0.0, 0.0]
    assert costs[FOREVER, 0.0, 7.0] == pytest.approx(plain + 7.0)
    assert costs[MS, 3.0, 0.0] == pytest.approx(plain + 3.0)
    assert costs[3 * MS, 3.0, 0.0] == pytest.approx(plain)


def test_a_workload_of_another_fleet_is_refused() -> None:
    with pytest.raises(WorkloadError):
        lower_bound(fleet(), requests({"model": 5}))
