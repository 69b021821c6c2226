"""The benchmark itself: what it writes is complete and can be read again. No figure is asserted: machines differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from cace_env.scenarios import load_scenario
from cace_env.tables import slots_per_accelerator
from experiments import benchmark
from experiments.benchmarks import parts as benchmark_parts
from experiments.benchmarks.cartpole import cartpole_rates
from experiments.benchmarks.growth import SERIES, exponent, fleet
from experiments.benchmarks.measures import Episodes, best_s, median_s
from experiments.benchmarks.targets import judge
from experiments.benchmarks.vector import Batch, Setting

UNTRAINED = [part for part in benchmark_parts.PARTS if part != "sb3"]  # which takes longest, and has tests of its own
TINY = ["--quick", "--rounds", "1", "--requests", "2000", "--long", "2000", "--policies", "random,belady"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "run"
    assert benchmark.main([*TINY, "--only", ",".join(UNTRAINED), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "benchmark.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def all_figures(figures: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "benchmark.json"
    path.write_text(json.dumps(figures | {"sb3": {"skipped": "for this test"}}), "utf-8")
    return path


def numbers(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(figures, dict):
        for key, value in figures.items():
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(figures, list):
        for place, value in enumerate(figures):
            yield from numbers(value, f"{path}/{place}")
    elif isinstance(figures, int | float) and not isinstance(figures, bool):
        yield path, figures


def test_every_part_is_measured(figures: dict[str, Any]) -> None:
    assert {*UNTRAINED, "compile", "targets", "machine"} <= set(figures)
    assert list(figures["scenarios"]["default"]["policies"]) == ["lru", "cace", "random", "belady"]
    assert {"one step of the environment", "cace", "belady"} <= set(figures["latency"])
    assert {row["num_envs"] for row in figures["vector"]["rows"]} == {1, 8, 64}
    assert set(figures["growth"]) == set(SERIES)
    # Not those of memory, which are only about a million requests and ten million decisions.
    assert {row["unit"] for row in figures["targets"]} == {"requests/s", "x", "s", "us", ""}


def test_every_figure_is_finite_and_positive(figures: dict[str, Any]) -> None:
    differences = ("/features/share_of_episode", "/features/ns_per_decision", "/growth/", "/targets/", "/shares/")
    zero = ("/notices", "/load_average_1min", "/bank", "/at_decision/0", "/all_mb", "/per_env_kb", "/episodes")
    found = dict(numbers(figures))
    assert len(found) > 200
    for path, value in found.items():
        assert math.isfinite(value), path
        assert value > 0 or path.startswith(differences) or path.endswith((*zero, "/episodes_ended")), path


def test_results_are_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "benchmark.json").read_text("utf-8")
    assert benchmark.main(["--quick", "--out", str(folder)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (folder / "benchmark.json").read_text("utf-8") == before


def test_page_and_its_picture_are_written_from_results_on_disk(all_figures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert benchmark.main(["--results", str(all_figures), "--write", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "| cace |" in text and "{" not in text.replace('{"best": ..., "median": ...}', "")
    assert (tmp_path / "images" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")
    for part in benchmark_parts.PARTS:
        assert f"| `{part}` |" in text


def test_page_is_refused_where_parts_are_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    assert benchmark.main(["--results", str(folder / "benchmark.json"), "--write", str(page)]) == 2
    assert "sb3" in capsys.readouterr().err
    assert not page.exists()


def test_plots_are_drawn(folder: Path) -> None:
    for name in ("rates.png", "overview.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--policies", "lru,nobody"], "no policy called 'nobody'"),
        (["--only", "vectors"], "no part called 'vectors'"),
        (["--long", "0"], "--long is 0; it has to be at least 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert benchmark.main([*wrong, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_missed_target_is_told_from_a_met_one() -> None:
    slow = {"memory": {"requests": 1_000_000, "peak_mb": 600.0}, "compile": {"skipped": "--quick"}}
    assert [(row.unit, row.met) for row in judge(slow)] == [("MB", False)]
    row = {"scenario": "default", "num_envs": 64, "threads": 1, "choice": "lowest", "bank": 256}
    fast = {"vector": {"bank": 256, "rows": [row | {"over_lru": 0.7, "over_cartpole": 0.59}]}}
    assert [row.met for row in judge(fast)] == [True, False]


def test_memory_that_grows_misses_its_target() -> None:
    for last_mb, met in ((400.1, True), (420.0, False)):
        run = {"long": {"decisions": 10_000_000, "settled_mb": 400.0, "last_mb": last_mb}}
        assert [row.met for row in judge(run)] == [met]


def test_best_takes_each_episodes_fastest_run_and_median_whole_rounds() -> None:
    seconds = [[1.0, 5.0], [3.0, 2.0], [4.0, 4.0]]  # (rounds, episodes)
    assert best_s(seconds) == 3.0
    assert median_s(seconds) == 6.0


def test_exponent_is_that_of_the_power_law() -> None:
    sizes = [8, 16, 32, 64]
    assert exponent(sizes, [5.0 * size**0.7 for size in sizes]) == pytest.approx(0.7)
    assert exponent(sizes, [3.0] * 4) == pytest.approx(0.0)


@pytest.mark.parametrize("size", sorted({size for series in SERIES.values() for size in series}))
def test_fleet_has_exactly_the_size_that_was_asked_for(size: Any) -> None:
    tables = fleet(size).tables()
    assert (slots_per_accelerator(tables).sum(), tables.num_models, tables.num_accelerators) == size


def small(requests: int) -> Any:
    default = load_scenario("default")
    return default.replace(workload=default.workload_config.model_dump(mode="json") | {"requests": requests})


def test_batch_that_plays_lru_from_the_observation_plays_the_compiled_lru() -> None:
    scenario = small(600)
    compiled = Episodes(scenario, [0])
    compiled.run(compiled.rules("lru"))
    batch = Batch(scenario, Setting("small", 1, bank=1, choice="lru"))  # a bank of one: seed 0 again and again
    played = batch.play(3 * compiled.decisions)
    batch.close()
    assert (played.episodes, played.requests, played.decisions) == (3, 3 * 600, 3 * compiled.decisions)


def test_no_request_is_counted_twice_or_lost() -> None:
    batch = Batch(small(200), Setting("small", 4))
    stretches = [batch.play(7) for _ in range(60)]
    whole = Batch(small(200), Setting("small", 4))
    at_once = whole.play(7 * 60)
    assert sum(stretch.requests for stretch in stretches) == at_once.requests
    assert sum(stretch.episodes for stretch in stretches) == at_once.episodes > 0
    batch.close()
    whole.close()


def test_every_scenario_is_played_by_a_batch_and_the_default_one_in_every_size() -> None:
    effort = benchmark.effort_of(benchmark.Options())
    settings = list(benchmark_parts.settings(effort, bank=256))
    assert {setting.scenario for setting in settings} == set(effort.scenarios)
    default = {(s.num_envs, s.threads, s.bank) for s in settings if s.scenario == "default" and s.choice == "lowest"}
    sizes = (1, 8, 64, 256, 1024, 4096)
    assert default == {(n, threads, bank) for n in sizes for threads in (1, 2) for bank in (256, None)} - {
        (1, 2, 256),
        (1, 2, None),
    }


def test_batch_that_would_not_fit_into_memory_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_parts, "free_bytes", lambda: 1e3)
    effort = benchmark.effort_of(benchmark.Options(quick=True))
    found: dict[str, Any] = {}
    for job in benchmark_parts.jobs(effort, ["vector"]):
        job.run(found)
    assert not found["vector"]["rows"]
    assert found["vector"]["skipped"][0].startswith("default, 1 envs, 1 thread(s), bank of 16, lowest: needs 0.0 GB")


def test_envpool_is_measured_or_said_to_be_missing() -> None:
    found = cartpole_rates(1, 0.001, (2,))
    names = {row["name"] for row in found["rows"]}
    assert {"gymnasium.make", "SyncVectorEnv", "CartPoleVectorEnv (NumPy)"} <= names
    assert ("EnvPool" in names) == ("version" in found["envpool"])
    assert "EnvPool" in names or "envpool" in found["envpool"]["skipped"]
