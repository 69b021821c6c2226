"""Claims about the requests of a validation."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.workload import COLUMNS, Workload
from experiments.validation.workloads import FIRST_TOKEN, KINDS, LAST_TOKEN, make, prompts


def drawn(name: str, requests: int = 200, seed: int = 0, pace: float = 1.0) -> Workload:
    return make(name, [2, 0, 1], requests, seed, longest=400, pace=pace)


def same(one: Workload, other: Workload, names: tuple[str, ...] = tuple(COLUMNS)) -> bool:
    assert {field.name for field in fields(one)} >= set(names)
    return all((getattr(one, name) == getattr(other, name)).all() for name in names)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_gives_the_same_requests(name: str):
    assert same(drawn(name), drawn(name))
    assert not same(drawn(name), drawn(name, seed=1))


@pytest.mark.parametrize("name", KINDS)
def test_a_slower_pace_changes_pauses_alone(name: str):
    rest = tuple(column for column in COLUMNS if column not in ("arrival_us", "think_us"))
    slow = drawn(name, pace=4.0)
    assert same(drawn(name), slow, rest)
    assert slow.think_us.sum() == pytest.approx(4 * drawn(name).think_us.sum(), rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_every_client_waits_for_its_answer_before_it_asks_again(name: str):
    workload = drawn(name)
    for client in range(KINDS[name].clients):
        mine = np.flatnonzero(workload.user == client)
        assert workload.after[mine].tolist() == [-1, *mine[:-1].tolist()]


@pytest.mark.parametrize("name", KINDS)
def test_prompts_have_the_tokens_that_the_workload_says_and_begin_as_it_says(name: str):
    workload = drawn(name)
    texts = prompts(workload, 0)
    assert [len(text) for text in texts] == workload.context_tokens.tolist()
    assert all(FIRST_TOKEN <= token <= LAST_TOKEN for text in texts for token in text)
    assert (workload.context_tokens + workload.output_tokens <= 400).all()
    shared = 0
    for session in range(workload.session.max() + 1):
        for before, after in itertools.pairwise(np.flatnonzero(workload.session == session).tolist()):
            known = int(workload.context_tokens[after] - workload.new_tokens[after])
            assert known == workload.context_tokens[before]
            assert texts[after][:known] == texts[before]
            assert workload.model[after] == workload.model[before]
            # The answer comes back as a part of what is new.
            assert workload.new_tokens[after] > workload.output_tokens[before]
            shared += 1
    assert (shared > 50) == (name == "agents")


def test_the_two_kinds_are_different():
    short, long = drawn("completions"), drawn("agents")
    assert np.median(long.context_tokens) > 2 * np.median(short.context_tokens)
    smallest = 2  # number of the smallest model
    assert (short.model == smallest).mean() > (long.model == smallest).mean()


def test_an_unknown_kind_is_an_error_that_names_the_others():
    with pytest.raises(ConfigError, match="completions, agents"):
        drawn("chats")
