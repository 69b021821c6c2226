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
from experiments.speed.common import Effort
from experiments.speed.probe import PROBES
from experiments.speed.resources import SERIES, exponent, fleet

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("probe", [name for name in PROBES if name not in ("compiling", "start", "sb3")])
def test_a_probe_yields_finite_figures_with_units_and_names_of_their_own(probe: str) -> None:
    rows = list(PROBES[probe](Effort(quick=True)))
    assert len({what for what, _, _ in rows}) == len(rows) > 0
    for what, value, unit in rows:
        if value is None:
            assert "not installed" in what
            continue
        assert math.isfinite(value), what
        assert unit in ("requests/s", "decisions/s", "steps/s", "x", "us", "MB", ""), what


def test_results_are_written_once_and_compared_with_another_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "b.json", tmp_path / "page.md"
    regions = "".join(f"<!-- generated: {name} -->\n\nold\n\n<!-- end -->\n\n" for name in ("targets", "benchmark"))
    page.write_text(f"above\n\n{regions}below\n", "utf-8")
    arguments = ["--quick", "--rounds", "1", "--only", "start", "--out", str(out)]
    assert benchmark.main([*arguments, "--against", str(ROOT), "--write", str(page)]) == 0
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [row["what"] for row in rows] == ["import", "import to first step"]
    assert all(row["ratio"] > 0 for row in rows)
    text = page.read_text("utf-8")
    assert text.startswith("above\n") and text.endswith("below\n") and "| import to first step | at most 2 |" in text
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
    assert (rate.best, rate.median, rate.ratio, rate.met) == (3.0, 2.0, 1.0, "no")
    assert (seconds.best, seconds.median, seconds.met) == (1.0, 2.0, "yes")


def test_a_target_counts_the_median_of_ratios_and_the_best_of_times() -> None:
    ratio, limit = "64 environments, one thread over LRU", benchmark.TARGETS["64 environments, one thread over LRU"]
    assert benchmark.Row("batches", ratio, "x", limit + 0.1, limit - 0.1).met == "no"
    assert benchmark.Row("start", "import to first step", "s", 1.9, 2.1).met == "yes"


def test_every_target_is_measured_by_a_probe() -> None:
    measured = {
        what for probe in ("episodes", "step", "states", "memory") for what, _, _ in PROBES[probe](Effort(True))
    }
    measured |= {f"{size}{what[1:]}" for what, _, _ in PROBES["batches"](Effort(True)) for size in ("64", "1,024")}
    others = ("time of a decision", "import to", "compiling", "memory after", "PPO", "peak memory", benchmark.ALL_OF_IT)
    assert not [what for what in benchmark.TARGETS if what not in measured and not what.startswith(others)]


def test_what_is_not_installed_has_a_row_without_figures() -> None:
    (row,) = benchmark.rows_of("cartpole", [[("CartPole in EnvPool: not installed", None, "steps/s")]], [])
    assert (row.best, row.met) == (None, "")
    assert benchmark.cells([row])[1] == [["CartPole in EnvPool: not installed", "-", "-", "steps/s"]]


def test_exponent_is_that_of_the_power_law() -> None:
    sizes = [8, 16, 32, 64]
    assert exponent(sizes, [5.0 * size**0.7 for size in sizes]) == pytest.approx(0.7)


@pytest.mark.parametrize("size", sorted({size for series in SERIES.values() for size in series}))
def test_a_fleet_has_exactly_the_size_that_was_asked_for(size: tuple[int, int, int]) -> None:
    tables = fleet(*size).tables()
    assert (slots_per_accelerator(tables).sum(), tables.num_models, tables.num_accelerators) == size
