"""Claims about the serving model: the fluid is close to continuous batching run one forward pass at a time.

Within the tolerance of docs/serving.md against a loop of the same rule, within wider bounds against one like vLLM's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.simulation import simulate
from cace_env.tables import FleetTables, TableError
from cace_env.workload import Workload, WorkloadError
from experiments.yardsticks.iteration_level import Batch, IterationRun, run_iterations
from experiments.yardsticks.serving import (
    BOUND,
    LOADS,
    ONE,
    TRACES,
    TWO,
    TraceSource,
    compare,
    find,
    fleet,
    generated,
    requests_of,
)
from tests.specification.examples import MS
from tests.specification.examples import fleet as example_fleet

BATCHES: tuple[Batch, ...] = ("budget", "head")
SOURCES = pytest.mark.parametrize("source", TRACES, ids=lambda source: source.name)
FLEETS = pytest.mark.parametrize("names", [ONE, TWO], ids=["one model", "two models"])


def resident(models: int = 1, **changes: Any) -> FleetTables:
    """Rounds of 1 ms, 10 us per prompt token, 100 of them per round; every model is resident."""
    return example_fleet(need=(6,) * models, memory=(100,), resident_on=0, **changes)


def present(source: TraceSource) -> Path:
    """The file of a trace; skips the test where there is none."""
    path = find(source)
    if path is None:
        names = " or ".join(source.files)
        pytest.skip(
            f"{names} is neither in the working directory nor in shared/data, beside the repository or in it "
            "(python -m cace_env.traces.fetch gets it)"
        )
    return path


def ends_us(run: IterationRun) -> tuple[list[float], list[float]]:
    return run.first_token_us.tolist(), run.finish_us.tolist()


@pytest.mark.parametrize("batch", BATCHES)
def test_a_request_alone_takes_exactly_as_long_in_the_fluid_as_pass_by_pass(batch: Batch) -> None:
    tables = resident(decode_ns=100_000, kv_ps=1_000_000, attention_ps=20_000)
    workload = Workload.from_columns(arrival_us=[7 * MS], model=[0], context_tokens=[300], output_tokens=[5])
    # Three passes of 100 prompt tokens: 1 ms each, 3 ms of linear work, 0.9 ms of attention.
    # Four passes of decoding: 1.1 ms each, and 1 us per token of a context that grows from 301 to 304.
    first_us, finish_us = 7_000 + 6_900, 7_000 + 6_900 + 4 * 1_100 + 301 + 302 + 303 + 304
    assert ends_us(run_iterations(tables, workload, batch=batch)) == ([first_us], [finish_us])
    episode = simulate(tables, workload, lambda question: 0)
    assert (episode.first_token_us.tolist(), episode.finish_us.tolist()) == ([first_us], [finish_us])


def test_prompts_that_fit_share_a_pass_only_where_the_budget_is_shared() -> None:
    workload = Workload.from_columns(model=[0, 0], context_tokens=[40, 60], output_tokens=[1, 1])
    assert run_iterations(resident(), workload, batch="budget").finish_us.tolist() == [2 * MS, 2 * MS]
    assert run_iterations(resident(), workload, batch="head").finish_us.tolist() == [1.4 * MS, 3 * MS]


def test_decoding_requests_take_their_tokens_from_the_budget() -> None:
    workload = Workload.from_columns(arrival_us=[0, MS], model=[0, 0], context_tokens=[100, 100], output_tokens=[3, 1])
    # The second prompt starts at 2 ms beside one decoding request: 99 tokens in that pass, the last in the next.
    assert ends_us(run_iterations(resident(), workload, batch="budget")) == ([2 * MS, 5 * MS], [5 * MS, 5 * MS])


def test_an_arrival_during_a_pass_waits_for_the_next() -> None:
    workload = Workload.from_columns(
        arrival_us=[0, MS // 2], model=[0, 0], context_tokens=[10, 10], output_tokens=[1, 1]
    )
    assert run_iterations(resident(), workload).finish_us.tolist() == [1.1 * MS, 2.2 * MS]


def test_engines_take_turns_by_slices_or_by_whole_passes() -> None:
    workload = Workload.from_columns(model=[0, 1], context_tokens=[100, 100], output_tokens=[1, 1])
    assert run_iterations(resident(2), workload, slice_us=MS).finish_us.tolist() == [3 * MS, 4 * MS]
    assert run_iterations(resident(2), workload, slice_us=None).finish_us.tolist() == [2 * MS, 4 * MS]


def test_seats_are_given_in_order_of_arrival() -> None:
    workload = Workload.from_columns(model=[0, 0, 0], context_tokens=[100, 10, 10], output_tokens=[2, 1, 1])
    one_seat = run_iterations(resident(max_num_seqs=1), workload)
    assert one_seat.finish_us.tolist() == [3 * MS, 4.1 * MS, 5.2 * MS]
    kv_for_one = run_iterations(resident(kv_tokens=102), workload)
    assert kv_for_one.finish_us.tolist() == [3 * MS, 4.2 * MS, 4.2 * MS]


def test_what_never_fits_is_refused_by_both() -> None:
    tables = resident(kv_tokens=50)
    workload = Workload.from_columns(model=[0, 0], context_tokens=[50, 40], output_tokens=[1, 10])
    refused = np.isnan(run_iterations(tables, workload).finish_us)
    assert refused.tolist() == simulate(tables, workload, lambda question: 0).refused.tolist() == [True, False]


def test_the_loop_refuses_what_it_does_not_know() -> None:
    closed = Workload.from_columns(model=[0, 0], context_tokens=[5, 5], output_tokens=[1, 1], after=[-1, 0])
    with pytest.raises(WorkloadError, match="row 1"):
        run_iterations(resident(), closed)
    shared = Workload.from_columns(model=[0], context_tokens=[5], output_tokens=[1], new_tokens=[2])
    with pytest.raises(WorkloadError, match="new_tokens"):
        run_iterations(resident(), shared)
    with pytest.raises(TableError, match="request_ns is given"):
        run_iterations(resident(request_ns=np.array([[1]])), shared)


@SOURCES
@FLEETS
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_on_generated_traffic_the_fluid_is_within_the_tolerance_of_a_loop_of_the_same_rule(
    source: TraceSource, names: tuple[str, ...], load: float
) -> None:
    case = compare(fleet(names), generated(source, len(names), 4_000), load, source.name, batch="head")
    assert case.holds, case.errors


@SOURCES
@FLEETS
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_on_generated_traffic_the_fluid_stays_within_bounds_of_a_vllm_like_loop(
    source: TraceSource, names: tuple[str, ...], load: float
) -> None:
    case = compare(fleet(names), generated(source, len(names), 4_000), load, source.name, batch="budget")
    assert case.within(BOUND), case.errors


@SOURCES
@FLEETS
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_with_whole_rounds_the_fluid_is_within_the_tolerance_of_a_vllm_like_loop(
    source: TraceSource, names: tuple[str, ...], load: float
) -> None:
    tables, workload = fleet(names).replace(whole_rounds=True), generated(source, len(names), 4_000)
    assert compare(tables, workload, load, source.name, batch="budget").holds
    same_rule = compare(tables, workload, load, source.name, batch="head")
    assert abs(same_rule.errors[0]) < 0.005


@SOURCES
@FLEETS
@pytest.mark.parametrize("load", LOADS)
def test_on_the_azure_traces_the_fluid_is_within_the_tolerance_of_a_loop_of_the_same_rule(
    source: TraceSource, names: tuple[str, ...], load: float
) -> None:
    workload = requests_of(source, names, present(source))
    case = compare(fleet(names), workload, load, source.name, batch="head")
    assert case.holds, case.errors


@SOURCES
@FLEETS
@pytest.mark.parametrize("load", LOADS)
def test_on_the_azure_traces_the_fluid_stays_within_bounds_of_a_vllm_like_loop(
    source: TraceSource, names: tuple[str, ...], load: float
) -> None:
    workload = requests_of(source, names, present(source))
    case = compare(fleet(names), workload, load, source.name, batch="budget")
    assert case.within(BOUND), case.errors
