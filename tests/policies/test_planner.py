"""The planner: sees nothing of the true future, keeps its policy's choice if in doubt, thinks no more than it may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.decision_log import DecisionLog, read_decisions
from cace_env.envs import Actor, EvictionEnv
from cace_env.evaluation import evaluate
from cace_env.export import form_of
from cace_env.forecasting import load_habits
from cace_env.kernel.state import ACCELERATOR, CLOCK, COLUMN, HEAP, MODEL, NONE, REQUEST, cut_state, heap_starts
from cace_env.policies import Guarded, Planner, contestant_of, policy
from cace_env.policies.planner import CHANGED, Budget
from cace_env.policies.planner.track import LEAST_WINDOWS, Track
from cace_env.simulation import Simulator
from cace_env.workload import Workload
from tests.support.other_futures import with_another_future
from tests.support.small import SMALL

FEW = Budget(futures=8, horizons=(20.0, 60.0))


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(SMALL)


def decisions(case: Case, planner: Planner, workload: Workload) -> tuple[list[tuple[int, int]], Simulator]:
    """Every decision of an episode, with its time; the simulator at the end."""
    simulator = Simulator(case.tables, planner.begin(case.tables, workload, seed=5))
    asked, made = simulator.reset(workload), []
    while asked:
        action, _ = planner.answer(simulator)
        made.append((int(simulator.state.scalars[CLOCK]), action))
        asked = simulator.answer(action)
    return made, simulator


@pytest.mark.parametrize("protocol", ["eviction", "swap"])
def test_two_futures_after_the_same_past_make_no_difference(protocol: str) -> None:
    case = case_of(SMALL, protocol)
    workload = case.workload(4)
    first = 150
    other = with_another_future(case, workload, first)
    planner = Planner(policy("cace"), FEW)
    mine, played = decisions(case, planner, workload)
    changed = planner.changed
    theirs, played_again = decisions(case, planner, other)
    # until the first of those requests comes in one of the episodes
    until = min(int(simulator.state.requests[first:, REQUEST.arrival_us].min()) for simulator in (played, played_again))
    before = [row for row in mine if row[0] < until]
    assert before == [row for row in theirs if row[0] < until]
    assert len(before) > 20
    assert changed > 0
    assert mine != theirs


def change_lengths(simulator: Simulator, starts: np.ndarray) -> None:
    """Makes all answers in flight longer, and those that were to end first the last ones; `starts` of token heaps."""
    state, columns = simulator.state, simulator.arguments[4].columns
    busy = state.accelerators[:, ACCELERATOR.busy] > 0
    state.accelerators[busy, ACCELERATOR.token_due] += 1_000_000
    for model, start in zip(state.models, starts, strict=False):
        queued = [model[MODEL.queue_head]] if model[MODEL.waiting] else []
        admitted = [model[MODEL.prefill_head]] if model[MODEL.prefill_head] != NONE else []
        for rows in (queued, admitted):
            while rows and state.requests[rows[-1], REQUEST.queue_next] != NONE:
                rows.append(state.requests[rows[-1], REQUEST.queue_next])
        columns[queued + admitted, COLUMN.output] += 17
        model[MODEL.kv_used] += 17 * len(admitted)
        model[MODEL.due_us] += 1_000_000 * (model[MODEL.running] > 0)
        ends = state.tokens[start : start + model[MODEL.heap_size]]
        decoding = ends[:, HEAP.request] != model[MODEL.prefill_head]
        more = 2 * ((ends[:, HEAP.key].max(initial=0) - ends[decoding, HEAP.key]) >> 20) + 1
        columns[ends[decoding, HEAP.request], COLUMN.output] += more.astype(np.int32)
        ends[decoding, HEAP.key] += more << 20
        model[[MODEL.kv_used, MODEL.kv_halves]] += more.sum()
        ends[:] = ends[np.lexsort((ends[:, HEAP.request], ends[:, HEAP.key]))]  # in order, so it is a heap


def with_sorted_ends(row: np.ndarray, at: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A row whose token heaps are in order and have nothing behind them: one content has several heaps."""
    row = row.copy()
    state = cut_state(row, at)
    for model, start, stop in zip(state.models, starts[:-1], starts[1:], strict=True):
        ends = state.tokens[start : start + model[MODEL.heap_size]]
        ends[:] = ends[np.lexsort((ends[:, HEAP.request], ends[:, HEAP.key]))]
        state.tokens[start + len(ends) : stop] = 0
    return row


