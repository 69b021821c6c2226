"""The simulator as a library: questions and answers, whole episodes, limits, and compiled code that is never stale."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cace_env import compilation
from cace_env.kernel import state as layout
from cace_env.policies import POLICIES
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import Episode, Limits, Question, SimulationError, Simulator, run_rule, simulate
from cace_env.simulation import simulator as simulator_module
from cace_env.tables import NONE, FleetTables
from cace_env.workload import Workload
from tests.specification.examples import fleet, requests


@pytest.fixture(scope="module")
def case() -> tuple[FleetTables, Workload]:
    """A short episode of the workstation scenario."""
    scenario = load_scenario("workstation")
    scenario = scenario.replace(workload={**scenario.workload_config.model_dump(mode="json"), "requests": 400})
    return scenario.tables(), scenario.workload(7)


def least_recently_used(question: Question) -> int:
    """LRU by what a question shows."""
    slots = np.flatnonzero(question.legal)
    return int(slots[np.argmin(question.last_use_us[question.slot_models[slots]])])


def assert_same(one: Episode, other: Episode) -> None:
    """Asserts that two episodes are equal to the bit."""
    for field in dataclasses.fields(Episode):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_a_rule_in_one_call_equals_asking_question_by_question(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    rule = rule_of(POLICIES["lru"], tables, seed=0, workload=workload)
    stepped = simulate(tables, workload, least_recently_used, trace=True)
    assert stepped.decisions > 20
    assert_same(stepped, run_rule(tables, workload, rule, trace=True))


def test_a_simulator_that_was_used_before_is_as_good_as_new(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    simulator = Simulator(tables)
    for seed in (3, 7):
        used = load_scenario("workstation").workload(seed)
        other = Workload(
            **{
                name: getattr(used, name)[:400]
                for name in workload.__dataclass_fields__
                if name not in ("label", "meta")
            }
        )
        question = simulator.reset(other)
        while question:
            question = simulator.answer(least_recently_used(simulator.question))
    assert_same(simulator.episode(), simulate(tables, other, least_recently_used))


def test_an_illegal_answer_is_refused_and_changes_nothing(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    simulator = Simulator(tables)
    assert simulator.reset(workload)
    before = simulator.row.copy()
    illegal = int(np.flatnonzero(~simulator.question.legal)[0]) if not simulator.question.legal.all() else 99
    with pytest.raises(SimulationError, match=rf"action {illegal} is not legal now; legal are \["):
        simulator.answer(illegal)
    np.testing.assert_array_equal(simulator.row, before)


def test_an_answer_without_a_question_is_refused(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    simulator = Simulator(tables)
    question = simulator.reset(workload)
    while question:
        question = simulator.answer(least_recently_used(simulator.question))
    with pytest.raises(SimulationError, match="there is no open question"):
        simulator.answer(0)


def test_the_cost_is_the_weighted_sum_of_latencies(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    cost = dataclasses.replace(tables.cost, w_load=0.3, w_slo=2.0, w_refused=5.0)
    episode = simulate(tables.replace(cost=cost), workload, least_recently_used)
    served = ~episode.refused
    task = workload.task[served]
    ttft_s = (episode.first_token_us - episode.arrival_us)[served] * 1e-6
    e2e_s = (episode.finish_us - episode.arrival_us)[served] * 1e-6
    late = np.where(cost.slo_on_e2e[task], e2e_s, ttft_s) * 1e6 > cost.slo_us[task]
    expected = (cost.w_ttft[task] * ttft_s + cost.w_e2e[task] * e2e_s).sum() + 2.0 * late.sum()
    expected += 0.3 * episode.load_us_total * 1e-6 + 5.0 * episode.refused.sum()
    assert episode.cost == pytest.approx(expected, rel=1e-12)


def test_limits_that_leave_no_room_are_refused(case: tuple[FleetTables, Workload]) -> None:
    tables, _ = case
    with pytest.raises(SimulationError, match="max_resident 0 leaves no room"):
        Simulator(tables, Limits(max_resident=0))
    with pytest.raises(SimulationError, match=r"keep_alive_us is .*; give one time"):
        Simulator(tables, Limits(keep_alive_us=[1, 2]))


def test_a_count_limit_is_judged_where_each_model_fits() -> None:
    # The first accelerator holds no pinned model, but model 2 fits only on the other one.
    tables = fleet(need=(4, 4, 20), memory=(10, 30), pinned_on=[NONE, 1, NONE])
    with pytest.raises(SimulationError, match=r"leaves no room for 'model-2'.* it needs at least 2"):
        Simulator(tables, Limits(max_resident=1))
    workload = requests({"model": 0}, {"model": 2})
    assert simulate(tables, workload, least_recently_used, limits=Limits(max_resident=2)).loads == 2
    # Asleep, model 0 leaves 4 in either memory: then model 2 fits on the second accelerator alone.
    sleeping = fleet(need=(5, 4, 8), memory=(10, 30), residual_bytes=[4, 0, 0], pinned_on=[NONE, 1, NONE])
    with pytest.raises(SimulationError, match=r"leaves no room for 'model-2'.* it needs at least 2"):
        Simulator(sleeping, Limits(max_resident=1))


def test_a_count_limit_means_nothing_where_all_are_pinned_or_memory_is_unlimited() -> None:
    pinned = fleet(pinned_on=[0, 1], memory=(10, 10))
    unlimited = fleet(unlimited_memory=True)
    for tables in (pinned, unlimited):
        episode = simulate(tables, requests({"model": 1}), least_recently_used, limits=Limits(max_resident=0))
        assert (episode.finish_us >= 0).all()


def test_a_trace_that_outgrows_its_room_is_an_error_and_never_cut(
    case: tuple[FleetTables, Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, workload = case
    rule = rule_of(POLICIES["lru"], tables, seed=0, workload=workload)
    monkeypatch.setattr(simulator_module, "trace_rows", lambda tables, requests: 50)
    with pytest.raises(SimulationError, match="but room for only 50"):
        run_rule(tables, workload, rule, trace=True)
    with pytest.raises(SimulationError, match="but room for only 50"):
        simulate(tables, workload, least_recently_used, trace=True)


def test_the_arrays_of_a_row_follow_each_other_without_gap_or_overlap(case: tuple[FleetTables, Workload]) -> None:
    tables, workload = case
    simulator = Simulator(tables)
    simulator.load(workload)
    simulator.row[:] = np.arange(len(simulator.row))
    parts = [np.asarray(array).view(np.int64).ravel() for array in simulator.state]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(simulator.at[-1]))
    assert simulator.state.models.shape == (tables.num_models, len(layout.MODEL))


def test_an_edit_in_any_file_that_compiled_code_can_see_starts_a_new_cache(tmp_path: Path) -> None:
    package = tmp_path / "cace_env"
    shutil.copytree(compilation.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = compilation.source_hash(package)
    assert before == compilation.source_hash()
    for inlined_file in ("kernel/events.py", "kernel/state.py", "generator/streams.py", "observation.py", "tables.py"):
        path = package / inlined_file
        text = path.read_text()
        path.write_text(text + "\nEXTRA = 1\n")
        assert compilation.source_hash(package) != before, inlined_file
        path.write_text(text)
    (package / "rendering.py").write_text("# not seen by compiled code\n")
    assert compilation.source_hash(package) == before


# A model that was never used: `NEVER_S`, from a function of kernel/features.py that is inlined into kernel/run.py.
READ_NEVER_S = """
import cace_env
from cace_env.kernel import run
from cace_env.kernel.state import MODEL, NONE
from cace_env.observation import SLOT
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator
from cace_env.workload import Workload
import numpy as np

