"""Explanations of decisions: how much each feature moved the score of the chosen action.

```python
explanation = explain("agent:NAME", env.unwrapped.simulator)  # or "cace", a Policy, an Agent
print(explanation)  # evict slot 3, mellum-4b, compared with ...: not used for 12 min (others 41 s) +1.3, ...
explanation.top(3)  # the features with the largest contributions
```

The score of the chosen action is compared with the mean score of the legal alternatives, or with the best of them
(`against="rival"`). The difference is divided among the features, without remainder:

- Sums (a linear agent, CACE, any rule of weighted features) are divided exactly: weight x (feature - mean of the
  alternatives).
- Networks are divided by integrated gradients (Sundararajan et al., ICML 2017) along the straight line from "all
  candidates are alike", where no candidate is better, to their actual features. For a linear network this equals the
  sum above. `residual` is the error of the numerical integral.
- What an agent's `Urgency` adds for a long wait counts for `oldest_wait_s`.

A candidate's features are compared with those of the other candidates; what all share (the context, the target, the
slots when a model is chosen) contributes nothing. Waiting, in Swap-v0, has no features to compare. If it is the choice
or an alternative, the line starts instead where every feature of the models is 0 (no requests wait for them, a load
takes no time, ...), and `base` is the score difference at that point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.kernel import rules
from cace_env.kernel.pick import pick, read_victims
from cace_env.observation import PENDING, PENDING_FEATURES, SLOT, SLOT_FEATURES, Feature, ObservationLayout
from cace_env.policies.agent import Agent
from cace_env.policies.built_in import Policy, rule_of
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.gradients import ScoreLine
from cace_env.policies.network import Network
from cace_env.policies.python import layout_for, view
from cace_env.simulation import Simulator, new_scratch
from cace_env.tables import NONE, FloatArray

Against = Literal["mean", "rival"]

_PHRASES: Final = {feature.name: feature.phrase for feature in (*SLOT_FEATURES, *PENDING_FEATURES)}
BEFORE: Final = "before any feature of the models"  # name of `base`
NEVER_S: Final = 1e6  # stands for the time since an event that never happened


@dataclass(frozen=True)
class Contribution:
    """What one feature adds to the score difference.

    Attributes:
        feature: its name, of the slots or of the pending models.
        unit: unit of `value` and `others`.
        value: of the chosen action, in its unit; NaN if that is waiting.
        others: mean over the alternatives, in its unit; NaN if the only alternative is waiting.
        amount: its contribution, in units of the score.
    """

    feature: str
    unit: str
    value: float
    others: float
    amount: float

    def __str__(self) -> str:
        compared = "" if np.isnan(self.others) else f" (others {quantity(self.others, self.unit)})"
        said = compared.strip() if np.isnan(self.value) else f"{quantity(self.value, self.unit)}{compared}"
        return f"{_PHRASES[self.feature]} {said} {self.amount:+.3g}"


@dataclass(frozen=True)
class Explanation:
    """Why a policy chose one action and not another one.

    Attributes:
        policy: the policy that chose.
        action: the chosen action.
        label: the action in words.
        rival: the legal action with the next best score; -1 if the policy compares no scores here.
        rival_label: the rival in words.
        scores: of the legal actions; the highest one is chosen.
        against: what the score is compared with: the "mean" of the alternatives, or the "rival".
        difference: `base` plus all contributions plus `residual`.
        base: the difference when the features of all models are 0, if waiting is compared; otherwise 0.
        contributions: of the features, the largest first.
        residual: error of the numerical integral; 0 for sums.
    """

    policy: str
    action: int
    label: str
    rival: int
    rival_label: str
    scores: dict[int, float]
    against: Against
    difference: float
    base: float
    contributions: tuple[Contribution, ...]
    residual: float = 0.0

    @property
    def margin(self) -> float:
        """Score minus that of the rival; 0 if no scores are compared."""
        return self.scores[self.action] - self.scores[self.rival] if self.rival >= 0 else 0.0

    def top(self, count: int = 5) -> tuple[Contribution, ...]:
        """The features with the largest contributions, for or against the choice."""
        return tuple(c for c in self.contributions[:count] if c.amount != 0)

    def text(self, count: int = 5) -> str:
        """A sentence with the first `count` reasons."""
        if self.rival < 0:
            return f"{self.label}: {self.rival_label}"
        than = f"rather than {self.rival_label}" if self.against == "rival" else "compared with the other candidates"
        reasons = [str(contribution) for contribution in self.top(count)]
        if self.base:
            reasons.append(f"{BEFORE} {self.base:+.3g}")
        return f"{self.label}, {than}: {', '.join(reasons) or 'no feature tells them apart'}"

    def __str__(self) -> str:
        return self.text()


def quantity(value: float, unit: str) -> str:
    """Format a feature's value for readers: `12 min`, `8.1 GB`, `3`, `0.5/min`."""
    match unit:
        case "s" if value >= 0.99 * NEVER_S:
            return "ever"
        case "s":
            size, name = next((s, n) for s, n in ((3600, "h"), (60, "min"), (1, "s")) if abs(value) >= 2 * s or s == 1)
            return f"{value / size:.3g} {name}"
        case "flag":
            return {0.0: "no", 1.0: "yes"}.get(value, f"{100 * value:.0f} %")
        case "1" | "requests" | "users" | "sessions" | "models" | "actions" | "accelerators":
            return f"{value:.3g}"
        case "1/min":
            return f"{value:.3g}/min"
        case "tokens":
            return f"{value:,.0f} tokens"
    return f"{value:.3g} {unit}"


