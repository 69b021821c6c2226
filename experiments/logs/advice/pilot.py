"""What a pilot changed: two logs with measured times, before and after.

Windows of each log are drawn again in blocks, the two logs independently. Traffic differs between two logs, too, and
that is no policy's doing: means stand once as measured, and once with the requests after weighed to the mix before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.evaluation.intervals import FEWEST_WINDOWS
from cace_env.evaluation.scores import Estimate
from cace_env.live.stage import SETTLES, Turns
from cace_env.tables import NONE, TASKS, FloatArray, Int64Array
from cace_env.traces import Trace
from cace_env.traces.trace import some_requests
from experiments.logs.advice.measured import UNITS
from experiments.logs.advice.parts import LEAST_ROWS, WINDOWS
from experiments.logs.advice.resampling import Draws

Bools = npt.NDArray[np.bool_]

LEVELS: Final = (0.50, 0.95)  # quantiles that people ask for
FEWEST: Final = 100  # measured requests of a group in each log: five beyond its p95
IN_A_WINDOW: Final = 5  # of these, in at least half of the windows: fewer have no interval
BEYOND: Final = 10  # of these above a quantile: fewer have no interval
MOST_S: Final = 60.0  # median of TTFT: above it, milliseconds were read as seconds
MOST_MODELS: Final = 12  # the most used: more rows are not read
SIZES: Final = (0.25, 0.5, 0.75)  # quantiles of prompt tokens, between which requests count as alike
QUANTILE_RESAMPLES: Final = 2_000  # fewer than of means: each adds up whole histograms
STEP: Final = 1.01  # of the bins of latencies: quantiles are within 1 %
UNTOLD: Final = "not said"
ALL: Final = "all"


class Kpi(NamedTuple):
    """One number before and after."""

    latency: str  # TTFT or E2E
    group: str  # "all", "task chat", "model ..."
    statistic: str  # mean, p50, p95, mean of the same mix
    before_s: float
    after_s: float
    change: Estimate  # [%]; below 0 is faster


class Traffic(NamedTuple):
    """What was asked, before and after."""

    what: str
    before: float | str | None
    after: float | str | None


@dataclass(frozen=True)
class Change:
    """All that is said of a pilot."""

    kpis: tuple[Kpi, ...]
    traffic: tuple[Traffic, ...]
    mix_shift: float  # share of the requests that would have to be of another model, task or size
    windows: int
    cautions: tuple[str, ...] = ()  # of the two logs: in the wrong order, or in another unit of time
    in_turns: bool = False  # "before" is LRU and "after" the policy, which took turns in one log

    def kpi(self, latency: str, statistic: str, group: str = ALL) -> Kpi | None:
        """One of the numbers; None where there is none."""
        rows = (row for row in self.kpis if (row.latency, row.group, row.statistic) == (latency, group, statistic))
        return next(rows, None)


class _Log(NamedTuple):
    """A log in the columns that count here."""

    task: npt.NDArray[np.str_]
    model: npt.NDArray[np.str_]
    tokens: Int64Array
    latencies: Mapping[str, FloatArray]  # [s], NaN where unknown
    window: Int64Array  # number of each row's window
    span_s: float  # that the requests are of

    def measured(self, latency: str) -> FloatArray:
        return self.latencies.get(latency, np.full(len(self.window), np.nan))


class InTurns(NamedTuple):
    """How the two parts of one log share its time."""

    blocks: int  # with requests, of the part that has fewer
    span_s: tuple[float, float]  # what the parts have of the log, from its first request to its last


def turns_apart(log: Trace, turns: Turns) -> tuple[tuple[Trace, Trace], InTurns]:
    """The requests of a log while LRU decided, and while the policy did.

    The first fifth of each block is left out: what the other one had loaded is still there.

    Raises:
        ConfigError: the log has no absolute times, or one of the two has too few blocks.
    """
    turns.check()
    if log.began_us is None:
        raise ConfigError("--pilot needs times since 1970 or dates: whose turn it was follows from the time of day")
    time_s = (log.began_us + log.time_us) * 1e-6
    settled = time_s % turns.block_s >= SETTLES * turns.block_s
    policy = turns.policy_decides(time_s)
    parts = [settled & ~policy, settled & policy]
    blocks = min(len(np.unique(time_s[part] // turns.block_s)) for part in parts)
    if blocks < FEWEST_WINDOWS:
        raise ConfigError(
            f"policy and LRU need {FEWEST_WINDOWS} blocks with requests each to be told apart, and one has {blocks}; "
            "let the pilot go on, or check --share and --block-min"
        )
    spans_s = _settled_s(turns, time_s[0], time_s[-1])
    return (some_requests(log, parts[0]), some_requests(log, parts[1])), InTurns(blocks, spans_s)


def _settled_s(turns: Turns, first_s: float, last_s: float) -> tuple[float, float]:
    """How long LRU and the policy decided between two times, without the first fifth of each block."""
    begins_s = np.arange(first_s // turns.block_s, last_s // turns.block_s + 1) * turns.block_s
    from_s = np.maximum(begins_s + SETTLES * turns.block_s, first_s)
    lasted_s = np.maximum(np.minimum(begins_s + turns.block_s, last_s) - from_s, 0)
    policy = turns.policy_decides(begins_s + turns.block_s / 2)
    return float(lasted_s[~policy].sum()), float(lasted_s[policy].sum())


def change_between(before: Trace, after: Trace, windows: int | None = None, in_turns: InTurns | None = None) -> Change:
    """The change of every KPI from one log to another.

    Args:
        before: a log with measured times.
        after: another one, of the same users under the new policy.
        windows: that each log is cut into; as many as have enough requests by default. At most one for each block of a
            log in turns.
        in_turns: the two are parts of one log, and this is what `turns_apart` says of them.

    Raises:
        ConfigError: the logs are the same, overlap in time, have no measured latency in common, or too few requests.
    """
    if in_turns is None:
        _refuse_overlap(before, after)
    elif windows is not None:
        windows = min(windows, in_turns.blocks)
    rows = min(len(before), len(after))
    if rows < (windows or FEWEST_WINDOWS) * LEAST_ROWS:
        raise ConfigError(
            f"the shorter log has {rows} requests; {windows or FEWEST_WINDOWS} windows of at least {LEAST_ROWS} are "
            "needed to tell a change from chance"
        )
    count = windows or min(WINDOWS, rows // LEAST_ROWS, *([] if in_turns is None else [in_turns.blocks]))
    spans_s = (None, None) if in_turns is None else in_turns.span_s
    logs = _log(before, count, spans_s[0]), _log(after, count, spans_s[1])
    shared = [name for name in ("TTFT", "E2E") if all(np.isfinite(log.measured(name)).sum() >= FEWEST for log in logs)]
    if not shared:
        raise ConfigError(
            f"a pilot needs measured times: at least {FEWEST} requests with ttft_s or e2e_s in both logs; import the "
            "logs from a gateway that measures them (docs/traces.md)"
        )
    draws = Draws.of(count), Draws.of(count, stream=1)
    kpis = []
    for latency in shared:
        for group, chosen in _groups(*logs).items():
            kpis += _kpis(latency, group, logs, chosen, draws)
            adjusted = _same_mix(latency, logs, draws) if group == ALL else None
            kpis += [adjusted] if adjusted is not None else []
    cautions = (*([] if in_turns else _order(before, after)), *_units(logs, shared))
    return Change(tuple(kpis), _traffic(before, after, logs), _mix_shift(logs), count, cautions, in_turns is not None)


def _refuse_overlap(before: Trace, after: Trace) -> None:
    """Refuses two logs of the same time: nothing changed between them.

    Raises:
        ConfigError: they are the same or overlap.
    """
    if len(before) == len(after) and all(
        (one is None and other is None) or (one is not None and other is not None and np.array_equal(one, other))
        for one, other in ((getattr(before, name), getattr(after, name)) for name in ("time_us", "ttft_us", "e2e_us"))
    ):
        raise ConfigError("--before and --after are the same requests; name two logs, before and after the change")
    first, second = sorted((_period(before), _period(after)), key=lambda period: period or (0, 0))
    if first is not None and second is not None and second[0] < first[1]:
        raise ConfigError(
            f"the two logs overlap in time: one ends at {_moment(first[1])} UTC and the other begins at "
            f"{_moment(second[0])} UTC; a pilot needs one that ends before the change and one that begins after it"
        )


def _period(log: Trace) -> tuple[int, int] | None:
    """The first and the last request [us since 1970]; None where the log's clock is not absolute."""
    return None if log.began_us is None else (log.began_us, log.began_us + int(log.time_us[-1]))


