"""Claims about the reader: it finds the eviction that was meant, and says it in words that are safe to print."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.decision_log import Candidate, Decision, DecisionLog, Log, in_words, moment, seconds_of, why
from cace_env.decision_log.record import EVICTIONS
from cace_env.scenarios import load_scenario
from experiments.compare import main as compare
from experiments.why import main
from tests.decision_log.test_writer import decision
from tests.support.comparisons import refused as refused_by_compare
from tests.support.small import small

__all__ = ["small"]  # a fixture

MINUTE_US = 60_000_000
EVIL = "evil\x1b[31m<b>[red]\u202e"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Model-a leaves in minutes 1 and 3, model-b in minute 2; model-d is loaded in minute 4."""
    with DecisionLog(tmp_path / "log") as log:
        log.add(decision(1 * MINUTE_US))
        log.add(decision(2 * MINUTE_US, choice=1, rival=0))
        log.add(Decision(3 * MINUTE_US, "mine", (Candidate("model-a", "gpu-0"),), 0, "forced", scenario="here", seed=3))
        load = (Candidate("model-d"), Candidate(""))
        log.add(decision(4 * MINUTE_US, kind="load", candidates=load, target="", rival=-1, reasons=()))
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("at", "minute"), [(None, 3), (180.0, 3), ("179.999", 1), ("3min", 3), ("2.9 min", 1), ("1h", 3)]
)
def test_it_finds_the_last_eviction_at_or_before_a_time(folder: Path, at: float | str | None, minute: int):
    assert why(folder, "model-a", at).time_us == minute * MINUTE_US