def explain(
    policy: str | Policy | Agent,
    at: Simulator | npt.NDArray[np.float32],
    layout: ObservationLayout | None = None,
    *,
    against: Against = "mean",
    action: int | None = None,
) -> Explanation:
    """Explain what a policy does at the open question.

    Args:
        policy: an agent, or a rule that scores victims by a weighted sum (of features, or of CACE's terms), by name or
            as an object.
        at: a simulator with an open question, such as `env.unwrapped.simulator`; for agents also an observation.
        layout: layout of the observation.
        against: compare the score with the "mean" of the alternatives, or with the "rival", the best of them.
        action: a legal action to explain instead of the policy's choice.

    Raises:
        ConfigError: the policy's scores are not sums, the observation has no layout, the action is illegal, or there is
            only one choice.
    """
    chosen = policy.policy() if isinstance(policy, Agent) else find_policy(policy)
    if chosen.network is not None and (not isinstance(at, Simulator) or chosen.network.protocol == at.tables.protocol):
        return _explain_network(chosen.name, chosen.network, at, layout, against, action)
    if chosen.network is None and chosen.kind not in (rules.FEATURES, rules.TERMS):
        raise ConfigError(
            f"policy {chosen.name!r} does not score by a weighted sum, so features have no share of its score; agents, "
            "CACE and rules of weighted features (lru, fifo, lfu, ewma, gdsf, ...) can be explained"
        )
    if not isinstance(at, Simulator):
        raise ConfigError(f"policy {chosen.name!r} needs a simulator; only agents can be explained from an observation")
    rule = rule_of(chosen, at.tables)
    picked = int(pick(*at.arguments, rule, new_scratch(at.max_slots, at.tables.num_models, rule.network)))
    picked = picked if action is None else action
    labels = _labels(at)
    if at.question.target == NONE:
        order = f"by its order ({chosen.order.description if chosen.order else 'oldest waiting request first'})"
        return Explanation(chosen.name, picked, labels(picked), -1, order, {picked: 0.0}, against, 0.0, 0.0, ())
    candidates = np.zeros(at.max_slots, dtype=np.int64)
    read_victims(*at.arguments[:4], rule, candidates)
    slots = np.flatnonzero(candidates)
    if len(slots) == 1:
        only = "the only victim that its order allows"
        return Explanation(chosen.name, picked, labels(picked), -1, only, {picked: 0.0}, against, 0.0, 0.0, ())
    if chosen.network is not None:  # an agent for Eviction-v0 that plays Swap-v0 with an order
        return _explain_network(chosen.name, chosen.network, at, None, against, picked, slots)
    rows = at.features()[slots]
    parts, features = _parts(chosen, rows)
    weights, rival = _weights(slots, parts.sum(axis=1), picked, against)
    return _explanation(
        chosen.name, picked, rival, labels, dict(zip(slots.tolist(), parts.sum(axis=1).tolist(), strict=True)), against,
        weights, rows[:, [SLOT._fields.index(f.name) for f in features]], features, weights @ parts, 0.0,
    )  # fmt: skip


def _parts(policy: Policy, rows: FloatArray) -> tuple[FloatArray, list[Feature]]:
    """Contribution of each feature to each candidate's score, `(n, features)`: minus its part of the keep-score."""
    if policy.kind == rules.FEATURES:
        used = [column for column, weight in enumerate(policy.weights) if weight != 0]
        return -rows[:, used] * np.array(policy.weights)[used], [SLOT_FEATURES[column] for column in used]
    parts, features = [], []
    for (name, falling), weight in zip(rules.CACE_TERMS.values(), policy.weights, strict=True):
        values = rows[:, SLOT._fields.index(name)]
        low, high = values.min(), values.max()
        share = (values - low) / (high - low) if high > low else np.zeros(len(values))
        if weight != 0:
            parts.append(-weight * (1.0 - share if falling and high > low else share))
            features.append(SLOT_FEATURES[SLOT._fields.index(name)])
    return np.stack(parts, axis=1), features


