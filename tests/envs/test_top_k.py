"""`top_k`: an environment of a large fleet that shows, and lets choose, only the most plausible candidates."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cace_env import evaluate
from cace_env.envs import Actor, EvictionEnv, EvictionVectorEnv, SwapEnv, SwapVectorEnv
from cace_env.envs.fleet_env import FleetEnv
from cace_env.observation import SLOT, ObservationLayout
from cace_env.scenarios import Scenario, load_scenario
from cace_env.simulation import SimulationError
from cace_env.tables import NONE, FloatArray

BOTH = pytest.mark.parametrize("kind", [EvictionEnv, SwapEnv])


def scenario(name: str = "mixed-gpus", requests: int = 500) -> Scenario:
    whole = load_scenario(name)
    return whole.replace(workload=whole.workload_config.model_dump(mode="json") | {"requests": requests})


def loss_rates(env: FleetEnv) -> FloatArray:
    """Uses per second since the load x reload time / bytes of every slot, `(S,)`; NaN where it is empty."""
    rows = env.simulator.features()
    present_s = np.maximum(rows[:, SLOT.since_load_s], 1e-6)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: FloatArray = rows[:, SLOT.uses_since_load] / present_s * rows[:, SLOT.reload_s] / rows[:, SLOT.freed_gb]
    return rates


@BOTH
def test_with_room_for_all_it_plays_to_the_bit_like_the_whole_environment(kind: type[FleetEnv]) -> None:
    whole, some = kind(scenario()), kind(scenario(), top_k=40)
    seen, info = whole.reset(seed=3)
    seen_k, info_k = some.reset(seed=3)
    draw, over, asked = np.random.default_rng(0), False, 0
    while not over:
        mask = info_k["action_mask"]
        chosen = int(draw.choice(np.flatnonzero(mask)))
        action = some.simulators.action_of(0, chosen)
        if some.simulators.asked(0):
            asked += 1
            legal = [some.simulators.action_of(0, int(row)) for row in np.flatnonzero(mask)]
            assert sorted(legal) == np.flatnonzero(info["action_mask"]).tolist()
            blocks, blocks_k = whole.layout.split(seen), some.layout.split(seen_k)
            for row in np.flatnonzero(mask[:40]):
                assert np.array_equal(blocks_k.slots[row], blocks.slots[info_k["shown"][row]])
            assert np.array_equal(blocks_k.context, blocks.context)
        else:
            action = 0
        seen, reward, over, _, info = whole.step(action)
        seen_k, reward_k, over_k, _, info_k = some.step(chosen)
        assert (reward_k, over_k, info_k["time_s"]) == (reward, over, info["time_s"])
    assert asked > 20
    assert some.episode_metrics == whole.episode_metrics


@BOTH
def test_it_shows_the_legal_victims_with_the_least_to_lose_and_no_others(kind: type[FleetEnv]) -> None:
    env = kind(scenario("fleet-64", 20_000), top_k=8)
    _, info = env.reset(seed=1)
    seen_victims = 0
    for _ in range(600):
        shown, mask = info["shown"], info["action_mask"]
        legal = env.simulator.question.legal
        slots = shown[:8][shown[:8] != NONE]
        assert legal[slots].all() and len(set(slots.tolist())) == len(slots)
        assert mask[: len(slots)].all() and not mask[len(slots) : 8].any()
        victims = np.flatnonzero(legal[: env.simulator.max_slots])
        assert len(slots) == min(8, len(victims))
        if len(victims):
            seen_victims += 1
            rates = loss_rates(env)
            assert rates[slots].tolist() == pytest.approx(np.sort(rates[victims])[: len(slots)].tolist())
        _, _, over, _, info = env.step(int(np.flatnonzero(mask[: len(shown)])[-1]))  # what can be done, and no waiting
        if over or seen_victims > 50:
            break
    assert seen_victims > 20


def test_the_target_is_always_among_the_models() -> None:
    env = EvictionEnv(scenario("fleet-64", 20_000), top_k=4, max_pending=1)
    _, info = env.reset(seed=1)
    for _ in range(50):
        assert info["shown"][-1] == env.simulator.question.target
        _, _, _, _, info = env.step(0)


@pytest.mark.parametrize(("kind", "many"), [(EvictionEnv, EvictionVectorEnv), (SwapEnv, SwapVectorEnv)])
def test_a_batch_shows_what_single_environments_do(kind: type[FleetEnv], many: Any) -> None:
    batch, singles = many(3, scenario(), top_k=3, threads=2), [kind(scenario(), top_k=3) for _ in range(3)]
    seen, infos = batch.reset(seed=5)
    alone = [env.reset(seed=5 + i) for i, env in enumerate(singles)]
    for _ in range(25):
        for i, (seen_i, info) in enumerate(alone):
            assert np.array_equal(seen[i], seen_i)
            assert np.array_equal(infos["shown"][i], info["shown"])
            assert np.array_equal(infos["action_mask"][i], info["action_mask"])
        actions = infos["action_mask"].argmax(axis=1)
        seen, _, over, _, infos = batch.step(actions)
        alone = [
            (step[0], step[4]) for env, action in zip(singles, actions, strict=True) for step in [env.step(action)]
        ]
        if over.any():
            break
    batch.close()


@BOTH
def test_a_state_brings_back_what_the_rows_are(kind: type[FleetEnv]) -> None:
    env, other = kind(scenario(), top_k=2), kind(scenario(), top_k=2)
    env.reset(seed=1)
    other.reset(seed=9)
    env.step(0)
    state = pickle.loads(pickle.dumps(env.get_state()))
    other.set_state(state)
    assert other.describe() == env.describe()
    for _ in range(10):
        mine, theirs = env.step(1), other.step(1)
        assert np.array_equal(mine[0], theirs[0]) and mine[1] == theirs[1]
        assert np.array_equal(mine[4]["shown"], theirs[4]["shown"])
        if mine[2]:
            break


@BOTH
def test_an_empty_row_is_an_illegal_action(kind: type[FleetEnv]) -> None:
    env = kind(scenario(), top_k=40, strict=False)
    _, info = env.reset(seed=3)
    assert not info["action_mask"][39] and info["shown"][39] == NONE
    _, _, _, _, info = env.step(39)
    assert info["invalid_action"] == 1


@BOTH
def test_gymnasium_finds_nothing_wrong(kind: type[FleetEnv]) -> None:
    check_env(kind(scenario(requests=100), top_k=4), skip_render_check=True)


class First:
    """Takes the first row: the victim with the least to lose, or the most urgent load."""

    def __init__(self, env: FleetEnv) -> None:
        self.layout, self.protocol = env.layout, env.PROTOCOL

    def act(self, observation: Any, action_mask: Any) -> int:
        assert observation.shape == (self.layout.size,)
        return int(action_mask.argmax())


@BOTH
def test_a_policy_with_such_a_layout_is_evaluated_as_it_plays(kind: type[FleetEnv]) -> None:
    env = kind(scenario(), top_k=3)
    _, info = env.reset(seed=7)
    over = False
    while not over:
        _, _, over, _, info = env.step(int(info["action_mask"].argmax()))
    assert env.episode_metrics is not None
    found = evaluate(First(env), scenario(), [7], protocol=env.PROTOCOL)
    assert found.column("cost")[0] == env.episode_metrics["cost"]


def test_an_actor_plays_what_is_shown_and_says_where_its_choice_is_not() -> None:
    env = EvictionEnv(scenario(), top_k=40)
    actor = Actor("lru", env)
    env.reset(seed=2)
    actor.reset(2)
    over = False
    while not over:
        _, _, over, _, _ = env.step(actor.act())
    assert env.episode_metrics is not None
    assert evaluate("lru", scenario(), [2]).column("cost")[0] == env.episode_metrics["cost"]
    narrow = EvictionEnv(scenario("fleet-64", 20_000), top_k=1)
    actor = Actor("random", narrow)
    narrow.reset(seed=2)
    actor.reset(2)
    with pytest.raises(SimulationError, match="not among the rows that are shown; raise top_k"):
        for _ in range(20):
            narrow.step(actor.act())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 4, "max_slots": 9}, "no max_slots beside it"),
        ({"max_slots": 2}, "or top_k"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvictionEnv(scenario(), **settings)


def test_models_that_nobody_waits_for_are_not_offered() -> None:
    prefetching = scenario().replace(rules={"prefetch_limit": 3})
    with pytest.raises(ValueError, match="prefetch_limit to 0"):
        SwapEnv(prefetching, top_k=4)


def test_a_layout_says_whether_its_rows_are_chosen() -> None:
    assert ObservationLayout(4, 4, top_k=True) != ObservationLayout(4, 4)
    assert ObservationLayout(4, 4, top_k=True).size == ObservationLayout(4, 4).size
