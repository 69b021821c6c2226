"""However a command ends, its status says how, its user reads a line, and no half file is left."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.files import append_file, replace_file
from experiments import compare
from experiments.running.command_line import exit_status, run_command
from experiments.training.loop import Patience
from tests.support.small import SMALL

ROOT = Path(__file__).resolve().parents[2]
WRITERS = ("cace_env/files.py",)
# What writes by other means: drafts that get their name when all is in them, streams that libraries write, a lock, the
# checksum of a download, and logs that are made up for a measurement.
BY_OTHER_MEANS = {
    "cace_env/decision_log/writer.py",
    "cace_env/traces/gateways/importing.py",
    "cace_env/traces/gateways/runs.py",
    "experiments/yardsticks/gateway_logs.py",
    "cace_env/traces/schema.py",
    "cace_env/traces/fetch.py",
    "experiments/training/folder.py",
    "cace_env/live/backends/processes.py",  # servers write their own logs
    "cace_env/live/backends/xllamacpp.py",
}


def started(code: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, **streams | options)


WAITS = """
import sys, time
from cace_env.config import Frozen
from experiments.running.command_line import run_command

class Options(Frozen):
    pass

def body(options, session):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        {tidies}

sys.exit(run_command("nothing", Options, body, [], interrupted="half of it is kept"))
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("signals", "status"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM,), 143), ((signal.SIGINT,) * 2, 130), ((signal.SIGTERM,) * 2, 143)],
    ids=lambda value: "-".join(one.name for one in value) if isinstance(value, tuple) else str(value),
)
def test_a_command_that_is_told_to_end_says_what_is_left(signals: tuple[signal.Signals, ...], status: int) -> None:
    tidies = "print('tidied', flush=True)" + ("; time.sleep(60)" if len(signals) > 1 else "")
    process = started(WAITS.format(tidies=tidies))
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for number in signals:
        process.send_signal(number)
        assert process.stdout.readline() in ("tidied\n", "")
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (status, "half of it is kept\n")


def test_a_second_polite_kill_stops_a_training_at_once_and_its_command_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def trains(options: Any, session: Any) -> int:
        with Patience(session.console) as patience:
            signal.raise_signal(signal.SIGTERM)
            assert patience.asked == signal.SIGTERM
            signal.raise_signal(signal.SIGTERM)
        return 0

    assert run_command("nothing", compare.Comparison, trains, [], interrupted="all is kept") == 143
    assert "all is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.integration
def test_nobody_reads_any_more_and_nobody_is_told() -> None:
    code = (
        "import sys; from cace_env.config import Frozen; from experiments.running.command_line import run_command\n"
        "def body(options, session):\n"
        "    for line in range(100_000): {prints}\n"
        "sys.exit(run_command('nothing', type('Options', (Frozen,), {{}}), body, []))"
    )
    for prints in ("session.console.print(line)", "print(line)"):
        process = started(code.format(prints=prints))
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "rows.csv"), "error: rows.csv: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a\x1bb"), "error: a\\x1bb: Permission denied\n"),
        (OSError("strange"), "error: strange\n"),
        (MemoryError(), "error: there is not enough memory for that; ask for less at a time\n"),
    ],
)
def test_what_the_machine_refuses_is_a_line(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise error

    assert exit_status(fails) == 1
    assert capsys.readouterr() == ("", said)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_replaced_or_stays_as_it_was(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "missing" / "folder" / "page.md"
    replace_file(path, "old")

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        replace_file(path, "new")
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("page.md", "old")]


@pytest.mark.integration
def test_rows_are_added_whole_or_not_at_all_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_file(path, "a,b\n1,2\n")
    code = (
        "import pathlib, resource; from cace_env.files import append_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"append_file(pathlib.Path({str(path)!r}), 'x,y\\n' * 99)"
    )
    process = started(code)
    assert "File too large" in process.communicate(timeout=60)[1]
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.integration
@pytest.mark.parametrize(
    "limit_bytes",
    [
        pytest.param(100, marks=pytest.mark.slow),
        pytest.param(3_000, marks=pytest.mark.slow),
        pytest.param(20_000, marks=pytest.mark.slow),
        60_000,
    ],
)
def test_a_comparison_on_a_full_disk_leaves_whole_files_or_none(limit_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = [
        "--scenarios",
        str(tmp_path / "small.yaml"),
        "--policies",
        "lru,cace",
        "--seeds",
        "3",
        "--workers",
        "1",
    ]
    code = (
        "import resource, sys; from experiments import compare\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))\n"
        f"sys.exit(compare.main({[*arguments, '--out', str(tmp_path / 'out')]!r}))"
    )
    process = started(code)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: " in said and "File too large" in said and "Traceback" not in said
    out = tmp_path / "out"
    files = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert not [path for path in files if path.name.startswith(".")]
    assert all(path.read_bytes().endswith(b"\n") for path in files if path.suffix in (".csv", ".json", ".yaml", ".md"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert compare.main(["--scenarios", "tiny", "--seeds", "1", "--out", str(tmp_path / "out")]) == 1
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_a_run_folder_that_cannot_be_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = compare.main(["--scenarios", "tiny", "--policies", "lru", "--seeds", "1", "--out", str(tmp_path / name)])
    assert status == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def writes(node: ast.AST) -> bool:
    """Whether a call opens a file for writing, or writes one."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if name in ("write_text", "write_bytes", "savefig", "savez", "savez_compressed", "write_table"):
        return not (node.args and isinstance(node.args[0], ast.Name) and node.args[0].id in ("packed", "content"))
    modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return name == "open" and any(mode.strip("bt+") in ("w", "x", "a") for mode in modes)


def test_every_file_is_written_whole() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("cace_env", "agents", "experiments")
        for path in (ROOT / package).rglob("*.py")
        if any(writes(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    }
    other = found - {*WRITERS, *BY_OTHER_MEANS}
    assert not other, "write by cace_env.files.replace_file or save_figure, which leave no half file"
