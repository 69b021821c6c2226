"""A scenario in which nothing is ever decided does not pass silently, and no other one raises an alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from cace_env.envs import EvictionEnv, EvictionVectorEnv, SwapEnv
from cace_env.evaluation import evaluate, load_suite
from cace_env.evaluation.suite import suite_versions
from cace_env.fleets.nothing_to_decide import nothing_to_decide
from cace_env.policies import policy
from cace_env.scenarios import scenario_names
from cace_env.simulation import Simulator
from cace_env.workload import Workload
from tests.specification.examples import fleet
from tests.support.small import SMALL

VAST = SMALL | {"name": "vast", "pressure": 0.9}
LARGE = ["qwen2.5-coder-7b", "deepseek-coder-6.7b", "r1-distill-qwen-7b"]
SINGLE = SMALL | {"name": "single", "pressure": 2.1, "catalogue": LARGE}  # no two of them fit


def reason(**tables: Any) -> str | None:
    found = nothing_to_decide(fleet(**tables))
    return None if found is None else found[0]


def test_no_shipped_scenario_raises_an_alarm():
    for name in scenario_names():
        for env in (EvictionEnv, SwapEnv):
            env(name)  # a warning is an error here
    for version in suite_versions():
        cases = load_suite(version).cases()
        assert [name for name, case in cases.items() if nothing_to_decide(case.tables) is not None] == []


def test_an_environment_in_which_everything_fits_says_what_to_change():
    with pytest.warns(UserWarning, match=r"'vast': no policy is ever asked.*holds all models.*raise `pressure`"):
        EvictionEnv(VAST)
    with pytest.warns(UserWarning, match="'vast': no policy is ever asked"):
        EvictionVectorEnv(2, [SMALL, VAST])
    SwapEnv(VAST)  # which model is loaded first matters all the same


def test_a_single_slot_leaves_no_choice():
    with pytest.warns(UserWarning, match=r"memory holds one model at a time.*lower `pressure`"):
        env = EvictionEnv(SINGLE)
    assert env.action_space == spaces.Discrete(1)


def test_an_evaluation_without_a_question_says_so_whoever_decides():
    for contestant in ("lru", lambda features, legal: np.zeros(len(legal))):
        with pytest.warns(UserWarning, match=r"'vast': no policy was asked in 2 episodes.*raise `pressure`"):
            evaluate(contestant, VAST, [1, 2])
    evaluate("lru", SMALL, [1])
    evaluate("no-swapping", SMALL, [1])  # no question is expected there
    evaluate(replace(policy("lru"), max_resident=1), SMALL, [1])  # it is this policy that has no choice


def test_what_the_fleet_does_not_tell_shows_when_it_is_played():
    quiet = SMALL | {"name": "quiet", "workload": {**SMALL["workload"], "requests": 2}}
    EvictionEnv(quiet)
    with pytest.warns(UserWarning, match=r"no policy was asked in 1 episode: .*more requests"):
        evaluate("lru", quiet, [1])


def test_what_is_certain_is_what_the_rules_say():
    assert reason(need=(6, 6, 6), memory=(12,)) is None
    assert "holds all models" in str(reason(need=(4, 4, 4), memory=(12,)))
    assert (
        reason(need=(4, 4, 4), memory=(12, 8)) is None
    )  # where the larger one loads, the smaller one may have to evict
    assert "holds all models" in str(reason(need=(4, 4, 4), memory=(12, 12)))
    assert "one model at a time" in str(reason(need=(7, 7, 7), memory=(12,)))
    assert reason(need=(7, 7, 7), memory=(12, 12)) is None  # two models could leave
    assert "only two" in str(reason(need=(6, 6), memory=(6, 6)))
    assert "from the beginning" in str(reason(need=(6, 6, 6), memory=(12, 6), resident_on=(0, 0, 1)))


@pytest.mark.parametrize("need", [(4, 4, 4), (7, 7, 7), (6, 6)])
def test_where_it_is_certain_no_request_ever_brings_a_question(need: tuple[int, ...]):
    """Requests for all models, now in bursts and now alone."""
    tables = fleet(need=need, memory=(12,))
    assert nothing_to_decide(tables) is not None
    rng = np.random.default_rng(1)
    count = 60
    workload = Workload.from_columns(
        model=rng.integers(len(need), size=count),
        task=[0] * count,
        arrival_us=np.sort(rng.integers(1, 400_000_000, size=count)),
        context_tokens=[10] * count,
        output_tokens=[5] * count,
    )
    assert not Simulator(tables).reset(workload)
