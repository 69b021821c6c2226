"""Intervals over windows of a log, which resemble their neighbours: blocks of them are drawn together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cace_env.evaluation import block_of, paired_gain, suite_scores, windows_for
from cace_env.evaluation.intervals import seed_draws
from cace_env.evaluation.scores import pooled_gain, probability_of_improvement, relative_cost, score

FloatArray = npt.NDArray[np.float64]


def series(rng: np.random.Generator, windows: int, memory: float) -> tuple[FloatArray, FloatArray]:
    """Costs of LRU and of a policy that saves 10 % of them, give or take what a window keeps of the one before."""
    noise = rng.normal(size=windows + 50)
    for at in range(1, len(noise)):
        noise[at] += memory * noise[at - 1]
    baseline = 100 * rng.gamma(20, 1 / 20, windows)
    return baseline, 0.9 * baseline + 3 * noise[50:]


@pytest.mark.parametrize("windows", [8, 20, 30])
def test_blocks_of_windows_cover_where_single_windows_fail(windows: int):
    """Windows that resemble the one before: 95 % intervals over single windows miss far too often."""
    rng, runs, level = np.random.default_rng(windows), 300, 0.95
    hits = {None: 0, block_of(windows): 0}
    for _ in range(runs):
        baseline, policy = series(rng, windows, memory=0.4)
        for block in hits:
            gain = paired_gain(baseline, policy, level=level, resamples=500, block=block)
            hits[block] += gain.low <= 10 <= gain.high
    single, blocked = (count / runs for count in hits.values())
    assert single < 0.8
    assert blocked > 0.9 and blocked > single + 0.1


def test_blocks_hold_consecutive_windows_and_go_round():
    draws = seed_draws(9, 50, block=3)
    assert np.all(draws.sum(axis=1) == 9)
    starts = seed_draws(9, 50, block=9)
    assert np.all(starts == 1)  # one block of all
    neighbours = np.roll(draws, 1, axis=1) + np.roll(draws, -1, axis=1)
    assert np.all((draws == 0) | (neighbours > 0))  # nothing is drawn alone
    assert {block_of(count) for count in (8, 27, 28)} == {2, 3, 4}
    assert {windows_for(n) for n in (0, 79)} == {1} and {windows_for(n) for n in (80, 179)} == {8}
    assert (windows_for(250), windows_for(10**9)) == (12, 30)


def test_every_interval_of_a_log_is_over_blocks_and_none_is_there_for_few_windows():
    rng = np.random.default_rng(0)
    baseline, policy = series(rng, 24, memory=0.8)
    costs = {"lru": baseline, "mine": policy, "reference": 0.6 * baseline}
    by_name = {name: {"log": column} for name, column in costs.items()}
    few = {name: {"log": column[:7]} for name, column in costs.items()}

    def bounds(of: Mapping[str, Any], blocks: Mapping[str, int]) -> list[tuple[float, ...]]:
        mine, lru, table = of["mine"], of["lru"], {"log": {name: column["log"] for name, column in of.items()}}
        found: list[tuple[float, float, float]] = [
            relative_cost(mine, lru, blocks=blocks),
            pooled_gain(mine, lru, lru, blocks=blocks),
            probability_of_improvement(mine, lru, blocks=blocks),
            suite_scores(table, blocks=blocks).means["mine"],
            suite_scores(table, blocks=blocks).scores["mine"]["log"],
            score(lru["log"], mine["log"], of["reference"]["log"], block=blocks.get("log")),
        ]
        return [each[1:] for each in found]

    for (low, high), (lowest, highest) in zip(bounds(by_name, {}), bounds(by_name, {"log": 3}), strict=True):
        assert lowest <= low and high <= highest and highest - lowest > high - low
    assert np.isnan(bounds(few, {"log": 2})).all() and np.isfinite(bounds(few, {})).all()
    share, gain = (
        relative_cost(by_name["mine"], by_name["lru"], blocks={"log": 3}),
        paired_gain(baseline, policy, block=3),
    )
    assert (gain.low, gain.high) == pytest.approx((100 * (1 - share.high), 100 * (1 - share.low)))


def test_an_interval_on_a_log_holds_what_other_draws_of_what_is_attached_would_say():
    rng = np.random.default_rng(1)
    baseline = 100 + rng.normal(size=(8, 20))
    saves = 10 + 5 * rng.normal(size=(8, 1))  # each draw of what is attached says something else, all windows the same
    policy = baseline * (1 - saves / 100)
    gain, averaged = (paired_gain(*pair, block=3) for pair in ((baseline, policy), (baseline[:1], policy[:1])))
    assert averaged.high - averaged.low < 0.1
    half = 1.96 * saves.std() / np.sqrt(8)
    assert 1.2 * half < gain.percent - gain.low < 1.6 * half  # a little wider than normal: there are eight draws
    once, same = paired_gain(baseline[0], policy[0], block=3), paired_gain(baseline[:1], policy[:1], block=3)
    assert once == same
