"""What an episode was like for the people who waited, and what it cost: flat, named numbers with units.

`METRICS` describes every name. A name ends with its unit where it has one; a name that begins with a task
(`completion_ttft_p95_s`) counts only that task's requests. What no request can tell is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.simulator import Episode
from cace_env.tables import FOREVER, TASKS, FleetTables

FloatArray = npt.NDArray[np.float64]

QUANTILES: Final = (0.50, 0.95, 0.99)
WORKING_DAY_S: Final = 8 * 3600  # [s] a day of the load that the episode shows; nobody waits while everybody sleeps
# Bins of `ttft_histogram` [s], 20 to a decade; what lies outside counts in the first and the last one.
TTFT_EDGES_S: Final[FloatArray] = np.logspace(-3, 4, 141)


class Metric(NamedTuple):
    """What a number of an episode means."""

    unit: str
    meaning: str
    better: str = ""  # "less", "more", or "" where it is neither


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
    "cost": Metric("cost", "weighted waiting of all people: what is minimised; minus the sum of rewards", "less"),
    "cost_per_request": Metric("cost", "cost / requests", "less"),
    "waited_min_per_day": Metric(
        "developer min", "minutes that developers together wait for first tokens in 8 hours of this load", "less"
    ),
    "evictions": Metric("evictions", "models brought out of memory, keep-alive evictions too", "less"),
    "forced_evictions": Metric("evictions", "with a single legal victim: nobody was asked"),
    "keep_alive_evictions": Metric("evictions", "because a rule's keep-alive had run out"),
    "drains": Metric("evictions", "of models in use: they finish what runs and admit no more", "less"),
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


def episode_metrics(episode: Episode, tables: FleetTables) -> dict[str, float]:
    """Every metric of `METRICS`, in its order.

    Latencies are those of requests that were answered: refused ones have none, and where an episode was cut short
    (`truncated`), neither have unfinished ones.

    Args:
        episode: what the simulator returned.
        tables: the fleet it ran on.
    """
    arrived = (episode.arrival_us >= 0) & (episode.arrival_us <= episode.end_us)
    values = dict.fromkeys(METRICS, np.nan)
    values |= _request_metrics(episode, tables, arrived)
    simulated_us = max(episode.end_us, 1)
    accelerator_us = simulated_us * tables.num_accelerators
    counted = int(arrived.sum())
    accepted = counted - int(episode.refused.sum())
    values |= {
        "cost": episode.cost,
        "cost_per_request": _ratio(episode.cost, counted),
        "waited_min_per_day": float(episode.waiting_us.sum()) / simulated_us * WORKING_DAY_S / 60,
        "evictions": float(episode.evictions),
        "forced_evictions": float(episode.forced_evictions),
        "keep_alive_evictions": float(episode.keep_alive_evictions),
        "drains": float(episode.drains),
        "loads": float(episode.loads),
        "load_s": episode.load_us_total / 1e6,
        "loaded_gb": episode.loaded_bytes / 1e9,
        "regret_loads": float(episode.regret_loads),
        "prefix_tokens_lost": float(episode.prefix_tokens_lost),
        "cold_share": _ratio(episode.cold_requests, accepted),
        "memory_share": episode.memory_byte_us / (simulated_us * float(tables.memory_bytes.sum())),
        "compute_share": float(episode.busy_us.sum()) / accelerator_us,
        "channel_share": float(episode.channel_us.sum()) / accelerator_us,
        "decisions": float(episode.decisions),
        "decisions_per_request": _ratio(episode.decisions, counted),
        "simulated_s": episode.end_us / 1e6,
        "truncated": float(episode.truncated),
    }
    return values


def ttft_histogram(episode: Episode) -> npt.NDArray[np.int64]:
    """Answered requests by task and time to first token, `(T, len(TTFT_EDGES_S) - 1)`; histograms of seeds add up."""
    answered = episode.finish_us >= 0
    ttft_s = np.clip((episode.first_token_us - episode.arrival_us) / 1e6, TTFT_EDGES_S[0], TTFT_EDGES_S[-1])
    counts = [np.histogram(ttft_s[answered & (episode.task == t)], TTFT_EDGES_S)[0] for t in range(len(TASKS))]
    return np.array(counts, dtype=np.int64)


def _request_metrics(
    episode: Episode, tables: FleetTables, arrived: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, float]]:
    """The metrics of `TASK_METRICS`, over all requests and over those of each task."""
    rows = np.flatnonzero(episode.finish_us >= 0)
    rows = rows[np.argsort(episode.task[rows], kind="stable")]  # by task: each is a slice
    task = episode.task[rows]
    arrival_us = episode.arrival_us[rows]
    ttft_us = episode.first_token_us[rows] - arrival_us
    e2e_us = episode.finish_us[rows] - arrival_us
    limit_us = tables.cost.slo_us[task]
    limited = limit_us < FOREVER
    met = limited & (np.where(tables.cost.slo_on_e2e[task], e2e_us, ttft_us) <= limit_us)
    requests = np.array([np.count_nonzero(arrived & (episode.task == index)) for index in range(len(TASKS))])
    refused = np.array([np.count_nonzero(episode.refused & (episode.task == index)) for index in range(len(TASKS))])
    begins = np.searchsorted(task, range(len(TASKS) + 1)).tolist()
    groups = [("", slice(None), slice(None))]
    groups += [
        (f"{name}_", slice(*begins[index : index + 2]), slice(index, index + 1)) for index, name in enumerate(TASKS)
    ]
    for prefix, mine, tasks in groups:
        answered = len(rows[mine])
        for name, latency_us in (("ttft", ttft_us[mine]), ("e2e", e2e_us[mine])):
            yield f"{prefix}{name}_mean_s", _ratio(int(latency_us.sum()), answered) / 1e6
            for level, value_us in zip(QUANTILES, _quantiles(latency_us), strict=True):
                yield f"{prefix}{name}_p{round(100 * level)}_s", value_us / 1e6
        yield f"{prefix}longest_wait_s", float(ttft_us[mine].max()) / 1e6 if answered else np.nan
        yield f"{prefix}slo_met", _ratio(np.count_nonzero(met[mine]), np.count_nonzero(limited[mine]))
        yield f"{prefix}slo_missed", float(episode.slo_missed[tasks].sum())
        yield f"{prefix}requests", float(requests[tasks].sum())
        yield f"{prefix}answered", float(answered)
        yield f"{prefix}refused", float(refused[tasks].sum())
        yield f"{prefix}waiting_s", float(episode.waiting_us[tasks].sum()) / 1e6
        yield f"{prefix}system_s", float(episode.system_us[tasks].sum()) / 1e6


def _quantiles(values: npt.NDArray[np.int64]) -> list[float]:
    """`numpy.quantile` of `QUANTILES` in a tenth of its time, for which every end of an episode would wait."""
    if not len(values):
        return [np.nan] * len(QUANTILES)
    ascending = np.sort(values)
    positions = [level * (len(values) - 1) for level in QUANTILES]
    places = [(int(at), min(int(at) + 1, len(values) - 1), at - int(at)) for at in positions]
    return [
        float(ascending[below]) + share * float(ascending[above] - ascending[below]) for below, above, share in places
    ]


def _ratio(numerator: float, denominator: int) -> float:
    """NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else np.nan
