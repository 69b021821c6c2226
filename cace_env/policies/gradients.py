"""Integrated gradients of a network's scores (Sundararajan et al., ICML 2017), by NumPy alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.observation import CONTEXT, PENDING, THERE, ObservationLayout
from cace_env.policies.network import Network
from cace_env.tables import Protocol

FloatArray = npt.NDArray[np.float64]

FIRST_STEPS, MOST_STEPS = 32, 2048  # of the integral; doubled until what is left over is small
TOLERANCE: Final = 1e-3  # of the sum of all contributions' sizes


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
            self.step[:, [PENDING.present, PENDING.legal]] = 0.0  # they are there, and may be loaded
        self.there = self.rows[:, THERE, None]
        if network.hidden:
            target = (pending * pending[:, PENDING.target, None]).sum(axis=0)
            slot_common, other = np.concatenate([target, context]), slots if self.ordering else pending
            self.common = context if self.ordering else slot_common
            self.other = self._mean(
                "slot_in" if self.ordering else "pending_in", other, slot_common if self.ordering else context
            )
        self.start = float(self.at(np.zeros(1))[0][0])
        self.base = self.start if self.wait_weight else 0.0  # without waiting it is 0 but for rounding

    def _mean(self, name: str, rows: FloatArray, common: FloatArray) -> FloatArray:
        """Mean hidden units of the rows that do not change, `(H,)`."""
        units = np.maximum(rows @ self.w[name][:, : rows.shape[1]].T + self._shared(name, rows.shape[1], common), 0)
        mean: FloatArray = (units * rows[:, THERE, None]).sum(axis=0) / max(rows[:, THERE].sum(), 1.0)
        return mean

    def _shared(self, name: str, width: int, common: FloatArray) -> FloatArray:
        return common @ self.w[name][:, width:].T + self.w[f"{name}_bias"]

    def at(self, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`D` and what it gains per feature of the candidates, at shares `(T,)` of the line: `(T,)` and `(T, F)`."""
        w, hidden = self.w, self.network.hidden
        block = "pending" if self.ordering else "slot"
        rows = self.rows + (share[:, None, None] - 1.0) * self.step  # (T, rows, F)
        linear = w[f"{block}_linear"]
        value = (rows @ linear) @ self.weights
        slope = np.broadcast_to(self.weights[:, None] * linear, rows.shape).copy()
        if self.ordering:
            value = value + self.wait_weight * (self.context @ w["wait_linear"] + w["wait_bias"][0])
        if hidden:
            width = rows.shape[-1]
            inner = w[f"{block}_in"][:, :width]
            before = rows @ inner.T + self._shared(f"{block}_in", width, self.common)
            units = np.maximum(before, 0) * self.there
            count = max(self.there.sum(), 1.0)
            mean = units.sum(axis=1) / count  # (T, H)
            pooled = (
                [np.broadcast_to(self.other, mean.shape), mean]
                if self.ordering
                else [mean, np.broadcast_to(self.other, mean.shape)]
            )
            both = np.concatenate(pooled, axis=-1)
            mix = w[f"{block}_mix"]
            mixed = units @ mix[:, :hidden].T + (both @ mix[:, hidden:].T + w[f"{block}_mix_bias"])[:, None, :]
            value = value + (np.maximum(mixed, 0) @ w[f"{block}_out"]) @ self.weights
            # Backwards: from the second layer to the hidden units of each row, and to those of all by the mean.
            mine = slice(2 * hidden, 3 * hidden) if self.ordering else slice(hidden, 2 * hidden)
            back = self.weights[:, None] * w[f"{block}_out"] * (mixed > 0)
            to_mean = back.sum(axis=1) @ mix[:, mine]
            if self.ordering and self.wait_weight:
                waiting = w["wait_mix"]
                units_wait = (
                    both @ waiting[:, : 2 * hidden].T + self.context @ waiting[:, 2 * hidden :].T + w["wait_mix_bias"]
                )
                value = value + self.wait_weight * (np.maximum(units_wait, 0) @ w["wait_out"])
                to_mean = (
                    to_mean + self.wait_weight * (w["wait_out"] * (units_wait > 0)) @ waiting[:, hidden : 2 * hidden]
                )
            to_units = (back @ mix[:, :hidden] + to_mean[:, None, :] / count) * self.there
            slope = slope + (to_units * (before > 0)) @ inner
        return value, (slope * self.step).sum(axis=1)

    def attribute(self) -> tuple[FloatArray, float]:
        """What each feature adds along the line `(F,)`, and what the integral leaves over."""
        whole = float(self.at(np.ones(1))[0][0]) - self.start
        steps = 1 if not self.network.hidden else FIRST_STEPS
        while True:
            middles = (np.arange(steps) + 0.5) / steps
            amounts = self.at(middles)[1].mean(axis=0)
            residual = whole - float(amounts.sum())
            if abs(residual) <= TOLERANCE * np.abs(amounts).sum() or steps >= MOST_STEPS or not self.network.hidden:
                return amounts, residual
            steps *= 2
