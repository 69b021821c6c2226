"""Claims about commands on Ray, on two nodes of this machine; collected by `make test-ray` only, which installs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray import cloudpickle
from ray.cluster_utils import Cluster

from agents import objective
from agents.evolution.trainer import EvolutionTrainer, LinearConfig
from cace_env.config import ConfigError
from cace_env.executor import TaskLostError
from cace_env.scenarios import load_scenario
from cace_env.simulation import SimulationError
from experiments import ablate, compare, label, recommend, reference, train, tune
from experiments.running.executors import on_ray

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

ROOT = Path(__file__).resolve().parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}
BESIDE = ("guarded:agent:eviction", "planner:lru", "cace:demand=ewma", "static-best")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes need not find the functions of tests


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={**NODE, "node_ip_address": on_ray.LOOPBACK})
    made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = load_scenario("default").tables().model_names
    lines = [f"{3 * i},{100 + i},20,{names[i * i % 6]},chat\n" for i in range(900)]
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("time,context_tokens,output_tokens,model,task\n" + "".join(lines))
    return path


@pytest.fixture(scope="module")
def logged(log: Path) -> Path:
    """A scenario to train on, whose requests are those of the log."""
    section = {"path": str(log), "format": "cace", "part": "train", "windows": 4, "attach": "drawn"}
    scenario = load_scenario("default").model_dump(mode="json", exclude_none=True)
    path = log.with_name("logged.yaml")
    path.write_text(yaml.safe_dump({**scenario, "name": "logged", "trace": section}))
    return path


def on(cluster: Cluster) -> list[str]:
    return ["--executor", "ray", "--ray-address", str(cluster.address)]


def table(path: Path, *without: str) -> list[dict[str, str]]:
    """Rows of a CSV file without columns that say how long something took."""
    with path.open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in without} for row in csv.DictReader(file)]


def same_files(one: Path, other: Path, *names: str) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def labelling(scenario: Path, folder: Path) -> list[str]:
    """Options that price episodes."""
    asked = ["--algorithm", "imitation", "--train-on", str(scenario), "--labels", str(folder), "--player", "lru"]
    return [*asked, "--futures", "2", "--share", "0.2", "--horizons-s", "20", "60"]


def same_rows(one: Path, other: Path) -> bool:
    names = {"rows.csv": ["decision_us"], "ttft.csv": [], "windows.csv": [], "searches.csv": ["wall_s"]}
    there = [name for name in names if (one / name).exists()]
    assert "rows.csv" in there
    return all(table(one / name, *names[name]) == table(other / name, *names[name]) for name in there)


# ---------------------------------------------------------------------------------------------------------------------
# The same results


def test_a_comparison_is_the_same_to_the_bit(cluster: Cluster, short: Path, tmp_path: Path) -> None:
    names = ",".join([*BESIDE, "lru", "cace", "agent:eviction"])
    asked = ["--scenarios", str(short), "--policies", names, "--policy", "tests.support.small:lru_in_python"]
    asked += ["--seeds", "3", "--reference", "2", "--reference-option", "max_rounds=1", "--out"]
    assert compare.main([*asked, str(tmp_path / "here")]) == 0
    assert compare.main([*asked, str(tmp_path / "there"), *on(cluster)]) == 0
    assert same_rows(tmp_path / "there", tmp_path / "here")
    assert json.loads((tmp_path / "there" / "run.json").read_text())["cores"] == 2


def test_a_log_is_played_the_same(cluster: Cluster, log: Path, short: Path, tmp_path: Path) -> None:
    asked = ["--scenarios", str(short), "--policies", "lru,static-best", "--trace", str(log), "--format", "cace"]
    asked += ["--part", "test", "--seeds", "2", "--trace-option", "users=5", "--out"]
    assert compare.main([*asked, str(tmp_path / "here")]) == 0
    assert compare.main([*asked, str(tmp_path / "there"), *on(cluster)]) == 0
    assert same_rows(tmp_path / "there", tmp_path / "here")


def test_references_are_the_same_and_kept_on_this_machine(cluster: Cluster, short: Path, tmp_path: Path) -> None:
    asked = ["find", "--scenarios", str(short), "--seeds", "4", "--reference-option", "max_rounds=1"]
    for name, more in {"here": [], "there": on(cluster)}.items():
        files = ["--cache", str(tmp_path / name), "--out", str(tmp_path / f"{name}.csv")]
        assert reference.main([*asked, *files, *more]) == 0
    assert table(tmp_path / "there.csv", "wall_s") == table(tmp_path / "here.csv", "wall_s")
    kept_here, kept_there = ({path.name for path in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert kept_there == kept_here


def test_ablations_and_advice_are_the_same(cluster: Cluster, log: Path, short: Path, tmp_path: Path) -> None:
    asked = ["cace", "--scenarios", str(short), "--seeds", "2", "--out"]
    assert ablate.main([*asked, str(tmp_path / "here")]) == 0
    assert ablate.main([*asked, str(tmp_path / "there"), *on(cluster)]) == 0
    assert same_rows(tmp_path / "there", tmp_path / "here")
    asked = [str(log), "--gpu", "l40s", "--policies", "lru,gdsf,omlx", "--tuning", "20000", "--out"]
    assert recommend.main([*asked, str(tmp_path / "said-here")]) == 0
    assert recommend.main([*asked, str(tmp_path / "said-there"), *on(cluster)]) == 0
    here, there = (table(tmp_path / name / "windows.csv") for name in ("said-here", "said-there"))
    assert {row["policy"] for row in here} >= {"lru", "cace:tuned-here"}
    assert len(there) == len(here) and all(row in there for row in here)


# ---------------------------------------------------------------------------------------------------------------------
# The same agents


def test_a_training_by_evolution_is_the_same(cluster: Cluster, logged: Path, short: Path, tmp_path: Path) -> None:
    asked = ["--algorithm", "linear", "--train-on", str(short), str(logged), "--steps", "8", "--interval", "4"]
    asked += ["--population", "4", "--seeds-per-generation", "3", "--validation-seeds", "2", "--wandb", "off", "--out"]
    for name, more in {"here": [], "there": on(cluster)}.items():
        assert train.main([*asked, str(tmp_path / name), *more]) == 0
    here, there = (table(tmp_path / name / "metrics.csv", "wall_s") for name in ("here", "there"))
    assert there == here and len(here) == 3
    assert same_files(tmp_path / "there", tmp_path / "here", "best/weights.npz", "config.yaml")
    assert train.main(["--out", str(tmp_path / "there"), "--resume", "--steps", "12"]) == 0  # goes on here


def test_labels_are_the_same(cluster: Cluster, logged: Path, short: Path, tmp_path: Path) -> None:
    asked = [*labelling(short, tmp_path / "here"), "--episodes", "2", "--train-on", str(short), str(logged)]
    assert label.main(asked) == 0
    asked[asked.index(str(tmp_path / "here"))] = str(tmp_path / "there")
    assert label.main([*asked, *on(cluster)]) == 0
    names = [path.name for path in (tmp_path / "here").iterdir()]
    assert len(names) == 4 and same_files(tmp_path / "there", tmp_path / "here", *names)


def test_searches_find_the_same(cluster: Cluster, log: Path, short: Path, tmp_path: Path) -> None:
    asked = ["cace", "--scenarios", str(short), "--trace", str(log), "--format", "cace", "--windows", "4"]
    asked += ["--trace-option", "attach=drawn", "--requests", "20000", "--starts", "1", "--out"]
    space, rest = tmp_path / "space.yaml", ["--trials", "2", "--steps", "8", "--intervals", "2", "--out"]
    fixed = {"algorithm": "linear", "train_on": str(short), "population": 4, "seeds_per_generation": 2}
    parameters = {name: {"value": value} for name, value in fixed.items()} | {"sigma": {"min": 0.1, "max": 1.0}}
    space.write_text(json.dumps({"parameters": parameters}))
    for name, more in {"here": [], "there": on(cluster)}.items():
        assert tune.main([*asked, str(tmp_path / "cace" / name), *more]) == 0
        assert tune.main([str(space), *rest, str(tmp_path / "numbers" / name), *more]) == 0
    assert same_files(tmp_path / "cace" / "there", tmp_path / "cace" / "here", "history.csv")
    trials = [table(tmp_path / "numbers" / name / "trials.csv", "wall_s") for name in ("there", "here")]
    assert trials[0] == trials[1]
    assert same_files(tmp_path / "numbers" / "there", tmp_path / "numbers" / "here", "best/agent/weights.npz")


# ---------------------------------------------------------------------------------------------------------------------
# What is moved


def test_the_object_store_holds_each_thing_once(
    cluster: Cluster, log: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, keep = [], ray.put

    def counted(value: bytes) -> ray.ObjectRef:
        put.append(value)
        return keep(value)

    monkeypatch.setattr(ray, "put", counted)
    asked = ["--scenarios", f"{short},cold-start", "--policies", "lru,agent:eviction", "--seeds", "3", "--out"]
    assert compare.main([*asked, str(tmp_path / "drawn"), *on(cluster)]) == 0
    assert len(put) == 1 + 2  # everybody who plays; two fleets, whose requests are drawn where they are played
    put.clear()
    asked = ["--scenarios", str(short), "--policies", "lru,agent:eviction", "--trace", str(log), "--format", "cace"]
    asked += ["--seeds", "3", "--trace-option", "users=5", "--out"]
    assert compare.main([*asked, str(tmp_path / "logged"), *on(cluster)]) == 0
    assert len(put) == 1 + 1 + 3  # three draws of what is attached to the log
    assert len(set(put)) == len(put)


# ---------------------------------------------------------------------------------------------------------------------
# What is lost


def once_killed(flag: str, number: int) -> int:
    """The third one ends its process when it runs first."""
    if number == 3 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(f"{flag}-begun").open("a") as file:
        file.write(f"{number}\n")
    return number * number


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def failing(number: int, wait_s: float = 0.05) -> int:
    if number == 1:
        raise SimulationError("the first one")
    time.sleep(wait_s)
    return number


def test_a_killed_worker_loses_nothing_but_its_task(cluster: Cluster, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with on_ray.connected(str(cluster.address), None) as executor:
        found = dict(executor.run(once_killed, [(flag, number) for number in range(8)]))
    assert found == {number: number * number for number in range(8)}
    begun = Path(f"{flag}-begun").read_text().split()
    assert sorted(begun) == [str(number) for number in range(8)], "nothing but the task that was killed ran twice"


def killing_once(flag: str, *arguments: Any) -> Any:
    """A task of a generation, in a process that ends when it runs first."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return objective.play(*arguments)


