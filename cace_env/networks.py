"""Torch networks that share weights across all slots and all pending models, for any training library.

    env = gymnasium.make_vec("cace_env:cace_env/Eviction-v0", num_envs=60, baseline="lru")
    net = ActorCritic.of_spaces(env.single_observation_space, env.single_action_space)
    logits, values = net(torch.from_numpy(observations))  # illegal actions have a logit of ILLEGAL
    save_agent(net, "runs/mine", trained_on=("default",))  # `cace_env.evaluation.agent_folders`: an agent that plays
    without torch

`ActorCritic` is for PPO and its kin, `ActionValues` for DQN and QR-DQN. Both are made of `ScoreNetwork`, which is
`cace_env.policies.network.Network` with gradients: the same formula, weight names and shapes, so what is learned here
is played by NumPy and by the compiled simulator without torch; and of `ValueNetwork`, which says what a state is worth
and is needed in training only. They read what is legal from the observation, so they need no masks.

Most rows of an observation that has to hold a large fleet are empty, and most slots may not be evicted. The first layer
is evaluated only for rows that are there, the second only for legal actions: a batch costs what is in it, not what it
has room for.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

import numpy as np
from gymnasium import spaces

from cace_env.config import ConfigError
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.policies.network import Network, weight_shapes
from cace_env.policies.spaces import layout_of
from cace_env.tables import Protocol

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import linear, relu
except ImportError as error:
    raise ImportError('cace_env.networks needs torch; pip install "cace-env[sb3]", or torch alone') from error

# The last layer: scores are linear in these, so quantiles of scores are more rows of them, and their mean is one row.
LAST: Final = ("slot_linear", "slot_out", "pending_linear", "pending_out", "wait_linear", "wait_out", "wait_bias")
OUT_GAIN: Final = 0.01  # of the last hidden layer: at first all legal actions are about equally good
HIDDEN: Final = 32  # of scores, and
VALUE_HIDDEN: Final = 64  # of values, unless something else is said
ILLEGAL: Final = -1e9  # stands for -inf where infinities would turn sums and entropies into NaN


class Blocks(NamedTuple):
    """Blocks of observations, as `cace_env.observation.Blocks`."""

    slots: Tensor  # (B, S, slot features)
    pending: Tensor  # (B, K, pending features)
    context: Tensor  # (B, context features)


class Rows(NamedTuple):
    """Hidden units of the non-empty rows, in all states of a batch."""

    units: Tensor  # (N, H)
    there: Tensor  # (B, R) bool; N of them
    pooled: Tensor  # (B, H) mean over a state's rows, 0 if it has none


class ScoreNetwork(nn.Module):
    """Scores of actions: `cace_env.policies.network` has the formula.

    Args:
        protocol: "eviction" or "swap".
        hidden: `H`, hidden units of each layer; 0 = a linear policy.
        quantiles: scores per action, each with its own last layer; 0 = one score.

    Attributes:
        weights: a parameter for each name of `cace_env.policies.network.weight_shapes`; with quantiles those of the
            last layer have an axis more in front, `(quantiles, ...)`.
    """

    def __init__(self, protocol: Protocol, hidden: int, *, quantiles: int = 0) -> None:
        super().__init__()
        self.protocol: Protocol = protocol
        self.hidden = hidden
        self.quantiles = quantiles
        self.weights = nn.ParameterDict()
        for name, shape in weight_shapes(protocol, hidden).items():
            front = (quantiles,) if quantiles and name in LAST else ()
            self.weights[name] = nn.Parameter(torch.zeros(*front, *shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal hidden layers, a small last one, no linear part: so at first no action is preferred."""
        for name, weight in self.weights.items():
            if name.endswith(("_in", "_mix")):
                nn.init.orthogonal_(weight, gain=np.sqrt(2))
            elif name.endswith("_out"):
                nn.init.normal_(weight, std=OUT_GAIN)
            else:
                nn.init.zeros_(weight)

    def forward(self, observations: Tensor, layout: ObservationLayout) -> Tensor:
        """Scores of actions, -inf for illegal ones.

        Args:
            observations: `(B, layout.size)` float32.
            layout: where everything is in them.

        Returns:
            `(B, A)`, or `(B, A, quantiles)`, with `A` = S, in Swap-v0 S + K + 1.
        """
        w = self.weights
        blocks = split(observations, layout)
        legal = legal_blocks(blocks)
        slots = pending = wait = None
        if self.hidden:
            slots, pending = encode_blocks(w, blocks)
            common = torch.cat([slots.pooled, pending.pooled], dim=1)
        scores = [self._block("slot", blocks.slots, legal[0], slots, common if self.hidden else None)]
        if self.protocol == Protocol.SWAP:
            scores.append(self._block("pending", blocks.pending, legal[1], pending, common if self.hidden else None))
            wait = linear(blocks.context, w["wait_linear"]) + w["wait_bias"].squeeze(-1)
            if self.hidden:
                units = relu(linear(torch.cat([common, blocks.context], dim=1), w["wait_mix"], w["wait_mix_bias"]))
                wait = wait + linear(units, w["wait_out"])
            there = legal[2].unsqueeze(-1) if self.quantiles else legal[2]
            scores.append(wait.masked_fill(~there, -torch.inf).unsqueeze(1))
        return torch.cat(scores, dim=1)

    def _block(self, name: str, rows: Tensor, legal: Tensor, encoded: Rows | None, common: Tensor | None) -> Tensor:
        """Scores of slots or of pending models, -inf where they are not legal: `(B, R)` or `(B, R, quantiles)`."""
        w = self.weights
        values = linear(rows[legal], w[f"{name}_linear"])
        if encoded is not None and common is not None:
            weight = w[f"{name}_mix"]
            shared = linear(common, weight[:, self.hidden :], w[f"{name}_mix_bias"])
            units = linear(encoded.units[legal[encoded.there]], weight[:, : self.hidden])
            values = values + linear(relu(units + shared.index_select(0, states_of(legal))), w[f"{name}_out"])
        shape = (*legal.shape, self.quantiles) if self.quantiles else legal.shape
        where = legal.unsqueeze(-1) if self.quantiles else legal
        return values.new_full(shape, -torch.inf).masked_scatter(where, values)

    def to_network(self) -> Network:
        """The network for NumPy and the simulator; quantiles become their mean, exact as the last layer is linear."""
        weights = {}
        for name, weight in self.weights.items():
            mean = weight.detach().mean(dim=0) if self.quantiles and name in LAST else weight.detach()
            weights[name] = mean.to("cpu", torch.float32, copy=True).numpy()
        return Network(self.protocol, self.hidden, weights)

    def begin_as(self, network: Network) -> None:
        """Copy the weights of `network`; all quantiles start equal.

        Hidden layers that it does not have stay as they are: small at first, so that a linear policy goes on as it is.

        Raises:
            ConfigError: the network is for the other environment, or has hidden layers of another size.
        """
        if network.protocol != self.protocol:
            raise ConfigError(f"a network for {network.protocol} cannot initialise one for {self.protocol}")
        if network.hidden not in (0, self.hidden):
            raise ConfigError(
                f"the network has {network.hidden} hidden units, and what begins as it has {self.hidden}; make that "
                f"with hidden={network.hidden}"
            )
        with torch.no_grad():
            for name, weight in network.weights.items():
                self.weights[name].copy_(torch.from_numpy(np.array(weight)))

    @classmethod
    def from_network(cls, network: Network, *, quantiles: int = 0) -> ScoreNetwork:
        """Make a trainable network with the weights of `network`."""
        made = cls(network.protocol, network.hidden, quantiles=quantiles)
        made.begin_as(network)
        return made


