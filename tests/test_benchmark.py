"""The benchmark itself: what it writes is complete and can be read again. No figure is asserted: machines differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from experiments import benchmark
from experiments.benchmark_measures import best_s, median_s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "run"
    tiny = ["--quick", "--rounds", "1", "--requests", "2000", "--policies", "random,belady"]
    assert benchmark.main([*tiny, "--out", str(path), "--write", str(path.parent / "page.md")]) == 0
    return path


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "benchmark.json").read_text("utf-8"))


def numbers(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(figures, dict):
        for key, value in figures.items():
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(figures, int | float) and not isinstance(figures, bool):
        yield path, figures


def test_every_part_is_measured(figures: dict[str, Any]) -> None:
    parts = {"scenarios", "features", "libcachesim", "steps", "compile", "start", "memory", "targets", "machine"}
    assert parts <= set(figures)
    assert list(figures["scenarios"]["default"]["policies"]) == ["lru", "cace", "random", "belady"]
    assert {row["unit"] for row in figures["targets"]} == {"requests/s", "s"}  # memory: only of a million requests


def test_every_figure_is_finite_and_positive(figures: dict[str, Any]) -> None:
    differences = {"/features/share_of_episode", "/features/ns_per_decision"}  # noise may turn them round
    zero = {"/notices", "/load_average_1min"}
    found = dict(numbers(figures))
    assert len(found) > 50
    for path, value in found.items():
        assert math.isfinite(value), path
        assert value > 0 or path in differences or any(path.endswith(end) for end in zero), path


def test_results_are_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "benchmark.json").read_text("utf-8")
    assert benchmark.main(["--quick", "--out", str(folder)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (folder / "benchmark.json").read_text("utf-8") == before


def test_page_is_the_same_from_results_on_disk(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "again.md"
    assert benchmark.main(["--results", str(folder / "benchmark.json"), "--write", str(page)]) == 0
    assert page.read_text("utf-8") == (folder.parent / "page.md").read_text("utf-8")
    assert "cace" in page.read_text("utf-8")


def test_plot_is_drawn(folder: Path) -> None:
    assert (folder / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_names_are_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert benchmark.main(["--policies", "lru,nobody", "--out", str(tmp_path / "x")]) == 2
    assert "no policy called 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_missing_target_is_told_from_a_met_one() -> None:
    slow = {"memory": {"requests": 1_000_000, "peak_mb": 600.0}, "compile": {"skipped": "--quick"}}
    rows = list(benchmark.judge(slow))
    assert [(row.unit, row.met) for row in rows] == [("MB", False)]


def test_best_takes_each_episodes_fastest_run_and_median_whole_rounds() -> None:
    seconds = [[1.0, 5.0], [3.0, 2.0], [4.0, 4.0]]  # (rounds, episodes)
    assert best_s(seconds) == 3.0
    assert median_s(seconds) == 6.0
