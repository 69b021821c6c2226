"""How predictable arrivals are: simple forecasts per model at several horizons, each made from the past alone.

Time is cut into bins of one horizon, and each bin is forecast when it begins. Errors are counted on the scale of square
roots, on which the noise of a Poisson stream is the same whatever its rate: twice the difference of the roots of what
came and what was forecast has a standard deviation of about 1 where arrivals are independent and their rate is known.
Busy and rare models can be added up there, and a model with hardly any requests adds hardly any error. A forecast is
scored by its error over that of the mean rate so far: below 1 it knows more than how popular a model is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.workload import Workload

Array = npt.NDArray[np.float64]
HORIZONS_S: Final = (60, 300, 900, 3600)
MOST_MODELS: Final = 50  # the most used; the others count as one
FEWEST_BINS: Final = 12  # that are scored
WARM_UP: Final = 3  # bins before the first that is scored
DAY_S: Final = 86_400
WINDOW: Final = 5  # bins of the sliding window
ALPHA: Final = 0.3  # weight of the newest bin in EWMA and Holt
BETA: Final = 0.1  # weight of the newest slope in Holt
DAMPING: Final = 0.9  # of Holt's trend; 1 runs away on bursts
ANSCOMBE: Final = 3 / 8  # makes the variance of small Poisson counts more even


def mean_so_far(counts: Array, bins_per_day: int) -> Array:
    """Mean of all bins before; the yardstick."""
    del bins_per_day
    before = np.cumsum(counts, axis=1) - counts
    return before / np.maximum(np.arange(counts.shape[1]), 1)


def sliding_window(counts: Array, bins_per_day: int) -> Array:
    """Mean of the last `WINDOW` bins."""
    del bins_per_day
    total = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)[:, :-1]
    ends = np.arange(counts.shape[1])
    begins = np.maximum(ends - WINDOW, 0)
    return (total[:, ends] - total[:, begins]) / np.maximum(ends - begins, 1)


def ewma(counts: Array, bins_per_day: int) -> Array:
    """Exponentially weighted mean of the bins before."""
    del bins_per_day
    forecast = np.zeros_like(counts)
    level = counts[:, 0].copy()
    for at in range(1, counts.shape[1]):
        forecast[:, at] = level
        level += ALPHA * (counts[:, at] - level)
    return forecast


def holt(counts: Array, bins_per_day: int) -> Array:
    """Level and damped trend of the bins before; never below 0."""
    del bins_per_day
    forecast = np.zeros_like(counts)
    level, trend = counts[:, 0].copy(), np.zeros(len(counts))
    for at in range(1, counts.shape[1]):
        ahead = level + DAMPING * trend
        forecast[:, at] = np.maximum(ahead, 0.0)
        new = ahead + ALPHA * (counts[:, at] - ahead)
        trend = BETA * (new - level) + (1.0 - BETA) * DAMPING * trend
        level = new
    return forecast


def day_profile(counts: Array, bins_per_day: int) -> Array:
    """Mean of the same time of the day on all days before; 0 on the first day, which is not scored."""
    models, bins = counts.shape
    days = -(-bins // bins_per_day)
    by_day = np.pad(counts, ((0, 0), (0, days * bins_per_day - bins))).reshape(models, days, bins_per_day)
    before = np.cumsum(by_day, axis=1) - by_day
    mean = before / np.maximum(np.arange(days), 1)[None, :, None]
    return np.asarray(mean.reshape(models, -1)[:, :bins])


FORECASTERS: Final[Mapping[str, Callable[[Array, int], Array]]] = {
    "mean rate so far": mean_so_far,
    "sliding window": sliding_window,
    "EWMA": ewma,
    "Holt": holt,
    "day profile": day_profile,
}
YARDSTICK: Final = "mean rate so far"


def counts_by_model(workload: Workload, horizon_s: int) -> Array:
    """Requests by model and whole bin, `(M, T)`; of many models the rare ones are added up in the last row."""
    uses = np.bincount(workload.model)
    order = np.argsort(-uses, kind="stable")[: np.count_nonzero(uses)]
    row = np.full(len(uses), min(len(order), MOST_MODELS) - 1)
    row[order[:MOST_MODELS]] = np.arange(len(order[:MOST_MODELS]))
    bins = int(workload.arrival_us[-1] // (horizon_s * 1_000_000))  # the last one is not whole
    rows = int(row.max()) + 1
    at = workload.arrival_us // (horizon_s * 1_000_000)
    whole = at < bins
    flat = row[workload.model[whole]] * bins + at[whole]
    return np.bincount(flat, minlength=rows * bins).reshape(rows, bins).astype(np.float64)


def root_error(counts: Array, forecast: Array) -> float:
    """Root mean square error on the scale of square roots; about 1 for Poisson arrivals of a known rate."""
    error = 2.0 * (np.sqrt(counts + ANSCOMBE) - np.sqrt(forecast + ANSCOMBE))
    return float(np.sqrt((error**2).mean()))


def predictability(workload: Workload) -> dict[str, Any]:
    """Scores of every forecast at every horizon.

    Returns:
        `horizons_s`; `noise`, by horizon the error of the yardstick, of which 1 is what Poisson arrivals of a known
        rate have; `scores`, by forecast and horizon its error over that of the yardstick. None: the log is too short.
        All forecasts of a horizon are scored on the same bins: from the second day on where the log has two days.
    """
    noise: list[float | None] = []
    scores: dict[str, list[float | None]] = {name: [] for name in FORECASTERS if name != YARDSTICK}
    for horizon_s in HORIZONS_S:
        counts = counts_by_model(workload, horizon_s)
        bins_per_day, bins = DAY_S // horizon_s, counts.shape[1]
        has_days = bins >= 2 * bins_per_day
        first = bins_per_day if has_days else WARM_UP
        enough = bins - first >= FEWEST_BINS
        errors = {
            name: root_error(counts[:, first:], forecaster(counts, bins_per_day)[:, first:])
            for name, forecaster in FORECASTERS.items()
            if enough and (has_days or name != "day profile")
        }
        yardstick = errors.get(YARDSTICK)
        noise.append(yardstick)
        for name, found in scores.items():
            found.append(errors[name] / yardstick if name in errors and yardstick else None)
    return {"horizons_s": list(HORIZONS_S), "noise": noise, "scores": scores}