def test_lengths_of_answers_that_are_not_finished_make_no_difference(case: Case) -> None:
    workload = case.workload(4)
    planner = Planner(policy("cace"), FEW)
    simulator = Simulator(case.tables, planner.begin(case.tables, workload, seed=5))
    starts = heap_starts(case.tables, len(workload))
    asked, compared = simulator.reset(workload), 0
    seeds = planner.rollouts.sampler.seeds(1)[0]
    while asked:
        action, _ = planner.answer(simulator)
        if simulator.state.models[:, MODEL.decoding].max() > 1:
            columns = simulator.arguments[4].columns
            kept = simulator.row.copy(), columns.copy()
            before = planner.rollouts.sampler.draw(seeds, 60.0)
            drawn = before.game.w.columns[: before.end].copy(), with_sorted_ends(before.row, before.game.at, starts)
            change_lengths(simulator, starts)
            planner.rollouts.sampler.look(simulator)
            after = planner.rollouts.sampler.draw(seeds, 60.0)
            np.testing.assert_array_equal(after.game.w.columns[: after.end], drawn[0])
            np.testing.assert_array_equal(with_sorted_ends(after.row, after.game.at, starts), drawn[1])
            simulator.row[:], columns[:] = kept
            compared += 1
        asked = simulator.answer(action)
    assert compared > 2


def test_a_planner_that_is_never_sure_decides_as_its_policy(case: Case) -> None:
    wary = Planner(policy("gdsf"), FEW.model_copy(update={"sure": 1e9}))
    found, plain = evaluate(wary, case, [1, 2]), evaluate("gdsf", case, [1, 2])
    assert found.column("cost").tolist() == plain.column("cost").tolist()
    assert wary.changed == 0
    assert wary.decisions > 0


def test_threads_change_no_decision(case: Case) -> None:
    alone, together = (
        decisions(case, Planner(policy("lru"), FEW.model_copy(update={"threads": threads})), case.workload(6))[0]
        for threads in (1, 3)
    )
    assert alone == together


def test_the_same_seed_makes_the_same_decisions(case: Case) -> None:
    planner = Planner(policy("lru"), FEW)
    assert decisions(case, planner, case.workload(6))[0] == decisions(case, planner, case.workload(6))[0]


def test_where_time_is_short_fewer_futures_are_sampled(case: Case) -> None:
    hasty = Planner(policy("lru"), Budget(futures=512, horizons=(60.0,), ms=0.001))
    evaluate(hasty, case, [1])
    assert hasty.futures == 8 * hasty.decisions


def test_its_extra_cost_is_that_of_the_same_futures(case: Case) -> None:
    workload = case.workload(4)
    planner = Planner(policy("lru"), FEW)
    simulator = Simulator(case.tables, planner.begin(case.tables, workload, seed=5))
    asked = simulator.reset(workload)
    while asked and simulator.state.legal.sum() < 2:
        asked = simulator.answer(planner.answer(simulator)[0])
    own, _ = planner.answer(simulator)
    extra = planner.extra_costs(simulator, own)
    assert extra.shape == (FEW.futures, len(simulator.state.legal))
    assert (extra[:, own] == 0).all()
    assert np.isinf(extra[:, simulator.state.legal == 0]).all()


