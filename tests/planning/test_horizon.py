"""Claims about a look ahead with the true future: it uses what it knows, and nothing is known without being given."""

from __future__ import annotations

import math

import pytest

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.planning import play_knowing
from cace_env.policies import Future, contestant_of, policy
from tests.planning.test_planner import episode
from tests.support.small import SEVEN

BASES = {"eviction": ("lru", "cace"), "swap": ("fifo+lru", "wsjf+gdsf")}


def alone(protocol: str, name: str, seed: int = 5) -> float:
    case, workload, _ = episode(protocol, seed)
    return run_episode(contestant_of(name), case, workload, seed)[0].cost()


@pytest.mark.parametrize("seed", range(5, 9))
@pytest.mark.parametrize("protocol", BASES)
def test_who_knows_all_to_come_never_pays_more_than_the_policy_alone(protocol: str, seed: int) -> None:
    for name in BASES[protocol]:
        played = play_knowing(*episode(protocol, seed), seed, horizon_s=math.inf, base=policy(name))
        cost = alone(protocol, name, seed)
        assert played.simulator.cost() < cost if played.changed else played.simulator.cost() == cost


@pytest.mark.parametrize("protocol", BASES)
def test_who_knows_nothing_to_come_plays_as_the_policy_alone(protocol: str) -> None:
    for name in BASES[protocol]:
        played = play_knowing(*episode(protocol), 5, horizon_s=1e-6, base=policy(name))
        assert played.changed == 0 < played.decisions
        assert played.simulator.cost() == alone(protocol, name)


def test_who_knows_what_comes_prefetches_for_an_agent_that_has_not_learned_to() -> None:
    case = case_of(SEVEN | {"rules": {"prefetch_limit": 100}}, "swap")
    workload = case.workload(5)
    future = Future.of(case.tables, workload)
    seeing = play_knowing(case, workload, future, 5, horizon_s=60.0, base=policy("agent:swap")).simulator
    assert seeing.totals().prefetches > 0
    bare = case_of(SEVEN, "swap")
    assert seeing.cost() < run_episode(contestant_of("agent:swap"), bare, workload, 5)[0].cost()


def test_a_clairvoyant_policy_can_play_on() -> None:
    played = play_knowing(*episode("eviction"), 5, horizon_s=math.inf, base=policy("belady-cost"))
    assert played.simulator.cost() <= alone("eviction", "belady-cost")


def test_the_future_has_to_be_given_and_to_be_that_of_the_requests() -> None:
    case, workload, _ = episode("eviction")
    other = Future.of(case.tables, case_of(SEVEN, "eviction").workload(6))
    with pytest.raises(ConfigError, match="needs the future"):
        play_knowing(case, workload, None, 5, horizon_s=60.0, base=policy("lru"))
    with pytest.raises(ConfigError, match="belongs to another workload"):
        play_knowing(case, workload, other, 5, horizon_s=60.0, base=policy("lru"))


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, math.nan])
def test_a_look_ahead_of_no_time_is_refused(horizon_s: float) -> None:
    with pytest.raises(ConfigError, match="has to be above 0"):
        play_knowing(*episode("eviction"), 5, horizon_s=horizon_s, base=policy("lru"))