def test_a_generation_survives_a_killed_worker(
    cluster: Cluster, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LinearConfig(train_on=(str(short),), train_seeds=4, seeds_per_generation=4, population=4)
    here = EvolutionTrainer(config).learn(4, lambda step: None)
    with on_ray.connected(str(cluster.address), None) as executor:
        trainer = EvolutionTrainer(config, executor)
        monkeypatch.setattr(objective, "play", partial(killing_once, str(tmp_path / "flag")))
        assert trainer.learn(4, lambda step: None) == here
    assert (tmp_path / "flag").exists()


def test_a_task_that_kills_every_process_is_an_error(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_task", on_ray._task.options(max_retries=0))
    with (
        on_ray.connected(str(cluster.address), None) as executor,
        pytest.raises(TaskLostError, match="Ray lost a task"),
    ):
        list(executor.run(killed, [(1,)]))


def test_an_error_in_a_task_is_that_error_and_the_rest_is_cancelled(cluster: Cluster) -> None:
    with on_ray.connected(str(cluster.address), None) as executor:
        began_s = time.monotonic()
        with pytest.raises(SimulationError, match=r"^the first one$"):
            list(executor.run(failing, [(number, 1.0) for number in range(400)]))
        assert dict(executor.run(failing, [(0,)])) == {0: 0}
        assert time.monotonic() - began_s < 400 * 1.0 / 2, "two nodes would have been at it for so long"


def test_a_node_that_is_lost_loses_nothing(tmp_path: Path, cluster: Cluster) -> None:
    more = cluster.add_node(**NODE)
    with on_ray.connected(str(cluster.address), None) as executor:
        assert executor.cores == 3
        running = executor.run(failing, [(number,) for number in range(2, 60)])
        found = [next(running)]
        cluster.remove_node(more, allow_graceful=False)
        found += running
    assert dict(found) == {number - 2: number for number in range(2, 60)}


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_has_finished_is_kept_and_the_rest_is_cancelled(
    cluster: Cluster, short: Path, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    out = tmp_path / "out"
    asked = ["--scenarios", str(short), "--policies", "lru,planner:lru", "--seeds", "12", "--out", str(out)]
    command = [sys.executable, "-m", "experiments.compare", *asked, *on(cluster)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "rows.csv").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(sent)
    said, wrong = process.communicate(timeout=120)
    assert process.returncode == status, said + wrong
    about = json.loads((out / "run.json").read_text())
    assert about["status"] == "interrupted" and 0 < about["finished"] < 12
    kept = table(out / "rows.csv")
    with on_ray.connected(str(cluster.address), None) as executor:  # both nodes are free again
        assert dict(executor.run(failing, [(0,), (2,)])) == {0: 0, 1: 2}
    assert compare.main([*asked, "--workers", "1"]) == 0  # goes on here
    assert [row for row in table(out / "rows.csv") if row in kept] == sorted(kept, key=kept.index)
    assert len(table(out / "rows.csv")) == 3 * 12  # no-swapping plays, too


def test_labels_that_were_priced_are_kept(cluster: Cluster, short: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    asked = [*labelling(short, out), "--episodes", "12"]
    command = [sys.executable, "-m", "experiments.label", *asked, *on(cluster)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*.npz")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on" in wrong, said + wrong
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    assert 0 < len(kept) < 12
    assert label.main(asked) == 0  # goes on here
    assert len(list(out.iterdir())) == 12 and all((out / name).read_bytes() == kept[name] for name in kept)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def test_nodes_with_other_code_are_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_ray.connected(str(cluster.address), None) as executor:
        monkeypatch.setattr(executor, "_versions", ("another",))
        with pytest.raises(ConfigError, match=r"node 127\.0\.0\.1 has another cace-env"):
            list(executor.run(failing, [(0,)]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--ray-address", "ray://127.0.0.1:10001"], "Ray Client is not supported"),
        (["--ray-address", "127.0.0.1:6"], "no Ray cluster at 127.0.0.1:6"),
        (["--ray-address", "127.0.0.1:6", "--workers", "2"], "--workers is for a cluster of this command"),
    ],
)
def test_addresses_of_no_use_are_a_line(
    given: list[str], said: str, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--scenarios", str(short), "--policies", "lru", "--seeds", "1", "--executor", "ray", *given]
    assert compare.main([*asked, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_command_starts_a_cluster_of_its_own_and_ends_it(short: Path, tmp_path: Path) -> None:
    asked = ["--scenarios", str(short), "--policies", "lru,cace", "--seeds", "2", "--out"]
    before = signal.getsignal(signal.SIGTERM)
    assert compare.main([*asked, str(tmp_path / "here")]) == 0
    assert compare.main([*asked, str(tmp_path / "there"), "--executor", "ray", "--workers", "1"]) == 0
    assert same_rows(tmp_path / "there", tmp_path / "here")
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) == before
