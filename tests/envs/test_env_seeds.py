"""Claims about seeds, copies and pickles of single environments: the same seed is the same episode."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cace_env.envs import EvictionEnv
from cace_env.scenarios import SEEDS, Split
from cace_env.workload import Workload, WorkloadError
from tests.kinds import Kind
from tests.support.envs import first_legal, last_legal, rollout, short


def assert_same(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_equal(a, b)  # exact, and NaN equals NaN


# ---------------------------------------------------------------------------------------------------------------------
# Determinism, copies, seeds


def test_two_instances_with_one_seed_are_equal(kind: Kind) -> None:
    assert_same(rollout(kind.single(short()), seed=11), rollout(kind.single(short()), seed=11))


def test_an_episode_does_not_depend_on_the_one_before(kind: Kind) -> None:
    env = kind.single(short())
    rollout(env, last_legal, seed=4)
    assert_same(rollout(env, seed=11), rollout(kind.single(short()), seed=11))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("mode", [None, "ansi"])
def test_a_copy_goes_on_alike_and_apart(
    duplicate: Callable[[EvictionEnv], EvictionEnv], mode: str | None, kind: Kind
) -> None:
    env = kind.single(short(), render_mode=mode)
    _, info = env.reset(seed=7)
    for _ in range(10):
        *_, info = env.step(first_legal(info))
    twin = duplicate(env)
    mask = info["action_mask"]
    results = []
    for each in (env, twin):
        rows = [each.step(int(mask.argmax()))]
        while not rows[-1][2]:
            rows.append(each.step(first_legal(rows[-1][-1])))
        results.append(rows)
    assert_same(*results)
    assert_same(rollout(env), rollout(twin))  # the generators of seeds are equal too


def test_a_fresh_environment_can_be_pickled(kind: Kind) -> None:
    assert_same(
        rollout(pickle.loads(pickle.dumps(kind.single(short()))), seed=1), rollout(kind.single(short()), seed=1)
    )


@pytest.mark.parametrize("split", SEEDS)
def test_no_seed_leads_out_of_the_split(split: Split) -> None:
    env = EvictionEnv(short(requests=20), split=split)
    played = {env.reset(seed=seed)[1]["workload_seed"] for seed in (0, 5, 1_000_003, 2_000_099, 2**31)}
    played |= {env.reset()[1]["workload_seed"] for _ in range(5)}
    assert all(seed in SEEDS[split] for seed in played)
    own = SEEDS[split][7]
    assert env.reset(seed=own)[1]["workload_seed"] == own


def test_an_option_names_the_workload_exactly() -> None:
    env = EvictionEnv(short(requests=20))
    _, info = env.reset(options={"workload_seed": 123})
    assert info["workload_seed"] == 123
    assert env.workload is not None
    np.testing.assert_equal(env.workload.output_tokens, short(requests=20).workload(123).output_tokens)
    with pytest.raises(ValueError, match="split='test'"):
        env.reset(options={"workload_seed": 2_000_000})
    with pytest.raises(ValueError, match="workload_sede"):
        env.reset(options={"workload_sede": 1})


def test_a_log_can_be_played() -> None:
    env = EvictionEnv(short())
    workload = Workload.from_columns(model=[0, 1], context_tokens=[100, 100], output_tokens=[5, 5])
    _, info = env.reset(options={"workload": workload})
    assert info["workload_seed"] == -1 and env.workload is workload
    with pytest.raises(WorkloadError, match="'model', row 0"):
        env.reset(options={"workload": Workload.from_columns(model=[99], context_tokens=[1], output_tokens=[1])})


def test_resets_without_seed_differ() -> None:
    env = EvictionEnv(short(requests=20))
    env.reset(seed=1)
    assert len({env.reset()[1]["workload_seed"] for _ in range(8)}) == 8
