"""Scores of policies: their share of the possible savings over LRU, per scenario and over a suite.

`score = 100 * (LRU - policy) / (LRU - reference)`, of costs summed over the same seeds: 0 is as good as LRU, 100 as
good as the clairvoyant reference (`cace_env.planning.planner`), below 0 worse than LRU. Sums per scenario, not means of
seeds: a seed on which there is nothing to gain would inflate its own ratio. The headroom
`100 * (LRU - reference) / LRU` says how much can be gained at all; a scenario with less than
`SMALLEST_HEADROOM_PERCENT` is named and left out of means.

Everything here is a pure function of costs; `cace_env.evaluation.suite` says where they come from. Where costs are
those of windows of a log, (windows,) or (draws, windows), `block` and `blocks` (by scenario) say how many consecutive
ones are drawn together (`cace_env.evaluation.intervals.block_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.evaluation.intervals import (
    RESAMPLES,
    SMALLEST_GAP,
    Gain,
    drawn,
    paired_gain,
    share_of_gap,
)
from cace_env.tables import FloatArray

Costs = Mapping[str, npt.ArrayLike]  # by policy, each (seeds,) in the same order of seeds; NaN if cut short
ByScenario = Mapping[str, npt.ArrayLike]  # of one policy, each (seeds,) as above
Aggregate = Callable[[FloatArray], FloatArray]  # over the last axis
Blocks = Mapping[str, int]  # by scenario whose costs are those of windows of a log; others have independent seeds

BASELINE: Final = "lru"  # scores 0
REFERENCE: Final = "reference"  # scores 100
SMALLEST_HEADROOM_PERCENT: Final = 3.0  # below it, noise decides between policies, so the scenario is in no mean
TRIMMED: Final = 0.25  # share of the scenarios cut at each end for the interquartile mean
LEVEL: Final = 0.95  # of intervals, as is usual


class Estimate(NamedTuple):
    """A number and its interval; NaN if undefined. A score is a share of the gap between LRU and the reference [%]."""

    value: float
    low: float
    high: float


NO_SCORE: Final = Estimate(np.nan, np.nan, np.nan)
NO_BLOCKS: Final[Blocks] = MappingProxyType({})


@dataclass(frozen=True)
class SuiteScores:
    """Scores of policies on a suite of scenarios."""

    headroom: dict[str, Gain]  # by scenario: savings of the reference over LRU [%]
    left_out: tuple[str, ...]  # scenarios whose headroom is under SMALLEST_HEADROOM_PERCENT: in no mean
    scores: dict[str, dict[str, Estimate]]  # by policy, then by scenario
    means: dict[str, Estimate]  # by policy: interquartile mean over the scenarios that are not left out


def score(
    baseline: npt.ArrayLike,
    policy: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    block: int | None = None,
) -> Estimate:
    """Compute the score of a policy on one scenario, with a percentile bootstrap interval over seeds.

    Seeds are drawn again with replacement, the same for all three, so the effect of a hard seed on all cancels out.

    Args:
        baseline: (seeds,) costs of LRU.
        policy: (seeds,) in the same order; a seed where any of the three is NaN (an episode cut short) is left out.
        reference: (seeds,) costs of the clairvoyant reference.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.
        block: of windows of a log, drawn together; None: seeds.

    Returns:
        The score: NaN if the gap is under 1 % of LRU's cost. Its bounds are NaN with fewer than two seeds, and if so
        many of the draws have no such gap that the bounds would depend on how they are counted.

    Raises:
        ValueError: the three differ in length.
    """
    costs = _paired(baseline, policy, reference)
    return _score(costs, score_draws(*costs, resamples=resamples, level=level, block=block), level)


def score_draws(
    baseline: npt.ArrayLike,
    policy: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    stream: int = 0,
    level: float = LEVEL,
    block: int | None = None,
) -> FloatArray:
    """The score of each draw of the bootstrap, `(resamples,)`; NaN if a draw has no gap, or with fewer than two seeds.

    Args:
        baseline: as for `score`.
        policy: as for `score`.
        reference: as for `score`.
        resamples: number of bootstrap draws.
        stream: number of the random stream; each scenario of a suite has its own, so that draws are independent.
        level: of the interval that is wanted, which matters to windows alone.
        block: as for `score`.

    Raises:
        ValueError: the three differ in length.
    """
    costs = _paired(baseline, policy, reference)
    if costs.shape[-1] < 2:
        return np.full(resamples, np.nan)

    def shares(sums: FloatArray) -> FloatArray:
        lru, mine, gap = sums[..., 0], sums[..., 1], sums[..., 0] - sums[..., 2]
        found = np.full(np.shape(gap), np.nan)
        np.divide(100 * (lru - mine), gap, out=found, where=(gap >= SMALLEST_GAP * lru) & (gap > 0))
        return found

    return drawn(costs, shares, resamples=resamples, level=level, stream=stream, block=block)


def headroom(baseline: npt.ArrayLike, reference: npt.ArrayLike, block: int | None = None) -> Gain:
    """Compute the savings of the reference over LRU [%], sums over seeds, with a paired bootstrap interval.

    Raises:
        ValueError: the two differ in length.
    """
    return paired_gain(baseline, reference, block=block)


def interquartile_mean(values: npt.ArrayLike) -> FloatArray:
    """Mean over the last axis without the lowest and the highest quarter of the values, each rounded down.

    With fewer than four values it is the mean. The same as `scipy.stats.trim_mean(values, 0.25, axis=-1)`, which
    Agarwal et al. (Deep RL at the Edge of the Statistical Precipice, NeurIPS 2021, `rliable`) recommend: one scenario
    that is far off moves it less than the mean, and it uses more of the values than the median. NaN if one of the
    values is NaN: trimmed like a high value, it would hide.

    Raises:
        ValueError: there are no values.
    """
    ascending = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = ascending.shape[-1]
    if not count:
        raise ValueError("an interquartile mean needs at least one value")
    cut = int(TRIMMED * count)
    inner = ascending[..., cut : count - cut].mean(axis=-1)
    return np.where(np.isnan(ascending[..., -1]), np.nan, inner)  # NaN is sorted to the end


def suite_scores(
    costs: Mapping[str, Costs], *, level: float = LEVEL, resamples: int = RESAMPLES, blocks: Blocks = NO_BLOCKS
) -> SuiteScores:
    """Compute the scores of all policies on all scenarios, and their interquartile means.

    The interval of a mean is a stratified bootstrap (Agarwal et al. 2021): within each scenario seeds are drawn again,
    independently of the other scenarios, and the interquartile mean of the scenarios' scores is computed for every
    draw. It says how much the mean depends on the requests that were drawn; the scenarios themselves are given.

    Args:
        costs: by scenario, then by policy. Every scenario needs "lru" and "reference". A policy that is missing in a
            scenario, or has no score there, has no mean.
        level: confidence level of the intervals.
        resamples: number of bootstrap draws.
        blocks: of the scenarios that are logs.

    Raises:
        ValueError: a scenario lacks LRU or the reference, or a policy has not as many seeds as LRU.
    """
    for scenario, by_policy in costs.items():
        missing = {BASELINE, REFERENCE} - set(by_policy)
        if missing:
            raise ValueError(f"scenario {scenario!r} has no costs of {', '.join(sorted(missing))}: scores need both")
    room = {
        name: headroom(by_policy[BASELINE], by_policy[REFERENCE], blocks.get(name)) for name, by_policy in costs.items()
    }
    kept = [name for name in costs if room[name].percent >= SMALLEST_HEADROOM_PERCENT]
    policies = list(dict.fromkeys(policy for by_policy in costs.values() for policy in by_policy))
    scores: dict[str, dict[str, Estimate]] = {policy: {} for policy in policies}
    draws: dict[str, list[FloatArray]] = {policy: [] for policy in policies}
    for stream, (scenario, by_policy) in enumerate(costs.items()):
        block = blocks.get(scenario)
        for policy in by_policy:
            paired = _paired(by_policy[BASELINE], by_policy[policy], by_policy[REFERENCE])
            found = score_draws(*paired, resamples=resamples, stream=stream, level=level, block=block)
            scores[policy][scenario] = _score(paired, found, level)
            if scenario in kept:
                draws[policy].append(found)
    means = {}
    for policy in policies:
        values = [scores[policy][name].value for name in kept if name in scores[policy]]
        whole = len(values) == len(kept) > 0 and bool(np.isfinite(values).all())
        means[policy] = (
            Estimate(float(interquartile_mean(values)), *_bounds(interquartile_mean(np.stack(draws[policy], 1)), level))
            if whole
            else NO_SCORE
        )
    return SuiteScores(room, tuple(name for name in costs if name not in kept), scores, means)


def probability_of_improvement(
    policy: ByScenario,
    over: ByScenario,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    blocks: Blocks = NO_BLOCKS,
) -> Estimate:
    """Estimate how often a policy is cheaper than another one on the same requests.

    `mean over scenarios of P(policy < over)`, where P is the share of seeds on which the policy costs less, and half of
    those on which both cost the same: 0.5 is no difference. It says how often, not by how much; `pooled_gain` does. The
    interval is a stratified bootstrap. The mean over tasks and the bootstrap are those of Agarwal et al. (Deep RL at
    the Edge of the Statistical Precipice, NeurIPS 2021, `rliable`). Their runs are independent, so P compares each run
    of one with each run of the other (Mann and Whitney 1947); here both run on the same requests, so seeds are compared
    one by one.

    Args:
        policy: by scenario, (seeds,) costs.
        over: the same scenarios, costs of the other policy in the same order of seeds; a seed where either is NaN (cut
            short) is left out.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.
        blocks: of the scenarios that are logs.

    Returns:
        Between 0 and 1; all NaN if a scenario has no seed of both, bounds NaN if one has fewer than two.

    Raises:
        ValueError: there are no scenarios, or the two differ in scenarios or seeds.
    """
    columns = {name: (np.sign(costs[1] - costs[0]) + 1) / 2 for name, costs in _pairs(policy, over).items()}
    draws = []
    for stream, (name, won) in enumerate(columns.items()):
        if won.shape[-1] > 1:
            draws.append(_sums(won[None], resamples, stream, level, blocks.get(name), over=float(won.size)))
    estimate = _estimate([float(won.mean()) if won.size else np.nan for won in columns.values()], draws, _mean, level)
    return Estimate(estimate.value, *np.clip((estimate.low, estimate.high), 0.0, 1.0).tolist())


def relative_cost(
    policy: ByScenario,
    baseline: ByScenario,
    *,
    aggregate: Aggregate | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    blocks: Blocks = NO_BLOCKS,
) -> Estimate:
    """Compute the cost of a policy relative to a baseline: 1 is equal, less is better.

    `aggregate over scenarios of sum(policy) / sum(baseline)`, sums over seeds, so that every scenario counts equally
    whatever its costs are; with a stratified bootstrap interval, as for `suite_scores`.

    Args:
        policy: as for `probability_of_improvement`.
        baseline: costs to compare with, usually LRU's.
        aggregate: over the last axis: the mean by default ("pooled cost"), or `interquartile_mean`.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.
        blocks: of the scenarios that are logs.

    Returns:
        NaN values as for `probability_of_improvement`.

    Raises:
        ValueError: as for `probability_of_improvement`.
    """
    pairs = _pairs(policy, baseline)
    values = [float(mine.sum() / theirs.sum()) if mine.size else np.nan for mine, theirs in pairs.values()]
    draws = [
        _sums(costs, resamples, stream, level, blocks.get(name))
        for stream, (name, costs) in enumerate(pairs.items())
        if costs.shape[-1] > 1
    ]
    return _estimate(values, draws, aggregate or _mean, level)


def pooled_gain(
    policy: ByScenario,
    over: ByScenario,
    baseline: ByScenario,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    blocks: Blocks = NO_BLOCKS,
) -> Gain:
    """Compute by how much a policy's pooled cost is below another one's [%]: above 0 is better.

    `100 * (1 - pooled(policy) / pooled(over))`, pooled = `relative_cost` to the baseline, mean over scenarios. A draw
    of the bootstrap takes the same seeds for all three, so the effect of a hard seed on all of them cancels out.

    Args:
        policy: as for `probability_of_improvement`.
        over: the policy it is compared with.
        baseline: costs that make scenarios comparable, usually LRU's.
        level: confidence level of the interval.
        resamples: number of bootstrap draws.
        blocks: of the scenarios that are logs.

    Returns:
        NaN values as for `probability_of_improvement`.

    Raises:
        ValueError: as for `probability_of_improvement`.
    """
    triples = _pairs(policy, over, baseline)
    if any(costs.size == 0 for costs in triples.values()):
        return Gain(np.nan, np.nan, np.nan)
    mine, theirs = (np.mean([costs[row].sum() / costs[2].sum() for costs in triples.values()]) for row in (0, 1))
    value = 100 * (1 - mine / theirs)
    if any(costs.shape[-1] == 1 for costs in triples.values()):
        return Gain(float(value), np.nan, np.nan)
    shares = [
        [_sums(costs[[row, 2]], resamples, stream, level, blocks.get(name)) for row in (0, 1)]
        for stream, (name, costs) in enumerate(triples.items())
    ]
    pooled = np.mean(shares, axis=0)
    return Gain(float(value), *_bounds(100 * (1 - pooled[0] / pooled[1]), level))


def _mean(values: FloatArray) -> FloatArray:
    return np.asarray(values.mean(axis=-1))


def _pairs(*policies: ByScenario) -> dict[str, FloatArray]:
    """Costs of all policies per scenario, on the seeds that none of them cut short."""
    names = list(policies[0])
    if not names:
        raise ValueError("there are no scenarios; give the costs of at least one")
    for other in policies[1:]:
        if set(other) != set(names):
            raise ValueError(f"the costs have different scenarios: {', '.join(names)} and {', '.join(other)}")
    return {name: _paired(*(costs[name] for costs in policies)) for name in names}


def _sums(
    costs: FloatArray, resamples: int, stream: int, level: float, block: int | None, *, over: float | None = None
) -> FloatArray:
    """Draws of the first sum over the last, or over a number, `(resamples,)`; each stream has its own draws."""

    def share(sums: FloatArray) -> FloatArray:
        return np.asarray(sums[..., 0] / (sums[..., -1] if over is None else over))

    return drawn(costs, share, resamples=resamples, level=level, stream=stream, block=block)


def _estimate(values: Sequence[float], draws: Sequence[FloatArray], aggregate: Aggregate, level: float) -> Estimate:
    """Aggregate over scenarios; without bounds if a scenario has no draws."""
    value = float(aggregate(np.array(values)))
    if len(draws) < len(values):
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *_bounds(aggregate(np.stack(draws, axis=1)), level))


def _paired(*costs: npt.ArrayLike) -> FloatArray:
    """Costs of several policies on the seeds that none of them cut short, `(policies, seeds)`."""
    columns = [np.asarray(each, dtype=np.float64) for each in costs]
    if len({column.shape for column in columns}) > 1:
        counts = ", ".join(str(len(np.atleast_1d(column))) for column in columns)
        raise ValueError(f"costs of {counts} seeds cannot be paired: give each policy's cost on the same seeds")
    paired = np.stack(columns)
    return paired[..., np.isfinite(paired).all(axis=tuple(range(paired.ndim - 1)))]


def _score(costs: FloatArray, draws: FloatArray, level: float) -> Estimate:
    value = float(share_of_gap(*costs)) if costs.size else np.nan
    return Estimate(value, *_bounds(draws, level)) if np.isfinite(value) else NO_SCORE


def _bounds(draws: FloatArray, level: float) -> tuple[float, float]:
    """Quantiles of the draws; NaN if more than one tail of them is undefined."""
    there = draws[np.isfinite(draws)]
    if len(there) < len(draws) * (1 + level) / 2:
        return np.nan, np.nan
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
