"""Claims about the threads of a vector environment: what they may not change, and how they end."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from cace_env.envs import FleetVectorEnv
from cace_env.envs.workload_seeds import Ahead, Draws, Key
from cace_env.simulation import Simulators
from cace_env.simulation import team as team_module
from cace_env.simulation.team import Team
from tests.kinds import EVICTION, Kind
from tests.support.vector_runs import MODES, assert_same, make, play, scenarios

SOON_S = 20.0  # for what takes a millisecond


def threads() -> list[threading.Thread]:
    """Those of all vector environments."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("cace-env")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    before = set(threads())
    yield
    gc.collect()
    for thread in set(threads()) - before:
        thread.join(SOON_S)
        assert not thread.is_alive()


def settled(env: FleetVectorEnv) -> None:
    """Waits until every workload that is expected has been drawn."""
    for future in list(env._ahead._coming.values()):
        future.exception(SOON_S)


def noted(monkeypatch: Any) -> list[Key]:
    """Which workloads are drawn from now on, in this order."""
    drawn: list[Key] = []
    draw = Draws.draw

    def draw_and_note(self: Draws, key: Key) -> Any:
        drawn.append(key)
        return draw(self, key)

    monkeypatch.setattr(Draws, "draw", draw_and_note)
    return drawn


@pytest.mark.parametrize("baseline", [None, "lru"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_depends_on_what_is_drawn_ahead(mode: str, baseline: str | None, kind: Kind, monkeypatch: Any) -> None:
    played = [scenarios()[name] for name in ("default", "priced")]

    def run(threads: int) -> list[Any]:
        env = kind.many(5, played, autoreset_mode=mode, threads=threads, baseline=baseline, episode_statistics=False)
        rows = [env.reset(seed=2), play(env, 40), env.reset(seed=[9, None, 3, None, 4]), play(env, 10)]
        rows += [env.reset(options={"workload_seed": 17}), play(env, 40)]
        rows.append([env.get_state(number) for number in range(5)])
        assert baseline is None or env.rewards.baseline is not None
        requests = env.rewards.baseline.requests if env.rewards.baseline else 0
        env.close()
        rows[-1] = [pickle.dumps((state.simulation, state.generator)) for state in rows[-1]]
        return [*rows, requests]

    expected = run(1)
    assert_same(run(2), expected)
    assert_same(run(3), expected)
    monkeypatch.setattr(Ahead, "expect", lambda *_: None)
    assert_same(run(3), expected)


def test_a_workload_that_is_drawn_ahead_is_not_drawn_again(monkeypatch: Any) -> None:
    env = make(4, autoreset_mode="SameStep", threads=2)
    drawn = noted(monkeypatch)
    env.reset(seed=1)
    settled(env)
    assert len(drawn) == 8  # what is played, and what will be
    ended = 0
    while ended < 4:
        _, _, terminated, truncated, infos = env.step(env.action_masks().argmax(axis=1))
        settled(env)
        ended += int((terminated | truncated).sum())
        assert {(0, seed) for seed in infos["workload_seed"].tolist()} <= set(drawn)
        assert len(drawn) == 8 + ended
    assert len(env._ahead._coming) == 4  # one for each, however many episodes end
    env.close()


def test_workloads_that_are_kept_are_drawn_once(monkeypatch: Any) -> None:
    drawn = noted(monkeypatch)
    env = make(4, autoreset_mode="SameStep", threads=2, num_workloads=3)
    env.reset(seed=1)
    play(env, 60)
    env.close()
    assert len(drawn) == len(set(drawn)) == 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_workload_that_cannot_be_drawn_fails_where_it_is_needed(threads: int, monkeypatch: Any) -> None:
    """The error of a thread is not lost, and does not come early: the twin plays to the same step."""

    def run(bad: set[int]) -> tuple[int, str]:
        draw = Draws.draw

        def fails(self: Draws, key: Key) -> Any:
            if key[1] in bad:
                raise RuntimeError(f"no requests for {key[1]}")
            return draw(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(Draws, "draw", fails)
            env = make(3, autoreset_mode="SameStep", threads=threads)
            _, infos = env.reset(seed=1)
            first = set(infos["workload_seed"].tolist())
            for step in range(200):
                settled(env)
                try:
                    infos = env.step(env.action_masks().argmax(axis=1))[-1]
                except RuntimeError as error:
                    env.close()
                    return step, str(error)
                if later := set(infos["workload_seed"].tolist()) - first:
                    env.close()
                    return step, f"no requests for {min(later)}"
        raise AssertionError("no episode ended")

    step, error = run(set())
    assert run({int(error.split()[-1])}) == (step, error)


def test_idle_threads_take_no_processor_time() -> None:
    env = make(4, threads=3)
    env.reset(seed=1)
    play(env, 3)
    time.sleep(0.1)  # until they sleep
    before_s = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before_s < 0.05
    play(env, 3)  # and they wake up
    env.close()


def test_threads_end_with_their_environment_and_once_only() -> None:
    before = len(threads())
    env = make(4, threads=3)
    env.reset(seed=1)
    assert len(threads()) == before + 2
    env.simulators.close()
    env.simulators.close()
    assert len(threads()) == before
    play(env, 3)  # they come back when they are needed
    assert len(threads()) == before + 2
    env.close()
    env.close()
    assert len(threads()) == before
    forgotten = make(4, threads=3)
    forgotten.reset(seed=1)
    mine = [thread for thread in threads() if thread.is_alive()]
    del forgotten
    gc.collect()
    for thread in mine:
        thread.join(SOON_S)
        assert not thread.is_alive()


def test_an_errand_wakes_a_sleeper() -> None:
    env = make(4, threads=2)
    team = env.simulators.team()
    assert isinstance(team, Team)
    for _ in range(3):
        came = threading.Event()
        team.send(came.set)
        assert came.wait(SOON_S)
        time.sleep(0.005)  # the worker sleeps again
    env.close()


@pytest.mark.integration
def test_a_process_ends_although_its_environments_were_not_closed() -> None:
    code = """
from tests.support.vector_runs import make, play
envs = [make(4, threads=3, autoreset_mode="SameStep") for _ in range(3)]
for env in envs:
    env.reset(seed=1)
    play(env, 5)
print("played")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "played\n"), done.stderr


def test_every_row_is_stepped_once_whoever_is_awake() -> None:
    """Workers fall asleep and wake up at any moment of a step; many short steps meet most of them."""
    envs = [make(6, kind=EVICTION, autoreset_mode="SameStep", threads=number) for number in (1, 2, 4)]
    for env in envs:
        env.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(400):
        if rng.random() < 0.1:
            time.sleep(float(rng.random()) * 3e-4)
        first, *others = [env.step(env.action_masks().argmax(axis=1)) for env in envs]
        for other in others:
            assert_same(other, first)
    for env in envs:
        env.close()


def test_workers_look_for_work_although_something_else_had_the_core_when_their_looks_were_timed(
    monkeypatch: Any,
) -> None:
    moments = iter(
        [0.0, 60.0] + [second for number in range(1, 9) for second in (100.0 * number, 100.0 * number + 1e-5)]
    )
    with monkeypatch.context() as patch:
        patch.setattr(team_module.time, "perf_counter", lambda: next(moments))
        env = make(2, threads=2)
        team = env.simulators.team()
    assert isinstance(team, Team) and team._post.looks > 100
    env.close()


def test_a_pickled_environment_takes_no_simulator_that_a_thread_may_be_playing_in() -> None:
    env = make(4, threads=2, baseline="lru")
    env.reset(seed=1)
    settled(env)
    assert env.rewards.baseline is not None and any(env.rewards.baseline._idle)
    copied = pickle.loads(pickle.dumps(env))
    assert copied.rewards.baseline._idle == [[]]
    assert_same(play(copied, 10), play(env, 10))
    env.close()
    copied.close()


def test_one_thread_has_no_team() -> None:
    env = make(4, threads=1)
    env.reset(seed=1)
    assert isinstance(env.simulators, Simulators) and env.simulators.team() is None
    assert not env._ahead._coming