def _moment(time_us: int, to: str = "seconds") -> str:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(tzinfo=None).isoformat(" ", to)


def _order(before: Trace, after: Trace) -> list[str]:
    """That the log before is the later one."""
    first, second = _period(before), _period(after)
    if first is None or second is None or first < second:
        return []
    return [
        f"The log before the change begins at {_moment(first[0])} UTC, later than the one after it, at "
        f"{_moment(second[0])} UTC: are --before and --after the wrong way round?"
    ]


def _units(logs: tuple[_Log, _Log], latencies: Sequence[str]) -> list[str]:
    """Times that look like milliseconds read as seconds."""
    said = []
    for latency in latencies:
        medians = [float(np.nanmedian(log.measured(latency))) for log in logs]
        ratio = medians[1] / medians[0] if medians[0] else 1.0
        if UNITS[0] <= max(ratio, 1 / ratio if ratio else 0.0) <= UNITS[1]:
            said.append(
                f"The medians of {latency} are {medians[0]:.3g} s before and {medians[1]:.3g} s after, about 1,000 "
                "times: is one of them in ms? Say so at its import (unit: ms)."
            )
        elif latency == "TTFT" and min(medians) > MOST_S:
            said.append(
                f"The median of TTFT is {medians[0]:,.0f} s before and {medians[1]:,.0f} s after: are these ms? Say so "
                "at the import (unit: ms)."
            )
    return said


