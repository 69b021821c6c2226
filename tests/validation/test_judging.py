"""Claims about errors, orders, drift and jitter."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.live.calibration import Sample
from cace_env.scenarios import load_scenario
from cace_env.tables import FleetTables
from cace_env.workload import Workload
from experiments.validation.evaluating import straight
from experiments.validation.judging import FIGURES, Row, drift_between, moved, orders_of, prefixes_kept, rows_of
from experiments.validation.page import cdf
from experiments.validation.records import Asked, Move, Run
from experiments.validation.simulating import LEAST, Jitter, jitter_of, jittered
from experiments.validation.workloads import make

COST = FIGURES.index("cost")


def test_prefixes_are_known_since_the_last_load_alone():
    workload = Workload.from_columns(
        model=[0] * 4, session=[0, 0, 1, 0], context_tokens=[10, 30, 10, 50], new_tokens=[10, 20, 10, 20],
        output_tokens=[2] * 4,
    )  # fmt: skip
    loads = [Move("load", 0, 0.0, 1.0), Move("load", 0, 3.5, 4.0)]

    def run(*cached: int) -> Run:
        asked = [Asked(at, at, at + 0.1, at + 0.2, had, 2, []) for at, had in zip((1, 2, 3, 5), cached, strict=True)]
        return Run("w", "lru", 1, asked, loads)

    assert prefixes_kept(run(0, 10, 1, 0), workload) == 1.0
    assert prefixes_kept(run(0, 0, 0, 30), workload) == 0.5


def of_cost(cost: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([1.0] * COST + [cost])


@pytest.fixture(scope="module")
def tables() -> FleetTables:
    return load_scenario("tiny").tables()


def test_errors_are_simulated_over_real_and_limits_go_by_the_figure():
    row = Row("w", "lru", "TTFT mean", 2.0, 1.9, 2.1, 2.2, 2.0, 2.4)
    assert row.error_percent == pytest.approx(10.0)
    assert row.spread_percent == pytest.approx(10.0)
    assert row.holds
    assert not row._replace(simulated=2.4).holds
    assert row._replace(simulated=2.4, figure="E2E p95").holds
    assert row._replace(figure="loads").holds is None


def test_rows_have_the_mean_of_the_repeats_and_the_band_of_the_simulations():
    real = [np.full(len(FIGURES), 1.0), np.full(len(FIGURES), 3.0)]
    jitter = [np.full(len(FIGURES), float(value)) for value in range(101)]
    rows = rows_of("w", "lru", real, np.full(len(FIGURES), 2.5), jitter)
    assert [row.figure for row in rows] == list(FIGURES)
    assert rows[0][3:] == (2.0, 1.0, 3.0, 2.5, 5.0, 95.0)


def test_an_order_is_as_sure_as_simulations_and_pairs_of_repeats_agree():
    real = {"a": [of_cost(10), of_cost(14)], "b": [of_cost(12), of_cost(16)]}
    (order,) = orders_of(
        "w", real, {"a": of_cost(10), "b": of_cost(13)}, {"a": [of_cost(1)] * 4, "b": [of_cost(2)] * 3 + [of_cost(1)]}
    )
    assert (order.better, order.worse) == ("a", "b")
    assert order.simulated_percent == pytest.approx(30.0)
    assert order.real_share == 0.75  # 14 is more than 12
    assert order.simulated_share == 0.875  # equal ones count half
    assert order.holds


def test_an_order_that_is_the_other_way_round_does_not_hold_and_a_close_one_says_nothing():
    real = {"a": [of_cost(15)], "b": [of_cost(12)]}
    far = orders_of("w", real, {"a": of_cost(10), "b": of_cost(13)}, {"a": [of_cost(1)], "b": [of_cost(2)]})
    close = orders_of("w", real, {"a": of_cost(10), "b": of_cost(11)}, {"a": [of_cost(1)], "b": [of_cost(2)]})
    assert far[0].holds is False
    assert close[0].holds is None


def samples(slower: float, *, loads: float = 1.0) -> list[Sample]:
    found = []
    for name, base in (("one", 0.01), ("two", 0.02)):
        for batch in (1, 2):
            found += [Sample(0.0, name, "token", base * batch * slower, batch, 30 + batch)] * 3
        found += [Sample(0.0, name, "prefill", base * 10 * slower, 1, 64)] * 3
        found += [Sample(0.0, name, "load warm", 50 * base * loads), Sample(0.0, name, "unload", base)]
    return found


def test_drift_is_that_of_the_kind_that_moved_most_over_all_models():
    assert drift_between(moved(samples(1.0), samples(1.0))) == 0.0
    assert drift_between(moved(samples(1.0), samples(1.08))) == pytest.approx(8.0)
    assert drift_between(moved(samples(1.0), samples(1.02, loads=0.8))) == pytest.approx(-20.0)


def test_jitter_is_as_large_as_what_moved_between_two_calibrations():
    steady = jitter_of(moved(samples(1.0), samples(1.0)), [])
    assert steady == Jitter(LEAST, LEAST, LEAST, LEAST, [0])
    slower = jitter_of(moved(samples(1.0), samples(1.1)), [0.001, 0.002, -0.001])
    assert slower.serving == pytest.approx(np.log(1.1) / np.sqrt(2))
    assert slower.loads == LEAST
    assert slower.late_us == [1000, 2000, 0]


def test_jitter_moves_coefficients_by_its_size_and_requests_by_their_delays(tables: FleetTables):
    workload = make("agents", list(range(tables.num_models)), 60, 0, longest=500)
    rng, factors = np.random.default_rng(0), []
    for _ in range(200):
        later, changed = jittered(workload, tables, Jitter(0.1, 0.05, 0.0, 0.0, [3000]), rng)
        factors.append((changed.load_us / tables.load_us).mean())
        assert (later.think_us - workload.think_us == np.where(workload.after >= 0, 3000, 0)).all()
    assert np.std(np.log(factors)) == pytest.approx(0.1, rel=0.2)
    changed.validate()


def test_a_curve_over_batches_becomes_the_nearest_straight_line(tables: FleetTables):
    seats = int(tables.max_num_seqs.max())
    line = 1000 * np.maximum(np.arange(seats + 1), 1)
    curved = tables.replace(
        batch_ns=np.broadcast_to(line, (*tables.round_ns.shape, seats + 1)).astype(np.int64), decode_ns=tables.decode_ns
    )
    found = straight(curved)
    assert (found["decode_ns"] == 1000).all()
    assert (found["round_ns"] == tables.round_ns).all()
    assert (found["batch_ns"] == 0).all()


def test_a_cdf_ends_at_one_and_says_how_many_took_at_most_so_long():
    x, y = cdf([3.0, 1.0, 2.0, 2.0])
    assert x.tolist() == [1.0, 2.0, 2.0, 3.0]
    assert y.tolist() == [0.25, 0.5, 0.75, 1.0]
