"""Regimes that nothing was made for: they are new, and the table says what each policy costs there."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import evaluate, load_suite
from experiments.pages.shifted import short
from experiments.running.run_folder import Run
from experiments.shifted import main
from tests.support.logs import AZURE
from tests.support.small import small

__all__ = ["small"]  # a fixture


def test_no_shifted_regime_is_in_the_suite_that_is_trained_on():
    known = {entry.fingerprint() for entry in load_suite("v1").all_entries()}
    shifted = load_suite("shifted-v1").entries
    assert not known & {entry.fingerprint() for entry in shifted}
    assert len({entry.fingerprint() for entry in shifted}) == len(shifted)


def test_both_environments_have_the_same_regimes():
    by_env = {env: [short(e.id) for e in load_suite("shifted-v1").entries if e.env == env] for env in
              ("eviction", "swap")}  # fmt: skip
    assert by_env["eviction"] == by_env["swap"]
    assert {"pressure-high", "engine-cold", "fleet-six", "gpu-a100", "drift-strong", "mixed"} < {*by_env["swap"]}


@pytest.mark.parametrize("regime", ["drift-strong", "gpu-a100", "engine-cold", "pressure-high"])
def test_a_regime_shifts_what_it_is_named_after(regime: str):
    normal = load_suite("v1").entry("eviction-default").load()
    shifted = load_suite("shifted-v1").entry(f"eviction-{regime}").load()
    part = {
        "drift-strong": lambda s: s.workload_config.routing,
        "gpu-a100": lambda s: s.fleet,
        "engine-cold": lambda s: s.engine,
        "pressure-high": lambda s: s.pressure,
    }
    for name, read in part.items():
        assert (read(normal) != read(shifted)) == (name == regime), name


def test_the_table_has_a_row_per_policy_and_a_column_per_regime_and_a_log(small: Path, tmp_path: Path):
    log = tmp_path / "log.csv"
    log.write_text(AZURE + "".join(f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{50 + i},9\n" for i in range(0, 900, 9)))
    out = tmp_path / "run"
    asked = ["--suite", str(small), "--policies", "cace", "--seeds", "3", "--out", str(out), "--trace", str(log)]
    asked += [
        "--format",
        "azure",
        "--trace-option",
        "users=5",
        "--trace-option",
        "windows=8",
        "--trace-fleet",
        str(small),
    ]
    assert main(asked) == 0
    run = Run(out)
    assert run.scenarios == ["small", "eviction-log", "small-swap", "swap-log"]
    report = (out / "report.md").read_text()
    costs = {name: evaluate(name, small, range(2_000_000, 2_000_003)).column("cost") for name in ("lru", "cace")}
    share = costs["cace"].sum() / costs["lru"].sum()
    row = next(line for line in report.splitlines() if line.startswith("| `cace`"))
    assert row.count(f"| {share:.3f} [") == 3  # mean, interquartile mean and the regime itself: the log is in no mean
    assert "real requests (" in report and "composite azure: users drawn" in report
    assert "3 seeds are too few" in report and (out / "shifted.png").is_file()


def test_options_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--trace", "log.csv", "--out", str(tmp_path / "x")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["--policies", "cacee", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'cace'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
