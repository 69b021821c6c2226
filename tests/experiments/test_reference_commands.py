"""Claims about the commands around the reference: what was found is kept, and only where it is the same."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import dump
from cace_env.evaluation.results import read_results, write_results
from cace_env.planning import replay
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments import reference
from experiments.reading import horizons
from experiments.running import reference_cache
from experiments.running.reference_cache import cached_reference, default_folder, key_of
from experiments.yardsticks import effort, optimality, prefetch
from experiments.yardsticks.foresight import horizon
from tests.planning.test_planner import episode
from tests.support.small import SEVEN

QUICK: dict[str, Any] = {"starts": 1, "max_rounds": 1}


def test_a_reference_that_was_kept_is_the_one_that_was_found(tmp_path: Path) -> None:
    case, workload, _ = episode("swap")
    first, kept = cached_reference(tmp_path / "new", case, workload, 5, QUICK)
    again, kept_now = cached_reference(tmp_path / "new", case, workload, 5, QUICK)
    assert (kept, kept_now) == (False, True)
    assert np.array_equal(first.plan, again.plan)
    assert asdict(first) | {"plan": 0} == asdict(again) | {"plan": 0}
    assert replay(case, workload, again).cost() == first.cost
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".json"]


def test_whatever_changes_the_result_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    case, workload, _ = episode("eviction")
    key = key_of(case, workload, 5, QUICK)
    assert key == key_of(replace(case, name="another"), workload, 5, QUICK | {"threads": 4})
    tables = case.tables
    others = [
        key_of(case, workload, 6, QUICK),
        key_of(case, workload, 5, QUICK | {"starts": 2}),
        key_of(case, case.workload(6), 5, QUICK),
        key_of(replace(case, training=None), workload, 5, QUICK),
        key_of(replace(case, tables=tables.replace(drain_after_us=1)), workload, 5, QUICK),
        key_of(replace(case, tables=tables.replace(load_us=tables.load_us + 1)), workload, 5, QUICK),
        key_of(replace(case, tables=tables.replace(cost=replace(tables.cost, w_load=1.0))), workload, 5, QUICK),
    ]
    monkeypatch.setattr(reference_cache, "code_digest", lambda: "another version")
    others.append(key_of(case, workload, 5, QUICK))
    assert len({key, *others}) == len(others) + 1


def test_references_are_kept_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "cace_env" / "reference"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "cace_env" / "reference"


def test_the_command_prints_a_table_and_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "small.yaml"
    scenario.write_text(dump(load_scenario(SEVEN)), "utf-8")
    options = ["find", "--scenarios", str(scenario), "--seeds", "2", "--cache", str(tmp_path / "cache")]
    options += ["--reference-option", "starts=1", "--reference-option", "max_rounds=1"]
    rows_file = ["--out", str(tmp_path / "rows.csv")]
    assert reference.main(options + rows_file) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| scenario | seeds | LRU | cheapest base | reference |")
    assert printed.splitlines()[2].startswith("| small | 2 | ")
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["lower_bound"]) < float(row["reference"]) <= float(row["base_cost"]) <= float(row["lru"])
    assert reference.main(options + rows_file) == 2
    assert "rows.csv is there already" in capsys.readouterr().err
    assert reference.main([*options, "--workers", "2"]) == 0  # from the cache
    assert capsys.readouterr().out == printed


def test_the_curve_falls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "small.yaml"
    scenario.write_text(dump(load_scenario(SEVEN)), "utf-8")
    assert reference.main(["curve", "--scenarios", str(scenario), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    for env in effort.ENVS:
        assert f"{env}: {scenario}; 1 training seeds each" in printed
    shares = {
        line.split("|")[1].strip(): float(line.split("|")[2].rstrip(" %"))
        for line in printed.splitlines()
        if line.startswith(("| the cheapest base", "| 1 start", "| 4 starts"))
    }
    assert shares["the cheapest base"] == 100.0
    assert shares["4 starts"] <= shares["1 start, 1 round"] <= 100.0


def test_the_gap_is_printed_for_both_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["gap", "--episodes", "2"]) == 0
    printed = capsys.readouterr().out
    for protocol, shown in optimality.SHOWN.items():
        assert f"{protocol}: 2 episodes" in printed
        assert all(f"| `{name}` |" in printed for name in shown)


def test_prefetch_with_the_true_future_is_priced_on_every_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["prefetch", "--seeds", "1", "--requests", "20"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in prefetch.SCENARIOS)


def test_the_planner_is_held_against_the_optima_of_tiny(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["tiny", "--seeds", "1"]) == 0
    assert "2 episodes, 0 of them unproven" in capsys.readouterr().out


def test_the_horizon_curve_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "horizons.csv"
    options = ["horizon", "--entries", "eviction-light-pressure", "--out", str(file)]
    assert reference.main([*options, "--seeds", "1"]) == 0
    assert "| `eviction-light-pressure` |" in capsys.readouterr().out
    first = read_results(file).rows
    assert {row.policy for row in first} == set(horizons.policies(Protocol.EVICTION))
    assert reference.main([*options, "--seeds", "2"]) == 2
    assert "is there already; --resume goes on with it" in capsys.readouterr().err
    assert reference.main([*options, "--seeds", "2", "--resume"]) == 0
    assert set(first) < set(read_results(file).rows)
    assert len(read_results(file).rows) == 2 * len(first)


def test_a_horizon_curve_of_other_code_goes_on_only_if_it_costs_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "horizons.csv"
    options = ["horizon", "--entries", "eviction-light-pressure", "--out", str(file), "--seeds", "1"]
    assert reference.main(options) == 0
    monkeypatch.setattr(horizon, "code_digest", lambda: "another version")
    assert reference.main([*options, "--resume"]) == 0
    kept = read_results(file)
    changed = [row._replace(cost=row.cost + 0.5) if row.policy == "agent+60s" else row for row in kept.rows]
    write_results(file, replace(kept, rows=tuple(changed)))
    monkeypatch.setattr(horizon, "code_digest", lambda: "a third one")
    assert reference.main([*options, "--resume"]) == 2
    assert "agent+60s on eviction-light-pressure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["horizon", "--entries", "eviction-defualt"], "did you mean 'eviction-default'"),
        (["gap", "--episodes", "0"], "greater than or equal to 1"),
        (["curve", "--seeds", "0"], "greater than or equal to 1"),
        (["find", "--workers", "0"], "0 workers were asked for"),
        (["find", "--ray-address", "auto"], "--ray-address is for --executor ray"),
        (["find", "--reference-option", "start=1"], "did you mean 'starts'"),
    ],
)
def test_options_out_of_range_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        sys.exit(reference.main(arguments))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
