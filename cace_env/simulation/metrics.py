"""Metrics of an episode: waiting times and costs as flat, named numbers with units.

`METRICS` describes every name. A name ends with its unit if it has one; a name that begins with a task
(`completion_ttft_p95_s`) counts only that task's requests. A metric without any request is NaN, never 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel.summary import ShareColumns
from cace_env.simulation.outcome import Episode, Summary
from cace_env.tables import TASKS, FleetTables

FloatArray = npt.NDArray[np.float64]

WORKING_DAY_S: Final = 8 * 3600  # [s] length of a day at the episode's load, without the night
# Bins of `ttft_histogram` [s], 20 to a decade; values outside count in the first or last bin.
TTFT_EDGES_S: Final[FloatArray] = np.logspace(-3, 4, 141)


class Metric(NamedTuple):
    """Meaning of a metric."""

    unit: str
    meaning: str
    better: str = ""  # "less", "more", or "" if neither is better


_LATENCIES = {
    "ttft": "time to first token, from a request's arrival",
    "e2e": "end-to-end latency, from a request's arrival to its last token",
}
_STATISTICS = {"mean": "mean", "p50": "median", "p95": "95 % quantile", "p99": "99 % quantile"}


def _of_requests() -> dict[str, Metric]:
    """Metrics that exist for all requests together and for those of each task."""
    rows = {
        f"{name}_{statistic}_s": Metric("s", f"{meaning}: {words}", "less")
        for name, meaning in _LATENCIES.items()
        for statistic, words in _STATISTICS.items()
    }
    rows |= {
        "longest_wait_s": Metric("s", "longest wait for a first token", "less"),
        "slo_met": Metric("share", "answered requests of tasks with an SLO that met it", "more"),
        "slo_missed": Metric("requests", "missed their SLO, counted at the first token or the finish", "less"),
        "requests": Metric("requests", "arrived"),
        "answered": Metric("requests", "finished"),
        "refused": Metric("requests", "longer than their model's KV cache: refused on arrival, in no latency", "less"),
        "waiting_s": Metric("request s", "sum over requests of the time until the first token", "less"),
        "system_s": Metric("request s", "sum over requests of the time in the system", "less"),
    }
    return rows


TASK_METRICS: Final[dict[str, Metric]] = _of_requests()
METRICS: Final[dict[str, Metric]] = {
    **TASK_METRICS,
    "cost": Metric("cost", "weighted waiting of all requests: what is minimised; minus the sum of rewards", "less"),
    "cost_per_request": Metric("cost", "cost / requests", "less"),
    "waited_min_per_day": Metric(
        "developer min", "minutes that developers together wait for first tokens in 8 hours of this load", "less"
    ),
    "evictions": Metric("evictions", "models evicted from memory, including keep-alive evictions", "less"),
    "forced_evictions": Metric("evictions", "with a single legal victim: the policy was not asked"),
    "keep_alive_evictions": Metric("evictions", "because a rule's keep-alive had run out"),
    "drains": Metric("evictions", "of models in use: they finish what runs and admit no more", "less"),
    "waits": Metric("decisions", "Swap-v0: to wait instead of loading a model"),
    "prefetches": Metric("loads", "Swap-v0: chosen for models without waiting requests"),
    "loads": Metric("loads", "models brought into memory", "less"),
    "load_s": Metric("s", "sum of load times", "less"),
    "loaded_gb": Metric("GB", "weights brought into memory", "less"),
    "regret_loads": Metric("loads", "of models evicted less than 60 s before", "less"),
    "prefix_tokens_lost": Metric("tokens", "prompt tokens computed again because their model had been evicted", "less"),
    "cold_share": Metric("share", "accepted requests that found their model not resident", "less"),
    "memory_share": Metric("share", "accelerator memory in use, mean over time and accelerators"),
    "compute_share": Metric("share", "time that accelerators computed"),
    "channel_share": Metric("share", "time that swap channels were taken"),
    "decisions": Metric("decisions", "questions put to the policy"),
    "decisions_per_request": Metric("decisions per request", "decisions / requests"),
    "simulated_s": Metric("s", "length of the episode"),
    "truncated": Metric("0 or 1", "cut by the limit on decisions: left out of comparisons"),
    **{
        f"{task}_{name}": metric._replace(meaning=f"{task}: {metric.meaning}")
        for task in TASKS
        for name, metric in TASK_METRICS.items()
    },
}


def episode_metrics(summary: Summary, tables: FleetTables) -> dict[str, float]:
    """Compute every metric of `METRICS`, in its order.

    Latencies are those of answered requests: refused ones have none, and if an episode was cut short (`truncated`),
    neither have unfinished ones.

    Args:
        summary: summary of the episode (`Simulator.summary`).
        tables: the fleet it ran on.
    """
    totals = summary.totals
    rows = summary.shares.tolist()
    everything = ShareColumns(*(sum(column) for column in zip(*rows, strict=True)))
    *quantiles_us, all_quantiles_us = summary.quantiles_us.tolist()
    simulated_us = max(totals.end_us, 1)
    accelerator_us = simulated_us * tables.num_accelerators
    values = _request_metrics(everything, all_quantiles_us)
    values |= {
        "cost": totals.cost,
        "cost_per_request": _ratio(totals.cost, everything.arrived),
        "waited_min_per_day": everything.waiting_us / simulated_us * WORKING_DAY_S / 60,
        "evictions": float(totals.evictions),
        "forced_evictions": float(totals.forced_evictions),
        "keep_alive_evictions": float(totals.keep_alive_evictions),
        "drains": float(totals.drains),
        "waits": float(totals.waits),
        "prefetches": float(totals.prefetches),
        "loads": float(totals.loads),
        "load_s": totals.load_us_total / 1e6,
        "loaded_gb": totals.loaded_bytes / 1e9,
        "regret_loads": float(totals.regret_loads),
        "prefix_tokens_lost": float(totals.prefix_tokens_lost),
        "cold_share": _ratio(totals.cold_requests, everything.arrived - everything.refused),
        "memory_share": totals.memory_byte_us / (simulated_us * float(tables.memory_bytes.sum())),
        "compute_share": float(totals.busy_us.sum()) / accelerator_us,
        "channel_share": float(totals.channel_us.sum()) / accelerator_us,
        "decisions": float(totals.decisions),
        "decisions_per_request": _ratio(totals.decisions, everything.arrived),
        "simulated_s": totals.end_us / 1e6,
        "truncated": float(totals.truncated),
    }
    for task, row, task_quantiles_us in zip(TASKS, rows, quantiles_us, strict=True):
        mine = _request_metrics(ShareColumns(*row), task_quantiles_us)
        values |= {f"{task}_{name}": value for name, value in mine.items()}
    return values


def ttft_histogram(episode: Episode) -> npt.NDArray[np.int64]:
    """Answered requests by task and time to first token, `(T, len(TTFT_EDGES_S) - 1)`; histograms of seeds add up."""
    answered = episode.finish_us >= 0
    ttft_s = (episode.first_token_us - episode.arrival_us)[answered] / 1e6
    bins = len(TTFT_EDGES_S) - 1
    places = np.clip(np.searchsorted(TTFT_EDGES_S, ttft_s, side="right") - 1, 0, bins - 1)
    counts = np.bincount(episode.task[answered].astype(np.int64) * bins + places, minlength=len(TASKS) * bins)
    return counts.reshape(len(TASKS), bins)


def _request_metrics(share: ShareColumns, quantiles_us: list[list[float]]) -> dict[str, float]:
    """Metrics of `TASK_METRICS` for some requests, with the quantiles of their TTFTs and E2E latencies."""
    ttft_us, e2e_us = quantiles_us
    return {
        **_statistics_s("ttft", _ratio(share.ttft_us, share.answered), ttft_us),
        **_statistics_s("e2e", _ratio(share.e2e_us, share.answered), e2e_us),
        "longest_wait_s": ttft_us[-1] / 1e6,
        "slo_met": _ratio(share.met, share.limited),
        "slo_missed": float(share.slo_missed),
        "requests": float(share.arrived),
        "answered": float(share.answered),
        "refused": float(share.refused),
        "waiting_s": share.waiting_us / 1e6,
        "system_s": share.system_us / 1e6,
    }


def _statistics_s(name: str, mean_us: float, quantiles_us: list[float]) -> dict[str, float]:
    """Mean and quantiles of a latency."""
    median_us, p95_us, p99_us, _ = quantiles_us
    return {
        f"{name}_mean_s": mean_us / 1e6,
        f"{name}_p50_s": median_us / 1e6,
        f"{name}_p95_s": p95_us / 1e6,
        f"{name}_p99_s": p99_us / 1e6,
    }


def _ratio(numerator: float, denominator: int) -> float:
    """The ratio; NaN if the denominator is 0."""
    return numerator / denominator if denominator else np.nan
