"""Claims about where tasks run, by the executor of this machine; `make test-ray` has those about Ray."""

from __future__ import annotations

import pickle
import sys
import time
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("cmaes", reason="needs the extra train")

from agents import objective
from agents.evolution.trainer import EvolutionTrainer, LinearConfig
from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import classrooms
from agents.imitation.labels import KeptLabels
from agents.imitation.pricing import pricing_of
from agents.objective import Objective, play
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import run_seed
from cace_env.evaluation.held_out import training_cases
from cace_env.executor import Threads, movable
from cace_env.policies import contestant_of, policy
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments.running.contestants import default_names
from experiments.running.executors.execution import Execution
from experiments.running.options import Executed
from experiments.running.runner import play_pair
from tests.support.small import SMALL

EVERY_KIND = ("cace", "static-best", "agent:eviction", "guarded:agent:eviction", "planner:cace")


class Moved(NamedTuple):
    """Stands for a value."""

    packed: bytes


class Elsewhere:
    """Runs tasks here, on what arrives in another process, the last one first."""

    apart = True
    cores = 2

    def __init__(self) -> None:
        self.put: list[bytes] = []
        self._held: dict[bytes, Any] = {}  # unpacked once

    def share(self, value: Any) -> Any:
        self.put.append(pickle.dumps(value))
        return Moved(self.put[-1])

    def run(self, work: Any, tasks: Any) -> Any:
        for number, arguments in reversed(list(enumerate(tasks))):
            there = moved((work, *arguments))
            yield number, there[0](*(self._arrived(one) for one in there[1:]))

    def _arrived(self, one: Any) -> Any:
        if not isinstance(one, Moved):
            return one
        return self._held.setdefault(one.packed, pickle.loads(one.packed))


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
    workload, apart = case.workload(0), moved(movable(case, Elsewhere()))
    log.unlink()
    there, _ = play_pair(apart, 0, players, [0, 1], None, moved(workload))
    np.testing.assert_equal(rows(there), rows(here))


def two_cases(folder: Path) -> tuple[str, str]:
    """Scenarios to train on, as files: one whose requests are drawn, and one of a log."""
    (folder / "log.csv").write_text(
        "time,context_tokens,output_tokens,user\n"
        + "".join(f"{3 * row},{200 + row},{20 + row % 50},{row % 7}\n" for row in range(480))
    )
    section = {"path": str(folder / "log.csv"), "format": "cace", "part": "train", "tasks": "completion", "windows": 4}
    short = SMALL | {"workload": SMALL["workload"] | {"requests": 150}}
    for name, more in {"drawn": {}, "log": {"trace": section}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**short, "name": name, **more}))
    return str(folder / "drawn.yaml"), str(folder / "log.yaml")


def test_a_generation_is_the_same_elsewhere_and_everything_is_sent_once(tmp_path: Path) -> None:
    names = two_cases(tmp_path)
    config = LinearConfig(train_on=names, train_seeds=12, seeds_per_generation=8, population=4)
    there = Elsewhere()
    trainers = EvolutionTrainer(config), EvolutionTrainer(config, there)
    told: list[list[int]] = [[], []]
    metrics = [trainer.learn(8, steps.append) for trainer, steps in zip(trainers, told, strict=True)]
    assert metrics[0] == metrics[1] and trainers[0].requests == trainers[1].requests
    assert told[1] == sorted(told[1]) and told[1][-1] == told[0][-1] == 8
    here, elsewhere = (trainer.agent().network.weights for trainer in trainers)
    np.testing.assert_equal(elsewhere, here)
    assert (
        len(there.put) == 1 + 3 + 12
    )  # the cases; LRU and two generations of candidates; windows and draws of the log
    assert len(set(there.put)) == len(there.put)


def test_episodes_that_are_short_are_sent_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, there = training_cases(two_cases(tmp_path)[0], Protocol.EVICTION), Elsewhere()
    sizes = []

    def counted(*arguments: Any) -> Any:
        sizes.append(len(arguments[3]))
        return play(*arguments)

    monkeypatch.setattr(objective, "play", counted)
    monkeypatch.setattr(objective, "TASK_EPISODES", 10)
    monkeypatch.setattr("tests.experiments.test_executors.moved", lambda value: value)
    judge = Objective(cases, range(40), there)
    few, many = judge.costs([policy("lru")]), judge.costs([policy("lru")] * 5)
    assert sizes == 4 * [10] + 20 * [2]  # two tasks for each core; ten episodes
    np.testing.assert_array_equal(many[0], few[0])


@pytest.mark.parametrize("env", list(Protocol))
def test_labels_are_the_same_elsewhere(env: Protocol, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from agents.imitation.trainer import ImitationTrainer

    small: dict[str, Any] = {"shown": 1, "max_replays": 20, "hidden": 4, "batch_size": 32, "futures": 2, "share": 0.2}
    config = ImitationConfig(train_on=two_cases(tmp_path), env=env, horizons_s=(20.0, 60.0), **small)
    trainers = ImitationTrainer(config), ImitationTrainer(config, Elsewhere())
    for trainer in trainers:
        for _ in range(2):  # what is shown, and what is priced
            trainer.learn(1, lambda step: None)
    assert (trainers[0].step, trainers[0].requests) == (trainers[1].step, trainers[1].requests)
    here, elsewhere = (trainer.agent().network.weights for trainer in trainers)
    np.testing.assert_equal(elsewhere, here)


def test_a_cluster_without_cores_yet_gets_a_seed_in_each_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elsewhere, "cores", 0)
    monkeypatch.setattr("tests.experiments.test_executors.moved", lambda value: value)
    judge = Objective(training_cases(two_cases(tmp_path)[0], Protocol.EVICTION), range(2), Elsewhere())
    assert judge.costs([policy("lru")]).shape == (1, 1, 2)


class Large:
    """A result."""


def large(made: list[Any]) -> Large:
    result = Large()
    made.append(weakref.ref(result))
    return result


def test_threads_keep_no_result_that_the_caller_has_let_go() -> None:
    made: list[Any] = []
    told = 0
    for _ in Threads(2).run(large, [(made,)] * 8):
        told += 1
        if told == 8:
            assert sum(one() is not None for one in made) <= 2, "this one, and one that a thread may still hold"
    assert told == 8


def test_labels_that_are_kept_are_the_same_elsewhere(tmp_path: Path) -> None:
    files = {}
    for name, executor in {"here": Threads(2), "there": Elsewhere()}.items():
        config = ImitationConfig(
            train_on=two_cases(tmp_path), labels=str(tmp_path / name), episodes=2, player="lru", futures=2, share=0.2
        )
        kept = KeptLabels(config, list(classrooms(config).values()), pricing_of(config))
        assert sum(kept.price(kept.missing(), executor)) > 0 and not kept.missing()
        files[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    assert len(files["here"]) == 4 and files["there"] == files["here"]


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
