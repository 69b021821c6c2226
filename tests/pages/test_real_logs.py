"""Agents on public logs: every log that is there is played, and the report says what a guard keeps and catches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import ConfigError
from cace_env.evaluation import Gain
from cace_env.tables import Protocol
from experiments.logs.public import LOGS, scenarios
from experiments.pages.real_logs import judged, kept_text, verdict_text
from experiments.running.run_folder import Run
from experiments.shifted import main
from tests.support.logs import AZURE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the public files, cut short."""
    folder = tmp_path_factory.mktemp("traces")
    rows = (f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{500 + i},{9 + i % 7}\n" for i in range(0, 3000, 5))
    (folder / LOGS["azure-code"].file).write_text(AZURE + "".join(rows))
    return folder


def test_only_logs_that_are_there_are_played_and_none_is_an_error(folder: Path, tmp_path: Path):
    found = scenarios(folder, Protocol.EVICTION, windows=3)
    assert list(found) == ["azure-code", "azure-code-48"]
    assert [len(scenario.catalogue) for scenario in found.values()] == [16, 48]
    assert all(scenario.trace is not None and scenario.trace.windows == 3 for scenario in found.values())
    with pytest.raises(ConfigError, match="none of the public logs is there"):
        scenarios(tmp_path, Protocol.EVICTION)


def test_some_logs_are_held_out_from_what_the_guard_was_set_on():
    files = {role: {log.file for log in LOGS.values() if log.role == role} for role in ("set here", "held out")}
    assert files["set here"] and files["held out"] and not files["set here"] & files["held out"]


@pytest.mark.parametrize("env", ["eviction", "swap"])
def test_the_report_has_a_row_per_log_and_the_line_for_the_card(env: str, folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    asked = ["--logs", str(folder), "--env", env, "--seeds", "1", "--windows", "8", "--out", str(out), "--workers", "1"]
    assert main(asked) == 0
    report = (out / "report.md").read_text()
    assert report.count("| azure-code (set here) |") == report.count("| azure-code-48 (set here) |") == 3
    assert "| **all 2** |" in report.split(f"## {env}-target")[1].split("##")[0]
    assert "azure-code 0." in report.split(f"## {env}-card")[1] and "omlx" in report and "waits" in report
    who = judged(Run(out), Protocol(env))
    assert who is not None and (who.agent, who.guarded) == (f"agent:{env}", f"guarded:agent:{env}")


def test_what_is_kept_of_a_gain_has_an_interval_and_without_a_gain_nothing_is_said():
    draws = np.random.default_rng(0)
    lru = draws.uniform(90, 110, 24)
    half = kept_text(lru, lru - 20, lru - 10, block=3)
    assert half == "50 % [50, 50]"
    assert kept_text(lru, lru - draws.normal(0, 20, 24), lru, block=3) == "-"


def test_an_agent_keeps_to_the_best_rule_in_the_mean_or_for_sure():
    just_above, far_above = Gain(-0.5, -0.9, -0.2), Gain(-3.0, -4.0, -2.0)
    assert verdict_text([(just_above, 1.0), (Gain(10.0, 5.0, 15.0), 2.0)]) == "yes, for sure"
    assert verdict_text([(Gain(-0.5, -3.0, 2.0), 1.0)]) == "yes"
    assert verdict_text([(Gain(-1.5, -3.0, 2.0), 1.0)]) == "no"
    assert verdict_text([(just_above, 1.0), (far_above, 1.0)]) == "no, for sure"
