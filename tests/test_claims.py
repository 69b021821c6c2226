"""Verdicts on claims follow from the numbers by the rule that the page states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.intervals import Gain
from experiments import compare
from experiments.claims import Claim, Options, main, pooled, verdict
from experiments.run_folder import Run

POLICIES = "lru,cace,cace-no-load-time,cace-no-latency,cace-no-output,cace-no-recency,cace-no-demand,belady"
BETTER, WORSE, OPEN = Gain(5, 2, 8), Gain(-5, -8, -2), Gain(1, -2, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A comparison of two scenarios on three seeds."""
    out = tmp_path_factory.mktemp("runs") / "suite"
    arguments = ["--policies", POLICIES, "--scenarios", "workstation,light-pressure", "--seeds", "3", "--out", str(out)]
    assert compare.main(arguments) == 0
    return Run(out)


def test_a_verdict_follows_from_the_intervals() -> None:
    assert verdict(BETTER, [BETTER, BETTER, OPEN]) == "confirmed"
    assert verdict(BETTER, [BETTER, OPEN, OPEN]) == "depends"
    assert verdict(WORSE, [WORSE, OPEN, BETTER]) == "refuted"
    assert verdict(OPEN, [WORSE, OPEN, OPEN]) == "refuted"
    assert verdict(OPEN, [OPEN, OPEN, OPEN]) == "no effect found"
    assert verdict(OPEN, [WORSE, BETTER, OPEN]) == "depends"


def test_the_pooled_gain_is_the_mean_over_scenarios(run: Run) -> None:
    claim = Claim("", "waiting_s")
    pool = pooled(run, claim)
    gains = [run.gain(name, "cace", "waiting_s").percent for name in run.scenarios]
    assert pool.percent == pytest.approx(np.mean(gains))
    assert pool.low <= pool.percent <= pool.high


def test_the_page_judges_every_claim_and_shows_every_scenario(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    main(Options(str(run.path), str(page)))
    text = page.read_text()
    for sentence in (
        "lowers TTFT",
        "lowers E2E",
        "number of evictions",
        "TTFT of completions",
        "load time contributes",
    ):
        assert sentence in text
    for name in run.scenarios:
        gain = run.gain(name, "cace", "waiting_s")
        assert f"{gain.percent:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})" in text  # the same as in the report


def test_a_run_without_the_ablations_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "short"
    assert (
        compare.main(["--policies", "lru,cace", "--scenarios", "workstation", "--seeds", "1", "--out", str(out)]) == 0
    )
    with pytest.raises(ConfigError, match="lacks cace-no-demand"):
        main(Options(str(out)))