@pytest.mark.parametrize(
    ("model", "at", "said"),
    [
        ("model-a", "30", r"not evicted until then; the first time was 1.0 min"),
        ("model-d", None, "'model-d' was never evicted"),
        ("modl-a", None, "no decision about a model 'modl-a', did you mean 'model-a'"),
        ("xyz", None, "there are 'model-a', 'model-b', 'model-d'"),
        ("model-a", "noon", "time 'noon' is not understood; give seconds, 12.5min"),
        ("model-a", "2026-03-01", "is a date, and this log counts from the beginning of an episode"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(folder: Path, model: str, at: str | None, said: str):
    with pytest.raises(ConfigError, match=said):
        why(folder, model, at)


def test_several_episodes_have_to_be_told_apart(folder: Path):
    with DecisionLog(folder) as log:
        log.add(decision(5, scenario="here", seed=4))
        log.add(decision(6, scenario="there"))
    with pytest.raises(ConfigError, match="3 of 3 episodes fit; name one scenario of 'here', 'there'"):
        why(folder, "model-a")
    with pytest.raises(ConfigError, match="time 'soon' is not understood"):  # before one is sent to name episodes
        why(folder, "model-a", "soon")
    with pytest.raises(ConfigError, match="2 of 3 episodes fit; name one seed of 3, 4"):
        why(folder, "model-a", scenario="here")
    with pytest.raises(ConfigError, match="no decision of scenario 'her', did you mean 'here'"):
        why(folder, "model-a", scenario="her")
    with pytest.raises(ConfigError, match="no decision of seed 9; there are 3, 4"):
        why(folder, "model-a", scenario="here", seed=9)
    assert why(folder, "model-a", scenario="here", seed=4).time_us == 5


def test_the_answer_names_candidates_reasons_and_policy(folder: Path):
    said = in_words(why(folder, "model-a", "1min"))
    assert said.startswith(
        "At 1.0 min (60.000 s) (here, seed 3, decision 60000000) mine evicted model-a from gpu-0 to make"
    )
    assert " to make room for model-c." in said
    assert "not used for 3 s (next best 1 s) +2, 67%" in said
    assert "uses 4 (next best 2) -1, 33%" in said
    assert said.endswith("Policy: mine (v1).")
    lines = said.splitlines()
    assert lines[3].split()[:4] == [">", "model-a", "gpu-0", "1.5"]
    assert "Nobody chose: it was the only model that could leave" in in_words(why(folder, "model-a"))


def test_a_decision_of_the_guard_says_why_it_took_over():
    taken = decision(fallback="input", detail="uses is NaN", decided_by="lru")
    said = in_words(taken)
    assert " lru evicted model-a" in said
    assert "mine did not decide: input (uses is NaN)." in said


def test_a_live_system_logs_its_own_decisions_by_the_time_of_day(tmp_path: Path):
    candidates = (Candidate("a", "gpu-0"), Candidate("b", "gpu-1"))
    with DecisionLog(tmp_path, clock="utc") as log:
        log.add(Decision(1_772_368_200_000_000, "my-router", candidates, 1, target="c", version="1.4"))
    read = Log(tmp_path)
    found = read.why("b", "2026-03-01T12:30:00")
    assert in_words(found, read.clock).startswith("At 2026-03-01 12:30:00.000 UTC my-router evicted b from gpu-1")
    assert read.why("b", "2026-03-01T13:30:00+01:00") == found
    with pytest.raises(ConfigError, match="not evicted until then"):
        read.why("b", "2026-03-01T12:29:59")


def test_a_time_after_the_year_9999_is_said_too():
    assert moment(1_700_000_000_000_000_000, "utc") == "55840-11-08 22:13:20.000 UTC"


@pytest.mark.parametrize(("text", "seconds"), [("754.2", 754.2), ("12.5min", 750.0), ("1.5 h", 5400.0), ("-3s", -3.0)])
def test_times_are_read_with_their_unit(text: str, seconds: float):
    assert seconds_of(text, "episode") == seconds


@pytest.mark.parametrize("text", ["", "nan", "inf", "1.2.3", "5 parsecs", "--3"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(ConfigError, match="is not understood"):
        seconds_of(text, "utc")


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    evil = tuple(Candidate(EVIL, EVIL, 1.0, (), place) for place in range(2))
    with DecisionLog(tmp_path) as log:
        log.add(
            decision(candidates=evil, target=EVIL, policy=EVIL, scenario=EVIL, features=(), note=EVIL, version=EVIL)
        )
    assert main([str(tmp_path), "--model", EVIL]) == 0
    assert main([str(tmp_path), "--list"]) == 0
    assert main([str(tmp_path), "--model", EVIL, "--json"]) == 0
    assert main([str(tmp_path), "--model", "other"]) == 2
    both = capsys.readouterr()
    assert "\x1b" not in both.out + both.err and "\u202e" not in both.out + both.err
    assert "evil\\x1b[31m<b>[red]\\u202e" in both.out


def test_a_damaged_file_is_named(folder: Path):
    path = folder / "decisions-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"decisions-00001\.parquet: is no whole file of a decision log"):
        Log(folder)


def test_a_folder_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path), "--list"]) == 2
    assert "name the folder of a decision log" in capsys.readouterr().err


def test_a_comparison_leaves_a_log_that_says_why(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    common = ["--scenarios", str(small), "--seeds", "2", "--out", str(run), "--policies", "lru,cace,ollama"]
    for _ in range(2):  # the second time nothing is played again, and the log is not doubled
        assert compare([*common, "--decision-log", "--decision-log-policies", "cace,ollama"]) == 0
    episodes = Log(run).episodes()
    assert [(one.scenario, one.policy, one.seed) for one in episodes] == [
        ("small", "cace", 2_000_000),
        ("small", "ollama", 2_000_000),
    ]
    decisions = list(Log(run).decisions(policy="cace"))
    assert [one.decision for one in decisions if one.decision >= 0] == list(
        range(sum(d.decision >= 0 for d in decisions))
    )
    capsys.readouterr()
    model = decisions[0].chosen.model
    assert main([str(run), "--model", model, "--policy", "cace", "--at", "1h"]) == 0
    assert f"cace evicted {model} from" in capsys.readouterr().out
    assert main([str(run), "--model", model, "--policy", "cace", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][found["choice"]]["model"] == model


def test_of_a_run_on_a_log_with_dates_a_date_may_be_asked_for(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, log = tmp_path / "run", tmp_path / "log.csv"
    models = list(case_of(load_scenario(str(small))).tables.model_names)
    rows = [f"{1_772_366_400 + 20 * i},500,50,{models[i % len(models)]}" for i in range(200)]  # 2026-03-01T12:00:00
    log.write_text("\n".join(["time,context_tokens,output_tokens,model", *rows, ""]))
    given = ["--scenarios", str(small), "--trace", str(log), "--trace-option", "time_compression=2"]
    assert compare([*given, "--policies", "lru", "--out", str(run), "--decision-log"]) == 0
    first = next(one for one in Log(run).decisions() if one.kind in EVICTIONS)
    at = datetime(2026, 3, 1, 12, tzinfo=UTC) + 2 * timedelta(microseconds=first.time_us)
    capsys.readouterr()
    asked = [str(run), "--model", first.chosen.model, "--at"]
    assert main([*asked, (at + timedelta(seconds=1)).isoformat()]) == 0
    assert f"At {moment(first.time_us, 'episode')}" in capsys.readouterr().out
    assert main([*asked, (at - timedelta(seconds=1)).isoformat()]) == 2
    assert "not evicted until then" in capsys.readouterr().err
    assert main([*asked, "noon"]) == 2
    assert "is not understood" in capsys.readouterr().err


def test_options_of_a_log_that_is_not_written_are_refused(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    common = ["--scenarios", str(small), "--seeds", "1", "--out", str(tmp_path / "run"), "--policies", "lru"]
    assert "add --decision-log" in refused_by_compare(capsys, *common, "--decision-log-mb", "3")
    said = refused_by_compare(capsys, *common, "--decision-log", "--decision-log-policies", "lur")
    assert "'lur' does not take part, did you mean 'lru'?" in said
    assert not (tmp_path / "run").exists()
