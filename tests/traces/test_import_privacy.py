"""What an import does so that requests are those of nobody."""

from __future__ import annotations

import json
import stat
from datetime import date, timedelta
from pathlib import Path

import pytest

from cace_env.traces import read_trace
from cace_env.traces.gateways.importing import delete_expired
from experiments import import_logs
from tests.support.imports import KEY, imported, refused, spend


def test_users_leave_as_keyed_hashes_which_another_key_changes(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    path = spend(tmp_path, {}, {"user": "bob"}, {"user": "s1"})
    imported(path, tmp_path / "a")
    users = parquet.read_table(tmp_path / "a" / "requests.parquet")["user"].to_pylist()
    sessions = parquet.read_table(tmp_path / "a" / "requests.parquet")["session"].to_pylist()
    assert len(set(users)) == 3 and all(len(user) == 16 and int(user, 16) >= 0 for user in users)
    assert users[2] != sessions[0]  # the same name as a user and as a session
    assert (tmp_path / "a" / "audit.json").read_text().find(KEY) == -1
    (tmp_path / "key2").write_text(KEY + "2")
    assert import_logs.main([str(path), "--key-file", str(tmp_path / "key2"), "--out", str(tmp_path / "b")]) == 0
    assert not set(users) & set(parquet.read_table(tmp_path / "b" / "requests.parquet")["user"].to_pylist())


def test_a_log_with_users_is_not_imported_without_a_key_nor_with_a_short_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spend(tmp_path, {})
    assert "--key-file" in refused(path, tmp_path / "out", capsys, key=None)
    assert "holds 5 bytes" in refused(path, tmp_path / "out", capsys, key="short")
    said = refused(path, tmp_path / "out", capsys, key="")
    assert "holds 0 bytes" in said and "umask 077; openssl rand -hex 32" in said
    said = refused(path, tmp_path / "out", capsys, ["--key-file", str(tmp_path / "no.key")], key=None)
    assert "no such file; make one, once, with `(umask 077; openssl rand -hex 32 > " in said
    monkeypatch.setenv("LOG_KEY", KEY)
    assert "give one of them" in refused(path, tmp_path / "out", capsys, ["--key-env", "LOG_KEY"])
    assert "no such variable" in refused(path, tmp_path / "out", capsys, ["--key-env", "NO_KEY"], key=None)
    assert import_logs.main([str(path), "--key-env", "LOG_KEY", "--out", str(tmp_path / "out")]) == 0


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    imported(spend(tmp_path, {}), tmp_path / "out")
    for name in ("requests.parquet", "audit.json"):
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600


def test_what_is_past_its_date_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit = imported(spend(tmp_path, {}), out, "--retention", "30")
    until = date.fromisoformat(audit["delete_after"])
    assert delete_expired(out, until) == f"kept until {until}"
    (out / "mine.txt").write_text("kept")
    assert "deleted" in delete_expired(out, until + timedelta(days=1))
    assert sorted(path.name for path in out.iterdir()) == ["audit.json", "mine.txt"]
    after = json.loads((out / "audit.json").read_text())
    assert after == audit | {"deleted": (until + timedelta(days=1)).isoformat()}
    assert stat.S_IMODE((out / "audit.json").stat().st_mode) == 0o600
    assert "already" in delete_expired(out, until + timedelta(days=2))


def test_an_import_without_a_date_is_kept_and_a_folder_of_something_else_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(spend(tmp_path, {}), tmp_path / "out")
    assert import_logs.main(["--delete-expired", str(tmp_path / "out")]) == 0
    assert "kept: it was imported without --retention" in capsys.readouterr().out
    assert (tmp_path / "out" / "requests.parquet").exists()
    assert import_logs.main(["--delete-expired", str(tmp_path)]) == 2
    assert "has no audit.json of an import" in capsys.readouterr().err


def test_times_are_rounded_and_rare_users_left_out_when_asked(tmp_path: Path) -> None:
    path = spend(tmp_path, *({"user": user} for user in "aababc"))
    more = ("--round-times", "2", "--min-requests-per-user", "2", "--retention", "30")
    audit = imported(path, tmp_path / "out", *more)
    assert audit["rejected"]["no_request"] == {"user with fewer than 2 requests": 1}
    trace = read_trace(tmp_path / "out")
    assert (trace.time_us % 2_000_000 == 0).all() and len(trace) == 5
    assert audit["delete_after"] > audit["imported"][:10]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spend(tmp_path, {})
    (tmp_path / "out").mkdir()
    imported(path, tmp_path / "out")  # into an empty folder
    assert "exists; choose another folder" in refused(path, tmp_path / "out", capsys)
