"""Claims about what is shared with the vector environment: arrays, threads, processes, compiled code, memory."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from cace_env.envs import EvictionEnv, EvictionVectorEnv
from cace_env.kernel import batch as kernel
from cace_env.simulation import Bank
from tests.kinds import Kind
from tests.support.envs import roomy, short
from tests.support.vector_runs import (
    MODES,
    assert_same,
    comparable,
    go_on,
    legal_actions,
    play,
    scenarios,
    some_actions,
)

# ---------------------------------------------------------------------------------------------------------------------
# What was returned belongs to the caller


@pytest.mark.parametrize("mode", MODES)
def test_what_was_returned_never_changes(mode: str, kind: Kind) -> None:
    env = kind.many(3, scenarios()["default"], autoreset_mode=mode, episode_statistics=True, threads=2)
    returned = [[env.reset(seed=1)]]
    copies = copy.deepcopy(returned)
    rng = np.random.default_rng(0)
    for _ in range(60):
        returned.append(go_on(env, some_actions(rng, env.action_masks())))
        copies.append(copy.deepcopy(returned[-1]))
    mask = np.array([True, False, True])
    returned.append([env.reset(), env.reset(options={"reset_mask": mask})])
    copies.append(copy.deepcopy(returned[-1]))
    mask[:] = False
    env.step(legal_actions(env))
    assert_same(returned, copies)


def overwrite(value: Any, number: int) -> None:
    """Fills every array with a number."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = number
    elif isinstance(value, dict):
        overwrite(list(value.values()), number)
    elif isinstance(value, tuple | list | np.ndarray):
        for each in value:
            overwrite(each, number)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("duplicate", [lambda env: env, lambda env: pickle.loads(pickle.dumps(env))], ids=["", "copy"])
def test_what_a_caller_writes_into_returned_arrays_changes_nothing(
    mode: str, duplicate: Callable[[EvictionVectorEnv], EvictionVectorEnv], kind: Kind
) -> None:
    env, untouched = (
        duplicate(kind.many(3, [scenarios()["priced"], roomy()], autoreset_mode=mode, episode_statistics=True))
        for _ in range(2)
    )
    mask = np.ones(3, dtype=np.bool_)
    returned: Any = [env.reset(seed=1, options={"reset_mask": mask})]
    untouched.reset(seed=1)
    rng = np.random.default_rng(0)
    for step in range(40):
        overwrite([returned, mask, env.action_masks()], step % 2)
        np.testing.assert_array_equal(env.action_masks(), untouched.action_masks())
        actions = some_actions(rng, untouched.action_masks())
        mine = actions.copy()
        returned, expected = go_on(env, mine), go_on(untouched, actions)
        for _, _, _, _, infos in (returned[0], expected[0]):
            for place in (infos, infos.get("final_info", {})):
                place.get("episode", {}).pop("t", None)  # the one thing that no seed repeats: wall time
        assert_same(returned, expected)
        mine[:] = -5


# ---------------------------------------------------------------------------------------------------------------------
# Who shares the work


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_the_number_of_threads(mode: str, kind: Kind) -> None:
    played = [scenarios()[name] for name in ("default", "priced", "cut")]
    runs = []
    for threads in (1, 2, 3, 9):
        env = kind.many(7, played, autoreset_mode=mode, threads=threads, num_workloads=4)
        runs.append([env.reset(seed=2), play(env, 50)])
        env.close()
        runs[-1].append(play(env, 2))  # threads come back when they are needed
        env.close()
    for other in runs[1:]:
        assert_same(other, runs[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_two_python_threads_step_two_environments_at_once(threads: int) -> None:
    def run(seed: int) -> list[Any]:
        env = EvictionVectorEnv(4, scenarios()["default"], autoreset_mode="SameStep", threads=threads)
        results = [env.reset(seed=seed), play(env, 30)]
        env.close()
        return results

    expected = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(run, range(4))), expected)