class ValueNetwork(nn.Module):
    """Value of a state, from `[p, q, context]` of rows encoded as in `ScoreNetwork`, by weights of its own.

    The weights are its own because errors of values are far larger than what tells actions apart, and would shape what
    scores are made of.

    Args:
        hidden: hidden units of each layer; at least 1.
        outputs: values per state: 1, or quantiles.
    """

    def __init__(self, hidden: int, outputs: int = 1) -> None:
        super().__init__()
        shapes = weight_shapes(Protocol.EVICTION, hidden)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items() if "_in" in name}
        )
        for name in ("slot_in", "pending_in"):
            nn.init.orthogonal_(self.weights[name], gain=np.sqrt(2))
        self.mix = nn.Linear(2 * hidden + len(CONTEXT), hidden)
        self.out = nn.Linear(hidden, outputs)
        nn.init.orthogonal_(self.mix.weight, gain=np.sqrt(2))
        nn.init.zeros_(self.mix.bias)
        nn.init.normal_(self.out.weight, std=OUT_GAIN)
        nn.init.zeros_(self.out.bias)

    def forward(self, observations: Tensor, layout: ObservationLayout) -> Tensor:
        """Values `(B, outputs)` of observations `(B, layout.size)`."""
        blocks = split(observations, layout)
        slots, pending = encode_blocks(self.weights, blocks)
        values: Tensor = self.out(relu(self.mix(torch.cat([slots.pooled, pending.pooled, blocks.context], dim=1))))
        return values