def _log(trace: Trace, windows: int, span_s: float | None) -> _Log:
    """The columns of a trace, of the whole time by default; rows without a task or model get a word for it."""
    rows = len(trace)
    tasks = np.array([*TASKS, UNTOLD])
    names = np.array([*trace.model_ids, UNTOLD])
    latencies = {
        name: np.where(us == NONE, np.nan, us / 1e6)
        for name, us in (("TTFT", trace.ttft_us), ("E2E", trace.e2e_us))
        if us is not None
    }
    return _Log(
        tasks[trace.task] if trace.task is not None else np.full(rows, UNTOLD),
        names[trace.model] if trace.model is not None else np.full(rows, UNTOLD),
        trace.context_tokens if trace.context_tokens is not None else np.ones(rows, np.int64),
        latencies,
        np.arange(rows) * windows // rows,
        float(trace.time_us[-1]) / 1e6 if span_s is None else span_s,
    )


def _groups(before: _Log, after: _Log) -> dict[str, tuple[Bools, Bools]]:
    """All requests, those of each task, those of the most requested models: rows of each log."""
    found = {ALL: (np.ones(len(before.window), bool), np.ones(len(after.window), bool))}
    for task in (*TASKS, UNTOLD):
        found[f"task {task}"] = (before.task == task, after.task == task)
    names, counts = np.unique(before.model, return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:MOST_MODELS].tolist():
        found[f"model {name}"] = (before.model == name, after.model == name)
    del found[f"task {UNTOLD}"]
    found.pop(f"model {UNTOLD}", None)
    return found


def _kpis(
    latency: str, group: str, logs: tuple[_Log, _Log], chosen: tuple[Bools, Bools], draws: tuple[Draws, Draws]
) -> list[Kpi]:
    """Mean and quantiles of a group; none where it has too few measured requests."""
    values, windows = [], []
    for log, rows in zip(logs, chosen, strict=True):
        there = rows & np.isfinite(log.measured(latency))
        values.append(log.measured(latency)[there])
        windows.append(log.window[there])
    if min(len(each) for each in values) < FEWEST:
        return []
    drawn = [_means(*each) for each in zip(values, windows, draws, strict=True)]
    spread = all(_spread(each, one.windows) for each, one in zip(windows, draws, strict=True))
    kpis = [_kpi(latency, group, "mean", [float(each.mean()) for each in values], drawn, draws[0], spread)]
    quantiles = [_quantiles(*each) for each in zip(values, windows, draws, strict=True)]
    for at, level in enumerate(LEVELS):
        exact = [float(np.quantile(each, level)) for each in values]
        enough = spread and (1 - level) * min(map(len, values)) >= BEYOND
        drawn = [each[at] for each in quantiles]
        kpis.append(_kpi(latency, group, f"p{100 * level:.0f}", exact, drawn, draws[0], enough))
    return kpis


def _spread(window: Int64Array, windows: int) -> bool:
    """Whether requests are in enough windows for an interval; `window` is that of each request."""
    return int((np.bincount(window, minlength=windows) >= IN_A_WINDOW).sum()) >= max(FEWEST_WINDOWS, windows / 2)


def _kpi(
    latency: str,
    group: str,
    statistic: str,
    exact_s: Sequence[float],
    drawn_s: Sequence[FloatArray],
    draws: Draws,
    enough: bool = True,
) -> Kpi:
    """A number before and after, and its change; without an interval where requests are not `enough`.

    The interval is that of the logarithm of the ratio: a time cannot fall by more than 100 %.
    """
    before_s, after_s = exact_s
    with np.errstate(divide="ignore", invalid="ignore"):
        exact, drawn = np.log(after_s) - np.log(before_s), np.log(drawn_s[1]) - np.log(drawn_s[0])
    found = draws.interval(float(exact), drawn) if enough else Estimate(float(exact), np.nan, np.nan)
    return Kpi(latency, group, statistic, before_s, after_s, Estimate(*(100 * float(np.expm1(each)) for each in found)))


