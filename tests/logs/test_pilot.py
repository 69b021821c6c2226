"""Claims about pilots: an improvement that was planted is found, and none where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.live.stage import Turns
from cace_env.tables import NONE, TASKS
from cace_env.traces import Trace
from experiments.logs.advice.pilot import change_between, turns_apart
from experiments.logs.advice.pilot_outputs import HEADER, rows_of, sentence, warnings_of, write_pilot
from experiments.recommend import main
from tests.support.html_reports import Report
from tests.support.own_logs import log_of

MODELS = ("small", "large")
TTFT_S = (0.2, 2.0)  # of each model, before


def measured(seed: int, faster: float = 0.0, large: float = 0.3, requests: int = 4000, names: Any = MODELS) -> Trace:
    """A log whose times depend on the model and on the hour; `faster` is a share taken off every one."""
    rng = np.random.default_rng(seed)
    model = (rng.random(requests) < large).astype(np.int64)
    hour = 1 + 0.1 * np.sin(np.arange(requests) / 300)
    ttft_s = np.array(TTFT_S)[model] * rng.lognormal(0.0, 0.5, requests) * hour * (1 - faster)
    ttft_us = np.rint(ttft_s * 1e6).astype(np.int64)
    ttft_us[::50] = NONE  # not every request was measured
    return Trace(
        time_us=np.cumsum(rng.integers(1_000_000, 3_000_000, requests)),
        context_tokens=rng.integers(100, 5000, requests),
        new_tokens=None,
        output_tokens=rng.integers(10, 300, requests),
        model=model,
        model_ids=names,
        task=np.full(requests, TASKS.index("chat")),
        ttft_us=ttft_us,
    )


def test_a_planted_improvement_lies_in_its_interval():
    change = change_between(measured(0), measured(1, faster=0.2))
    for statistic in ("mean", "p50", "p95", "mean of the same mix"):
        kpi = change.kpi("TTFT", statistic)
        assert kpi is not None and kpi.change.low < -20 < kpi.change.high < 0, statistic
    assert sentence(change).startswith("Mean TTFT is ") and "lower after the change" in sentence(change)
    assert change.kpi("E2E", "mean") is None  # it was not measured


def test_no_improvement_is_found_where_there_is_none():
    change = change_between(measured(0), measured(1))
    assert "cannot be told apart" in sentence(change)
    kpi = change.kpi("TTFT", "mean")
    assert kpi is not None and kpi.change.low < 0 < kpi.change.high


def test_another_mix_of_models_is_no_improvement_and_is_said():
    change = change_between(measured(0, large=0.5), measured(1, large=0.1))
    as_it_is, same_mix = change.kpi("TTFT", "mean"), change.kpi("TTFT", "mean of the same mix")
    assert as_it_is is not None and as_it_is.change.high < -20
    assert same_mix is not None and same_mix.change.low < 0 < same_mix.change.high
    assert change.mix_shift == pytest.approx(0.4, abs=0.05)
    assert "The mix changed" in warnings_of(change)[0]
    # It leads with the number that its own warning tells to look at.
    assert sentence(change).startswith("For the same mix of requests, mean TTFT cannot be told apart")
    assert "as measured, with another mix, the mean is" in sentence(change)
    assert any("no" in text and "policy" in text for text in warnings_of(change))


def test_each_model_is_shown_and_its_name_cannot_become_markup(tmp_path: Any):
    names = ("<script>alert(1)</script>", "\x1b[31mlarge")
    change = change_between(measured(0, names=names), measured(1, faster=0.2, names=names))
    shown = [row[2] for row in rows_of(change)]
    assert any("script" in name for name in shown) and not any("\x1b" in name for name in shown)
    page = write_pilot(change, [], tmp_path, "python -m experiments.recommend").read_text()
    assert "<script>alert(1)" not in page and "\x1b" not in page


def test_the_command_says_what_a_pilot_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    logs = [
        str(log_of(tmp_path, ["mellum-4b"] * 500, [2.0] * 500, name, (factor * rng.lognormal(0, 0.3, 500)).tolist()))
        for name, factor in (("before.csv", 1.0), ("after.csv", 0.8))
    ]
    out = tmp_path / "run"
    assert main(["--before", logs[0], "--after", logs[1], "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "lower after the change" in said and "Nothing here tells that from the policy" in " ".join(said.split())
    kpis = json.loads((out / "pilot.json").read_text())["kpis"]
    mean = next(row for row in kpis if row["kpi"] == "mean" and row["requests"] == "all")
    assert mean["low"] < -20 < mean["high"] < 0
    assert (out / "kpis.csv").is_file() and (out / "report.html").is_file()


def test_a_pilot_is_held_against_its_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    logs = [
        str(log_of(tmp_path, ["mellum-4b"] * 300, [2.0] * 300, name, [ttft_s] * 300))
        for name, ttft_s in (("before.csv", 1.0), ("after.csv", 0.5))
    ]
    command = ["--before", logs[0], "--after", logs[1], "--gpu", "l40s", "--deployed", "ollama"]
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert "--policies NAME" in capsys.readouterr().err
    assert main([*command, "--policies", "gdsf", "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "simulation expects a change of mean TTFT by" in said and "-50.0 % were measured" in said
    found = json.loads((tmp_path / "run" / "pilot.json").read_text())["simulated"]
    assert [row["policy"] for row in found] == ["ollama", "gdsf"]
    assert found[0]["latencies"][0]["measured_mean_s"] == 1.0


def dated(log: Trace, day: int) -> Trace:
    """The same log, begun on a day of 2026."""
    return replace(log, began_us=1_767_225_600_000_000 + day * 86_400_000_000)


def test_the_same_log_twice_and_logs_that_overlap_are_refused():
    with pytest.raises(ConfigError, match="are the same requests"):
        change_between(measured(0), measured(0))
    with pytest.raises(ConfigError, match=r"overlap in time: one ends at 2026-01-01 .* UTC and the other begins at"):
        change_between(dated(measured(0), 0), dated(measured(1), 0))


def test_logs_in_the_wrong_order_are_said():
    assert not change_between(dated(measured(0), 0), dated(measured(1), 1)).cautions
    change = change_between(dated(measured(0), 1), dated(measured(1), 0))
    assert any("the wrong way round?" in text for text in warnings_of(change))


def test_periods_and_users_stand_in_the_table_of_traffic(tmp_path: Path):
    before, after = dated(measured(0), 0), dated(measured(1), 1)
    before.user = np.arange(len(before)) % 7
    change = change_between(before, after)
    write_pilot(change, [], tmp_path, "python -m experiments.recommend")
    rows = {row["what"]: row for row in Report(tmp_path).table("traffic")}
    assert rows["from, UTC"]["before"] == "2026-01-01 00:00" and rows["to, UTC"]["after"].startswith("2026-01-02")
    assert (rows["users"]["before"], rows["users"]["after"]) == ("7", "-")


@pytest.mark.parametrize(("factors", "said"), [((1, 1000), "is one of them in ms?"), ((1000, 1000), "are these ms?")])
def test_milliseconds_read_as_seconds_are_suspected(factors: tuple[int, int], said: str):
    logs = [replace(log, ttft_us=np.where(log.ttft_us == NONE, NONE, np.asarray(log.ttft_us) * factor))
            for log, factor in zip((measured(0), measured(1)), factors, strict=True)]  # fmt: skip
    assert any(said in text and "unit: ms" in text for text in warnings_of(change_between(*logs)))
    assert not change_between(measured(0), measured(1)).cautions


def test_no_time_falls_by_more_than_it_was():
    before, after = measured(0, requests=2000), measured(1, faster=0.9, requests=2000)
    before.ttft_us = np.where(
        np.arange(2000) // 100 % 3 == 0, np.asarray(before.ttft_us) * 50, before.ttft_us
    )  # few bad hours
    change = change_between(before, after)
    lows = [kpi.change.low for kpi in change.kpis]
    assert all(low > -100 for low in lows if np.isfinite(low)) and min(lows) < -90


def test_a_group_with_few_requests_has_no_interval():
    logs = [measured(seed, requests=4000, names=("small", "large", "rare")) for seed in (0, 1)]
    for log in logs:
        assert log.model is not None
        log.model[100:220] = 2  # all in one window
    change = change_between(*logs)
    rare = {kpi.statistic: kpi.change for kpi in change.kpis if kpi.group == "model rare"}
    assert set(rare) == {"mean", "p50", "p95"} and all(np.isnan(found.low) for found in rare.values())
    assert np.isfinite(change.kpi("TTFT", "p95", "model large").change.low)  # type: ignore[union-attr]


def test_what_changed_stands_beside_its_name_where_screens_are_narrow():
    assert HEADER[:2] == ("KPI", "change")
    assert rows_of(change_between(measured(0), measured(1)))[0][0] == "TTFT mean"


def test_logs_without_measured_times_are_refused_with_the_remedy():
    before = measured(0)
    before.ttft_us = None
    with pytest.raises(ConfigError, match="ttft_s or e2e_s"):
        change_between(before, measured(1))


def test_logs_too_short_to_tell_are_refused():
    with pytest.raises(ConfigError, match="windows of at least"):
        change_between(measured(0, requests=100), measured(1))


def test_a_short_pilot_in_turns_has_as_many_windows_as_it_has_requests_for():
    log = replace(measured(3, requests=1000), began_us=1_760_000_000_000_000)
    parts, in_turns = turns_apart(log, Turns(0.4, 40.0))
    assert change_between(*parts, in_turns=in_turns).windows == min(map(len, parts)) // 25 < min(in_turns.blocks, 20)


def test_a_pilot_in_turns_is_read_from_one_log():
    turns = Turns(0.4, 120.0)
    log = replace(measured(3), began_us=1_760_000_000_000_000)
    policy = turns.policy_decides((1_760_000_000_000_000 + log.time_us) * 1e-6)
    assert log.ttft_us is not None
    faster = replace(log, ttft_us=np.where(policy & (log.ttft_us != NONE), log.ttft_us * 8 // 10, log.ttft_us))
    (lru, ours), in_turns = turns_apart(faster, turns)
    assert 0.7 < (len(lru) + len(ours)) / len(log) < 0.9  # without the first fifth of each block
    change = change_between(lru, ours, in_turns=in_turns)
    rates = next(row for row in change.traffic if row.what == "requests an hour")
    assert all(isinstance(rate, float) and 1600 < rate < 2000 for rate in rates[1:])  # 2 s apart, whosever turn it is
    assert change_between(lru, ours, 1000, in_turns).windows == in_turns.blocks
    kpi = change.kpi("TTFT", "mean of the same mix")
    assert kpi is not None and kpi.change.low < -20 < kpi.change.high < 0
    assert "under the policy than under LRU" in sentence(change) and "took turns" in warnings_of(change)[0]
    with pytest.raises(ConfigError, match="blocks"):
        turns_apart(faster, Turns(0.4, 3600.0))
    with pytest.raises(ConfigError, match="1970"):
        turns_apart(measured(3), turns)