class ScoresAndValues(nn.Module):
    """Base of `ActorCritic` and `ActionValues`.

    Args:
        layout: of the observations; what is learned plays any other, too.
        protocol: "eviction" or "swap".
        hidden: of the `ScoreNetwork`.
        value_hidden: of the `ValueNetwork`.
        quantiles: of each action's return; 0 = its mean only.

    Attributes:
        scores: the `ScoreNetwork`, which is what plays.
        values: the `ValueNetwork`.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        protocol: Protocol,
        hidden: int = HIDDEN,
        value_hidden: int = VALUE_HIDDEN,
        quantiles: int = 0,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.quantiles = quantiles
        self.scores = ScoreNetwork(protocol, hidden, quantiles=quantiles)
        self.values = ValueNetwork(value_hidden, max(quantiles, 1))

    @classmethod
    def of_spaces(cls, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **sizes: int) -> Self:
        """For an environment with these spaces, single ones of a vector environment; `sizes` as in the constructor.

        Raises:
            ConfigError: as `cace_env.policies.spaces.layout_of`.
        """
        layout, protocol = layout_of(observation_space, action_space)
        return cls(layout, protocol, **sizes)

    def to_network(self) -> Network:
        """The scores, as `ScoreNetwork.to_network`."""
        return self.scores.to_network()


class ActorCritic(ScoresAndValues):
    """Logits of actions and the value of the state: all that PPO, A2C and the like need."""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(..., A)` and values `(..., 1)` of observations `(..., layout.size)`."""
        return self.forward_actor(observations), self.forward_critic(observations)

    def forward_actor(self, observations: Tensor) -> Tensor:
        """Logits `(..., A)`, `ILLEGAL` for illegal actions."""
        rows = observations.reshape(-1, observations.shape[-1])
        legal = legal_actions(rows, self.layout, self.scores.protocol)
        return finite(self.scores(rows, self.layout), legal).reshape(*observations.shape[:-1], -1)

    def forward_critic(self, observations: Tensor) -> Tensor:
        """Values `(..., 1)`."""
        values: Tensor = self.values(observations.reshape(-1, observations.shape[-1]), self.layout)
        return values.reshape(*observations.shape[:-1], 1)


class ActionValues(ScoresAndValues):
    """Value of each action: that of the state, plus the action's score (a dueling network, Wang et al., ICML 2016).

    The greedy action is that of the scores alone, which is what plays. Illegal actions have a value of `ILLEGAL`, so
    low that no maximum finds them: neither the greedy action nor the target of DQN and QR-DQN.
    """

    def forward(self, observations: Tensor) -> Tensor:
        """Values `(..., A)`, or `(..., quantiles, A)`, of observations `(..., layout.size)`."""
        rows = observations.reshape(-1, observations.shape[-1])
        legal = legal_actions(rows, self.layout, self.scores.protocol)
        scores, value = self.scores(rows, self.layout), self.values(rows, self.layout)
        values = finite(scores + (value.unsqueeze(1) if self.quantiles else value), legal)
        if self.quantiles:
            values = values.transpose(1, 2).contiguous()
        return values.reshape(*observations.shape[:-1], *values.shape[1:])


