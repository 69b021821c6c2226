"""The benchmark itself: it measures what it says. No figure is asserted: machines differ."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the experiments extra is not installed")

from cace_env.config import ConfigError
from cace_env.tables import slots_per_accelerator
from experiments import benchmark
from experiments.yardsticks.speed import PROBES, SERIES, Effort, exponent, fleet

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("probe", [name for name in PROBES if name not in ("compiling", "start", "sb3")])
def test_a_probe_yields_finite_figures_with_units_and_names_of_their_own(probe: str) -> None:
    rows = list(PROBES[probe](Effort(quick=True)))
    assert len({what for what, _, _ in rows}) == len(rows) > 0
    for what, value, unit in rows:
        assert math.isfinite(value), what
        assert unit in ("requests/s", "decisions/s", "steps/s", "x", "us", "MB", ""), what


def test_results_are_written_once_and_compared_with_another_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "b.json", tmp_path / "page.md"
    page.write_text("above\n\n<!-- generated: benchmark -->\n\nold\n\n<!-- end -->\n\nbelow\n", "utf-8")
    arguments = ["--quick", "--rounds", "1", "--only", "start", "--out", str(out)]
    assert benchmark.main([*arguments, "--against", str(ROOT), "--write", str(page)]) == 0
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [row["what"] for row in rows] == ["import", "import to first step"]
    assert all(row["ratio"] > 0 for row in rows)
    text = page.read_text("utf-8")
    assert text.startswith("above\n") and text.endswith("below\n") and "| import to first step |" in text
    assert "old" not in text.replace("over the other", "")
    assert benchmark.main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--only", "vectors"], "there is no probe 'vectors'; use episodes"),
        (["--against", "nowhere"], "--against nowhere: there is no cace_env in it"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert benchmark.main([*wrong, "--out", str(tmp_path / "x.json")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_a_probe_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "cace_env").mkdir()
    (tmp_path / "cace_env" / "__init__.py").write_text("raise ImportError('broken here')", "utf-8")
    with pytest.raises(ConfigError, match=r"probe start failed in .*: ImportError: broken here"):
        benchmark.run_probe("start", tmp_path, quick=True)


def test_best_median_and_ratio_are_those_of_the_rounds() -> None:
    def rounds(*values: float) -> list[list[tuple[str, float, str]]]:
        return [
            [("whole episodes, lru", value, "requests/s"), ("import to first step", value, "s")] for value in values
        ]

    rate, seconds = benchmark.rows_of("episodes", rounds(3.0, 1.0, 2.0), rounds(1.0, 1.0, 4.0))
    assert (rate.best, rate.median, rate.ratio, rate.promised) == (3.0, 2.0, 1.0, "no")
    assert (seconds.best, seconds.median, seconds.promised) == (1.0, 2.0, "yes")


def test_exponent_is_that_of_the_power_law() -> None:
    sizes = [8, 16, 32, 64]
    assert exponent(sizes, [5.0 * size**0.7 for size in sizes]) == pytest.approx(0.7)


@pytest.mark.parametrize("size", sorted({size for series in SERIES.values() for size in series}))
def test_a_fleet_has_exactly_the_size_that_was_asked_for(size: tuple[int, int, int]) -> None:
    tables = fleet(*size).tables()
    assert (slots_per_accelerator(tables).sum(), tables.num_models, tables.num_accelerators) == size
