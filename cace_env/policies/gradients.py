"""Integrated gradients of a network's scores (Sundararajan et al., ICML 2017), by NumPy alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.observation import CONTEXT, PENDING, THERE, ObservationLayout
from cace_env.policies.network import Network, encode, mix, mix_wait
from cace_env.tables import FloatArray, Protocol

FIRST_STEPS, MOST_STEPS = 32, 2048  # of the integral; doubled until the error is small
TOLERANCE: Final = 1e-3  # share of the sum of all absolute contributions


class ScoreLine:
    """The weighted sum `D` of scores along the line that `cace_env.policies.explanations` describes, and its slope."""

    def __init__(
        self,
        network: Network,
        layout: ObservationLayout,
        observation: npt.NDArray[np.float32],
        legal: npt.NDArray[np.int64],
        weights: FloatArray,
    ) -> None:
        slots, pending, context = (block.astype(np.float64) for block in layout.split(observation))
        self.network = network
        self.w = {name: weight.astype(np.float64) for name, weight in network.weights.items()}
        self.ordering = network.protocol == Protocol.SWAP and context[CONTEXT.ordering] > 0
        self.context = context
        wait = layout.max_slots + layout.max_pending
        self.wait_weight = float(weights[legal == wait].sum()) if self.ordering else 0.0
        self.candidates = (legal[legal < wait] - layout.max_slots) if self.ordering else legal
        self.rows = pending if self.ordering else slots
        self.weights = np.zeros(len(self.rows))
        self.weights[self.candidates] = weights[: len(self.candidates)]
        self.step = np.zeros_like(self.rows)
        mine = self.rows[self.candidates]
        self.step[self.candidates] = mine - mine.mean(axis=0)
        if self.wait_weight:
            self.step[self.candidates] = mine
            self.step[:, [PENDING.present, PENDING.legal]] = 0.0  # every candidate exists and may be loaded
        if network.hidden:
            target = (pending * pending[:, PENDING.target, None]).sum(axis=0)
            of_slots = np.concatenate([target, context])  # what all slots share
            if self.ordering:
                self.common, other = context, encode(self.w, "slot_in", slots, of_slots)
            else:
                self.common, other = of_slots, encode(self.w, "pending_in", pending, context)
            self.other = other.mean  # over the rows that do not change
        self.start = float(self.at(np.zeros(1))[0][0])
        self.base = self.start if self.wait_weight else 0.0  # without waiting it is 0 up to rounding

    def at(self, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`D` and its slope along each feature of the candidates, at shares `(T,)` of the line: `(T,)` and `(T, F)`."""
        w, hidden = self.w, self.network.hidden
        block = "pending" if self.ordering else "slot"
        rows = self.rows + (share[:, None, None] - 1.0) * self.step  # (T, rows, F)
        linear = w[f"{block}_linear"]
        value = (rows @ linear) @ self.weights
        slope = np.broadcast_to(self.weights[:, None] * linear, rows.shape).copy()
        if self.ordering:
            value = value + self.wait_weight * (self.context @ w["wait_linear"] + w["wait_bias"][0])
        if hidden:
            encoded = encode(w, f"{block}_in", rows, self.common)
            other = np.broadcast_to(self.other, encoded.mean.shape)  # (T, H)
            both = np.concatenate([other, encoded.mean] if self.ordering else [encoded.mean, other], axis=-1)
            mixed = mix(w, block, encoded.units, both)
            value = value + (np.maximum(mixed, 0) @ w[f"{block}_out"]) @ self.weights
            # Backward: from the second layer to the hidden units of each row, and through the mean to all rows.
            mine = slice(2 * hidden, 3 * hidden) if self.ordering else slice(hidden, 2 * hidden)
            back = self.weights[:, None] * w[f"{block}_out"] * (mixed > 0)
            weight, there = w[f"{block}_mix"], rows[..., THERE, None]
            to_mean = back.sum(axis=1) @ weight[:, mine]
            if self.ordering and self.wait_weight:
                context = np.broadcast_to(self.context, (len(both), len(self.context)))
                waiting = mix_wait(w, both, context)
                value = value + self.wait_weight * (np.maximum(waiting, 0) @ w["wait_out"])
                back_wait = self.wait_weight * w["wait_out"] * (waiting > 0)
                to_mean = to_mean + back_wait @ w["wait_mix"][:, hidden : 2 * hidden]
            count = np.maximum(there.sum(axis=1), 1)[:, None, :]
            to_units = (back @ weight[:, :hidden] + to_mean[:, None, :] / count) * there
            slope = slope + (to_units * (encoded.before > 0)) @ w[f"{block}_in"][:, : rows.shape[-1]]
        return value, (slope * self.step).sum(axis=1)

    def attribute(self) -> tuple[FloatArray, float]:
        """Contribution of each feature along the line, `(F,)`, and the error of the integral."""
        whole = float(self.at(np.ones(1))[0][0]) - self.start
        steps = 1 if not self.network.hidden else FIRST_STEPS
        while True:
            middles = (np.arange(steps) + 0.5) / steps
            amounts = self.at(middles)[1].mean(axis=0)
            residual = whole - float(amounts.sum())
            if abs(residual) <= TOLERANCE * np.abs(amounts).sum() or steps >= MOST_STEPS or not self.network.hidden:
                return amounts, residual
            steps *= 2
