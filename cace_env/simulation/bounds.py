"""A lower bound on the cost of any policy: each request alone on the fastest accelerator.

Its model is resident and its prefix cached. Other requests, loads and recomputed prompts only add to that. The bound
ignores memory, so it is loose when there are many swaps: it says how much of a cost is work, not how much of the rest
could be saved (`cace_env.planning.planner` looks for that, `cace_env.planning.optimum` proves it for tiny episodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cace_env.kernel.state import Int64Array
from cace_env.tables import FleetTables
from cace_env.workload import Workload

# A latency is rounded where a prefill and a decode begin, to 2 ** -20 of a round each time: with rounds up to
# 2 ** 20 us it can be shorter by this much, with longer ones by this much for each 2 ** 20 us.
TOLERANCE_US: Final = 2
ABOUT_A_SECOND_NS: Final = 1000 << 20
SHORTEST_ROUND_NS: Final = 1000


@dataclass(frozen=True)
class LowerBound:
    """The least cost of an episode, and the least latencies of its `R` requests."""

    cost: float
    ttft_us: Int64Array  # (R,) 0 if refused
    e2e_us: Int64Array  # (R,) 0 if refused


def lower_bound(tables: FleetTables, workload: Workload) -> LowerBound:
    """Compute the least cost and latencies that any policy can reach.

    A request that is longer than its model's KV cache is refused under every policy: it costs `w_refused`, and has no
    latency. An SLO is missed under every policy if the least latency exceeds it. Loads cost nothing here.

    Args:
        tables: the fleet.
        workload: its requests.

    Raises:
        WorkloadError: the workload does not fit this fleet.
    """
    workload.validate(tables)
    m = workload.model
    context, new, output = (
        column.astype(np.int64) for column in (workload.context_tokens, workload.new_tokens, workload.output_tokens)
    )
    chunks = -(-new // tables.chunk_tokens[m])
    # Each (A, R): rounds of the simulator (`docs/design.md`, section 2) with no other request in them.
    work_ns = tables.prefill_ns[:, m] * new + tables.attention_ps[:, m] * (context**2 - (context - new) ** 2) // 2000
    work_ns += tables.request_ns[:, m]
    round_ns = tables.round_ns + tables.batch_ns[:, :, 0]
    prefill_round_ns = np.maximum(SHORTEST_ROUND_NS, round_ns[:, m] + work_ns // chunks)
    decode_round_ns = np.maximum(
        SHORTEST_ROUND_NS, tables.token_ns[:, m] + tables.kv_ps[:, m] * (2 * context + output) // 2000
    )
    prefill_ns = chunks * prefill_round_ns
    admitted = context + output <= tables.kv_tokens[m]
    seconds = -(-np.maximum(prefill_round_ns, decode_round_ns) // ABOUT_A_SECOND_NS)
    ttft_us, e2e_us = (
        np.where(admitted, np.maximum(0, (-(-least_ns // 1000) - TOLERANCE_US * seconds).min(axis=0)), 0)
        for least_ns in (prefill_ns, prefill_ns + (output - 1) * decode_round_ns)
    )
    prices, task = tables.cost, workload.task
    judged_us = np.where(prices.slo_on_e2e[task], e2e_us, ttft_us)
    missed = admitted & (judged_us > prices.slo_us[task])
    cost = (prices.w_ttft[task] * ttft_us + prices.w_e2e[task] * e2e_us).sum() * 1e-6
    cost += prices.w_slo * missed.sum() + prices.w_refused * (~admitted).sum()
    return LowerBound(float(cost), ttft_us, e2e_us)
