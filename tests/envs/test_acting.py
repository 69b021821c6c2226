"""Claims about actors: a policy asked step by step in the environment is the policy that `evaluate` runs."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.envs import Actor, EvictionEnv, SwapEnv
from cace_env.evaluation import evaluate
from cace_env.evaluation.episodes import PolicyError
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.policies import POLICIES
from tests.support.envs import first_legal, played, roomy, short

WITH_LIMITS = sorted(
    row.name for row in POLICIES.values() if row.keep_alive_s is not None or row.max_resident is not None
)


def drop_first(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Evicts the model that was loaded last."""
    return features[:, SLOT.since_load_s]


@pytest.mark.parametrize("policy", [*sorted(set(POLICIES) - set(WITH_LIMITS)), drop_first])
def test_an_actor_plays_the_episode_that_evaluate_runs(policy: Any) -> None:
    scenario = short("mixed-gpus", requests=300)
    for seed in (3, 4):
        row = evaluate(policy, scenario, [seed]).rows[0]
        cost, actions = played(policy, EvictionEnv(scenario), seed)
        assert cost == row["cost"]
        assert len(actions) > 5


def test_an_actor_changes_nothing_and_answers_the_same_twice() -> None:
    seen, unseen = EvictionEnv(short()), EvictionEnv(short())
    actor = Actor("belady-cost", seen)
    result: tuple[Any, ...] = seen.reset(seed=1)
    np.testing.assert_equal(result, unseen.reset(seed=1))
    actor.reset(1)
    for _ in range(20):
        action = actor.act()
        assert actor.act() == action
        result = seen.step(action)
        np.testing.assert_equal(result, unseen.step(action))


def test_an_actor_can_begin_again_and_take_over_in_the_middle() -> None:
    env = EvictionEnv(short())
    assert played("belady", env, 1) == played("belady", env, 1)
    actor = Actor("lru", env)
    _, info = env.reset(seed=1)
    for _ in range(10):
        *_, info = env.step(first_legal(info))
    actor.reset()
    slots = env.simulator.features()
    legal = np.flatnonzero(info["action_mask"])
    assert actor.act() == legal[slots[legal, SLOT.since_use_s].argmax()]


def test_an_actor_sees_through_wrappers() -> None:
    env = gymnasium.wrappers.TransformReward(
        gymnasium.make("cace_env/Eviction-v0", scenario=short()), lambda reward: float(reward) / 10
    )
    _, info = env.reset(seed=1)
    actor = Actor("lru", env)
    actor.reset()
    assert info["action_mask"][actor.act()] == 1


def test_where_nothing_is_asked_an_actor_does_nothing() -> None:
    env = EvictionEnv(roomy())
    assert played("lru", env, 1)[1] == [0]


@pytest.mark.parametrize("name", WITH_LIMITS)
def test_a_policy_that_evicts_unasked_is_refused_or_cut_down_to_its_choices(name: str) -> None:
    env = EvictionEnv(short())
    with pytest.raises(ConfigError, match=f"{name!r} has a keep-alive, a count limit or a timer.*choices_only=True"):
        Actor(name, env)
    cost, _ = played(name, env, 1, choices_only=True)
    assert cost > 0


def test_what_cannot_act_is_refused() -> None:
    env = EvictionEnv(short())
    with pytest.raises(ConfigError, match="room for everything"):
        Actor("no-swapping", env)
    with pytest.raises(ConfigError, match="did you mean 'lru'"):
        Actor("lur", env)
    with pytest.raises(ConfigError, match=r"needs an EvictionEnv or a SwapEnv, got .*CartPoleEnv"):
        Actor("lru", gymnasium.make("CartPole-v1"))
    with pytest.raises(ConfigError, match=r"no episode yet; call env\.reset first"):
        Actor("lru", env).reset()
    with pytest.raises(ConfigError, match=r"call reset after env\.reset"):
        Actor("lru", env).act()
    env.reset(seed=1)
    with pytest.raises(ConfigError, match=r"call reset after env\.reset"):
        Actor("lru", env).act()


