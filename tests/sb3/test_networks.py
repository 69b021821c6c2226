"""Claims about networks: the same for torch and NumPy, indifferent to order, number and padding, and never illegal."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cace_env.config import ConfigError
from cace_env.networks import LAST, ScoreNetwork, ValueNetwork, finite, legal_actions
from cace_env.observation import ObservationLayout
from cace_env.policies.network import weight_shapes
from cace_env.tables import Protocol
from tests.kinds import EVICTION, SWAP, Kind
from tests.support.envs import roomy
from tests.support.vector_runs import scenarios

KINDS: dict[Protocol, Kind] = {Protocol.EVICTION: EVICTION, Protocol.SWAP: SWAP}
HIDDEN = 5


class Seen(NamedTuple):
    """What environments of fleets of different size have shown."""

    protocol: Protocol
    observations: torch.Tensor  # (B, size)
    masks: np.ndarray  # (B, actions) bool
    layout: ObservationLayout


@cache
def seen(protocol: Protocol, more_slots: int = 0, more_pending: int = 0) -> Seen:
    """Some decisions of each fleet, in observations with room for more than there is."""
    played = [scenarios()[name] for name in ("default", "asleep", "priced")]
    layout = KINDS[protocol].many(3, played).layout
    envs = KINDS[protocol].many(
        3, played, max_slots=layout.max_slots + more_slots, max_pending=layout.max_pending + more_pending
    )
    rng = np.random.default_rng(0)
    observations, masks = [envs.reset(seed=0)[0]], [envs.action_masks()]
    for _ in range(12):
        # Of the legal actions the same share is drawn, whatever the padding: the first ones are the same.
        legal = [np.flatnonzero(mask) for mask in masks[-1]]
        observation, *_ = envs.step([int(each[int(rng.random() * len(each))]) for each in legal])
        observations.append(observation)
        masks.append(envs.action_masks())
    return Seen(protocol, torch.from_numpy(np.concatenate(observations)), np.concatenate(masks), envs.layout)


def network(protocol: Protocol, hidden: int = HIDDEN, quantiles: int = 0) -> ScoreNetwork:
    """One with weights everywhere."""
    made = ScoreNetwork(protocol, hidden, quantiles=quantiles)
    generator = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return made


def logits(made: ScoreNetwork, what: Seen) -> np.ndarray:
    return made(what.observations, what.layout).detach().numpy()


@pytest.fixture(params=["eviction", "swap"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return request.param


@pytest.mark.parametrize("hidden", [0, HIDDEN])
def test_torch_and_numpy_give_the_same_logits(protocol: Protocol, hidden: int):
    what = seen(protocol)
    made = network(protocol, hidden)
    assert {name: tuple(weight.shape) for name, weight in made.weights.items()} == weight_shapes(protocol, hidden)
    expected = made.to_network().logits(what.observations.numpy(), what.layout)
    np.testing.assert_allclose(logits(made, what), expected, rtol=1e-4, atol=1e-4)


def test_a_network_survives_the_way_to_numpy_and_back(protocol: Protocol):
    made = network(protocol)
    back = ScoreNetwork.from_network(made.to_network())
    assert all(torch.equal(weight, back.weights[name]) for name, weight in made.weights.items())


@pytest.mark.parametrize("hidden", [0, HIDDEN])
def test_illegal_actions_score_minus_infinity_and_no_others_do(protocol: Protocol, hidden: int):
    what = seen(protocol)
    asked = what.masks[:, 1:].any(axis=1)  # where nothing is asked, the mask is that of the no-op
    np.testing.assert_array_equal(np.isneginf(logits(network(protocol, hidden), what))[asked], ~what.masks[asked])
    np.testing.assert_array_equal(legal_actions(what.observations, what.layout, protocol).numpy(), what.masks)


def test_where_nothing_is_asked_action_0_is_the_only_one(protocol: Protocol):
    envs = KINDS[protocol].many(1, roomy())
    observations = torch.from_numpy(envs.reset(seed=0)[0])
    legal = legal_actions(observations, envs.layout, protocol)
    np.testing.assert_array_equal(legal.numpy(), envs.action_masks())
    scores = finite(network(protocol)(observations, envs.layout), legal)
    assert scores.argmax() == 0
    assert torch.isfinite(scores).all()


def test_permuting_slots_and_pending_models_permutes_the_logits(protocol: Protocol):
    what = seen(protocol)
    slots, pending, context = what.layout.split(what.observations.numpy())
    rng = np.random.default_rng(3)
    of_slots, of_pending = rng.permutation(what.layout.max_slots), rng.permutation(what.layout.max_pending)
    rows = len(context)
    moved = [slots[:, of_slots].reshape(rows, -1), pending[:, of_pending].reshape(rows, -1), context]
    made = network(protocol)
    permuted = logits(made, what._replace(observations=torch.from_numpy(np.concatenate(moved, axis=1))))
    order = of_slots
    if protocol == "swap":
        wait = what.layout.max_slots + what.layout.max_pending
        order = np.concatenate([of_slots, what.layout.max_slots + of_pending, [wait]])
    np.testing.assert_allclose(permuted, logits(made, what)[:, order], rtol=1e-4, atol=1e-4)


def test_room_for_more_slots_and_models_changes_nothing(protocol: Protocol):
    narrow, wide = seen(protocol), seen(protocol, 3, 4)
    made, values = network(protocol), ValueNetwork(HIDDEN)
    slots, models = narrow.layout.max_slots, narrow.layout.max_pending
    kept = np.arange(slots)
    if protocol == "swap":
        first = wide.layout.max_slots
        kept = np.concatenate([kept, first + np.arange(models), [first + wide.layout.max_pending]])
    with_room = logits(made, wide)
    np.testing.assert_allclose(with_room[:, kept], logits(made, narrow), rtol=1e-4, atol=1e-4)
    assert np.isneginf(np.delete(with_room, kept, axis=1)).all()
    worth = [values(what.observations, what.layout).detach().numpy() for what in (narrow, wide)]
    np.testing.assert_allclose(worth[0], worth[1], rtol=1e-4, atol=1e-5)


def test_the_mean_of_quantiles_is_what_is_exported(protocol: Protocol):
    what = seen(protocol)
    made = network(protocol, quantiles=7)
    np.testing.assert_allclose(
        made(what.observations, what.layout).mean(dim=2).detach().numpy(),
        made.to_network().logits(what.observations.numpy(), what.layout),
        rtol=1e-4,
        atol=1e-4,
    )


def test_every_weight_is_learned(protocol: Protocol):
    what = seen(protocol)
    made = network(protocol)
    scores = made(what.observations, what.layout)
    scores[torch.isfinite(scores)].square().sum().backward()
    for name, weight in made.weights.items():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_at_first_all_legal_actions_are_about_equally_good(protocol: Protocol):
    what = seen(protocol)
    scores = logits(ScoreNetwork(protocol, 32), what)
    assert np.abs(scores[np.isfinite(scores)]).max() < 1.0
    assert set(LAST) & set(weight_shapes(protocol, 32))


def test_victims_orders_and_waits_are_all_among_what_is_seen():
    """What the other tests rest on."""
    what = seen("swap")
    slots, models = what.layout.max_slots, what.layout.max_pending
    assert what.masks[:, :slots].any() and what.masks[:, slots : slots + models].any() and what.masks[:, -1].any()


@pytest.mark.parametrize("protocol", KINDS)
def test_a_network_goes_on_from_a_linear_policy(protocol: Protocol) -> None:
    what, linear, begun = seen(protocol), network(protocol, 0), ScoreNetwork(protocol, HIDDEN)
    begun.begin_as(linear.to_network())
    for name, weight in linear.weights.items():
        assert torch.equal(begun.weights[name], weight)
    theirs, mine = logits(linear, what), logits(begun, what)
    np.testing.assert_allclose(mine[what.masks], theirs[what.masks], atol=0.5)  # hidden units add little
    assert not np.array_equal(mine[what.masks], theirs[what.masks])


def test_a_network_does_not_go_on_from_one_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="for swap cannot initialise one for eviction"):
        ScoreNetwork("eviction", 4).begin_as(ScoreNetwork("swap", 4).to_network())
    with pytest.raises(ConfigError, match="hidden=1"):  # which would spread over all of them
        ScoreNetwork("eviction", 4).begin_as(ScoreNetwork("eviction", 1).to_network())
