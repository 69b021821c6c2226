"""Limits on an episode: keep-alives, models per accelerator, and patience."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cace_env.kernel.state import LIMIT, Int64Array
from cace_env.simulation.outcome import SimulationError
from cace_env.tables import FOREVER, NONE, FleetTables, pinned_bytes


@dataclass(frozen=True)
class Limits:
    """Limits that some deployed rules have in addition to their choice of victim."""

    keep_alive_us: Sequence[int] | None = None  # (M,) FOREVER = never; None = never for all
    max_resident: int | None = None  # models per accelerator
    patience_us: int = FOREVER  # Swap-v0: the policy is asked again when a model has been pending this long

    def row(self, tables: FleetTables) -> Int64Array:
        """`(LIMIT.keep_alive_us + M,)` in the form that the kernel reads.

        Raises:
            SimulationError: a time is out of range or missing, or under a limit some model could never be loaded
                (`least_max_resident`).
        """
        models = tables.num_models
        keep_alive = (
            np.full(models, FOREVER) if self.keep_alive_us is None else np.asarray(self.keep_alive_us, dtype=np.int64)
        )
        if keep_alive.shape != (models,) or ((keep_alive < 0) | (keep_alive > FOREVER)).any():
            raise SimulationError(
                f"keep_alive_us is {keep_alive}; give one time of 0 to {FOREVER} for each of {models} models"
            )
        most = models
        if self.max_resident is not None:
            most = self.max_resident
            least, model = least_max_resident(tables)
            if most < least:
                raise SimulationError(
                    f"max_resident {most} leaves no room for {tables.model_names[model]!r}: wherever it fits, "
                    f"{least - 1} or more models are pinned; it needs at least {least}"
                )
        if not 0 <= self.patience_us <= FOREVER:
            raise SimulationError(f"patience_us is {self.patience_us}; it has to be 0 to {FOREVER}")
        row = np.empty(LIMIT.keep_alive_us + models, dtype=np.int64)
        row[LIMIT.most_resident] = most
        row[LIMIT.any_keep_alive] = (keep_alive < FOREVER).any()
        row[LIMIT.patience_us] = self.patience_us
        row[LIMIT.keep_alive_us :] = keep_alive
        return row


NO_LIMITS = Limits()


def least_max_resident(tables: FleetTables) -> tuple[int, int]:
    """The smallest `Limits.max_resident` under which every model can be loaded, and a model that needs it.

    A model fits on an accelerator if there is room beside the models pinned there, whatever else is asleep (as
    `tables.validate` checks for the roomiest one); of those where it fits, the one with the fewest pinned models
    decides. `(0, NONE)` if the limit affects no model: all are pinned, or memory is unlimited.
    """
    unpinned = np.flatnonzero(tables.pinned_on == NONE)
    if tables.unlimited_memory or not len(unpinned):
        return 0, NONE
    pinned = np.bincount(tables.pinned_on[tables.pinned_on != NONE], minlength=tables.num_accelerators)
    others_bytes = tables.residual_bytes[unpinned].sum() - tables.residual_bytes[unpinned]
    room_bytes = tables.memory_bytes - pinned_bytes(tables)
    fits = room_bytes - others_bytes[:, None] >= tables.need_bytes[unpinned][:, None]  # (unpinned models, A)
    least = np.where(fits, pinned + 1, FOREVER).min(axis=1)
    return int(least.max()), int(unpinned[least.argmax()])