def _weights(
    actions: npt.NDArray[np.int64], scores: FloatArray, action: int, against: Against
) -> tuple[FloatArray, int]:
    """Weights of the scores of the legal actions in the difference, `(n,)`, and the best alternative."""
    if action not in actions:
        raise ConfigError(f"there is no candidate {action} here; use one of {actions.tolist()}")
    if len(actions) < 2:
        raise ConfigError("there is only one legal action, so there is nothing to explain")
    mine = actions == action
    rival = int(np.where(mine, -np.inf, scores).argmax())
    weights = np.where(mine, 1.0, -1.0 / (len(actions) - 1))
    if against == "rival":
        weights = mine.astype(np.float64)
        weights[rival] = -1.0
    return weights, int(actions[rival])


def _explanation(
    name: str,
    action: int,
    rival: int,
    labels: Any,
    scores: dict[int, float],
    against: Against,
    weights: FloatArray,
    physical: FloatArray,
    features: list[Feature],
    amounts: FloatArray,
    base: float,
    residual: float = 0.0,
) -> Explanation:
    """Assemble the explanation; `weights` and `physical` cover the candidates that have features."""
    mine, others = np.clip(weights, 0, None), np.clip(-weights, 0, None)
    value = mine @ physical if mine.any() else np.full(len(features), np.nan)
    mean = others @ physical / others.sum() if others.any() else np.full(len(features), np.nan)
    rows = zip(features, value.tolist(), mean.tolist(), amounts.tolist(), strict=True)
    contributions = [Contribution(f.name, f.unit, v, o, amount) for f, v, o, amount in rows]
    return Explanation(
        policy=name,
        action=action,
        label=labels(action),
        rival=rival,
        rival_label=labels(rival),
        scores=scores,
        against=against,
        difference=float(amounts.sum()) + base + residual,
        base=base,
        contributions=tuple(sorted(contributions, key=lambda c: -abs(c.amount))),
        residual=residual,
    )


def _labels(at: Simulator | ObservationLayout) -> Any:
    """Function that describes actions in words."""
    if isinstance(at, ObservationLayout):
        slots, actions, slot_models, names = at.max_slots, at.max_slots + at.max_pending + 1, None, None
    else:
        slots, actions = at.max_slots, len(at.state.legal)
        slot_models, names = at.state.slots.tolist(), at.tables.model_names

    def label(action: int) -> str:
        if action < slots:
            who = f", {names[slot_models[action]]}" if names and slot_models else ""
            return f"evict slot {action}{who}"
        if action == actions - 1:
            return "wait"
        return f"load {names[action - slots] if names else f'model {action - slots}'}"

    return label


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def _explain_network(
    name: str,
    network: Network,
    at: Simulator | npt.NDArray[np.float32],
    layout: ObservationLayout | None,
    against: Against,
    action: int | None,
    among: npt.NDArray[np.int64] | None = None,
) -> Explanation:
    """Integrated gradients of the difference of scores; `among` are the candidates; default: all legal actions."""
    labels = _labels(at) if isinstance(at, Simulator) else None
    if isinstance(at, Simulator):
        layout = layout_for(None, at)
        at = view(at, layout).observation
    if layout is None or labels is None:
        if layout is None:
            raise ConfigError("explaining an observation needs its layout: explain(agent, observation, env.layout)")
        labels = _labels(layout)
    logits = network.logits(at, layout).astype(np.float64)
    legal = np.flatnonzero(np.isfinite(logits)) if among is None else among
    picked = int(logits.argmax()) if action is None else action
    weights, rival = _weights(legal, logits[legal], picked, against)
    line = ScoreLine(network, layout, at, legal, weights)
    amounts, residual = line.attribute()
    if line.ordering and network.urgency is not None:
        gains = network.urgency.scores(*layout.split(at))[line.candidates]
        amounts[PENDING.oldest_wait_s] += weights[: len(line.candidates)] @ gains
    physical = layout.split(layout.physical(at).astype(np.float32))[1 if line.ordering else 0][line.candidates]
    return _explanation(
        name, picked, rival, labels, dict(zip(legal.tolist(), logits[legal].tolist(), strict=True)), against,
        weights[: len(line.candidates)], physical.astype(np.float64),
        list(PENDING_FEATURES if line.ordering else SLOT_FEATURES), amounts, line.base, residual,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# In the environment
