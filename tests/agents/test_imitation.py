"""Claims about imitation: labels are what happens, a clone does what it was shown, and nothing is lost by a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import Classroom, Memory, show_reference, show_rule
from agents.imitation.pricing import Pricing, price_episode
from agents.imitation.trainer import ImitationTrainer, copy_loss, price_loss
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.kernel.pick import pick
from cace_env.observation import CONTEXT, PENDING, SLOT
from cace_env.planning import find_reference
from cace_env.policies import Future, policy
from cace_env.policies.built_in import rule_of
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import Protocol
from tests.support.small import SEVEN

SMALL = SEVEN | {"description": "seven models on one card", "workload": SEVEN["workload"] | {"requests": 200}}
LARGER = {**SMALL, "name": "larger", "fleet": [{"gpu": "l40s", "count": 2}], "pressure": 1.5}
PROTOCOLS = tuple(Protocol)


def room_of(protocol: str, scenario: dict[str, Any] = SMALL, number: int = 0) -> Classroom:
    return Classroom.of(number, case_of(scenario, protocol), first_seed=0)


@pytest.fixture
def scenarios(tmp_path: Path) -> tuple[str, ...]:
    """Two fleets of different size, as files."""
    for scenario in (SMALL, LARGER):
        (tmp_path / f"{scenario['name']}.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
    return tuple(str(tmp_path / f"{name}.yaml") for name in ("small", "larger"))


def quick(scenarios: tuple[str, ...], **changes: Any) -> ImitationConfig:
    """A training of seconds."""
    small: dict[str, Any] = {"shown": 1, "max_replays": 20, "hidden": 4, "passes": 2.0, "batch_size": 32}
    return ImitationConfig(train_on=scenarios, **(small | changes))


def learned(config: ImitationConfig, *intervals: int) -> ImitationTrainer:
    trainer = ImitationTrainer(config)
    for steps in intervals:
        trainer.learn(steps, lambda step: None)
    return trainer


def weights(trainer: ImitationTrainer) -> dict[str, Any]:
    return dict(trainer.agent().network.weights)


# ---------------------------------------------------------------------------------------------------------------------
# Labels


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_label_is_what_acting_so_costs(protocol: str) -> None:
    room = room_of(protocol)
    lru = policy("lru")
    priced = price_episode(room, 7, lru, Pricing((lru,), (math.inf,)))
    rule = rule_of(lru, room.case.tables)
    simulator = Simulator(room.case.tables)
    scratch = new_scratch(room.layout.max_slots, room.case.tables.num_models)
    simulator.reset(room.case.workload(7))
    for labels in priced.extra[:12, :, 0]:
        while simulator.state.legal.sum() == 1:  # nothing to learn from
            simulator.answer(int(pick(*simulator.arguments, rule, scratch)))
        here = simulator.snapshot()
        legal = np.flatnonzero(simulator.state.legal)
        costs = []
        for action in legal.tolist():
            asked = simulator.restore(here) and simulator.answer(action)
            while asked:
                asked = simulator.answer(int(pick(*simulator.arguments, rule, scratch)))
            costs.append(simulator.cost())
        expected = np.array(costs) - np.mean(costs)
        assert labels[legal] == pytest.approx(expected, abs=1e-3)
        assert legal[np.argmin(costs)] in np.flatnonzero(labels == labels[legal].min())
        assert not np.delete(labels, legal).any()
        simulator.restore(here)
        simulator.answer(int(pick(*simulator.arguments, rule, scratch)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reference_is_shown_as_it_was_found(protocol: str) -> None:
    room = room_of(protocol)
    shown, requests = show_reference(room, 7, max_replays=20)
    workload = room.case.workload(7)
    reference = find_reference(room.case, workload, Future.of(room.case.tables, workload), 7, max_replays=20)
    assert len(shown.labels) == len(shown.observations) == len(reference.plan)
    assert (shown.labels.sum(axis=1) == 1).all()
    slots = room.layout.max_slots
    victims = shown.labels.argmax(axis=1) < slots
    assert (victims == (reference.plan < room.case.tables.num_models)).all()
    assert requests > len(reference.costs) * len(workload)


def test_what_is_remembered_is_bounded_and_keeps_its_place_in_larger_fleets() -> None:
    rooms = [room_of("swap"), room_of("swap", LARGER, 1)]
    memory = Memory(rooms, capacity=100)
    episodes = [show_rule(room, seed, policy("wsjf+lru"))[0] for seed in (1, 2) for room in rooms]
    for episode in episodes:
        memory.add(episode)
    assert memory.size <= max(100, len(episodes[-1].labels))
    memory = Memory(rooms, capacity=10_000)
    memory.add(episodes[0])
    observations, labels = memory.draw(np.random.default_rng(0), 64)
    blocks, slots = memory.layout.split(observations), memory.layout.max_slots
    for k, action in enumerate(labels.argmax(axis=1).tolist()):  # each was legal where it stands now
        if action < slots:
            assert blocks.slots[k, action, SLOT.legal] == 1.0
        elif action < labels.shape[1] - 1:
            assert blocks.pending[k, action - slots, PENDING.legal] == 1.0
        else:
            assert blocks.context[k, CONTEXT.wait_legal] == 1.0


def test_losses_are_the_textbook_s() -> None:
    scores = torch.tensor([[0.0, 0.0, -torch.inf], [1.0, 1.0, 1.0]], requires_grad=True)
    prices = torch.tensor([[-1.0, 1.0, 0.0], [3.0, 0.0, -3.0]])
    assert price_loss(scores, prices).item() == pytest.approx(0.0)
    taken = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert copy_loss(scores, taken).item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    price_loss(scores, prices).backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1]  # a gradient step is negative: the cheaper one gains


# ---------------------------------------------------------------------------------------------------------------------
# Learning


@pytest.mark.parametrize(("env", "teacher"), [(Protocol.EVICTION, "lru"), (Protocol.SWAP, "fifo+lru")])
def test_a_clone_does_what_a_simple_teacher_does(scenarios: tuple[str, ...], env: Any, teacher: str) -> None:
    config = quick(scenarios[:1], env=env, teacher=teacher, shown=20, shown_passes=60.0, hidden=16, decay_steps=2_000)
    trainer = ImitationTrainer(config)
    while trainer.step < 600:
        metrics = trainer.learn(600, lambda step: None)
    room = room_of(env)
    agent = trainer.agent()
    same = []
    for seed in (500, 501, 502):
        shown, _ = show_rule(room, seed, policy(teacher))
        answers = agent.network.logits(shown.observations.astype(np.float32), room.layout).argmax(axis=-1)
        same += (answers == shown.labels.argmax(axis=1)).tolist()
    assert np.mean(same) > 0.93, (np.mean(same), len(same), trainer.step, metrics)


@pytest.mark.parametrize("env", PROTOCOLS)
def test_a_resumed_training_goes_on_exactly(scenarios: tuple[str, ...], env: Any, tmp_path: Path) -> None:
    config = quick(scenarios, env=env)
    whole = learned(config, 1, 1, 1)
    begun = learned(config, 1, 1)
    begun.save(tmp_path)
    resumed = ImitationTrainer(config)
    resumed.load(tmp_path)
    assert all(np.array_equal(weights(begun)[name], weight) for name, weight in weights(resumed).items())
    resumed.learn(1, lambda step: None)
    assert (resumed.step, resumed.requests) == (whole.step, whole.requests)
    assert all(np.array_equal(weights(whole)[name], weight) for name, weight in weights(resumed).items())
    assert resumed.agent().card.limits == whole.agent().card.limits != {}


def test_the_number_of_threads_changes_nothing(scenarios: tuple[str, ...]) -> None:
    one, two = (learned(quick(scenarios, threads=threads), 1, 1) for threads in (1, 2))
    assert (one.step, one.requests) == (two.step, two.requests)
    assert all(np.array_equal(weights(one)[name], weight) for name, weight in weights(two).items())


def test_steps_are_decisions_and_requests_are_counted(scenarios: tuple[str, ...]) -> None:
    trainer = ImitationTrainer(quick(scenarios, shown=0))
    ticks: list[int] = []
    before = trainer.requests
    assert before == 2 * 4 * 200  # LRU's price in both scenarios
    metrics = trainer.learn(1, ticks.append)
    assert ticks == sorted(ticks) and ticks[-1] == trainer.step == metrics["remembered"]
    assert trainer.requests - before > 200 * trainer.step / 2  # every decision is tried with every legal action


def test_only_training_seeds_are_learned_from(scenarios: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="seed 1000000 is a validation seed"):
        ImitationTrainer(quick(scenarios, first_seed=1_000_000))
    with pytest.raises(ConfigError, match="only train seeds may be learned from"):
        ImitationTrainer(quick(scenarios, first_seed=999_998))
    assert learned(quick(scenarios, first_seed=40), 1).agent().card.train_seeds == "40-43"


def test_mistakes_are_named(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no policy called 'lrru'"):
        ImitationTrainer(quick(scenarios, teacher="lrru"))
    with pytest.raises(ConfigError, match="Eviction-v0 does not ask for one"):
        learned(quick(scenarios, shown=0, play_on=("wsjf+lru",)), 1)
    with pytest.raises(ConfigError, match="cannot read the state of a training"):
        ImitationTrainer(quick(scenarios)).load(tmp_path)


def test_an_episode_without_questions_teaches_nothing() -> None:
    room = room_of("eviction", {**SMALL, "pressure": 0.5})
    shown, _ = show_rule(room, 1, policy("lru"))
    priced = price_episode(room, 1, policy("lru"), Pricing((policy("lru"),), (60.0,)))
    assert shown.labels.shape == priced.labelled(room, [0]).labels.shape == (0, room.actions)
    assert priced.observations.shape == (0, room.layout.size)
