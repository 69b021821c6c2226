"""What the rows of observations with `top_k` are: the most plausible candidates of a fleet too large to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cace_env.kernel import batch as kernel
from cace_env.kernel.batch import NUM_TERMS, PLACE, Batch, Look, Shown
from cace_env.kernel.state import LIMIT, TARGET, Int64Array
from cace_env.kernel.summary import DIGITS, QUANTILES, SHARE
from cace_env.observation import Float32Array, ObservationLayout, Scaling
from cace_env.simulation.outcome import SimulationError
from cace_env.simulation.simulator import Simulator
from cace_env.tables import NONE, TASKS, FleetTables, Protocol, slots_per_accelerator

NO_TRACE = np.zeros((0, 4), dtype=np.int64)


def whole_layout(tables: Sequence[FleetTables]) -> ObservationLayout:
    """The smallest layout with a row for every slot and every model of the fleets."""
    slots = max(max(int(slots_per_accelerator(fleet).sum()), fleet.max_slots) for fleet in tables)
    return ObservationLayout(slots, max(fleet.num_models for fleet in tables))


class ShownRows:
    """The actions that the rows of `N` observations stand for: those of the last look.

    Args:
        num_envs: `N`.
        layout: of the observations, with `top_k`.
        tables: fleets of the simulations.
        slots: their slots.

    Raises:
        ValueError: models may be prefetched, which are not shown.
    """

    def __init__(self, num_envs: int, layout: ObservationLayout, tables: Sequence[FleetTables], slots: int) -> None:
        if any(fleet.protocol == Protocol.SWAP and fleet.prefetch_limit for fleet in tables):
            raise ValueError("with top_k no model is shown that nobody waits for; set the rules' prefetch_limit to 0")
        self._layout, self._slots = layout, slots
        self._actions = np.full((num_envs, layout.max_slots + layout.max_pending + 1), NONE)

    def action_of(self, env: int, number: int) -> int:
        """The simulation's own number of an action; NONE of a row that is empty."""
        return int(self._actions[env, number])

    def number_of(self, env: int, action: int) -> int:
        """The row that stands for an action.

        Raises:
            SimulationError: no row does.
        """
        rows = np.flatnonzero(self._actions[env] == action)
        if not len(rows):
            raise SimulationError(f"action {action} is not among the rows that are shown; raise top_k or max_pending")
        return int(rows[0])

    def taken(self, asked: Int64Array, numbers: Int64Array) -> Int64Array:
        """Actions `(N,)` as the simulations count them; where nothing is asked they stay as they are."""
        actions = numbers.copy()
        actions[asked] = self._actions[asked, numbers[asked]]
        return actions

    def contents(self) -> Int64Array:
        """Slots, then models, `(N, max_slots + max_pending)`; NONE = an empty row."""
        rows: Int64Array = self._actions[:, :-1].copy()
        models = rows[:, self._layout.max_slots :]
        models[models != NONE] -= self._slots
        return rows

    def look(self, batch: Batch, rows: Int64Array, scaling: Scaling, look: Look) -> None:
        """Write observations and masks of `rows`, and remember what they show."""
        shown = Shown(self._actions, np.zeros(self._actions.shape[1]))
        kernel.show_rows(batch, rows, scaling, self._layout.max_slots, shown, look)


def look_at(simulator: Simulator, layout: ObservationLayout) -> tuple[Float32Array, npt.NDArray[np.int8], ShownRows]:
    """Observation, mask and rows at the open question, as an environment with this layout gives them."""
    row, at, fleet, fleet_at, workload = simulator.arguments
    swap = simulator.tables.protocol == Protocol.SWAP
    place = np.zeros((1, len(PLACE)), dtype=np.int64)
    place[0, PLACE.requests], place[0, PLACE.open_requests] = len(workload.times), len(workload.open_order)
    nothing = np.zeros((1, NUM_TERMS), dtype=np.int64)
    batch = Batch(
        row[None], at[None], place, nothing, np.zeros((1, 2), dtype=np.int64), fleet[None], fleet_at[None],
        np.zeros((1, LIMIT.keep_alive_us), dtype=np.int64), np.zeros((1, NUM_TERMS)),
        workload.times[None], workload.columns[None], workload.open_order[None], NO_TRACE,
        np.zeros((1, len(TASKS), len(SHARE)), dtype=np.int64), np.zeros((1, len(TASKS) + 1, 2, len(QUANTILES) + 1)),
        np.zeros((1, 3, 0), dtype=np.int64), np.zeros((1, DIGITS), dtype=np.int64),
    )  # fmt: skip
    actions = layout.max_slots + (layout.max_pending + 1 if swap else 0)
    truth, zeros = np.zeros(1, dtype=np.bool_), np.zeros(1)
    look = Look(
        np.zeros((1, layout.size), dtype=np.float32), np.zeros((1, actions), dtype=np.int8), zeros,
        np.zeros((NUM_TERMS + 2, 1)), truth, truth, zeros, zeros, truth, np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    shown = ShownRows(1, layout, [simulator.tables], simulator.max_slots)
    shown.look(batch, np.zeros(1, dtype=np.int64), layout.scaling(), look)
    return look.observations[0], look.masks[0], shown


def described(simulator: Simulator, choices: Mapping[int, int]) -> str:
    """The open question in words; `choices` are the legal actions by the numbers that they have for an agent."""
    state, names = simulator.state, simulator.tables.model_names
    slots, wait, target = simulator.max_slots, len(simulator.state.legal) - 1, int(state.scalars[TARGET])
    if target == NONE:
        return " or ".join(
            f"{'wait' if action == wait else f'load {names[action - slots]}'} (action {number})"
            for number, action in choices.items()
        )
    victims = [
        f"{names[state.slots[slot]]} (slot {slot}{'' if slot == number else f', action {number}'})"
        for number, slot in choices.items()
    ]
    return f"make room for {names[target]}: evict {' or '.join(victims)}"
