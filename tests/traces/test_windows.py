"""A log in pieces of time: nothing is lost or moved, habits span the cuts, and the test part stays unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.cases import case_of
from cace_env.config import parse
from cace_env.evaluation import evaluate
from cace_env.scenarios import Scenario, load_scenario
from cace_env.simulation.windows import WINDOWED
from cace_env.traces import load_config, load_trace, part_of, windows_of
from cace_env.traces.config import TraceConfig
from cace_env.workload import COLUMNS, Workload, WorkloadError
from tests.support.logs import AZURE, CLAUDE, MODELS, written

UNMOVED = tuple(name for name in COLUMNS if name not in ("arrival_us", "after", "think_us"))


def azure(folder: Path, rows: int = 100) -> Path:
    lines = (f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{50 + i},{1 + i % 7}\n" for i in range(rows))
    return written(folder, AZURE + "".join(lines))


def chained(rows: int = 12) -> Workload:
    """Two sessions in turn, each request after the one before of its session."""
    return Workload.from_columns(
        arrival_us=1_000 + 10 * np.arange(rows),
        after=np.arange(rows) - 2 * (np.arange(rows) >= 2) - (np.arange(rows) < 2) * (np.arange(rows) + 1),
        think_us=np.where(np.arange(rows) >= 2, 7, 0),
        model=np.arange(rows) % 3,
        context_tokens=np.arange(rows) + 5,
        output_tokens=np.ones(rows),
        user=np.arange(rows) % 2,
        session=np.arange(rows) % 2,
    )


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_windows_hold_every_request_once_and_in_order(count: int):
    whole = chained()
    windows = windows_of(whole, count)
    for name in UNMOVED:
        assert np.concatenate([getattr(window, name) for window in windows]).tolist() == getattr(whole, name).tolist()
    assert max(map(len, windows)) - min(map(len, windows)) <= 1
    times = [round(window.meta["from_s"] * 1e6) + window.arrival_us for window in windows]
    assert np.concatenate(times).tolist() == whole.arrival_us.tolist()
    assert all(window.arrival_us[0] == 0 for window in windows)
    assert [window.meta["window"] for window in windows] == list(range(count))
    for window in windows:
        window.validate()


def test_a_link_across_a_cut_becomes_an_arrival_at_the_recorded_time():
    first, second = windows_of(chained(), 2)
    assert first.after.tolist() == [-1, -1, 0, 1, 2, 3] and first.meta["links_cut"] == 0
    assert second.after.tolist() == [-1, -1, 0, 1, 2, 3] and second.meta["links_cut"] == 2
    assert second.think_us.tolist() == [0, 0, 7, 7, 7, 7]
    assert second.arrival_us.tolist() == [0, 10, 20, 30, 40, 50]


def test_the_test_part_begins_where_the_training_part_ends():
    train, test = (part_of(chained(), part, 0.5) for part in ("train", "test"))
    assert train.meta["to_s"] <= test.meta["from_s"] and len(train) + len(test) == 12
    for window in windows_of(test, 3):  # times of windows are those of the log
        assert window.meta["from_s"] > train.meta["to_s"] and window.meta["part"] == "test"
    assert (train.label, test.label) == ("generated: first 50 % of the log", "generated: last 50 % of the log")
    assert part_of(chained(), "all", 0.5).meta == {}


def test_what_cannot_be_cut_is_said():
    for count in (0, 13):
        with pytest.raises(WorkloadError, match="there have to be 1 to 12"):
            windows_of(chained(), count)
    with pytest.raises(WorkloadError, match="too few for a part"):
        part_of(windows_of(chained(), 12)[0], "test", 0.5)
    backwards = Workload.from_columns(arrival_us=[5, 1], model=[0, 0], context_tokens=[1, 1], output_tokens=[1, 1])
    with pytest.raises(WorkloadError, match="not in order"):
        windows_of(backwards, 2)


def test_a_seed_draws_what_is_attached_to_the_whole_log(tmp_path: Path):
    section = {"path": str(azure(tmp_path)), "format": "azure", "users": 4, "tasks": "completion", "windows": 5}
    first, second = (load_config(parse(TraceConfig, section, "log"), MODELS, seed) for seed in (0, 1))
    assert first.model.tolist() != second.model.tolist()
    assert first.context_tokens.tolist() == second.context_tokens.tolist() == list(range(50, 150))
    assert first.meta["window_edges"].tolist() == [0, 20, 40, 60, 80, 100]
    with pytest.raises(WorkloadError, match="101 windows of 100 requests"):
        load_config(parse(TraceConfig, section | {"windows": 101}, "log"), MODELS, 0)


def test_a_log_that_changes_on_disk_is_read_again(tmp_path: Path):
    config = parse(TraceConfig, {"path": str(azure(tmp_path)), "format": "azure", "tasks": "chat"}, "log")
    before = load_config(config, MODELS, 0)
    azure(tmp_path, 40)
    assert (len(before), len(load_config(config, MODELS, 0))) == (100, 40)


def test_the_order_of_sessions_is_the_same_in_every_episode(tmp_path: Path):
    rows = "".join(f"s{i % 9},m,{i},opus,100,10,0,1,1\n" for i in range(60))
    path = str(written(tmp_path, CLAUDE + rows))
    config = parse(TraceConfig, {"path": path, "format": "claude-code", "tasks": "chat", "attach": "drawn"}, "log")
    first, second = (load_config(config, MODELS, redraw) for redraw in (0, 1))
    assert first.arrival_us.tolist() == second.arrival_us.tolist()
    assert first.model.tolist() != second.model.tolist()


def test_what_is_attached_to_a_part_knows_nothing_of_the_test_part(tmp_path: Path):
    header = "time,context_tokens,output_tokens,model\n"
    calm = "".join(f"{i},9,9,{'ab'[i % 3 > 1]}\n" for i in range(30))  # a is asked more often
    later = {name: "".join(f"{30 + i},9,9,{name}\n" for i in range(30)) for name in "ab"}
    models = {}
    for name, rest in later.items():
        path = str(written(tmp_path, header + calm + rest, f"{name}.csv"))
        options = {"models": MODELS, "attach": "client-as-model", "tasks": "chat"}
        models[name] = [load_trace(path, "cace", part=part, **options).model.tolist() for part in ("train", "test")]
    assert models["a"][0] == models["b"][0]  # whatever comes later
    assert (set(models["a"][1]), set(models["b"][1])) == ({0}, {1})  # and the later part has the same names


def scenario(folder: Path, **trace: object) -> Scenario:
    section = {"path": str(azure(folder, 400)), "format": "azure", "users": 5, "tasks": "completion", **trace}
    return load_scenario("tiny").replace(trace=section)


def test_draws_of_what_is_attached_give_no_interval(tmp_path: Path):
    seeds = range(2_000_000, 2_000_010)
    lru, other = (evaluate(name, scenario(tmp_path), seeds) for name in ("lru", "fifo"))
    gain = other.gain_over(lru)
    assert np.isnan(gain.low) and str(gain).endswith("(no interval)")
    assert gain.percent == pytest.approx(100 * (1 - other.column("cost").sum() / lru.column("cost").sum()))


def test_an_interval_on_a_log_is_over_windows_however_often_it_is_drawn(tmp_path: Path):
    cut = scenario(tmp_path, windows=10)
    once, often = (
        evaluate("fifo", cut, seeds).gain_over(evaluate("lru", cut, seeds)) for seeds in (range(1), range(4))
    )
    assert np.isfinite([once.low, often.low]).all()
    assert (often.high - often.low) > 0.5 * (once.high - once.low)  # four draws are no four times as many windows
    lru = evaluate("lru", cut, range(4))
    gain = evaluate("fifo", cut, range(4)).gain_over(lru, "evictions")
    assert np.isnan(gain.low) and np.isfinite(gain.percent)  # evictions are not told apart by windows


def test_windows_of_an_episode_add_up_to_it(tmp_path: Path):
    weights = {"completion": {"w_ttft": 1.0, "w_e2e": 0.2, "slo_s": 0.5}, "w_load": 0.3, "w_slo": 2.0, "w_refused": 5.0}
    cut = scenario(tmp_path, windows=7).replace(reward=weights)
    result = evaluate("lru", cut, [0, 1])
    for row, windows in zip(result.rows, result.windows, strict=True):
        assert set(windows) == set(WINDOWED) and {len(values) for values in windows.values()} == {7}
        for name in ("cost", "waiting_s", "system_s", "slo_missed", "completion_waiting_s"):
            assert windows[name].sum() == pytest.approx(row[name])
        assert windows["longest_wait_s"].max() == pytest.approx(row["longest_wait_s"]) and row["slo_missed"] > 0
    assert evaluate("lru", "tiny", [0]).windows == ()  # generated requests have seeds


def test_training_requests_of_a_log_are_those_before_the_test_part(tmp_path: Path):
    assert case_of(scenario(tmp_path)).training is None
    test = case_of(scenario(tmp_path, part="test", windows=4))
    assert test.training is not None
    assert test.training(3).meta["to_s"] < test.workload(0).meta["from_s"]
