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

from cace_env.forecasting.forecasters import (
    DAY_S,
    Binned,
    DayProfile,
    Ewma,
    Holt,
    MeanSoFar,
    SlidingWindow,
    over_bins,
)
from cace_env.workload import Workload

Array = npt.NDArray[np.float64]
HORIZONS_S: Final = (60, 300, 900, 3600)
MOST_MODELS: Final = 50  # the most used; the others count as one
FEWEST_BINS: Final = 12  # that are scored
WARM_UP: Final = 3  # bins before the first that is scored
ANSCOMBE: Final = 3 / 8  # makes the variance of small Poisson counts more even


# By name: from the number of models and the bins of a day.
BINNED: Final[Mapping[str, Callable[[int, int], Binned]]] = {
    "mean rate so far": lambda models, _: MeanSoFar(models),
    "sliding window": lambda models, _: SlidingWindow(models),
    "EWMA": lambda models, _: Ewma(models),
    "Holt": lambda models, _: Holt(models),
    "day profile": DayProfile,
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
    scores: dict[str, list[float | None]] = {name: [] for name in BINNED if name != YARDSTICK}
    for horizon_s in HORIZONS_S:
        counts = counts_by_model(workload, horizon_s)
        bins_per_day, bins = DAY_S // horizon_s, counts.shape[1]
        has_days = bins >= 2 * bins_per_day
        first = bins_per_day if has_days else WARM_UP
        enough = bins - first >= FEWEST_BINS
        errors = {
            name: root_error(counts[:, first:], over_bins(made(len(counts), bins_per_day), counts)[:, first:])
            for name, made in BINNED.items()
            if enough and (has_days or name != "day profile")
        }
        yardstick = errors.get(YARDSTICK)
        noise.append(yardstick)
        for name, found in scores.items():
            found.append(errors[name] / yardstick if name in errors and yardstick else None)
    return {"horizons_s": list(HORIZONS_S), "noise": noise, "scores": scores}
