"""A policy that decides by itself. It needs NumPy and the two files beside it, and nothing else.

    from policy import decide
    action = decide(slots, pending, context, legal)

or, with the folder named:

    policy = Policy("folder")
    slots = policy.table("slot", [{"occupied": 1, "since_use_s": 12.5, ...}, ...])
    action = policy.decide(slots, pending, context, legal)

`policy.json` names the features of each block in their order, with unit and meaning, and under `reads` those that
change the answer: all others may be 0. Features are given in these units; scaling is done here.

    slots    (S, F)  a row for each place of a model; a row of zeros is an empty place
    pending  (K, P)  a row for each model that waits to be loaded (where it is also asked what to load: for each model)
    context  (C,)
    legal    (S,) bool: which places may be evicted; where it is also asked what to load (S + K + 1,): places, models,
             wait
    action   the number of a legal action, the one with the highest score
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[Any]
FORMAT = "cace-env policy 1"
APART = 1e9  # [s] offset that separates protected models from others, and victims that suffice alone
THERE = 0  # column of the flag that a row holds a model


class Policy:
    """A policy read from its folder.

    Args:
        folder: holds `policy.json` and `weights.npz`.

    Attributes:
        about: the content of `policy.json`.

    Raises:
        ValueError: the files are not those of a policy, or do not belong together.
    """

    def __init__(self, folder: str | Path) -> None:
        self.about: dict[str, Any] = json.loads((Path(folder) / "policy.json").read_text(encoding="utf-8"))
        if self.about.get("format") != FORMAT:
            raise ValueError(f"{folder}: policy.json is not of the format {FORMAT!r}; export the policy again")
        content = (Path(folder) / "weights.npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != self.about["weights_sha256"]:
            raise ValueError(f"{folder}: weights.npz was not written with this policy.json; copy all files again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            self._w: dict[str, FloatArray] = {name: arrays[name] for name in arrays.files}
        self.swap: bool = self.about["env"] == "swap"
        self._score: dict[str, Any] = self.about["score"]
        self._columns = {
            block: {feature["name"]: i for i, feature in enumerate(features)}
            for block, features in self.about["features"].items()
        }
        self._factors = {
            block: 1.0 / np.array([feature["scale"] for feature in features])
            for block, features in self.about["features"].items()
        }
        self._log = {
            block: np.array([feature["log"] for feature in features])
            for block, features in self.about["features"].items()
        }

    def table(self, block: str, rows: Sequence[Mapping[str, float]]) -> FloatArray:
        """Rows of a block, "slot", "pending" or "context", from features by name.

        A feature that the policy does not read may be left out. An empty row is an empty place.

        Raises:
            ValueError: a feature is unknown, or one that the policy reads is missing.
        """
        columns, out = self._columns[block], np.zeros((len(rows), len(self._columns[block])))
        for number, row in enumerate(rows):
            unknown = sorted(set(row) - set(columns))
            missing = [name for name in self.about["reads"][block] if name not in row] if row else []
            if unknown or missing:
                what = f"has no feature {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}, which the policy reads"
                raise ValueError(f"row {number} of block {block!r} {what}; policy.json lists the features")
            for name, value in row.items():
                out[number, columns[name]] = value
        return out

    def decide(self, slots: FloatArray, pending: FloatArray, context: FloatArray, legal: npt.ArrayLike) -> int:
        """The legal action with the highest score.

        Ties of a rule go to the least recently used model, then to the lowest action; those of a network to the lowest.

        Raises:
            ValueError: a shape is wrong, a number or the score of a legal action is not finite, or nothing is legal.
        """
        scores = self.scores(slots, pending, context, legal)
        best = int(scores.argmax())
        if self.about["ties"] is None:
            return best
        tied = np.flatnonzero(scores == scores[best])
        if len(tied) == 1:
            return best
        return int(tied[slots[tied, self._columns["slot"][self.about["ties"]]].argmax()])

    def scores(self, slots: FloatArray, pending: FloatArray, context: FloatArray, legal: npt.ArrayLike) -> FloatArray:
        """Scores of all actions, -inf for illegal ones; arguments and errors as for `decide`."""
        mask = np.asarray(legal, dtype=bool)
        self._check(slots, pending, context, mask)
        scores = np.full(len(mask), -np.inf)
        with np.errstate(all="ignore"):  # what comes of a division by 0 is refused below
            if self._score["kind"] == "network":
                blocks = [self._scaled(*one) for one in (("slot", slots), ("pending", pending), ("context", context))]
                network = self._network(*blocks)
                if "urgency" in self._score:
                    network[len(slots) : len(slots) + len(pending)] += self._urgency(slots, pending, context)
                scores[mask] = network[mask]
            else:
                scores[mask] = -self._keep(slots[mask])
            if not math.isfinite(scores[mask].sum()):
                raise ValueError("the score of a legal action is not finite: a feature of it is far out of range")
        return scores

    def _check(self, slots: FloatArray, pending: FloatArray, context: FloatArray, mask: npt.NDArray[np.bool_]) -> None:
        for block, values, dimensions in (("slot", slots, 2), ("pending", pending, 2), ("context", context, 1)):
            width = len(self._columns[block])
            if values.ndim != dimensions or values.shape[-1] != width:
                wanted = f"({width},)" if dimensions == 1 else f"(rows, {width})"
                raise ValueError(f"block {block!r} has shape {values.shape}; it has to be {wanted}")
            if not math.isfinite(values.sum()):
                raise ValueError(f"block {block!r} holds a number that is not finite")
        actions = len(slots) + (len(pending) + 1 if self.swap else 0)
        if mask.shape != (actions,):
            raise ValueError(f"legal has shape {mask.shape}; it has to be ({actions},)")
        if not mask.any():
            raise ValueError("no action is legal, so there is nothing to decide")

    def _scaled(self, block: str, values: FloatArray) -> FloatArray:
        """Features as the network was trained on them, float32."""
        x = values * self._factors[block]
        y: FloatArray = np.where(self._log[block], np.copysign(np.log1p(np.abs(x)), x), x).astype(np.float32)
        return y

    def _keep(self, rows: FloatArray) -> FloatArray:
        """Keep-scores of a rule, `(candidates,)`: the lowest is evicted."""
        columns, weights, kind = self._columns["slot"], self._w["weights"], self._score["kind"]
        keep: FloatArray = np.zeros(len(rows))
        if kind == "sum":
            for name, weight in zip(self._score["features"], weights, strict=True):
                keep = keep + weight * rows[:, columns[name]]
        elif kind == "terms":  # each from 0 to 1 over the candidates; where they are all alike it does not count
            for name, falls, weight in zip(self._score["features"], self._score["falling"], weights, strict=True):
                values = rows[:, columns[name]]
                low, high = values.min(), values.max()
                if high > low:
                    share = (values - low) / (high - low)
                    keep = keep + weight * (1.0 - share if falls else share)
        elif kind == "hyperbolic":
            keep = rows[:, columns["uses_since_load"]] / np.maximum(rows[:, columns["since_load_s"]], 1e-6)
        elif kind == "rate_load_size":
            keep = rows[:, columns["rate_10m"]] * rows[:, columns["reload_s"]] / rows[:, columns["freed_gb"]]
        elif kind == "churn_guard":
            keep = APART * (rows[:, columns["since_load_s"]] < weights[0]) - rows[:, columns["since_use_s"]]
        elif kind == "single_victim":
            freed = rows[:, columns["freed_gb"]]
            suffices = freed >= rows[:, columns["missing_gb"]]
            keep = np.where(suffices, -rows[:, columns["since_use_s"]] - APART, -freed)
        else:
            raise ValueError(f"policy.json has the score {kind!r}, which this policy.py does not know; copy both again")
        return keep

    def _network(self, slots: FloatArray, pending: FloatArray, context: FloatArray) -> FloatArray:
        """Scores of all actions by the network."""
        w, hidden = self._w, self._score["hidden"]
        scores = [slots @ w["slot_linear"]]
        if hidden:
            target = pending[:, self._columns["pending"]["target"]] @ pending
            of_slots, slot_mean = self._encode("slot_in", slots, np.concatenate([target, context]))
            of_pending, pending_mean = self._encode("pending_in", pending, context)
            pooled = np.concatenate([slot_mean, pending_mean])
            scores[0] = scores[0] + self._mixed("slot", of_slots, pooled)
        if not self.swap:
            return scores[0]
        scores += [pending @ w["pending_linear"], context @ w["wait_linear"] + w["wait_bias"]]
        if hidden:
            scores[1] = scores[1] + self._mixed("pending", of_pending, pooled)
            units = w["wait_mix"] @ np.concatenate([pooled, context]) + w["wait_mix_bias"]
            scores[2] = scores[2] + np.maximum(units, 0) @ w["wait_out"]
        return np.concatenate(scores)

    def _urgency(self, slots: FloatArray, pending: FloatArray, context: FloatArray) -> FloatArray:
        """What each model gains because its oldest request has waited for longer than its limit."""
        by, slot, column = self._score["urgency"], self._columns["slot"], self._columns["pending"]
        age_s = 0.0
        if context[self._columns["context"]["pending"]] > 1.5:
            age_s = slots[:, slot["running_age_s"]].sum() / max(slots[:, THERE].sum(), 1.0)
        limit_s = by["grace_s"] + by["loads"] * pending[:, column["load_s"]] + by["ages"] * age_s
        limit_s = np.where(pending[:, column["idle_suffices"]] == 0, by["busy"] * limit_s, limit_s)
        gains: FloatArray = by["price"] * np.maximum(pending[:, column["oldest_wait_s"]] / limit_s - 1.0, 0.0)
        return gains

    def _encode(self, name: str, rows: FloatArray, common: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Hidden units of each row, 0 for empty rows, and their mean over the others."""
        weight, width = self._w[name], rows.shape[1]
        there = rows[:, THERE, None]
        shared = weight[:, width:] @ common + self._w[f"{name}_bias"]
        units = np.maximum(rows @ weight[:, :width].T + shared, 0) * there
        return units, units.sum(axis=0) / max(there.sum(), np.float32(1))

    def _mixed(self, block: str, units: FloatArray, pooled: FloatArray) -> FloatArray:
        """What the second layer adds to the scores of a block."""
        weight, hidden = self._w[f"{block}_mix"], units.shape[1]
        shared = weight[:, hidden:] @ pooled + self._w[f"{block}_mix_bias"]
        added: FloatArray = np.maximum(units @ weight[:, :hidden].T + shared, 0) @ self._w[f"{block}_out"]
        return added


@functools.cache
def here() -> Policy:
    """The policy in the folder of this file."""
    return Policy(Path(__file__).resolve().parent)


def decide(slots: FloatArray, pending: FloatArray, context: FloatArray, legal: npt.ArrayLike) -> int:
    """The action of the policy in this folder; see `Policy.decide`."""
    return here().decide(slots, pending, context, legal)
