"""Clairvoyant policies: the only access to future requests.

Nothing else in the package looks ahead. A clairvoyant rule needs a `Future` and is refused without one
(`cace_env.policies.built_in.rule_of`): Belady without its next-use column would silently be the worst policy of all.

In closed loop, where users wait for answers, the arrival of a request depends on the policy. So a clairvoyant rule uses
*nominal* arrivals: those of the no-swapping run, in which every accelerator holds everything and nothing is evicted.
The next use of a model is the least nominal arrival among its requests that have not arrived, but not before now.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cace_env.kernel import rules
from cace_env.kernel.orders import ORDER
from cace_env.kernel.rules import Rule
from cace_env.simulation import NO_LIMITS, run_rule
from cace_env.simulation.scratch import NO_NETWORK
from cace_env.tables import FOREVER, FleetTables, Int64Array, Protocol
from cace_env.workload import Workload


@dataclass(frozen=True)
class Future:
    """Arrivals of all requests if no request waited for a swap (nominal). `R` requests, `M` models."""

    nominal_us: Int64Array  # (R,) arrival in the no-swapping run
    order: Int64Array  # requests that are not refused, by (model, nominal arrival, row)
    start: Int64Array  # (M + 1,) the requests of model m are order[start[m]:start[m + 1]]

    @classmethod
    def of(cls, tables: FleetTables, workload: Workload) -> Future:
        """Run the workload without swapping and sort its arrivals by model.

        Requests longer than their model's KV cache are refused on arrival, need no model, and do not count as uses.

        Raises:
            TableError, WorkloadError: the input cannot be simulated.
        """
        nominal_us = run_rule(without_swapping(tables), workload, _never_asked(tables)).arrival_us
        tokens = workload.context_tokens.astype(np.int64) + workload.output_tokens
        used = np.flatnonzero(tokens <= tables.kv_tokens[workload.model])
        order = used[np.lexsort((nominal_us[used], workload.model[used]))].astype(np.int64)
        counts = np.bincount(workload.model[order], minlength=tables.num_models)
        return cls(nominal_us, order, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def next_use_us(self, arrived: npt.NDArray[np.bool_], now_us: int) -> Int64Array:
        """Absolute time of each model's next use, `(M,)`; FOREVER if it is not requested again.

        Args:
            arrived: `(R,)` which requests have arrived in the current run.
            now_us: clock of that run; no use is earlier.
        """
        times = np.full(len(self.start) - 1, FOREVER, dtype=np.int64)
        for m in range(len(times)):
            mine = self.order[self.start[m] : self.start[m + 1]]
            waiting = mine[~arrived[mine]]
            if len(waiting):
                times[m] = max(int(self.nominal_us[waiting[0]]), now_us)
        return times


def without_swapping(tables: FleetTables) -> FleetTables:
    """The same fleet with room for everything everywhere: nothing is evicted, nothing is asked."""
    return tables.replace(unlimited_memory=True, max_slots=0, protocol=Protocol.EVICTION)


def _never_asked(tables: FleetTables) -> Rule:
    """A placeholder rule: this run never asks for a victim."""
    no_times = np.zeros(0, dtype=np.int64)
    starts = np.zeros(tables.num_models + 1, dtype=np.int64)
    return Rule(
        kind=rules.VALUES,
        reads=rules.OF_PLACE,
        weights=np.zeros(1),
        values=np.zeros(tables.num_models),
        limits=NO_LIMITS.row(tables),
        order=np.zeros(len(ORDER)),
        future_order=no_times,
        future_start=starts,
        nominal_us=no_times,
        network=NO_NETWORK,
    )
