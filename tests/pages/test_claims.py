"""Verdicts on claims follow from the numbers by the rule that the page states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.scenarios import load_scenario
from experiments import compare
from experiments.claims import Options, main
from experiments.pages.claims import MARK, Claim, costs, pooled, verdict
from experiments.running.run_folder import Run

ABLATIONS = "cace-no-load-time,cace-no-latency,cace-no-output,cace-no-recency,cace-no-demand"
POLICIES = f"lru,omlx,gdsf,cace,cace-output-kept,{ABLATIONS},belady"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A comparison of two scenarios on three seeds."""
    out = tmp_path_factory.mktemp("runs") / "suite"
    arguments = ["--policies", POLICIES, "--scenarios", "workstation,light-pressure", "--seeds", "3", "--out", str(out)]
    assert compare.main(arguments) == 0
    return Run(out)


def fabricated(run: Run, factors: dict[str, float]) -> Run:
    """The run with CACE's waiting set to LRU's times a factor per scenario, a little different from seed to seed."""
    other = Run(run.path)
    for name, factor in factors.items():
        base = other.columns[name, "lru"]["waiting_s"]
        other.columns[name, "cace"]["waiting_s"] = base * (factor + 0.001 * np.arange(len(base)))
    return other


@pytest.mark.parametrize(
    ("workstation", "light_pressure", "expected"),
    [
        (0.8, 0.9, "confirmed"),
        (1.2, 1.1, "refuted"),
        (0.8, 1.1, "depends: holds in workstation; the opposite in light-pressure"),
        (0.8, 0.999, "depends: holds in workstation; the opposite in none"),
        (0.999, 0.999, "no effect found"),
    ],
)
def test_a_verdict_follows_from_the_intervals(
    run: Run, workstation: float, light_pressure: float, expected: str
) -> None:
    made_up = fabricated(run, {"workstation": workstation, "light-pressure": light_pressure})
    assert verdict(made_up, Claim("", "waiting_s")) == expected


def test_weights_as_they_are_give_the_cost_of_the_run(run: Run) -> None:
    weights = load_scenario("workstation").costs().table()
    mine = costs(run, "workstation", "cace", weights.w_ttft, weights.w_e2e)
    np.testing.assert_allclose(mine, run.columns["workstation", "cace"]["cost"])


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


def test_what_another_command_wrote_at_the_end_of_the_page_stays(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    page.write_text(f"# Old\n\n{MARK}\n\nof the quoted formula\n")
    main(Options(str(run.path), str(page)))
    text = page.read_text()
    assert "# Old" not in text and text.endswith(f"\n\n{MARK}\n\nof the quoted formula\n")


def test_a_run_without_the_ablations_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "short"
    assert (
        compare.main(["--policies", "lru,cace", "--scenarios", "workstation", "--seeds", "1", "--out", str(out)]) == 0
    )
    with pytest.raises(ConfigError, match="lacks cace-no-demand"):
        main(Options(str(out)))
