"""What each window of an episode had: sums and means over the requests that arrive in it.

A log is played as one episode, so memory, queues and forecasts go on from one window to the next, as in a real fleet;
its windows are told apart in the results (batch means: Law, Simulation Modeling and Analysis, chapter 9).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.simulation.outcome import Episode
from cace_env.tables import FOREVER, TASKS, CostTable, FloatArray, Int64Array

OF_REQUESTS: Final = ("ttft_mean_s", "e2e_mean_s", "longest_wait_s", "waiting_s", "system_s", "slo_missed")
# Metrics that single requests have; others, such as evictions or quantiles, are those of whole episodes alone.
WINDOWED: Final = ("cost", *OF_REQUESTS, *(f"{task}_{name}" for task in TASKS for name in OF_REQUESTS))


def window_metrics(episode: Episode, cost: CostTable, edges: Int64Array) -> dict[str, FloatArray]:
    """Metrics of `WINDOWED`, each `(W,)`; NaN if the episode was cut short, and means without requests.

    Args:
        episode: of requests in order of time.
        cost: weights; the costs of all windows add up to that of the episode.
        edges: (W + 1,) rows at which windows begin, and the end (`cace_env.traces.windows.edges_of`).
    """
    if episode.truncated:
        return {name: np.full(len(edges) - 1, np.nan) for name in WINDOWED}
    task = episode.task
    waited_s, stayed_s = (
        np.where(episode.refused, 0.0, (ends_us - episode.arrival_us) / 1e6)
        for ends_us in (episode.first_token_us, episode.finish_us)
    )
    limit_s = np.where(cost.slo_us < FOREVER, cost.slo_us / 1e6, np.inf)[task]
    late = ~episode.refused & (np.where(cost.slo_on_e2e[task], stayed_s, waited_s) > limit_s)
    found = {"cost": sums_of(_costs(episode, cost, waited_s, stayed_s, late), edges)}
    groups = {"": np.ones(len(task), bool)} | {f"{name}_": task == t for t, name in enumerate(TASKS)}
    for prefix, mine in groups.items():
        answered = sums_of(mine & ~episode.refused, edges)
        ours = {"waiting_s": mine * waited_s, "system_s": mine * stayed_s}
        sums = {name: sums_of(values, edges) for name, values in ours.items()}
        with np.errstate(invalid="ignore"):
            means = (sums["waiting_s"] / answered, sums["system_s"] / answered)
        longest = np.where(answered > 0, np.maximum.reduceat(mine * waited_s, edges[:-1]), np.nan)
        values = (*means, longest, *sums.values(), sums_of(mine & late, edges))
        found |= {f"{prefix}{name}": value for name, value in zip(OF_REQUESTS, values, strict=True)}
    return found


def _costs(
    episode: Episode, cost: CostTable, waited_s: FloatArray, stayed_s: FloatArray, late: npt.NDArray[np.bool_]
) -> FloatArray:
    """What each request cost, `(R,)`. Loads are no request's: all share them."""
    mine = cost.w_ttft[episode.task] * waited_s + cost.w_e2e[episode.task] * stayed_s
    shared = cost.w_load * episode.load_us_total / 1e6 / len(mine)
    return np.asarray(mine + cost.w_slo * late + cost.w_refused * episode.refused + shared)


def sums_of(values: npt.NDArray[Any], edges: Int64Array) -> FloatArray:
    """Sums over the rows of each window, `(W, ...)`, of values `(R, ...)`."""
    return np.asarray(np.add.reduceat(values.astype(np.float64), edges[:-1]))
