"""The orders of Swap-v0 by name: which model to load next, and whether to wait.

An order can be combined with any policy that chooses victims: `policy("wsjf+cace")` loads by WSJF and evicts by CACE. A
policy without one (`"cace"`) uses `fifo`. Eviction-v0 does not ask for an order: its own is `patient-fifo`, with the
scenario's `drain_after` as patience.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, did_you_mean
from cace_env.kernel.orders import FIRST_COME, LEARNED, SHORTEST_LOAD, WEIGHT_PER_LOAD
from cace_env.tables import DRAIN_AFTER_US, FOREVER

JOINT: Final = "+"  # between an order and the policy that chooses its victims


@dataclass(frozen=True)
class Order:
    """A rule for which pending model is loaded first, and which one has to wait for an idle victim.

    Attributes:
        name: as in `ORDERS`, or one of your own.
        description: which model is loaded first.
        source: where the rule comes from.
        kind: how it scores, one of `cace_env.kernel.orders`.
        patience_s: a model that would need a busy victim waits this long for an idle one; inf = forever.
        max_wait_s: a model whose oldest request has waited this long comes first; inf = never.
        idle_first: busy models are evicted only if idle ones do not suffice.
        prefetch: if no requests wait, load the most requested absent model (only if the scenario allows prefetch).
    """

    name: str
    description: str
    source: str = ""
    kind: int = FIRST_COME
    patience_s: float = 0.0
    max_wait_s: float = math.inf
    idle_first: bool = True
    prefetch: bool = False

    def __post_init__(self) -> None:
        for key in ("patience_s", "max_wait_s"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"order {self.name!r}: {key} is {getattr(self, key)}; it has to be at least 0")

    @property
    def patience_us(self) -> int:
        """`patience_s` in microseconds, at most FOREVER."""
        return _microseconds(self.patience_s)

    def row(self) -> npt.NDArray[np.float64]:
        """The order in the form that the kernel reads (`cace_env.kernel.orders.ORDER`)."""
        return np.array([self.kind, _microseconds(self.max_wait_s), self.idle_first, self.prefetch], dtype=np.float64)


def _microseconds(time_s: float) -> int:
    return FOREVER if time_s * 1e6 >= FOREVER else round(time_s * 1e6)


PATIENCE_S: Final = DRAIN_AFTER_US / 1e6  # patience of the patient orders

ORDERS: Final[dict[str, Order]] = {
    row.name: row
    for row in (
        Order("fifo", "oldest waiting request first", source="Eviction-v0 with `drain_after` 0"),
        Order(
            "patient-fifo",
            "oldest waiting request first; waits up to 30 s for an idle victim",
            source="Eviction-v0 with its default `drain_after`",
            patience_s=PATIENCE_S,
        ),
        Order(
            "fifo-any-victim",
            "oldest waiting request first; busy victims are candidates like idle ones",
            idle_first=False,
        ),
        Order(
            "llama-swap",
            "oldest waiting request first; never drains a model: waits until a victim is idle",
            source="llama-swap: requests for one model are served together, a busy model is never stopped",
            patience_s=math.inf,
        ),
        Order("shortest-load", "shortest load first", source="shortest job first", kind=SHORTEST_LOAD),
        Order(
            "wsjf",
            "greatest cost weight of the waiting requests per second of load first",
            source="weighted shortest job first (Smith 1956, optimal for one machine without later arrivals)",
            kind=WEIGHT_PER_LOAD,
        ),
        Order(
            "wsjf-max-wait",
            "wsjf; a model whose oldest request has waited 120 s comes first",
            source="wsjf with a guard against starvation",
            kind=WEIGHT_PER_LOAD,
            max_wait_s=120.0,
        ),
        Order(
            "patient-wsjf",
            "wsjf; waits up to 30 s for an idle victim",
            kind=WEIGHT_PER_LOAD,
            patience_s=PATIENCE_S,
        ),
        Order(
            "very-patient-wsjf",
            "wsjf; waits up to 120 s for an idle victim",
            kind=WEIGHT_PER_LOAD,
            patience_s=120.0,
        ),
        Order(
            "prefetch-wsjf",
            "patient-wsjf; if no requests wait, the model that would save most load seconds per minute and GB",
            kind=WEIGHT_PER_LOAD,
            patience_s=PATIENCE_S,
            prefetch=True,
        ),
    )
}


# The order of trained agents for Swap-v0, which score loads themselves; it cannot be combined with other policies.
LEARNED_ORDER: Final = Order(
    "learned", "by the agent's own scores", kind=LEARNED, patience_s=math.inf, idle_first=False
)


def order(what: str | Order) -> Order:
    """Find an order by name; an `Order` is returned as it is.

    Raises:
        ConfigError: the name is unknown; the error lists the closest one and all of them.
    """
    if isinstance(what, Order):
        return what
    if what not in ORDERS:
        raise ConfigError(f"no order called {what!r}{did_you_mean(what, ORDERS)}; known are {', '.join(ORDERS)}")
    return ORDERS[what]


def split_order(name: str) -> tuple[Order | None, str]:
    """Split a name at the plus into the order, if there is one, and the policy.

    Raises:
        ConfigError: there is no such order.
    """
    before, plus, behind = name.partition(JOINT)
    return (order(before), behind) if plus else (None, name)