def test_a_planner_goes_by_name_with_its_options() -> None:
    found = contestant_of("planner:eviction@futures=64@horizons=30+120@sure=2")
    assert isinstance(found.policy, Planner)
    assert found.name == "planner:eviction@futures=64@horizons=30+120@sure=2"
    assert found.policy.policy.name == "agent:eviction"
    assert found.policy.budget == Budget(futures=64, horizons=(30.0, 120.0), sure=2.0)
    never = contestant_of("planner:swap@prefetch_sure=.inf").policy
    assert isinstance(never, Planner) and np.isinf(never.budget.prefetch_sure)
    assert found.built_in is found.policy.policy


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("planner:belady", "knows the future"),
        ("planner:nobody", "nobody"),
        ("planner:evicton", "no policy or agent called 'evicton', did you mean 'eviction'"),
        ("planner:eviction:ms=80", "options stand behind @, as in planner:eviction@ms=80"),
        ("planer:eviction", "No module named 'planer', did you mean 'planner'"),
        ("planner:lru@future=64", "future"),
        ("planner:lru@futures=1", "futures"),
        ("planner:lru@horizons=300+60", "ascend"),
        ("planner:lru@prefetch_sure=.nan", "greater than or equal to 0"),
        ("guarded:planner:lru", "cannot wrap"),
        ("wsjf+planner:lru", r"planner: stands before the order, as in 'planner:wsjf\+lru'"),
    ],
)
def test_a_planner_that_cannot_be_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        contestant_of(name)


def test_a_guard_takes_no_planner() -> None:
    with pytest.raises(ConfigError):
        contestant_of(Guarded("planner:lru"))


def test_a_decision_log_says_what_was_changed_and_how_sure_that_was(case: Case, tmp_path: Path) -> None:
    planner = Planner(policy("cace"), FEW)
    with DecisionLog(tmp_path) as log:
        evaluate(planner, case, [4], decision_log=log)
    changed = [decision for decision in read_decisions(tmp_path) if decision.fallback == "planner"]
    assert len(changed) == planner.changed > 0
    assert all("less in 8 sampled futures" in decision.detail for decision in changed)
    assert {decision.policy for decision in changed} == {"planner:cace"}


def test_the_share_of_changed_decisions_is_a_column(case: Case) -> None:
    planner = Planner(policy("cace"), FEW)
    found = evaluate(planner, case, [4])
    assert found.column(CHANGED)[0] == pytest.approx(planner.changed / planner.decisions)


@pytest.mark.parametrize("use", [lambda it, env: Actor(it, env), lambda it, env: form_of(it)])
def test_where_no_whole_episode_is_played_a_planner_is_refused(use: Callable[..., Any]) -> None:
    env = EvictionEnv(SMALL)
    with pytest.raises(ConfigError, match="plan"):
        use("planner:lru", env)


def test_futures_that_were_off_for_five_windows_are_not_believed(case: Case) -> None:
    crowded = load_habits()[0]
    crowded = crowded._replace(pace=30.0 * crowded.pace)  # thirty times as many sessions as begin
    workload = replace(case.workload(4), arrival_us=4 * case.workload(4).arrival_us)
    believing, alone = Planner(policy("cace"), FEW), policy("cace")
    planner = Planner(alone, FEW, habits=crowded)
    decisions(case, planner, workload)
    assert planner.track.windows >= LEAST_WINDOWS and planner.track.off
    assert 0 < planner.aside < planner.decisions
    decisions(case, believing, workload)
    assert believing.track.windows >= LEAST_WINDOWS and not believing.track.off
    assert believing.aside == 0


@pytest.mark.parametrize(("sampled", "came", "off"), [(400, 100, True), (100, 400, True), (150, 100, False)])
def test_futures_are_off_by_a_factor_of_two(sampled: int, came: int, off: bool) -> None:
    track = Track()
    track.sampled, track.came = float(sampled), float(came)
    assert not track.off  # a few windows say little
    track.windows = LEAST_WINDOWS
    assert track.off == off
