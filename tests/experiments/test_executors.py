"""Claims about where tasks run, by the executor of this machine; `make test-ray` has those about Ray."""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import run_seed
from cace_env.policies import contestant_of
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments.running.cases import drawn
from experiments.running.contestants import default_names
from experiments.running.executors.execution import Execution
from experiments.running.executors.executor import Threads
from experiments.running.options import Executed
from experiments.running.runner import play_pair
from tests.support.small import SMALL

EVERY_KIND = ("cace", "static-best", "agent:eviction", "guarded:agent:eviction", "planner:cace")


def squared(number: int) -> int:
    return number * number


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_has_its_result_whatever_order_they_end_in(workers: int) -> None:
    with Execution(workers=workers).opened() as executor:
        found = dict(executor.run(squared, ((number,) for number in range(50))))
    assert found == {number: number * number for number in range(50)}


@pytest.mark.parametrize("workers", [1, 2])
def test_after_an_error_no_other_task_begins(workers: int) -> None:
    begun = []

    def fails(number: int) -> int:
        begun.append(number)
        time.sleep(1e-3)
        if number == 2:
            raise ValueError("task 2")
        return number

    with pytest.raises(ValueError, match="task 2"):
        list(Threads(workers).run(fails, [(number,) for number in range(10_000)]))
    assert len(begun) < 10_000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_caller_that_leaves_leaves_nothing_running(workers: int) -> None:
    begun = []

    def waits(number: int) -> None:
        begun.append(number)
        time.sleep(1e-3)

    running = Threads(workers).run(waits, [(number,) for number in range(10_000)])
    next(running)
    running.close()
    count = len(begun)
    assert count < 10_000
    assert len(begun) == count


def test_threads_share_the_value_itself() -> None:
    value = np.zeros(3)
    assert Threads(2).share(value) is value


def moved(value: Any) -> Any:
    """As it arrives in another process."""
    return pickle.loads(pickle.dumps(value))


def rows(results: Any) -> list[dict[str, Any]]:
    """Without how long a policy in Python took."""
    return [{name: value for name, value in result.row.items() if name != "decision_us"} for result in results]


@pytest.mark.parametrize("protocol", list(Protocol))
def test_what_a_task_needs_can_be_moved_and_plays_the_same(protocol: Protocol) -> None:
    case = case_of(load_scenario(SMALL), protocol)
    names = default_names([protocol]) if protocol == Protocol.SWAP else [*default_names([protocol]), *EVERY_KIND]
    players = [contestant_of(name) for name in dict.fromkeys(names)]
    here, _ = play_pair(case, 3, players, range(len(players)), None, None)
    there, _ = play_pair(moved(case), 3, moved(players), range(len(players)), None, None)
    np.testing.assert_equal(rows(there), rows(here))


def test_arrays_arrive_as_they_were() -> None:
    """Numba would compile everything once more for read-only ones."""
    case = case_of(load_scenario(SMALL))
    for one, other in ((case.tables, moved(case.tables)), (case.workload(1), moved(case.workload(1)))):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                assert vars(other)[name].flags.writeable == value.flags.writeable, name


def test_a_log_can_be_played_where_its_file_is_not(tmp_path: Path) -> None:
    names = [str(name) for name in SMALL["catalogue"]]
    lines = [f"{3 * i},{100 + i},20,{names[i * i % len(names)]},chat,u{i % 3},s{i % 5}\n" for i in range(120)]
    log = tmp_path / "log.csv"
    log.write_text("time,context_tokens,output_tokens,model,task,user,session\n" + "".join(lines))
    scenario = load_scenario(SMALL | {"trace": {"path": str(log), "format": "cace", "part": "test"}})
    case, players = case_of(scenario), [contestant_of("static-best"), contestant_of("cace")]
    here = run_seed(case, players, 0)
    workload, apart = case.workload(0), moved(drawn(case))
    log.unlink()
    there, _ = play_pair(apart, 0, players, [0, 1], None, moved(workload))
    np.testing.assert_equal(rows(there), rows(here))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ray_address": "auto"}, "--ray-address is for --executor ray"),
        ({"workers": 0}, "0 workers were asked for"),
        ({"executor": "ray", "workers": 4096}, "4096 workers were asked for"),
    ],
)
def test_options_of_no_use_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Executed(**given).execution()


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "experiments.running.executors.on_ray", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'cace-env\[ray\]'"), Execution("ray").opened():
        pass
