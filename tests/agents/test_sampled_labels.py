"""Claims about labels in sampled futures: nothing of the true one is in them, and more futures say the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import yaml

from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import Classroom
from agents.imitation.pricing import Priced, Pricing, price_episode
from agents.imitation.trainer import ImitationTrainer
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.forecasting import load_habits, save_habits
from cace_env.kernel.pick import pick
from cace_env.kernel.state import CLOCK, REQUEST
from cace_env.policies import policy
from cace_env.policies.built_in import rule_of
from cace_env.policies.planner import SampledRollouts
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import Protocol
from tests.support.other_futures import with_another_future
from tests.support.small import SMALL

HABITS = load_habits()[0]
LRU, NEAR = policy("lru"), (20.0, 60.0)
SHORT = SMALL | {"workload": SMALL["workload"] | {"requests": 150}}


def room_of(protocol: str = "eviction", scenario: dict[str, Any] = SMALL) -> Classroom:
    return Classroom.of(0, case_of(scenario, protocol), first_seed=0)


def priced(room: Classroom, futures: int = 4, **changes: Any) -> Priced:
    return price_episode(room, 4, LRU, Pricing((LRU,), NEAR, futures=futures, habits=HABITS, **changes))


def choices(room: Classroom) -> tuple[list[int], Simulator]:
    """When LRU has a choice in the same episode; the simulator at its end."""
    simulator, rule = Simulator(room.case.tables), rule_of(LRU, room.case.tables)
    scratch = new_scratch(room.layout.max_slots, room.case.tables.num_models)
    asked, times = simulator.reset(room.case.workload(4)), []
    while asked:
        if simulator.state.legal.sum() > 1:
            times.append(int(simulator.state.scalars[CLOCK]))
        asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))
    return times, simulator


@pytest.mark.parametrize("protocol", tuple(Protocol))
def test_what_comes_after_a_question_is_in_no_label(protocol: str) -> None:
    room, first = room_of(protocol), 150
    other = with_another_future(room.case, room.case.workload(4), first)
    elsewhere = replace(room, case=replace(room.case, workload=lambda seed: other))
    (mine, played), (theirs, played_again) = choices(room), choices(elsewhere)
    # until the first of the requests that differ comes in one of the episodes
    until = min(int(simulator.state.requests[first:, REQUEST.arrival_us].min()) for simulator in (played, played_again))
    before = sum(time < until for time in mine)
    assert before == sum(time < until for time in theirs) >= 20
    here, there = priced(room), priced(elsewhere)
    assert len(here.extra) == len(mine)
    np.testing.assert_array_equal(here.extra[:before], there.extra[:before])
    known = [price_episode(each, 4, LRU, Pricing((LRU,), (math.inf,))).extra[:before] for each in (room, elsewhere)]
    assert not np.array_equal(*known)  # with the true future they do differ


def test_labels_of_more_futures_differ_less() -> None:
    room = room_of()
    few, more, most = (priced(room, futures, share=0.2).extra for futures in (2, 32, 256))
    assert np.abs(more - most).mean() < 0.5 * np.abs(few - most).mean()


def test_a_label_is_the_mean_over_futures_and_over_who_plays_on() -> None:
    """The past is read at every question, labelled or not: with gaps in it other futures would be drawn."""
    room, gdsf = room_of(scenario=SHORT), policy("gdsf")
    tables, workload = room.case.tables, room.case.workload(4)
    found = price_episode(room, 4, LRU, Pricing((LRU, gdsf), NEAR, share=0.4, futures=3, habits=HABITS))
    rules = [rule_of(each, tables, seed=4) for each in (LRU, gdsf)]
    simulator, scratch = Simulator(tables), new_scratch(room.layout.max_slots, tables.num_models)
    rollouts = SampledRollouts(tables, workload, HABITS, rules, seed=4)
    asked, labels = simulator.reset(workload), list(zip(found.observations, found.extra, strict=True))
    assert 0 < len(labels) < 0.7 * len(priced(room, futures=1).extra)
    while asked:
        rollouts.look(simulator)
        if labels and np.array_equal(simulator.observation(room.layout).astype(np.float16), labels[0][0]):
            _, prices = labels.pop(0)
            costs = np.array([rollouts.costs(seeds, NEAR) for seeds in rollouts.seeds(3)])
            legal = simulator.state.legal == 1
            mean = costs.mean(axis=(0, 1))[legal]
            np.testing.assert_allclose(prices[legal], (mean - mean.mean(axis=0)), atol=1e-3)
            assert not prices[~legal].any()
        asked = simulator.answer(int(pick(*simulator.arguments, rules[0], scratch)))
    assert not labels
    assert found.requests == len(workload) + rollouts.requests


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SHORT), encoding="utf-8")
    return str(path)


def quick(scenario: str, **changes: Any) -> ImitationConfig:
    small = {"shown": 0, "hidden": 4, "batch_size": 32, "futures": 2, "horizons_s": NEAR, "share": 0.3}
    return ImitationConfig(train_on=(scenario,), **(small | changes))


@pytest.mark.parametrize("env", tuple(Protocol))
def test_a_training_with_sampled_futures_goes_on_exactly(scenario: str, env: Protocol, tmp_path: Path) -> None:
    whole, begun = ImitationTrainer(quick(scenario, env=env)), ImitationTrainer(quick(scenario, env=env, threads=2))
    for _ in range(2):
        whole.learn(1, lambda step: None)
    begun.learn(1, lambda step: None)
    begun.save(tmp_path)
    resumed = ImitationTrainer(quick(scenario, env=env))
    resumed.load(tmp_path)
    resumed.learn(1, lambda step: None)
    assert (resumed.step, resumed.requests) == (whole.step, whole.requests)
    mine, theirs = resumed.agent().network.weights, whole.agent().network.weights
    assert all(np.array_equal(theirs[name], weight) for name, weight in mine.items())


def test_who_knows_the_future_cannot_play_on_in_a_sampled_one(scenario: str) -> None:
    assert quick(scenario).continued_by == ("learner",)
    with pytest.raises(ConfigError, match="'belady-cost' knows the true future"):
        ImitationTrainer(quick(scenario, play_on=("learner", "belady-cost")))
    with pytest.raises(ConfigError, match=r"habits need habits.json"):
        ImitationTrainer(quick(scenario, habits="nowhere"))


def test_habits_of_seeds_that_judge_agents_are_refused(scenario: str, tmp_path: Path) -> None:
    habits, card = load_habits()
    save_habits(habits, card.model_copy(update={"train_seeds": "0-7,1000000-1000003"}), tmp_path)
    with pytest.raises(ConfigError, match="trained on 4 validation seeds"):
        ImitationTrainer(quick(scenario, habits=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"futures": 0, "habits": "mine"}, "futures is 0"),
        ({"horizons_s": (60.0, 90_000.0)}, "86400 s at most"),
        ({"horizons_s": (300.0, 60.0)}, "have to ascend"),
    ],
)
def test_options_that_cannot_be_together_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=problem):
        quick("default", **changes)
