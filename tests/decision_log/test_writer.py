"""Claims about the files of a log: whole, private, small, and gone when their time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError
from cace_env.decision_log import Candidate, Decision, DecisionLog, read_decisions, writer
from cace_env.files import replace_file
from cace_env.policies.explanations import Contribution

DAY_S = 86_400.0


def decision(number: int = 0, **changes: Any) -> Decision:
    candidates = (Candidate("model-a", "gpu-0", 1.5, (3.0, 4.0), 0), Candidate("model-b", "gpu-0", 0.5, (1.0, 2.0), 1))
    reasons = (Contribution("since_use_s", "s", 3.0, 1.0, 2.0), Contribution("uses", "requests", 4.0, 2.0, -1.0))
    given: dict[str, Any] = {
        "policy": "mine", "candidates": candidates, "choice": 0, "target": "model-c", "scenario": "here", "seed": 3,
        "features": ("since_use_s", "uses"), "rival": 1, "reasons": reasons, "version": "v1", "decision": number,
    }  # fmt: skip
    return Decision(number, **(given | changes))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def test_what_is_written_is_read_back(tmp_path: Path):
    lone = Decision(7, "mine", (Candidate("model-a", "gpu-0"),), 0, kind="keep-alive")
    wait = decision(8, kind="load", target="", candidates=(Candidate("model-a"), Candidate("")), choice=1, rival=-1)
    with DecisionLog(tmp_path) as log:
        for one in (decision(), lone, wait):
            log.add(one)
    assert read_decisions(tmp_path) == [decision(), lone, wait]
    assert log.written == 3


def test_a_choice_has_to_be_a_candidate():
    with pytest.raises(ConfigError, match="among 2 candidates has choice 2"):
        decision(choice=2)


def test_a_file_appears_when_there_are_enough_rows_and_at_the_end(tmp_path: Path):
    log = DecisionLog(tmp_path, rows=2)
    log.add(decision(0))
    assert files(tmp_path) == []
    log.add(decision(1))
    assert files(tmp_path) == ["decisions-00001.parquet"]
    log.add(decision(2))
    log.close()
    log.close()
    assert files(tmp_path) == ["decisions-00001.parquet", "decisions-00002.parquet"]
    assert [one.decision for one in read_decisions(tmp_path)] == [0, 1, 2]


def test_a_decision_waits_no_longer_than_it_may(tmp_path: Path):
    log = DecisionLog(tmp_path, flush_s=0.01)
    log.add(decision())
    timer = log._timer
    assert timer is not None
    timer.join(timeout=30)
    assert files(tmp_path) == ["decisions-00001.parquet"]


def test_nobody_waits_in_add_while_a_thread_of_the_log_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun, go_on, replace = threading.Event(), threading.Event(), replace_file

    def slow(*arguments: Any, **named: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        replace(*arguments, **named)

    monkeypatch.setattr(writer, "replace_file", slow)
    log = DecisionLog(tmp_path, rows=2, background=True)
    for number in range(2):
        log.add(decision(number))
    assert begun.wait(30)
    for number in range(2, 7):
        log.add(decision(number))  # the disk has not answered yet
    assert files(tmp_path) == [] and log.written == 0
    go_on.set()
    log.close()
    assert [one.decision for one in read_decisions(tmp_path)] == list(range(7))


def test_a_log_that_is_there_is_continued(tmp_path: Path):
    for number in range(2):
        with DecisionLog(tmp_path) as log:
            log.add(decision(number))
    assert [one.decision for one in read_decisions(tmp_path)] == [0, 1]


def test_only_the_owner_may_read(tmp_path: Path):
    folder = tmp_path / "some" / "decisions"
    mask = os.umask(0)
    try:
        with DecisionLog(folder) as log:
            log.add(decision())
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_the_oldest_files_go_when_there_are_too_many_bytes(tmp_path: Path):
    with DecisionLog(tmp_path, rows=50, max_mb=0.1) as log:
        for number in range(2_000):
            log.add(decision(number, note=os.urandom(20).hex()))
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100_000
    left = [one.decision for one in read_decisions(tmp_path)]
    assert left == list(range(left[0], 2_000)) and left[0] > 0
    assert "decisions-00001.parquet" not in files(tmp_path)


def test_a_file_that_would_be_larger_than_all_may_be_is_split(tmp_path: Path):
    with DecisionLog(tmp_path, max_mb=0.05) as log:
        for number in range(2_000):
            log.add(decision(number, note=os.urandom(40).hex()))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 50_000
    assert read_decisions(tmp_path)[-1].decision == 1_999


def test_a_file_goes_when_its_time_is_up(tmp_path: Path):
    clock = Clock()
    with DecisionLog(tmp_path, keep_days=10, now=clock) as log:
        log.add(decision(0))
    header = writer.read_header(tmp_path / "decisions-00001.parquet")
    assert header is not None and header.expires_s == clock.now_s + 10 * DAY_S
    clock.now_s += 9 * DAY_S
    with DecisionLog(tmp_path, keep_days=10, now=clock) as log:
        log.add(decision(1))
    assert len(read_decisions(tmp_path)) == 2
    clock.now_s += 2 * DAY_S
    DecisionLog(tmp_path, keep_days=None, now=clock)  # what was promised is kept, whatever holds for new files
    assert [one.decision for one in read_decisions(tmp_path)] == [1]
    DecisionLog(tmp_path, keep_days=1, now=clock)  # and a shorter time holds for old files, too
    assert files(tmp_path) == []


def test_a_running_log_drops_old_files_as_well(tmp_path: Path):
    clock = Clock()
    with DecisionLog(tmp_path, keep_days=1, rows=1, now=clock) as log:
        log.add(decision(0))
        clock.now_s += 2 * DAY_S
        log.add(decision(1))
    assert [one.decision for one in read_decisions(tmp_path)] == [1]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path):
    clock = Clock()
    for name in ("notes.txt", "decisions-00001.parquet"):
        (tmp_path / name).write_text("mine")
    clock.now_s *= 10
    with DecisionLog(tmp_path, keep_days=1, now=clock) as log:
        log.add(decision(0))
    assert files(tmp_path) == ["decisions-00001.parquet", "decisions-00002.parquet", "notes.txt"]


def test_a_full_disk_leaves_nothing_half_written_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = DecisionLog(tmp_path)
    log.add(decision(0))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    assert files(tmp_path) == []
    log.close()
    assert read_decisions(tmp_path) == [decision(0)]


@pytest.mark.integration
def test_a_process_that_is_killed_leaves_whole_files(tmp_path: Path):
    code = (
        "import itertools, sys\n"
        "from cace_env.decision_log import DecisionLog\n"
        "from tests.decision_log.test_writer import decision\n"
        "log = DecisionLog(sys.argv[1], rows=20, max_mb=0.3)\n"
        "for number in itertools.count(): log.add(decision(number))\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    try:
        for _ in range(600):
            if len(list(tmp_path.glob("decisions-*.parquet"))) >= 5:
                break
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = [one.decision for one in read_decisions(tmp_path)]
    assert found == list(range(found[0], found[-1] + 1)) and len(found) >= 100
    (tmp_path / ".decisions-00099.parquet.1").write_text("half")
    DecisionLog(tmp_path)
    assert not [name for name in files(tmp_path) if name.startswith(".")]


def test_names_that_are_no_unicode_are_written_all_the_same(tmp_path: Path):
    with DecisionLog(tmp_path) as log:
        log.add(decision(target="a\ud800b"))
    assert read_decisions(tmp_path)[0].target == "a\\ud800b"


def test_a_folder_has_one_clock(tmp_path: Path):
    with DecisionLog(tmp_path, clock="utc") as log:
        log.add(decision())
    with pytest.raises(ConfigError, match="decisions by the clock 'utc', not 'episode'"):
        DecisionLog(tmp_path)


@pytest.mark.parametrize("wrong", [{"max_mb": 0}, {"keep_days": 0}, {"rows": 0}, {"flush_s": 0}])
def test_sizes_and_times_have_to_be_above_0(wrong: dict[str, Any], tmp_path: Path):
    with pytest.raises(ConfigError, match="all have to be above 0"):
        DecisionLog(tmp_path, **wrong)


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'cace-env\[traces\]'"):
        DecisionLog(tmp_path)


def test_while_the_disk_is_full_attempts_are_few_and_what_waits_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "MOST_ROWS", 5)
    log = DecisionLog(tmp_path, rows=10)
    with monkeypatch.context() as patched:
        patched.setattr(writer, "replace_file", full)
        raised = 0
        for number in range(100):
            try:
                log.add(decision(number))
            except OSError:
                raised += 1
        assert log.failed == raised < 25
        assert log.lost == 100 - len(log._waiting) >= 75
    log.close()
    kept = read_decisions(tmp_path)
    assert len(kept) == 100 - log.lost and kept[-1] == decision(99)