def child(env: EvictionVectorEnv, sender: Connection) -> None:
    sender.send(comparable(play(env, 20)))
    sender.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_goes_on_as_its_parent_does() -> None:
    env = EvictionVectorEnv(4, scenarios()["default"], autoreset_mode="SameStep", threads=3)
    env.reset(seed=1)
    play(env, 10)  # the threads exist, and hold locks that a fork would inherit
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(env, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(60), "the child hangs"
        forked = receiver.recv()
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    np.testing.assert_equal(forked, comparable(play(env, 20)))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_goes_on_alike_and_apart(
    duplicate: Callable[[EvictionVectorEnv], EvictionVectorEnv], threads: int, kind: Kind
) -> None:
    env = kind.many(4, scenarios()["default"], threads=threads, num_workloads=50)
    env.reset(seed=1)
    play(env, 11)
    twin, other = duplicate(env), duplicate(env)
    play(other, 30, choose=1)  # what one does is not felt by the others
    assert_same(play(env, 40), play(twin, 40))
    assert_same(env.reset(), twin.reset())  # generators of seeds are equal, too


# ---------------------------------------------------------------------------------------------------------------------
# What it costs


def test_nothing_is_compiled_a_second_time() -> None:
    entries: tuple[Any, ...] = (kernel.step_rows, kernel.see_rows, kernel.step_one)
    single = EvictionEnv(roomy())
    single.reset(seed=1)
    single.step(0)
    env = EvictionVectorEnv(4, roomy(), autoreset_mode="Disabled", threads=2)
    env.reset(seed=1)
    env.step(np.zeros(4, dtype=np.int64))
    mask = np.array([True, False, True, True])
    env.reset(options={"reset_mask": mask})
    before = [set(entry.signatures) for entry in entries]
    frozen = np.zeros(4, dtype=np.int64)
    frozen.flags.writeable = False  # as JAX hands them over
    for actions in (frozen, np.zeros(8, dtype=np.int64)[::2], np.zeros(4, dtype=np.uint8), [0, 0, 0, 0]):
        for played in (env, pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
            played.reset(options={"workload_seed": np.arange(4)})
            played.step(actions)
            played.reset(options={"reset_mask": mask})
    assert [set(entry.signatures) for entry in entries] == before
    assert len(before[1]) == 1  # and both kinds of environments share it


@pytest.mark.parametrize(("mode", "num_workloads"), [("SameStep", None), ("NextStep", 2), ("Disabled", 2)])
def test_memory_does_not_grow_with_steps(mode: str, num_workloads: int | None) -> None:
    env = EvictionVectorEnv(2, scenarios()["cut"], autoreset_mode=mode, num_workloads=num_workloads)
    env.reset(seed=1)

    def blocks_after(steps: int) -> int:
        for _ in range(steps):
            go_on(env, legal_actions(env))
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(600)
    assert blocks_after(1_500) - before < 750  # half an object a step; free lists fill up


def test_no_step_takes_more_memory_late_in_an_episode() -> None:
    env = EvictionVectorEnv(2, short("workstation", 1_500), autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=1)
    peaks_bytes = []
    tracemalloc.start()
    try:
        over = False
        while not over:
            actions = legal_actions(env)
            tracemalloc.reset_peak()
            before_bytes = tracemalloc.get_traced_memory()[0]
            over = bool(env.step(actions)[2].any())
            if not over:  # the last step computes metrics of all requests
                peaks_bytes.append(tracemalloc.get_traced_memory()[1] - before_bytes)
    finally:
        tracemalloc.stop()
    assert len(peaks_bytes) > 200
    assert max(peaks_bytes[-100:]) <= max(peaks_bytes[10:110]) + 500


def test_rows_of_the_bank_that_nobody_has_written_take_no_memory() -> None:
    psutil = pytest.importorskip("psutil", reason="needs the extra dev")
    process = psutil.Process()
    bank, scenario = Bank(4, 20_000), short(requests=400)
    bank.put(0, scenario.workload(1))
    before = process.memory_info().rss
    longer = scenario.replace(workload={**scenario.workload_config.model_dump(mode="json"), "requests": 401})
    bank.put(1, longer.workload(1))
    copied = pickle.loads(pickle.dumps(bank))
    np.testing.assert_array_equal(copied.times[:2], bank.times[:2])
    assert copied.times.shape == bank.times.shape
    assert process.memory_info().rss - before < 50e6  # all rows together would be 400 MB
