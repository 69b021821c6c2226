"""Verdicts on claims follow from the numbers by the rule that the page states."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cace_env.scenarios import load_scenario
from experiments import compare
from experiments.claims import main
from experiments.docs import main as fill_docs
from experiments.pages.claims import Claim, costs, pooled, verdict
from experiments.pages.regions import DOCS, read
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


def test_the_tables_judge_every_claim_and_show_every_scenario(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DOCS / "claims.md", tmp_path)
    assert fill_docs(["claims", "--run", str(run.path), "--docs", str(tmp_path)]) == 0
    tables = read(tmp_path / "claims.md")
    capsys.readouterr()
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == f"{tables['effects']}\n\n{tables['factors']}"
    for sentence in ("lowers TTFT", "lowers E2E", "number of evictions", "TTFT of completions"):
        assert sentence in tables["effects"]
    assert "load time contributes" in tables["factors"]
    for name in run.scenarios:
        gain = run.gain(name, "cace", "waiting_s")
        assert f"{gain.percent:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})" in tables["effects-evicted"]
    assert tables["quoted-readings"] == read(DOCS / "claims.md")["quoted-readings"]  # of other runs


def test_a_run_without_the_ablations_is_refused_by_name(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "short"
    assert (
        compare.main(["--policies", "lru,cace", "--scenarios", "workstation", "--seeds", "1", "--out", str(out)]) == 0
    )
    assert main([str(out)]) == 2
    assert "lacks cace-no-demand" in capsys.readouterr().err
