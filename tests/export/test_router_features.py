"""Claims about the example of a router's features: they are the simulator's, to rounding, and a policy takes them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.export import write_numpy
from cace_env.kernel.state import LOADING, MODEL, TRACE_KINDS, TRACED
from cace_env.observation import SLOT
from cace_env.policies import policy
from cace_env.policies.player import Player
from cace_env.simulation import Simulator
from cace_env.tables import NONE

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "router_features.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_router_features", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("scenario", "protocol"), [("default", "eviction"), ("workstation", "swap")])
def test_a_router_that_sees_the_events_computes_the_features_of_the_simulator(
    scenario: str, protocol: str, example: ModuleType
):
    case = case_of(scenario, protocol)
    workload, tables = case.workload(5), case.tables
    simulator = Simulator(tables, trace=True)
    player = Player("lru", policy("lru"), tables, workload, 5)
    models = [example.ModelHistory() for _ in range(tables.num_models)]
    assert (tables.pinned_on == NONE).all() and (tables.resident_on == NONE).all()  # all loads are in the trace
    waiting = np.zeros(tables.num_models, dtype=int)
    cost_per_s = tables.cost.w_ttft + tables.cost.w_e2e
    read = compared = 0
    asked = simulator.reset(workload)
    while asked and compared < 2_000:
        happened = int(simulator.row[TRACED])
        for time_us, kind, subject, _ in simulator.trace[read:happened].tolist():
            now_s, what = time_us * 1e-6, TRACE_KINDS[kind]
            model = int(workload.model[subject]) if what in ("ARRIVAL", "ADMITTED", "FINISH") else subject
            if what == "ARRIVAL":
                models[model].arrived(now_s, float(cost_per_s[workload.task[subject]]))
                waiting[model] += 1
            elif what == "ADMITTED":
                waiting[model] -= 1
            elif what == "FINISH":
                models[model].finished(now_s, int(workload.output_tokens[subject]))
            elif what == "LOAD_DONE":
                models[model].loaded(now_s, waiting=int(waiting[model]))
            elif what == "UNLOAD_DONE":
                models[model].left()
            assert what != "REFUSED"
        read = happened
        features = simulator.features()
        for slot, model in enumerate(simulator.state.slots.tolist()):
            if model < 0 or simulator.state.models[model, MODEL.phase] == LOADING:
                continue
            mine = models[model].features(simulator.question.now_us * 1e-6)
            theirs = [features[slot, getattr(SLOT, name)] for name in mine]
            assert list(mine.values()) == pytest.approx(theirs, rel=1e-9, abs=1e-6), list(mine)
            compared += 1
        asked = simulator.answer(player.answer(simulator)[0])
    assert compared >= 1_000


def test_the_example_runs_where_cace_env_is_not(tmp_path: Path):
    write_numpy("cace:tuned-eviction", tmp_path)
    hide = "import sys, runpy; sys.modules['cace_env'] = None; sys.argv[1:] = ['.']; "
    code = hide + f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "cace:tuned-eviction evicts starcoder2-7b\n", done.stderr
