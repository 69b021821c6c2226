"""A planner loads ahead of requests where futures are sure of it; its policy never does, nor sees that it might."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.evaluation import evaluate
from cace_env.kernel.state import LEGAL, REQUEST
from cace_env.policies import Planner, policy
from cace_env.policies.planner import Budget
from cace_env.policies.planner.prefetch import hidden, prefetches, worth_pricing
from cace_env.simulation import Simulator
from cace_env.tables import NONE
from tests.policies.test_planner import decisions
from tests.specification.examples import fleet
from tests.support.other_futures import with_another_future
from tests.support.policy_runs import SECOND, ask
from tests.support.small import SMALL

AHEAD: dict[str, Any] = SMALL | {"rules": {"prefetch_limit": 100}}
FEW = Budget(futures=8, horizons=(20.0, 60.0), prefetch_sure=0.5)
NEVER = Budget(**FEW.model_dump() | {"prefetch_sure": np.inf})


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(AHEAD, "swap")


def test_a_policy_around_which_is_planned_prefetches_nothing(case: Case) -> None:
    assert evaluate("agent:swap", case, [1]).column("prefetches")[0] > 0  # though it has never learned to
    for name in ("agent:swap", "patient-wsjf+omlx"):
        planner = Planner(policy(name), NEVER.model_copy(update={"sure": 1e9}))
        assert evaluate(planner, case, [1]).column("prefetches").tolist() == [0.0]
        assert planner.changed == 0


def test_an_order_that_prefetches_goes_on_doing_so(case: Case) -> None:
    wary = Planner(policy("prefetch-wsjf+lru"), NEVER.model_copy(update={"sure": 1e9}))
    found, plain = evaluate(wary, case, [1]), evaluate("prefetch-wsjf+lru", case, [1])
    assert plain.column("prefetches")[0] > 0
    assert found.column("cost").tolist() == plain.column("cost").tolist()


def test_prefetches_are_chosen_where_futures_are_sure_of_them(case: Case) -> None:
    counts = [
        evaluate(Planner(policy("wsjf+gdsf"), FEW.model_copy(update={"prefetch_sure": sure})), case, [1])
        .column("prefetches")[0]
        for sure in (0.5, 4.0, np.inf)
    ]  # fmt: skip
    assert counts[0] > counts[1] > counts[2] == 0


def test_where_a_scenario_allows_none_it_makes_no_difference() -> None:
    bare = case_of(SMALL, "swap")
    costs = [evaluate(Planner(policy("wsjf+gdsf"), budget), bare, [1]).column("cost")[0] for budget in (FEW, NEVER)]
    assert costs[0] == costs[1]


def test_two_futures_after_the_same_past_make_no_difference_to_prefetches(case: Case) -> None:
    workload, first = case.workload(4), 150
    planner = Planner(policy("wsjf+gdsf"), FEW)
    mine, played = decisions(case, planner, workload)
    theirs, again = decisions(case, planner, with_another_future(case, workload, first))
    requests = (simulator.state.requests[first:, REQUEST.arrival_us] for simulator in (played, again))
    until = min(int(arrivals.min()) for arrivals in requests)
    assert [row for row in mine if row[0] < until] == [row for row in theirs if row[0] < until]
    assert played.totals().prefetches > 0
    assert mine != theirs


def test_a_prefetch_is_hidden_and_comes_back(case: Case) -> None:
    simulator = Simulator(case.tables)
    simulator.reset(case.workload(1))
    ahead, before = prefetches(simulator), simulator.row.copy()
    assert len(ahead) > 0
    with hidden(simulator, ahead):
        assert simulator.state.legal[ahead].max() == 0
        assert simulator.state.scalars[LEGAL] == simulator.state.legal.sum()
    np.testing.assert_array_equal(simulator.row, before)


def idle(memory: int) -> Simulator:
    """Seven models of need 4, of which 0 and 1 are resident and idle; model 2 takes ten times as long to load."""
    load_us = np.array([1, 1, 10, 1, 1, 1, 1])[None, :, None] * SECOND
    resident_on = [0, 0, *5 * [NONE]]
    tables = fleet((4,) * 7, (memory,), protocol="swap", load_us=load_us, resident_on=resident_on, prefetch_limit=5)
    simulator = Simulator(tables)
    assert simulator.reset(ask((1.0, 0), (500.0, 1)))
    return simulator


@pytest.mark.parametrize(
    ("memory", "used", "wanted"),
    [
        (8, [0.5, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0], []),  # no more than what could leave
        (8, [0.5, 0.3, 0.4, 0.3, 0.0, 0.0, 0.0], [2]),
        (12, [0.5, 0.3, 0.0, 0.1, 0.0, 0.0, 0.0], [3]),  # there is room for one more
        (8, [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [2, 5, 6]),  # three, by demand x load time
    ],
)
def test_a_prefetch_is_priced_if_it_is_asked_for_more_than_what_could_leave(
    memory: int, used: list[float], wanted: list[int]
) -> None:
    simulator = idle(memory)
    ahead = prefetches(simulator)
    assert (ahead - simulator.max_slots).tolist() == [2, 3, 4, 5, 6]
    assert (worth_pricing(simulator, ahead, np.array(used)) - simulator.max_slots).tolist() == wanted