def split(observations: Tensor, layout: ObservationLayout) -> Blocks:
    """`ObservationLayout.split` of a tensor, as views: reshaping and slicing is the same for both."""
    numpy_like: Any = observations
    tensors: Any = layout.split(numpy_like)
    return Blocks(*tensors)


def legal_blocks(blocks: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """Which slots `(B, S)`, pending models `(B, K)` and waits `(B,)` are legal, by the features that say so."""
    return (
        blocks.slots[..., SLOT.legal] > 0,
        blocks.pending[..., PENDING.legal] > 0,
        blocks.context[..., CONTEXT.wait_legal] > 0,
    )


def legal_actions(observations: Tensor, layout: ObservationLayout, protocol: Protocol) -> Tensor:
    """Which actions are legal, `(B, A)` bool: the mask of the environment, read from the observation.

    If no question is open, only action 0, the no-op, is legal, as in the environment.

    Raises:
        ConfigError: flags that are neither 0 nor 1, as in observations that were normalised.
    """
    blocks = split(observations, layout)
    check_flags(blocks)
    slots, pending, wait = legal_blocks(blocks)
    legal = slots if protocol == Protocol.EVICTION else torch.cat([slots, pending, wait.unsqueeze(1)], dim=1)
    legal = legal.clone()
    legal[:, 0] |= ~legal.any(dim=1)
    return legal


def check_flags(blocks: Blocks) -> None:
    """Check that flags in observations are 0 or 1, because masks are read from them.

    Raises:
        ConfigError: one is not; the message names the flag and its value.
    """
    for name in ("occupied", "legal"):
        flags = blocks.slots[..., getattr(SLOT, name)]
        wrong = (flags != 0) & (flags != 1)
        if wrong.any():
            raise ConfigError(
                f"the flag slot.{name} is {float(flags[wrong][0]):.3g} in an observation; it has to be 0 or 1. "
                "Observations have fixed scales and need no statistics: leave them as they are, with "
                "VecNormalize(venv, norm_obs=False) or without NormalizeObservation"
            )


def finite(scores: Tensor, legal: Tensor) -> Tensor:
    """Scores `(B, A, ...)` with `ILLEGAL` for the illegal actions, and 0 for the no-op if no question is open."""
    legal = legal.reshape(*legal.shape, *[1] * (scores.dim() - legal.dim()))
    return scores.masked_fill(~legal, ILLEGAL).masked_fill(scores.isneginf() & legal, 0.0)


def encode_blocks(weights: nn.ParameterDict, blocks: Blocks) -> tuple[Rows, Rows]:
    """Hidden units of slots and of pending models."""
    slots, pending, context = blocks
    target = (pending * pending[..., PENDING.target].unsqueeze(-1)).sum(dim=1)
    return (
        encode(weights, "slot_in", slots, slots[..., SLOT.occupied] > 0, torch.cat([target, context], dim=1)),
        encode(weights, "pending_in", pending, pending[..., PENDING.present] > 0, context),
    )


def encode(weights: nn.ParameterDict, name: str, rows: Tensor, there: Tensor, common: Tensor) -> Rows:
    """Hidden units of the rows `(B, R, features)` that are `there`, each seen beside what is `common` to its state."""
    weight, width = weights[name], rows.shape[-1]
    shared = linear(common, weight[:, width:], weights[f"{name}_bias"])
    state = states_of(there)
    units = relu(linear(rows[there], weight[:, :width]) + shared.index_select(0, state))
    sums = torch.zeros_like(shared).index_add(0, state, units)
    return Rows(units, there, sums / there.sum(dim=1, keepdim=True).clamp(min=1))


def states_of(there: Tensor) -> Tensor:
    """The state of each non-empty row, `(N,)`, in the order in which a mask `(B, R)` picks them."""
    return there.nonzero()[:, 0]
