"""Claims about the scores of forecasters: by hand, and what the command prints and fills."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.forecasting.demand import MAKINGS
from cace_env.policies import policy
from cace_env.policies.cace import load_cace
from cace_env.workload import Workload
from experiments import forecasts
from experiments.logs import demand_weights, forecast_page
from experiments.logs.demand_weights import SEARCHED, all_chosen, write_costs
from experiments.logs.forecast_scores import BY_HAND, OWN, SHIPPED, TRUTH, quality
from tests.support.logs import AZURE, written
from tests.support.small import SEVEN


def test_a_forecast_that_knows_nothing_scores_nothing() -> None:
    came = np.array([True, False, False, False])
    found = quality([(np.full(4, 0.25), came)])
    assert found.auc == 0.5
    assert found.log_score == pytest.approx(0.0)
    assert found.unreliable == pytest.approx(0.0)
    assert found.used == 0.25


def test_the_order_and_the_size_of_chances_are_scored_apart() -> None:
    came = np.array([True, True, False, False])
    right, timid = quality([(came * 1.0, came)]), quality([(0.5 + came * 0.01, came)])
    assert right.auc == timid.auc == 1.0
    assert right.log_score == pytest.approx(1.0, abs=0.01)  # of one bit
    assert timid.log_score < 0.1
    assert quality([(~came * 1.0, came)]).auc == 0.0
    assert right.unreliable == 0.0 < timid.unreliable


def test_the_command_scores_every_forecaster_and_fills_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    page = "".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in ("errors", "worth", "run"))
    (tmp_path / "forecasts.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(forecasts, "DOCS", tmp_path)
    options = ["--entries", "eviction-light-pressure", "--seeds", "2", "--error-seeds", "1"]
    assert forecasts.main(["score", *options, "--write"]) == 0
    printed, filled = capsys.readouterr().out, (tmp_path / "forecasts.md").read_text(encoding="utf-8")
    for text in (printed, filled):
        assert all(f"| `{name}` |" in text for name in MAKINGS)
        assert f"| {TRUTH} |" in text
    assert (tmp_path / "images" / "forecasts.png").is_file()


def test_weights_are_searched_once_for_each_forecaster_and_score_takes_the_best_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["tune", "--entries", "eviction-light-pressure", "--forecasters", f"{OWN},ewma", "--out", str(tmp_path)]
    options += ["--requests", "20000", "--train-seeds", "1", "--validation-seeds", "2"]
    assert forecasts.main(options) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"own.csv", "own.yaml", "ewma.csv", "ewma.yaml"}
    searched = load_cace(tmp_path / "ewma.yaml").weights.row()
    assert searched != load_cace(tmp_path / "own.yaml").weights.row() != policy(f"cace:{SHIPPED}").weights

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what has been found is not searched again")

    monkeypatch.setattr(demand_weights, "tune_cace", never)
    assert forecasts.main(options) == 0
    for other in (["--entries", "drift"], ["--train-seeds", "2"], ["--validation-seeds", "3"]):
        capsys.readouterr()
        assert forecasts.main([*options, *other]) == 2
        assert "is of other entries or seeds" in capsys.readouterr().err
    kept = (tmp_path / "own.csv").read_text("utf-8")
    (tmp_path / "own.csv").write_text("nothing", encoding="utf-8")
    assert forecasts.main(options) == 2
    assert "own.csv: holds no costs" in capsys.readouterr().err
    (tmp_path / "own.csv").write_text(kept, encoding="utf-8")
    for best, weights in ((SEARCHED, searched), (BY_HAND, policy("cace").weights)):
        costs = {source: {"a": np.array([2.0 - (source == best), 3.0])} for source in (BY_HAND, SHIPPED, SEARCHED)}
        write_costs(tmp_path / "ewma.csv", costs, [1, 2])
        found = all_chosen(tmp_path)
        assert found["ewma"] == (best, weights)
        assert found["sampler"] == (SHIPPED, policy(f"cace:{SHIPPED}").weights)  # not searched for
    with pytest.raises(ConfigError, match="has no weights"):
        all_chosen(tmp_path / "nothing")


def test_a_log_is_played_once_and_its_intervals_are_over_windows_in_time(
    tmp_path: Path,
) -> None:
    played: list[int] = []
    rows = (f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{50 + i},{1 + i % 7}\n" for i in range(400))
    log = {"path": str(written(tmp_path, AZURE + "".join(rows))), "format": "azure", "users": 20, "tasks": "completion"}
    case = case_of(SEVEN | {"trace": log | {"windows": 10, "time_compression": 0.1}}, "eviction")

    def workload(seed: int) -> Workload:
        played.append(seed)
        return case.workload(seed)

    cases = {"small": replace(case, workload=workload)}
    lines = [line.split(" | ") for line in forecast_page.logs_table(cases, all_chosen(None)).splitlines()[2:]]
    assert set(played) == {0}
    assert [line[1].strip("`") for line in lines] == [OWN, *MAKINGS, TRUTH]
    assert all("[" in line[4] for line in lines)  # an interval, though there is one episode


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["score", "--logs", "nowhere"], "nowhere: none of the public logs is there"),
        (["score", "--entries", "swap-drift"], "suite v1 has no entry 'swap-drift' in Eviction-v0"),
        (["tune", "--out", "nowhere", "--entries", "drfit"], "did you mean 'drift'?"),
        (["tune", "--out", "nowhere", "--forecasters", "survivla"], "did you mean 'survival'?"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_played(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forecasts.main(arguments) == 2
    assert problem in capsys.readouterr().err
