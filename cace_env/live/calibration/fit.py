"""The coefficients of the rules from measurements, with what is left over, and what the rules have no word for.

A round takes `round_ns + batch_ns[batch] + kv_ps * batch * (context + output / 2)`; a first token
`rounds * round_ns + prefill_ns * new + attention_ps * (context^2 - cached^2) / 2 + request_ns` (docs/design.md, section
2). All coefficients are at least 0, and a round with more requests is never shorter.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.live.calibration.measure import Sample, What
from cace_env.tables import FloatArray

OFF_PERCENT: Final = 10.0  # errors above it are said in words


@dataclass(frozen=True)
class Fit:
    """How well measurements of one kind are met.

    Attributes:
        what: is fitted.
        points: `(batch, context, measured median, p10, p90, predicted)`, times in seconds.
        error_percent: the median of the relative errors of the points, without signs.
        worst_percent: the largest of them, with its sign (positive: the rules are too slow).
    """

    what: str
    points: tuple[tuple[int, int, float, float, float, float], ...]

    @property
    def errors(self) -> FloatArray:
        return np.array([100 * (point[5] / point[2] - 1) for point in self.points])

    @property
    def error_percent(self) -> float:
        return float(np.median(np.abs(self.errors)))

    @property
    def worst_percent(self) -> float:
        return float(self.errors[np.abs(self.errors).argmax()])


@dataclass(frozen=True)
class Calibration:
    """A model of a server in the numbers of the rules.

    Attributes:
        load_us: warm (weights in the page cache) and cold; the slow first request after a load is part of it.
        cold: whether cold loads were measured; if not, `load_us` has the warm one twice.
        round_ns: a round in which nobody decodes, by the straight line through all batches.
        decode_ns: what one more adds beyond the largest batch that was measured.
        batch_ns: what 0, 1, 2, ... decoding requests add to a round; straight between those that were measured.
        request_ns: what every request takes besides its prompt.
        beside_load: how many times longer a token takes while another model loads; None: not measured.
        two_busy: the same while another model writes; the rules say 2.
        cached_percent: error of the rule for prompts of which the server has the beginning; None: it did not say how
            many tokens it had.
    """

    model: str
    load_us: tuple[int, int]
    cold: bool
    unload_us: int
    round_ns: int
    decode_ns: int
    kv_ps: int
    prefill_ns: int
    attention_ps: int
    batch_ns: tuple[int, ...]
    request_ns: int
    fits: tuple[Fit, ...]
    spread: dict[str, tuple[int, float, float, float]]  # of loads, unloads, first requests: points, median, p10, p90
    beside_load: float | None
    two_busy: float | None
    cached_percent: float | None

    def gap_s(self, batch: int, context: int, output: int) -> float:
        """Time between tokens by the rules."""
        kv_ns = self.kv_ps * batch * (context + output / 2) / 1000
        known = min(batch, len(self.batch_ns) - 1)
        return (self.round_ns + self.batch_ns[known] + (batch - known) * self.decode_ns + kv_ns) * 1e-9

    def first_s(self, context: int, cached: int, chunk_tokens: int) -> float:
        """Time to the first token by the rules."""
        new = context - cached
        work_ns = self.prefill_ns * new + self.attention_ps * (context**2 - cached**2) / 2000
        return (math.ceil(new / chunk_tokens) * self.round_ns + work_ns + self.request_ns) * 1e-9

    def coefficients(self) -> dict[str, Any]:
        """The columns of the integer tables."""
        names = ("unload_us", "round_ns", "decode_ns", "kv_ps", "prefill_ns", "attention_ps", "request_ns")
        lists = {"load_us": list(self.load_us), "batch_ns": list(self.batch_ns)}
        return lists | {name: getattr(self, name) for name in names}


def fit_model(samples: Sequence[Sample], model: str, chunk_tokens: int) -> Calibration:
    """Fit the samples of one model.

    Args:
        samples: of `measure`; those of other models are passed over.
        model: name.
        chunk_tokens: prompt tokens that the server reads per round.

    Raises:
        ConfigError: something that the rules need was not measured.
    """
    mine = [sample for sample in samples if sample.model == model]

    def times(what: What) -> FloatArray:
        return np.array([sample.seconds for sample in mine if sample.what == what])

    for what in ("load warm", "unload", "first", "again", "prefill", "token"):
        if not len(times(what)):
            raise ConfigError(f"model {model!r}: no sample of {what!r}; the rules cannot be fitted without")
    round_s, batch_s, decode_s, kv_s = _rounds(_grouped(mine, "token"))
    prompts = _grouped(mine, "prefill")
    firsts = np.array([np.median(values) for _, values in prompts])
    rounds = np.array([math.ceil((context - cached) / chunk_tokens) for (_, context, cached, _), _ in prompts])
    columns = np.array(
        [(1.0, context - cached, (context**2 - cached**2) / 2) for (_, context, cached, _), _ in prompts]
    )
    constant_s, prefill_s, attention_s = _least_squares(columns, firsts - rounds * round_s, firsts)
    slow_first_s = max(0.0, float(np.median(times("first")) - np.median(times("again"))))
    warm, cold = times("load warm"), times("load cold")
    loads = [float(np.median(kind)) + slow_first_s for kind in (warm, cold if len(cold) else warm)]
    # Tokens beside another model have short contexts: compared with the shortest alone.
    shortest = min((s.context for s in mine if s.what == "token" and s.batch == 1), default=0)
    alone_s = [s.seconds for s in mine if s.what == "token" and s.batch == 1 and s.context <= 1.5 * shortest]
    found = Calibration(
        model=model,
        load_us=(max(1, round(loads[0] * 1e6)), max(1, round(loads[1] * 1e6))),
        cold=len(cold) > 0,
        unload_us=round(float(np.median(times("unload"))) * 1e6),
        round_ns=round(round_s * 1e9),
        decode_ns=round(decode_s * 1e9),
        kv_ps=round(kv_s * 1e12),
        prefill_ns=round(prefill_s * 1e9),
        attention_ps=round(attention_s * 1e12),
        batch_ns=tuple(round(seconds * 1e9) for seconds in batch_s),
        request_ns=round(constant_s * 1e9),
        fits=(),
        spread={what: _spread(times(what)) for what in ("load warm", "load cold", "unload", "first", "again")},
        beside_load=_ratio(times("token beside load"), alone_s),
        two_busy=_ratio(times("token of two busy"), alone_s),
        cached_percent=None,
    )
    return _with_fits(found, mine, chunk_tokens)


def _with_fits(found: Calibration, mine: Sequence[Sample], chunk_tokens: int) -> Calibration:
    """Its predictions beside what was measured."""
    tokens, prompts = [], []
    for (batch, context, _, written), values in _grouped(mine, "token"):
        tokens.append((batch, context, *_spread(values)[1:], found.gap_s(batch, context, written)))
    for (batch, context, cached, _), values in _grouped(mine, "prefill"):
        prompts.append((batch, context, *_spread(values)[1:], found.first_s(context, cached, chunk_tokens)))
    fits = (Fit("time between tokens", tuple(tokens)), Fit("time to the first token", tuple(prompts)))
    errors = [
        100 * (found.first_s(s.context, s.cached, chunk_tokens) / s.seconds - 1)
        for s in mine
        if s.what == "cached" and s.cached
    ]
    return dataclasses.replace(found, fits=fits, cached_percent=float(np.median(errors)) if errors else None)


def _grouped(samples: Sequence[Sample], what: What) -> list[tuple[tuple[int, int, int, int], FloatArray]]:
    """Times by (batch, context, cached, tokens), medians of each group.

    Contexts within an eighth of each other are one: prompts of random words differ by some tokens.
    """
    mine = sorted((s for s in samples if s.what == what), key=lambda s: (s.batch, s.context))
    groups: list[list[Sample]] = []
    for sample in mine:
        last = groups[-1][0] if groups else None
        if last is not None and last.batch == sample.batch and sample.context <= 1.125 * last.context + 2:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return [
        (
            (
                group[0].batch,
                round(float(np.median([s.context for s in group]))),
                round(float(np.median([s.cached for s in group]))),
                round(float(np.median([s.tokens for s in group]))),
            ),
            np.array([s.seconds for s in group]),
        )
        for group in groups
    ]


def _rounds(gaps: Sequence[tuple[tuple[int, int, int, int], FloatArray]]) -> tuple[float, FloatArray, float, float]:
    """A round in which nobody decodes; what 0, 1, ... requests add, one more beyond, and a token of context [s]."""
    medians = np.array([np.median(values) for _, values in gaps])
    sizes = np.array([batch for (batch, _, _, _), _ in gaps])
    tokens = np.array([batch * (context + written / 2) for (batch, context, _, written), _ in gaps])
    alone_s = _least_squares(np.stack([np.ones(len(gaps)), sizes, tokens], axis=1), medians)[0]
    known = np.unique(sizes)
    # A step up at each batch that was measured, so that a round with more requests is never shorter.
    *steps, kv_s = _least_squares(np.stack([*(sizes >= size for size in known), tokens], axis=1).astype(float), medians)
    rounds_s = np.cumsum(steps)
    round_s = min(alone_s, rounds_s[0])
    table_s = np.interp(np.arange(known[-1] + 1), [0, *known], [round_s, *rounds_s])
    return round_s, table_s - round_s, table_s[-1] - table_s[-2], kv_s


def _least_squares(columns: FloatArray, values: FloatArray, scale: FloatArray | None = None) -> FloatArray:
    """Coefficients of at least 0 with the least sum of squared relative errors: the best of all sets of columns."""
    weights = 1 / (values if scale is None else scale)
    count = columns.shape[1]
    best, least = np.zeros(count), math.inf
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            part = columns[:, chosen] * weights[:, None]
            if np.linalg.matrix_rank(part / np.linalg.norm(part, axis=0)) < size:
                continue
            fitted = np.linalg.lstsq(part, values * weights, rcond=None)[0]
            error = float(((part @ fitted - values * weights) ** 2).sum())
            # One column more has to explain something: lengths of prompts alone can be fitted in many ways.
            if (fitted >= 0).all() and error < least * (1 - 1e-6):
                best, least = np.zeros(count), error
                best[list(chosen)] = fitted
    return best


def _spread(values: FloatArray) -> tuple[int, float, float, float]:
    if not len(values):
        return 0, math.nan, math.nan, math.nan
    low, middle, high = np.percentile(values, (10, 50, 90))
    return len(values), float(middle), float(low), float(high)


def _ratio(values: FloatArray, alone_s: Sequence[float]) -> float | None:
    return float(np.median(values) / np.median(alone_s)) if len(values) and alone_s else None


def drift_percent(samples: Sequence[Sample]) -> float:
    """By how much the machine was slower at the end than at the beginning, in prompts or tokens, whichever moved more.

    Raises:
        ConfigError: it was not measured at both ends.
    """
    moved = []
    for what in ("drift prompt", "drift token"):
        ends = [[s.seconds for s in samples if s.what == f"{what} {end}"] for end in ("begin", "end")]
        if not all(ends):
            raise ConfigError(f"no sample of {what!r} at the beginning, or none at the end")
        moved.append(100 * float(np.median(ends[1]) / np.median(ends[0]) - 1))
    return max(moved, key=abs)


def findings(calibration: Calibration) -> list[str]:
    """What the rules cannot express of one model, in words with numbers."""
    said = []
    tokens, prompts = calibration.fits
    off = [point for point in tokens.points if abs(point[5] / point[2] - 1) * 100 > OFF_PERCENT]
    for batch, context, measured, _, _, predicted in off:
        said.append(
            f"{batch} at once at {context} tokens take {1e3 * measured:.3g} ms a round, the rules say "
            f"{1e3 * predicted:.3g} ({100 * (predicted / measured - 1):+.0f} %)"
        )
    if off:
        said.append("the context does not lengthen a round alike in every batch")
    if abs(prompts.worst_percent) > OFF_PERCENT:
        said.append(f"first tokens are off by up to {prompts.worst_percent:+.0f} %")
    if calibration.beside_load is not None and calibration.beside_load < 1 - OFF_PERCENT / 100:
        said.append(f"tokens take {calibration.beside_load:.2f} times as long beside a load; the rules say at least 1")
    if calibration.two_busy is not None and abs(calibration.two_busy / 2 - 1) > OFF_PERCENT / 100:
        said.append(f"tokens take {calibration.two_busy:.2f} times as long beside another busy model; the rules say 2")
    if calibration.cached_percent is None:
        said.append("the server did not say what it had of prompts whose beginning it knew")
    else:
        said.append(f"a prompt whose beginning is cached: the rules are off by {calibration.cached_percent:+.0f} %")
    if not calibration.cold:
        said.append("cold loads were not measured: a load from disk counts as a warm one")
    for what, (count, middle, low, high) in calibration.spread.items():
        if count and what.startswith("load") and high > 1.5 * low:
            kind = what.removeprefix("load ")
            said.append(f"a {kind} load took {low:.3g} to {high:.3g} s, {middle:.3g} in the median; the rules know one")
    return said
