"""Downloads, against a server on 127.0.0.1: what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cace_env.traces import FORMATS
from cace_env.traces import fetch as fetching
from cace_env.traces.fetch import DOWNLOADS, FetchError, fetch, fetch_url, main

pytest.importorskip("pooch", reason="needs the extra: pip install 'cace-env[traces]'")

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing.csv":
            self.send_error(404)
            return
        content = b"changed" if self.path == "/changed/trace.csv" else CONTENT
        self.send_response(200)
        cut = 10 if self.path == "/cut.csv" else 0
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - cut])

    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a local server, and the paths it was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as local:
        threading.Thread(target=local.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{local.server_port}", asked
        local.shutdown()


@pytest.fixture
def listed(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a listed trace that lies on the local server."""
    entry = dataclasses.replace(DOWNLOADS["azure2023-code"], url=f"{server[0]}/trace.csv", sha256=SHA256)
    monkeypatch.setitem(fetching.DOWNLOADS, "local", entry)
    return "local"


def test_listed_file_with_the_right_checksum_is_kept(listed: str, tmp_path: Path) -> None:
    path = fetch(listed, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "trace.csv"
    assert path.read_bytes() == CONTENT


def test_file_that_is_there_already_is_not_downloaded_again(
    listed: str, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "trace.csv").write_bytes(CONTENT)
    assert fetch(listed, tmp_path).read_bytes() == CONTENT
    assert server[1] == []


def test_other_file_of_the_same_name_is_never_overwritten(listed: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("my own notes")
    with pytest.raises(FetchError, match="another checksum; move it away"):
        fetch(listed, tmp_path)
    assert (tmp_path / "trace.csv").read_text() == "my own notes"


def test_wrong_checksum_keeps_nothing(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="does not have the SHA-256"):
        fetch_url(f"{server[0]}/trace.csv", tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_partial_download_keeps_nothing(server: tuple[str, list[str]], tmp_path: Path, checksum: str | None) -> None:
    with pytest.raises(FetchError, match="cut short"):
        fetch_url(f"{server[0]}/cut.csv", tmp_path, sha256=checksum, trust_first=checksum is None)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_says_that_it_may_have_moved(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"404.*has the file moved"):
        fetch_url(f"{server[0]}/missing.csv", tmp_path, sha256=SHA256)


def test_offline_is_said_in_plain_words(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="are you offline"):
        fetch_url("http://127.0.0.1:1/trace.csv", tmp_path, sha256=SHA256)


def test_unknown_checksum_needs_an_explicit_word(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"--sha256 HEX, or --trust-first"):
        fetch_url(f"{server[0]}/trace.csv", tmp_path)
    assert server[1] == []


def test_trust_first_records_the_checksum_and_holds_later_files_against_it(
    server: tuple[str, list[str]], tmp_path: Path
) -> None:
    fetch_url(f"{server[0]}/trace.csv", tmp_path, trust_first=True)
    assert (tmp_path / "trace.csv.sha256").read_text() == f"{SHA256}  trace.csv\n"
    (tmp_path / "trace.csv").unlink()
    with pytest.raises(FetchError, match="does not have the SHA-256"):
        fetch_url(f"{server[0]}/changed/trace.csv", tmp_path, trust_first=True)
    assert fetch_url(f"{server[0]}/trace.csv", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["trace.csv", "ftp://127.0.0.1/trace.csv", "http://127.0.0.1/"])
def test_address_of_no_file_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not the http"):
        fetch_url(url, tmp_path, sha256=SHA256)


def test_checksum_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="64 hexadecimal digits"):
        fetch_url("http://127.0.0.1/trace.csv", tmp_path, sha256="abc")


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="name a folder"):
        fetch_url("http://127.0.0.1/trace.csv", tmp_path / "file", sha256=SHA256)


def test_misspelt_name_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="did you mean 'azure2023-code'"):
        fetch("azure2023-cod", tmp_path)


def test_missing_pooch_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FetchError, match=r"cace-env\[traces\]"):
        fetch_url("http://127.0.0.1:1/trace.csv", tmp_path, sha256=SHA256)


def test_command_prints_the_licence_before_it_downloads(
    listed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_download", lambda *_: (_ for _ in ()).throw(FetchError("stopped")))
    assert main([listed, "--to", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "CC BY 4.0" in printed.out and "Patel" in printed.out
    assert printed.err == "error: stopped\n"


def test_command_fetches_and_prints_the_checksum(
    listed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([listed, "--to", str(tmp_path)]) == 0
    assert SHA256 in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["a", "--url", "b"], ["azure2023-code", "--trust-first"], ["azure2023-code", "--sha256", SHA256]]
)
def test_command_refuses_contradictions(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)


def test_every_listed_trace_has_a_whole_checksum_terms_and_a_loader(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listing = capsys.readouterr().out
    for name, entry in DOWNLOADS.items():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), name
        assert entry.url.startswith("https://") and entry.licence and entry.attribution and entry.checksum_from
        assert entry.format in FORMATS
        assert name in listing and entry.sha256 in listing
    assert len({entry.sha256 for entry in DOWNLOADS.values()}) == len(DOWNLOADS)