simulator = Simulator(load_scenario("workstation").tables())
simulator.load(Workload.from_columns(model=[0], task=[0], arrival_us=[0], context_tokens=[1], output_tokens=[1]))
simulator.state.slots[:] = NONE
simulator.state.slots[0] = 0
simulator.state.models[0, MODEL.second_use] = NONE
out = np.empty((simulator.max_slots, len(SLOT)))
run.read_features(*simulator.arguments, out)
print(cace_env.__file__, out[0, SLOT.since_second_use_s])
"""


@pytest.mark.integration
def test_an_edited_constant_is_seen_by_the_compiled_function_of_another_file_and_its_undoing_too(
    tmp_path: Path,
) -> None:
    package = tmp_path / "cace_env"
    shutil.copytree(compilation.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {
        "CACE_ENV_CACHE_DIR": str(tmp_path / "compiled"),
        "NUMBA_DISABLE_JIT": "0",
        "PYTHONPATH": str(tmp_path),
    }

    def never_s() -> tuple[float, bool]:
        """What a fresh process reads, and whether it had to compile."""
        done = subprocess.run(
            [sys.executable, "-c", READ_NEVER_S],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        imported, value = done.stdout.split()
        assert Path(imported) == package / "__init__.py"
        return float(value), "compiling" in done.stderr

    inlined_file = package / "kernel" / "features.py"
    text = inlined_file.read_text(encoding="utf-8")
    edited = text.replace("NEVER_S: Final = 1e6 ", "NEVER_S: Final = 2e6 ")
    assert edited != text
    assert never_s() == (1e6, True)
    assert never_s() == (1e6, False)
    inlined_file.write_text(edited, encoding="utf-8")
    assert never_s() == (2e6, True)
    inlined_file.write_text(text, encoding="utf-8")
    assert never_s() == (1e6, False)
