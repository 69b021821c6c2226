"""What a workload looks like, as numbers for a file: arrivals, the day, popularity, habits, sessions, tokens.

All of it is computed from the columns of a workload, so that a log and what imitates it are measured alike; measured
latencies come from the log itself. A number that cannot be told is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.tables import NONE, TASKS, Int64Array
from cace_env.traces import Trace
from cace_env.workload import Workload
from experiments.yardsticks.workload_statistics import LEVELS, drift, gap_cv, model_shares, same_as_before

LEVEL_NAMES: Final = tuple(f"p{level * 100:.0f}" for level in LEVELS)
TOPS: Final = (1, 3, 5, 10)
MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000
FEWEST_OF_MODEL: Final = 30  # requests of a model and task, from which on it has quantiles of its own
MOST_MODELS: Final = 60  # rows of models


def characteristics(
    workload: Workload, names: Sequence[str], began_us: int | None = None, zone: str = "UTC"
) -> dict[str, Any]:
    """Everything that is measured of a workload.

    Args:
        workload: in order of arrival.
        names: of its models, in index order.
        began_us: time of its first request since 1970, UTC; None: its clock is not absolute.
        zone: where its day is told, such as "Europe/Berlin"; the offset at its beginning holds for all of it.

    Returns:
        Plain numbers, texts and lists by name; shares are 0 to 1, times in seconds unless a name says otherwise.

    Raises:
        ConfigError: no such zone.
    """
    return {
        "label": workload.label,
        "requests": len(workload),
        "span_s": float(workload.arrival_us[-1]) / 1e6,
        "users": _different(workload.user),
        "arrivals": arrivals(workload.arrival_us),
        "day": day(workload.arrival_us, began_us, zone),
        "popularity": popularity(workload, names),
        "habits": {
            "user_repeats_model": _known(same_as_before(workload.model, workload.user)),
            "same_model_in_a_row": _known(same_as_before(workload.model)),
            "user_repeats_model_by_chance": float((model_shares(workload, len(names)) ** 2).sum()),
        },
        "sessions": sessions(workload),
        "tasks": {task: float((workload.task == code).mean()) for code, task in enumerate(TASKS)},
        "tokens": tokens(workload, names),
    }


def arrivals(arrival_us: Int64Array) -> dict[str, float | None]:
    """Rate and burstiness; peaks are those of whole minutes and hours over the mean."""
    span_s = float(arrival_us[-1]) / 1e6
    minutes, hours = (_per_bin(arrival_us, width) for width in (MINUTE_US, HOUR_US))
    return {
        "per_s": len(arrival_us) / span_s if span_s else None,
        "gap_cv": _known(gap_cv(arrival_us)),
        "minute_peak_to_mean": _peak(minutes),
        "hour_peak_to_mean": _peak(hours),
        "minute_dispersion": float(minutes.var() / minutes.mean()) if len(minutes) > 1 else None,
    }


def day(arrival_us: Int64Array, began_us: int | None, zone: str) -> dict[str, Any]:
    """Rate by hour of the day over the mean; an hour that the log has never seen is None.

    An hour's rate is its requests over the time that the log spent in it, so that a last day may be cut off.
    """
    offset_us = 0 if began_us is None else began_us + zone_offset_us(zone, began_us)
    first, last = offset_us, offset_us + int(arrival_us[-1]) + 1
    edges = np.arange(first // HOUR_US, -(-last // HOUR_US) + 1) * HOUR_US
    spent = np.diff(np.clip(edges, first, last))
    counts = np.bincount((arrival_us + offset_us) // HOUR_US - first // HOUR_US, minlength=len(spent))
    of_day = (edges[:-1] // HOUR_US) % 24
    requests, spent_us = (np.bincount(of_day, weights, minlength=24) for weights in (counts, spent))
    mean = len(arrival_us) / (last - first)
    seen = spent_us >= min(HOUR_US, last - first) * 0.5  # less of an hour says little
    rates = [float(r / s / mean) if known else None for r, s, known in zip(requests, spent_us, seen, strict=True)]
    whole = last - first >= DAY_US
    rated = [rate for rate in rates if rate is not None]
    peak_hour = int(np.argmax([-1.0 if rate is None else rate for rate in rates]))
    return {
        "clock": "hours since the first request" if began_us is None else zone,
        "began": None if began_us is None else f"{datetime.fromtimestamp(began_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC",
        "start_hour": offset_us % DAY_US / HOUR_US,
        "rate_by_hour": rates,
        "peak_hour": peak_hour if whole else None,
        "peak_to_mean": max(rated) if whole else None,
        "peak_to_trough": max(rated) / min(rated) if whole and min(rated) > 0 else None,
    }


def zone_offset_us(zone: str, began_us: int) -> int:
    """What is added to UTC there and then.

    Raises:
        ConfigError: no such zone.
    """
    if zone == "UTC":
        return 0
    try:
        offset = datetime.fromtimestamp(began_us / 1e6, ZoneInfo(zone)).utcoffset()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"no time zone {zone!r} on this machine; use one such as Europe/Berlin, or UTC") from error
    return 0 if offset is None else round(offset.total_seconds() * 1e6)


def popularity(workload: Workload, names: Sequence[str]) -> dict[str, Any]:
    """Shares of the most used models, how far they move, and a row for each model that is asked for."""
    shares = model_shares(workload, len(names))
    counts = np.bincount(workload.model, minlength=len(names))
    first_us = np.full(len(names), workload.arrival_us[-1] + 1)
    np.minimum.at(first_us, workload.model, workload.arrival_us)
    pairs = np.unique(workload.model.astype(np.int64) << 32 | workload.user)
    users = np.bincount(pairs >> 32, minlength=len(names))
    asked = [model for model in np.argsort(-counts, kind="stable") if counts[model]]
    return {
        "hosted": len(names),
        "asked": len(asked),
        "top": {str(top): float(shares[:top].sum()) for top in TOPS},
        "shares": [float(share) for share in shares[: len(asked)]],
        "drift": _known(drift(workload, len(names))),
        "models": [
            {
                "name": names[model],
                "requests": int(counts[model]),
                "share": float(counts[model] / len(workload)),
                "users": int(users[model]),
                "first_s": float(first_us[model]) / 1e6,
            }
            for model in asked[:MOST_MODELS]
        ],
    }


def sessions(workload: Workload) -> dict[str, Any]:
    """Length of sessions and gaps between their arrivals; unknown where each request is one of its own."""
    _, sizes = np.unique(workload.session, return_counts=True)
    known = len(sizes) < len(workload)
    gaps_s = session_gaps_s(workload)
    return {
        "sessions": len(sizes) if known else None,
        "requests": quantiles(sizes) if known else None,
        "requests_mean": float(sizes.mean()) if known else None,
        "gap_s": quantiles(gaps_s) if len(gaps_s) else None,
        "closed_loop": float((workload.after != NONE).mean()),
    }


def session_gaps_s(workload: Workload, among: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
    """Seconds between consecutive arrivals of one session, `among` some requests."""
    session, arrival_us = workload.session, workload.arrival_us
    if among is not None:
        session, arrival_us = session[among], arrival_us[among]
    order = np.argsort(session, kind="stable")
    gaps_us, same = np.diff(arrival_us[order]), np.diff(session[order]) == 0
    return np.asarray(gaps_us[same] / 1e6)


def tokens(workload: Workload, names: Sequence[str]) -> list[dict[str, Any]]:
    """Quantiles of tokens: of each task, and of each task and model with enough requests."""
    group = workload.model.astype(np.int64) * len(TASKS) + workload.task
    counts = np.bincount(group, minlength=len(names) * len(TASKS))
    rows = []
    for code, task in enumerate(TASKS):
        mine = workload.task == code
        if not mine.any():
            continue
        rows.append({"task": task, "model": None, **_tokens_of(workload, np.flatnonzero(mine))})
        of_models = counts[code :: len(TASKS)]
        busy = [model for model in np.argsort(-of_models, kind="stable") if of_models[model] >= FEWEST_OF_MODEL]
        for model in busy[: MOST_MODELS // 2]:
            some = np.flatnonzero(group == model * len(TASKS) + code)
            rows.append({"task": task, "model": names[model], **_tokens_of(workload, some)})
    return rows


def _tokens_of(workload: Workload, rows: Int64Array) -> dict[str, Any]:
    columns = {"context": workload.context_tokens, "new": workload.new_tokens, "output": workload.output_tokens}
    return {"requests": len(rows), **{name: quantiles(column[rows]) for name, column in columns.items()}}


def measured(trace: Trace) -> dict[str, list[dict[str, Any]]]:
    """Latencies that the gateway measured [s], of all requests and by model; empty where it measured none."""
    found: dict[str, list[dict[str, Any]]] = {}
    columns = {"ttft_s": trace.ttft_us, "e2e_s": trace.e2e_us, "load_s": trace.load_us}
    for name, column in columns.items():
        if column is None or (column == NONE).all():
            continue
        known = column != NONE
        rows: list[dict[str, Any]] = [{"model": None, "requests": int(known.sum()), **quantiles(column[known] / 1e6)}]
        for code, model in enumerate(trace.model_ids if trace.model is not None else ()):
            mine = known & (np.asarray(trace.model) == code)
            if mine.sum() >= FEWEST_OF_MODEL and len(rows) <= MOST_MODELS // 2:
                rows.append({"model": model, "requests": int(mine.sum()), **quantiles(column[mine] / 1e6)})
        found[name] = rows
    return found


def quantiles(values: npt.NDArray[Any]) -> dict[str, float]:
    """p10, p50, p90 and p99 by name."""
    return dict(zip(LEVEL_NAMES, map(float, np.quantile(values, LEVELS)), strict=True))


def per_minute(arrival_us: Int64Array, most: int = 1500) -> tuple[Int64Array, float]:
    """Requests per whole bin of at least a minute, at most `most` bins, and the width of a bin [s]."""
    width_us = MINUTE_US * max(1, -(-int(arrival_us[-1]) // (MINUTE_US * most)))
    return _per_bin(arrival_us, width_us), width_us / 1e6


def _per_bin(arrival_us: Int64Array, width_us: int) -> Int64Array:
    """Requests in each whole bin; the last bin is not whole and left out, if there are others."""
    counts = np.bincount(arrival_us // width_us)
    return counts[:-1] if len(counts) > 1 else counts


def _peak(counts: Int64Array) -> float | None:
    return float(counts.max() / counts.mean()) if len(counts) > 1 and counts.any() else None


def _different(values: npt.NDArray[Any]) -> int:
    return len(np.unique(values))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
