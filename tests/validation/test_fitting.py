"""Claims about coefficients from runs: those that made the runs are found again, in clean moments alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cace_env.live.calibration import Sample
from cace_env.workload import Workload
from experiments.calibration.outputs import Sizes
from experiments.validation.fitting import clean_samples, fit_runs
from experiments.validation.records import Asked, Move, Run

ROUND_S, DECODE_S, PREFILL_S, CONSTANT_S = 0.020, 0.006, 0.002, 0.004
LOAD_S, UNLOAD_S, FIRST_S = 0.8, 0.1, 0.3
SIZES = {"one": Sizes(10**9, 10**9, 4096, 4, 256)}


def served(groups: list[list[tuple[int, int]]], factor: float = 1.0) -> tuple[Workload, Run]:
    """Groups of requests (prompt, answer) in turn; those of a group write together; a load before each third."""
    now, asked, moves = 0.0, [], []
    for number, group in enumerate(groups):
        late = 0.0
        if number % 3 == 0:
            moves += [Move("load", 0, now, now + LOAD_S * factor)]
            now, late = now + LOAD_S * factor, FIRST_S
        begun, firsts = now, []
        for prompt, _ in group:  # one prompt after the other, before anybody writes
            now += factor * (CONSTANT_S + late + ROUND_S + PREFILL_S * prompt)
            firsts.append(now)
            late = 0.0
        ticks: list[list[float]] = [[first] for first in firsts]
        left = [output - 1 for _, output in group]
        while any(left):
            now += factor * (ROUND_S + DECODE_S * sum(count > 0 for count in left))
            for at, count in enumerate(left):
                if count:
                    ticks[at].append(now)
                    left[at] -= 1
        asked += [Asked(begun, begun, tick[0], tick[-1], 0, len(tick), tick) for tick in ticks]
        now += 0.5
        if number % 3 == 2:
            moves += [Move("unload", 0, now, now + UNLOAD_S * factor)]
            now += UNLOAD_S * factor
    rows = [row for group in groups for row in group]
    workload = Workload.from_columns(
        label="made up",
        model=[0] * len(rows),
        context_tokens=[prompt for prompt, _ in rows],
        output_tokens=[output for _, output in rows],
    )
    return workload, Run("made up", "lru", 1, asked, moves)


def calibrated() -> list[Sample]:
    """What is right of another hour, twice as fast."""
    found = [Sample(0.0, "one", "load warm", LOAD_S / 2), Sample(0.0, "one", "unload", UNLOAD_S / 2)]
    found += [Sample(0.0, "one", what, 0.001) for what in ("first", "again")]  # type: ignore[arg-type]
    for prompt in (16, 64, 256):
        found.append(Sample(0.0, "one", "prefill", (CONSTANT_S + ROUND_S + PREFILL_S * prompt) / 2, 1, prompt, 0, 1))
    for batch, context in itertools.product((1, 2, 4), (16, 256)):
        found.append(Sample(0.0, "one", "token", (ROUND_S + batch * DECODE_S) / 2, batch, context, 0, 32))
    return found


GROUPS = [[(16, 12)], [(40, 12), (40, 12)], [(100, 12)]] * 4 + [[(16, 12)], [(20, 12)], [(200, 12)]] * 4


def test_the_coefficients_that_made_a_run_are_found_again():
    workload, run = served(GROUPS)
    (one,), missing = fit_runs(clean_samples([run], workload, list(SIZES)), calibrated(), SIZES)
    assert missing == ["one: token, 4 at once"]
    assert one.gap_s(1, 40, 12) == pytest.approx(ROUND_S + DECODE_S, rel=0.03)
    assert one.gap_s(2, 40, 12) == pytest.approx(ROUND_S + 2 * DECODE_S, rel=0.03)
    assert one.gap_s(4, 16, 32) == pytest.approx(ROUND_S + 4 * DECODE_S, rel=0.03)  # as much slower as the others
    assert one.prefill_ns == pytest.approx(PREFILL_S * 1e9, rel=0.05)
    assert one.unload_us == pytest.approx(UNLOAD_S * 1e6, rel=0.01)
    # What the first request after a load takes longer counts as load.
    assert one.load_us[0] == pytest.approx((LOAD_S + FIRST_S) * 1e6, rel=0.05)


def test_moments_beside_a_prompt_or_a_load_are_no_samples():
    workload, run = served([[(40, 30), (40, 30)]])
    samples = clean_samples([run], workload, list(SIZES)).samples
    tokens = [one for one in samples if one.what == "token"]
    assert {one.batch for one in tokens} == {2}
    assert [one for one in samples if one.what == "prefill"] == []  # neither was alone
    last = Move("load", 0, run.asked[0].admitted, run.asked[0].finish)
    busy = Run("made up", "lru", 1, run.asked, [*run.moves, last])
    assert [one for one in clean_samples([busy], workload, list(SIZES)).samples if one.what == "token"] == []


def test_where_runs_show_too_little_the_calibration_stands_in_and_that_is_said():
    workload, run = served([[(40, 2)]] * 3)
    (one,), missing = fit_runs(clean_samples([run], workload, list(SIZES)), calibrated(), SIZES)
    assert missing == ["one: prefill", *(f"one: token, {batch} at once" for batch in (1, 2, 4))]
    assert one.gap_s(2, 16, 32) == pytest.approx((ROUND_S + 2 * DECODE_S) / 2, rel=0.05)
    assert np.isclose(one.unload_us, UNLOAD_S * 1e6, rtol=0.01)
