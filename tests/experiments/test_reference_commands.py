"""Claims about the commands around the reference: what was found is kept, and only where it is the same."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import ConfigError, dump
from cace_env.planning import replay
from cace_env.scenarios import load_scenario
from experiments import optimality_gap, reference, reference_curve
from experiments.running import reference_cache
from experiments.running.reference_cache import cached_reference, default_folder, key_of
from tests.planning.test_planner import SCENARIO, episode

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
    scenario.write_text(dump(load_scenario(SCENARIO)), "utf-8")
    options = reference.Options(
        scenarios=[str(scenario)], seeds=2, cache=tmp_path / "cache", reference_option=["starts=1", "max_rounds=1"]
    )
    reference.main(replace(options, out=tmp_path / "rows.csv"))
    printed = capsys.readouterr().out
    assert printed.startswith("| scenario | seeds | LRU | cheapest base | reference |")
    assert printed.splitlines()[2].startswith("| small | 2 | ")
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["lower_bound"]) < float(row["reference"]) <= float(row["base_cost"]) <= float(row["lru"])
    with pytest.raises(ConfigError, match=r"rows\.csv is there already"):
        reference.main(replace(options, out=tmp_path / "rows.csv"))
    reference.main(replace(options, workers=2))  # from the cache
    assert capsys.readouterr().out == printed


def test_the_curve_falls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "small.yaml"
    scenario.write_text(dump(load_scenario(SCENARIO)), "utf-8")
    reference_curve.main(reference_curve.Options(scenarios=[str(scenario)], seeds=1))
    printed = capsys.readouterr().out
    for env in reference_curve.ENVS:
        assert f"{env}: {scenario}; 1 training seeds each" in printed
    shares = {
        line.split("|")[1].strip(): float(line.split("|")[2].rstrip(" %"))
        for line in printed.splitlines()
        if line.startswith(("| the cheapest base", "| 1 start", "| 4 starts"))
    }
    assert shares["the cheapest base"] == 100.0
    assert shares["4 starts"] <= shares["1 start, 1 round"] <= 100.0


def test_the_gap_is_printed_for_both_environments(capsys: pytest.CaptureFixture[str]) -> None:
    optimality_gap.main(optimality_gap.Options(episodes=2))
    printed = capsys.readouterr().out
    for protocol, shown in optimality_gap.SHOWN.items():
        assert f"{protocol}: 2 episodes" in printed
        assert all(f"| `{name}` |" in printed for name in shown)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimality_gap.main(optimality_gap.Options(episodes=0)), "--episodes is 0"),
        (lambda: reference_curve.main(reference_curve.Options(seeds=0)), "--seeds is 0"),
        (lambda: reference.main(reference.Options(workers=0)), "--workers 0"),
        (lambda: reference.main(reference.Options(reference_option=["start=1"])), "did you mean 'starts'"),
    ],
)
def test_options_out_of_range_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
