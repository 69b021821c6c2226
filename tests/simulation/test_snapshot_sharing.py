"""Claims about states that move: between environments, batches, branches and simulators."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cace_env.envs import EvictionEnv, EvictionVectorEnv
from cace_env.kernel.state import REQUEST
from cace_env.policies import policy, rule_of
from cace_env.simulation import Bank, Limits, SimulationError, Simulator
from cace_env.simulation import snapshot as snapshots
from tests.envs.test_env_seeds import assert_same as assert_same_rows
from tests.kinds import Kind
from tests.specification.examples import fleet, requests
from tests.support.envs import first_legal, rollout, short
from tests.support.states import and_again, began, finish
from tests.support.vector_runs import MODES, legal_actions, make, play, scenarios

# ---------------------------------------------------------------------------------------------------------------------
# Elsewhere


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_and_single_environments_take_each_other_s_states(mode: str, kind: Kind) -> None:
    single, other = began(3, kind=kind), began(3, kind=kind)
    batch = make(2, kind, autoreset_mode=mode)
    batch.reset(seed=50)
    batch.set_state(1, single.get_state())
    assert batch.describe(1) == single.simulators.describe(0, single.get_state().mask)
    for _ in range(3):
        actions = legal_actions(batch)
        observations, rewards, *_ = batch.step(actions)
        observation, reward, *_ = other.step(actions[1])
        np.testing.assert_array_equal(observations[1], observation)
        assert rewards[1] == reward
    back = kind.single(scenarios()["default"])
    back.set_state(batch.get_state(1))
    assert back.workload is not None and other.workload is not None
    np.testing.assert_array_equal(back.workload.arrival_us, other.workload.arrival_us)
    assert_same_rows(and_again(back), and_again(other))


def test_one_state_branches_into_a_whole_batch_and_the_branches_are_apart(kind: Kind) -> None:
    root = began(2, kind=kind).get_state()
    batch = make(4, kind, autoreset_mode="Disabled")
    batch.reset(seed=50)
    legal = np.flatnonzero(root.mask)
    for _ in range(2):
        actions = legal[np.arange(4) % len(legal)]
        for i in range(4):
            batch.set_state(i, root)
        rewards = batch.step(actions)[1]
        for i in range(4):
            single = kind.single(scenarios()["default"])
            single.set_state(root)
            assert single.step(actions[i])[1] == rewards[i]


def test_a_state_brings_its_requests_whatever_was_played_before() -> None:
    longer, shorter = short(requests=90), short(requests=60)
    env = EvictionEnv(longer)
    env.reset(seed=1)
    rollout(env, options={"workload": shorter.workload(3)})
    given = env.episode_metrics
    env.reset(options={"workload": shorter.workload(3)})
    state = env.get_state()
    expected = finish(env)
    for other in (EvictionEnv(longer), env):
        other.reset(options={"workload": longer.workload(4)})
        other.set_state(pickle.loads(pickle.dumps(state)))
        assert other.workload is not None and len(other.workload) == 60
        assert_same_rows(finish(other), expected)
    np.testing.assert_equal(env.episode_metrics, given)
    assert given is not None


def test_different_fleets_of_a_batch_keep_their_states_apart() -> None:
    played = [scenarios()["priced"], scenarios()["default"]]
    batch = EvictionVectorEnv(4, played, autoreset_mode="SameStep")
    batch.reset(seed=1)
    play(batch, 3)
    batch.set_state(3, batch.get_state(1))
    with pytest.raises(ValueError, match="comes from scenario 'workstation', this environment plays 'default'"):
        batch.set_state(1, batch.get_state(0))
    rows = play(batch, 1)[0][0]
    assert batch.get_state(3).played == batch.get_state(1).played and rows[1][3] != 0


def test_a_batch_of_different_fleets_and_single_environments_take_each_other_s_states(kind: Kind) -> None:
    batch = kind.many(2, [scenarios()["priced"], scenarios()["default"]], autoreset_mode="Disabled")
    batch.reset(seed=50)
    rows = {"max_slots": batch.layout.max_slots, "max_pending": batch.layout.max_pending}
    for i, name in enumerate(("priced", "default")):
        single, back = began(2, name, kind=kind, **rows), kind.single(scenarios()[name], **rows)
        batch.set_state(i, single.get_state())
        back.set_state(batch.get_state(i))
        assert_same_rows(finish(back), finish(single))


def test_within_an_episode_no_requests_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    env = began(2)
    batch = make(2, num_workloads=2, autoreset_mode="SameStep")
    batch.reset(seed=0)
    states = [batch.get_state(0), batch.get_state(1)]
    play(batch, 30)
    monkeypatch.setattr(Bank, "_write", lambda *_: pytest.fail("requests were copied"))
    first, second = env.get_state(), env.get_state()
    assert first.simulation.common is second.simulation.common
    env.step(first_legal({"action_mask": env.action_masks()}))
    env.set_state(first)
    for i in range(2):  # those of a bank are found there again, by any of its environments
        batch.set_state(i, states[1 - i])


def test_states_share_what_became_of_settled_requests_and_no_branch_sees_another_s(
    monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(snapshots, "CHUNK", 16)
    monkeypatch.setattr(snapshots, "WIDTH", 16 * len(REQUEST))
    rng, scenario = np.random.default_rng(0), short(requests=300)
    envs = [kind.single(scenario) for _ in range(2)]
    for env in envs:
        env.reset(seed=7)
    batch = kind.many(2, scenario, autoreset_mode="Disabled")
    batch.reset(seed=5)
    known = [(envs[0].get_state(), _outcomes(envs[0].simulator))]
    for _ in range(150):
        state, expected = known[rng.integers(max(0, len(known) - 12), len(known))]
        env = envs[rng.integers(2)]
        env.set_state(state)
        batch.set_state(1, state)
        for simulator in (env.simulator, batch.simulators.view(1)):
            np.testing.assert_array_equal(_outcomes(simulator), expected)
        for _ in range(rng.integers(1, 6)):
            if env.episode_metrics is None:
                env.step(rng.choice(np.flatnonzero(env.action_masks())))
        known.append((env.get_state(), _outcomes(env.simulator)))
    pasts = [state.simulation.common.past for state, _ in known]
    assert max(len(past) for past in pasts) > 10
    chunks = {id(chunk) for past in pasts for chunk in past}
    assert len(chunks) < sum(len(past) for past in pasts) / 4
    fresh = kind.single(scenario)
    for state, expected in (pickle.loads(pickle.dumps(each)) for each in known[::10]):
        fresh.set_state(state)
        np.testing.assert_array_equal(_outcomes(fresh.simulator), expected)


def _outcomes(simulator: Simulator) -> np.ndarray:
    """Arrivals, first tokens and finishes of all requests."""
    return simulator.state.requests[:, [REQUEST.arrival_us, REQUEST.first_us, REQUEST.finish_us]]


# ---------------------------------------------------------------------------------------------------------------------
# The simulator alone


def test_a_simulator_goes_on_from_a_snapshot_in_any_simulator_of_its_fleet() -> None:
    scenario = short(requests=200)
    simulator, other = Simulator(scenario.tables(), trace=True), Simulator(scenario.tables(), trace=True)
    taken = []
    asked = simulator.reset(scenario.workload(3))
    while asked:
        question = simulator.question
        taken.append((simulator.snapshot(), question.now_us))
        asked = simulator.answer(int(question.legal.argmax()))
    expected = simulator.episode()
    simulator.reset(short(requests=120).workload(1))
    other.reset(short(requests=210).workload(1))
    for which, (snapshot, now_us) in zip([simulator, other, other], [taken[5], taken[-1], taken[0]], strict=True):
        asked = which.restore(pickle.loads(pickle.dumps(snapshot)))
        assert which.question.now_us == now_us
        while asked:
            asked = which.answer(int(which.question.legal.argmax()))
        np.testing.assert_equal(which.episode().__dict__, expected.__dict__)
    assert other.reset(scenario.workload(3))
    np.testing.assert_array_equal(other.snapshot().words, taken[0][0].words)


def test_a_snapshot_is_of_the_rule_that_played_the_requests_last() -> None:
    scenario = short(requests=600)
    tables = scenario.tables()
    simulator, taken = Simulator(tables), []
    simulator.load(scenario.workload(3))
    for name in ("lru", "lfu"):
        simulator.play(rule_of(policy(name), tables))
        taken.append((simulator.snapshot(), _outcomes(simulator)))
    assert (taken[0][1] != taken[1][1]).any()
    for which in (simulator, Simulator(tables)):
        for snapshot, expected in taken:
            which.restore(snapshot)
            np.testing.assert_array_equal(_outcomes(which), expected)


def test_snapshots_of_another_fleet_or_without_a_trace_are_refused() -> None:
    tables = fleet()
    simulator = Simulator(tables)
    with pytest.raises(SimulationError, match="reset first"):
        simulator.snapshot()
    simulator.reset(requests({}, {"model": 1}))
    snapshot = simulator.snapshot()
    assert Simulator(tables).restore(snapshot) == (
        len(simulator.question.legal) > 0 and simulator.state.scalars[1] == 1
    )
    for stranger in (Simulator(fleet(decode_ns=1)), Simulator(tables, Limits(max_resident=1))):
        with pytest.raises(ValueError, match="another fleet, other limits or another version"):
            stranger.restore(snapshot)
    with pytest.raises(ValueError, match="lacks the event trace"):
        Simulator(tables, trace=True).restore(snapshot)
    looking = began(1).simulator
    workload = requests({}, {"model": 1})
    for use in (looking.snapshot, lambda: looking.restore(snapshot), lambda: looking.reset(workload)):
        with pytest.raises(SimulationError, match="only looks at an environment's arrays"):
            use()