def _means(values: FloatArray, window: Int64Array, draws: Draws) -> FloatArray:
    """The mean of each draw."""
    count = draws.windows
    sums = np.bincount(window, values, count).astype(np.float64)
    return draws.drawn_ratio(sums, np.bincount(window, minlength=count).astype(np.float64))


def _quantiles(values: FloatArray, window: Int64Array, draws: Draws) -> list[FloatArray]:
    """Quantiles of each draw, by a histogram of each window whose bins grow by `STEP`."""
    place = np.floor(np.log(np.maximum(values, 1e-6)) / np.log(STEP)).astype(np.int64)
    least = int(place.min())
    bins = int(place.max()) - least + 1
    cells = np.bincount(window * bins + place - least, minlength=draws.windows * bins)
    sums = np.cumsum(draws.counts[:QUANTILE_RESAMPLES] @ cells.reshape(draws.windows, bins).astype(np.float64), axis=1)
    found = []
    for level in LEVELS:
        above = (sums >= level * sums[:, -1:]).argmax(axis=1)
        drawn: FloatArray = STEP ** (above + least + 0.5)
        found.append(np.where(sums[:, -1] > 0, drawn, np.nan))
    return found


def _strata(logs: tuple[_Log, _Log]) -> tuple[Int64Array, Int64Array, int]:
    """The stratum of each request: its task, model and size of prompt, and how many there are."""
    edges = np.quantile(logs[0].tokens, SIZES)
    columns = [
        np.unique(np.concatenate([getattr(log, name) for log in logs]), return_inverse=True)[1]
        for name in ("task", "model")
    ]
    sizes = np.searchsorted(edges, np.concatenate([log.tokens for log in logs]))
    _, codes = np.unique(np.stack([*columns, sizes]), axis=1, return_inverse=True)
    first = len(logs[0].tokens)
    return codes[:first], codes[first:], int(codes.max()) + 1


def _same_mix(latency: str, logs: tuple[_Log, _Log], draws: tuple[Draws, Draws]) -> Kpi | None:
    """The mean with the requests after weighed as they were before; strata that one log lacks are left out."""
    *strata, count = _strata(logs)
    sums, counts = [], []
    for log, stratum in zip(logs, strata, strict=True):
        values = log.measured(latency)
        there = np.isfinite(values)
        cell = log.window[there] * count + stratum[there]
        size = (int(log.window.max()) + 1) * count
        sums.append(np.bincount(cell, values[there], size).reshape(-1, count))
        counts.append(np.bincount(cell, minlength=size).reshape(-1, count).astype(np.float64))
    both = (counts[0].sum(axis=0) > 0) & (counts[1].sum(axis=0) > 0)
    if not both.any():
        return None
    weights = counts[0].sum(axis=0)[both] / counts[0].sum(axis=0)[both].sum()
    exact, drawn = [], []
    for each_sum, each_count, each in zip(sums, counts, draws, strict=True):
        of_all = each_sum.sum(axis=0)[both] / each_count.sum(axis=0)[both]
        exact.append(float(of_all @ weights))
        above, below = each.counts @ each_sum[:, both], each.counts @ each_count[:, both]
        # A stratum that a draw lacks keeps its mean over the log.
        drawn.append(np.where(below > 0, above / np.maximum(below, 1), of_all) @ weights)
    return _kpi(latency, ALL, "mean of the same mix", exact, drawn, draws[0])


def _mix_shift(logs: tuple[_Log, _Log]) -> float:
    """Total variation between the mixes of the two logs."""
    before, after, count = _strata(logs)
    shares = [np.bincount(each, minlength=count) / len(each) for each in (before, after)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _traffic(before: Trace, after: Trace, logs: tuple[_Log, _Log]) -> tuple[Traffic, ...]:
    periods = [_period(log) for log in (before, after)]
    rows = [
        Traffic(what, *(None if period is None else _moment(period[end], "minutes") for period in periods))
        for end, what in enumerate(("from, UTC", "to, UTC"))
    ]
    rows.append(Traffic("requests", len(before), len(after)))
    rows.append(Traffic("requests an hour", *(3600 * len(log.window) / max(log.span_s, 1.0) for log in logs)))
    for what, name in (("prompt tokens, mean", "context_tokens"), ("output tokens, mean", "output_tokens")):
        columns = [getattr(trace, name) for trace in (before, after)]
        if all(column is not None for column in columns):
            rows.append(Traffic(what, *(float(column.mean()) for column in columns)))
    rows.append(Traffic("models", *(len(np.unique(log.model)) for log in logs)))
    users = [None if log.user is None else len(np.unique(log.user)) for log in (before, after)]
    rows.append(Traffic("users", *users))
    return tuple(rows)