def test_a_python_policy_that_fails_is_named_with_seed_and_decision() -> None:
    def broken(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no idea")

    env = EvictionEnv(short())
    env.reset(seed=1)
    actor = Actor(broken, env)
    actor.reset(1)
    with pytest.raises(PolicyError, match="policy 'broken', seed 1, decision 0: ZeroDivisionError: no idea"):
        actor.act()


class Longest:
    """Acts as LRU does, and loads the model whose oldest request has waited longest, from the observation alone."""

    def __init__(self, layout: ObservationLayout) -> None:
        self.layout = layout
        self.seen: list[np.ndarray] = []

    def act(self, observation: np.ndarray, action_mask: np.ndarray) -> int:
        self.seen.append(observation.copy())
        blocks = self.layout.split(observation)
        slots = self.layout.max_slots
        scores = blocks.slots[:, SLOT.since_use_s]
        if len(action_mask) > slots:
            waited = blocks.pending[:, PENDING.oldest_wait_s] - 100 * (1 - blocks.pending[:, PENDING.idle_suffices])
            scores = np.concatenate([scores, waited, [-50.0]])
            assert action_mask[-1] == blocks.context[CONTEXT.wait_legal]
        assert (action_mask[:slots] == blocks.slots[:, SLOT.legal]).all()
        action = int(np.where(action_mask == 1, scores, -np.inf).argmax())
        action_mask[:] = observation[:1] = 0  # its own copies: the environment never sees the change
        return action


@pytest.mark.parametrize("kind", [EvictionEnv, SwapEnv])
@pytest.mark.parametrize("more", [{}, {"max_slots": 40, "max_pending": 20}], ids=["as many rows as needed", "more"])
def test_a_policy_that_acts_sees_in_evaluate_what_it_sees_in_the_environment(kind: Any, more: dict[str, int]) -> None:
    env = kind(short("mixed-gpus", requests=300), **more)
    mine, theirs = Longest(env.layout), Longest(env.layout)
    observation, info = env.reset(seed=3)
    over = False
    while not over:
        action = mine.act(observation, info["action_mask"])
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    row = evaluate(theirs, env.scenario, [3], protocol=env.PROTOCOL).rows[0]
    assert row["cost"] == env.episode_metrics["cost"]
    assert row["decisions"] == len(mine.seen) > 10
    assert row["decision_us"] > 0
    np.testing.assert_array_equal(mine.seen, theirs.seen)


class Answers:
    """Answers with anything."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def act(self, observation: np.ndarray, action_mask: np.ndarray) -> Any:
        return self.answer(action_mask) if callable(self.answer) else self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda mask: int(mask.argmin()), r"the answer \d+ is not legal; it has to be the number of one legal action"),
        (-1, "there is no action -1; use 0 to"),
        (999, "there is no action 999; use 0 to"),
        (np.nan, "the answer nan is a float; it has to be the number of one legal action, now one of"),
        (3.0, "the answer 3.0 is a float"),
        (None, "the answer None is a NoneType"),
        (np.zeros(4), r"is a ndarray of shape \(4,\)"),
        ((np.int64(0), None), "is a tuple; .*SB3's predict returns a pair: give its first element"),
        (lambda mask: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["illegal", "negative", "too large", "NaN", "float", "None", "array", "tuple", "exception"],
)
def test_what_is_no_legal_action_is_said_with_policy_seed_and_decision(answer: Any, said: str) -> None:
    with pytest.raises(PolicyError, match=f"policy 'Answers', seed 7, decision 0: .*{said}"):
        evaluate(Answers(answer), short(), [7])


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, np.array, lambda n: np.array(n, dtype=np.int8)])
def test_any_whole_number_is_an_action(number: Any) -> None:
    row = evaluate(Answers(lambda mask: number(int(mask.argmax()))), short(), [7]).rows[0]
    assert row["decisions"] > 5 and row["cost"] > 0


def test_a_policy_that_acts_decides_the_order_itself_and_needs_room_for_the_fleet() -> None:
    with pytest.raises(ConfigError, match="has a method act, which chooses loads, too"):
        evaluate(f"wsjf+{__name__}:SIMPLE", short(), [1], protocol="swap")
    small = Longest(ObservationLayout(2, 1))
    with pytest.raises(
        ConfigError, match=r"layout has 2 slots and 1 pending rows; this fleet needs \d+ and 0 at least"
    ):
        evaluate(small, short(), [1])
    with pytest.raises(
        ConfigError, match=r"it has to be a name, a Policy, a callable .*, or an object with a method act"
    ):
        evaluate(object(), short(), [1])  # type: ignore[arg-type]


SIMPLE = Answers(lambda mask: int(mask.argmax()))


def test_a_policy_that_acts_is_found_by_its_address() -> None:
    assert evaluate(f"{__name__}:SIMPLE", short(), [1]).policy == "SIMPLE"


@pytest.mark.parametrize("kind", [EvictionEnv, SwapEnv])
def test_an_actor_plays_a_policy_that_acts_as_evaluate_does(kind: Any) -> None:
    env = kind(short("mixed-gpus", requests=300))
    cost, actions = played(SIMPLE, env, 3)
    row = evaluate(SIMPLE, env.scenario, [3], protocol=env.PROTOCOL).rows[0]
    assert (cost, len(actions)) == (row["cost"], row["decisions"])
    fewer_rows = kind(env.scenario, max_pending=2) if kind is EvictionEnv else kind(env.scenario, max_pending=30)
    seen = Longest(fewer_rows.layout)
    played(seen, fewer_rows, 3)
    assert {len(observation) for observation in seen.seen} == {fewer_rows.layout.size}


def test_a_guard_is_for_whole_episodes() -> None:
    with pytest.raises(ConfigError, match="is guarded, and a guard needs whole episodes"):
        Actor("guarded:lru", EvictionEnv(short()))
